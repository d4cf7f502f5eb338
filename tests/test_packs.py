"""Packed files: the bits of a matrix in memory, any source, no damage goes unnoticed, and bounded memory."""

import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from compare import FORMS, assert_same_bits, columns, matrix_of

import fastmlp
from fastmlp import blocks

N, M = 30, 2501


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr("fastmlp.kernels.inputs.CHUNK", 150)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 20_000)


def blocks_of(packed):
    return len(packed._file.blocks)


def trained(x, y, dtype, **options):
    model = fastmlp.MLP((N, 9, 4), dtype=dtype.name, seed=1)
    history = model.fit(x, y, epochs=3, alpha=0.5, **options)
    return model, history


@pytest.mark.parametrize("form", FORMS)
def test_training_gives_the_bits_of_memory(backend, rng, dtype, form, tmp_path, small_blocks):
    x, y = matrix_of(rng, form, N, M, dtype), rng.integers(4, size=M)
    held = fastmlp.pack(x, scale=1 / 255 if form == "uint8" else None)
    mapped = fastmlp.pack(x, scale=1 / 255 if form == "uint8" else None, path=tmp_path / "a.pack")
    assert blocks_of(mapped) > 1
    assert (mapped.shape, mapped.dtype, mapped.density) == (held.shape, held.dtype, held.density)
    assert (mapped.finite, mapped.largest, mapped.kind) == (held.finite, held.largest, held.kind)
    assert_same_bits(mapped.to_dense(), held.to_dense())
    validation = [(one, y) for one in (held, mapped)]
    (one, first), (other, second) = (trained(v[0], y, dtype, validation=v) for v in validation)
    assert_same_bits(other.parameters, one.parameters)
    assert columns(first) == columns(second)
    assert_same_bits(other.predict_proba(mapped), one.predict_proba(held))
    assert other.evaluate(mapped, y) == one.evaluate(held, y)
    weight = rng.random(M)
    assert_same_bits(other.loss_and_grad(mapped, y, weight)[1], one.loss_and_grad(held, y, weight)[1])


@pytest.mark.parametrize("m", [1, 7, 121, 2000])
def test_few_samples_are_one_block(backend, rng, dtype, tmp_path, m):
    x, y = matrix_of(rng, "dense", N, m, dtype), rng.integers(4, size=m)
    mapped = fastmlp.pack(x, path=tmp_path / "a.pack")
    assert_same_bits(trained(mapped, y, dtype)[0].parameters, trained(x, y, dtype)[0].parameters)


def test_a_regression_gives_the_bits_of_memory(backend, rng, dtype, tmp_path, small_blocks):
    x, y = matrix_of(rng, "sparse", N, M, dtype), rng.random((4, M)).astype(dtype)
    model = fastmlp.MLP((N, 9, 4), dtype=dtype.name, loss="squared_error")
    mapped = fastmlp.pack(x, path=tmp_path / "a.pack")
    assert_same_bits(model.loss_and_grad(mapped, y)[1], model.loss_and_grad(fastmlp.pack(x), y)[1])


class Rows:
    """As a lightgbm.Sequence: a length, and slices that are rows."""

    batch_size = 100

    def __init__(self, rows):
        self._rows = rows

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, index):
        return self._rows[index]


class Reusing(Rows):
    """Returns each slice in the same memory."""

    def __getitem__(self, index):
        part = self._rows[index]
        self._memory = getattr(self, "_memory", self._rows.copy())
        self._memory[: len(part)] = part
        return self._memory[: len(part)]


class Torn(Rows):
    """Lacks its last sample."""

    def __getitem__(self, index):
        return self._rows[:-1][index]


def sources(x, folder):
    """Yield the name of a source of the samples, the source, and options of `pack`."""
    rows = np.ascontiguousarray(x.T)
    np.save(folder / "x.npy", x)
    yield "array", np.asfortranarray(x), {}
    yield "memory map", np.load(folder / "x.npy", mmap_mode="r"), {}
    yield "file", folder / "x.npy", {}
    yield "rows", rows, {"rows": True}
    yield "sequence", Rows(rows), {"rows": True}
    yield "memory that is used again", Reusing(rows), {"rows": True}
    yield "iterator", (rows[first : first + 333] for first in range(0, len(rows), 333)), {}


def test_all_sources_give_one_file(backend, rng, tmp_path, small_blocks):
    x = matrix_of(rng, "uint8", N, M, np.float32)
    expected = fastmlp.pack(x, path=tmp_path / "expected")
    content = (tmp_path / "expected").read_bytes()
    for name, source, options in sources(x, tmp_path):
        fastmlp.pack(source, path=tmp_path / "a.pack", **options)
        assert (tmp_path / "a.pack").read_bytes() == content, name
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.pack", "expected", "x.npy"]
    assert blocks_of(expected) > 1


