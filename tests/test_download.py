"""Downloads from a real server on the loopback address, and the search order for published data sets."""

import contextlib
import gzip
import hashlib
import os
import shutil
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hostile_corpus import idx

from fastmlp.datasets import download, fashion_mnist, mnist, published

REAL = os.environ.get("FASTMLP_DATA")  # before `places` removes it
FILE = "train-labels-idx1-ubyte.gz"
CONTENT = gzip.compress(idx(np.arange(200_000) % 10), mtime=0)  # four chunks of 64 KiB if sent uncompressed
BIG = np.random.default_rng(0).bytes(300_000)
PAGE = b"<!DOCTYPE html><html><body>Not here any more</body></html>"
DEAD = "http://127.0.0.1:9/"  # the discard port, where no server listens


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class Server:
    """A mirror: ``answers`` has for each file one answer per request; the last answer is repeated.

    An answer is the content, a status code, or (content, number of bytes after which the connection is cut).
    """

    def __init__(self, answers):
        self.answers = {name: list(several) for name, several in answers.items()}
        self.asked = Counter()

    def respond(self, request):
        name = request.path.lstrip("/")
        several = self.answers.get(name, [404])
        answer = several[min(self.asked[name], len(several) - 1)]
        self.asked[name] += 1
        if isinstance(answer, int):
            request.send_error(answer)
            return
        content, sent = answer if isinstance(answer, tuple) else (answer, len(answer))
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content[:sent])


class CompressingServer(Server):
    """A mirror that compresses its answers again if the request allows it, as many servers do."""

    def respond(self, request):
        self.asked[request.headers["Accept-Encoding"]] += 1
        content = self.answers[request.path.lstrip("/")][0]
        request.send_response(200)
        if "gzip" in (request.headers["Accept-Encoding"] or "gzip"):
            content = gzip.compress(content)
            request.send_header("Content-Encoding", "gzip")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)


