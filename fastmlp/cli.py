"""The command line: ``fastmlp train``, ``evaluate``, ``predict``, ``bench``, ``info``."""

import argparse
import functools
import json
import os
import sys
from collections.abc import Sequence

import fastmlp
from fastmlp import commands

_STATUS = """\
exit status:
  0    done
  1    the training diverged: its loss or parameters stopped being finite
  2    wrong use, or data, a model or a library that is missing or damaged
  130  stopped by Ctrl-C; what was asked for is saved
  141  whoever read the output went away
"""
_EXAMPLES = """\
examples:
  fastmlp train                                  the bundled 8x8 digits, no network needed
  fastmlp train mnist --save digits.safetensors  MNIST, from FASTMLP_DATA or downloaded once
  fastmlp evaluate digits.safetensors mnist      its test images
  fastmlp predict digits.safetensors photo.jpg   a picture of a digit
  fastmlp bench mnist                            the notebook's formulas against fastmlp
  fastmlp info                                   what computes, and why
  fastmlp train --help                           every option, with examples
"""
_TRAIN = """\
examples:
  fastmlp train
  fastmlp train mnist --hidden 256 128 --dtype float32 --epochs 300
      two hidden layers, in single precision
  fastmlp train mnist --epochs 2000 --validation 0.1 --patience 20 --plot pictures
      stops when the loss on a tenth of the training data, set aside, no longer falls; draws what came of it
  fastmlp train mnist --epochs 5000 --checkpoint run.ckpt
  fastmlp train mnist --epochs 5000 --checkpoint run.ckpt --resume
      after Ctrl-C, a kill or a power cut: ends with the same bits as a training without a break
  fastmlp train letters.csv --save letters.safetensors --json > letters.json
      a table, the label in its first column; the result as one JSON object
  fastmlp train iris.csv --label species --save iris.safetensors

DATA is digits, mnist, fashion_mnist, a folder of IDX files, a .npz file with Keras' names (x_train, y_train, x_test,
y_test), or a table: .csv, .tsv or .txt, separated by commas, semicolons or tabs. Its label is in the column that
--label names, else in the one called label, class or target, else in the only one of text, else in the first one; the
other columns are numbers, each of which is standardised. Where there is no test part, every fifth sample of each class
is set aside as one.
"""
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
  fastmlp bench mnist --dtype float32 --seconds 60

Takes one training step by the notebook's formulas in NumPy, by the functions of fastmlp, and by its model on packed
input: first checks that all agree, then times them in turn. Takes about --seconds, and the time to compile.
"""
_INFO = """\
examples:
  fastmlp info
  fastmlp info digits.safetensors   also what the file holds
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after ``fastmlp``; those of the process if not given.

    Returns
    -------
    int
        The exit status: 0 done, 1 training diverged, 2 wrong use or missing or damaged data, 130 stopped by Ctrl-C,
        141 if whoever read the output went away. Wrong words end in SystemExit with status 2.
    """
    options = _parser().parse_args(arguments)
    try:
        status = _run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_output()
        return 141
    return status


def _run(options: argparse.Namespace) -> int:
    # For machines the one object has standard output to itself.
    say = functools.partial(print, file=sys.stderr if options.json else sys.stdout, flush=True)
    try:
        status, facts = options.run(options, say)
    except BrokenPipeError:
        raise
    except (ValueError, TypeError, ImportError, OSError, ArithmeticError, MemoryError, KeyboardInterrupt) as error:
        status, text = _failure(error)
        print(f"fastmlp: {text}", file=sys.stderr)
        facts = {"error": text}
    if options.json:
        print(json.dumps(commands.finite({"status": status, **facts}), allow_nan=False))
    return int(status)


def _failure(error: BaseException) -> tuple[int, str]:
    """Return exit status and one line of text."""
    if isinstance(error, KeyboardInterrupt):
        return 130, "stopped"
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        text = f"not enough memory for this network or data: {text or 'take smaller ones'}"
    return (1 if isinstance(error, FloatingPointError) else 2), text


def _forget_output() -> None:
    """Let the interpreter flush at its end into nothing, for a reader that went away."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nothing, stream.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastmlp",
        description="Train multilayer perceptrons on the CPU by full-batch gradient descent, and use them.",
        epilog=_EXAMPLES + "\n" + _STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fastmlp {fastmlp.__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, text, examples, run, add_arguments in (
        ("train", "train a network and print how it learns", _TRAIN, commands.train, _add_train),
        ("evaluate", "say how well a trained network does on data", _EVALUATE, commands.evaluate, _add_evaluate),
        ("predict", "say what is in pictures", _PREDICT, commands.predict, _add_predict),
        ("bench", "compare with the notebook's formulas in NumPy", _BENCH, commands.compare, _add_bench),
        ("info", "show what computes: backend, threads, BLAS, CPU, versions", _INFO, commands.info, _add_info),
    ):
        command = subparsers.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=examples + "\n" + _STATUS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_arguments(command)
        _add_common(command)
        command.set_defaults(run=run)
    return parser


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--backend", choices=("auto", "numba", "numpy"), help="default: FASTMLP_BACKEND, else auto")
    command.add_argument("--threads", type=int, metavar="T", help="default: FASTMLP_NUM_THREADS, else all cores")
    command.add_argument("--json", action="store_true", help="print one JSON object, and all else to standard error")


def _add_train(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("data", nargs="?", metavar="DATA", default="digits", help="see below; default: %(default)s")
    add("--hidden", nargs="*", type=int, default=[128], metavar="N", help="hidden widths, or none; default: 128")
    add("--epochs", type=int, metavar="N", help="steps; default: digits 500, else 100")
    add("--alpha", type=float, default=0.5, metavar="A", help="step size; default: %(default)s")
    add("--validation", type=float, metavar="SHARE", help="of the training data, set aside to watch; as 0.1")
    add("--patience", type=int, metavar="N", help="stop after N epochs without a better validation loss; keep the best")
    add("--min-delta", type=float, default=0.0, metavar="D", help="what counts as better; default: 0")
    add("--checkpoint", metavar="FILE", help="where the training stands, written as it goes on and at its end")
    add("--checkpoint-every", type=float, default=10.0, metavar="SECONDS", help="default: 10")
    add("--resume", action="store_true", help="go on from the checkpoint, if there is one")
    add("--save", metavar="FILE", help="the trained model, also after Ctrl-C")
    add("--plot", metavar="DIR", help="draw learning curves, confusion matrix, worst mistakes and first layer, as PNG")
    add("--dtype", choices=("float32", "float64"), default="float64", help="default: %(default)s")
    _add_label(command)
    add("--seed", type=int, default=0, metavar="S", help="of initial weights and the validation's choice; default: 0")
    add("--quiet", action="store_true", help="no lines while it learns")


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
    add("--hidden", type=int, default=128, metavar="N", help="hidden width; default: %(default)s")
    add("--dtype", choices=("float32", "float64"), default="float64", help="default: %(default)s")
    add("--seconds", type=float, default=20.0, metavar="S", help="about how long to measure; default: 20")


def _add_info(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", nargs="?", help="a model or checkpoint file")
