"""Digests of a matrix depend on its values alone, and not on how it is stored."""

import hashlib

import numpy as np
import pytest
from compare import FORMS, assert_same_end, matrix_of

import fastmlp
from fastmlp import blocks, digests

N, M = 30, 2501


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr("fastmlp.kernels.inputs.CHUNK", 150)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 20_000)
    monkeypatch.setattr(digests, "_GROUP", 7 * N + 5)


def naive(x, scale):
    """Return the digest of a matrix (n, m), group by group of seven samples."""
    sha = hashlib.sha256(f"{x.shape} {x.dtype} {scale!r}".encode())
    for first in range(0, x.shape[1], 7):
        numbers = x[:, first : first + 7].T.reshape(-1)
        places = np.flatnonzero(numbers)
        if 4 * len(places) * (4 + x.itemsize) < numbers.nbytes:
            sha.update(b"entries" + places.astype("<u4").tobytes() + numbers[places].tobytes())
        else:
            sha.update(b"rows" + np.abs(numbers).tobytes())
    return sha.hexdigest()


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_have_one_digest(rng, form, dtype, tmp_path):
    x = matrix_of(rng, form, N, M, dtype)
    x[:, : M // 3] *= rng.random((N, M // 3)) < 0.02  # some groups as rows, some as entries
    scale = 1 / 255 if form == "uint8" else 1.0
    found = set()
    for name in ("numba", "numpy"):
        try:
            fastmlp.set_backend(name)
        except ImportError:
            continue
        for options in ({}, {"minibatches": True}, {"path": tmp_path / "a.pack"}):
            found.add(fastmlp.pack(x, scale, **options).content())
            found.add(fastmlp.pack(np.asfortranarray(x), scale, **options).content())
        sparse = pytest.importorskip("scipy.sparse")
        found.add(fastmlp.pack(sparse.csc_array(x), scale).content())
    assert found == {naive(x, scale)}


def test_negative_zeros_are_zeros(backend):
    x = np.random.default_rng(0).random((N, M))
    x[x < 0.1] = 0
    assert fastmlp.pack(np.where(x == 0, -0.0, x)).content() == fastmlp.pack(x, minibatches=True).content()


def test_another_value_shape_dtype_or_scale_is_another_digest(backend, rng, tmp_path):
    x = matrix_of(rng, "uint8", N, M, np.float64)
    changed = x.copy()
    changed[3, -1] ^= 1
    others = [(x, None), (changed, None), (x, 0.5), (x.astype(np.float64), None), (x.reshape(M, N), None)]
    assert len({fastmlp.pack(one, scale).content() for one, scale in others}) == len(others)
    assert len({fastmlp.pack(one, scale, path=tmp_path / "a").content() for one, scale in others}) == len(others)


@pytest.mark.parametrize("to_file", [True, False])
def test_a_run_resumes_between_memory_and_a_packed_file(backend, rng, tmp_path, to_file):
    x, y = matrix_of(rng, "uint8", N, M, np.float64), rng.integers(4, size=M)
    pair = [fastmlp.pack(x, 1 / 255), fastmlp.pack(x, 1 / 255, path=tmp_path / "a.pack")]
    first, second = pair if to_file else pair[::-1]
    options = {"batch_size": 64, "shuffle": "blocks", "checkpoint": tmp_path / "run"}

    def trained(given, epochs, **more):
        model = fastmlp.MLP((N, 9, 4), seed=1)
        return model, model.fit(given, y, epochs=epochs, validation=(given, y), **{**options, **more})

    trained(first, 2)
    assert_same_end(trained(second, 4, resume=True), trained(first, 4, checkpoint=None))