@pytest.mark.parametrize("kind", ["csc_array", "csr_array"])
def test_sparse_matrices_are_sources(rng, tmp_path, small_blocks, kind):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    x = matrix_of(rng, "sparse", N, M, np.float64)
    fastmlp.pack(x, path=tmp_path / "a")
    fastmlp.pack(getattr(scipy_sparse, kind)(x), path=tmp_path / "b")
    fastmlp.pack(getattr(scipy_sparse, kind)(x.T), rows=True, path=tmp_path / "c")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_a_dataset_of_h5py_is_a_source(rng, tmp_path, small_blocks):
    h5py = pytest.importorskip("h5py")
    x = matrix_of(rng, "uint8", N, M, np.float32)
    fastmlp.pack(x, path=tmp_path / "a")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        fastmlp.pack(file.create_dataset("x", data=x.T), rows=True, path=tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_array_of_zarr_is_a_source(rng, tmp_path, small_blocks):
    zarr = pytest.importorskip("zarr")
    x = matrix_of(rng, "uint8", N, M, np.float32)
    fastmlp.pack(x, path=tmp_path / "a")
    fastmlp.pack(zarr.array(np.ascontiguousarray(x.T)), rows=True, path=tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_sequence_of_lightgbm_is_a_source(rng, tmp_path, small_blocks):
    lightgbm = pytest.importorskip("lightgbm")
    sequence = type("Sequence", (Rows, lightgbm.Sequence), {})
    x = matrix_of(rng, "uint8", N, M, np.float32)
    fastmlp.pack(x, path=tmp_path / "a")
    fastmlp.pack(sequence(x.T), rows=True, path=tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        (np.zeros((0, 3)), {}, "at least one element"),
        (iter([]), {}, "no blocks"),
        (iter([np.zeros((2, 3)), np.zeros((2, 4))]), {}, "4 features"),
        (iter([np.zeros((2, 3)), np.zeros((2, 3), np.uint8)]), {}, "uint8"),
        (Rows(np.zeros(5)), {"rows": True}, "shape"),
        (np.eye(3), {"minibatches": True}, "one form"),
        (Torn(np.zeros((5, 3))), {"rows": True}, "got 4 of 3, expected 5 samples of 3 features"),
    ],
)
def test_sources_that_do_not_fit_are_refused(source, options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        fastmlp.pack(source, path=tmp_path / "a.pack", **options)
    assert list(tmp_path.iterdir()) == []


def test_places_of_values_that_are_not_finite_are_named(rng, tmp_path, small_blocks):
    x = matrix_of(rng, "dense", N, M, np.float64)
    x[7, 2222] = np.nan
    mapped = fastmlp.pack(x, path=tmp_path / "a.pack")
    assert not mapped.finite
    with pytest.raises(ValueError, match="nan at row 7, column 2222"):
        fastmlp.MLP((N, 4)).predict(mapped)


@pytest.mark.parametrize("column", [0, 2000, 3995])
def test_the_largest_value_may_be_in_any_block(rng, tmp_path, small_blocks, column):
    """Every fifth sample is searched, those of a matrix in memory."""
    x = matrix_of(rng, "dense", N, 4001, np.float64)
    x[3, column : column + 5] = [100, 200, 300, 400, 500]
    mapped, held = fastmlp.pack(x, path=tmp_path / "a.pack"), fastmlp.pack(x)
    assert mapped.largest == held.largest == 100
    assert mapped.looks_unscaled()


def test_training_resumes(backend, rng, dtype, tmp_path, small_blocks):
    x, y = matrix_of(rng, "uint8", N, M, dtype), rng.integers(4, size=M)
    mapped = fastmlp.pack(x, path=tmp_path / "a.pack", scale=1 / 255)
    whole = fastmlp.MLP((N, 9, 4), dtype=dtype.name, seed=1)
    whole.fit(mapped, y, epochs=6)
    options = {"checkpoint": tmp_path / "c", "checkpoint_every": 0}
    fastmlp.MLP((N, 9, 4), dtype=dtype.name, seed=1).fit(mapped, y, epochs=3, **options)
    rest = fastmlp.MLP((N, 9, 4), dtype=dtype.name, seed=1)
    rest.fit(fastmlp.open_pack(tmp_path / "a.pack"), y, epochs=6, resume=True, **options)
    assert_same_bits(rest.parameters, whole.parameters)
    x[0, -1] ^= 1
    other = fastmlp.pack(x, path=tmp_path / "b.pack", scale=1 / 255)
    with pytest.raises(ValueError, match="data"):
        rest.fit(other, y, epochs=7, resume=True, **options)


@pytest.mark.parametrize("shape", [(M,), (3, M)])
@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32])
def test_labels_are_in_the_file(backend, rng, tmp_path, small_blocks, kind, shape):
    x, y = matrix_of(rng, "uint8", N, M, np.float64), rng.integers(4, size=shape).astype(kind)
    mapped = fastmlp.pack(x, path=tmp_path / "a.pack", Y=y)
    assert_same_bits(mapped.labels, y)
    assert fastmlp.pack(x, path=tmp_path / "b.pack").labels is None
    content = bytearray((tmp_path / "a.pack").read_bytes())
    content[mapped._file._beside.offset + 1] ^= 4
    (tmp_path / "a.pack").write_bytes(content)
    damaged = fastmlp.open_pack(tmp_path / "a.pack")
    damaged.to_dense()
    with pytest.raises(ValueError, match="damage in the labels.*pack it again"):
        damaged.labels  # noqa: B018
    with pytest.raises(ValueError, match=r"^Y: got an array of shape \(7,\)"):
        fastmlp.pack(x, path=tmp_path / "a.pack", Y=y[:7] if y.ndim == 1 else y[0, :7])


