"""The words of the command line: commands, options, help texts, and suggestions for misspelt words."""

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import fastmlp
from fastmlp import texts

_COMPLETION = "--print-completion"
_FILES = {"FILE", "MODEL", "WHAT"}
# Completes the names of data sets and of files.
_DATA = {
    "bash": """\
_fastmlp_data() {
  compgen -W 'digits fashion_mnist mnist' -- "$1"
  _shtab_compgen_files "$1"
}
""",
    "zsh": """\
_fastmlp_data() {
  _alternative 'names:data set:(digits fashion_mnist mnist)' 'files:file:_files'
}
""",
}
_OPTIMIZERS = ("gd", "sgd", "adam", "adamw", "lbfgs")
_LOSSES = ("squared_error", "absolute_error", "huber", "poisson")
_SCHEDULES = ("constant", "linear", "cosine", "one-cycle")
_INIT = (
    "initial weights; notebook: U[-0.5, 0.5), suitable for one hidden layer only; sklearn: weights and biases that "
    "scikit-learn's MLPs draw; default: glorot"
)
_ACTIVATION = (
    "identity, logistic, tanh, relu, leaky_relu or gelu; or one for each hidden layer, as in tanh,relu; default: relu"
)


class WrongWordsError(Exception):
    """The words are not a valid command; the text of the error gives the reason.

    Attributes
    ----------
    program, usage : str
        The command, such as ``"fastmlp train"``, and its usage text.
    """

    def __init__(self, program: str, usage: str, text: str) -> None:
        super().__init__(text)
        self.program, self.usage = program, usage


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the options given by the words after ``fastmlp``; ``command`` is the name of the command.

    Raises
    ------
    WrongWordsError
        If the words are not a valid command.
    SystemExit
        After the help or the version was printed.
    """
    parser, commands = _parsers()
    command = next((word for word in words if not word.startswith("-")), None)
    if command is not None and command not in commands and _COMPLETION not in words:
        parser.error(f"unknown command {command!r}{did_you_mean(command, commands)}")
    if set(words) <= {"--json"}:
        *names, last = commands
        parser.error(f"no COMMAND, expected {', '.join(names)} or {last}; see fastmlp --help")
    options = parser.parse_args(words)
    if options.command == "train":
        _take_data_from_hidden(commands["train"], options)
    return options


def did_you_mean(word: str, legal: Iterable[str]) -> str:
    """Return ``"; did you mean ...?"`` with the most similar legal word, or an empty string if none is similar.

    Examples
    --------
    >>> from fastmlp.options import did_you_mean
    >>> did_you_mean("Fashion-MNIST", ["digits", "fashion_mnist"])
    '; did you mean fashion_mnist?'
    """
    plain = {_plain(candidate): candidate for candidate in legal}
    found = difflib.get_close_matches(_plain(word), plain, n=1)
    return f"; did you mean {plain[found[0]]}?" if found else ""


def _plain(word: str) -> str:
    return word.casefold().replace("_", "-").strip("-")


class _Parser(argparse.ArgumentParser):
    """A parser that reports wrong words with its own usage and suggests similar options."""

    def __init__(self, **settings: Any) -> None:
        self.added: list[argparse.Action] = []
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        action = super().add_argument(*names, **settings)
        self.added.append(action)
        return action

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # argparse passes unknown words on to the main parser, which knows none of this command's options.
        options, unknown = super().parse_known_args(args, namespace)
        known = [name for action in self.added for name in action.option_strings]
        for word in unknown:
            if word.startswith("-"):
                self.error(f"unknown option {word}{did_you_mean(word.partition('=')[0], known)}")
        if unknown:
            self.error(f"unexpected argument: {unknown[0]!r}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        raise WrongWordsError(self.prog, self.format_usage(), message)


class _PrintCompletion(argparse.Action):
    """Prints the completion of a shell and exits."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        try:
            import shtab
        except ImportError as error:
            from fastmlp import checks

            raise checks.extra("completion is written by shtab", error, "completion") from error
        parser, commands = _parsers()
        for action in (action for command in commands.values() for action in command.added):
            if action.metavar == "DATA":
                action.complete = dict.fromkeys(_DATA, "_fastmlp_data")  # type: ignore[attr-defined]
            elif action.metavar in (*_FILES, "DIR"):
                action.complete = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE  # type: ignore[attr-defined]
        sys.stdout.write(shtab.complete(parser, values, preamble=_DATA))
        parser.exit()


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
    """Return the main parser and the parsers of the commands."""
    parser = _Parser(
        prog="fastmlp",
        description="Train multilayer perceptrons on the CPU, and use them.",
        epilog=texts.EXAMPLES + "\n" + texts.STATUS,
    )
    parser.add_argument(
        _COMPLETION,
        action=_PrintCompletion,
        choices=tuple(_DATA),
        help='print the completion of a shell; in ~/.bashrc: eval "$(fastmlp --print-completion bash)"',
    )
    parser.add_argument("--version", action="version", version=f"fastmlp {fastmlp.__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")
    commands = {}
    for name, run, text, examples, add_arguments in (
        ("train", "train", "train a network and print its progress", texts.TRAIN, _add_train),
        ("evaluate", "evaluate", "measure the accuracy of a trained network, or R2", texts.EVALUATE, _add_evaluate),
        ("predict", "predict", "predict for pictures, or for the rows of a table", texts.PREDICT, _add_predict),
        ("export", "export", "write a trained network as an ONNX file", texts.EXPORT, _add_export),
        ("pack", "pack", "write data as a packed file, which training reads a part at a time", texts.PACK, _add_pack),
        ("bench", "compare", "compare the speed with the notebook's formulas in NumPy", texts.BENCH, _add_bench),
        ("info", "info", "show backend, threads, BLAS, CPU and versions", texts.INFO, _add_info),
    ):
        description = f"{text[0].upper()}{text[1:]}."
        command = subparsers.add_parser(name, help=text, description=description, epilog=examples + "\n" + texts.STATUS)
        add_arguments(command)
        _add_common(command)
        command.set_defaults(run=run)  # the name of a function in `commands`, which is slow to import
        commands[name] = command
    return parser, commands


