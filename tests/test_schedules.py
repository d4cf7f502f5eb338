"""Schedules: closed forms, PyTorch's schedulers, and refusals."""

import math
import pickle
import warnings

import numpy as np
import pytest
from compare import assert_close

from fastmlp import schedules

RUNS = [1, 2, 7, 30, 1000]

# Each schedule with its formula; x is the share of the run that is over.
CLOSED_FORMS = {
    "constant": (schedules.constant(0.3), lambda x: 0.3),
    "linear": (schedules.linear(0.3), lambda x: 0.3 * (1 - x)),
    "linear to": (schedules.linear(0.3, final=0.9), lambda x: 0.3 * (1 - x) + 0.9 * x),
    "cosine": (schedules.cosine(0.3), lambda x: 0.3 * math.cos(math.pi * x / 2) ** 2),
    "cosine to": (schedules.cosine(0.3, 0.1), lambda x: 0.1 + 0.2 * math.cos(math.pi * x / 2) ** 2),
    "exponential": (schedules.exponential(0.3, 1e-3), lambda x: 0.3 * 10 ** (-3 * x)),
    "exponential rise": (schedules.exponential(1e-6, 1e6), lambda x: 10 ** (6 * x - 6)),
    "one_cycle": (
        schedules.one_cycle(0.3, warmup=0.25, start=0.1),
        lambda x: float(np.interp(x, [0, 0.25, 1], [0.03, 0.3, 0])),
    ),
    "one_cycle without warm-up": (schedules.one_cycle(0.3, warmup=0), lambda x: 0.3 * (1 - x)),
    "one_cycle that only rises": (schedules.one_cycle(0.5, warmup=1, start=0), lambda x: 0.5 * x),
    "step": (schedules.step(0.3, 0.1, 0.5), lambda x: 0.3 if x < 0.5 else 0.03),
}
EACH = [
    *(schedule for schedule, _ in CLOSED_FORMS.values()),
    schedules.warm_up(0.1, 0.2),
    schedules.warm_up(schedules.cosine(0.1), 0.2),
]


def rates(schedule, updates):
    return np.array([schedule(update, updates) for update in range(1, updates + 1)], float)


@pytest.mark.parametrize("updates", RUNS)
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_closed_forms(name, updates):
    schedule, formula = CLOSED_FORMS[name]
    expected = np.array([formula(update / updates) for update in range(updates)], float)
    assert_close(rates(schedule, updates), expected, "product")


@pytest.mark.parametrize("schedule", EACH, ids=repr)
def test_rates_are_positive_until_the_end_and_python_floats(schedule):
    assert all(type(schedule(update, 50)) is float for update in range(1, 51))
    assert (rates(schedule, 50)[1:] > 0).all()


def test_the_defaults_of_one_cycle():
    found = rates(schedules.one_cycle(8e-3), 200)
    assert found[0] == 8e-3 / 25
    assert found.argmax() == 20
    assert found[20] == 8e-3
    assert found[-1] == pytest.approx(8e-3 / 180)


@pytest.mark.parametrize("parts", range(1, 13))
def test_a_staircase_has_equal_steps_whatever_the_rounding(parts):
    for length in range(1, 60):
        found = rates(schedules.step(1.0, 0.5, 1 / parts), parts * length)
        np.testing.assert_array_equal(found, np.repeat(0.5 ** np.arange(parts), length))


def test_a_warm_up_shifts_the_schedule_behind_it():
    behind = schedules.linear(0.8)
    found = rates(schedules.warm_up(behind, 0.3), 10)
    np.testing.assert_allclose(found[:3], [0.2, 0.4, 0.6], rtol=1e-15)
    np.testing.assert_array_equal(found[3:], rates(behind, 7))


def test_a_warm_up_of_any_share_and_length():
    for updates in range(1, 40):
        for share in (0.0, 0.01, 0.5, 0.99, 1.0):
            found = rates(schedules.warm_up(0.5, share), updates)
            assert (np.diff(found) >= 0).all()
            assert found[-1] == 0.5
            assert np.count_nonzero(found < 0.5) == min(round(share * updates), updates - 1)


def test_a_warm_up_asks_users_functions_for_the_rest_of_the_updates():
    asked = []
    schedule = schedules.warm_up(lambda update, updates: asked.append((update, updates)) or 0.3, 0.5)
    assert rates(schedule, 4) == pytest.approx([0.1, 0.2, 0.3, 0.3])
    assert asked == [(1, 2), (1, 2), (1, 2), (2, 2)]


