"""``python -m benchmarks.learning``: training on minibatches in fastmlp and in every installed framework.

The same net, Glorot's initial weights, batches and recipe: Adam with a rate that rises and falls to zero, float32. Only
scikit-learn's rate stays constant, because its Adam has no schedule. Every learner must reach the loss of the plain
formulas after an epoch before it is timed. The learners run in processes of their own, in turn, with the same number of
threads. An epoch is a share of a run of several on prepared data: peers find batches that are arranged, and fastmlp the
lists of its last run on the same batches.
Times to an accuracy are those of runs of fixed length, with the fewest epochs whose mean test accuracy over the seeds
reaches it, from uint8 images to the trained net: packing and conversion count.

Exit status: 0 if all targets are reached, 1 if one is missed, 2 if a learner or a target could not be measured.
"""

import argparse
import contextlib
import functools
import os
import sys
import tempfile

import fastmlp
from benchmarks import curves, learning_rows, recipes
from benchmarks.contest import FULL, QUICK, TASKS, Contest, busy_process
from benchmarks.learners import BUILDERS, CONSTANT, OURS
from benchmarks.peers import ENVIRONMENT, cell, machine, rewrite
from benchmarks.problems import image_sets
from benchmarks.targets import Row, report, status

RECIPES = {"MNIST": recipes.MNIST, "digits": recipes.DIGITS}
ABOUT = (
    "784-128-10 (digits: 64-128-10), float32, Adam with a rate that rises and falls to zero; scikit-learn's stays at "
    "0.001, because its Adam has no schedule. Times to an accuracy: the fewest epochs whose mean over the seeds "
    "reaches it, packing or conversion of uint8 images included."
)
CURVE_LENGTHS, CURVE_SEEDS = (1, 2, 3, 4, 6, 8), 5


class Lab:
    """The contests that rows ask for, of which one at a time has processes, and what was measured in them."""

    def __init__(self, folder, scale):
        self.folder, self.scale = folder, scale
        self.contests, self.reached = {}, {}

    def contest(self, task_name):
        """Return the contest of a task; the processes of the others end, so each task is measured at one go."""
        if task_name not in self.contests:
            self.close()
            names = [OURS, CONSTANT] if task_name == "digits" else list(BUILDERS)
            self.contests[task_name] = Contest(self.folder, task_name, self.scale, names)
        return self.contests[task_name]

    def close(self):
        for contest in self.contests.values():
            contest.close()

    @functools.cache  # noqa: B019
    def task(self):
        return TASKS["MNIST"](self.scale.samples)

    def epoch_ratio(self, task_name, batch, frameworks=(), *, counted=False):
        """Return the fastest peer's time for an epoch over ours; for the first one, with preparation, if ``counted``.

        The peers are those of the frameworks, each of which must be measured; by default all that are measured. A
        recipe is timed once, however many rows ask for it.
        """
        figures = self.contest(task_name).epoch(recipes.EPOCH[batch])
        times = {
            name: (first if counted else epoch)["median"]
            for name, (first, epoch) in figures.items()
            if isinstance(epoch, dict) and isinstance(first, dict)
        }
        peers = {name: name.partition(",")[0] for name in times if name != OURS}
        measured = set(peers.values())
        if not measured.issuperset(frameworks):
            return None
        return _ratio(times, [name for name, framework in peers.items() if framework in (frameworks or measured)])

    def accuracy_ratio(self, task_name, target, peers):
        """Return the fastest peer's time to a mean accuracy over ours, of the recipe with which we are fastest.

        scikit-learn, as the only peer, may take the other recipes' batches.
        """
        found = {}
        for text, recipe in RECIPES[task_name].items():
            series = self.contest(task_name).reach(recipe, target, self.scale.lengths[task_name])
            self.reached[task_name, target, text] = series
            found |= {(name, text): one.mean for name, one in series.items()}
        ours, best = min(((time, text) for (name, text), time in found.items() if name == OURS), default=(None, None))
        any_recipe = peers == [CONSTANT]
        theirs = [time for (name, text), time in found.items() if name in peers and (any_recipe or text == best)]
        return min(theirs) / ours if ours and theirs else None

    def reasons(self):
        """Return why learners were not measured."""
        found = {name: reason for contest in self.contests.values() for name, reason in contest.reasons.items()}
        return {name: "not installed" if why.startswith("absent") else why for name, why in found.items()}

    def draw(self, path):
        """Draw the time of an epoch, and accuracy against time in runs of increasing length, into a file."""
        contest, points = self.contest("MNIST"), {}
        epochs = {name: epoch for name, (_, epoch) in contest.epoch(recipes.EPOCH[128]).items()}
        times = {name: 1e3 * epoch["median"] for name, epoch in epochs.items() if isinstance(epoch, dict)}
        for epochs in CURVE_LENGTHS:
            found = contest.series(recipes.EPOCH[128], epochs, 0, list(contest.workers), CURVE_SEEDS)
            for name, one in found.items():
                points.setdefault(name, []).append((one.mean, one.accuracy))
        runs = f"runs of 1 to {CURVE_LENGTHS[-1]} epochs, means over {CURVE_SEEDS} seeds"
        curves.draw(path, times, points, ("784-128-10 on MNIST, Adam, batches of 128", runs))


