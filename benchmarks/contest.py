"""The same training in the processes of all learners, in turn, once each has proved that it learns as NumPy does."""

import contextlib
import statistics
import subprocess
import sys
from typing import NamedTuple

from benchmarks import learners, recipes
from benchmarks.peers import in_turns
from benchmarks.workers import Worker, WorkerError

# Largest relative difference from the loss of the plain formulas after an epoch. It is 1e-7, or 1e-5 in TensorFlow and
# scikit-learn, where Adam adds epsilon before it corrects the root.
TOLERANCE = 1e-3
LEAST = 5  # seeds after which a mean far below the target ends a series
PATIENCE = 240.0  # seconds of a series after which a slow learner gets no more seeds


class Scale(NamedTuple):
    """How much is measured: ``epochs`` is the number of epochs in a timing, ``lengths`` those that are tried.

    ``budget`` is the seconds of all series of a recipe after which a slow learner gets no longer ones.
    """

    samples: int
    seeds: int
    rounds: int
    epochs: int
    lengths: dict[str, tuple[int, ...]]
    targets: dict[str, tuple[float, ...]]
    budget: float = 600.0


FULL = Scale(
    60_000, 30, 7, 10,
    {"MNIST": tuple(range(1, 13)), "digits": (5, 10, 15, 20, 30, 40, 60, 80, 100, 150, 200)},
    {"MNIST": (0.975, 0.98), "digits": (0.97,)},
)  # fmt: skip
QUICK = Scale(2000, 2, 1, 1, {"MNIST": (1, 2), "digits": (5,)}, {"MNIST": (0.2, 0.3), "digits": (0.5,)})
TASKS = {"MNIST": recipes.images, "dense": recipes.dense, "digits": recipes.small_digits}


class Series(NamedTuple):
    """Runs of one recipe and number of epochs, each with another seed: their seconds, and their test accuracies."""

    epochs: int
    seconds: list[float]
    accuracies: list[float]

    @property
    def accuracy(self):
        return statistics.fmean(self.accuracies)

    @property
    def mean(self):
        return statistics.fmean(self.seconds)

    def spread(self, values):
        return statistics.stdev(values) if len(values) > 1 else 0.0

    def hopeless(self, target):
        """Return whether the mean is so far below the target that more seeds will not lift it."""
        count = len(self.accuracies)
        return count >= LEAST and self.accuracy + 4 * self.spread(self.accuracies) / count**0.5 < target


class Contest:
    """The learners' processes for one task. Those that are absent, fail or learn something else are in ``reasons``."""

    def __init__(self, folder, task_name, scale, names):
        self.scale, self.workers, self.reasons = scale, {}, {}
        self._stack = contextlib.ExitStack()
        self.epochs, self._series = {}, {}
        task = TASKS[task_name](scale.samples)
        learners.save(folder, task_name, task)
        expected = task.loss(recipes.train_plainly(task, recipes.PLAIN, 1, 0))
        for name in names:
            print(f"{task_name}: starting {name}", file=sys.stderr)
            self._begin(name, folder, task_name, expected)

    def _begin(self, name, folder, task_name, expected):
        try:
            worker = Worker(name, folder, task_name, service=learners.serve)
            self._stack.callback(worker.stop)
            found = worker.ask("loss", recipes.PLAIN)
        except WorkerError as error:
            self.reasons[name] = str(error)
            return
        if abs(found / expected - 1) <= TOLERANCE:
            self.workers[name] = worker
        else:
            self.reasons[name] = f"not timed: a loss of {found:.4f} after an epoch, not {expected:.4f} as in NumPy"

    def close(self):
        """End the processes."""
        self._stack.close()

    def epoch(self, recipe):
        """Return for each learner the quartiles of the seconds of preparation and one epoch, and of one of several.

        Or a reason why there are none.
        """
        if recipe not in self.epochs:
            epochs = in_turns(self.workers, self.scale.rounds, "epoch", recipe, self.scale.epochs)
            firsts = in_turns(self.workers, self.scale.rounds, "first", recipe)
            self.epochs[recipe] = {name: (firsts[name], epochs[name]) for name in self.workers}
            self.reasons |= {name: why for name, why in (firsts | epochs).items() if isinstance(why, str)}
        return self.epochs[recipe]

    def reach(self, recipe, target, candidates):
        """Return for each learner the series with the fewest epochs whose mean accuracy reaches the target.

        Learners that do not reach it with any of the candidates, which increase, or within the budget, are missing.
        """
        found = {}
        for epochs in candidates:
            left = [name for name in self.workers if name not in found]
            names = [name for name in left if self._spent(recipe, name) < self.scale.budget]
            series = self.series(recipe, epochs, target, names)
            found |= {name: one for name, one in series.items() if one.accuracy >= target}
        return found

    def _spent(self, recipe, name):
        """Return the seconds of all runs of a learner with a recipe."""
        return sum(sum(one.seconds) for (of, _, whose), one in self._series.items() if (of, whose) == (recipe, name))

    def series(self, recipe, epochs, target, names, seeds=None):
        """Run each learner with all seeds, in turn, until it has no hope of the target; return their series."""
        series = {}
        for name in names:
            series[name] = self._series.setdefault((recipe, epochs, name), Series(epochs, [], []))
        for seed in range(seeds or self.scale.seeds):
            for name, one in series.items():
                wanted = len(one.seconds) == seed and not one.hopeless(target) and sum(one.seconds) < PATIENCE
                if wanted and name in self.workers:
                    self._run(name, recipe, epochs, seed, one)
        return {name: one for name, one in series.items() if one.seconds}

    def _run(self, name, recipe, epochs, seed, series):
        try:
            seconds, accuracy = self.workers[name].ask("run", recipe, epochs, seed)
        except WorkerError as error:
            self.reasons[name] = str(error)
            del self.workers[name]
            return
        series.seconds.append(seconds)
        series.accuracies.append(accuracy)


@contextlib.contextmanager
def busy_process(wanted):
    """Keep another process busy for the duration of a block, if wanted."""
    if not wanted:
        yield None
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()
