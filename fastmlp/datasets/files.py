"""Reading data files: IDX, the format of MNIST, plain or gzip-compressed."""

import gzip
import hashlib
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from fastmlp import checks

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_UNSIGNED_BYTES = b"\x00\x00\x08"  # IDX magic: two zeros, then the code of uint8
_SAVE = "save it again from its source"


def load_idx(name: str, digests: Mapping[str, str]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Load the four IDX files of an MNIST-like data set from the folder ``name`` under ``FASTMLP_DATA``.

    Parameters
    ----------
    name : str
        The data set and its folder.
    digests : mapping of str to str
        sha256 of the decompressed content of each file, in the order training images, training labels, test images,
        test labels.

    Returns
    -------
    (x_train, y_train), (x_test, y_test) : tuple of tuples of ndarray
        Images uint8 (m, rows, columns) and labels uint8 (m,).

    Raises
    ------
    FileNotFoundError
        If ``FASTMLP_DATA`` is not set or a file is missing.
    ValueError
        If a file's content is not what the digest says, or is not IDX.
    """
    root = os.environ.get("FASTMLP_DATA")
    wanted = ", ".join(f"{file}[.gz]" for file in digests)
    if not root:
        got, expected = "no folder", f"a folder that holds {name}/ with {wanted}"
        raise FileNotFoundError(checks.message("FASTMLP_DATA", got, expected, "set this environment variable"))
    x_train, y_train, x_test, y_test = (
        read_idx(_find(Path(root) / name, file), sha256) for file, sha256 in digests.items()
    )
    return (x_train, y_train), (x_test, y_test)


def read_idx(path: Path, sha256: str | None = None) -> Array:
    """Read one IDX file of unsigned bytes.

    Parameters
    ----------
    path : Path
        The file; a name that ends in ``.gz`` is decompressed.
    sha256 : str, optional
        Digest that the decompressed content must have.

    Returns
    -------
    ndarray of uint8
        Of the shape that the file's header gives, which is checked against the bytes that are there.

    Raises
    ------
    ValueError
        If the file is damaged, or is not IDX of unsigned bytes.
    """
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(checks.message(str(path), f"damaged gzip ({error})", "a gzip file", _SAVE)) from error
    if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(checks.message(str(path), f"content with sha256 {found}", sha256, _SAVE))
    header = 4 + 4 * content[3] if len(content) > 3 else 4
    if content[:3] != _UNSIGNED_BYTES or header == 4 or len(content) < header:
        raise ValueError(checks.message(str(path), f"a file that begins {content[:4].hex()}", "IDX of bytes", _SAVE))
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4))
    if len(content) - header != math.prod(shape):
        got = f"{len(content) - header} bytes"
        raise ValueError(checks.message(str(path), got, f"{math.prod(shape)} for shape {shape}", _SAVE))
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _find(folder: Path, file: str) -> Path:
    for path in (folder / file, folder / f"{file}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(checks.message(str(folder), "no such file there", f"{file} or {file}.gz", "put it there"))
