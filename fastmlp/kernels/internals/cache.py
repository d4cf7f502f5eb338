"""Numba's compile cache on disk, in Numba's own places, made strict about freshness and lenient about failure."""

import contextlib
import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastmlp.kernels import internals

_caching = internals.private("numba.core.caching", "FunctionCache", "IndexDataCacheFile")
_runtime = internals.private("numba.core.runtime", "rtsys")
IndexDataCacheFile: Any = object if _caching is None else _caching.IndexDataCacheFile
FunctionCache: Any = object if _caching is None else _caching.FunctionCache

# The exceptions with which reading and unpickling meet a damaged file.
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


class _CacheFile(IndexDataCacheFile):  # type: ignore[misc]
    """Files of machine code that begin with a digest of the rest: Numba's own files run with a flipped bit."""

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


def _dtype(sig: Any) -> str | None:
    """Return the name of the float dtype in which a kernel computes, if its first argument tells."""
    name = str(getattr(sig[0], "dtype", "")) if len(sig) else ""
    return name if name.startswith("float") else None


class _KernelCache(FunctionCache):  # type: ignore[misc]
    """A cache whose index is stamped with all kernel sources, where Numba's own looks at one file.

    A file that cannot be read is a miss, and after one that cannot be written nothing more is saved: caching never
    makes a call fail. ``watch`` is told of entries: ``measured()`` makes a context in which one is
    loaded, ``missed`` is called with name, key and dtype of a function that has none, and returns whether to look
    again, ``saved`` is called with the key of a new one.
    """

    def __init__(self, function: Callable[..., Any], stamp: str, variant: str, watch: Any) -> None:
        super().__init__(function)
        self._watch, self._name = watch, function.__name__
        self._cache_file = _CacheFile(self._cache_path, f"{self._impl.filename_base}-{variant}", stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        with self._watch.measured():
            result = self._load_or_none(sig, target_context)
            if result is None and self._watch.missed(self._name, self._key(sig), _dtype(sig)):
                result = self._load_or_none(sig, target_context)
            return result

    def _key(self, sig: Any) -> str:
        return f"{self._name}-{hashlib.sha256(str(sig).encode()).hexdigest()[:16]}"

    def _load_or_none(self, sig: Any, target_context: Any) -> Any:
        try:
            _initialize(target_context)
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
        else:
            self._watch.saved(self._key(sig))

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


def _initialize(target_context: Any) -> None:
    """Prepare for loading. Numba's own way first imports the compiler, and SciPy where it is installed."""
    try:
        (_runtime or internals.NOTHING).rtsys.initialize(target_context)
    except Exception:
        target_context.refresh()


def enable(dispatcher: Any, stamp: str, variant: str, watch: Any) -> None:
    """Cache what a dispatcher compiles, unless no folder is writeable, or this Numba's cache is not known.

    Never by Numba's own means alone: they would serve code whose sources have changed.
    """
    try:
        cache = _KernelCache(dispatcher.py_func, stamp, variant, watch)
        for name in ("_load_overload", "_cache_file", "flush", "disable"):
            getattr(cache, name)
        dispatcher._cache  # noqa: B018
    except (RuntimeError, OSError):
        return  # a read-only install without HOME
    except (AttributeError, TypeError):
        internals.missing.append("FunctionCache")
        return
    dispatcher._cache = cache


def folder(dispatcher: Any) -> str | None:
    """Return the folder in which a dispatcher's code is cached."""
    with contextlib.suppress(AttributeError):
        return dispatcher.stats.cache_path or None
    return None