def test_a_pickle_opens_the_file_again(rng, tmp_path, small_blocks):
    fastmlp.pack(matrix_of(rng, "uint8", N, M, np.float64), path=tmp_path / "a.pack")
    mapped = fastmlp.open_pack(tmp_path / "a.pack", 12_345_678)
    again = pickle.loads(pickle.dumps(mapped))
    assert_same_bits(again.to_dense(), mapped.to_dense())
    assert again._memory == mapped._memory


def test_damage_is_found_or_without_effect(backend, rng, tmp_path, small_blocks):
    path = tmp_path / "a.pack"
    x = matrix_of(rng, "uint8", N, 2400, np.float64)
    expected = fastmlp.pack(x, path=path).to_dense()
    content = path.read_bytes()
    found, places = 0, [*range(14), *range(len(content) - 40, len(content)), *rng.integers(len(content), size=150)]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        refusal = ""
        try:
            actual = fastmlp.open_pack(path).to_dense()
        except ValueError as error:
            refusal = str(error)
        if refusal:
            assert "; pack it again" in refusal
            found += 1
        else:
            assert_same_bits(actual, expected)
    assert found > 60
    for length in [*range(60), *rng.integers(len(content), size=100), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="pack it again"):
            fastmlp.open_pack(path)


@pytest.mark.parametrize("has_been_read", [False, True])
@pytest.mark.parametrize("stays_mapped", [False, True])
def test_a_file_that_is_cut_or_changed_while_it_is_open_is_refused(
    rng, tmp_path, small_blocks, has_been_read, stays_mapped
):
    x = matrix_of(rng, "uint8", N, M, np.float64)
    path, labels = tmp_path / "a.pack", np.arange(M) % 4
    for change, expected in (
        (lambda file, block: file.truncate(70_000), "cut short"),
        (lambda file, block: file.seek(block.offset + 100) and file.write(b"\xaa\x55"), "damage in block 2"),
    ):
        mapped = fastmlp.pack(x, path=path, Y=labels)
        if not stays_mapped:
            mapped = fastmlp.open_pack(path, memory=2 * mapped._file.longest)
        assert (mapped._kept is not None) == stays_mapped
        if has_been_read:
            np.testing.assert_array_equal(mapped.to_dense(), x)
        os.utime(path, ns=(0, 0))  # times of files may be as coarse as the clock's ticks
        with path.open("r+b") as file:
            change(file, mapped._file.blocks[1])
        if expected.startswith("damage"):
            assert mapped.labels is not None
        with pytest.raises(ValueError, match=expected):
            mapped.to_dense()
        path.unlink()


def test_a_thread_that_reads_while_another_one_trains(rng, tmp_path, small_blocks, monkeypatch):
    """Training may give up keeping blocks mapped, for its samples."""
    x, y = matrix_of(rng, "uint8", N, M, np.float64), rng.integers(4, size=M)
    size = fastmlp.pack(x, scale=1 / 255, path=tmp_path / "a.pack")._file.size
    mapped = fastmlp.open_pack(tmp_path / "a.pack", memory=size + 1000)
    inside, go, found, read = threading.Event(), threading.Event(), [], mapped._file.arrays

    def slow(number):
        if threading.current_thread() is reader:
            inside.set()
            assert go.wait(300)
        return read(number)

    monkeypatch.setattr(mapped._file, "arrays", slow)
    reader = threading.Thread(target=lambda: found.append(mapped.to_dense()))
    reader.start()
    assert inside.wait(60)
    monkeypatch.setattr("fastmlp.packs.BUFFER", 1)
    try:
        trained(mapped, y, np.dtype("float64"), batch_size=100)
        assert mapped._kept is None
    finally:
        go.set()
        reader.join()
    np.testing.assert_array_equal(found[0], x / 255)


