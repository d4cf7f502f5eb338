"""Steps that follow one another: a thread keeps the memory of a small one, and no step may notice."""

import concurrent.futures
import gc
import weakref

import numpy as np
import pytest
from compare import assert_same_bits

import fastmlp

pytestmark = pytest.mark.kernels

SIZES = (30, 7, 3)
FEW, MANY = 50, 400  # samples: nothing is packed, or lists


def samples(rng, m, n=SIZES[0], dtype=np.float64):
    """Return samples of many zeros, and labels."""
    return (rng.random((n, m)) * (rng.random((n, m)) < 0.3)).astype(dtype), rng.integers(SIZES[-1], size=m)


def step(model, x, y):
    """Return the loss, and a gradient that is the caller's own."""
    loss, grad = model.loss_and_grad(x, y)
    return np.append(grad, loss)


def in_fresh_thread(*case):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(step, *case).result()


@pytest.mark.parametrize("m", [FEW, MANY])
def test_a_step_after_any_other_one_is_that_of_a_fresh_thread(compiled, rng, m):
    x, y = samples(rng, m)
    soft = rng.dirichlet(np.ones(SIZES[-1]), size=m).T
    packed, other = fastmlp.pack(x), fastmlp.pack(x[:, ::-1])
    nets = [fastmlp.MLP(SIZES, seed=0), fastmlp.MLP(SIZES, seed=1), fastmlp.MLP(SIZES, activation="gelu", seed=0)]
    nets.append(fastmlp.MLP((30, 9, 5, 3), seed=0))
    cases = [(net, given, targets) for net in nets for given in (packed, other, x) for targets in (y, soft)]
    cases.append((fastmlp.MLP(SIZES, dtype="float32", seed=0), x.astype(np.float32), y))
    alone = [in_fresh_thread(*case) for case in cases]
    for k in rng.permutation(np.repeat(np.arange(len(cases)), 3)):
        assert_same_bits(step(*cases[k]), alone[k])
    nets[0].parameters[3] = np.inf
    assert not np.isfinite(step(*cases[0])).all()
    nets[0].parameters[3] = 0.25
    assert_same_bits(step(*cases[0]), in_fresh_thread(*cases[0]))


@pytest.mark.parametrize("m", [FEW, MANY])
def test_a_step_in_the_middle_of_a_step_changes_neither(compiled, monkeypatch, rng, m):
    """As a signal handler may do one, between any two launches."""
    (x, y), model = samples(rng, m), fastmlp.MLP(SIZES, seed=0)
    packed = fastmlp.pack(x)
    monkeypatch.setattr(compiled.tuning, "PARALLEL_WORK", 0)  # several launches, also where there are few samples
    outer, inner = step(model, packed, y), step(model, packed, (y + 1) % SIZES[-1])
    launch, found = compiled.launch.Kernel.launch, []

    def interrupted(kernel, *args):
        launch(kernel, *args)
        monkeypatch.setattr(compiled.launch.Kernel, "launch", launch)
        found.append(step(model, packed, (y + 1) % SIZES[-1]))
        monkeypatch.setattr(compiled.launch.Kernel, "launch", interrupted)

    for _ in range(2):
        monkeypatch.setattr(compiled.launch.Kernel, "launch", interrupted)
        assert_same_bits(step(model, packed, y), outer)
        monkeypatch.setattr(compiled.launch.Kernel, "launch", launch)
    assert len(found) >= (2 if fastmlp.get_num_threads() == 1 else 4)  # one thread does few samples in one launch
    for one in found:
        assert_same_bits(one, inner)


@pytest.mark.parametrize(("n", "kept"), [(30, True), (20_000, False)])
def test_no_more_is_kept_than_is_said(compiled, rng, n, kept):
    x, y = samples(rng, MANY, n)
    packed = fastmlp.pack(x)
    step(fastmlp.MLP((n, 7, 3), seed=0), packed, y)
    values = weakref.ref(packed.operands(np.dtype(float)).forward.value)
    del packed
    gc.collect()
    assert (values() is not None) == kept