TORCH = {
    "LinearLR": (
        schedules.linear(0.4, 0.1),
        lambda lr, o, n: lr.LinearLR(o, start_factor=1.0, end_factor=0.25, total_iters=n),
    ),
    "CosineAnnealingLR": (schedules.cosine(0.4, 0.1), lambda lr, o, n: lr.CosineAnnealingLR(o, n, eta_min=0.1)),
    "StepLR": (schedules.step(0.4, 0.1, 1 / 3), lambda lr, o, n: lr.StepLR(o, n // 3, gamma=0.1)),
    "ExponentialLR": (schedules.exponential(0.4, 0.01), lambda lr, o, n: lr.ExponentialLR(o, 0.01 ** (1 / n))),
    "ConstantLR": (schedules.constant(0.4), lambda lr, o, n: lr.ConstantLR(o, factor=1.0)),
}


@pytest.mark.parametrize("name", TORCH)
def test_torch_agrees(name):
    torch = pytest.importorskip("torch")
    schedule, make = TORCH[name]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    scheduler, found = make(torch.optim.lr_scheduler, optimizer, 60), []
    for _ in range(60):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert_close(rates(schedule, 60), np.array(found), "product")


def test_rate_at():
    assert schedules.rate_at(0.3, 5, 10) == 0.3
    assert schedules.rate_at(schedules.linear(1.0), 6, 10) == 0.5
    assert schedules.rate_at(lambda update, updates: update / updates, 5, 10) == 0.5
    found = schedules.rate_at(lambda update, updates: np.float32(0.5), 5, 10)
    assert (found, type(found)) == (0.5, float)


@pytest.mark.parametrize(
    ("rate", "error", "got"),
    [
        (math.nan, ValueError, "nan"),
        (math.inf, ValueError, "inf"),
        (-0.1, ValueError, "-0.1"),
        (None, TypeError, "NoneType None"),
        ("0.1", TypeError, "str '0.1'"),
        ([0.1, 0.2], TypeError, r"list \[0.1, 0.2\]"),
    ],
)
def test_a_bad_rate_is_refused_and_the_update_named(rate, error, got):
    def schedule(update, updates):
        return rate if update == 7 else 0.1

    assert schedules.rate_at(schedule, 6, 10) == 0.1
    with pytest.raises(error, match=rf"learning_rate\(7, 10\): got {got}, expected a finite number >= 0"):
        schedules.rate_at(schedule, 7, 10)
    with pytest.raises(error, match=rf"learning_rate\(7, 9\): got {got}"):
        schedules.rate_at(schedules.warm_up(schedule, 0.1), 8, 10)


NOT_RATES = [math.nan, math.inf, -1, "0.1", None, [0.1]]
NOT_SHARES = [math.nan, math.inf, -0.1, 1.1, "0.1", None]
BAD = {
    ("constant", "rate"): ({}, NOT_RATES),
    ("linear", "rate"): ({}, NOT_RATES),
    ("linear", "final"): ({"rate": 1}, NOT_RATES),
    ("cosine", "rate"): ({}, NOT_RATES),
    ("cosine", "final"): ({"rate": 1}, NOT_RATES),
    ("one_cycle", "peak"): ({}, NOT_RATES),
    ("one_cycle", "warmup"): ({"peak": 1}, NOT_SHARES),
    ("one_cycle", "start"): ({"peak": 1}, NOT_SHARES),
    ("step", "rate"): ({"factor": 0.1, "every": 0.1}, NOT_RATES),
    ("step", "factor"): ({"rate": 1, "every": 0.1}, NOT_SHARES),
    ("step", "every"): ({"rate": 1, "factor": 0.1}, [0, *NOT_SHARES]),
    ("exponential", "rate"): ({"factor": 0.1}, NOT_RATES),
    ("exponential", "factor"): ({"rate": 1}, [0, *NOT_RATES]),
    ("warm_up", "schedule"): ({"share": 0.1}, NOT_RATES),
    ("warm_up", "share"): ({"schedule": 0.1}, NOT_SHARES),
}


@pytest.mark.parametrize(("schedule", "argument"), BAD)
def test_bad_arguments_are_refused(schedule, argument):
    good, bad = BAD[schedule, argument]
    for value in bad:
        with pytest.raises((TypeError, ValueError), match=f"^{argument}: got .*, expected .*number.*; "):
            getattr(schedules, schedule)(**good, **{argument: value})


def test_legal_ends_of_the_ranges():
    assert schedules.one_cycle(0, warmup=0, start=1)(1, 1) == 0
    assert schedules.step(1, factor=0, every=1)(5, 5) == 1
    assert schedules.step(1, factor=0, every=0.5)(5, 5) == 0


@pytest.mark.parametrize("schedule", EACH, ids=repr)
def test_schedules_are_values(schedule):
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert eval(repr(schedule), vars(schedules)) == schedule
    assert hash(schedule) == hash(eval(repr(schedule), vars(schedules)))
    assert [one for one in EACH if one == schedule] == [schedule]
    with pytest.raises(AttributeError):
        schedule.rate = 0.2


def test_numbers_become_python_floats():
    assert repr(schedules.linear(np.float32(0.5), final=np.int64(1))) == "linear(rate=0.5, final=1.0)"
    with warnings.catch_warnings(action="error"):
        assert schedules.exponential(np.float32(3e38), np.float64(10))(2, 2) > 3e38
