"""IDX, the format of MNIST: single files of unsigned bytes, and folders of a data set."""

import hashlib
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from fastmlp import checks
from fastmlp.datasets import bounded

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_UNSIGNED_BYTES = b"\x00\x00\x08"  # the magic: two zeros, then the code of uint8
_LONGEST_HEADER = 4 + 4 * 255
# Names as in MNIST and EMNIST, also with a dot: emnist-letters-test-images-idx3-ubyte, train-images.idx3-ubyte
_IDX_NAME = re.compile(r"(?P<part>train|t10k|test)[-_.]?(?P<kind>images|labels)[-_.]idx\d[-_.]ubyte(\.gz)?$")
_IDX_NAMES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


def read(path: str | Path, sha256: str | None = None) -> Array:
    """Read one IDX file of unsigned bytes.

    Parameters
    ----------
    path : str or Path
        The file; it is decompressed if it begins with gzip's magic bytes, whatever its name.
    sha256 : str, optional
        The required digest of the decompressed content.

    Returns
    -------
    ndarray of uint8
        The array, with the shape in the file's header, which is checked against the length of the content.

    Raises
    ------
    ValueError
        If the file is damaged, or is not an IDX file of unsigned bytes.
    OSError
        If the file does not exist or cannot be read.
    """
    content = bounded.source(Path(path))
    start, shape = _header(content)
    data = bounded.exactly(content, start, math.prod(shape))
    if sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise ValueError(checks.message(content.name, f"content with sha256 {found}", sha256, bounded.SAVE_AGAIN))
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def mapped(path: str | Path) -> Array:
    """Map one IDX file of unsigned bytes, which need not fit into memory; a compressed file is read as by `read`.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    ndarray of uint8
        The array, of the shape in the file's header.

    Raises
    ------
    ValueError
        If the file is damaged, or is not an IDX file of unsigned bytes.
    OSError
        If the file does not exist or cannot be read.
    """
    if bounded.is_compressed(Path(path)):
        return read(path)
    content = bounded.source(Path(path))
    start, shape = _header(content)
    if content.size != start + math.prod(shape):
        got, expected = f"{content.size - start} bytes after the header", f"{math.prod(shape)}, as its header says"
        raise ValueError(checks.message(content.name, got, expected, bounded.SAVE_AGAIN))
    return np.memmap(path, np.uint8, "r", start, shape)


def _header(content: bounded.Source) -> tuple[int, tuple[int, ...]]:
    """Return the length of the header of an IDX file and the shape in it."""
    beginning = bounded.head(content, _LONGEST_HEADER)
    bounded.refuse_page(content.name, beginning)
    start = 4 + 4 * beginning[3] if len(beginning) > 3 else 4
    if beginning[:3] != _UNSIGNED_BYTES or len(beginning) < start:
        got = f"a file that begins with {beginning[:4].hex()}" if beginning else "an empty file"
        raise ValueError(checks.message(content.name, got, "an IDX file of unsigned bytes", bounded.SAVE_AGAIN))
    shape = tuple(int.from_bytes(beginning[at : at + 4], "big") for at in range(4, start, 4))
    bounded.check_shape(content.name, shape)
    return start, shape


def is_idx(path: str | Path) -> bool:
    """Return whether the content of a file, decompressed if need be, begins like IDX of unsigned bytes.

    Parameters
    ----------
    path : str or Path
        The file.

    Raises
    ------
    ValueError
        If the file cannot be decompressed.
    OSError
        If the file does not exist or cannot be read.
    """
    return bounded.head(bounded.source(Path(path)), len(_UNSIGNED_BYTES)) == _UNSIGNED_BYTES


def read_folder(folder: Path, read: Callable[[Path], Array] = read) -> dict[str, Array]:
    """Return the arrays of a folder by their names in Keras; ``read`` reads a file."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        got = (error.strerror or str(error)).lower()
        expected = "a readable folder"
        raise type(error)(checks.message(bounded.shown(folder), got, expected, "check its permissions")) from error
    found: dict[str, str] = {}
    for match in filter(None, map(_IDX_NAME.search, names)):
        key = f"{'x' if match['kind'] == 'images' else 'y'}_{'train' if match['part'] == 'train' else 'test'}"
        taken = found.setdefault(key, match.string)  # if both exist, the plain file, which sorts first
        if match.string not in (taken, f"{taken}.gz"):
            got = f"both {taken} and {match.string}"
            raise ValueError(
                checks.message(bounded.shown(folder), bounded.brief(got), "one file", "remove one of them")
            )
    missing = [name for key, name in _IDX_NAMES.items() if key in ("x_train", "y_train") and key not in found]
    if missing:
        got = f"only {', '.join(found.values())}" if found else f"{len(names)} files, none with the name of an IDX file"
        wanted = " and ".join(missing) if found else ", ".join(_IDX_NAMES.values())
        expected = f"{wanted}, plain or .gz"
        raise FileNotFoundError(checks.message(bounded.shown(folder), bounded.brief(got), expected, "put them there"))
    return {key: read(folder / name) for key, name in found.items()}
