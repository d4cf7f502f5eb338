"""The compile cache: Numba's own, made strict about freshness and lenient about failure."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding
from numba import config
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.runtime import rtsys

from fastmlp.kernels.compiled.host import PREPARATION

# Whatever reading and unpickling say of a damaged file.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ImportError,
    RuntimeError,
    pickle.UnpicklingError,
)


def _cache_stamp() -> str:
    """Digest what Numba's cache key does not see: the text of every kernel module, and the compiler."""
    digest = hashlib.sha256(llvmlite.__version__.encode())
    for source in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def cache_variant(*, parallel: bool) -> str:
    """Name what changes the code but neither Numba's cache key nor its file names: it becomes part of the latter."""
    flags = (config.BOUNDSCHECK, str(config.OPT), config.LOOP_VECTORIZE, config.SLP_VECTORIZE, config.DEBUGINFO_DEFAULT)
    return f"{'parallel' if parallel else 'serial'}-{hashlib.sha256(repr(flags).encode()).hexdigest()[:8]}"


class _CacheFile(IndexDataCacheFile):  # type: ignore[misc]
    """Files of machine code that begin with a digest of the rest: Numba's own run a flipped bit as it is."""

    def _save_data(self, name: str, data: Any) -> None:
        content = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(hashlib.sha256(content).digest())
            file.write(content)

    def _load_data(self, name: str) -> Any:
        content = Path(self._data_path(name)).read_bytes()
        digest, content = content[:32], content[32:]
        if hashlib.sha256(content).digest() != digest:
            raise ValueError("damaged")
        return pickle.loads(content)


class KernelCache(FunctionCache):  # type: ignore[misc]
    """Numba's own cache on disk, in Numba's own places, made strict about freshness and lenient about failure.

    Numba's index is stamped with one source file; this one with all kernel sources. A file that cannot be read is a
    miss, one that cannot be written is given up: caching never makes a call fail.
    """

    def __init__(self, function: Callable[..., Any], stamp: str, variant: str) -> None:
        super().__init__(function)
        self._cache_file = _CacheFile(self._cache_path, f"{self._impl.filename_base}-{variant}", stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        with PREPARATION.measured():
            return self._load_or_none(sig, target_context)

    def _load_or_none(self, sig: Any, target_context: Any) -> Any:
        try:
            # Not super().load_overload, which first imports all that a compiler needs, and SciPy where it is installed:
            # a warm start took 1.5 s, so it takes 0.9.
            rtsys.initialize(target_context)
            result = self._load_overload(sig, target_context)
        except _DAMAGE:
            # Compile anew. Saving writes over a damaged data file, but needs an index that can be read.
            self._mend_index()
            return None
        # Two processes that fill the cache at once may leave an index entry that names the other's file.
        if result is not None and tuple(result.signature.args) != tuple(sig):
            return None
        return result

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError:
            self.disable()

    def _mend_index(self) -> None:
        try:
            self._cache_file._load_index()
        except _DAMAGE:
            self._write_empty_index()

    def _write_empty_index(self) -> None:
        try:
            self.flush()
        except OSError:
            self.disable()


STAMP = _cache_stamp()
