"""What memory held before a step shows in no bit of its results."""

import itertools

import compare
import numpy as np
import pytest
from compare import assert_same_bits

import fastmlp

SIZES = [(9, 1, 9, 2), (9, 9, 1, 33, 2), (33, 1, 64, 1, 10), (9, 17, 5, 3), (1, 1, 1, 1), (7, 129, 1)]
FORMS = {
    "plain": np.asfortranarray,
    "by features": np.ascontiguousarray,
    "packed": fastmlp.pack,
    "mostly zeros": lambda x: fastmlp.pack(x * (x > 1)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_memory_of_a_step(compiled, rng, dtype, sizes, form, monkeypatch):
    make_rooms = compiled.problem.make_rooms

    def filled(value):
        def make(*args):
            rooms = make_rooms(*args)
            for one in rooms:
                if isinstance(one, np.ndarray) and one.dtype.kind == "f":
                    one[...] = value
            return rooms

        return make

    for m in (7, 130, 2001):
        x, y = rng.standard_normal((sizes[0], m)).astype(dtype), rng.standard_normal((sizes[-1], m)).astype(dtype)
        given, found = FORMS[form](x), []
        for value, threads in itertools.product((0, np.nan), {1, fastmlp.get_num_threads()}):
            monkeypatch.setattr(compiled.problem, "make_rooms", filled(value))
            compiled.problem._kept.rooms = (None, None, None)
            net = fastmlp.MLP(sizes, dtype=dtype.name, seed=1, loss="squared_error")
            with fastmlp.use_threads(threads):
                found.append((net.loss_and_grad(given, y)[1], net.predict(given)))
        for gradient, outputs in found[1:]:
            assert_same_bits(gradient, found[0][0])
            assert_same_bits(outputs, found[0][1])
    compiled.problem._kept.rooms = (None, None, None)


@pytest.mark.parametrize("form", compare.FORMS)
def test_memory_of_a_packed_file(compiled, rng, dtype, form, tmp_path, monkeypatch):
    """Also behind the last sample of a tile that is short, at the end of each leaf or of all."""
    x = compare.matrix_of(rng, form, 30, 7700, dtype)
    aligned = compiled.packing.aligned

    def written(value):
        def filled(count, kind):
            memory = aligned(count, kind)
            memory.fill(value)
            return memory

        monkeypatch.setattr(compiled.packing, "aligned", filled)
        fastmlp.pack(x, path=tmp_path / "a.pack")
        return (tmp_path / "a.pack").read_bytes()

    assert written(7) == written(0)
