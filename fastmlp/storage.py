"""Model files and checkpoints in the safetensors format; a kill or a power cut leaves the old or the new file.

A file holds ``layers.0.weight`` (n_out, n_in), ``layers.0.bias`` (n_out,), ``layers.1.weight``, ... as torch names and
shapes them, and strings that describe them. A checkpoint also holds the state of a training run, in tensors whose names
begin with ``training.``. A checksum covers every tensor and every string. Nothing is ever unpickled, and nothing is
allocated before the file is known to hold as much as its header claims.

The format: the length of the header in 8 bytes, little-endian; the header, JSON, padded with spaces to a multiple of 8;
the tensors, little-endian, in the order of their offsets. It is read and written here and not with the safetensors
library, which aborts the process or panics when memory is short. This module raises MemoryError, and reads and writes
parameters in place, without a copy.
"""

import itertools
import json
import math
import os
import re
import stat
import sys
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np

from fastmlp import activations, arrays, atomic, checks, losses, parameters
from fastmlp.atomic import PathName, check_place

__all__ = ["PathName", "Record", "check_place", "load", "refusal", "save"]

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_FORMAT = "fastmlp"
# A file is of the lowest version that describes its model. Version 2 tells programs that know only ReLUs that they do
# not know the activation, and version 3 those that know only the cross-entropy that they do not know the loss.
_VERSIONS = _WITH_RELU, _WITH_ACTIVATION, _WITH_LOSS = "1", "2", "3"
_TRAINING = "training."
_NOTE = "note."
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
_CODES = {dtype.name: code for code, dtype in _DTYPES.items()}
_ARCHITECTURE = re.compile("[1-9][0-9]{0,9}(-[1-9][0-9]{0,9})+")
# Bounds the memory that parsing a hostile header takes, a multiple of its length. The header of the deepest net that
# `checks` admits, with the longest notes, is shorter.
_LARGEST_HEADER = 4_000_000
# The initialisation in files that were written before there was a choice.
_OLD_INIT = "notebook"


@dataclass(frozen=True)
class Record:
    """The content of a file.

    Attributes
    ----------
    layer_sizes : tuple of int
        Widths from input to output.
    parameters : ndarray of float32 or float64, shape (k,)
        The flat vector W1, b1, W2, b2, ...
    seed : int or None
        Seed of the initial weights.
    init : str
        Name of their initialisation.
    facts : dict of str to str
        Further facts: in a checkpoint its epoch, its method, and digests of its data.
    arrays : dict of str to ndarray
        State of a training run, by name without the prefix ``training.``; empty in a model file.
    notes : dict of str to str
        Notes of the user; in the file their names begin with ``note.``.
    activation : str
        The activation of all hidden layers, or one for each with commas between them.
    loss : str
        The loss.
    """

    layer_sizes: tuple[int, ...]
    parameters: Array
    seed: int | None
    init: str
    facts: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    activation: str = activations.DEFAULT
    loss: str = losses.DEFAULT

    @property
    def version(self) -> str:
        """The version of the format that a file with this content has."""
        if self.loss != losses.DEFAULT:
            return _WITH_LOSS
        return _WITH_RELU if self.activation == activations.DEFAULT else _WITH_ACTIVATION


