"""What is said to somebody who waits: that kernels are being compiled."""

import sys
import threading

_TEXT = "fastmlp: compiling kernels, once on this machine, about 15 s"

_lock = threading.Lock()
_state = {"always": False, "said": False, "open": False}


def announce_always() -> None:
    """Say it wherever standard error goes, not only where somebody is seen to read it."""
    _state["always"] = True


def compiling() -> None:
    """Say, once in a process, that kernels are being compiled."""
    with _lock:
        if _state["said"] or not (_state["always"] or _is_watched(sys.stderr)):
            return
        _state["said"] = True
    _write(_TEXT if _is_terminal(sys.stderr) else _TEXT + "\n")
    _state["open"] = _is_terminal(sys.stderr)


def still_compiling(seconds: float) -> None:
    """Show for how long, on a terminal where `compiling` was said; 0 ends the line."""
    if not _state["open"]:
        return
    if seconds > 0:
        _write(f"\r{_TEXT}: {seconds:.0f} s")
    else:
        _state["open"] = False
        _write("\n")


def _write(text: str) -> None:
    # Nobody who closed standard error shall lose a training run for it.
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        pass


def _is_terminal(stream: object) -> bool:
    return stream is not None and bool(getattr(stream, "isatty", bool)())


def _is_watched(stream: object) -> bool:
    """Return whether a stream is a terminal or a notebook's."""
    return _is_terminal(stream) or type(stream).__module__.startswith("ipykernel.")
