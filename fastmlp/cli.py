"""The command line: ``fastmlp train``, ``evaluate``, ``predict``, ``export``, ``pack``, ``bench``, ``info``.

Slow imports are delayed until Ctrl-C is handled.
"""

from __future__ import annotations

import sys

from fastmlp import console, launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after ``fastmlp``; by default those of the process.

    Returns
    -------
    int
        The exit status: 0 success, 1 training diverged, 2 wrong usage, missing or damaged data, or a result that could
        not be written, 130 stopped by Ctrl-C, 141 the reader of the output closed the pipe.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    if arguments is None:
        console.occupy_closed_streams()
    interrupts = console.Interrupts(to_the_end=arguments is None)
    # Processes of a launcher train together, and the first one speaks for all.
    silent = launch.place()[0] > 0 and "train" in words[:1]
    say = console.Console(interrupts, json="--json" in words, silent=silent)
    try:
        interrupts.begin()
        status, facts = _answered(words, say)
        interrupts.hold()  # only the result is left to print
    except KeyboardInterrupt:
        interrupts.hold()
        say.complain("stopped")
        status, facts = 130, {"error": "stopped"}
    status = _end(say, status, facts)
    interrupts.end()
    return status


def _answered(words: Sequence[str], say: console.Console) -> tuple[int, dict[str, Any] | None]:
    """Return the result of `_run`; for an error, its exit status and its message."""
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
    """Return the exit status and the object for ``--json``, or None after the help or the version."""
    import contextlib
    import io
    import warnings

    from fastmlp import notices
    from fastmlp import options as language

    if not say.silent:
        notices.announce_always()
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:  # argparse ignores errors when it prints
            options = language.parse(words)
    except language.WrongWordsError as wrong:
        say.complain_of_words(wrong.usage, f"{wrong.program}: error: {wrong}")
        return 2, {"error": str(wrong)}
    except SystemExit:  # after help or the version
        say.answer(printed.getvalue().rstrip())
        return 0, None
    say.json = options.json
    with warnings.catch_warnings():
        # Show warnings meant for users; warnings of libraries to their developers stay hidden.
        for category in (UserWarning, RuntimeWarning):
            warnings.simplefilter("default", category)
        warnings.showwarning = say.warn
        from fastmlp import commands

        status, facts = getattr(commands, options.run)(options, say)
    return status, commands.finite(facts)


def _end(say: console.Console, status: int, facts: dict[str, Any] | None) -> int:
    """Print the object for ``--json``, and return the exit status, which is not 0 if output was lost."""
    if say.json and facts is not None:
        import json

        say.answer(json.dumps({"status": status, **facts, "warnings": say.warnings}, allow_nan=False))
    say.flush()
    if say.gone:
        return 141
    return 2 if say.lost is not None and status == 0 else status
