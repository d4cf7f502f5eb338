"""Input and output of the command line: lines, warnings, the JSON object, Ctrl-C.

This module imports nothing slow, so that Ctrl-C is handled while everything else is imported.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, TextIO


_DONE_WITHIN = 0.5  # seconds within which repeated Ctrl-C counts once


class Interrupts:
    """Ctrl-C handling for one command: raises KeyboardInterrupt, but not between `hold` and `release`.

    Ctrl-C pressed again within half a second raises nothing either, so that the reaction to the first one, such as
    saving a model, is not interrupted. A later Ctrl-C raises again and ends a command that hangs.

    Parameters
    ----------
    to_the_end : bool
        Whether the process ends with the command. If so, `end` ignores Ctrl-C, which could only cause a traceback;
        otherwise it restores the previous handler.
    """

    def __init__(self, to_the_end: bool) -> None:
        self._to_the_end = to_the_end
        self._found: Any = None
        self._held = self._waiting = False
        self._struck_at = -_DONE_WITHIN

    def begin(self) -> None:
        """Install the handler."""
        import signal
        import threading

        found = signal.getsignal(signal.SIGINT)
        # Only the main thread can set a handler. If Ctrl-C is ignored, as in background jobs, it stays ignored.
        if callable(found) and threading.current_thread() is threading.main_thread():
            self._found = found
            signal.signal(signal.SIGINT, self._strike)

    def end(self) -> None:
        """Restore the previous handler, or ignore Ctrl-C from now on."""
        import signal

        if self._found is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN if self._to_the_end else self._found)

    def hold(self) -> None:
        """Delay Ctrl-C until `release`."""
        self._held = True

    def release(self) -> None:
        """Let Ctrl-C raise again, and raise at once if it was pressed since `hold`."""
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
    """Prints lines for people to standard output, or to standard error if standard output takes the JSON object.

    After an error, nothing more is written to a stream, so that only output is lost and not the run. Calling the
    console prints a line and raises if the stream is lost; `tell` prints a line and never raises.

    Parameters
    ----------
    interrupts : Interrupts
        Ctrl-C of the command.
    json : bool
        Whether standard output takes only one JSON object.
    silent : bool
        Whether to print nothing, because another process of the same command does.

    Attributes
    ----------
    gone : bool
        Whether the reader of a stream closed its pipe.
    lost : str or None
        Any other reason why standard output cannot be written.
    silent : bool
        As given.
    warnings : list of str
        The warnings shown so far.
    """

    def __init__(self, interrupts: Interrupts, json: bool, *, silent: bool = False) -> None:
        self.interrupts, self.json, self.silent = interrupts, json, silent
        self.gone = False
        self.lost: str | None = None
        self.warnings: list[str] = []
        self._given_up: list[TextIO] = []

    def __call__(self, text: object) -> None:
        """Print a line for people; raise BrokenPipeError or OSError if the stream is lost."""
        self.tell(text)
        if self.gone:
            raise BrokenPipeError
        if self.lost is not None:
            raise OSError(self.lost)

    def tell(self, text: object) -> None:
        """Print a line for people, unless the stream is lost."""
        self._write(sys.stderr if self.json else sys.stdout, str(text))

    def complain(self, text: str) -> None:
        """Print an error in one line."""
        self._write(sys.stderr, f"fastmlp: {' '.join(text.split())}")

    def complain_of_words(self, usage: str, text: str) -> None:
        """Print the usage of a command and an error in its words."""
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
        """Print a warning in one line; has the signature of `warnings.showwarning`."""
        text = " ".join(str(message).split())  # one line
        self.warnings.append(text)
        self.complain(f"warning: {text}")

    def answer(self, text: str) -> None:
        """Print to standard output, such as the JSON object."""
        self._write(sys.stdout, text)

    def flush(self) -> None:
        """Flush the output of other code."""
        self._write(sys.stdout, None)

    def _write(self, stream: TextIO | None, text: str | None) -> None:
        if self.silent or stream is None or any(stream is closed for closed in self._given_up):
            return
        try:
            if text is not None:
                encoding = stream.encoding or "utf-8"
                # A file name may contain bytes that are not text.
                stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
            stream.flush()
        except BrokenPipeError:
            self.gone = True
            self._give_up(stream)
        except (OSError, ValueError) as error:  # a full disk, or a closed stream
            self._give_up(stream)
            if stream is sys.stdout:
                self.lost = f"standard output: {getattr(error, 'strerror', None) or error}"
                self.complain(f"{self.lost}; nothing more is printed there")

    def _give_up(self, stream: TextIO) -> None:
        """Write no more to the stream, and redirect it to nothing: the interpreter flushes it when it exits."""
        self._given_up.append(stream)
        try:
            number = stream.fileno()
        except (OSError, ValueError, AttributeError):  # a stream of the caller, without a file
            return
        _open_on_nothing(number)


def occupy_closed_streams() -> None:
    """Connect the standard streams that were closed at the start of the process to nothing.

    Otherwise the next file to be opened, such as a model file, would get the number of standard output or standard
    error, and output of C libraries would be written into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            _open_on_nothing(number)


def _open_on_nothing(number: int) -> None:
    """Connect a file descriptor to the null device."""
    nothing = os.open(os.devnull, os.O_RDWR)
    if nothing != number:
        os.dup2(nothing, number)
        os.close(nothing)


def failure(error: BaseException) -> tuple[int, str]:
    """Return the exit status and one line of text for an error in `FAILURES`."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError):
        text = " ".join((error.strerror or str(error)).split())
        if error.filename is not None:
            text = f"{error.filename}: {text}"
    if isinstance(error, MemoryError):
        text = f"not enough memory for this network or data: {text or 'use a smaller network or less data'}"
    return (1 if isinstance(error, FloatingPointError) else 2), text


#: Errors that end a command with one line; any other error is a bug of this program and shows its traceback.
FAILURES = (ValueError, TypeError, ImportError, OSError, ArithmeticError, MemoryError, Warning)