@pytest.fixture
def serve():
    """Return a function that starts a server and returns (its address, the server)."""
    pytest.importorskip("pooch")
    with contextlib.ExitStack() as stack:

        def start(answers, kind=Server):
            server = kind(answers)

            class Handler(BaseHTTPRequestHandler):
                def do_GET(self):
                    server.respond(self)

                def log_message(self, *_):
                    pass

            httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(httpd.server_close)
            stack.callback(thread.join)
            stack.callback(httpd.shutdown)
            return f"http://127.0.0.1:{httpd.server_port}/", server

        yield start


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    """Remove proxies and the data folder, and use a cache folder of the test."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")] + ["FASTMLP_DATA"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FASTMLP_CACHE", str(tmp_path / "cache"))
    return tmp_path


def fetch(folder, mirrors, content=BIG):
    download.fetch({FILE: md5(content)}, folder, mirrors, "the files somewhere", pause=0)


def test_answers_are_not_compressed_once_more(serve, tmp_path):
    """They would be unpacked during the download, which would defeat the limit on their length."""
    address, server = serve({FILE: [CONTENT]}, CompressingServer)
    fetch(tmp_path, [address], CONTENT)
    assert (tmp_path / FILE).read_bytes() == CONTENT
    assert server.asked == {"identity": 1}


def test_rounds_of_mirrors_wait_longer_and_longer(serve, tmp_path, monkeypatch):
    first, failing = serve({FILE: [500]})
    second, server = serve({FILE: [500, 500, BIG]})
    waits = []

    def sleep(seconds):
        waits.append((seconds, failing.asked[FILE], server.asked[FILE]))

    monkeypatch.setattr(download.time, "sleep", sleep)
    download.fetch({FILE: md5(BIG)}, tmp_path, [first, second], "", pause=0.25)
    assert waits == [(0.25, 1, 1), (0.5, 2, 2)]  # once per round, before its first mirror


def test_a_file_is_downloaded_once(serve, tmp_path):
    address, server = serve({FILE: [BIG]})
    fetch(tmp_path / "new" / "folder", [address])
    fetch(tmp_path / "new" / "folder", [address])
    assert (tmp_path / "new" / "folder" / FILE).read_bytes() == BIG
    assert server.asked[FILE] == 1


@pytest.mark.parametrize(
    "answers",
    [
        [500, 503, BIG],
        [(BIG, 100_000), (BIG, 0), BIG],
        [b"something else", PAGE, BIG],
    ],
    ids=["errors", "cut", "other content"],
)
def test_what_goes_wrong_twice_is_tried_three_times(serve, tmp_path, answers):
    address, server = serve({FILE: answers})
    fetch(tmp_path, [address])
    assert (tmp_path / FILE).read_bytes() == BIG
    assert server.asked[FILE] == 3


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (404, "404 Client Error"),
        (500, "500 Server Error"),
        ((BIG, 100_000), "IncompleteRead|Connection broken|bytes"),
        (PAGE, "an HTML page"),
        (b"something else", "MD5 hash of downloaded file .* does not match"),
        (b"", "MD5 hash"),
        (bytes(download.LARGEST + 1), "at most 67108864"),
    ],
    ids=["404", "500", "cut", "page", "digest", "nothing", "too much"],
)
def test_what_no_mirror_has_whole_is_refused_and_leaves_nothing(serve, tmp_path, answer, reason):
    address, server = serve({FILE: [answer]})
    with pytest.raises(FileNotFoundError, match=reason) as caught:
        fetch(tmp_path, [address, DEAD])
    assert server.asked[FILE] == download.TRIES
    text = str(caught.value)
    assert text.startswith(f"{FILE}: got no complete file from {address} (")
    assert f"; {DEAD} (" in text
    assert f"expected a file with MD5 {md5(BIG)}; connect to the network" in text
    assert f"or put the files somewhere, or into {tmp_path}" in text
    assert list(tmp_path.iterdir()) == []


def test_the_second_mirror_serves_when_the_first_is_dead_or_lies(serve, tmp_path):
    lying, liar = serve({FILE: [PAGE], "b": [PAGE]})
    address, server = serve({FILE: [BIG], "b": [CONTENT]})
    download.fetch({FILE: md5(BIG), "b": md5(CONTENT)}, tmp_path, [DEAD, lying, address], "", pause=0)
    assert server.asked == {FILE: 1, "b": 1}
    assert liar.asked == {FILE: 1}  # the next file comes from the mirror that sent the first


def test_a_damaged_file_is_replaced_and_a_whole_one_survives_a_failure(serve, tmp_path):
    address, _ = serve({FILE: [BIG], "b": [PAGE]})
    (tmp_path / FILE).write_bytes(BIG[:-1])
    fetch(tmp_path, [address])
    (tmp_path / "b").write_bytes(b"old")
    with pytest.raises(FileNotFoundError):
        download.fetch({"b": md5(BIG)}, tmp_path, [address], "", pause=0)
    assert (tmp_path / FILE).read_bytes() == BIG
    assert (tmp_path / "b").read_bytes() == b"old"


def test_a_folder_that_cannot_be_made_is_named(serve, tmp_path):
    address, server = serve({FILE: [BIG]})
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match=r"taken.*: got .*expected a writable folder; set FASTMLP_CACHE"):
        fetch(tmp_path / "taken" / "mnist", [address])
    assert not server.asked


FETCH = """
import os, sys, termios
from pathlib import Path
from fastmlp.datasets import download
ours, theirs = os.openpty()
termios.tcsetwinsize(theirs, (24, 80))
if os.environ["TERMINAL"]:
    os.dup2(theirs, 2)
download.fetch({"file": os.environ["DIGEST"]}, Path(os.environ["FOLDER"]), [os.environ["ADDRESS"]], "")
os.close(theirs)
if os.environ["TERMINAL"]:
    os.close(2)
    try:
        while piece := os.read(ours, 10000):
            sys.stdout.buffer.write(piece)
    except OSError:  # the other side of the terminal is closed
        pass
"""


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminal")
def test_progress_is_shown_on_a_terminal_only(serve, tmp_path, run_python):
    pytest.importorskip("tqdm")
    address, _ = serve({"file": [BIG]})
    place = {"DIGEST": md5(BIG), "FOLDER": str(tmp_path), "ADDRESS": address}
    assert "100%" in run_python(FETCH, env={**place, "TERMINAL": "yes"}).stdout
    (tmp_path / "file").unlink()
    piped = run_python(FETCH, env={**place, "TERMINAL": ""})
    assert "%" not in piped.stdout + piped.stderr


def test_without_pooch_the_error_names_the_extra_and_the_files(run_python, tmp_path):
    code = """
