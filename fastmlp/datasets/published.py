"""Published data sets of four IDX files, read from `FASTMLP_DATA` or the cache folder, or downloaded once."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import checks
from fastmlp.datasets import bounded, download, idx

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_LABELS = 2**20  # largest number of bytes to read of the test labels, which have 10 kB


class File(NamedTuple):
    """One file of a published set."""

    name: str  #: Without ``.gz``.
    shape: tuple[int, ...]  #: Shape of its array.
    md5: str  #: Digest of the ``.gz`` file, given by the publisher.
    sha256: str | None  #: Digest of the decompressed content, if known.


class Published(NamedTuple):
    """A set of images and labels of ten classes."""

    name: str  #: Also the name of its folder, under ``FASTMLP_DATA`` and in the cache.
    files: tuple[File, File, File, File]  #: Training images, training labels, test images, test labels.
    mirrors: tuple[str, ...]  #: Addresses, each ending in a slash, tried in turn.


def load(published: Published) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Load a published set.

    If the folder ``FASTMLP_DATA`` has a subfolder with the name of the set, all four files must be in it. The variable
    may also name the folder of the files itself, if this has the set's name or contains the set's test labels.
    Otherwise the files are read from the cache: the folder ``FASTMLP_CACHE``, or by default the user's cache folder.
    Files that are missing or damaged in the cache are downloaded.

    Parameters
    ----------
    published : Published
        Names, shapes, digests and addresses.

    Returns
    -------
    (x_train, y_train), (x_test, y_test) : tuple of tuples of ndarray
        Images uint8 (m, rows, columns) and labels uint8 (m,).

    Raises
    ------
    FileNotFoundError
        If a file is missing and cannot be downloaded; the message says where to put the files.
    ValueError
        If a file under ``FASTMLP_DATA`` is damaged, or differs from the published file.
    ImportError
        If files are missing and pooch, which downloads them, is not installed; it comes with the extra ``cli``.
    """
    folder = _local_folder(published)
    x_train, y_train, x_test, y_test = _cached(published) if folder is None else _local(published, folder)
    return (x_train, y_train), (x_test, y_test)


def _local_folder(published: Published) -> Path | None:
    """Return the folder of a set, which is ``FASTMLP_DATA`` or a subfolder of it; None if there is none."""
    root = os.environ.get("FASTMLP_DATA")
    if not root:
        return None
    if not os.path.isdir(root):
        got, expected = repr(root), "a folder with subfolders such as mnist"
        raise FileNotFoundError(checks.message("FASTMLP_DATA", got, expected, "create it, or unset this variable"))
    folder = Path(root, published.name)
    if folder.is_dir():
        return folder
    return Path(root) if _is_folder_of(Path(root), published) else None


def _is_folder_of(folder: Path, published: Published) -> bool:
    """Whether a folder holds this set, and not another with files of the same names and shapes."""
    try:
        *_, labels = (_find(folder, file) for file in published.files)
        if folder.resolve().name == published.name:
            return True
        content = bounded.source(labels)
        known = published.files[-1]
        if known.sha256 is not None:
            return _digest(bounded.chunks(content, _LABELS), "sha256") == known.sha256
        with bounded.regular(labels) as file:
            return _digest([file.read(_LABELS)], "md5") == known.md5
    except (OSError, ValueError):
        return False


def _digest(pieces: Iterable[bytes], algorithm: str) -> str:
    found = hashlib.new(algorithm, usedforsecurity=False)
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()


def _local(published: Published, folder: Path) -> list[Array]:
    return [_read(_find(folder, file), file) for file in published.files]


def _cache_folder(published: Published) -> Path:
    root = os.environ.get("FASTMLP_CACHE")
    return Path(root or download.pooch(_wanted(published)).os_cache("fastmlp"), published.name)


def _cached(published: Published) -> list[Array]:
    """Read the files from the cache folder, after downloading those that are missing."""
    folder = _cache_folder(published)
    found = {file.name: _usable(folder, file) for file in published.files}
    missing = {f"{file.name}.gz": file.md5 for file in published.files if found[file.name] is None}
    if missing:
        download.fetch(missing, folder, published.mirrors, _wanted(published))
    return [
        _read(folder / f"{file.name}.gz", file) if (array := found[file.name]) is None else array
        for file in published.files
    ]


def _usable(folder: Path, file: File) -> Array | None:
    """Return the array of a file in the cache, or None if it is missing or damaged and must be downloaded."""
    for path in (folder / file.name, folder / f"{file.name}.gz"):
        try:
            return _read(path, file)
        except (ValueError, OSError):
            continue
    return None


def _find(folder: Path, file: File) -> Path:
    for path in (folder / file.name, folder / f"{file.name}.gz"):
        if path.exists():
            return path
    expected = f"{file.name} or {file.name}.gz"
    raise FileNotFoundError(checks.message(bounded.shown(folder), "no such file", expected, "put it there"))


def _read(path: Path, file: File) -> Array:
    array = idx.read(path, file.sha256)
    if array.shape != file.shape:
        expected = f"{file.shape}, as in the published file"
        raise ValueError(checks.message(bounded.shown(path), f"shape {array.shape}", expected, "download it again"))
    return array


def _wanted(published: Published) -> str:
    """Return a description of the files and of the folder to put them in."""
    names = ", ".join(f"{file.name}[.gz]" for file in published.files)
    root = os.environ.get("FASTMLP_DATA") or "the folder that FASTMLP_DATA names"
    return f"{names} in the folder {published.name} under {root}"
