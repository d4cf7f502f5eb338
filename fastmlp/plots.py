"""Pictures of a training run and of a net, in a new Figure that shows itself in a notebook, or on the caller's Axes.

A new figure belongs to no window and to no global state of matplotlib; ``figure.savefig(path)`` writes it. With Axes of
the caller nothing is returned, or a notebook would show the figure twice. Colours are those of Okabe and Ito, which
colour-blind readers can tell apart, and maps whose lightness follows the value; lines also differ in style and marker.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastmlp import checks, figures, losses
from fastmlp.curves import Curves, learning_curves
from fastmlp.figures import BLUE, VERMILLION, Array, Axes, Figure, require

__all__ = [
    "Axes",
    "Curves",
    "Figure",
    "confusion_matrix",
    "first_layer",
    "learning_curves",
    "predicted_against_true",
    "require",
    "worst_mistakes",
]

_BLACK_FROM = 0.22  # share of a true class whose colour has the same contrast to black and to white
_OPAQUE = 300  # points of a scatter plot; more become transparent, to show how many lie upon each other
_FEW_CLASSES = 5  # whose cells have room for larger numbers
_PERCENTAGES = 10  # as _WRITTEN_CLASSES, for two lines in a cell
_SATURATED = 0.999  # quantile of magnitudes at the ends of the scale of weights: larger ones would fade all others
_WRITTEN_CLASSES = 20  # numbers in a confusion matrix of more classes would be too small to read


def confusion_matrix(
    labels: ArrayLike, predictions: ArrayLike, names: Sequence[str] | None = None, ax: Axes | None = None
) -> Figure | None:
    r"""Draw how often each true class (row) was predicted as each class (column).

    Parameters
    ----------
    labels : array_like of int, shape (m,)
        True classes, from 0.
    predictions : array_like of int, shape (m,)
        Predicted classes.
    names : sequence of str, optional
        Names of the classes; their numbers if not given.
    ax : matplotlib Axes, optional
        Axes for the matrix; a new figure if not given.

    Returns
    -------
    Figure or None
        The new figure. Colours are shares of the true class, on a scale of square roots to make rare mistakes visible.
        Up to 20 classes, each cell shows its count, up to 10 also its share of the true class.

    Raises
    ------
    ValueError
        If lengths differ, or a class is negative or has no name.
    TypeError
        If an array does not hold real numbers.
    ImportError
        If matplotlib, part of the extra ``cli``, is not installed.

    Examples
    --------
    >>> from fastmlp import plots
    >>> figure = plots.confusion_matrix([0, 1, 1, 1], [0, 1, 1, 0], names=["cat", "dog"])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['1\n100 %', '', '1\n33 %', '2\n67 %']
    """
    require()
    from matplotlib.colors import PowerNorm

    counts = _counts(labels, predictions, names)
    classes = len(counts)
    title = [str(i) for i in range(classes)] if names is None else list(names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    given = None if ax is None else [ax]
    (ax,) = grid = figures.grid(given, 1, columns=1, size=(6.4, 5.4))
    image = ax.imshow(shares, cmap="cividis", norm=PowerNorm(0.5, 0, 1))
    bar = ax.figure.colorbar(image, ax=ax, label="Share of the true class", ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    figures.use_percent(bar.ax.yaxis)
    long = max(map(len, title)) > 2
    if classes <= _WRITTEN_CLASSES:
        ax.set_xticks(range(classes), title, rotation=45 if long else 0, ha="right" if long else "center")
        ax.set_yticks(range(classes), title)
        _write_counts(ax, counts, shares)
    right = np.trace(counts)
    ax.set(
        xlabel="Predicted class",
        ylabel="True class",
        title=f"{right} of {counts.sum()} right ({100 * right / counts.sum():.1f} %)",
    )
    return figures.new(grid, given)


def predicted_against_true(targets: ArrayLike, predictions: ArrayLike, ax: Axes | None = None) -> Figure | None:
    """Draw the predictions of a regression against the true targets, with the line of right answers.

    Parameters
    ----------
    targets : array_like of float, shape (m,)
        True targets.
    predictions : array_like of float, shape (m,)
        Predicted targets.
    ax : matplotlib Axes, optional
        Axes for the points; a new figure if not given.

    Returns
    -------
    Figure or None
        The new figure. Its title is R^2, the coefficient of determination.

    Raises
    ------
    ValueError, TypeError, ImportError
        As `confusion_matrix`.

    Examples
    --------
    >>> from fastmlp import plots
    >>> figure = plots.predicted_against_true([1.0, 2.0, 3.0], [1.0, 3.0, 3.0])
    >>> figure.axes[0].get_title(), figure.axes[0].get_xlabel()
    ('$R^2$ = 0.5000', 'True')
    """
    true = checks.array("targets", targets, shape=(None,), axes="(m,)")
    predicted = checks.array("predictions", predictions, shape=true.shape, axes="(m,)")
    given = None if ax is None else [ax]
    (ax,) = grid = figures.grid(given, 1, columns=1, size=(5.4, 5.4))
    ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
    ax.plot(ends, ends, "-", color=VERMILLION, linewidth=1.5, label="right answers")
    look = {"color": BLUE, "markersize": 4, "markeredgewidth": 0, "alpha": min(1.0, max(0.1, _OPAQUE / true.size))}
    ax.plot(true, predicted, "o", label="samples", **look)
    title = f"$R^2$ = {losses.r2(predicted[None], true[None], np.ones(true.size)):.4f}"
    ax.set(xlabel="True", ylabel="Predicted", title=title, aspect="equal")
    ax.grid(alpha=0.3)
    ax.legend()
    return figures.new(grid, given)


def _probability(p: float) -> str:
    """Return a probability in percent: small ones, by which mistakes are ordered, to one digit that is not zero."""
    if 0 < p < 1e-6:
        return "< 0.0001 %"
    return f"{100 * p:.1g} %" if p < 0.0095 else f"{100 * p:.0f} %"


def worst_mistakes(
    images: ArrayLike,
    labels: ArrayLike,
    probabilities: ArrayLike,
    names: Sequence[str] | None = None,
    count: int = 20,
    axes: Sequence[Axes] | Array | None = None,
) -> Figure | None:
    r"""Draw the wrongly classified images with the highest loss, worst first.

    Parameters
    ----------
    images : array_like, shape (m, rows, columns)
        Grey images; large values are drawn dark, like ink.
    labels : array_like of int, shape (m,)
        True classes.
    probabilities : array_like of float, shape (n_classes, m)
        Predicted probabilities, as from ``MLP.predict_proba``.
    names : sequence of str, optional
        Names of the classes; their numbers if not given.
    count : int
        The largest number of images to draw.
    axes : sequence or array of ``count`` matplotlib Axes, optional
        Axes for the images; a new figure if not given. Unused axes are switched off.

    Returns
    -------
    Figure or None
        The new figure: Axes for each mistake, titled with the true class, the predicted one and their probabilities,
        and labelled with the sample's number, from 0. Without a mistake, Axes that say so.

    Raises
    ------
    ValueError
        If shapes do not match, a label is out of range or there are too few names or axes.
    TypeError
        If an array does not hold real numbers or the count is not an integer.
    ImportError
        If matplotlib, part of the extra ``cli``, is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import plots
    >>> figure = plots.worst_mistakes(np.zeros((3, 8, 8)), [0, 1, 1], [[0.4, 0.9, 0.2], [0.6, 0.1, 0.8]])
    >>> [ax.get_title() for ax in figure.axes]
    ['true 1 (10 %)\nseen as 0 (90 %)', 'true 0 (40 %)\nseen as 1 (60 %)']
    """
    pixels = checks.array("images", images, shape=(None, None, None), axes="(m, rows, columns)")
    p = checks.array("probabilities", probabilities, shape=(None, len(pixels)), axes="(n_classes, m)")
    y = checks.labels("labels", labels, len(p), len(pixels))
    title = _names(names, len(p))
    worst = _worst(p, y, checks.epochs("count", count))
    wanted = max(1, len(worst))
    grid = figures.grid(axes, wanted, columns=min(5, wanted), size=(1.7 if names is None else 2.3, 2.4))
    for i, ax in zip(worst, grid, strict=False):
        guess = int(p[:, i].argmax())
        true, seen = (f"{title[k]} ({_probability(p[k, i])})" for k in (y[i], guess))
        _picture(ax, pixels[i], f"true {true}\nseen as {seen}")
        ax.set_xlabel(f"sample {i}", fontsize=7)
    if axes is None and len(worst):
        figures.add_title(grid[0].figure, "Worst mistakes: lowest probability of the true class first")
    if not len(worst):
        grid[0].text(0.5, 0.5, "no mistake", ha="center", va="center", transform=grid[0].transAxes)
    return figures.new(grid, axes)


def first_layer(
    weights: ArrayLike,
    shape: tuple[int, int] | None = None,
    count: int = 60,
    label: str = "Weight",
    axes: Sequence[Axes] | Array | None = None,
) -> Figure | None:
    """Draw the weights of each unit of the first layer, as images of the input's shape.

    Parameters
    ----------
    weights : array_like, shape (n_out, n_in)
        ``model.weights[0]``, or its change in training, which shows more if initial weights are large.
    shape : tuple of int, optional
        Rows and columns of the input; a square if not given.
    count : int
        The largest number of units to draw, from the first on.
    label : str
        The name of the values, for the colour bar.
    axes : sequence or array of ``count`` matplotlib Axes, optional
        Axes for the images; a new figure if not given.

    Returns
    -------
    Figure or None
        The new figure: Axes for each unit, titled with its number, under a title that says which units they are. All
        share one scale, from blue through grey for zero to red; the largest of 1000 weights reach its ends.

    Raises
    ------
    ValueError
        If the shape does not have as many values as the input, or there are too few axes.
    TypeError
        If the weights are not real numbers or the count is not an integer.
    ImportError
        If matplotlib, part of the extra ``cli``, is not installed.

    Examples
    --------
    >>> import fastmlp
    >>> from fastmlp import plots
    >>> figure = plots.first_layer(fastmlp.MLP((64, 12, 10)).weights[0])
    >>> figure.axes[0].images[0].get_array().shape
    (8, 8)
    """
    matrix = checks.array("weights", weights, shape=(None, None), axes="(n_out, n_in)")
    rows, columns = figures.image_shape(shape, matrix.shape[1])
    shown = matrix[: checks.epochs("count", count)]
    limit = float(np.quantile(np.abs(shown), _SATURATED)) or float(np.max(np.abs(shown))) or 1.0
    across = min(len(shown), max(4, math.ceil(math.sqrt(1.6 * len(shown)))))
    grid = figures.grid(axes, len(shown), columns=across, size=(0.95, 1.05))
    for i, (ax, weight) in enumerate(zip(grid, shown, strict=True)):
        _picture(ax, weight.reshape(rows, columns), str(i), cmap="coolwarm", vmin=-limit, vmax=limit)
    grid[0].figure.colorbar(grid[0].images[0], ax=list(grid), label=label, shrink=0.6, extend="both")
    if axes is None:
        some = f"{len(shown)} of {len(matrix)} units, 0 to {len(shown) - 1}"
        figures.add_title(grid[0].figure, f"First layer: {some if len(shown) < len(matrix) else 'all units'}")
    return figures.new(grid, axes)


def _counts(labels: ArrayLike, predictions: ArrayLike, names: Sequence[str] | None) -> Array:
    """Return how often each true class (row) was predicted as each (column), shape (n_classes, n_classes)."""
    most = 2**16 if names is None else len(names)
    true = checks.labels("labels", labels, most)
    predicted = checks.labels("predictions", predictions, most, len(true))
    classes = 1 + int(max(true.max(), predicted.max())) if names is None else most
    return np.bincount(true * classes + predicted, minlength=classes**2).reshape(classes, classes)


def _write_counts(ax: Axes, counts: Array, shares: Array) -> None:
    size = 10 if len(counts) <= _FEW_CLASSES else 7
    for (i, j), count in np.ndenumerate(counts):
        color = "black" if shares[i, j] > _BLACK_FROM else "white"
        share = f"\n{100 * shares[i, j]:.{int(shares[i, j] < 0.0995)}f} %" if len(counts) <= _PERCENTAGES else ""
        ax.text(j, i, f"{count}{share}" if count else "", ha="center", va="center", color=color, fontsize=size)


def _names(names: Sequence[str] | None, classes: int) -> list[str]:
    if names is None:
        return [str(i) for i in range(classes)]
    if len(names) != classes:
        raise ValueError(checks.message("names", f"{len(names)} names", f"{classes}", "name each class once"))
    return list(names)


def _worst(p: Array, y: Array, count: int) -> Array:
    """Return the indices of at most ``count`` mistakes, by increasing probability of the true class."""
    mistakes = np.flatnonzero(p.argmax(axis=0) != y)
    return mistakes[np.argsort(p[y[mistakes], mistakes], kind="stable")[:count]]


def _picture(ax: Axes, pixels: Array, title: str, **colors: Any) -> None:
    ax.imshow(pixels, **(colors or {"cmap": "gray_r"}))
    ax.set_title(title, fontsize=8)
    ax.set(xticks=[], yticks=[])
