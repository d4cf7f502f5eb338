"""Timing on machines that are shared and drift: ratios, taken alternately in one process, and their medians."""

import statistics
import time


def settle(most=1.0):
    """Wait until no thread of this process runs, ``most`` seconds at most.

    After a call the idle threads of OpenBLAS spin on for 0.1 s, those of libgomp for a few ms; they would take a core
    from the other side.
    """
    end = time.perf_counter() + most
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(0.01)
        if time.process_time() - before < 0.002:
            return


def seconds(function, repeats=1):
    """Return the seconds of one of ``repeats`` calls in a row."""
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / repeats


def warm_up(function, at_least=0.02):
    """Call the function until so many seconds have passed, once in any case; return how many calls that took.

    Threads that slept may share a core for some ms, until the system takes them apart: a first step of 0.2 ms took 4 or
    8, and the next one too.
    """
    calls, end = 0, time.perf_counter() + at_least
    while calls == 0 or time.perf_counter() < end:
        function()
        calls += 1
    return calls


def repeats_for(function, at_least=0.02):
    """Return how many calls in a row take about ``at_least`` seconds."""
    settle()
    warm_up(function)
    return warm_up(function, at_least)


def ratio(baseline, ours, rounds=7):
    """Return the median over ``rounds`` of the baseline's time over ours, taken in turn, each side warm."""
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
