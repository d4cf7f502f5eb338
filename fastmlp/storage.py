"""Model files and checkpoints: safetensors, written so that a kill or a power cut leaves the old file or the new one.

A file holds ``layers.0.weight`` (n_out, n_in), ``layers.0.bias`` (n_out,), ``layers.1.weight``, ... as torch names and
shapes them, and strings that describe them. A checkpoint also holds what a training needs to go on, in tensors whose
names begin with ``training.``. A checksum covers every tensor and every string. Nothing is ever unpickled, and nothing
is allocated before the file has shown that it holds as much as its header claims.
"""

import contextlib
import glob
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from errno import EACCES, EINVAL, ENOENT
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from fastmlp import checks

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
PathName: TypeAlias = str | os.PathLike[str]

_FORMAT = {"format": "fastmlp", "format_version": "1"}
_TRAINING = "training."
_NOTE = "note."
_DTYPES = {"F32": "float32", "F64": "float64"}
_ARCHITECTURE = re.compile("[1-9][0-9]{0,9}(-[1-9][0-9]{0,9})+")
# A layer takes about 150 bytes of it. Bounds the memory that parsing a hostile one can take.
_LARGEST_HEADER = 10_000_000


@dataclass(frozen=True)
class Record:
    """What a file holds.

    Attributes
    ----------
    layer_sizes : tuple of int
        Widths from input to output.
    parameters : ndarray of float32 or float64, shape (k,)
        The flat vector W1, b1, W2, b2, ...
    seed : int or None
        That of the initial weights.
    facts : dict of str to str
        What else is known; of a checkpoint where its training stands and on what data.
    arrays : dict of str to ndarray
        What a training needs to go on, by names without their prefix ``training.``; empty in a model file.
    notes : dict of str to str
        What the user has to say; in the file their names begin with ``note.``.
    """

    layer_sizes: tuple[int, ...]
    parameters: Array
    seed: int | None
    facts: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


def layers(vector: Array, sizes: tuple[int, ...]) -> Iterator[tuple[Array, Array]]:
    """Yield views (n_out, n_in) and (n_out,) of the weights and biases of each layer in the flat ``vector`` (k,)."""
    at = 0
    for n_in, n_out in pairwise(sizes):
        bias = at + n_out * n_in
        yield vector[at:bias].reshape(n_out, n_in), vector[bias : bias + n_out]
        at = bias + n_out


def save(path: PathName, record: Record) -> None:
    """Write a file, atomically and durably.

    Parameters
    ----------
    path : str or path-like
        The file. What a symbolic link points to is replaced, not the link; the permissions of an existing file stay.
    record : Record
        What it shall hold.

    Raises
    ------
    OSError
        If it cannot be written; what stood there is then unchanged, and no temporary file is left.
    ValueError
        If the path is a folder or a device.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from fastmlp import storage
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     storage.save(f"{folder}/a", storage.Record((1, 2), np.arange(4.0), seed=None))
    ...     storage.load(f"{folder}/a").parameters
    array([0., 1., 2., 3.])
    """
    from safetensors.numpy import save as serialize

    tensors = _named(record.parameters, record.layer_sizes)
    tensors |= {_TRAINING + name: np.ascontiguousarray(array) for name, array in record.arrays.items()}
    metadata = {
        **_FORMAT,
        "architecture": "-".join(map(str, record.layer_sizes)),
        "dtype": record.parameters.dtype.name,
        "seed": str(record.seed),
        **record.facts,
        **{_NOTE + name: note for name, note in record.notes.items()},
    }
    metadata["checksum"] = _checksum(tensors, metadata)
    replace(path, serialize(tensors, metadata))