def _ratio(times, peers):
    """Return the fastest peer's time over ours, or None if one of them was not measured."""
    return min(times[name] for name in peers) / times[OURS] if OURS in times and peers else None


# The rows, and what they print.


def rows(lab, busy):
    """Return the targets."""
    with_schedule = [name for name in BUILDERS if name not in (OURS, CONSTANT)]

    def epoch(batch, required, aim):
        name = f"MNIST, an epoch in batches of {batch}, over the fastest peer"
        return Row(name, required, aim, "x", lambda: lab.epoch_ratio("MNIST", batch))

    def accuracy(target, required, aim):
        name = f"MNIST, time to {target:.1%}, same recipe, over the fastest peer"
        return Row(name, required, aim, "x", lambda: lab.accuracy_ratio("MNIST", target, with_schedule))

    if busy:
        both = [epoch(128, 3, 6), *(accuracy(target, 3, 6) for target in lab.scale.targets["MNIST"])]
        return [row._replace(name=f"busy: {row.name}") for row in both]
    (digits_target,), rounds = lab.scale.targets["digits"], lab.scale.rounds
    return [
        *(epoch(batch, 3 if batch == 128 else 2.5, 6 if batch == 128 else 5) for batch in recipes.EPOCH),
        Row(
            "MNIST, packing and an epoch in batches of 128, over the same", 2, 3, "x",
            lambda: lab.epoch_ratio("MNIST", 128, counted=True),
        ),
        Row(
            "MNIST, an epoch in batches of 128, over PyTorch and scikit-learn", 4, 8, "x",
            lambda: lab.epoch_ratio("MNIST", 128, ("PyTorch", "scikit-learn")),
        ),
        *(accuracy(target, 3, 6) for target in lab.scale.targets["MNIST"]),
        Row(
            "dense input, an epoch in batches of 128, over the fastest peer", 1.2, 2, "x",
            lambda: lab.epoch_ratio("dense", 128),
        ),
        Row(
            f"digits, time to {digits_target:.1%}, over scikit-learn's Adam", 3, 10, "x",
            lambda: lab.accuracy_ratio("digits", digits_target, [CONSTANT]),
        ),
        Row("MNIST, an iteration of L-BFGS over SciPy's", 4, 6, "x", lambda: learning_rows.lbfgs(lab.task(), rounds)),
        *(
            Row(
                f"two threads over one, an epoch in batches of {batch}", required, aim, "x",
                lambda batch=batch: learning_rows.two_threads(lab.task(), recipes.EPOCH[batch], rounds),
            )
            for batch, required, aim in ((128, 1.3, 1.6), (1024, 1.7, 1.9))
        ),
        Row(
            "fastmlp train mnist, process start to 98 %, warm cache", 2, 1, "s",
            lambda: learning_rows.command_line(0.98), at_most=True,
        ),
    ]  # fmt: skip


def target_table(found):
    """Return the lines of the table of targets, from their rows and values."""
    lines = ["| figure | required | aim | measured |", "| --- | --- | --- | --- |"]
    lines += [f"| {row.name} | {row.required:g} | {row.aim:g} | {row.shown(value)} |" for row, value in found]
    return [*lines, ""]


