"""Timing on shared machines whose speed drifts: medians of ratios, both sides timed alternately in one process."""

import statistics
import time


def settle(most=1.0):
    """Wait until no thread of this process runs, but at most ``most`` seconds.

    After a call, idle threads of OpenBLAS and libgomp spin for a while and would slow down the other side.
    """
    end = time.perf_counter() + most
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(0.01)
        if time.process_time() - before < 0.002:
            return


def seconds(function, repeats=1):
    """Return the seconds per call of ``repeats`` calls in a row."""
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / repeats


def warm_up(function, at_least=0.02):
    """Call the function until ``at_least`` seconds have passed, and at least once; return the number of calls.

    Threads that have just woken up may share a core until the system moves them apart, which slows the first calls.
    """
    calls, end = 0, time.perf_counter() + at_least
    while calls == 0 or time.perf_counter() < end:
        function()
        calls += 1
    return calls


def repeats_for(function, at_least=0.02):
    """Return the number of calls that take about ``at_least`` seconds."""
    settle()
    warm_up(function)
    return warm_up(function, at_least)


def ratio(baseline, ours, rounds=7):
    """Return the median over ``rounds`` of the baseline's time over ours, timed alternately and after a warm-up."""
    times = [repeats_for(function) for function in (baseline, ours)]
    ratios = []
    for _ in range(rounds):
        taken = []
        for function, repeats in zip((baseline, ours), times, strict=True):
            settle()
            warm_up(function)
            taken.append(seconds(function, repeats))
        ratios.append(taken[0] / taken[1])
    return statistics.median(ratios)
