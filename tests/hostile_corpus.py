"""Hostile files, each with the words that its error must contain. They are built on demand and never stored."""

import gzip
import io
import os
import pickle
import struct
import zlib
from collections import namedtuple

import numpy as np

READ, LOAD = "read_idx", "load"
Hostile = namedtuple("Hostile", "reader make words")

TRAIN = {"x_train": np.arange(24, dtype=np.uint8).reshape(6, 4), "y_train": np.array([0, 1, 0, 1, 0, 1])}
GIB = 2**30


def idx(array, code=8):
    return idx_header(array.shape, code) + array.astype(np.uint8).tobytes()


def idx_header(shape, code=8):
    return bytes([0, 0, code, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)


def deflated(content):
    return (packer := zlib.compressobj(9, zlib.DEFLATED, -15)).compress(content) + packer.flush()


def bomb(beginning, mebibytes, byte=b"\x00"):
    """Return raw deflate of ``beginning`` and many MiB of one byte, which is 1000 times smaller and fast to make."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(beginning) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(byte * 2**20) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + block * mebibytes + packer.flush()


def gz(raw, content=b""):
    """Wrap raw deflate as gzip, with the checksum of ``content``."""
    trailer = struct.pack("<II", zlib.crc32(content), len(content) % 2**32)
    return b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff" + raw + trailer


def npy(array=None, *, data=None, version=1, **header):
    """Return an array in NumPy's format whose header may be forged."""
    array = np.zeros((6, 4), np.uint8) if array is None else array
    told = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape} | header
    return npy_text(repr(told), array.tobytes() if data is None else data, version)


def npy_text(text, data=bytes(24), version=1, length=None):
    encoded = text.encode("latin-1") + b"\n"
    length = len(encoded) if length is None else length
    size = struct.pack("<H" if version == 1 else "<I", length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + encoded + data


def entry(content, *, raw=None, method=8, flags=0, crc=None, size=None, packed=None, extra=b"", local=None):
    """Return a zip file's fields for an entry, and its bytes."""
    raw = (deflated(content) if method == 8 else content) if raw is None else raw
    crc = zlib.crc32(content) if crc is None else crc
    size, packed = len(content) if size is None else size, len(raw) if packed is None else packed
    return struct.pack("<HHHHHIII", 20, flags, method, 0, 33, crc, packed, size), raw, extra, local


def archive(*entries, hole=0, directory=None, offset=None):
    """Build a zip file from (name, entry) pairs by hand, so that every field can be forged."""
    body, listing = io.BytesIO(), b""
    for key, (fields, raw, extra, local) in entries:
        at, name = body.tell(), f"{key}.npy".encode()
        inside = local or name
        body.write(b"PK\x03\x04" + fields + struct.pack("<HH", len(inside), len(extra)) + inside + extra + raw)
        tail = struct.pack("<HHHHHII", len(name), len(extra), 0, 0, 0, 0, at)
        listing += b"PK\x01\x02" + struct.pack("<H", 20) + fields + tail + name + extra
    start = body.tell() if offset is None else offset
    size = hole + len(listing) if directory is None else directory
    count = len(entries)
    return body.getvalue(), listing + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, count, count, size, start, 0)


def npz(x=None, y=None, **more):
    """Return an archive of training data; an entry may be replaced by a result of `entry`."""
    parts = {"x_train": x or entry(npy(TRAIN["x_train"])), "y_train": y or entry(npy(TRAIN["y_train"]))} | more
    return b"".join(archive(*parts.items()))


class Trap:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def file(name, content):
    """Return a maker of one file; ``content`` may be a function, which is only called in its test."""

    def make(folder):
        path = folder / name
        path.write_bytes(content() if callable(content) else content)
        return path

    return make


def folder_of(**files):
    """Return a maker of a folder of IDX files, which are given by the first letters of their names."""
    names = {"x": "train-images-idx3-ubyte", "y": "train-labels-idx1-ubyte", "tx": "t10k-images-idx3-ubyte"}
    names |= {"ty": "t10k-labels-idx1-ubyte", "other_x": "other-train-images-idx3-ubyte.gz"}

    def make(folder):
        for key, array in files.items():
            (folder / names[key]).write_bytes(idx(array) if isinstance(array, np.ndarray) else array)
        return folder

    return make


