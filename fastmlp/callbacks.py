"""Watching a training run: what a callback is, and ready ones that log it or end it in time.

A callback is any callable ``f(epoch, history)`` (see `Callback`). `MLP.fit` takes one or a sequence of them, and so do
the estimators of `fastmlp.estimator`.
"""

from __future__ import annotations

import contextlib
import csv
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from fastmlp import checks
from fastmlp.history import History

PathName: TypeAlias = str | os.PathLike[str]


class Callback:
    """The base of the ready callbacks, and of your own if they need to know where a run begins and ends.

    A plain function ``f(epoch, history)`` is as good, if it does not.

    - ``begin(epochs)`` is called before the first epoch.
    - ``callback(epoch, history)`` is called after each epoch, the first of which is 1. A true result ends training. Of
      a sequence of callbacks, all are called in their order, also after one has asked for the end.
    - ``end(history)`` is called once the model is in its final state, also after an error and after Ctrl-C.

    All three are called in the thread that called ``fit``. An exception ends training and leaves `fit`; the model then
    holds the parameters after the last complete epoch, and a checkpoint is written.

    Examples
    --------
    >>> import fastmlp
    >>> from fastmlp.callbacks import Callback
    >>> class Shout(Callback):
    ...     def begin(self, epochs):
    ...         print("at most", epochs, "epochs")
    ...     def __call__(self, epoch, history):
    ...         return epoch == 2
    ...     def end(self, history):
    ...         print("stopped:", history.stopped)
    >>> history = fastmlp.MLP((2, 2)).fit([[0.0, 1.0], [1.0, 0.0]], [0, 1], epochs=9, callback=Shout())
    at most 9 epochs
    stopped: callback
    """

    def begin(self, epochs: int) -> None:
        """Prepare for a run of at most so many epochs; does nothing."""

    def __call__(self, epoch: int, history: History) -> bool | None:
        """Look at the run after an epoch; return a true value to end it."""
        raise NotImplementedError

    def end(self, history: History) -> None:
        """Clean up after a run; does nothing."""


Watcher: TypeAlias = Callable[[int, History], bool | None]  #: A `Callback`, or a plain function.


class CSVLog(Callback):
    """Writes a row for each epoch to a CSV file, with the columns of ``history.to_dict()``; each row at once.

    The first epoch of a run replaces the file by all epochs of the history. After ``fit(resume=True)`` these include
    the epochs before the resumption, so that the file has each epoch once.

    Parameters
    ----------
    path : str or path-like
        The file.

    Raises
    ------
    OSError
        From ``fit``, if the file cannot be written.

    Examples
    --------
    >>> import os, tempfile, fastmlp
    >>> from fastmlp.callbacks import CSVLog
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "log.csv")
    ...     _ = fastmlp.MLP((2, 2)).fit([[0.0, 1.0], [1.0, 0.0]], [0, 1], epochs=3, callback=CSVLog(path))
    ...     with open(path) as file:
    ...         lines = file.read().splitlines()
    >>> lines[0], len(lines)
    ('epoch,loss,accuracy,seconds', 4)
    """

    def __init__(self, path: PathName) -> None:
        self._path = path
        self._is_new = True

    def begin(self, epochs: int) -> None:
        """Replace the file when the first epoch is complete."""
        self._is_new = True

    def __call__(self, epoch: int, history: History) -> None:
        """Write the row of an epoch."""
        if self._is_new:
            history.to_csv(self._path)
            self._is_new = False
            return
        with open(self._path, "a", newline="", encoding="ascii") as file:
            csv.writer(file).writerow([column[-1] for column in history.to_dict().values()])


