"""What the command line and its user say to each other: lines, warnings, one JSON object, Ctrl-C.

This module imports nothing that takes time: Ctrl-C is answered while everything else is imported.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, TextIO


_DONE_WITHIN = 0.5  # seconds in which keys that are pressed again are taken for one


class Interrupts:
    """Ctrl-C for one command: raises KeyboardInterrupt, but not between `hold` and `release`, nor twice in a moment.

    So what it sets off, above all saving a model, is done in peace, however often the keys are pressed; whoever waits
    for an end that does not come can press them again.

    Parameters
    ----------
    to_the_end : bool
        Whether the process ends with the command: Ctrl-C is then ignored afterwards, because a traceback is all that
        it could still cause. Otherwise the handler that was found is restored.
    """

    def __init__(self, to_the_end: bool) -> None:
        self._to_the_end = to_the_end
        self._found: Any = None
        self._held = self._waiting = False
        self._struck_at = -_DONE_WITHIN

    def begin(self) -> None:
        """Take Ctrl-C over."""
        import signal
        import threading

        found = signal.getsignal(signal.SIGINT)
        # Only the main thread can set a handler; and where Ctrl-C was ignored, as in the background, it stays so.
        if callable(found) and threading.current_thread() is threading.main_thread():
            self._found = found
            signal.signal(signal.SIGINT, self._strike)

    def end(self) -> None:
        """Give Ctrl-C back, or ignore it for good."""
        import signal

        if self._found is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN if self._to_the_end else self._found)

    def hold(self) -> None:
        """Let Ctrl-C wait from here on."""
        self._held = True

    def release(self) -> None:
        """Let Ctrl-C raise again, at once if it was pressed again meanwhile."""
        self._held = False
        if self._waiting:
            raise KeyboardInterrupt

    def _strike(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._held or now - self._struck_at < _DONE_WITHIN:
            self._waiting = True
            return
        self._struck_at = now
        raise KeyboardInterrupt


class Console:
    """Prints lines for people to standard output, or to standard error where a machine reads standard output.

    A stream that cannot be written is given up: what it costs is the lines, not the run. Calling the console prints a
    line and raises where nobody can read on; `tell` prints one and never raises.

    Parameters
    ----------
    interrupts : Interrupts
        Ctrl-C of the command.
    json : bool
        Whether standard output takes one JSON object and nothing else.

    Attributes
    ----------
    gone : bool
        Whether the reader of a stream went away.
    lost : str or None
        Why standard output cannot be written, where that has another reason.
    warnings : list of str
        The warnings that were shown.
    """

    def __init__(self, interrupts: Interrupts, json: bool) -> None:
        self.interrupts, self.json = interrupts, json
        self.gone = False
        self.lost: str | None = None
        self.warnings: list[str] = []
        self._given_up: list[TextIO] = []

    def __call__(self, text: object) -> None:
        """Print a line for people; raise BrokenPipeError or OSError where the stream is lost."""
        self.tell(text)
        if self.gone:
            raise BrokenPipeError
        if self.lost is not None:
            raise OSError(self.lost)

    def tell(self, text: object) -> None:
        """Print a line for people, as far as that goes."""
        self._write(sys.stderr if self.json else sys.stdout, str(text))

    def complain(self, text: str) -> None:
        """Print an error, one line."""
        self._write(sys.stderr, f"fastmlp: {' '.join(text.split())}")

    def complain_of_words(self, usage: str, text: str) -> None:
        """Print a usage, and what is wrong with the words."""
        self._write(sys.stderr, usage + text)

    def warn(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """Print a warning, one line; a `warnings.showwarning`."""
        text = " ".join(str(message).split())  # one line
        self.warnings.append(text)
        self.complain(f"warning: {text}")

    def answer(self, text: str) -> None:
        """Print the object that a machine reads."""
        self._write(sys.stdout, text)

    def flush(self) -> None:
        """Write out what other code has printed."""
        self._write(sys.stdout, None)

    def _write(self, stream: TextIO | None, text: str | None) -> None:
        if stream is None or any(stream is one for one in self._given_up):
            return
        try:
            if text is not None:
                encoding = stream.encoding or "utf-8"
                # A file name may hold bytes that are no text.
                stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
            stream.flush()
        except BrokenPipeError:
            self.gone = True
            self._give_up(stream)
        except (OSError, ValueError) as error:  # a full disk; a closed stream
            self._give_up(stream)
            if stream is sys.stdout:
                self.lost = f"standard output: {getattr(error, 'strerror', None) or error}"
                self.complain(f"{self.lost}; nothing more is printed there")

    def _give_up(self, stream: TextIO) -> None:
        """Let the interpreter flush at its end into nothing."""
        self._given_up.append(stream)
        try:
            number = stream.fileno()
        except (OSError, ValueError, AttributeError):  # a stream of the caller, without a file
            return
        _open_on_nothing(number)


def occupy_closed_streams() -> None:
    """Open standard streams that the process was started without, on nothing.

    Otherwise the next file that is opened, such as a model's, would get the number of standard output or standard
    error, and what a library prints there from C would be written into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            _open_on_nothing(number)


def _open_on_nothing(number: int) -> None:
    """Make what is read from or written to a file descriptor come from or go to nowhere."""
    nothing = os.open(os.devnull, os.O_RDWR)
    if nothing != number:
        os.dup2(nothing, number)
        os.close(nothing)


def failure(error: BaseException) -> tuple[int, str]:
    """Return exit status and one line of text for an error that a command may end with."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError):
        text = " ".join((error.strerror or str(error)).split())
        if error.filename is not None:
            text = f"{error.filename}: {text}"
    if isinstance(error, MemoryError):
        text = f"not enough memory for this network or data: {text or 'take smaller ones'}"
    return (1 if isinstance(error, FloatingPointError) else 2), text


#: Errors that a command may end with; any other is a fault of this program, and shows its traceback.
FAILURES = (ValueError, TypeError, ImportError, OSError, ArithmeticError, MemoryError, Warning)
