"""Training on minibatches and by optimizers: `MLP.fit` with optimizer, batch_size, shuffle, l2 and clip_norm."""

import functools
import os
import signal
import threading
import time

import numpy as np
import pytest
from compare import F8, TOLERANCE, assert_close, assert_same_bits, columns, relative_difference
from minibatch_cases import METHODS, ON_BATCHES, OPTIMIZERS, SHUFFLES, NaiveTraining, naive_epoch
from small import X, Y, held_out, model

import fastmlp
from fastmlp import backend as backend_module
from fastmlp import formulas, schedules, storage
from fastmlp.methods import minibatches
from fastmlp.optimizers import LBFGS, SGD, Adam, AdamW

# Random labels: some runs do no better than guessing, and warn of it.
pytestmark = [pytest.mark.kernels, pytest.mark.filterwarnings("ignore:the model does not learn")]
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

M = Y.size
TARGETS = formulas.one_hot(Y, 4)
WEIGHT = np.linspace(0.5, 2, M)


class StopError(Exception):
    """An error of the user's."""


def naive_fit(net, epochs, optimizer, batch_size, shuffle="samples", alpha=0.1, **options):
    """Return the parameters and the losses of a naive loop over batches."""
    training, losses = NaiveTraining(net, X, options.pop("y", TARGETS), **options), []
    for epoch in range(1, epochs + 1):
        batches = naive_epoch(M, batch_size, shuffle, net.seed, epoch)
        sums = np.array([training.update(batch, optimizer, alpha if optimizer is None else None) for batch in batches])
        losses.append((sums[:, 0] * sums[:, 1]).sum() / sums[:, 1].sum())
    return training.p, losses


def assert_is(net, history, expected):
    parameters, losses = expected
    assert relative_difference(net.parameters, parameters) <= TOLERANCE["trajectory", F8]
    assert relative_difference(history.loss, losses) <= TOLERANCE["trajectory", F8]


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("batch_size", [7, 100, 299])
@pytest.mark.parametrize("name", ON_BATCHES)
def test_batches_are_those_of_a_naive_loop(backend, name, batch_size, shuffle):
    optimizer = OPTIMIZERS[name]
    net = model()
    expected = naive_fit(net, 2, optimizer, batch_size, shuffle)
    history = net.fit(X, Y, epochs=2, optimizer=optimizer, batch_size=batch_size, shuffle=shuffle)
    assert_is(net, history, expected)


@pytest.mark.parametrize("name", ON_BATCHES)
def test_the_full_batch_is_that_of_a_naive_loop(backend, name):
    net = model()
    expected = naive_fit(net, 10, OPTIMIZERS[name], None)
    history = net.fit(X, Y, epochs=10, optimizer=OPTIMIZERS[name])
    assert_is(net, history, expected)


@pytest.mark.parametrize("batch_size", [None, 32])
@pytest.mark.parametrize("penalty", [{"l2": 0.1}, {"clip_norm": 0.05}, {"l2": 0.1, "clip_norm": 0.2}])
@pytest.mark.parametrize("name", ["descent", "momentum", "AdamW"])
def test_penalty_and_clipped_gradients(backend, name, penalty, batch_size):
    net = model()
    plain = naive_fit(net, 3, OPTIMIZERS[name], batch_size)
    naive = {"l2": penalty.get("l2", 0.0), "clip": penalty.get("clip_norm")}
    expected = naive_fit(net, 3, OPTIMIZERS[name], batch_size, **naive)
    history = net.fit(X, Y, epochs=3, optimizer=OPTIMIZERS[name], batch_size=batch_size, **penalty)
    assert_is(net, history, expected)
    assert relative_difference(net.parameters, plain[0]) > 1e6 * TOLERANCE["trajectory", F8]


