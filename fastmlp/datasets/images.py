"""Convert pictures of a digit or similar object to the form of the training images: light ink on black, centred.

In MNIST, each digit is scaled into a box of 20x20 pixels, keeping its aspect ratio, and its centre of mass is put in
the middle of 28x28 pixels (Y. LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998). In its
files the centre is within half a pixel of 14.5, if the first pixel covers 0 to 1. Half a pixel has a large effect on
the accuracy of a net, so `framing` measures side, box and middle of any set of square images, and `read` uses them.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fastmlp import checks
from fastmlp.datasets import bounded, decoding
from fastmlp.quiet import quietly

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")  #: Read from folders.

_FAINTEST = 16  # smallest difference between ink and paper, in grey levels of 255
_SAMPLED = 2000  # largest number of images to measure
# Of 1500 enlarged digits of MNIST, 0.3 % count as several shapes; of pairs with a gap of a seventh of their height all
# do, and with half that gap 82 %.
_JOINED = 1 / 3  # strokes whose distance, in widths of a stroke, is up to twice this are one shape
_SPECK = 0.2  # share of the largest shape's ink, below which a shape is none
_SHORT = 1 / 3  # likewise of the longest shape's length


class Framing(NamedTuple):
    """The size and position of the ink in the images of a set.

    Attributes
    ----------
    side : int
        Number of rows and of columns of an image.
    box : int
        Longer side, in pixels, of the rectangle around the ink.
    by_mass : bool
        Whether the centre of mass is put in the middle, instead of the centre of the rectangle.
    middle : float
        The row and the column of the middle; the first pixel covers 0 to 1.
    """

    side: int
    box: int
    by_mass: bool
    middle: float


MNIST = Framing(28, 20, True, 14.5)  #: The result of `framing` for MNIST.


class Pictures(NamedTuple):
    """Pictures in the form of the training images.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (m, side, side)
        Ink is light, up to 255, and the background is 0.
    sentences : tuple of str
        The steps that were taken for each picture.
    shapes : tuple of int
        How many separate shapes each picture shows; more than 1 are cropped and resized together, as one.
    """

    pixels: Array
    sentences: tuple[str, ...]
    shapes: tuple[int, ...]


def framing(images: ArrayLike) -> Framing:
    """Measure the size and position of the ink in images.

    Parameters
    ----------
    images : array_like, shape (m, side, side)
        The images; their lowest value is the background. At most 2000 of them, evenly spaced, are measured.

    Returns
    -------
    Framing
        The side, the median box, the kind of centre that varies less, and its median, rounded to half a pixel.

    Raises
    ------
    ValueError
        If the images are not square, or the array is empty.
    TypeError
        If the array does not hold real numbers.

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
        got, expected = f"shape {x.shape}", "square images (m, side, side)"
        raise ValueError(checks.message("images", got, expected, "reshape them"))
    ink = x[:: -(-len(x) // _SAMPLED)].astype(np.float64)
    ink -= ink.min()
    ink = ink[ink.any(axis=(1, 2))]
    if not len(ink):
        return Framing(side, side, False, side / 2)
    boxes, masses = (np.array([measure(image) for image in ink]) for measure in (_box, _centre_of_mass))
    outlines = boxes.mean(axis=2)
    by_mass = bool(np.mean(_scatter(masses)) <= np.mean(_scatter(outlines)))
    return Framing(
        side,
        box=int(np.median((boxes[:, :, 1] - boxes[:, :, 0]).max(axis=1))),
        by_mass=by_mass,
        middle=round(2 * float(np.median(masses if by_mass else outlines))) / 2,
    )


def find(path: str | Path) -> list[Path]:
    """Return the path of a picture, or the sorted paths of all pictures in a folder and in its folders.

    Parameters
    ----------
    path : str or Path
        A file with any name, or a folder, in which files with the suffix of a picture are found, also in folders of
        it. Hidden ones are left out, and links to folders are not followed.

    Returns
    -------
    list of Path
        At least one path.

    Raises
    ------
    ValueError
        If the folder contains no pictures.
    OSError
        If the file or folder does not exist or cannot be read.

    Examples
    --------
    >>> from fastmlp.datasets import images
    >>> images.find("fastmlp")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: fastmlp: got a folder without pictures, expected files named ...
    """
    path = Path(path)
    bounded.status(path)
    if not path.is_dir():
        return [path]
    found = sorted(_pictures(path))
    if not found:
        expected = f"files named {' '.join('*' + suffix for suffix in SUFFIXES)}"
        raise ValueError(checks.message(bounded.shown(path), "a folder without pictures", expected, "add pictures"))
    return found


def _pictures(folder: Path) -> Iterator[Path]:
    for one in folder.iterdir():
        if one.name[0] == ".":
            continue
        if one.is_dir():
            if not one.is_symlink():  # which may lead back to a folder above
                yield from _pictures(one)
        elif one.suffix.lower() in SUFFIXES:
            yield one


def read(paths: Iterable[str | Path], frame: Framing = MNIST) -> Pictures:
    """Read pictures and convert them to the form of the training images.

    A picture that already has the right size is used unchanged, or inverted if its border is light. Any other picture
    is rotated according to its EXIF data, put on plain paper if it is transparent, converted to grey, inverted if it is
    dark on light, cropped to the ink, resized with its aspect ratio kept, and centred. Files are not trusted.

    Parameters
    ----------
    paths : iterable of str or Path
        The files: BMP, GIF, JPEG, PNG, PPM, TIFF or WebP, up to 67 million pixels.
    frame : Framing
        The size and position of the ink to produce.

    Returns
    -------
    Pictures
        uint8 (m, side, side), and for each picture the steps that were taken and the number of separate shapes.

    Raises
    ------
    ValueError
        If a file is damaged, too large, not a picture, or blank; the message names it.
    OSError
        If a file does not exist or cannot be read.
    ImportError
        If Pillow or SciPy is not installed; both come with the extra ``cli``.

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
    ...     pixels, sentences, shapes = images.read([file.name])
    >>> pixels.shape, sentences[0], shapes
    ((1, 28, 28), '80x100, dark on light: inverted, cropped to 10x60, resized to 3x20, centred by mass in 28x28', (1,))
    """
    pixels, sentences, shapes = zip(*(_framed(Path(path), frame) for path in paths), strict=True)
    return Pictures(np.stack(pixels), sentences, shapes)


def _framed(path: Path, frame: Framing) -> tuple[Array, str, int]:
    """Return the pixels (side, side) of a picture, the steps as a sentence, and the number of shapes."""
    grey, steps = decoding.grey(path)
    if grey.shape == (frame.side, frame.side):
        light = np.median(_border(grey)) > 127
        steps.append("light border: inverted" if light else "used unchanged")
        return 255 - grey if light else grey, ", ".join(steps), 1
    ink, polarity = _ink(path, grey)
    inked = ink > _otsu(ink)
    (top, bottom), (left, right) = _box(inked)
    cropped = ink[top:bottom, left:right]
    small = _resized(cropped, frame.box / max(cropped.shape))
    centring = "by mass" if frame.by_mass else "by its outline"
    steps += [
        polarity,
        f"cropped to {_size(cropped)}",
        f"resized to {_size(small)}",
        f"centred {centring} in {frame.side}x{frame.side}",
    ]
    return _centred(small, frame), ", ".join(steps), _shapes(inked[top:bottom, left:right])


def _ink(path: Path, grey: Array) -> tuple[Array, str]:
    """Return the difference of each pixel from the paper, as float64 from 0 to 255, and the polarity in words."""
    border = _border(grey).astype(np.float64)
    paper = np.median(border)
    dark = paper - grey.min() > grey.max() - paper
    ink = (paper - grey) if dark else (grey - paper)
    noise = min(3 * 1.4826 * np.median(np.abs(border - paper)), ink.max() / 2)
    ink = np.clip(ink - noise, 0, None)
    if ink.max() < _FAINTEST:
        got, expected = "a blank picture", "ink that contrasts with the paper"
        raise ValueError(checks.message(bounded.shown(path), got, expected, "use a picture with more contrast"))
    return ink * (255 / ink.max()), "dark on light: inverted" if dark else "light on dark"


def _border(grey: Array) -> Array:
    return np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])


