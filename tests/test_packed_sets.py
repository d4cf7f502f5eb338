"""``fastmlp pack``, and the commands on the files that it writes."""

import gzip
import json
import re

import numpy as np
import pytest
from compare import assert_same_bits

import fastmlp
from fastmlp import blocks, packed_sets

pytest.importorskip("sklearn")
N, M = 64, 2400


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("fastmlp.kernels.inputs.CHUNK", 150)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)


@pytest.fixture
def pictures(rng):
    """Return pictures of four classes, and their labels."""
    y = rng.integers(4, size=M).astype(np.uint8)
    x = rng.integers(100, size=(M, 8, 8)).astype(np.uint8)
    x[np.arange(M), y] += 150
    return x, y


@pytest.fixture
def tell(run):
    """Return a function that runs a command and returns its result, which must be good."""

    def call(words, *paths):
        status, printed, errors = run(words, *paths, "--json")
        assert status == 0, errors
        return json.loads(printed)

    return call


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + b"".join(length.to_bytes(4, "big") for length in array.shape)
    return head + array.tobytes()


def write_idx(folder, x, y, write=lambda data: data, part="train"):
    folder.mkdir(exist_ok=True)
    for name, array in ((f"{part}-images-idx3-ubyte", x), (f"{part}-labels-idx1-ubyte", y)):
        (folder / name).write_bytes(write(idx(array)))