import sys
sys.modules["pooch"] = None
from fastmlp.datasets import fashion_mnist
try:
    fashion_mnist.load_data()
except ImportError as error:
    print(error)
"""
    for cache in (None, str(tmp_path / "cache")):
        text = run_python(code, env={"FASTMLP_DATA": None, "FASTMLP_CACHE": cache}).stdout
        assert 'python -m pip install ".[cli]" in a clone of fastmlp, or put train-images-idx3-ubyte[.gz], ' in text
        assert (
            "t10k-labels-idx1-ubyte[.gz] in the folder fashion_mnist under the folder that FASTMLP_DATA names" in text
        )


@pytest.fixture(scope="module")
def small():
    """Return a published set of a few small images: its arrays, its compressed files, and its description."""
    rng = np.random.default_rng(7)
    arrays = [rng.integers(10, size=shape).astype(np.uint8) for shape in [(60, 4, 4), (60,), (10, 4, 4), (10,)]]
    names = [file.name for file in mnist.PUBLISHED.files]
    plain = [idx(array) for array in arrays]
    packed = [gzip.compress(content, mtime=0) for content in plain]
    described = [
        published.File(name, array.shape, md5(gz), hashlib.sha256(content).hexdigest())
        for name, array, content, gz in zip(names, arrays, plain, packed, strict=True)
    ]
    files = {f"{name}.gz": gz for name, gz in zip(names, packed, strict=True)}
    return arrays, files, published.Published("mnist", tuple(described), (DEAD,))


def write(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def same(loaded, arrays):
    (x_train, y_train), (x_test, y_test) = loaded
    for ours, theirs in zip((x_train, y_train, x_test, y_test), arrays, strict=True):
        assert ours.dtype == np.uint8
        np.testing.assert_array_equal(ours, theirs)


def test_first_fastmlp_data_then_the_cache_then_a_mirror(serve, small, places, monkeypatch):
    arrays, files, described = small
    address, server = serve({name: [content] for name, content in files.items()})
    described = described._replace(mirrors=(DEAD, address))
    same(published.load(described), arrays)  # downloaded
    assert sorted(path.name for path in (places / "cache" / "mnist").iterdir()) == sorted(files)
    same(published.load(described), arrays)  # from the cache
    assert set(server.asked.values()) == {1}

    write(places / "data" / "mnist", {name.removesuffix(".gz"): gzip.decompress(c) for name, c in files.items()})
    monkeypatch.setenv("FASTMLP_DATA", str(places / "data"))
    shutil.rmtree(places / "cache")
    same(published.load(described), arrays)  # from FASTMLP_DATA, plain
    assert set(server.asked.values()) == {1}

    monkeypatch.setenv("FASTMLP_DATA", str(places / "cache"))
    (places / "cache").mkdir()
    same(published.load(described), arrays)  # the data folder lacks this set: downloaded
    assert set(server.asked.values()) == {2}


def test_the_cache_is_repaired_file_by_file(serve, small, places):
    arrays, files, described = small
    address, server = serve({name: [content] for name, content in files.items()})
    names = list(files)
    write(places / "cache" / "mnist", {**files, names[0]: files[names[0]][:-9], names[1]: PAGE})
    (places / "cache" / "mnist" / names[2].removesuffix(".gz")).write_bytes(b"damaged, beside a whole .gz")
    same(published.load(described._replace(mirrors=(address,))), arrays)
    assert server.asked == {names[0]: 1, names[1]: 1}


def test_what_is_wrong_under_fastmlp_data_is_said_and_not_downloaded(serve, small, places, monkeypatch):
    _, files, described = small
    address, server = serve({name: [content] for name, content in files.items()})
    described = described._replace(mirrors=(address,))
    folder, name = places / "data" / "mnist", "t10k-labels-idx1-ubyte"
    write(folder, files)
    monkeypatch.setenv("FASTMLP_DATA", str(places / "data"))
    path = folder / f"{name}.gz"
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"mnist: got no such file, expected {name} or {name}\.gz"):
        published.load(described)
    for content, reason in [
        (whole[:-5], "damaged content"),
        (PAGE, "an HTML page"),
        (idx(np.ones(10)), "content with sha256"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}\.gz: got {reason}"):
            published.load(described)
    assert not server.asked


def test_the_data_folder_may_be_that_of_the_files_itself(serve, small, places, monkeypatch):
    arrays, files, described = small
    by_md5 = described._replace(files=tuple(file._replace(sha256=None) for file in described.files))
    address, server = serve({name: [content] for name, content in files.items()})
    for name, known in (("mnist", by_md5), ("mine", described), ("mine", by_md5)):
        folder = places / str(len(list(places.iterdir()))) / name
        write(folder, files)
        monkeypatch.setenv("FASTMLP_DATA", str(folder))
        same(published.load(known._replace(mirrors=(address,))), arrays)
    assert not server.asked
    other = described._replace(name="fashion_mnist", mirrors=(address,))  # the same file names, but other labels
    changed = other.files[-1]._replace(sha256="0" * 64)
    with pytest.raises(ValueError, match="content with sha256"):
        published.load(other._replace(files=(*other.files[:-1], changed)))
    assert set(server.asked) == set(files)  # not mistaken for that set: downloaded


def test_mnist_is_found_in_the_very_folder(monkeypatch):
    if not REAL:
        pytest.skip("FASTMLP_DATA is not set: no MNIST here")
    monkeypatch.setenv("FASTMLP_DATA", str(Path(REAL, "mnist")))
    assert mnist.load_data()[1][1].shape == (10000,)


def test_a_data_folder_that_is_not_there_is_a_mistake(monkeypatch, places):
    monkeypatch.setenv("FASTMLP_DATA", str(places / "dat"))
    with pytest.raises(FileNotFoundError, match=r"^FASTMLP_DATA: got '.*dat', expected a folder with subfolders"):
        mnist.load_data()


@pytest.mark.parametrize("data", [False, True])
def test_offline_the_error_says_where_to_put_which_files(small, places, monkeypatch, data):
    pytest.importorskip("pooch")
    root = "the folder that FASTMLP_DATA names"
    if data:
        root = str(places)
        monkeypatch.setenv("FASTMLP_DATA", root)
    with pytest.raises(FileNotFoundError) as caught:
        published.load(small[2])
    text = str(caught.value)
    assert f"no complete file from {DEAD} (" in text
    names = ", ".join(f"{file.name}[.gz]" for file in mnist.PUBLISHED.files)
    assert f"or put {names} in the folder mnist under {root}, or into {places / 'cache' / 'mnist'}" in text


def test_mnist_arrives_from_a_mirror_as_it_was_published(serve, places):
    """The digests of three of the four real archives; the fourth was compressed again and has another digest."""
    if not REAL:
        pytest.skip("FASTMLP_DATA is not set: no MNIST here")
    folder = Path(REAL, "mnist")
    files = {f"{file.name}.gz": (folder / f"{file.name}.gz").read_bytes() for file in mnist.PUBLISHED.files}
    first, *others = mnist.PUBLISHED.files
    again = first._replace(md5=md5(files[f"{first.name}.gz"]))
    address, server = serve({name: [content] for name, content in files.items()})
    (x_train, y_train), (x_test, y_test) = published.load(
        mnist.PUBLISHED._replace(files=(again, *others), mirrors=(address,))
    )
    assert (x_train.shape, y_train.shape, x_test.shape, y_test.shape) == tuple(f.shape for f in mnist.PUBLISHED.files)
    assert list(y_train[:5]) == [5, 0, 4, 1, 9]
    assert set(server.asked.values()) == {1}


def test_fashion_mnist_is_checked_by_its_structure(places, monkeypatch):
    folder = places / "fashion_mnist"
    arrays = [np.full(file.shape, 7, np.uint8) for file in fashion_mnist.PUBLISHED.files]
    write(folder, {f.name: idx(array) for f, array in zip(fashion_mnist.PUBLISHED.files, arrays, strict=True)})
    monkeypatch.setenv("FASTMLP_DATA", str(places))
    same(fashion_mnist.load_data(), arrays)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(9999)))
    with pytest.raises(ValueError, match=r"shape \(9999,\), expected \(10000,\), as in the published file"):
        fashion_mnist.load_data()
    assert len(fashion_mnist.CLASSES) == 10