class _Entry(NamedTuple):
    """A tensor as the header describes it; it begins ``first`` bytes after the header."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    first: int

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def save(path: PathName, record: Record) -> None:
    """Write a file, atomically and durably.

    Parameters
    ----------
    path : str or path-like
        The file. The target of a symbolic link is replaced, not the link; the permissions of an existing file stay.
    record : Record
        Its content.

    Raises
    ------
    OSError
        If it cannot be written; the old file is then unchanged, and the temporary file is removed.
    MemoryError
        If memory is short; the old file is then unchanged.
    ValueError
        If the path is a folder or a device, or the strings are longer than `load` accepts.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from fastmlp import storage
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     storage.save(f"{folder}/a", storage.Record((1, 2), np.arange(4.0), seed=None, init="he"))
    ...     storage.load(f"{folder}/a").parameters
    array([0., 1., 2., 3.])
    """
    tensors = _named(record.parameters, record.layer_sizes)
    tensors |= {_TRAINING + name: np.ascontiguousarray(array) for name, array in record.arrays.items()}
    metadata = {
        "format": _FORMAT,
        "format_version": record.version,
        "architecture": "-".join(map(str, record.layer_sizes)),
        "dtype": record.parameters.dtype.name,
        "seed": str(record.seed),
        "init": record.init,
        "activation": record.activation,
        **({} if record.loss == losses.DEFAULT else {"loss": record.loss}),
        **record.facts,
        **{_NOTE + name: note for name, note in record.notes.items()},
    }
    metadata["checksum"] = _checksum(tensors, metadata)
    # Larger elements first: each tensor then begins at a multiple of its item size, as other readers expect.
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].itemsize))
    blocks = (np.asarray(tensor, tensor.dtype.newbyteorder("<")).data for tensor in ordered.values())
    atomic.replace(path, itertools.chain([_header(ordered, metadata)], blocks))


def load(path: PathName) -> Record:
    """Read a file that `save` wrote.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    Record
        Its content, bit for bit.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, or is not a file of fastmlp; the message names the reason.
    MemoryError
        If memory is short.
    """
    name = os.fspath(path)
    if not stat.S_ISREG(os.stat(name).st_mode):
        raise refusal(name, "a folder or a device")
    with open(name, "rb") as file:
        start, entries, metadata = _read_header(name, file)
        _check_layout(name, metadata, entries)
        sizes = tuple(map(int, metadata["architecture"].split("-")))
        vector = np.empty(parameters.size(sizes), metadata["dtype"])
        state = {name: np.empty(one.shape, one.dtype.name) for name, one in entries.items() if _is_training(name)}
        tensors = _named(vector, sizes) | state
        for tensor, place in tensors.items():
            file.seek(start + entries[tensor].first)
            _read(name, file, place)
    if metadata.pop("checksum", None) != _checksum(tensors, metadata):
        raise refusal(name, "a file whose checksum does not match its content")
    init, seed = metadata.get("init", _OLD_INIT), metadata["seed"]
    own = {"format", "format_version", "architecture", "dtype", "seed", "init", "activation", "loss"}
    return Record(
        sizes,
        vector,
        None if seed == "None" else int(seed),
        init,
        {key: value for key, value in metadata.items() if key not in own and not key.startswith(_NOTE)},
        {name.removeprefix(_TRAINING): array for name, array in state.items()},
        {key.removeprefix(_NOTE): value for key, value in metadata.items() if key.startswith(_NOTE)},
        metadata.get("activation", activations.DEFAULT),
        metadata.get("loss", losses.DEFAULT),
    )


def refusal(path: PathName, got: str) -> ValueError:
    """Return the error for a file that cannot be used, with the reason."""
    expected = "an intact fastmlp model or checkpoint that fits"
    return ValueError(
        checks.message("path", f"{got}: {os.fspath(path)}", expected, "name another file, or train again")
    )


def _header(tensors: dict[str, Array], metadata: dict[str, str]) -> bytes:
    """Return the length of the header and the header, for tensors in the order of the file."""
    entries: dict[str, Any] = {"__metadata__": metadata}
    last = 0
    for name, tensor in tensors.items():
        first, last = last, last + tensor.nbytes
        code = _CODES[tensor.dtype.name]
        entries[name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [first, last]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    if len(text) > _LARGEST_HEADER:
        got, expected = f"{len(text)} bytes of names and notes", f"at most {_LARGEST_HEADER}"
        raise ValueError(checks.message("model", got, expected, "shorten its notes"))
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _read_header(path: str, file: BinaryIO) -> tuple[int, dict[str, _Entry], dict[str, str]]:
    """Return the offset of the tensors in the file, their entries in the header, and the strings."""
    extent = os.fstat(file.fileno()).st_size
    head = file.read(8)
    length = int.from_bytes(head, "little")
    if len(head) < 8 or not 2 <= length <= min(extent - 8, _LARGEST_HEADER):
        raise refusal(path, f"a file of {extent} bytes that is truncated or not a model")
    try:
        header = json.loads(file.read(length).decode(), object_pairs_hook=_unique)
        metadata = header.pop("__metadata__", {})
        if not all(type(text) is str for text in metadata.values()):
            raise ValueError("metadata that is not text")
        entries = {name: _entry(one, extent) for name, one in header.items()}
        _check_cover(entries, extent - 8 - length)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise refusal(path, f"a file whose header cannot be read ({str(error)[:80]})") from None
    return 8 + length, entries, metadata


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict; refuse a key with two values, which programs read differently."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key that occurs twice")
    return found


def _entry(entry: dict[str, Any], extent: int) -> _Entry:
    """Parse the entry of a tensor in the header; raise if it is inconsistent."""
    dtype, shape, (first, last) = _DTYPES.get(entry["dtype"]), entry["shape"], entry["data_offsets"]
    if dtype is None or len(entry) > 3 or len(shape) > 2:
        raise ValueError("a tensor that is neither a float32 nor a float64 matrix or vector")
    if not all(type(number) is int and 0 <= number <= extent for number in (*shape, first, last)):
        raise ValueError("lengths or offsets outside the file")
    found = _Entry(dtype, tuple(shape), first)
    if found.size != last - first:
        raise ValueError("offsets that do not match the shape")
    return found


def _check_cover(entries: dict[str, _Entry], size: int) -> None:
    """Check that the tensors fill the file, one after the other, without a gap."""
    at = 0
    for one in sorted(entries.values(), key=lambda one: (one.first, one.size)):
        if one.first != at:
            raise ValueError("tensors that overlap or leave a gap")
        at += one.size
    if at != size:
        raise ValueError(f"tensors of {at} bytes in a file with room for {size}")


def _read(path: str, file: BinaryIO, place: Array) -> None:
    """Fill a C-contiguous array with the next bytes of the file."""
    if file.readinto(place.reshape(-1).view(np.uint8)) < place.nbytes:  # type: ignore[attr-defined]
        raise refusal(path, "a file that became shorter while it was read")
    if sys.byteorder == "big":
        place.byteswap(inplace=True)


def _check_layout(path: str, metadata: dict[str, str], entries: dict[str, _Entry]) -> None:
    """Check the strings, and that the tensors are the layers they describe, before reading a tensor."""
    if metadata.get("format") != _FORMAT:
        raise refusal(path, "a safetensors file that another program wrote")
    if metadata.get("format_version") not in _VERSIONS:
        raise refusal(path, f"format version {metadata.get('format_version')!r} (this fastmlp reads versions 1 to 3)")
    architecture, seed = metadata.get("architecture", ""), metadata.get("seed", "")
    found = {name: one for name, one in entries.items() if not _is_training(name)}
    shapes = {name: one.shape for name, one in found.items()}
    # Counted before parsing: the shapes built from it are then no more than the tensors in the file.
    plausible = 2 * architecture.count("-") == len(found) and _ARCHITECTURE.fullmatch(architecture)
    if not plausible or shapes != _expected_shapes(tuple(map(int, architecture.split("-")))):
        raise refusal(path, f"tensors that are not the layers of the architecture {architecture[:40]!r}")
    if any(one.dtype.name != metadata.get("dtype") for one in found.values()):
        raise refusal(path, f"tensors of another dtype than {metadata.get('dtype', '')[:40]!r}, which it names")
    if not re.fullmatch("None|[0-9]{1,10}", seed) or (seed != "None" and int(seed) >= 2**32):
        raise refusal(path, f"the seed {seed[:40]!r}")
    if metadata.get("init", _OLD_INIT) not in parameters.INITIALISATIONS:
        raise refusal(path, f"the unknown initialisation {metadata['init'][:40]!r}")
    activation = metadata.get("activation", activations.DEFAULT)
    if not activations.are_legal(activation, architecture.count("-") - 1):
        raise refusal(path, f"the unknown activation {activation[:40]!r}")
    if not losses.is_legal(metadata.get("loss", losses.DEFAULT)):
        raise refusal(path, f"the unknown loss {metadata['loss'][:40]!r}")


def _is_training(name: str) -> bool:
    return name.startswith(_TRAINING)


def _expected_shapes(sizes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        shapes[f"layers.{i}.weight"], shapes[f"layers.{i}.bias"] = (n_out, n_in), (n_out,)
    return shapes


def _named(vector: Array, sizes: tuple[int, ...]) -> dict[str, Array]:
    """Return views of the layers by their names in the file, in the order of the vector."""
    views = [view for layer in parameters.layers(vector, sizes) for view in layer]
    return dict(zip(_expected_shapes(sizes), views, strict=True))


def _checksum(tensors: dict[str, Array], metadata: dict[str, str]) -> str:
    names = sorted(tensors)
    described = [(name, tensors[name].dtype.name, tensors[name].shape) for name in names]
    head = json.dumps([described, metadata], sort_keys=True).encode()
    return arrays.digest([np.frombuffer(head, np.uint8), *(tensors[name] for name in names)])