def fifo(folder):
    os.mkfifo(folder / "x.npz")
    return folder / "x.npz"


def link(name, target):
    def make(folder):
        (folder / name).symlink_to(target if target.startswith("/") else folder / target)
        return folder / name

    return make


def locked(folder):
    path = file("x.csv", b"0,1\n")(folder)
    path.chmod(0)
    return path


def sparse(name, beginning, size, ending=b""):
    """Return a maker of a sparse file."""

    def make(folder):
        path = folder / name
        with path.open("wb") as out:
            out.write(beginning)
            out.truncate(size - len(ending))
            out.seek(0, os.SEEK_END)
            out.write(ending)
        return path

    return make


def pickled(folder):
    objects = np.empty(1, object)
    objects[0] = Trap(str(folder / "sprung"))
    x = npy(descr="|O", shape=(1,), data=pickle.dumps(objects))
    return file("x.npz", npz(entry(x)))(folder)


def forged_directory(folder):
    body, end = archive(hole=GIB, offset=0)
    return sparse("x.npz", body, GIB + len(end), end)(folder)


def nearly_whole():
    """300 MB in a file of 4 MB, which is a legal ratio; the last byte is missing."""
    noise = np.random.default_rng(1).bytes(4 * 2**20)
    shape = (len(noise) + 296 * 2**20 + 1, 1)
    return gz(bomb(idx_header(shape) + noise, 296))


def rows(count, last=""):
    return "".join(f"{i % 10},{i % 256},0\n" for i in range(count)).encode() + last.encode()


IMAGES, LABELS = np.zeros((6, 2, 2), np.uint8), np.array([0, 1, 0, 1, 0, 1], np.uint8)
SMALL = idx(np.arange(16).reshape(4, 4))
WHOLE = npz()
ZIP64 = struct.pack("<HHQQ", 1, 16, 2**62, 2**62)

