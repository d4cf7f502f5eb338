"""New figures that show themselves in a notebook, the caller's axes, and the scales of axes.

A new figure belongs to no window and to no global state of matplotlib, which is imported only when a picture is drawn.
"""

from __future__ import annotations

import functools
import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from fastmlp import checks

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Axes: TypeAlias = Any  # matplotlib.axes.Axes
Figure: TypeAlias = Any  # matplotlib.figure.Figure

_CHARACTERS = 14  # of a title in an inch

BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"  # M. Okabe, K. Ito, "Color Universal Design", 2008


def require() -> None:
    """Raise ImportError if matplotlib, which draws all pictures, is not installed.

    Examples
    --------
    >>> from fastmlp import plots
    >>> plots.require()
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise checks.extra("pictures are drawn by matplotlib", error) from error


def grid(given: Sequence[Axes] | Array | None, count: int, *, columns: int, size: tuple[float, float]) -> Array:
    """Return ``count`` axes: those given, or the cells of a new figure, each of this size in inches."""
    require()
    cells = _subplots(math.ceil(count / columns), columns, size) if given is None else np.asarray(given, object).ravel()
    if len(cells) < count:
        raise ValueError(checks.message("axes", f"{len(cells)} axes", f"{count} or more", "make more subplots"))
    for ax in cells[count:]:
        if given is None:
            ax.remove()
        else:
            ax.axis("off")
    return cells[:count]


def new(cells: Array, given: object) -> Figure | None:
    """Return the figure of the cells if it is a new one, made to show itself in a notebook; else None."""
    if given is not None:
        return None
    figure = cells[0].figure
    # IPython can show a figure only once pyplot is set up to draw into the notebook. It asks all other objects for this
    # method.
    figure._repr_png_ = functools.partial(_png, figure)
    return figure


def use_whole_numbers(axis: Any) -> None:
    """Put the ticks of an axis at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))


def use_logarithms(ax: Axes) -> None:
    """Make the vertical scale logarithmic, with plain numbers at its ticks."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def use_percent(axis: Any) -> None:
    """Write the values of an axis, shares of 1, in percent."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(_percent))


def add_title(figure: Figure, text: str) -> None:
    """Add a line above the title of a figure, or several if it is wider than the figure."""
    own = figure.get_suptitle()
    text = textwrap.fill(text, math.floor(figure.get_size_inches()[0] * _CHARACTERS), break_on_hyphens=False)
    figure.suptitle(f"{text}\n{own}" if own else text, fontsize=9)


def image_shape(shape: tuple[int, int] | None, width: int) -> tuple[int, int]:
    """Return the rows and columns of an image of ``width`` values: those given, or of a square."""
    side = math.isqrt(width)
    rows, columns = (side, side) if shape is None else shape
    if rows * columns != width:
        got = f"{rows} x {columns} for inputs of {width} values"
        raise ValueError(
            checks.message("shape", got, "rows x columns with as many values", "pass shape=(rows, columns)")
        )
    return rows, columns


def _subplots(rows: int, columns: int, size: tuple[float, float]) -> Array:
    """Return the axes of a new figure, row by row; the figure has room for titles and a colour bar at least."""
    from matplotlib.figure import Figure

    inches = max(columns * size[0], 3.5), max(rows * size[1], 2.5)
    cells: Array = Figure(inches, layout="constrained").subplots(rows, columns, squeeze=False).ravel()
    return cells


def _percent(share: float, _: int) -> str:
    return f"{round(100 * share, 6):g} %"


def _png(figure: Figure) -> tuple[bytes, dict[str, int]]:
    """Return a figure as PNG with twice the pixels it is shown with, for high-resolution screens."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=2 * figure.dpi)
    width, height = (round(float(pixels)) for pixels in figure.get_size_inches() * figure.dpi)
    return image.getvalue(), {"width": width, "height": height}
