"""Atomic replacement of files: at any moment, also after a power cut, the old or the new content is in place.

The new content is written and synced under a temporary name beside the file and renamed over it, and the folder is
synced. A process that is killed may leave its temporary file behind; the next `replace` of the same file removes it. A
process holds a lock on its temporary file until the file is renamed, which tells a file in use from a leftover.
"""

import contextlib
import glob
import os
import secrets
import stat
from collections.abc import Iterable
from errno import EACCES, EAGAIN, EINVAL, ENOENT
from pathlib import Path
from typing import BinaryIO, TypeAlias

from fastmlp import checks

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PathName: TypeAlias = str | os.PathLike[str]
Block: TypeAlias = bytes | memoryview


def replace(path: PathName, blocks: Iterable[Block]) -> None:
    """Replace the content of a file by ``blocks``, one after the other.

    Parameters
    ----------
    path : str or path-like
        The file. The target of a symbolic link is replaced, not the link; the permissions of an existing file stay.
    blocks : iterable of bytes or C-contiguous memoryview
        The content, written without a copy.

    Raises
    ------
    OSError
        If it cannot be written; the old content is then unchanged, and the temporary file is removed.
    ValueError
        If the path is a folder or a device.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from fastmlp import atomic
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     atomic.replace(f"{folder}/a", [b"all ", b"of it"])
    ...     Path(folder, "a").read_bytes()
    b'all of it'
    """
    target = Path(os.path.realpath(path))
    try:
        mode = _permissions(target)
        _remove_leftovers(target)
        file, temporary = _create(target)
        try:
            _write(file, blocks)
            if mode is not None:
                temporary.chmod(mode)
            os.fsync(file.fileno())
            if fcntl is None:
                file.close()  # Windows cannot rename an open file, and there is no lock to hold
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                file.close()
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise _unwritten(error, target, "the old content is unchanged: free space, or name another place") from error
    try:
        file.close()
        _sync_folder(target.parent)
    except OSError as error:
        raise _unwritten(error, target, "the new file is in place, but may not outlast a power cut") from error


def check_place(path: PathName) -> None:
    """Raise now what `replace` would raise later if the path is a folder, or in a folder that is not writeable."""
    target = Path(os.path.realpath(path))
    _permissions(target)
    if not os.access(target.parent, os.W_OK | os.X_OK):
        missing = not target.parent.exists()
        error = OSError(ENOENT, "no such folder") if missing else OSError(EACCES, "no permission")
        raise _unwritten(error, target, "make the folder, or name another")


def _permissions(target: Path) -> int | None:
    """Return the permissions of the file to replace; None if it does not exist."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        got = f"a folder or a device: {target}"
        raise ValueError(checks.message("path", got, "the name of a file", "add a file name to it"))
    return stat.S_IMODE(mode)


def _create(target: Path) -> tuple[BinaryIO, Path]:
    """Create a temporary file beside the target, with the permissions that the umask leaves, and lock it.

    Before it is locked, another process may take it for a leftover and remove it; a new one is then created.
    """
    while True:
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        file = temporary.open("xb")
        if _own(file):
            return file, temporary
        file.close()


def _own(file: BinaryIO) -> bool:
    """Lock a new file; return whether no other process has taken it for a leftover."""
    try:
        _lock(file)
    except OSError as error:
        # On a network file system without locks no process can take the file for a leftover.
        return error.errno not in (EACCES, EAGAIN)
    return os.fstat(file.fileno()).st_nlink > 0


def _write(file: BinaryIO, blocks: Iterable[Block]) -> None:
    for block in blocks:
        file.write(block)
    file.flush()


def _lock(file: BinaryIO) -> None:
    """Hold an exclusive lock until the file is closed or the process ends; raise OSError if another process has it."""
    if fcntl is None:
        raise OSError("no locks on this system")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary files of killed processes, whose locks are free."""
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.{'[0-9a-f]' * 8}.tmp"):
        with contextlib.suppress(OSError), leftover.open("rb") as file:
            _lock(file)
            leftover.unlink()


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder outlast a power cut."""
    if os.name == "nt":  # Windows cannot open folders
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
    return OSError(error.errno, checks.message("path", got, "a writeable folder with enough space", state))