def load(path: PathName) -> Record:
    """Read a file that `save` wrote.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    Record
        What it holds, bit for bit.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is damaged, or is not a file of this kind; the message says how that was seen.
    """
    name = os.fspath(path)
    tensors, metadata = _read(name)
    if metadata.pop("checksum", None) != _checksum(tensors, metadata):
        raise refusal(name, "a file whose checksum does not fit its content")
    sizes, seed = metadata["architecture"], metadata["seed"]
    dtype = metadata["dtype"]
    own = {*_FORMAT, "architecture", "dtype", "seed"}
    flat = [array.ravel() for array in _in_order(tensors)]
    return Record(
        tuple(map(int, sizes.split("-"))),
        np.concatenate(flat, dtype=dtype),
        None if seed == "None" else checks.seed("seed", int(seed)),
        {key: value for key, value in metadata.items() if key not in own and not key.startswith(_NOTE)},
        {key.removeprefix(_TRAINING): value for key, value in tensors.items() if key.startswith(_TRAINING)},
        {key.removeprefix(_NOTE): value for key, value in metadata.items() if key.startswith(_NOTE)},
    )


def refusal(path: PathName, got: str) -> ValueError:
    """Return the error that says why a file cannot be used."""
    expected = "a whole fastmlp model or checkpoint that fits"
    return ValueError(checks.message("path", f"{got}: {os.fspath(path)}", expected, "name another file, or train anew"))


def check_place(path: PathName) -> None:
    """Raise at once what `save` would raise later, for a path that is a folder or in a folder that takes no file."""
    target = Path(os.path.realpath(path))
    _permissions(target)
    if not os.access(target.parent, os.W_OK | os.X_OK):
        missing = not target.parent.exists()
        error = OSError(ENOENT, "no such folder") if missing else OSError(EACCES, "no permission")
        raise _unwritten(error, target, "make the folder, or name another")


def digest(blocks: Iterable[Array]) -> str:
    """Return the SHA-256 of the values of ``blocks``, arrays of any shape, one after the other."""
    sha = hashlib.sha256()
    for block in blocks:
        sha.update(np.ascontiguousarray(block, block.dtype.newbyteorder("<")).data)
    return sha.hexdigest()


def replace(path: PathName, data: bytes) -> None:
    """Make ``data`` the content of the file, so that at any moment the old content or the new one stands there.

    Written and synced beside it under another name, renamed over it, and the folder synced. A process that is killed
    may leave the other name behind: the next call removes it.
    """
    target = Path(os.path.realpath(path))
    try:
        mode = _permissions(target)
        _remove_leftovers(target)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        try:
            _write_new(temporary, data, mode)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise _unwritten(error, target, "what stood there is unchanged: free space, or name another place") from error
    try:
        _sync_folder(target.parent)
    except OSError as error:
        raise _unwritten(error, target, "the new file stands there, but may not outlast a power cut") from error


def _permissions(target: Path) -> int | None:
    """Return the permissions of the file to replace, None if there is none."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        got = f"a folder or a device: {target}"
        raise ValueError(checks.message("path", got, "the name of a file", "add a file name to it"))
    return stat.S_IMODE(mode)


def _write_new(path: Path, data: bytes, mode: int | None) -> None:
    with path.open("xb") as file:  # with the permissions that the umask leaves
        with contextlib.suppress(OSError):  # some network file systems have no locks
            _lock(file)
        file.write(data)
        file.flush()
        if mode is not None:
            path.chmod(mode)
        os.fsync(file.fileno())


def _lock(file: BinaryIO) -> None:
    """Hold an exclusive lock until the file is closed or the process ends; raise OSError if another holds it."""
    if fcntl is None:
        raise OSError("no locks on this system")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary files of processes that were killed: nobody holds their locks."""
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.{'[0-9a-f]' * 8}.tmp"):
        with contextlib.suppress(OSError), leftover.open("rb") as file:
            _lock(file)
            leftover.unlink()


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder outlast a power cut."""
    if os.name == "nt":  # cannot open folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != EINVAL:  # a file system that cannot sync folders
            raise
    finally:
        os.close(descriptor)


def _unwritten(error: OSError, target: Path, state: str) -> OSError:
    got = f"{error.strerror or error} on writing {target}"
    return OSError(error.errno, checks.message("path", got, "a folder that takes the file", state))


def _read(path: str) -> tuple[dict[str, Array], dict[str, str]]:
    """Return tensors, whose names, shapes and dtypes are right, and strings; the checksum is not yet looked at."""
    from safetensors import SafetensorError, safe_open

    _check_extent(path)
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(one.get_shape()) for name, one in slices.items()}
            dtypes = {name: _DTYPES.get(one.get_dtype()) for name, one in slices.items()}
            _check_layout(path, metadata, shapes, dtypes)
            return {name: file.get_tensor(name) for name in slices}, metadata
    except SafetensorError as error:
        raise refusal(path, f"a file that safetensors cannot read ({error})") from None


def _check_extent(path: str) -> None:
    """Check that this is an ordinary file that is as long as its header's length, its first 8 bytes, claims."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise refusal(path, "a folder or a device")
    with open(path, "rb") as file:
        head = file.read(8)
    claimed = int.from_bytes(head, "little")
    if len(head) < 8 or not 2 <= claimed <= min(status.st_size - 8, _LARGEST_HEADER):
        raise refusal(path, f"a file of {status.st_size} bytes that is cut short or of another kind")