def test_foreign_files_are_refused(rng, tmp_path, monkeypatch):
    path = tmp_path / "a.pack"
    with fastmlp.use_backend("numpy"):
        mapped = fastmlp.pack(rng.random((3, 5)), path=path)
        monkeypatch.setattr("fastmlp.kernels.inputs.CHUNK", 150)
        with pytest.raises(ValueError, match="vector width or version.*pack it again"):
            fastmlp.open_pack(path)
    if fastmlp.get_backend() != "numpy":
        with pytest.raises(ValueError, match="numpy backend, not numba.*pack it again"):
            fastmlp.open_pack(path)
        with pytest.raises(ValueError, match="packed for the numpy backend"):
            mapped.to_dense()
    path.write_bytes(path.read_bytes().replace(b"fastmlp pack 3", b"fastmlp pack 2"))
    with pytest.raises(ValueError, match="another version"):
        fastmlp.open_pack(path)
    with pytest.raises(FileNotFoundError):
        fastmlp.open_pack(tmp_path / "none")


@pytest.mark.numba
@pytest.mark.parametrize("name", ["FULL_LEAF", "SAMPLE_TILE", "FEW_DENSE_SAMPLES", "FEATURE_BLOCK"])
def test_a_layout_tells_each_constant_of_the_machine(compiled, monkeypatch, name):
    tree, plan = (importlib.import_module(f"fastmlp.kernels.compiled.{one}") for one in ("tree", "plan"))
    before = compiled.layout(960_000, 784, 1)
    monkeypatch.setattr(compiled.tuning, name, getattr(compiled.tuning, name) // 4)
    tree.tiling.cache_clear()
    try:
        after = compiled.layout(960_000, 784, 1)
    finally:
        tree.tiling.cache_clear()
    assert after != before
    assert plan.part_size(784) == after["part"]


def test_blocks_must_fit_into_the_memory(rng, tmp_path, small_blocks):
    fastmlp.pack(matrix_of(rng, "uint8", N, M, np.float64), path=tmp_path / "a.pack")
    with pytest.raises(ValueError, match="memory: got 1000 bytes"):
        fastmlp.open_pack(tmp_path / "a.pack", memory=1000)


WRITER = """
import sys, time, numpy as np, fastmlp
fastmlp.set_backend("numpy")
def told(done, all):
    print(done, flush=True)
    time.sleep(0.2)
from fastmlp import blocks
blocks.BLOCK_BYTES = 100_000
fastmlp.pack(np.ones((10, 400_000), np.uint8), path=sys.argv[1], progress=told)
"""


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_a_writer_that_is_stopped_leaves_no_file(kind, tmp_path):
    path = tmp_path / "a.pack"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        process.stdout.readline()
        process.send_signal(kind)
        assert process.wait(30) != 0
    left = [one.name for one in tmp_path.iterdir()]
    assert len(left) == (kind == signal.SIGKILL)
    assert all(name.startswith(".a.pack.") and name.endswith(".tmp") for name in left)
    with fastmlp.use_backend("numpy"):
        fastmlp.pack(np.eye(3), path=path)
    assert [one.name for one in tmp_path.iterdir()] == ["a.pack"]


TRAINING = """
import sys, numpy as np, fastmlp
def resident(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(key))
P = fastmlp.open_pack(sys.argv[1], memory=int(sys.argv[2]))
model, y = fastmlp.MLP((P.shape[0], 8, 3), dtype="float32"), np.zeros(P.shape[1], np.int64)
small = fastmlp.pack(np.ones((P.shape[0], 5000), np.uint8), scale=1 / 255)
kw = dict(epochs=1, batch_size=100, optimizer=fastmlp.optimizers.Adam(), progress=False)
model.loss_and_grad(small, y[:5000])  # compiles
model.fit(small, y[:5000], **kw)
before = resident("VmHWM:")
model.loss_and_grad(P, y)
model.loss_and_grad(P, y)
model.fit(P, y, **kw)
print(resident("VmHWM:") - before, P.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_bounded(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2 << 20)
    x = rng.integers(256, size=(400, 200_000), dtype=np.uint8)
    fastmlp.pack(x, path=tmp_path / "a.pack", scale=1 / 255)
    bound = 40 << 20
    command = [sys.executable, "-c", TRAINING, tmp_path / "a.pack", str(bound)]
    grown, size = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert size > 3 * bound
    assert grown < bound + (20 << 20)  # targets, weights and rooms besides
