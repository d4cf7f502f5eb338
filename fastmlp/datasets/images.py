"""Pictures of a digit or the like, made into what a net was trained on: light ink on black, cropped, resized, centred.

MNIST was made so: each digit scaled, its aspect kept, into a box of 20x20 pixels, and put into 28x28 with its centre of
mass in the middle (Y. LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998); in its files that
is within half a pixel of 14.5, where the first pixel lies from 0 to 1. Half a pixel matters to a net: with 14 as the
middle, a net that is right on 91 % of test images was on 85 % of pictures of them, with 14.5 on 94 %. So `framing`
measures side, box and middle of any set of square images, and `read` follows them.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fastmlp import checks
from fastmlp.datasets import bounded, decoding
from fastmlp.quiet import quietly

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")  #: Taken in a folder.

_FAINTEST = 16  # levels of 255 that ink must differ from paper by
_SAMPLED = 2000  # images that are measured


class Framing(NamedTuple):
    """How the images of a set lie in their square.

    Attributes
    ----------
    side : int
        Rows and columns of an image.
    box : int
        Longer side, in pixels, of the rectangle around the ink.
    by_mass : bool
        Whether the centre of mass, and not that of the rectangle, is put in the middle.
    middle : float
        Where that is, in rows and columns; the first pixel lies from 0 to 1.
    """

    side: int
    box: int
    by_mass: bool
    middle: float


MNIST = Framing(28, 20, True, 14.5)  #: What `framing` finds in MNIST.


class Pictures(NamedTuple):
    """Pictures as a net takes them.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (m, side, side)
        Ink is light, up to 255, and what lies around it 0.
    sentences : tuple of str
        What was done to each.
    """

    pixels: Array
    sentences: tuple[str, ...]


def framing(images: ArrayLike) -> Framing:
    """Measure how images lie in their square.

    Parameters
    ----------
    images : array_like, shape (m, side, side)
        Their lowest value is where there is no ink. At most 2000 of them, evenly chosen, are looked at.

    Returns
    -------
    Framing
        Side, median box, whichever centre varies less, and its median to half a pixel.

    Raises
    ------
    ValueError
        If they are not square, or there is none.
    TypeError
        If they do not hold real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.datasets import images
    >>> x = np.zeros((1, 8, 8))
    >>> x[0, 1:7, 3:5] = 1
    >>> images.framing(x)
    Framing(side=8, box=6, by_mass=True, middle=4.0)
    """
    x = checks.array("images", images, shape=(None, None, None), axes="(m, side, side)")
    side = x.shape[1]
    if x.shape[2] != side:
        raise ValueError(checks.message("images", f"shape {x.shape}", "squares (m, side, side)", "reshape them"))
    ink = x[:: -(-len(x) // _SAMPLED)].astype(np.float64)
    ink -= ink.min()
    ink = ink[ink.any(axis=(1, 2))]
    if not len(ink):
        return Framing(side, side, False, side / 2)
    boxes, masses = (np.array([measure(one) for one in ink]) for measure in (_box, _centre_of_mass))
    outlines = boxes.mean(axis=2)
    by_mass = bool(np.mean(_scatter(masses)) <= np.mean(_scatter(outlines)))
    return Framing(
        side,
        box=int(np.median((boxes[:, :, 1] - boxes[:, :, 0]).max(axis=1))),
        by_mass=by_mass,
        middle=round(2 * float(np.median(masses if by_mass else outlines))) / 2,
    )


def find(path: str | Path) -> list[Path]:
    """Return the picture, or those of a folder in the order of their names.

    Parameters
    ----------
    path : str or Path
        A file, whatever its name, or a folder; in that, files whose names end as pictures' do are taken.

    Returns
    -------
    list of Path
        At least one.

    Raises
    ------
    ValueError
        If the folder holds no picture.
    OSError
        If there is no such file or folder, or it cannot be read.

    Examples
    --------
    >>> from fastmlp.datasets import images
    >>> images.find(".")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: .: got a folder without a picture, expected files named ...
    """
    path = Path(path)
    bounded.status(path)
    if not path.is_dir():
        return [path]
    found = sorted(one for one in path.iterdir() if one.suffix.lower() in SUFFIXES and one.name[0] != ".")
    if not found:
        expected = f"files named {' '.join('*' + suffix for suffix in SUFFIXES)}"
        raise ValueError(checks.message(bounded.shown(path), "a folder without a picture", expected, "put some there"))
    return found


def read(paths: Iterable[str | Path], frame: Framing = MNIST) -> Pictures:
    """Read pictures, and make them into what a net was trained on.

    An image that already has the right size is taken as it is, and only inverted if its border is light. Any other is
    turned as its EXIF data says, put on plain paper where it is transparent, made grey, inverted if it is dark on
    light, cropped to the ink, resized with its aspect kept, and centred. Files are taken as hostile until proven.

    Parameters
    ----------
    paths : iterable of str or Path
        The files: BMP, GIF, JPEG, PNG, PPM, TIFF or WebP, up to 67 million pixels.
    frame : Framing
        What to make of them.

    Returns
    -------
    Pictures
        uint8 (m, side, side), and for each what was done.

    Raises
    ------
    ValueError
        If a file is damaged, too large or no picture, or shows nothing; the message names it.
    OSError
        If there is no such file, or it cannot be read.
    ImportError
        If Pillow is not installed; it comes with the extra ``cli``.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from PIL import Image
    >>> from fastmlp.datasets import images
    >>> page = np.full((100, 80), 255, np.uint8)
    >>> page[20:80, 30:40] = 0
    >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
    ...     Image.fromarray(page).save(file.name)
    ...     pixels, sentences = images.read([file.name])
    >>> pixels.shape, sentences[0]
    ((1, 28, 28), '80x100, dark on light: inverted, cropped to 10x60, resized to 3x20, centred by mass in 28x28')
    """
    made = [_framed(Path(path), frame) for path in paths]
    return Pictures(np.stack([pixels for pixels, _ in made]), tuple(sentence for _, sentence in made))


def _framed(path: Path, frame: Framing) -> tuple[Array, str]:
    """Return pixels (side, side) and a sentence."""
    grey, steps = decoding.grey(path)
    if grey.shape == (frame.side, frame.side):
        light = np.median(_border(grey)) > 127
        steps.append("its border is light: inverted" if light else "taken as it is")
        return 255 - grey if light else grey, ", ".join(steps)
    ink, polarity = _ink(path, grey)
    (top, bottom), (left, right) = _box(ink > _otsu(ink))
    cropped = ink[top:bottom, left:right]
    small = _resized(cropped, frame.box / max(cropped.shape))
    centring = "by mass" if frame.by_mass else "by its outline"
    steps += [
        polarity,
        f"cropped to {_size(cropped)}",
        f"resized to {_size(small)}",
        f"centred {centring} in {frame.side}x{frame.side}",
    ]
    return _centred(small, frame), ", ".join(steps)


def _ink(path: Path, grey: Array) -> tuple[Array, str]:
    """Return how much each pixel differs from the paper, towards the ink, as float64 from 0 to 255."""
    border = _border(grey).astype(np.float64)
    paper = np.median(border)
    dark = paper - grey.min() > grey.max() - paper
    ink = (paper - grey) if dark else (grey - paper)
    noise = min(3 * 1.4826 * np.median(np.abs(border - paper)), ink.max() / 2)
    ink = np.clip(ink - noise, 0, None)
    if ink.max() < _FAINTEST:
        got, expected = "a picture that shows nothing", "ink that stands out from its paper"
        raise ValueError(checks.message(bounded.shown(path), got, expected, "take another, with more contrast"))
    return ink * (255 / ink.max()), "dark on light: inverted" if dark else "light on dark"


def _border(grey: Array) -> Array:
    return np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])


def _otsu(ink: Array) -> float:
    """Return the level that parts ink from paper: the one with the largest variance between the two (N. Otsu, 1979)."""
    counts, edges = np.histogram(ink, bins=256, range=(0, 256))
    weight = np.cumsum(counts)
    mass = np.cumsum(counts * edges[:-1])
    below, above = weight[:-1], weight[-1] - weight[:-1]
    between = quietly(np.divide, (mass[-1] * below - mass[:-1] * weight[-1]) ** 2, below * above.astype(np.float64))
    return float(np.nanargmax(between)) + 0.5


def _box(ink: Array) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return first and one past last row, and column, that have ink."""
    rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    return (int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)