def _check_layout(
    path: str, metadata: dict[str, str], shapes: dict[str, tuple[int, ...]], dtypes: dict[str, str | None]
) -> None:
    """Check the strings, and that the tensors are the layers that they describe, before a tensor is read."""
    if metadata.get("format") != _FORMAT["format"]:
        raise refusal(path, "a safetensors file that another program wrote")
    if metadata.get("format_version") != _FORMAT["format_version"]:
        raise refusal(path, f"format version {metadata.get('format_version')!r} where this fastmlp reads version 1")
    architecture, seed = metadata.get("architecture", ""), metadata.get("seed", "")
    found = {name: shape for name, shape in shapes.items() if not name.startswith(_TRAINING)}
    # Counted before it is parsed: what is built from it is no longer than what is there.
    plausible = 2 * architecture.count("-") == len(found) and _ARCHITECTURE.fullmatch(architecture)
    if not plausible or found != _expected_shapes(tuple(map(int, architecture.split("-")))):
        raise refusal(path, f"tensors that are not the layers of the architecture {architecture[:40]!r}")
    if any(dtypes[name] != metadata.get("dtype") for name in found) or None in dtypes.values():
        raise refusal(path, f"tensors of another dtype than the {metadata.get('dtype')!r} it speaks of")
    if not re.fullmatch("None|[0-9]{1,10}", seed) or (seed != "None" and int(seed) >= 2**32):
        raise refusal(path, f"the seed {seed[:40]!r}")


def _expected_shapes(sizes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        shapes[f"layers.{i}.weight"], shapes[f"layers.{i}.bias"] = (n_out, n_in), (n_out,)
    return shapes


def _named(vector: Array, sizes: tuple[int, ...]) -> dict[str, Array]:
    """Return the views of `layers` by their names in the file, in the order of the vector."""
    views = [view for layer in layers(vector, sizes) for view in layer]
    return dict(zip(_expected_shapes(sizes), views, strict=True))


def _in_order(tensors: dict[str, Array]) -> Iterator[Array]:
    """Yield the tensors of the layers in the order of the flat vector."""
    i = 0
    while f"layers.{i}.weight" in tensors:
        yield tensors[f"layers.{i}.weight"]
        yield tensors[f"layers.{i}.bias"]
        i += 1


def _checksum(tensors: dict[str, Array], metadata: dict[str, str]) -> str:
    names = sorted(tensors)
    described = [(name, tensors[name].dtype.name, tensors[name].shape) for name in names]
    head = json.dumps([described, metadata], sort_keys=True).encode()
    return digest([np.frombuffer(head, np.uint8), *(tensors[name] for name in names)])
