"""Downloads with pooch: several mirrors in turn, digests, no partial file ever under its final name."""

import io
import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastmlp import checks
from fastmlp.datasets import bounded

TRIES = 3  #: Of each mirror.
TIMEOUT = (10.0, 30.0)  #: Seconds to connect, and to wait for more bytes.
LARGEST = 2**26  #: Bytes (64 MiB) of an answer; the largest published file has 26 MB.


class _Arriving(io.FileIO):
    """A file that stops a download as soon as it is seen to be none of data."""

    def write(self, piece: Any, /) -> int:
        if self.tell() == 0:
            bounded.refuse_page("the answer", bytes(piece))
        if self.tell() + len(piece) > LARGEST:
            expected = f"at most {LARGEST}"
            raise ValueError(checks.message("the answer", "more bytes", expected, "ask another mirror"))
        return super().write(piece)


def pooch(wanted: str) -> Any:
    """Return the module pooch; ``wanted`` says which files to put where if it is not installed."""
    try:
        import pooch as module
    except ImportError as error:
        raise checks.extra("data is downloaded by pooch", error, instead=f"put {wanted}") from error
    return module


def fetch(digests: Mapping[str, str], folder: Path, mirrors: Sequence[str], wanted: str, pause: float = 0.5) -> None:
    """Download files into a folder, each from the first mirror that has it whole.

    Parameters
    ----------
    digests : mapping of str to str
        MD5 of each file, by its name, which is appended to the address of a mirror.
    folder : Path
        Where to put them; it is made if it is not there. Files with the right digest are not downloaded again.
    mirrors : sequence of str
        Addresses that end in a slash, in the order in which to ask them.
    wanted : str
        Which files could be put where by hand, for the message.
    pause : float
        Seconds before the second round of mirrors; twice as many before the third.

    Raises
    ------
    FileNotFoundError
        If no mirror gives a file; the message has each one's reason.
    OSError
        If the folder cannot be written to.
    ImportError
        If pooch is not installed.
    """
    module = pooch(wanted)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        got, remedy = (error.strerror or str(error)).lower(), "set FASTMLP_CACHE to such a folder"
        raise type(error)(checks.message(bounded.shown(folder), got, "a folder to write to", remedy)) from error
    order = list(mirrors)
    for file, md5 in digests.items():
        answered = _first(module, file, md5, folder, order, wanted, pause)
        order.sort(key=lambda mirror: mirror != answered)  # so that a dead mirror is waited for once, not four times


def _first(module: Any, file: str, md5: str, folder: Path, mirrors: Sequence[str], wanted: str, pause: float) -> str:
    """Return the mirror that gave the file."""
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
    got = f"no whole file from {'; '.join(f'{mirror} ({reason})' for mirror, reason in reasons.items())}"
    remedy = f"connect to the network and try again, or put {wanted}, or into {bounded.shown(folder)}"
    raise FileNotFoundError(checks.message(file, got, f"a file with MD5 {md5}", remedy))


def _downloader(module: Any) -> Callable[[str, str, Any], None]:
    # Identity: a server that compresses once more would have its answer unpacked on the way, and the digest with it.
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
