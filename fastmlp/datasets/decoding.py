"""Decode picture files to grey with Pillow; the memory is estimated before any pixel is read, and bounded."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from fastmlp import checks
from fastmlp.datasets import bounded

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Image: TypeAlias = Any  # PIL.Image.Image, which is imported only when a picture is read

PIXELS = 2**26  #: Largest number of pixels (67 million), whatever the size of the file.

# The formats of `images.SUFFIXES`. Other formats of Pillow start programs (EPS) or are not pictures (PDF).
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_MEMORY = 192_000_000  # bytes for decoding: 12 million pixels of WebP, 48 million of PNG in colour
# Bytes of a pixel in Pillow's memory, and copies of all pixels that its decoders make.
_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}  # all other modes: 4
_COPIES = {"TIFF": 2, "WEBP": 4}  # all other formats: 1
_COEFFICIENTS = 6  # bytes per pixel for the coefficients of a progressive JPEG, even if it is decoded smaller
_ENOUGH = 512  # larger pictures are reduced to about this many pixels on the longer side, which also removes specks
_TILE = 512  # about how many pixels a side of the squares has that are converted one by one
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # for each EXIF orientation, Pillow's transposition
_PICTURE = "a picture (" + ", ".join(_FORMATS) + ")"


def grey(path: Path) -> tuple[Array, list[str]]:
    """Return the picture as uint8 (rows, columns), and the steps that were taken."""
    try:
        import PIL.ExifTags
        import PIL.Image
    except ImportError as error:
        raise checks.extra("pictures are read by Pillow", error) from error
    with bounded.regular(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about EXIF data and the like: serious problems raise or are checked below
        try:
            image = PIL.Image.open(file, formats=_FORMATS)
            size, most = image.size, _most_pixels(image)
            if size[0] * size[1] <= most:
                grey, steps = _flat(*_upright(image))
        except PIL.UnidentifiedImageError as error:
            got = "a file of another kind"
            raise ValueError(checks.message(bounded.shown(path), got, _PICTURE, "name a picture")) from error
        except PIL.Image.DecompressionBombError as error:
            raise _too_large(path, "far more pixels", PIXELS) from error
        # On forged content, Pillow's decoders raise almost any class: struct.error, SyntaxError, KeyError, ...
        except Exception as error:
            got = f"a file that cannot be decoded ({bounded.brief(error)})"
            raise ValueError(checks.message(bounded.shown(path), got, _PICTURE, "save it again")) from error
    if size[0] * size[1] > most:
        raise _too_large(path, f"{size[0]}x{size[1]}", most)
    return grey, [f"{size[0]}x{size[1]}", *steps]


def _too_large(path: Path, size: str, most: int) -> ValueError:
    expected = f"at most {most} pixels in a picture of this kind"
    return ValueError(checks.message(bounded.shown(path), f"a picture of {size}", expected, "make it smaller"))


def _most_pixels(image: Image) -> int:
    """Return the largest allowed number of pixels, and set the picture to be decoded as small as its format allows."""
    whole = image.size[0] * image.size[1]
    image.draft(None, (_ENOUGH, _ENOUGH))  # affects JPEG only
    memory = image.size[0] * image.size[1] * _BYTES.get(image.mode, 4) * _COPIES.get(image.format, 1)
    if image.info.get("progressive"):
        memory += whole * _COEFFICIENTS
    return min(PIXELS, int(whole * _MEMORY // max(1, memory)))


def _upright(image: Image) -> tuple[Image, list[str]]:
    """Return the picture upright, reduced and in mode L or LA, and the steps that were taken.

    It is converted in tiles, which avoids a second copy of the whole picture.
    """
    import PIL.Image

    turn = _TURNS.get(image.getexif().get(PIL.ExifTags.Base.Orientation))
    factor = max(1, max(image.size) // _ENOUGH)
    tiles = _tiles(image.size, factor * max(1, _TILE // factor))
    convert = _conversion(image, tiles)
    small = PIL.Image.new(convert(image.crop((0, 0, 1, 1))).mode, [-(-length // factor) for length in image.size])
    for box in tiles:
        tile = convert(image.crop(box))
        small.paste(tile.reduce(factor) if factor > 1 else tile, (box[0] // factor, box[1] // factor))
    if turn is None:
        return small, []
    return small.transpose(PIL.Image.Transpose(turn)), ["rotated as its EXIF data says"]


def _tiles(size: tuple[int, int], side: int) -> list[tuple[int, int, int, int]]:
    """Return left, top, right and bottom of the squares with this side that cover a picture."""
    return [
        (left, top, min(left + side, size[0]), min(top + side, size[1]))
        for top in range(0, size[1], side)
        for left in range(0, size[0], side)
    ]


def _conversion(image: Image, tiles: list[tuple[int, int, int, int]]) -> Callable[[Image], Image]:
    """Return a function that converts a part of the picture to L, or to LA if it may be transparent."""
    if image.mode.startswith("I"):
        deepest = max(int(np.asarray(image.crop(box)).max()) for box in tiles)
        return lambda part: _scaled(part, _white(deepest))
    if image.mode == "F":
        values = [np.asarray(image.crop(box)) for box in tiles]
        if not all(np.isfinite(one).all() for one in values):
            raise ValueError("a pixel that is not a finite number")
        largest = float(max(one.max() for one in values))
        return lambda part: _scaled(part, 1.0 if largest <= 1 else _white(math.ceil(largest)))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return lambda part: part.convert("RGBA").convert("LA")
    return lambda part: part.convert("L")


def _white(deepest: int) -> int:
    """Return the value of white in a picture of integers: the largest of 8, of 12 or of 16 bits."""
    # Scanners and microscopes store 12 bits in files of 16. A dark picture of 16 bits is taken for one of 12, which
    # only brightens it.
    return next((2**bits - 1 for bits in (8, 12) if deepest < 2**bits), 2**16 - 1)


def _scaled(part: Image, white: float) -> Image:
    import PIL.Image

    return PIL.Image.fromarray(np.clip(np.asarray(part) * (255 / white), 0, 255).astype(np.uint8))


def _flat(image: Image, steps: list[str]) -> tuple[Array, list[str]]:
    """Return the picture in grey, uint8 (rows, columns), with transparent parts put on paper, and all steps."""
    grey = np.asarray(image.getchannel(0))
    if image.mode == "L":
        return grey, steps
    alpha = np.asarray(image.getchannel(1)) / 255.0
    if alpha.min() == 1.0:
        return grey, steps
    paper = _paper(grey, alpha)
    flat = np.rint(alpha * grey + (1 - alpha) * paper).astype(np.uint8)
    return flat, [*steps, "put on plain paper"]


def _paper(grey: Array, alpha: Array) -> float:
    """Return a grey level for the paper: a few opaque pixels are ink; if most are opaque, they include the paper."""
    opaque = grey[alpha > 0.5]
    if opaque.size == 0:
        return 0.0
    if alpha.mean() > 0.5:
        return float(np.median(opaque))
    return 255.0 if np.mean(opaque) < 128 else 0.0
