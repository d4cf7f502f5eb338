"""The command line: ``fastmlp train``, ``fastmlp info``."""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence

import fastmlp
from fastmlp import backend, datasets
from fastmlp.training import Callback, History

_EPILOG = """\
examples:
  fastmlp train                                        the bundled 8x8 digits, no network needed
  FASTMLP_DATA=~/data fastmlp train mnist              MNIST from the IDX files in ~/data/mnist
  fastmlp train mnist --hidden 256 256 --dtype float32 two hidden layers in single precision
  fastmlp info                                         backend, threads, BLAS, CPU, versions

exit status: 0 done, 1 training diverged, 2 wrong use or missing data, 130 stopped by Ctrl-C
"""
# What trains each set well by full-batch gradient descent from the notebook's initial weights.
_DEFAULTS = {"digits": (500, 0.5), "mnist": (100, 0.5)}
_LINES = 20  # progress lines of a training


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after ``fastmlp``; those of the process if not given.

    Returns
    -------
    int
        The exit status: 0 done, 1 training diverged, 2 wrong use or missing data, 130 stopped by Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except FloatingPointError as error:
        print(f"fastmlp: {error}", file=sys.stderr)
        return 1
    except (ValueError, TypeError, ImportError, OSError) as error:
        print(f"fastmlp: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fastmlp: stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastmlp",
        description="Train multilayer perceptrons on the CPU by full-batch gradient descent.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fastmlp {fastmlp.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train a network and print how it learns")
    train.add_argument("data", nargs="?", choices=sorted(_DEFAULTS), default="digits", help="default: %(default)s")
    train.add_argument("--hidden", nargs="*", type=int, default=[128], metavar="N", help="hidden widths; default: 128")
    train.add_argument("--epochs", type=int, metavar="N", help="steps; default: digits 500, mnist 100")
    train.add_argument("--alpha", type=float, metavar="A", help="step size; default: 0.5")
    train.add_argument("--threads", type=int, metavar="T", help="default: all cores")
    train.add_argument("--dtype", choices=("float32", "float64"), default="float64", help="default: %(default)s")
    train.add_argument("--seed", type=int, default=0, metavar="S", help="of the initial weights; default: 0")
    train.add_argument("--backend", choices=("auto", "numba", "numpy"), help="default: FASTMLP_BACKEND, else auto")
    train.set_defaults(run=_train)

    info = commands.add_parser("info", help="show what computes: backend, threads, BLAS, CPU, versions")
    info.set_defaults(run=_info)
    return parser


def _info(options: argparse.Namespace) -> int:
    backend.show_config()
    return 0


def _train(options: argparse.Namespace) -> int:
    if options.backend is not None:
        backend.set_backend(options.backend)
    if options.threads is not None:
        backend.set_num_threads(options.threads)
    default_epochs, default_alpha = _DEFAULTS[options.data]
    epochs = default_epochs if options.epochs is None else options.epochs
    alpha = default_alpha if options.alpha is None else options.alpha

    start = time.perf_counter()
    source = getattr(datasets, options.data)
    (x_train, y_train), (x_test, y_test) = source.load_data()
    X, X_test = (fastmlp.pack(x.reshape(len(x), -1).T, scale=1 / source.MAX_VALUE) for x in (x_train, x_test))
    sizes = (X.shape[0], *options.hidden, int(y_train.max()) + 1)
    model = fastmlp.MLP(sizes, dtype=options.dtype, seed=options.seed)
    print(
        f"{options.data}: {X.shape[1]} training and {X_test.shape[1]} test samples\n"
        f"network {'-'.join(map(str, sizes))}, {options.dtype}, alpha {alpha}, "
        f"{backend.get_backend()} backend, threads: {backend.get_num_threads()}"
    )
    history = model.fit(X, y_train, epochs=epochs, alpha=alpha, callback=_progress(epochs))
    if not history.epoch:
        print("stopped before the first epoch was done")
        return 130
    scores = model.evaluate(X_test, y_test)
    print(
        f"test accuracy {scores['accuracy']:.2%}, cost {scores['loss']:.4f} after {len(history)} epochs; "
        f"time per epoch {1e3 * statistics.median(history.seconds):.1f} ms (median), "
        f"{time.perf_counter() - start:.1f} s in all"
    )
    return 130 if history.stopped == "interrupt" else 0


def _progress(epochs: int) -> Callback:
    every = max(1, epochs // _LINES)

    def show(epoch: int, history: History) -> None:
        if epoch % every == 0 or epoch in (1, epochs):
            print(f"epoch {epoch:{len(str(epochs))}}  cost {history.loss[-1]:.4f}  accuracy {history.accuracy[-1]:.2%}")

    return show
