"""Published sets of four IDX files, from `FASTMLP_DATA`, from the cache folder, or downloaded into it once."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import checks
from fastmlp.datasets import bounded, download, files

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_LABELS = 2**20  # bytes that are read of test labels; they have 10 kB


class File(NamedTuple):
    """One file of a published set."""

    name: str  #: Without ``.gz``.
    shape: tuple[int, ...]  #: Of the array in it.
    md5: str  #: Of the published ``.gz``, as its publisher gives it.
    sha256: str | None  #: Of the decompressed content, where it is known.


class Published(NamedTuple):
    """A set of images and labels of ten classes."""

    name: str  #: Also that of its folder, under ``FASTMLP_DATA`` and in the cache.
    files: tuple[File, File, File, File]  #: Training images, training labels, test images, test labels.
    mirrors: tuple[str, ...]  #: Addresses, each ending in a slash, asked in turn.


def load(published: Published) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Load a published set.

    If the folder that ``FASTMLP_DATA`` names holds one with the name of the set, all four files must be in there. The
    variable may also name the folder of the files itself, if that has the set's name or the set's test labels in it.
    Otherwise they come from the cache folder: the one that ``FASTMLP_CACHE`` names, or the system's for this user.
    What is missing or damaged there is downloaded.

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
        If a file is missing, and cannot be downloaded; the message says what to put where.
    ValueError
        If a file under ``FASTMLP_DATA`` is damaged, or is not the one that was published.
    ImportError
        If files are missing and pooch, which downloads them, is not installed; it comes with the extra ``cli``.
    """
    folder = _local_folder(published)
    x_train, y_train, x_test, y_test = _cached(published) if folder is None else _local(published, folder)
    return (x_train, y_train), (x_test, y_test)


def _local_folder(published: Published) -> Path | None:
    """Return the folder of a set, under ``FASTMLP_DATA`` or that itself, if it is there."""
    root = os.environ.get("FASTMLP_DATA")
    if not root:
        return None
    if not os.path.isdir(root):
        got, expected = repr(root), "a folder that holds folders such as mnist"
        raise FileNotFoundError(checks.message("FASTMLP_DATA", got, expected, "create it, or unset this variable"))
    folder = Path(root, published.name)
    if folder.is_dir():
        return folder
    return Path(root) if _is_folder_of(Path(root), published) else None


def _is_folder_of(folder: Path, published: Published) -> bool:
    """Whether a folder holds the files of this set: those of MNIST and Fashion-MNIST have the same names and shapes."""
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
    """Read what is in the cache folder, and download the rest into it."""
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
    """Return a file of the cache; None if it is not there, or not whole: the cache is ours to repair."""
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
    raise FileNotFoundError(checks.message(bounded.shown(folder), "no such file there", expected, "put it there"))


def _read(path: Path, file: File) -> Array:
    array = files.read_idx(path, file.sha256)
    if array.shape != file.shape:
        expected = f"{file.shape}, as in the published file"
        raise ValueError(checks.message(bounded.shown(path), f"shape {array.shape}", expected, "download it again"))
    return array


def _wanted(published: Published) -> str:
    """Say which files may be put where."""
    names = ", ".join(f"{file.name}[.gz]" for file in published.files)
    root = os.environ.get("FASTMLP_DATA") or "the folder that FASTMLP_DATA names"
    return f"{names} in the folder {published.name} under {root}"
