"""The words of the command line: commands and options, their help, and what a wrong word may have meant."""

import argparse
import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import fastmlp

_STATUS = """\
exit status:
  0    done
  1    the training diverged: its loss or parameters stopped being finite
  2    wrong use; data, a model or a library that is missing or damaged; a result that could not be written
  130  stopped by Ctrl-C; what was asked for is saved
  141  the reader of the output went away
"""
_EXAMPLES = """\
examples:
  fastmlp train                                  the bundled 8x8 digits, no network needed: 97 % in a second
  fastmlp train mnist --save digits.safetensors  MNIST, from FASTMLP_DATA or downloaded once: 92 %
  fastmlp evaluate digits.safetensors mnist      its test images
  fastmlp predict digits.safetensors photo.jpg   a picture of a digit
  fastmlp bench                                  the notebook's formulas against fastmlp
  fastmlp info                                   the backend in use, and why
  fastmlp train --help                           every option, with examples
"""
_TRAIN = """\
examples:
  fastmlp train
      the digits, to 97 % on the test part
  fastmlp train mnist --hidden 64 32 --dtype float32
      two hidden layers, in single precision: 93 %
  fastmlp train --epochs 2000 --validation 0.1 --patience 20 --plot pictures
      stops when the loss on a tenth of the training data, set aside, no longer falls; draws the result
  fastmlp train --epochs 300 --checkpoint run.ckpt
  fastmlp train --epochs 600 --checkpoint run.ckpt --resume
      continues after epoch 300, or after Ctrl-C, a kill or a power cut: the same bits as without a break
  fastmlp train letters.csv --save letters.safetensors --json > letters.json
      a table, the label in its first column; the result as one JSON object
  fastmlp train iris.csv --label species --save iris.safetensors
      a table, the label in the column of that name

DATA is digits, mnist, fashion_mnist, a folder of IDX files, a .npz file with Keras' names (x_train, y_train, x_test,
y_test), or a table: .csv, .tsv or .txt, separated by commas, semicolons or tabs. Its label is in the column that
--label names, else in the one called label, class or target, else in the only one of text, else in the first one; the
other columns are numbers, each of which is standardised. Where there is no test part, every fifth sample of each class
is set aside as one.
"""
_INIT = "initial weights; notebook: U[-0.5, 0.5), from which only nets with one hidden layer learn; default: glorot"
_EVALUATE = """\
examples:
  fastmlp evaluate digits.safetensors mnist
  fastmlp evaluate digits.safetensors mnist --plot pictures
  fastmlp evaluate digits.safetensors mine.csv --part all --json

MODEL is a file of train --save or --checkpoint. Inputs are scaled as they were in training, and the label of a table is
in the same column unless --label names another.
"""
_PREDICT = """\
examples:
  fastmlp predict digits.safetensors three.png
  fastmlp predict digits.safetensors scans/            every picture in the folder, by name
  fastmlp predict digits.safetensors t10k-images-idx3-ubyte.gz | head
  fastmlp predict digits.safetensors a.jpg b.jpg --json

A picture of one digit or the like, dark on light or light on dark, is cropped, resized and centred as the images of the
training were; what was done to it stands beside the answer. One of exactly their size is taken as it is.
"""
_BENCH = """\
examples:
  fastmlp bench
  fastmlp bench mnist --dtype float32 --seconds 5

Takes one training step by the notebook's formulas in NumPy, by the functions of fastmlp, and by its model on packed
input: first checks that all agree, then times them in turn. Takes about --seconds, and the time to compile.
"""
_INFO = """\
examples:
  fastmlp info
  fastmlp info digits.safetensors   also what the file holds
"""


