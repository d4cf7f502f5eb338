"""Progress bars, drawn by tqdm."""

import sys
from typing import Any, Self

from fastmlp import checks
from fastmlp.history import History


class Bar:
    """A bar of epochs, drawn once the first epoch is done: its estimate leaves out the time to compile kernels.

    Parameters
    ----------
    wanted : bool or None
        Whether to draw it; None draws it if standard output is a terminal or a notebook and tqdm is installed.
    total : int
        Number of epochs.

    Raises
    ------
    ImportError
        If it is wanted and tqdm is not installed.
    """

    def __init__(self, wanted: bool | None, total: int) -> None:
        self._required, self._total, self._bar = bool(wanted), total, None
        self._wanted = _is_watched() if wanted is None else wanted
        if self._required:
            _tqdm(required=True)

    def show(self, history: History) -> None:
        """Show the last epoch of the history, if there is one."""
        done = len(history)
        if done == 0 or not self._wanted:
            return
        if self._bar is None:
            self._draw(done)
        else:
            self._bar.update(done - self._bar.n)
        if self._bar is not None:
            text = f"loss {history.loss[done - 1]:.4f}, {history.score} {history.scores[done - 1]:.4f}"
            self._bar.set_postfix_str(text)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()

    def _draw(self, done: int) -> None:
        tqdm = _tqdm(required=self._required)
        if tqdm is not None:
            self._bar = tqdm(total=self._total, initial=done, unit="epoch", file=sys.stdout)
        self._wanted = tqdm is not None


class Samples:
    """A bar of samples on standard error, if that is a terminal and tqdm is installed; called with those done and all.

    Standard output belongs to results.
    """

    def __init__(self, *, wanted: bool) -> None:
        self._tqdm = _tqdm(required=False) if wanted and sys.stderr is not None and sys.stderr.isatty() else None
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int, total: int) -> None:
        """Show how many samples of all are done."""
        if self._tqdm is None:
            return
        if self._bar is None:
            self._bar = self._tqdm(total=total, unit="sample", unit_scale=True, file=sys.stderr)
        self._bar.update(done - self._bar.n)


def _tqdm(*, required: bool) -> Any | None:
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        if required:
            raise checks.extra("the progress bar is drawn by tqdm", error) from error
        return None
    return tqdm


def _is_watched() -> bool:
    """Return whether standard output is a terminal or a notebook."""
    return sys.stdout is not None and (sys.stdout.isatty() or type(sys.stdout).__module__.startswith("ipykernel."))
