"""Work that no signal can leave half done: it runs in a thread of its own, and the calling thread waits for it.

Python runs signal handlers in the main thread only, and there between any two instructions. The exception of a handler
(KeyboardInterrupt, the SystemExit of a SIGTERM handler, an alarm) can therefore end any ``finally`` half-way, and no
order of statements in the main thread prevents that. Other threads are never interrupted. Changes of state that
outlives a call (thread counts, a model's parameters and the record of their training, compiled code) are therefore made
in another thread, and the main thread only waits and passes on that it should stop.
"""

import _thread
import atexit
import contextlib
import sys
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

from fastmlp import notices

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

# Seconds between two updates by the waiting thread, of the progress bar for example. Windows delivers Ctrl-C only then.
_TICK = 0.1

# Seconds after Ctrl-C until the user is told that it was received; a second Ctrl-C after that ends the waiting.
_ACKNOWLEDGED_AFTER = 0.5


# A lock for each running thread, which the thread holds until it ends.
_running: set[threading.Lock] = set()


@atexit.register
def _wait_for_all() -> None:
    """Keep the interpreter from exiting while a thread is at work."""
    for ended in tuple(_running):
        with ended:
            pass


def _is_interruptible() -> bool:
    return threading.get_ident() == threading.main_thread().ident


def start(function: Callable[[], Any]) -> None:
    """Start a thread; not with `threading.Thread`, whose start is Python code that a signal can interrupt."""
    _thread.start_new_thread(copy_context().run, (_run, function))


def _run(function: Callable[[], Any]) -> None:
    ended = threading.Lock()
    with ended:
        _running.add(ended)
        try:
            # As in threading.Thread, for debuggers, profilers and coverage.
            sys.settrace(threading.gettrace())
            sys.setprofile(threading.getprofile())
            function()
        finally:
            _running.discard(ended)


class Caller:
    """The thread that called `converse`, as the body sees it.

    This one runs the body itself, because no signal can interrupt it.
    """

    leaving = False  #: Whether the body should end as soon as its state is consistent.

    def ask(self, function: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Any:
        """Call a function in the calling thread; return its result or raise its exception."""
        return function(*args, **kwargs)


class _MainThread(Caller):
    """The main thread, which answers the body's questions until the body ends, whatever its signal handlers raise."""

    def __init__(self, body: Callable[[Caller], Any], tick: Callable[[], None], waiting_for: str) -> None:
        self._body, self._tick, self._waiting_for = body, tick, waiting_for
        self._questions: SimpleQueue[Any] = SimpleQueue()
        self._answers: SimpleQueue[Any] = SimpleQueue()
        # Held while the main thread answers. The interpreter itself leaves the `with` of a lock, without a Python
        # instruction that a signal could interrupt, so the body always learns when nobody waits for it any more.
        self._present = threading.Lock()
        self._told_to_leave = self._ended = False
        self._ticket, self._working = threading.Lock(), threading.Lock()
        self._result: Any = None
        self._error: BaseException | None = None
        self._struck_at = 0.0
        self.struck: BaseException | None = None

    @property
    def leaving(self) -> bool:  # type: ignore[override]
        return self._told_to_leave or not self._present.locked()

    def ask(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.leaving:
            raise KeyboardInterrupt
        self._questions.put((function, args, kwargs))
        while self._present.locked():
            with contextlib.suppress(Empty):
                value, error = self._answers.get(timeout=_TICK)
                if error is not None:
                    raise error
                return value
        raise KeyboardInterrupt

    def serve(self) -> Any:
        try:
            with self._present:
                start(self._work)
                self._serve()
        finally:
            # A signal may arrive before the thread starts. The side that takes the ticket decides: if this one does,
            # the body does not run.
            if not self._ticket.acquire(blocking=False):
                with self._working:
                    pass
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
            return self._result
        finally:
            del error  # or the error and this frame would hold each other

    def _work(self) -> None:
        with self._working:
            if not self._ticket.acquire(blocking=False):
                return
            try:
                self._result = self._body(self)
            except BaseException as error:  # any exception belongs to the caller
                self._error = error
            self._ended = True
            self._questions.put(None)

    def _serve(self) -> None:
        while True:
            try:
                return self._serve_until_the_end()
            except BaseException as error:
                self._told_to_leave = True
                # The body may be waiting for an answer that was lost when this was raised.
                self._answers.put((None, error))
                if self.struck is None:
                    self.struck, self._struck_at = error, time.monotonic()
                elif self._is_acknowledged():
                    raise

    def _serve_until_the_end(self) -> None:
        while True:
            try:
                question = self._questions.get(timeout=_TICK)
            except Empty:
                self._wait()
                question = None
            # The None alone is not enough: a signal can arrive between taking and testing it.
            if self._ended:
                return
            if question is not None:
                self._answer(*question)

    def _answer(self, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
        answer: tuple[Any, BaseException | None]
        try:
            answer = function(*args, **kwargs), None
        except BaseException as error:  # raised in the body, which asked
            answer = None, error
        self._answers.put(answer)

    def _wait(self) -> None:
        if self.struck is None:
            self._tick()
        elif self._waiting_for and self._is_acknowledged() and sys.stderr is not None:
            print(f"\nfastmlp: stopping {self._waiting_for}; press again to leave at once", file=sys.stderr)  # noqa: T201
            self._waiting_for = ""

    def _is_acknowledged(self) -> bool:
        return time.monotonic() - self._struck_at >= _ACKNOWLEDGED_AFTER


def _nothing() -> None:
    pass


def converse(
    body: Callable[[Caller], _Result], tick: Callable[[], None] = _nothing, waiting_for: str = ""
) -> tuple[_Result, BaseException | None]:
    """Run ``body`` where no signal handler can interrupt it, and wait for its end.

    Parameters
    ----------
    body : callable
        Called with a `Caller`, through which it runs the user's functions in the calling thread and learns that it
        should end.
    tick : callable
        Called in the calling thread several times a second.
    waiting_for : str
        When a body that was told to stop will end, for a user who pressed Ctrl-C and waits.

    Returns
    -------
    result
        The result of the body; an exception of the body is raised.
    struck : BaseException or None
        The exception that a signal handler raised meanwhile. The caller must raise or handle it.
    """
    if not _is_interruptible():
        return body(Caller()), None
    main = _MainThread(body, tick, waiting_for)
    return main.serve(), main.struck


def shielded(function: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
    """Call ``function`` where no signal handler can interrupt it; raise a handler's exception when it has ended."""
    result, struck = converse(lambda _: function(*args, **kwargs))
    if struck is not None:
        raise struck
    return result


def detached(function: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
    """Call ``function`` where no signal handler can interrupt it; raise a handler's exception at once.

    The function then continues on its own to its end, and the interpreter waits for it before it exits.
    """
    if not _is_interruptible():
        return function(*args, **kwargs)
    outcome: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def work() -> None:
        try:
            outcome.put((function(*args, **kwargs), None))
        except BaseException as error:  # it belongs to the caller
            outcome.put((None, error))

    start(work)
    begun = time.monotonic()
    try:
        while True:
            with contextlib.suppress(Empty):
                result, error = outcome.get(timeout=_TICK)
                if error is not None:
                    raise error
                return result  # type: ignore[no-any-return]
            notices.still_compiling(time.monotonic() - begun)
    finally:
        notices.end()
