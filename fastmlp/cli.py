"""The command line: ``fastmlp train``, ``evaluate``, ``predict``, ``bench``, ``info``.

Whatever takes time to import is imported where Ctrl-C is already answered in one line.
"""

from __future__ import annotations

import sys

from fastmlp import console

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after ``fastmlp``; those of the process if not given.

    Returns
    -------
    int
        The exit status: 0 done, 1 training diverged, 2 wrong use, missing or damaged data, or a result that could not
        be written, 130 stopped by Ctrl-C, 141 if the reader of the output went away.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    if arguments is None:
        console.occupy_closed_streams()
    interrupts = console.Interrupts(to_the_end=arguments is None)
    say = console.Console(interrupts, json="--json" in words)
    try:
        interrupts.begin()
        status, facts = _answered(words, say)
        interrupts.hold()  # all that is left is to say it
    except KeyboardInterrupt:
        interrupts.hold()
        say.complain("stopped")
        status, facts = 130, {"error": "stopped"}
    status = _end(say, status, facts)
    interrupts.end()
    return status


def _answered(words: Sequence[str], say: console.Console) -> tuple[int, dict[str, Any] | None]:
    """Return what `_run` returns; of an error, its status and its line."""
    try:
        return _run(words, say)
    except BrokenPipeError:
        return 141, None
    except console.FAILURES as error:
        status, text = console.failure(error)
        if text != say.lost:
            say.complain(text)
        return status, {"error": text}


def _run(words: Sequence[str], say: console.Console) -> tuple[int, dict[str, Any] | None]:
    """Return the exit status, and the object for a machine; None where it is not meant for one."""
    import contextlib
    import io
    import warnings

    from fastmlp import notices
    from fastmlp import options as language

    notices.announce_always()
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:  # argparse hides that it cannot print
            options = language.parse(words)
    except language.WrongWordsError as wrong:
        say.complain_of_words(wrong.usage, f"{wrong.program}: error: {wrong}")
        return 2, {"error": str(wrong)}
    except SystemExit:  # after help or the version
        say.answer(printed.getvalue().rstrip())
        return 0, None
    say.json = options.json
    with warnings.catch_warnings():
        # Those that are for the user; libraries' words to their developers stay hidden.
        for category in (UserWarning, RuntimeWarning):
            warnings.simplefilter("default", category)
        warnings.showwarning = say.warn
        from fastmlp import commands

        status, facts = getattr(commands, options.run)(options, say)
    return status, commands.finite(facts)


def _end(say: console.Console, status: int, facts: dict[str, Any] | None) -> int:
    """Print the object where one is wanted, and return the status, in which output that was lost counts."""
    if say.json and facts is not None:
        import json

        say.answer(json.dumps({"status": status, **facts, "warnings": say.warnings}, allow_nan=False))
    say.flush()
    if say.gone:
        return 141
    return 2 if say.lost is not None and status == 0 else status