class TensorBoard(Callback):
    """Writes the columns of the history as scalars for TensorBoard, step by epoch, flushed after each.

    After a resumption, TensorBoard drops what a former run wrote of the same epochs.

    Parameters
    ----------
    folder : str or path-like
        The folder for the event file, for ``tensorboard --logdir folder``.

    Raises
    ------
    ImportError
        If neither torch with tensorboard nor tensorboardX is installed.

    Examples
    --------
    >>> from fastmlp.callbacks import TensorBoard
    >>> callback = TensorBoard("runs/first")  # doctest: +SKIP
    >>> history = model.fit(X, Y, callback=callback)  # doctest: +SKIP
    """

    def __init__(self, folder: PathName) -> None:
        self._folder = folder
        self._writer: Any = None
        _summary_writer()

    def __call__(self, epoch: int, history: History) -> None:
        """Write the scalars of an epoch."""
        if self._writer is None:
            self._writer = _summary_writer()(os.fspath(self._folder), purge_step=epoch)
        for name, column in history.to_dict().items():
            if name != "epoch":
                self._writer.add_scalar(name, column[-1], epoch)
        self._writer.flush()

    def end(self, history: History) -> None:
        """Close the event file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


class TimeBudget(Callback):
    """Ends training before the next epoch would exceed a time budget, by the longest epoch of this call of ``fit``.

    The time is that since ``fit`` began to train, with validation, callbacks and the compilation of kernels. The first
    epoch always runs to its end.

    Parameters
    ----------
    seconds : float
        The budget, above 0.

    Raises
    ------
    ValueError
        If it is not a positive finite number.

    Examples
    --------
    >>> import fastmlp
    >>> from fastmlp.callbacks import TimeBudget
    >>> net = fastmlp.MLP((2, 2))
    >>> history = net.fit([[0.0, 1.0], [1.0, 0.0]], [0, 1], epochs=10**6, callback=TimeBudget(0.01))
    >>> history.stopped
    'callback'
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = checks.positive("seconds", seconds, "give a number of seconds such as 60")
        self.begin(0)

    def begin(self, epochs: int) -> None:
        """Start the clock."""
        self._start = self._last = time.monotonic()
        self._longest = 0.0

    def __call__(self, epoch: int, history: History) -> bool:
        """Return whether the next epoch would end after the budget."""
        now = time.monotonic()
        # The first epoch may have compiled kernels, which the next ones do not: of it count the seconds of the history.
        took = now - self._last if self._longest else history.seconds[-1]
        self._longest, self._last = max(self._longest, took), now
        return now - self._start + self._longest > self._seconds


class Together:
    """Several callbacks as one.

    Parameters
    ----------
    watchers : sequence of callable
        The callbacks.
    """

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self._watchers = tuple(watchers)

    def __bool__(self) -> bool:
        return bool(self._watchers)

    def __call__(self, epoch: int, history: History) -> bool:
        """Call all of them; return whether any asks for the end."""
        answers = [bool(one(epoch, history)) for one in self._watchers]
        return any(answers)

    @contextlib.contextmanager
    def running(self, epochs: int, history: Callable[[], History]) -> Iterator[None]:
        """Call ``begin`` of each, and at the end ``end`` of each that has begun."""
        with contextlib.ExitStack() as stack:
            for one in self._watchers:
                if isinstance(one, Callback):
                    one.begin(epochs)
                    stack.callback(_end, one, history)
            yield


def listed(name: str, value: object) -> tuple[Any, ...]:
    """Return a callback, a sequence of them or None as a tuple of callables.

    Parameters
    ----------
    name : str
        The argument, for the message.
    value : object
        Its value.

    Raises
    ------
    TypeError
        If it is none of these.

    Examples
    --------
    >>> from fastmlp import callbacks
    >>> callbacks.listed("callback", None), callbacks.listed("callback", [print])
    ((), (<built-in function print>,))
    """
    given = () if value is None else tuple(value) if isinstance(value, (list, tuple)) else (value,)
    for one in given:
        if not callable(one) or isinstance(one, type):
            expected, remedy = "a callable, or a list or tuple of them", "pass functions f(epoch, history)"
            raise TypeError(checks.message(name, repr(one), expected, remedy))
    return given


def _end(one: Callback, history: Callable[[], History]) -> None:
    one.end(history())


def _summary_writer() -> Any:
    """Return the class of a writer of TensorBoard's files."""
    with contextlib.suppress(ImportError):
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter
    try:
        from tensorboardX import SummaryWriter as Other
    except ImportError as error:
        packages = '"tensorboardX", or "torch" "tensorboard"'
        text = f'TensorBoard\'s files are written by {packages}: python -m pip install "tensorboardX"'
        raise ImportError(text) from error
    return Other