class WrongWordsError(Exception):
    """Words that make no command; its text says what is wrong.

    Attributes
    ----------
    program, usage : str
        The command, such as ``"fastmlp train"``, and its usage.
    """

    def __init__(self, program: str, usage: str, text: str) -> None:
        super().__init__(text)
        self.program, self.usage = program, usage


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the options that the words after ``fastmlp`` ask for; ``command`` is the name of the command.

    Raises
    ------
    WrongWordsError
        If they make no command.
    SystemExit
        After help or version were printed.
    """
    parser, commands = _parsers()
    command = next((word for word in words if not word.startswith("-")), None)
    if command is not None and command not in commands:
        parser.error(f"no command {command!r}{did_you_mean(command, commands)}")
    options = parser.parse_args(words)
    if options.command == "train":
        _take_data_from_hidden(commands["train"], options)
    return options


def did_you_mean(word: str, legal: Iterable[str]) -> str:
    """Return ``"; did you mean ...?"`` for the legal word most like this one, or an empty text if none is like it.

    Examples
    --------
    >>> from fastmlp.options import did_you_mean
    >>> did_you_mean("Fashion-MNIST", ["digits", "fashion_mnist"])
    '; did you mean fashion_mnist?'
    """
    plain = {_plain(one): one for one in legal}
    found = difflib.get_close_matches(_plain(word), plain, n=1)
    return f"; did you mean {plain[found[0]]}?" if found else ""


def _plain(word: str) -> str:
    return word.casefold().replace("_", "-").strip("-")


class _Parser(argparse.ArgumentParser):
    """Speaks of its own command and options where a word is wrong, and says which one may have been meant."""

    def __init__(self, **settings: Any) -> None:
        self._known: list[str] = []
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        action = super().add_argument(*names, **settings)
        self._known += action.option_strings
        return action

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # argparse lets the parser of a command pass on what it does not know, to one that knows even less.
        options, unknown = super().parse_known_args(args, namespace)
        for word in unknown:
            if word.startswith("-"):
                self.error(f"no option {word}{did_you_mean(word.partition('=')[0], self._known)}")
        if unknown:
            self.error(f"one word too many: {unknown[0]!r}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        raise WrongWordsError(self.prog, self.format_usage(), message)


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
    """Return the parser of all words, and those of the commands."""
    parser = _Parser(
        prog="fastmlp",
        description="Train multilayer perceptrons on the CPU by full-batch gradient descent, and use them.",
        epilog=_EXAMPLES + "\n" + _STATUS,
    )
    parser.add_argument("--version", action="version", version=f"fastmlp {fastmlp.__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")
    commands = {}
    for name, run, text, examples, add_arguments in (
        ("train", "train", "train a network and print how it learns", _TRAIN, _add_train),
        ("evaluate", "evaluate", "say how well a trained network does on data", _EVALUATE, _add_evaluate),
        ("predict", "predict", "say what is in pictures", _PREDICT, _add_predict),
        ("bench", "compare", "compare with the notebook's formulas in NumPy", _BENCH, _add_bench),
        ("info", "info", "show backend, threads, BLAS, CPU and versions", _INFO, _add_info),
    ):
        description = f"{text[0].upper()}{text[1:]}."
        command = subparsers.add_parser(name, help=text, description=description, epilog=examples + "\n" + _STATUS)
        add_arguments(command)
        _add_common(command)
        command.set_defaults(run=run)  # by its name in `commands`, which imports what takes time
        commands[name] = command
    return parser, commands


def _take_data_from_hidden(parser: _Parser, options: argparse.Namespace) -> None:
    """Make ``--hidden`` integers. ``64 32`` and ``64,32`` are the same; a last word that is no number is DATA."""
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
    command.add_argument("--backend", choices=("auto", "numba", "numpy"), help="default: FASTMLP_BACKEND, else auto")
    command.add_argument("--threads", type=int, metavar="T", help="default: FASTMLP_NUM_THREADS, else all cores")
    command.add_argument("--json", action="store_true", help="print one JSON object, and all else to standard error")


def _add_train(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("data", nargs="?", metavar="DATA", help="see below; default: digits")
    add("--hidden", nargs="*", default=["128"], metavar="N", help="hidden widths, or none; default: 128")
    add("--epochs", type=int, metavar="N", help="steps; default: digits 500, else 100")
    add("--alpha", type=float, default=0.5, metavar="A", help="step size; default: %(default)s")
    add("--validation", type=float, metavar="SHARE", help="of the training data, set aside to watch; as 0.1")
    add("--patience", type=int, metavar="N", help="stop after N epochs without a better validation loss; keep the best")
    add("--min-delta", type=float, default=0.0, metavar="D", help="what counts as better; default: 0")
    add("--checkpoint", metavar="FILE", help="the state of the run, written while it trains and at its end")
    add("--checkpoint-every", type=float, default=10.0, metavar="SECONDS", help="default: 10")
    add("--resume", action="store_true", help="continue from the checkpoint, if there is one")
    add("--save", metavar="FILE", help="the trained model; of a run cut short, beside a FILE that exists")
    add("--plot", metavar="DIR", help="draw learning curves, confusion matrix, worst mistakes and first layer, as PNG")
    add("--dtype", choices=("float32", "float64"), default="float64", help="default: %(default)s")
    _add_label(command)
    add("--init", choices=("glorot", "he", "notebook"), default="glorot", help=_INIT)
    add("--seed", type=int, default=0, metavar="S", help="of initial weights and the validation's choice; default: 0")
    add("--quiet", action="store_true", help="print no lines while it trains")


def _add_evaluate(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="a model or checkpoint file")
    command.add_argument("data", metavar="DATA", help="as for train")
    command.add_argument(
        "--part", choices=("test", "train", "all"), default="test", help="of the data; default: %(default)s"
    )
    _add_label(command)
    command.add_argument("--plot", metavar="DIR", help="draw confusion matrix, worst mistakes and first layer, as PNG")


def _add_label(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--label", metavar="COLUMN", help="of a table: first, last or a name from its first line; default: see DATA"
    )


def _add_predict(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="a model or checkpoint file")
    command.add_argument("what", metavar="WHAT", nargs="+", help="pictures, folders of them, IDX files of images")


def _add_bench(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("data", nargs="?", metavar="DATA", default="digits", help="as for train; default: %(default)s")
    _add_label(command)
    add("--hidden", type=int, default=128, metavar="N", help="hidden width; default: %(default)s")
    add("--dtype", choices=("float32", "float64"), default="float64", help="default: %(default)s")
    add("--seconds", type=float, default=20.0, metavar="S", help="about how long to measure; default: 20")


def _add_info(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", nargs="?", help="a model or checkpoint file")