def _otsu(ink: Array) -> float:
    """Return the threshold with the largest variance between ink and paper (N. Otsu, 1979)."""
    counts, edges = np.histogram(ink, bins=256, range=(0, 256))
    weight = np.cumsum(counts)
    mass = np.cumsum(counts * edges[:-1])
    below, above = weight[:-1], weight[-1] - weight[:-1]
    between = quietly(np.divide, (mass[-1] * below - mass[:-1] * weight[-1]) ** 2, below * above.astype(np.float64))
    return float(np.nanargmax(between)) + 0.5


def _shapes(ink: Array) -> int:
    """Return the number of separate shapes in a picture of ink (rows, columns), without specks.

    The strokes of a digit, such as the upper one of a 5, may be close to each other and count as one shape.
    """
    try:
        from scipy import ndimage
    except ImportError as error:
        raise checks.extra("shapes in pictures are counted by SciPy", error) from error
    # The mean distance of ink from paper is a quarter of the width of a stroke.
    stroke = 4 * ndimage.distance_transform_edt(np.pad(ink, 1))[1:-1, 1:-1][ink].mean()
    labels, count = ndimage.label(ndimage.distance_transform_edt(~ink) <= _JOINED * stroke, np.ones((3, 3)))
    labels[~ink] = 0
    amount = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    length = np.array([max(part.stop - part.start for part in parts) for parts in ndimage.find_objects(labels)])
    return int(np.sum((amount >= _SPECK * amount.max()) & (length >= _SHORT * length.max())))


def _box(ink: Array) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the ranges (first, one past last) of the rows and of the columns that contain ink."""
    rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    return (int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)


def _centre_of_mass(ink: Array) -> tuple[float, float]:
    """Return the row and the column of the centre of mass; the centre of the first pixel is at 0.5."""
    rows, columns = ink.sum(axis=1), ink.sum(axis=0)
    total = rows.sum()
    return (
        float(rows @ (np.arange(rows.size) + 0.5) / total),
        float(columns @ (np.arange(columns.size) + 0.5) / total),
    )


def _resized(ink: Array, scale: float) -> Array:
    """Return the ink resized and brightened to a maximum of 255, because thin strokes fade when they shrink."""
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
    """Return the distance of each of the points (m, 2) from their median, as a maximum norm."""
    distances: Array = np.abs(centres - np.median(centres, axis=0)).max(axis=1)
    return distances


def _size(pixels: Array) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