def epoch_table(lab):
    """Return the lines of the table of epochs: a row for each learner."""
    measured = [
        (f"batch {recipe.batch_size}" + (f", {task}" if task != "MNIST" else ""), figures)
        for task, contest in lab.contests.items()
        for recipe, figures in contest.epochs.items()
    ]
    if not measured:
        return []
    lines = [
        "| an epoch in ms, median (quartiles); the first one, with preparation | "
        + " | ".join(name for name, _ in measured)
        + " |"
    ]
    lines.append("| --- " * (1 + len(measured)) + "|")
    reasons = lab.reasons()
    for name in BUILDERS:
        cells = [
            "; ".join((cell(figures[name][1], 1e3), cell(figures[name][0], 1e3).partition(" ")[0]))
            if name in figures
            else reasons[name].partition(":")[0]
            for _, figures in measured
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def accuracy_table(lab):
    """Return the lines of the table of times to an accuracy: a row for each learner and recipe."""
    if not lab.reached:
        return []
    header = "| time to a mean accuracy | recipe | epochs | s, mean ± deviation (worst) | accuracy (worst) | runs |"
    lines = [header, "| --- " * 6 + "|"]
    for (task, target, recipe), found in lab.reached.items():
        for name in lab.contests[task].workers | lab.contests[task].reasons:
            text = f"{recipe.partition(',')[0]}, constant rate" if name == CONSTANT else recipe
            start = f"| {task} {target:.1%}, {name} | {text} | "
            if name not in found:
                lines.append(start + f"{lab.reasons().get(name, 'not reached').partition(':')[0]} | | | |")
                continue
            one = found[name]
            times = f"{one.mean:.3f} ± {one.spread(one.seconds):.3f} ({max(one.seconds):.3f})"
            accuracies = f"{one.accuracy:.2%} ({min(one.accuracies):.2%})"
            lines.append(start + f"{one.epochs} | {times} | {accuracies} | {len(one.seconds)} |")
    return [*lines, ""]


def notes(lab):
    """Return the lines under the tables: data, machine and versions, then the reasons for missing figures."""
    facts, samples = machine(), lab.scale.samples
    versions = {worker.version for contest in lab.contests.values() for worker in contest.workers.values()}
    versions.add(f"numba {facts['numba']}")
    return [
        f"{ABOUT} {image_sets(1)[2]}, {samples} samples; {facts['CPU']}, threads: {facts['cores']}; {facts['system']}; "
        f"Python {facts['python']}, {', '.join(sorted(versions))}; {facts['date']}.",
        *(f"{name}: {reason}" for name, reason in lab.reasons().items()),
    ]


def main(words=None):
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="measure the rows whose name contains TEXT")
    parser.add_argument("--quick", action="store_true", help="2000 samples, two seeds: a test run, not a measurement")
    parser.add_argument("--seeds", type=int, metavar="N", help="number of seeds; default: 30")
    parser.add_argument(
        "--budget", type=float, default=FULL.budget, metavar="S",
        help="seconds of runs of one recipe after which a learner gets no longer ones; default: %(default)g",
    )  # fmt: skip
    parser.add_argument("--busy", action="store_true", help="measure beside another busy process")
    parser.add_argument("--readme", metavar="FILE", help="also put the tables between the markers in FILE")
    parser.add_argument("--curve", metavar="FILE", help="also draw epochs, and accuracy against time, into FILE")
    options = parser.parse_args(words)
    os.environ.update(ENVIRONMENT)
    fastmlp.set_backend("numba")
    scale = QUICK if options.quick else FULL
    scale = scale._replace(seeds=options.seeds or scale.seeds, budget=options.budget)
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Lab(folder, scale)) as lab:
        with busy_process(options.busy):
            if options.curve:
                lab.draw(options.curve)
            found = report(rows(lab, options.busy), options.only)
        text = "\n".join([*target_table(found), *epoch_table(lab), *accuracy_table(lab), *notes(lab)])
        print("\n" + text)
        if options.readme:
            marker = "python -m benchmarks.learning" + (" --busy" if options.busy else "")
            rewrite(options.readme, text, f"<!-- {marker}: begin -->", f"<!-- {marker}: end -->")
        return status(found) or (2 if lab.reasons() else 0)


if __name__ == "__main__":
    sys.exit(main())