def test_l_bfgs_minimizes_the_loss_with_its_penalty(backend):
    net = fastmlp.MLP((12, 4), seed=2)  # a convex problem
    history = net.fit(X, Y, epochs=200, optimizer=LBFGS(tolerance=1e-6), l2=0.02)
    assert history.stopped == "converged"
    loss, gradient = net.loss_and_grad(X, Y)
    penalties = np.concatenate([[0.02] * w.size + [0.0] * b.size for w, b in zip(net.weights, net.biases, strict=True)])
    assert np.abs(gradient + penalties * net.parameters).max() <= 1e-6
    assert np.abs(gradient).max() > 1e-3
    assert history.loss[-1] == pytest.approx(loss, rel=1e-3)
    assert len(history) == len(history.seconds) < 200


@pytest.mark.parametrize("batch_size", [None, 64])
def test_sample_and_class_weights(backend, batch_size):
    net, by_class = model(), np.array([1.0, 4.0, 0.0, 1.0])
    expected = naive_fit(net, 2, OPTIMIZERS["Adam"], batch_size, weight=WEIGHT * by_class[Y])
    options = {"sample_weight": WEIGHT, "class_weight": by_class, "optimizer": OPTIMIZERS["Adam"]}
    history = net.fit(X, Y, epochs=2, batch_size=batch_size, **options)
    assert_is(net, history, expected)


def test_accuracy_is_the_weighted_mean_over_batches(backend):
    net, other = model(), model()
    history = net.fit(X, Y, epochs=1, optimizer=SGD(0.0), batch_size=64, sample_weight=WEIGHT)
    right = other.predict(X) == Y
    assert history.accuracy == [pytest.approx((WEIGHT * right).sum() / WEIGHT.sum(), rel=1e-12)]
    assert_same_bits(net.parameters, other.parameters)


def test_soft_targets(backend, rng):
    soft = rng.dirichlet(np.ones(4), M).T
    net = model()
    expected = naive_fit(net, 2, OPTIMIZERS["momentum"], 50, y=soft)
    assert_is(net, net.fit(X, soft, epochs=2, optimizer=OPTIMIZERS["momentum"], batch_size=50), expected)


