"""Minibatches from packed files: the bits of the same matrix in memory, and within the bound of memory."""

import numpy as np
import pytest
from compare import FORMS, assert_same_end, matrix_of

import fastmlp
from fastmlp import blocks, feeding, storage
from fastmlp.optimizers import SGD, Adam

N, M, F8 = 30, 2501, np.dtype("float64")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of one leaf, and buffers of three blocks."""
    monkeypatch.setattr("fastmlp.kernels.inputs.CHUNK", 150)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)
    for module in ("batches", "feeding", "packs"):
        monkeypatch.setattr(f"fastmlp.{module}.BUFFER", 3)


@pytest.fixture
def pair(rng, tmp_path):
    """Return a function that returns a matrix of a form in memory and in a file, and its labels."""

    def make(form="uint8", dtype=np.float64):
        x, scale = matrix_of(rng, form, N, M, dtype), 1 / 255 if form == "uint8" else None
        mapped = fastmlp.pack(x, scale=scale, path=tmp_path / f"{form}.pack")
        assert len(mapped._file.blocks) > 9
        return fastmlp.pack(x, scale=scale), mapped, rng.integers(4, size=M)

    return make


def trained(x, y, dtype=F8, **options):
    model = fastmlp.MLP((N, 9, 4), dtype=dtype.name, seed=1)
    history = model.fit(x, y, **{"epochs": 2, "optimizer": Adam(0.01), "batch_size": 64, "shuffle": "blocks"} | options)
    return model, history


@pytest.mark.parametrize("form", FORMS)
def test_training_gives_the_bits_of_memory(backend, dtype, form, pair):
    held, mapped, y = pair(form, dtype)
    weight = np.linspace(0, 2, M)
    options = {"sample_weight": weight, "class_weight": {1: 3.0}, "l2": 1e-3, "clip_norm": 1.0}
    assert_same_end(trained(mapped, y, dtype, **options), trained(held, y, dtype, **options))
    options = {"validation": (mapped, y), "epochs": 30, "patience": 2, "optimizer": SGD(2.0, momentum=0.9)}
    one, history = trained(mapped, y, dtype, **options)
    assert_same_end((one, history), trained(held, y, dtype, **options))
    assert history.stopped == "patience"


def test_in_the_given_order(backend, pair):
    held, mapped, y = pair()
    assert_same_end(trained(mapped, y, shuffle=False), trained(held, y, shuffle=False))


def test_a_regression_gives_the_bits_of_memory(backend, dtype, pair, rng):
    held, mapped, _ = pair("sparse", dtype)
    y = rng.random((4, M))
    one, other = (fastmlp.MLP((N, 9, 4), dtype=dtype.name, loss="huber") for _ in range(2))
    first, second = (m.fit(x, y, 2, batch_size=40, shuffle="blocks") for m, x in ((one, mapped), (other, held)))
    assert_same_end((one, first), (other, second))


def test_neither_threads_nor_memory_nor_the_length_of_calls_changes_bits(backend, pair, monkeypatch):
    _, mapped, y = pair()
    expected = trained(mapped, y)
    longest = max(block.length for block in mapped._file.blocks)
    tight = fastmlp.open_pack(mapped._file.path, memory=5 * mapped.block * N + longest)
    assert_same_end(trained(tight, y), expected)
    for seconds, threads in ((0.0, 1), (9.0, 2)):
        monkeypatch.setattr("fastmlp.methods.minibatches._CHUNK_SECONDS", seconds)
        fastmlp.set_num_threads(threads)
        assert_same_end(trained(mapped, y), expected)


def test_blocks_are_shuffled_by_default(backend, pair):
    held, mapped, y = pair()
    assert_same_end(trained(mapped, y, shuffle=None), trained(mapped, y))
    assert_same_end(trained(held, y, shuffle=None), trained(held, y, shuffle="samples"))
    with pytest.raises(ValueError, match=r"shuffle: got 'samples' .* expected 'blocks' or False; pass 'blocks'"):
        trained(mapped, y, shuffle="samples")


def test_a_small_file_allows_every_order(backend, pair, monkeypatch):
    held, mapped, y = pair()
    for module in ("batches", "feeding", "packs"):
        monkeypatch.setattr(f"fastmlp.{module}.BUFFER", 30)
    tight = fastmlp.open_pack(
        mapped._file.path, memory=mapped._file.size + 2 * M * N + 1
    )  # rows, but not lists as well
    for shuffle in ("samples", "batches", "blocks"):
        for given in (mapped, tight):
            assert_same_end(trained(given, y, shuffle=shuffle), trained(held, y, shuffle=shuffle))


def test_each_block_is_read_once_in_an_epoch_and_ahead_of_use(backend, pair, monkeypatch):
    _, mapped, y = pair()
    read, ahead = [], []
    arrays, read_ahead = mapped._file.arrays, mapped._file.read_ahead
    monkeypatch.setattr(mapped._file, "arrays", lambda number: read.append(number) or arrays(number))
    monkeypatch.setattr(
        mapped._file, "read_ahead", lambda number: ahead.append((number, len(read))) or read_ahead(number)
    )
    mapped._memory = 10**6
    mapped._kept = None
    trained(mapped, y, epochs=1)
    assert sorted(read) == list(range(len(mapped._file.blocks)))
    asked = dict(reversed(ahead))
    assert all(asked[number] < at for at, number in enumerate(read) if at > 0)


@pytest.mark.parametrize("within", [5, 25, 39])
def test_a_run_that_ended_within_an_epoch_resumes_to_the_same_bits(backend, pair, tmp_path, within):
    held, mapped, y = pair()

    def rate(update, updates):
        if update == within + 1:
            raise KeyboardInterrupt
        return 0.01

    options = {"checkpoint": tmp_path / "run", "checkpoint_every": 0}
    _, history = trained(mapped, y, optimizer=Adam(rate), **options)
    assert (history.stopped, len(history)) == ("interrupt", 0)
    assert 0 < int(storage.load(tmp_path / "run").facts["update"]) <= within
    assert_same_end(trained(mapped, y, resume=True, **options), trained(held, y))


def test_two_models_learn_from_one_file_at_once(backend, pair):
    _, mapped, y = pair()
    others = []
    one = trained(mapped, y, callback=lambda *_: others.append(trained(mapped, y)))
    for found in (one, *others):
        assert_same_end(found, trained(mapped, y))


def test_too_little_memory_is_refused(backend, pair, monkeypatch):
    _, mapped, y = pair()
    monkeypatch.setattr("fastmlp.packs.BUFFER", 1000)
    enough = M * N + mapped._file.blocks[0].length
    tight = fastmlp.open_pack(mapped._file.path, memory=enough - 1)
    with pytest.raises(ValueError, match=rf"memory: got {enough - 1} bytes, expected at least (\d+) for .*=\1\)"):
        trained(tight, y)


@pytest.mark.parametrize("blocks_in_memory", [3, 1000])
def test_by_default_there_is_memory_enough(backend, pair, monkeypatch, blocks_in_memory):
    """Else files with long samples, and pictures by the hundred thousand, would be refused."""
    for module in ("batches", "feeding", "packs"):
        monkeypatch.setattr(f"fastmlp.{module}.BUFFER", blocks_in_memory)
    monkeypatch.setattr("fastmlp.packs._MEMORY", 1)
    held, mapped, y = pair()
    assert mapped._file.size > mapped._memory or blocks_in_memory == 1000
    assert_same_end(trained(mapped, y), trained(held, y))


def test_a_block_that_cannot_be_read_costs_no_other(backend, pair, monkeypatch):
    """Its place is free again, and no other block's is taken for it."""
    _, mapped, y = pair()
    mapped._memory, mapped._kept = 10**6, None
    read, feeds, broken = type(mapped)._read, [], []
    order = np.random.default_rng(0).permutation(4 * mapped.block).astype(np.int32)

    def breaking(self, number, rows):
        if broken:
            raise OSError(broken.pop())
        read(self, number, rows)

    monkeypatch.setattr(type(mapped), "_read", breaking)
    begin = feeding.Feed.__init__
    monkeypatch.setattr(feeding.Feed, "__init__", lambda self, *args: feeds.append(self) or begin(self, *args))
    trained(mapped, y, epochs=1)
    feed = feeds[0]
    feed.begin_epoch(np.arange(M, dtype=np.int32))
    for blocks_of_call in ((0, 1, 2), (3,), (1, 2), (4, 0), (2, 1)):
        some = order[np.isin(order // mapped.block, blocks_of_call)]
        if blocks_of_call == (3,):
            broken.append("gone")
            with pytest.raises(OSError, match="gone"):
                feed._drawn(some)
        np.testing.assert_array_equal(feed._drawn(some), mapped.rows(0, M)[some])
