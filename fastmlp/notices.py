"""The notice, for a user who waits, that kernels are being compiled."""

import sys
import threading
import time

_TEXT = "fastmlp: compiling kernels, once on this machine, about 15 s"

# Once the line has ended, it is shown again only for a kernel that takes more seconds than this.
_LONG = 1.0


class _Notice:
    """The line on standard error: printed once in a process, and updated on a terminal until it is ended."""

    def __init__(self) -> None:
        self.always = self.said = self.open = False
        self.since, self.shown = 0.0, -1


_notice = _Notice()
_lock = threading.Lock()


def announce_always() -> None:
    """Print the notice wherever standard error goes, not only on a terminal or in a notebook."""
    _notice.always = True


def compiling() -> None:
    """Print, once in a process, that kernels are being compiled."""
    with _lock:
        if _notice.said or not (_notice.always or _is_watched(sys.stderr)):
            return
        _notice.said, _notice.since = True, time.monotonic()
    _notice.open = _is_terminal(sys.stderr)
    _write(_TEXT if _notice.open else _TEXT + "\n")


def still_compiling(seconds: float) -> None:
    """Update the time on a terminal; ``seconds`` is how long the current kernel has taken so far."""
    if not _notice.said or not _is_terminal(sys.stderr) or not (_notice.open or seconds >= _LONG):
        return
    passed = int(time.monotonic() - _notice.since)
    if passed != _notice.shown:
        _notice.open, _notice.shown = True, passed
        _write(f"\r{_TEXT}: {passed} s")


def end() -> None:
    """End the line before other output."""
    if _notice.open:
        _notice.open = False
        _write("\n")


def _write(text: str) -> None:
    # A closed standard error must not end a training run.
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        pass


def _is_terminal(stream: object) -> bool:
    return stream is not None and bool(getattr(stream, "isatty", bool)())


def _is_watched(stream: object) -> bool:
    """Return whether a stream is a terminal or that of a notebook."""
    return _is_terminal(stream) or type(stream).__module__.startswith("ipykernel.")