def _take_data_from_hidden(parser: _Parser, options: argparse.Namespace) -> None:
    """Convert ``--hidden`` to integers. ``64 32`` and ``64,32`` are equal; a last word that is not a number is DATA."""
    *words, last = options.hidden or [""]
    if options.data is None and last and not re.fullmatch(r"[-+.,e\d]*", last):
        options.data = last
    else:
        words.append(last)
    widths = [width for word in words for width in word.split(",") if width]
    for width in widths:
        if not re.fullmatch(r"[-+]?\d{1,20}", width):
            parser.error(f"--hidden: got {width!r}, expected whole numbers, such as 128 64")
    options.hidden = [int(width) for width in widths]
    options.data = "digits" if options.data is None else options.data


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--backend", choices=("auto", "numba", "numpy"), help="backend; default: FASTMLP_BACKEND, else auto"
    )
    command.add_argument(
        "--threads", type=int, metavar="T", help="number of threads; default: FASTMLP_NUM_THREADS, else all"
    )
    command.add_argument("--json", action="store_true", help="print one JSON object; other output to standard error")


def _add_train(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("data", nargs="?", metavar="DATA", help="see below; default: digits")
    add("--hidden", nargs="*", default=["128"], metavar="N", help="widths of the hidden layers, if any; default: 128")
    add("--epochs", type=int, metavar="N", help="number of epochs; default: see below")
    add("--optimizer", choices=_OPTIMIZERS, help="optimizer; gd is the notebook's training; default: adam")
    add("--batch-size", type=int, metavar="N", help="samples of an update of sgd, adam and adamw")
    add("--learning-rate", type=float, metavar="R", help="highest learning rate; default: 0.1 for sgd, else 0.008")
    add("--schedule", choices=_SCHEDULES, help="of the learning rate; default: one-cycle")
    add("--alpha", type=float, metavar="A", help="step size of gd, implies --optimizer gd; default: 0.5")
    add("--l2", type=float, default=0.0, metavar="P", help="penalty on the weights, as l2 of MLP.fit; default: 0")
    add("--validation", type=float, metavar="SHARE", help="share of the training data for validation, such as 0.1")
    add("--patience", type=int, metavar="N", help="stop after N epochs without a better validation loss; keep the best")
    add("--min-delta", type=float, default=0.0, metavar="D", help="smallest improvement that counts; default: 0")
    add("--checkpoint", metavar="FILE", help="save the state of the run to FILE during training and at the end")
    add("--checkpoint-every", type=float, default=10.0, metavar="SECONDS", help="time between checkpoints; default: 10")
    add("--resume", action="store_true", help="continue from the checkpoint, if it exists")
    add("--save", metavar="FILE", help="save the model; an unfinished run does not overwrite FILE")
    add("--plot", metavar="DIR", help="draw figures as PNG: learning curves, confusion matrix, ...")
    add("--dtype", choices=("float32", "float64"), help="precision; default: float64 for gd and lbfgs, else float32")
    _add_label(command)
    _add_target(command)
    add("--loss", choices=_LOSSES, help="loss of a regression, beside --target; default: squared_error")
    _add_columns(command)
    add("--init", choices=("glorot", "he", "notebook", "sklearn"), default="glorot", help=_INIT)
    add("--activation", default="relu", metavar="NAME", help=_ACTIVATION)
    add("--seed", type=int, default=0, metavar="S", help="seed of initial weights and validation split; default: 0")
    add("--quiet", action="store_true", help="print no progress lines")


def _add_evaluate(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="a model or checkpoint file")
    command.add_argument("data", metavar="DATA", help="as for train")
    command.add_argument(
        "--part", choices=("test", "train", "all"), help="part of the data; default: test, of a packed file all"
    )
    _add_label(command)
    _add_target(command)
    command.add_argument("--plot", metavar="DIR", help="draw figures as PNG: confusion matrix, worst mistakes, ...")


def _add_label(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--label", metavar="COLUMN", help="label column of a table: first, last or a column name; default: see DATA"
    )


def _add_target(command: argparse.ArgumentParser) -> None:
    text = "column of a table with numbers to predict instead of classes: first, last or a column name"
    command.add_argument("--target", metavar="COLUMN", help=text)


def _add_columns(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--category", action="append", metavar="COLUMN", help="a column whose numbers are categories; may be repeated")
    add("--ignore", action="append", metavar="COLUMN", help="a column of a table to leave out; may be repeated")


def _add_predict(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="a model or checkpoint file")
    what = "tables, pictures, folders of pictures, .npy, .npz and IDX files"
    command.add_argument("what", metavar="WHAT", nargs="+", help=what)
    command.add_argument("--output", metavar="FILE", help="write the answers as CSV to FILE, or - for standard output")


def _add_export(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="a model or checkpoint file")
    command.add_argument("--to", metavar="FILE", required=True, help="file to write; its name ends in .onnx")


def _add_pack(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("data", metavar="DATA", help="as for train, or a .npy file")
    add("--to", metavar="FILE", required=True, help="file to write; an existing file is replaced")
    add("--labels", metavar="FILE", help="a .npy file with the labels or targets of DATA, if that is a .npy file")
    add("--part", choices=("train", "test", "all"), help="part of the data; default: train")
    add("--scale", type=_factor, metavar="S", help="factor for each value, such as 1/255; default: see below")
    add(
        "--dtype",
        choices=("float32", "float64"),
        default="float32",
        help="of values that are not bytes; default: float32",
    )
    _add_label(command)
    _add_target(command)
    _add_columns(command)


def _factor(text: str) -> float:
    """Return the number in a text such as 0.5 or 1/255."""
    number, _, divisor = text.partition("/")
    try:
        return float(number) / float(divisor or 1)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number such as 0.5 or 1/255") from None


def _add_bench(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("data", nargs="?", metavar="DATA", default="digits", help="as for train; default: %(default)s")
    _add_label(command)
    add("--hidden", type=int, default=128, metavar="N", help="width of the hidden layer; default: %(default)s")
    add("--dtype", choices=("float32", "float64"), default="float64", help="precision; default: %(default)s")
    add("--seconds", type=float, default=20.0, metavar="S", help="approximate time to measure; default: 20")


def _add_info(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", nargs="?", help="a model or checkpoint file, or a packed file")
