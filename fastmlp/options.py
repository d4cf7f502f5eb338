"""The words of the command line: commands, options, help texts, and suggestions for misspelt words."""

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import fastmlp

_STATUS = """\
exit status:
  0    success
  1    training diverged: the loss or a parameter became non-finite
  2    wrong usage; a missing or damaged data set, model or library; a result that could not be written
  130  stopped by Ctrl-C; the requested files are saved
  141  the reader of the output closed the pipe
"""
_EXAMPLES = """\
examples:
  fastmlp train                                  on the bundled 8x8 digits, offline: 98 % in a second
  fastmlp train mnist --save digits.safetensors  on MNIST, from FASTMLP_DATA or downloaded once: 98 %
  fastmlp evaluate digits.safetensors mnist      on the test images of MNIST
  fastmlp predict digits.safetensors photo.jpg   for a picture of a digit
  fastmlp export digits.safetensors --to digits.onnx
                                                 for other programs
  fastmlp bench                                  fastmlp against the notebook's formulas
  fastmlp pack mnist --to mnist.pack             in the form that training reads; also more than fits into memory
  fastmlp info                                   the active backend, and why it was chosen
  fastmlp train --help                           all options of a command, with examples
"""
_TRAIN = """\
examples:
  fastmlp train
      the digits: 98 % of the test samples are right
  fastmlp train mnist --hidden 256 128 --epochs 8
      MNIST with two hidden layers, for more epochs: 98.4 % are right
  fastmlp train --schedule constant --learning-rate 0.002 --epochs 500 --validation 0.1 --patience 20 --plot pictures
      sets aside a tenth of the training data, stops when the loss on it no longer falls, and draws figures
  fastmlp train --epochs 20 --checkpoint run.ckpt
  fastmlp train --epochs 40 --checkpoint run.ckpt --resume
      continues after epoch 20, Ctrl-C, a kill or a power cut. With the same --epochs, it ends with the same bits as an
      uninterrupted run; with more, the learning rate continues as in a run of that many epochs
  fastmlp train --optimizer gd
      trains as the notebook does, on all samples at once: 97 % are right
  fastmlp train letters.csv --save letters.safetensors --json > letters.json
      a table with the label in the first column; prints the result as one JSON object
  fastmlp train iris.csv --label species --save iris.safetensors
      a table with the label in the column "species"
  fastmlp train houses.csv --target price --save houses.safetensors --plot pictures
      a regression: prints R2, and draws the predicted against the true prices of the test samples
  fastmlp train rentals.csv --target bicycles --loss poisson
      predicts counts: the predictions are never negative
  fastmlp train houses.csv --label town --category rooms --ignore price
      takes the numbers of rooms as categories, as columns of text are, and leaves the prices out
  fastmlp train news.svm
      a sparse file of SVMlight or LIBSVM
  fastmlp train mnist.pack --save packed.safetensors
      a packed file, which need not fit into memory; it has no test part
  mpiexec -n 4 fastmlp train mnist --optimizer gd --threads 1
      divides the samples among 4 processes, to the same bits; needs mpi4py

Without options, train uses the recipe that learns fastest: adam, one-cycle to 0.008 (the learning rate rises to it for
a tenth of the run, then falls), in single precision, from batches of 32 samples and 40 epochs for small data to batches
of 128 samples and 4 epochs for large data. An option replaces its part of the recipe. sgd has Nesterov's momentum of
0.9. gd and lbfgs take all samples at once, for 100 epochs (gd on the digits: 500), in double precision: gd in steps of
--alpha, lbfgs in steps that it finds itself.

DATA is digits, mnist, fashion_mnist, a folder of IDX files, a .npz file with the arrays x_train, y_train, x_test and
y_test, a table (.csv, .tsv or .txt) separated by commas, semicolons or tabs, or a file of SVMlight or LIBSVM (.svm,
.svmlight or .libsvm). The label of a table is in the column given by --label, else in the column named label, class or
target, else in the only text column, else in the first column. Other columns of text hold categories, which become
columns of 0 and 1; all others must be numbers and are standardised. The label of SVMlight is the first number of each
line; with --target first, it is the target of a regression. Targets are standardised, so that huber counts a residual
beyond one standard deviation linearly; counts for poisson are divided by their mean. A file that fastmlp pack wrote is
recognised by its content; all of it is used for training. If there is no test part, every fifth sample of each class
becomes a test sample.
"""
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
_EVALUATE = """\
examples:
  fastmlp evaluate digits.safetensors mnist
  fastmlp evaluate digits.safetensors mnist --plot pictures
  fastmlp evaluate digits.safetensors mine.csv --part all --json
  fastmlp evaluate houses.safetensors houses.csv
  fastmlp evaluate packed.safetensors test.pack        a packed file, all of its samples

MODEL is a file written by train --save or --checkpoint. Inputs are scaled as in training. The columns of a table are
found by their names, in any order. Its label or target is the one of the training, unless --label or --target names
another column.
"""
_PREDICT = """\
examples:
  fastmlp predict digits.safetensors three.png
  fastmlp predict digits.safetensors scans/            all pictures in a folder and in its folders
  fastmlp predict digits.safetensors t10k-images-idx3-ubyte.gz | head
  fastmlp predict digits.safetensors a.jpg b.jpg --json
  fastmlp predict digits.safetensors pictures.npz      an array of pictures, as x_test in a file for train
  fastmlp predict houses.safetensors new.csv           a price for each row of a table
  fastmlp predict houses.safetensors new.csv --output prices.csv

A table, or a file of SVMlight, holds raw rows as in training, with or without labels. Columns are found by their names,
in any order; other columns are ignored. A .npy file, or the array x, X or x_test of a .npz file or its only one, holds
raw samples along its first axis.
A picture shows a single digit or similar object, dark on light or light on dark. It is cropped, resized and centred
like the training images, and the steps are printed next to the answer. A picture that already has their size is only
inverted, if its border is light. A warning names each picture with several shapes.
"""
_EXPORT = """\
examples:
  fastmlp export digits.safetensors --to digits.onnx

Writes a trained network as an ONNX file, which other programs and languages run. It takes samples as rows of raw
numbers, as train does: the scaling of pictures, the mean and standard deviation of columns and the encoding of
categories are part of the file. Prints its inputs and outputs. Pictures must have the size of the training images.
"""
_PACK = """\
examples:
  fastmlp pack mnist --to mnist.pack                   the training part
  fastmlp pack mnist --part test --to test.pack        the test part, for fastmlp evaluate
  fastmlp pack houses.csv --target price --to houses.pack
  fastmlp pack x.npy --labels y.npy --to own.pack      arrays of your own, samples as rows

Writes samples in the form that training reads, with their labels and their preparation, into one file. Training maps it
a block at a time, so that it need not fit into memory. DATA is as for train, or a .npy file of samples (m, ...). A .npy
file, and a folder of IDX files that are not compressed, need not fit into memory either. Labels in a .npy file are
integers, or numbers with a fraction to predict. Tables are standardised by their training part, all other samples are
divided by one number, or multiplied by --scale. Shuffle data that are sorted by class before you pack them.
"""
_BENCH = """\
examples:
  fastmlp bench
  fastmlp bench mnist --dtype float32 --seconds 5

Takes one training step with the notebook's formulas in NumPy, with fastmlp's functions, and with fastmlp.MLP on packed
input. First checks that the results agree, then times the three in turn. Takes about --seconds plus the compile time.
"""
_INFO = """\
examples:
  fastmlp info
  fastmlp info digits.safetensors   also shows the contents of a model file
  fastmlp info mnist.pack           or of a packed file
"""


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
        epilog=_EXAMPLES + "\n" + _STATUS,
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
        ("train", "train", "train a network and print its progress", _TRAIN, _add_train),
        ("evaluate", "evaluate", "measure the accuracy of a trained network, or R2", _EVALUATE, _add_evaluate),
        ("predict", "predict", "predict for pictures, or for the rows of a table", _PREDICT, _add_predict),
        ("export", "export", "write a trained network as an ONNX file", _EXPORT, _add_export),
        ("pack", "pack", "write data as a packed file, which training reads a part at a time", _PACK, _add_pack),
        ("bench", "compare", "compare the speed with the notebook's formulas in NumPy", _BENCH, _add_bench),
        ("info", "info", "show backend, threads, BLAS, CPU and versions", _INFO, _add_info),
    ):
        description = f"{text[0].upper()}{text[1:]}."
        command = subparsers.add_parser(name, help=text, description=description, epilog=examples + "\n" + _STATUS)
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