@pytest.mark.parametrize("name", ON_BATCHES)
def test_a_batch_of_weight_zero_changes_nothing(backend, name):
    weight = np.where(np.arange(M) // 50 == 1, 0.0, 1.0)
    net = model()
    expected = naive_fit(net, 2, OPTIMIZERS[name], 50, shuffle=False, weight=weight)
    options = {"optimizer": OPTIMIZERS[name], "batch_size": 50, "shuffle": False, "sample_weight": weight}
    assert_is(net, net.fit(X, Y, epochs=2, **options), expected)


FORMS = {
    "plain": lambda x: x,
    "Fortran": np.asfortranarray,
    "packed": fastmlp.pack,
    "packed for minibatches": functools.partial(fastmlp.pack, minibatches=True),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_all_forms_of_samples_are_the_same_problem(backend, dtype, form):
    nets = [fastmlp.MLP((12, 9, 4), dtype=dtype.name, seed=2) for _ in range(2)]
    x = X.astype(dtype)
    for net, one in zip(nets, (x, form(x)), strict=True):
        net.fit(one, Y, epochs=2, optimizer=OPTIMIZERS["Adam"], batch_size=32)
    assert_same_bits(nets[0].parameters, nets[1].parameters)
    double = model()
    double.fit(X, Y, epochs=2, optimizer=OPTIMIZERS["Adam"], batch_size=32)
    if dtype == np.float32:
        assert relative_difference(nets[0].parameters, double.parameters) <= TOLERANCE["trajectory", dtype]


def test_uint8_samples(backend):
    codes = (X * 255).astype(np.uint8)
    packed, plain = model(), model()
    packed.fit(fastmlp.pack(codes, scale=1 / 255), Y, epochs=2, batch_size=32)
    plain.fit(codes / 255.0, Y, epochs=2, batch_size=32)
    assert_close(packed.parameters, plain.parameters, "trajectory")


def test_more_features_than_the_index_of_a_list_can_name(backend):
    """Most of them zero: the others train as in a net that has no others."""
    places = np.array([0, 1, 77, 65_519, 65_520, 65_521, 65_535, 65_536, 70_000, 131_039, 131_040, 139_999])
    wide, narrow, x = fastmlp.MLP((140_000, 4), seed=2), fastmlp.MLP((12, 4), seed=2), np.zeros((140_000, 40))
    x[places] = X[:, :40]
    weight, bias = wide.weights[0], wide.biases[0]
    weight[:, places], bias[:] = narrow.weights[0], narrow.biases[0]
    before = weight.copy()
    for net, samples in ((wide, x), (narrow, X[:, :40])):
        net.fit(samples, Y[:40], epochs=2, optimizer=OPTIMIZERS["Adam"], batch_size=16)
    assert_close(weight[:, places], narrow.weights[0], "trajectory")
    assert_close(bias, narrow.biases[0], "trajectory")
    others = np.delete(np.arange(140_000), places)
    assert_same_bits(weight[:, others], before[:, others])


@pytest.mark.parametrize("sizes", [(12, 4), (12, 7, 5, 4)])
def test_nets_of_other_depths(backend, sizes):
    net = fastmlp.MLP(sizes, seed=2)
    expected = naive_fit(net, 2, OPTIMIZERS["Nesterov"], 64, l2=0.01)
    history = net.fit(X, Y, epochs=2, optimizer=OPTIMIZERS["Nesterov"], batch_size=64, l2=0.01)
    assert_is(net, history, expected)


@pytest.mark.parametrize("name", ["descent, samples", "AdamW, batches"])
def test_bits_do_not_depend_on_how_many_updates_a_call_makes(backend, name, monkeypatch):
    runs = []
    for seconds in (0.0, 1e9, 0.005):
        monkeypatch.setattr(minibatches, "_CHUNK_SECONDS", seconds)
        net = model()
        runs.append((net, net.fit(X, Y, epochs=4, **METHODS[name] | {"batch_size": 3})))
    for net, history in runs[1:]:
        assert_same_bits(net.parameters, runs[0][0].parameters)
        assert columns(history) == columns(runs[0][1])


def test_updates_of_a_call_adapt_to_their_time(backend, monkeypatch):
    """Each update takes a millisecond here, and a call should take ten; the last one also makes those left over."""
    counts, now = [], [0.0]
    kernels = backend_module.kernels()
    train = kernels.train

    def slow(trainer, order, ends, rule, numbers):
        counts.append(len(ends))
        now[0] += len(ends) * 0.001
        return train(trainer, order, ends, rule, numbers)

    monkeypatch.setattr(kernels, "train", slow)
    monkeypatch.setattr(minibatches.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(minibatches, "_CHUNK_SECONDS", 0.01)
    history = model().fit(X, Y, epochs=1, batch_size=10)
    assert counts == [1, 8, 10, 11]
    assert history.seconds == [pytest.approx(0.03)]


def test_the_seed_of_the_model_is_that_of_the_batches(backend):
    start = model().parameters
    ends = []
    for seed in (2, 2, 3, None, None):
        net = fastmlp.MLP((12, 9, 4), seed=seed)
        net.parameters = start
        net.fit(X, Y, epochs=1, batch_size=64)
        ends.append(net.parameters.tobytes())
    assert ends[0] == ends[1]
    assert len(set(ends)) == 4


@pytest.mark.parametrize("name", [name for name in METHODS if name != "descent"])
def test_validation_and_callbacks_see_the_parameters_after_the_epoch(backend, name):
    net, seen = model(), []

    def callback(epoch, history):
        seen.append((epoch, len(history), net.evaluate(*held_out)["loss"]))

    history = net.fit(X, Y, epochs=3, validation=held_out, callback=callback, **METHODS[name])
    assert [(epoch, count) for epoch, count, _ in seen] == [(1, 1), (2, 2), (3, 3)]
    assert history.validation_loss == [loss for _, _, loss in seen]
    assert len(set(history.validation_loss)) == 3


@pytest.mark.parametrize("name", ["Adam", "Adam, samples", "momentum, batches", "descent, False"])
def test_early_stopping_ends_with_the_best_parameters(backend, name):
    kept, undisturbed, net = [], model(), model()
    options = {"epochs": 40, "validation": held_out, **METHODS[name]}
    losses = undisturbed.fit(
        X, Y, callback=lambda *_: kept.append(undisturbed.parameters.copy()), **options
    ).validation_loss
    history = net.fit(X, Y, patience=3, **options)
    best = int(np.argmin(history.validation_loss))
    assert history.validation_loss == losses[: len(history)]
    assert (history.stopped, len(history)) == ("patience", best + 4)
    assert_same_bits(net.parameters, kept[best])


def test_a_callback_stops(backend):
    net, other = model(), model()
    history = net.fit(X, Y, epochs=9, batch_size=64, callback=lambda epoch, _: epoch == 2)
    other.fit(X, Y, epochs=2, batch_size=64)
    assert (history.stopped, len(history)) == ("callback", 2)
    assert_same_bits(net.parameters, other.parameters)


@pytest.mark.parametrize("name", ["descent", "SGD", "L-BFGS", "descent, batches", "SGD, False"])
def test_a_callback_may_change_the_parameters(backend, name):
    """Training continues from those; for methods that keep no state, as a second call of fit would."""
    net, pieces = model(), model()

    def halve(epoch, history):
        if epoch == 2:
            net.parameters = net.parameters / 2

    method = METHODS[name] | ({"shuffle": False} if "batches" in name else {})
    net.fit(X, Y, epochs=3, callback=halve, **method)
    pieces.fit(X, Y, epochs=2, **method)
    pieces.parameters = pieces.parameters / 2
    pieces.fit(X, Y, epochs=1, **method)
    assert_same_bits(net.parameters, pieces.parameters)


@pytest.mark.parametrize("name", METHODS)
def test_what_a_callback_changes_at_the_end_stays(backend, name):
    net = model()

    def zero(epoch, history):
        net.parameters[:] = 0
        return True

    net.fit(X, Y, epochs=3, callback=zero, **METHODS[name])
    assert not net.parameters.any()


def test_a_callback_that_raises_loses_nothing(backend, tmp_path):
    path = tmp_path / "run"

    def callback(epoch, history):
        if epoch == 3:
            raise StopError

    net, three = model(), model()
    options = {"batch_size": 64, "optimizer": OPTIMIZERS["Adam"]}
    with pytest.raises(StopError):
        net.fit(X, Y, epochs=9, callback=callback, checkpoint=path, **options)
    three.fit(X, Y, epochs=3, **options)
    assert_same_bits(net.parameters, three.parameters)
    assert_same_bits(storage.load(path).parameters, three.parameters)
    resumed, whole = model(), model()
    history = resumed.fit(X, Y, epochs=9, checkpoint=path, resume=True, **options)
    assert columns(history) == columns(whole.fit(X, Y, epochs=9, **options))
    assert_same_bits(resumed.parameters, whole.parameters)


def test_progress_is_that_of_epochs(run_python):
    pytest.importorskip("tqdm")
    code = """
import sys
import numpy as np, fastmlp
x = np.random.default_rng(0).random((5, 100))
fastmlp.MLP((5, 2)).fit(x, x[0] > 0.5, epochs=30, batch_size=8, progress=True)
"""
    result = run_python(code, env={"FASTMLP_BACKEND": "numpy"})
    assert "30/30" in result.stdout
    assert "loss 0." in result.stdout


def test_schedules_are_called_in_the_user_s_thread_once_for_each_update(backend):
    seen, threads = [], set()

    def rate(update, updates):
        seen.append((update, updates))
        threads.add(threading.current_thread())
        return 0.1

    net, constant = model(), model()
    net.fit(X, Y, epochs=3, optimizer=SGD(rate), batch_size=64)
    constant.fit(X, Y, epochs=3, optimizer=SGD(0.1), batch_size=64)
    assert seen == [(update, 15) for update in range(1, 16)]
    assert threads == {threading.main_thread()}
    assert_same_bits(net.parameters, constant.parameters)
    seen.clear()
    model().fit(X, Y, epochs=3, optimizer=SGD(rate))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_schedule_of_the_user_finds_the_parameters_of_the_last_complete_epoch(backend):
    net, seen, expected = model(), [], []

    def rate(update, updates):
        seen.append(net.parameters.copy())
        return 0.1

    net.fit(X, Y, epochs=3, optimizer=SGD(rate), batch_size=64, shuffle="batches")
    watched = model()
    watched.fit(
        X, Y, epochs=3, optimizer=SGD(0.1), batch_size=64, shuffle="batches",
        callback=lambda *_: expected.append(watched.parameters.copy()),
    )  # fmt: skip
    for found, wanted in zip((seen[5], seen[10], net.parameters), expected, strict=True):
        assert_same_bits(found, wanted)


@pytest.mark.parametrize("batch_size", [None, 64])
def test_the_learning_rate_of_each_update_is_that_of_the_schedule(backend, batch_size):
    net, schedule = model(), schedules.one_cycle(0.05, warmup=0.3)
    count = 3 * len(naive_epoch(M, batch_size, "samples", 2, 1))
    training, update = NaiveTraining(net, X, TARGETS), 0
    for epoch in (1, 2, 3):
        for batch in naive_epoch(M, batch_size, "samples", 2, epoch):
            update += 1
            training.update(batch, OPTIMIZERS["AdamW"], schedule(update, count))
    net.fit(X, Y, epochs=3, optimizer=AdamW(schedule, weight_decay=0.1), batch_size=batch_size)
    assert relative_difference(net.parameters, training.p) <= TOLERANCE["trajectory", F8]


def test_alpha_may_be_a_function_of_the_epoch(backend):
    seen = []

    def alpha(epoch):
        seen.append(epoch)
        return 1 / epoch

    net = model()
    training = NaiveTraining(net, X, TARGETS)
    for epoch in (1, 2, 3):
        for batch in naive_epoch(M, 64, "samples", 2, epoch):
            training.update(batch, None, 1 / epoch)
    net.fit(X, Y, epochs=3, alpha=alpha, batch_size=64)
    assert seen == [1, 2, 3]
    assert relative_difference(net.parameters, training.p) <= TOLERANCE["trajectory", F8]


def failing_at(update, how, rate=0.05):
    """Return a schedule that is ``rate``, but fails or returns another value at an update."""

    def schedule(current, updates):
        if current < update:
            return rate
        return how() if callable(how) else how

    return schedule


def stop():
    raise StopError


@pytest.mark.parametrize(
    ("bad", "error"),
    [(np.nan, ValueError), (-0.1, ValueError), (np.inf, ValueError), ("1", TypeError), (stop, StopError)],
)
@pytest.mark.parametrize("update", [1, 5, 7])
def test_the_updates_before_the_one_whose_rate_fails_are_made(backend, bad, error, update):
    net, plain = model(), model()
    training = NaiveTraining(plain, X, TARGETS)
    batches = [batch for epoch in (1, 2) for batch in naive_epoch(M, 64, "samples", 2, epoch)]
    for batch in batches[: update - 1]:
        training.update(batch, SGD(0.05))
    message = None if error is StopError else rf"^learning_rate\({update}, 20\): got .*expected .*;"
    with pytest.raises(error, match=message):
        net.fit(X, Y, epochs=4, optimizer=SGD(failing_at(update, bad)), batch_size=64)
    if update == 1:
        assert_same_bits(net.parameters, plain.parameters)
    assert relative_difference(net.parameters, training.p) <= TOLERANCE["trajectory", F8]


@pytest.mark.parametrize(("batch_size", "where"), [(64, "epoch 2 at update 7"), (None, "epoch 7")])
@pytest.mark.parametrize("name", ["momentum", "AdamW"])
def test_divergence_names_epoch_update_and_rate_and_leaves_the_last_finite_parameters(
    backend, tmp_path, name, batch_size, where
):
    path, nets = tmp_path / "run", [fastmlp.MLP((12, 9, 4), seed=2, dtype="float32") for _ in range(4)]
    kind = {"momentum": lambda rate: SGD(rate, momentum=0.9), "AdamW": AdamW}[name]
    options = {"epochs": 9, "batch_size": batch_size}
    # Infinite in float32.
    with pytest.raises(FloatingPointError, match=rf"in {where} with learning_rate 1e\+308;.* a smaller learning_rate"):
        nets[0].fit(X, Y, optimizer=kind(failing_at(7, 1e308)), checkpoint=path, **options)
    with pytest.raises(StopError):
        nets[1].fit(X, Y, optimizer=kind(failing_at(7, stop)), **options)
    assert_same_bits(nets[0].parameters, nets[1].parameters)
    assert_same_bits(storage.load(path).parameters, nets[1].parameters)
    resumed, whole = nets[2:]
    resumed.fit(X, Y, optimizer=kind(0.05), checkpoint=path, resume=True, **options)
    whole.fit(X, Y, optimizer=kind(0.05), **options)
    assert_same_bits(resumed.parameters, whole.parameters)


def test_divergence_of_descent_names_alpha(backend):
    net = model()
    with pytest.raises(FloatingPointError, match=r"in epoch 1 at update \d with alpha 1e\+308.*with a smaller alpha"):
        net.fit(X, Y, epochs=9, alpha=1e308, batch_size=64)
    assert np.isfinite(net.parameters).all()


def test_l_bfgs_from_parameters_whose_loss_is_not_finite(backend):
    net = model()
    net.parameters = np.full(net.parameters.shape, 1e200)
    with pytest.raises(FloatingPointError, match="not finite in epoch 1; "):
        net.fit(X, Y, epochs=9, optimizer=LBFGS())
    assert (net.parameters == 1e200).all()


@posix
@pytest.mark.parametrize("name", ["SGD, samples", "Adam, batches"])
def test_ctrl_c_within_an_epoch(backend, tmp_path, name):
    """Parameters are those after the last update, the history has the complete epochs, and the run can be resumed."""
    path, kind = tmp_path / "run", type(METHODS[name]["optimizer"])
    options = {"epochs": 5, "shuffle": METHODS[name]["shuffle"], "batch_size": 20}

    def strike(update=0, updates=0):
        signal.raise_signal(signal.SIGINT)
        time.sleep(10)  # until the signal is handled

    net, stopped = model(), model()
    history = net.fit(X, Y, optimizer=kind(failing_at(39, strike)), checkpoint=path, **options)
    assert (history.stopped, history.epoch) == ("interrupt", [1, 2])
    with pytest.raises(StopError):
        stopped.fit(X, Y, optimizer=kind(failing_at(39, stop)), **options)
    record = storage.load(path)
    done = 30 + int(record.facts["update"])
    assert 30 <= done <= 38
    assert_same_bits(record.parameters, net.parameters)
    resumed, whole = model(), model()
    end = resumed.fit(X, Y, optimizer=kind(0.05), checkpoint=path, resume=True, **options)
    assert columns(end) == columns(whole.fit(X, Y, optimizer=kind(0.05), **options))
    assert_same_bits(resumed.parameters, whole.parameters)


@posix
def test_ctrl_c_does_not_wait_for_the_end_of_an_epoch(backend):
    net = model()
    x, y = np.tile(X, 400), np.tile(Y, 400)
    net.fit(X, Y, epochs=1, batch_size=1)

    def strike():
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=strike)
    before = net.parameters.copy()
    begun = []

    def alpha(epoch):
        if not begun:  # not before: packing may take longer than the thread waits
            begun.append(time.perf_counter())
            thread.start()
        return 0.1

    history = net.fit(x, y, epochs=100, alpha=alpha, batch_size=1, shuffle=False)
    spent = time.perf_counter() - begun[0]
    thread.join()
    assert (history.stopped, len(history) < 100) == ("interrupt", True)
    assert spent < 4  # an epoch takes longer with the NumPy backend
    assert not np.array_equal(net.parameters, before)


@pytest.mark.parametrize("batch_size", [301, 10**9])
def test_more_samples_in_a_batch_than_there_are(backend, batch_size):
    net, full = model(), model()
    with pytest.warns(
        fastmlp.TrainingWarning, match=f"^batch_size: got {batch_size} for 300 samples, expected at most"
    ):
        net.fit(X, Y, epochs=3, batch_size=batch_size)
    full.fit(X, Y, epochs=3)
    assert_same_bits(net.parameters, full.parameters)


@pytest.mark.parametrize("name", ["descent", "Adam"])
def test_all_samples_in_a_batch_are_the_full_batch(backend, name):
    nets = [model(), model()]
    for net, batch_size in zip(nets, (None, M), strict=True):
        net.fit(X, Y, epochs=3, optimizer=OPTIMIZERS[name], batch_size=batch_size)
    assert_same_bits(nets[0].parameters, nets[1].parameters)


BAD = [
    ({"batch_size": 0}, ValueError),
    ({"batch_size": -64}, ValueError),
    ({"batch_size": 2.5}, TypeError),
    ({"batch_size": True}, TypeError),
    ({"batch_size": "64"}, TypeError),
    ({"shuffle": True}, ValueError),
    ({"shuffle": 0}, ValueError),
    ({"shuffle": "epochs"}, ValueError),
    ({"shuffle": np.array(["samples", "batches"])}, ValueError),
    ({"alpha": -0.1, "batch_size": 64}, ValueError),
    ({"alpha": np.nan, "batch_size": 64}, ValueError),
    ({"alpha": 0.1, "optimizer": Adam()}, ValueError),
    ({"alpha": lambda epoch: 0.1, "optimizer": SGD(), "batch_size": 64}, ValueError),
    ({"alpha": 0.1, "optimizer": LBFGS()}, ValueError),
    ({"batch_size": 64, "optimizer": LBFGS()}, ValueError),
    ({"clip_norm": 1.0, "optimizer": LBFGS()}, ValueError),
    ({"optimizer": "adam"}, TypeError),
    ({"optimizer": Adam}, TypeError),
    ({"l2": -1e-4}, ValueError),
    ({"l2": np.nan}, ValueError),
    ({"l2": "0"}, TypeError),
    ({"clip_norm": 0}, ValueError),
    ({"clip_norm": -1.0}, ValueError),
    ({"clip_norm": np.inf}, ValueError),
    ({"clip_norm": "1"}, TypeError),
]


@pytest.mark.parametrize(("arguments", "error"), BAD, ids=lambda one: str(one)[:60])
def test_bad_arguments(arguments, error):
    net = model()
    with pytest.raises(error, match=rf"^{next(iter(arguments))}: got .*expected .*; ."):
        net.fit(X, Y, **arguments)
    assert_same_bits(net.parameters, model().parameters)


@pytest.mark.parametrize("rate", [-0.1, np.nan, np.inf])
def test_bad_learning_rates(rate):
    for kind in (SGD, Adam, AdamW):
        with pytest.raises(ValueError, match="^learning_rate: got "):
            kind(rate)


def test_a_bad_alpha_of_an_epoch(backend):
    net, two = model(), model()
    with pytest.raises(ValueError, match=r"^alpha\(3\): got nan"):
        net.fit(X, Y, epochs=5, alpha=lambda epoch: np.nan if epoch == 3 else 0.1, batch_size=64)
    two.fit(X, Y, epochs=2, batch_size=64)
    assert_same_bits(net.parameters, two.parameters)


@pytest.fixture
def drawn(monkeypatch):
    """Return a list that gets whether each trainer knows its batches, so that it can make lists for them."""
    found, begin = [], fastmlp.PackedMatrix.begin_training

    def noted(self, *args):
        found.append(args[-1] is not None)
        return begin(self, *args)

    monkeypatch.setattr(fastmlp.PackedMatrix, "begin_training", noted)
    return found


@pytest.mark.parametrize(
    ("shuffle", "epochs", "expected"),
    [("batches", 2, True), (False, 2, True), ("batches", 1, False), ("samples", 2, False), ("blocks", 2, False)],
)
def test_batches_of_several_epochs_get_lists_of_their_own(drawn, shuffle, epochs, expected):
    model().fit(X, Y, epochs=epochs, batch_size=20, optimizer=SGD(0.1), shuffle=shuffle, progress=False)
    assert drawn == [expected]


def test_lists_are_not_made_again_where_a_callback_changes_the_parameters(drawn):
    trained = model()

    def halve(epoch, history):
        trained.parameters *= 0.5

    trained.fit(X, Y, epochs=5, batch_size=20, optimizer=SGD(0.1), shuffle="batches", callback=halve, progress=False)
    assert drawn == [True] + [False] * 4