IDX = {
    "empty": (b"", "an empty file"),
    "two bytes": (b"\x00\x00", "begins 0000"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(40), "begins 89504e47"),
    "floats": (idx(IMAGES, code=13), "begins 00000d03, expected IDX of unsigned bytes"),
    "no dimension": (b"\x00\x00\x08\x00", "1 to 8 dimensions"),
    "header cut": (b"\x00\x00\x08\x03" + bytes(5), "begins 00000803"),
    "255 dimensions": (idx_header((1,) * 255) + b"\x00", "1 to 8 dimensions"),
    "no samples": (idx_header((0, 2**32 - 1)), "dimensions of at least 1"),
    "forged huge shape": (idx_header((2**32 - 1,) * 3), "announce 79228162458924105385300197375"),
    "forged shape": (idx_header((60000, 28, 28)) + bytes(99), "got 99 bytes after the header, expected 47040000"),
    "truncated": (SMALL[:-1], "got 15 bytes after the header, expected 16"),
    "trailing byte": (SMALL + b"\x00", "more than 16 bytes after the header, expected 16"),
    "an npy file": (npy(), "begins 934e554d"),
    "page behind a mark": (b"\xef\xbb\xbf<!DOCTYPE html><html></html>", "a page of HTML"),
    "page saved as gz": (b"\n<!DOCTYPE html><html>no such key</html>", "a page of HTML download the file itself"),
    "gz cut": (gzip.compress(SMALL)[:-6], "damaged content ended before"),
    "gz cut in its header": (b"\x1f\x8b\x08", "damaged content"),
    "gz of another checksum": (gz(deflated(SMALL), b"other"), "damaged content CRC"),
    "gz with a damaged middle": (gzip.compress(SMALL)[:12] + b"\xff\xff\xff" + bytes(30), "damaged content"),
    "gz and garbage": (gzip.compress(SMALL) + b"garbage", "damaged content Not a gzipped file"),
    "gz in gz": (gzip.compress(gzip.compress(SMALL)), "begins 1f8b"),
    "gz of nothing": (gzip.compress(b""), "an empty file"),
    "honest bomb": (
        lambda: gz(bomb(idx_header((8 * GIB // 2**20, 2**20)), 8192)),
        "announce 8589934592 expected at most",
    ),
    "bomb behind few": (lambda: gz(bomb(idx_header((10, 10)), 8192)), "more than 100 bytes"),
    "bomb behind 60 MB": (lambda: gz(bomb(idx_header((60, 10**6)), 8192)), "more than 60000000 bytes"),
    "300 MB less a byte": (nearly_whole, "damaged content"),
}
NPZ = {
    "empty": (b"", "damaged content not a zip file"),
    "no archive": (b"x" * 1000, "damaged content not a zip file"),
    "an npy file": (npy(), "not a zip file"),
    "cut": (WHOLE[:-30], "damaged content"),
    "begun late": (WHOLE[40:], "damaged content"),
    "nothing in it": (b"".join(archive()), "entries [] expected arrays x_train, y_train"),
    "other arrays": (b"".join(archive(("a\x1b[2J", entry(npy())))), r"entries expected arrays x_train a\x1b[2J"),
    "an array twice": (b"".join(archive(*[(k, entry(npy())) for k in ("x_train", "x_train")])), "two arrays x_train"),
    "encrypted": (npz(entry(npy(), flags=1)), "x_train an encrypted entry"),
    "LZMA": (npz(entry(npy(), method=14)), "compression method 14"),
    "unknown method": (npz(entry(npy(), method=99)), "compression method 99"),
    "another checksum": (npz(entry(npy(), crc=1)), "x_train damaged content CRC"),
    "another name inside": (npz(entry(npy(), local=b"z_train.npy")), "x_train damaged content differ"),
    "size too small": (npz(entry(npy(), size=80)), "damaged content CRC"),
    "size too large": (npz(entry(npy(shape=(4, GIB)), size=2**32 - 2)), "announce 4294967296"),
    "packed size too large": (npz(entry(npy(data=bytes(4)), packed=2**31, method=0)), "x_train"),
    "zip64 sizes": (npz(entry(npy(), method=0, size=2**32 - 1, packed=2**32 - 1, extra=ZIP64)), "x_train"),
    "zip64 cut": (npz(entry(npy(), size=2**32 - 1, extra=ZIP64[:8])), "damaged content"),
    "zip in zip": (npz(entry(WHOLE)), "magic string is not correct"),
    "directory elsewhere": (
        b"".join(archive(("x_train", entry(npy())), ("y_train", entry(npy())), offset=10**6)),
        "damaged content",
    ),
    "30000 names": (lambda: b"".join(archive(*[(f"{i:09}", entry(b"")) for i in range(30000)])), "of directory"),
    "honest bomb": (
        lambda: npz(
            entry(
                b"",
                raw=bomb(npy(shape=(8, GIB), data=b""), 8192),
                size=2**32 - 1,
                extra=struct.pack("<HHQ", 1, 8, 9 * GIB),
            )
        ),
        "announce 8589934592",
    ),
    "bomb behind few": (
        lambda: npz(entry(b"", raw=bomb(npy(shape=(5, 5), data=b""), 2048), size=2**31)),
        "more than 25 bytes",
    ),
    "bomb for a header": (
        lambda: npz(entry(b"", raw=bomb(npy_text("{", b"", 2, 2**32 - 1), 2048, b" "), size=2**31)),
        "header EOF",
    ),
    "forged huge shape": (npz(entry(npy(shape=(10**9, 10**9)))), "announce 1000000000000000000"),
    "shape without end": (npz(entry(npy(shape=(10**4000, 10**4000)))), "8 dimensions less than 2**63"),
    "negative shape": (npz(entry(npy(shape=(-6, -4)))), "dimensions of at least 1"),
    "no samples": (npz(entry(npy(shape=(10**18, 0), data=b""))), "dimensions of at least 1"),
    "99 dimensions": (npz(entry(npy(shape=(1,) * 99))), "1 to 8 dimensions"),
    "shape of truth": (npz(entry(npy(shape=(True, 4)))), "1 to 8 dimensions"),
    "shape of truth in labels": (npz(None, entry(npy(shape=(True,), data=b"1"))), "1 to 8 dimensions"),
    "shape of text": (npz(entry(npy(shape="many"))), "shape is not valid"),
    "order of text": (npz(entry(npy(fortran_order="yes"))), "fortran_order is not a valid bool"),
    "version 9": (npz(entry(npy(version=9))), "version (9, 0)"),
    "code for a header": (npz(entry(npy_text("__import__('os').abort()"))), "header that NumPy cannot read"),
    "parentheses": (npz(entry(npy_text("(" * 9000))), "header that NumPy cannot read"),
    "nested header": (npz(entry(npy_text("[" * 150 + "]" * 150))), "header that NumPy cannot read"),
    "long header": (npz(entry(npy_text(" " * 60000))), "header that NumPy cannot read"),
    "truncated": (npz(entry(npy(data=bytes(23)))), "got 23 bytes after the header, expected 24"),
    "trailing byte": (npz(entry(npy(data=bytes(25)))), "more than 24 bytes"),
    "structured": (npz(entry(npy(descr=[("a", "<f8")], shape=(3,)))), "dtype expected real numbers"),
    "text": (npz(entry(npy(descr="<U6", shape=(1,)))), "dtype <U6 expected real numbers"),
    "complex": (npz(entry(npy(np.zeros((6, 4), complex)))), "dtype complex128 expected real numbers"),
    "huge items": (npz(entry(npy(descr="|V2147483647", shape=(2**40,)))), "dtype"),
    "dates": (npz(entry(npy(descr="<M8[s]", shape=(3,)))), "dtype datetime64"),
    "NaN": (npz(entry(npy(np.full((6, 4), np.nan)))), "x_train NaN or infinity"),
    "infinity": (npz(entry(npy(np.full((6, 4), np.inf, np.float32)))), "x_train NaN or infinity"),
    "samples without features": (npz(entry(npy(np.zeros(6)))), "x_train shape (6,)"),
    "fewer labels": (npz(None, entry(npy(np.arange(5)))), "6 samples and labels of shape (5,)"),
    "one-hot labels": (npz(None, entry(npy(np.eye(6)))), "labels of shape (6, 6) argmax"),
    "huge label": (npz(None, entry(npy(np.full(6, 1e300)))), "labels label 1e+300 64-bit integers"),
    "labels without end": (
        lambda: npz(entry(npy(np.zeros((70000, 1), np.uint8))), entry(npy(np.arange(70000)))),
        "70000 different labels",
    ),
    "half a label": (npz(None, entry(npy(np.full(6, 0.5)))), "label 0.5"),
    "samples without labels": (npz(x_test=entry(npy())), "only x_test x_train y_train"),
    "other test samples": (
        npz(x_test=entry(npy(np.zeros((2, 9)))), y_test=entry(npy(np.zeros(2)))),
        "test samples of shape (9,), expected (4,)",
    ),
}
CSV = {
    "empty": (b"", "no line of numbers"),
    "blank lines": (b"\n\r\n\n", "no line of numbers"),
    "header only": (b"label,a,b\n", "no line of numbers"),
    "one column": (b"1\n2\n", "without a comma"),
    "no label": (b"label;a\n0;1\n", "column 'label' one line, expected labels that repeat --label"),
    "one sample": (b"0,1\n", "column 1 only 0, expected labels"),
    "short row": (b"0,1,2\n1,1\n", "line 2 got 2 cells, expected 3, as in the first line"),
    "long row": (b"a,b,c\n\n0,1,2\n1,1,2,3\n", "line 4 got 4 cells, expected 3"),
    "short row of text": (b"a,1,2\na,1\n", "line 2 got 2 cells, expected 3"),
    "short row far below": (lambda: rows(300000, "5,5\n"), "line 300001 got 2 cells"),
    "text": (b"0,1\n1,x\n0,2\n1,3\n", "line 2, column 2 got 'x', expected a number"),
    "escape codes": (b"0,1\n1,\x1b[2J\n", r"line 2, column 2 \x1b printable characters"),
    "nothing in a cell": (b"0,1\n1,\n", "line 2, column 2 got no value (''), fill it in"),
    "no label in a cell": (b"a,1\nb,1\n,1\n", "line 3, column 1 got no value ('')"),
    "a missing value": (b"a,age\n0,1\n1,NA\n", "line 3, column 'age' got no value ('NA')"),
    "cut in the last line": (b"0,1,2\n1,2,", "line 2, column 3 got no value"),
    "NUL": (b"0,1\n\x00,\x00\n", "line 2 bytes that are not text in UTF-8"),
    "zeros": (lambda: bytes(2**23), "a line of more than 4194304 bytes"),
    "UTF-16": ("0,1\n1,2\n".encode("utf-16"), "line 1 bytes that are not text in UTF-8"),
    "Latin-1": (b"0,1\n1,\xe9\n", "line 2 bytes that are not text in UTF-8"),
    "a page": (b"<html><body>404</body></html>", "a page of HTML"),
    "NaN label": (b"0,1\nnan,1\n", "line 2, column 1 got no value ('nan')"),
    "infinite label": (b"0,1\n1e999,1\n", "line 2, column 1 '1e999', a finite number"),
    "huge label": (b"0,1\n1e300,1\n" * 2, "column 1 label 1e+300 64-bit integers"),
    "half a label": (b"0,1\n0.5,1\n" * 2, "column 1 got 0.5, expected labels"),
    "endless label": (lambda: b"a,1\n" + b"b" * 10**6 + b",1\n", "line 2, column 1 at most 100 printable characters"),
    "endless quotes": (lambda: b'0,"' + b"1,2\n" * 10**5, "line 1"),
    "a field beyond csv's limit": (lambda: b'0,"' + b"1" * 2**20 + b'x"\n', "line 1 quotes that cannot be read"),
    "labels without end": (lambda: b"".join(b"a%d,1\n" % i for i in range(70000)) * 2, "70000 different labels"),
    "numbers with a comma": (b"1,5;1\n2,5;0\n", "line 1, column 1 '1,5', a number with a point"),
    "two columns of text": (b"a,b\nx,1\n1,y\n", "line 3, column 'b' 'y', a number, as in other lines"),
    "a column's name": (b"\x1b[2J,b\n1,nan\n2,1\n", "column 'b' no value"),
    "infinite number": (b"0,1\n0,1e999\n", "line 2, column 2 '1e999', a finite number"),
    "endless line": (lambda: b"1" * 2**23, "a line of more than 4194304 bytes"),
    "endless number": (lambda: b"0," + b"9" * 2**21 + b"\n0,1\n", "line 1, column 2 999... expected a number"),
    "endless header": (lambda: b"a," * 2**22, "a line of more than 4194304 bytes"),
    "two million columns": (lambda: b"0" + b",1" * (2**21 - 9) + b"\n1,1\n", "line 2 got 2 cells"),
}
PLACES = {
    "pipe": Hostile(LOAD, fifo, "a pipe, device or socket"),
    "device": Hostile(LOAD, link("x.npz", "/dev/zero"), "a pipe, device or socket"),
    "device for IDX": Hostile(READ, link("x", "/dev/zero"), "a pipe, device or socket"),
    "links in a circle": Hostile(LOAD, link("x.npz", "x.npz"), "symbolic links"),
    "link to nothing": Hostile(LOAD, link("x.csv", "y.csv"), "no such file"),
    "no file": Hostile(LOAD, lambda folder: folder / "x.npz", "no such file"),
    "name too long": Hostile(LOAD, lambda folder: folder / ("x" * 300), "name too long"),
    "no name": Hostile(LOAD, lambda folder: folder / "x\x00.npz", r"null \x00"),
    "locked": Hostile(LOAD, locked, "permission denied"),
    "folder for IDX": Hostile(READ, lambda folder: folder, "a folder, expected a regular file"),
    "empty folder": Hostile(LOAD, lambda folder: folder, "expected train-images-idx3-ubyte"),
    "other suffix": Hostile(LOAD, file("x.pkl", pickle.dumps(1)), "a file with another suffix .npz .csv"),
    "IDX without labels": Hostile(LOAD, folder_of(x=IMAGES), "train-labels-idx1-ubyte"),
    "IDX of fewer labels": Hostile(LOAD, folder_of(x=IMAGES, y=LABELS[1:]), "6 samples and labels of shape (5,)"),
    "IDX twice": Hostile(LOAD, folder_of(x=IMAGES, y=LABELS, other_x=IMAGES), "both one other-train-images"),
    "IDX without test labels": Hostile(LOAD, folder_of(x=IMAGES, y=LABELS, tx=IMAGES), "only x_test"),
    "IDX of other tests": Hostile(
        LOAD, folder_of(x=IMAGES, y=LABELS, tx=np.zeros((6, 3, 3)), ty=LABELS), "test samples of shape (3, 3)"
    ),
    "IDX swapped": Hostile(LOAD, folder_of(x=LABELS, y=IMAGES), "x_train shape (6,)"),
    "IDX cut in a folder": Hostile(LOAD, folder_of(x=idx(IMAGES)[:-1], y=LABELS), "images-idx3-ubyte got 23 bytes"),
    "IDX with a hole": Hostile(READ, sparse("x", idx_header((32, GIB)), 32 * GIB + 12), "announce 34359738368"),
    "pickle": Hostile(LOAD, pickled, "pickled objects"),
    "forged directory": Hostile(LOAD, forged_directory, "bytes of directory"),
    "bomb of lines": Hostile(LOAD, file("x.csv.gz", lambda: gz(bomb(b"0,1\n", 8192, b"\n"))), "expand to more"),
    "bomb of one line": Hostile(LOAD, file("x.csv.gz", lambda: gz(bomb(b"0,1\n", 8192, b"1"))), "a line of more than"),
    "bomb of numbers": Hostile(
        LOAD, file("x.csv.gz", lambda: gz(bomb(b"0,1\n", 60, b"0,.5\n1,2.\n"))), "expand to more"
    ),
    "IDX of images only": Hostile(
        LOAD,
        folder_of(x=IMAGES, tx=IMAGES),
        "only t10k-images-idx3-ubyte, train-images-idx3-ubyte, expected train-labels-idx1-ubyte, plain",
    ),
    "npy": Hostile(LOAD, file("x.npy", npy()), "a file with another suffix np.savez"),
    "CSV cut in gz": Hostile(LOAD, file("x.csv.gz", gzip.compress(rows(999))[:-9]), "damaged content"),
}
CORPUS = {
    **{f"IDX: {name}": Hostile(READ, file("x.gz", content), words) for name, (content, words) in IDX.items()},
    **{f"npz: {name}": Hostile(LOAD, file("x.npz", content), words) for name, (content, words) in NPZ.items()},
    **{f"CSV: {name}": Hostile(LOAD, file("x.csv", content), words) for name, (content, words) in CSV.items()},
    **{f"place: {name}": hostile for name, hostile in PLACES.items()},
}
HONEST = {
    "IDX": Hostile(READ, file("x", SMALL), ""),
    "IDX in gz": Hostile(READ, file("x.gz", lambda: gzip.compress(idx(np.zeros((60000, 28, 28))), 1)), ""),
    "folder": Hostile(LOAD, folder_of(x=IMAGES, y=LABELS, tx=IMAGES, ty=LABELS), ""),
    "npz": Hostile(LOAD, file("x.npz", WHOLE), ""),
    "CSV of text": Hostile(LOAD, file("x.csv", b'"";"a";"b";"kind"\n' + b'"1";0.5;"7";"x y"\n"2";-1e3;2;z\n' * 40), ""),
    "CSV": Hostile(LOAD, file("x.csv", b"label,a\n" + rows(99).replace(b",0\n", b"\n")), ""),
}
# Nearly the largest expansion allowed for small files.
LARGE = {
    "CSV": Hostile(LOAD, file("x.csv.gz", lambda: gzip.compress(b"0,.5\n1,2.\n" * (2**23 // 10), 1)), ""),
    "CSV of text": Hostile(LOAD, file("x.csv.gz", lambda: gzip.compress(b"0,.5,a\n1,2.,b\n" * (2**23 // 14), 1)), ""),
    "npz": Hostile(
        LOAD,
        file("x.npz", lambda: npz(entry(npy(np.full((64, 2**17 - 2), 0.5))), entry(npy(np.arange(64) % 2)))),
        "",
    ),
}