def test_pictures_are_the_same_from_all_sources_and_are_mapped(tmp_path, pictures, tell, monkeypatch):
    x, y = pictures
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y.astype(np.int64))
    tell("pack --labels", tmp_path / "y.npy", tmp_path / "x.npy", "--to", tmp_path / "a.pack")
    write_idx(tmp_path / "plain", x, y)
    write_idx(tmp_path / "small", x, y, gzip.compress)
    np.savez(tmp_path / "set.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    seen = []
    columns = packed_sets.preprocessing.columns
    monkeypatch.setattr(packed_sets.preprocessing, "columns", lambda x, _: seen.append(type(x)) or columns(x, _))
    packed = fastmlp.open_pack(tmp_path / "a.pack")
    assert len(packed._file.blocks) > 8
    assert_same_bits(packed.to_dense(), x.reshape(M, -1).T / 255.0)
    assert_same_bits(packed.labels, y)
    for source in ("plain", "small", "set.npz"):
        tell("pack", tmp_path / source, "--to", tmp_path / "b.pack")
        other = fastmlp.open_pack(tmp_path / "b.pack")
        assert other.content() == packed.content()
        assert_same_bits(other.labels, packed.labels)
        assert {**other.notes, "data": ""} == {**packed.notes, "data": ""}
    assert seen == [np.memmap, np.ndarray, np.ndarray]


def test_a_model_of_a_packed_file_is_that_of_the_samples(backend, tmp_path, pictures, tell):
    x, y = pictures
    np.savez(tmp_path / "set.npz", x_train=x[:2200], y_train=y[:2200], x_test=x[2200:], y_test=y[2200:])
    tell("pack", tmp_path / "set.npz", "--to", tmp_path / "a.pack")
    tell("pack --part test", tmp_path / "set.npz", "--to", tmp_path / "test.pack")
    found = tell("train --epochs 6 --save", tmp_path / "m", tmp_path / "a.pack")
    model = fastmlp.MLP.load(tmp_path / "m")
    same = fastmlp.MLP((N, 128, 4), dtype="float32")
    adam = fastmlp.optimizers.Adam(fastmlp.schedules.one_cycle(8e-3), beta2=0.99)
    held = fastmlp.pack(x[:2200].reshape(2200, -1).T, 1 / 255)
    same.fit(held, y[:2200], 6, batch_size=32, optimizer=adam, shuffle="blocks")
    assert_same_bits(model.parameters, same.parameters)
    assert (found["samples"], found["test"], found["dtype"]) == (2200, None, "float32")
    scores = tell("evaluate", tmp_path / "m", tmp_path / "test.pack")
    assert scores["accuracy"] > 0.9
    raw = tell("evaluate", tmp_path / "m", tmp_path / "set.npz")
    assert {**raw, "data": 0, "part": 0} == {**scores, "data": 0, "part": 0}
    full = tell("train --epochs 2 --optimizer gd", tmp_path / "a.pack")
    assert (full["optimizer"], full["dtype"]) == ("gd", "float64")
    assert "2200 samples of 64" in tell("info", tmp_path / "a.pack")["packed file"]


def test_a_table_is_prepared_as_for_training(tmp_path, tell, rng):
    area, rooms, town = rng.uniform(20, 120, 300), rng.integers(1, 6, 300), np.arange(300) % 3
    rows = zip(("Bern", "Oslo", "Rome") * 100, area, rooms, 2000 * area + 9000 * rooms + 15_000 * town, strict=True)
    text = "\n".join(["town,area,rooms,price", *(",".join(map(str, row)) for row in rows)])
    (tmp_path / "houses.csv").write_text(text)
    for part in ("train", "test"):
        tell(f"pack --target price --part {part}", tmp_path / "houses.csv", "--to", tmp_path / part)
    one = tell("train --epochs 40 --optimizer lbfgs --dtype float32 --save", tmp_path / "m", tmp_path / "train")
    other = tell("train --epochs 40 --optimizer lbfgs --dtype float32 --target price", tmp_path / "houses.csv")
    assert one["history"]["loss"] == other["history"]["loss"]
    raw, packed = (tell("evaluate", tmp_path / "m", tmp_path / name) for name in ("houses.csv", "test"))
    assert packed["r2"] == raw["r2"] == pytest.approx(other["test"]["r2"], rel=1e-6)


def test_sparse_files_stay_sparse(tmp_path, tell, rng):
    lines = [f"{k % 3} {1 + k % 3}:1 {4 + rng.integers(9)}:0.5" for k in range(600)]
    (tmp_path / "news.svm").write_text("\n".join(lines))
    tell("pack --part all", tmp_path / "news.svm", "--to", tmp_path / "a.pack")
    found = tell("train --epochs 9", tmp_path / "a.pack")
    assert (found["samples"], found["history"]["accuracy"][-1]) == (600, 1.0)


def test_numbers_keep_their_scale_unless_told(tmp_path, tell, rng):
    x = rng.random((50, 3))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", x[:, 0] + 0.25)
    for words, scale in (("--dtype float64", 1.0), ("--dtype float64 --scale 1/3", 1 / 3)):
        tell(f"pack {words} --labels", tmp_path / "y.npy", tmp_path / "x.npy", "--to", tmp_path / "a.pack")
        np.testing.assert_allclose(fastmlp.open_pack(tmp_path / "a.pack").to_dense(), x.T * scale, rtol=1e-15)
    assert tell("train --epochs 2", tmp_path / "a.pack")["dtype"] == "float64"


def test_a_file_of_python_is_a_data_set(tmp_path, tell, pictures):
    x, y = pictures
    fastmlp.pack(x.reshape(M, -1).T, 1 / 255, path=tmp_path / "a.pack", Y=y)
    assert tell("train --epochs 9 --save", tmp_path / "m", tmp_path / "a.pack")["history"]["accuracy"][-1] > 0.9
    assert tell("evaluate", tmp_path / "m", tmp_path / "a.pack")["samples"] == M


def test_ctrl_c_leaves_no_file(tmp_path, pictures, run, monkeypatch):
    np.save(tmp_path / "x.npy", pictures[0])

    def stop(bar, done, total):
        if done > total // 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("fastmlp.progress.Samples.__call__", stop)
    assert run("pack", tmp_path / "x.npy", "--to", tmp_path / "a.pack")[0] == 130
    assert [one.name for one in tmp_path.iterdir()] == ["x.npy"]


def test_progress_is_shown_on_a_terminal(tmp_path, pictures, monkeypatch, run):
    pytest.importorskip("tqdm")
    np.save(tmp_path / "x.npy", pictures[0])
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    _, printed, errors = run("pack", tmp_path / "x.npy", "--to", tmp_path / "a.pack")
    assert "2.40k/2.40k" in errors
    assert "2400 samples of 64 features" in printed


def test_what_does_not_fit_is_refused(tmp_path, pictures, run):
    x, y = pictures
    a, b, table = tmp_path / "a.pack", tmp_path / "b.pack", tmp_path / "t.csv"
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y[:7])
    table.write_text("a,label\n" + "1,x\n2,y\n3,x\n4,y\n" * 3)
    write_idx(tmp_path / "idx", x, y)
    run("pack", tmp_path / "x.npy", "--to", a)
    run("pack", tmp_path / "idx", "--to", b)
    cases = [
        (("train", a), "without labels.*--labels"),
        (("train --validation 0.1", b), "--validation: got 0.1, expected other data than a packed file"),
        (("train --label first", b), "--label: got first"),
        (("pack --scale 2", table, "--to", a), "--scale: got 2.0"),
        (("pack --scale 1/0", table, "--to", a), "--scale: got '1/0', expected a number such as"),
        (("pack --labels", "y.npy", table, "--to", a), "--labels: .*expected DATA to be a .npy file"),
        (("pack --labels", tmp_path / "y.npy", tmp_path / "x.npy", "--to", a), r"labels of shape \(7,\)"),
        (("pack --part test", tmp_path / "idx", "--to", a), "--part: got test"),
        (("pack --part all", tmp_path / "x.npy", "--to", a), "--part: got all"),
        (("pack", table, "--to", table), "--to: got the file of DATA"),
        (("pack", table, "--to", tmp_path / "none" / "a"), "--to: .*no such folder"),
        (("bench", a), "another suffix"),
    ]
    run("train --epochs 1 --save", tmp_path / "m", b)
    assert run("pack --scale 1/99", tmp_path / "idx", "--to", tmp_path / "c.pack")[0] == 0
    cases.append((("evaluate", tmp_path / "m", tmp_path / "c.pack"), "scaled or encoded otherwise"))
    content = b.read_bytes()
    for name, bad in (("cut", content[:-9]), ("old", content.replace(b"pack 3", b"pack 2"))):
        (tmp_path / name).write_bytes(bad)
        cases.append((("train", tmp_path / name), "; pack it again"))
    for words, expected in cases:
        status, _, errors = run(*words)
        assert status == 2, words
        assert re.search(expected, errors), errors