def _centre_of_mass(ink: Array) -> tuple[float, float]:
    """Return row and column; the centre of the first pixel is at 0.5."""
    rows, columns = ink.sum(axis=1), ink.sum(axis=0)
    total = rows.sum()
    return (
        float(rows @ (np.arange(rows.size) + 0.5) / total),
        float(columns @ (np.arange(columns.size) + 0.5) / total),
    )


def _resized(ink: Array, scale: float) -> Array:
    """Return the ink scaled, with the darkest point full again: thin strokes fade when they shrink."""
    import PIL.Image

    rows, columns = (max(1, round(length * scale)) for length in ink.shape)
    small = PIL.Image.fromarray(ink.astype(np.float32)).resize((columns, rows), PIL.Image.Resampling.BICUBIC)
    values = np.clip(np.asarray(small), 0, None)
    full: Array = np.rint(values * (255 / values.max())).astype(np.uint8)
    return full


def _centred(small: Array, frame: Framing) -> Array:
    centre = _centre_of_mass(small.astype(np.float64)) if frame.by_mass else (small.shape[0] / 2, small.shape[1] / 2)
    corner = [
        min(max(0, round(frame.middle - middle)), frame.side - length)
        for middle, length in zip(centre, small.shape, strict=True)
    ]
    square = np.zeros((frame.side, frame.side), np.uint8)
    square[corner[0] : corner[0] + small.shape[0], corner[1] : corner[1] + small.shape[1]] = small
    return square


def _scatter(centres: Array) -> Array:
    """Return how far each of the points (m, 2) is from their median."""
    distances: Array = np.abs(centres - np.median(centres, axis=0)).max(axis=1)
    return distances


def _size(pixels: Array) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
