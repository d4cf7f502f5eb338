"""Downloads with pooch: several mirrors in turn, verified digests, no partial file under its final name."""

import io
import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastmlp import checks
from fastmlp.datasets import bounded

TRIES = 3  #: Attempts for each mirror.
TIMEOUT = (10.0, 30.0)  #: Seconds to wait for a connection, and for more bytes.
LARGEST = 2**26  #: Largest download in bytes (64 MiB); the largest published file has 26 MB.


class _Arriving(io.FileIO):
    """A file that aborts a download as soon as the content turns out not to be data."""

    def write(self, piece: Any, /) -> int:
        if self.tell() == 0:
            bounded.refuse_page("the answer", bytes(piece))
        if self.tell() + len(piece) > LARGEST:
            got, expected = f"more than {LARGEST} bytes", f"at most {LARGEST}"
            raise ValueError(checks.message("the answer", got, expected, "try another mirror"))
        return super().write(piece)


def pooch(wanted: str) -> Any:
    """Return the module pooch; if it is not installed, the error says where to put the files ``wanted``."""
    try:
        import pooch as module
    except ImportError as error:
        raise checks.extra("data is downloaded by pooch", error, instead=f"put {wanted}") from error
    return module


def fetch(digests: Mapping[str, str], folder: Path, mirrors: Sequence[str], wanted: str, pause: float = 0.5) -> None:
    """Download files into a folder, each from the first mirror that sends it complete.

    Parameters
    ----------
    digests : mapping of str to str
        MD5 digests by file name; the name is appended to the address of a mirror.
    folder : Path
        The folder; it is created if missing. Files in it with the right digest are not downloaded again.
    mirrors : sequence of str
        Addresses that end in a slash, in the order in which they are tried.
    wanted : str
        The files to put in place by hand, and the folder, for the message.
    pause : float
        Seconds before the second round of mirrors; twice as long before the third.

    Raises
    ------
    FileNotFoundError
        If no mirror sends a file; the message has the reason for each mirror.
    OSError
        If the folder is not writable.
    ImportError
        If pooch is not installed.
    """
    module = pooch(wanted)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        got, remedy = (error.strerror or str(error)).lower(), "set FASTMLP_CACHE to a writable folder"
        raise type(error)(checks.message(bounded.shown(folder), got, "a writable folder", remedy)) from error
    order = list(mirrors)
    for file, md5 in digests.items():
        answered = _first(module, file, md5, folder, order, wanted, pause)
        order.sort(key=lambda mirror: mirror != answered)  # waits for a dead mirror once, not for every file


def _first(module: Any, file: str, md5: str, folder: Path, mirrors: Sequence[str], wanted: str, pause: float) -> str:
    """Download one file; return the mirror that sent it."""
    from requests import RequestException

    reasons: dict[str, str] = {}
    for attempt, mirror in itertools.product(range(TRIES), mirrors):
        if attempt and mirror == mirrors[0]:
            time.sleep(attempt * pause)
        try:
            module.retrieve(mirror + file, f"md5:{md5}", file, folder, downloader=_downloader(module))
        except (RequestException, ValueError) as error:
            reasons[mirror] = bounded.brief(error)
        else:
            return mirror
    got = f"no complete file from {'; '.join(f'{mirror} ({reason})' for mirror, reason in reasons.items())}"
    remedy = f"connect to the network and try again, or put {wanted}, or into {bounded.shown(folder)}"
    raise FileNotFoundError(checks.message(file, got, f"a file with MD5 {md5}", remedy))


def _downloader(module: Any) -> Callable[[str, str, Any], None]:
    # Identity: if a server compressed the .gz file again, requests would unpack both, and the digest would not match.
    get = module.HTTPDownloader(
        progressbar=_shows_progress(), chunk_size=2**16, timeout=TIMEOUT, headers={"Accept-Encoding": "identity"}
    )

    def download(url: str, path: str, _: Any) -> None:
        with _Arriving(path, "wb") as file:
            get(url, file, None)

    return download


def _shows_progress() -> bool:
    if not sys.stderr.isatty():
        return False
    try:
        import tqdm  # noqa: F401
    except ImportError:
        return False
    return True
