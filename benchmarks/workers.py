"""One process per implementation, which holds the data and waits; they are asked in turn for one timing each.

Threads, allocators and settings of different frameworks therefore never share a process, and other load on the machine
affects all nets alike.
"""

import multiprocessing

import numpy as np

from benchmarks import nets
from benchmarks.timing import repeats_for, seconds, settle, warm_up


class WorkerError(Exception):
    """An implementation cannot be measured; the message gives the reason in one line."""


def serve_net(name, folder, dtype):
    """Return facts and functions of a net, as `Worker` wants them."""
    problem = nets.Problem(np.load(f"{folder}/codes.npy"), np.load(f"{folder}/labels.npy"), dtype)
    net = nets.BUILDERS[name](problem)
    return (net.version, net.operations), _questions(net)


class Worker:
    """An implementation in a process of its own. ``ask`` sends a question and waits for the answer.

    ``service(*words)`` is called in that process. It returns the version, the operations per step or 0, and the
    functions by the questions they answer: ``(version, operations), functions``.
    """

    def __init__(self, *words, service=serve_net):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, service, words), daemon=True)
        self._process.start()
        theirs.close()
        self.version, self.operations = self._answer()

    def ask(self, question, *words):
        """Return the answer to one of the service's questions."""
        return self._answer((question, *words))

    def stop(self):
        """End the process."""
        self._connection.close()  # tells the process to end; if it hangs, it is killed
        self._process.join(10)
        self._process.kill()

    def _answer(self, *questions):
        try:
            for question in questions:
                self._connection.send(question)
            problem, answer = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            raise WorkerError(f"failed: its process ended with status {self._process.exitcode}") from None
        if problem is not None:
            raise WorkerError(problem)
        return answer


def _serve(connection, service, words):
    try:
        facts, questions = service(*words)
        connection.send((None, facts))
        while True:
            question, *words = connection.recv()
            connection.send((None, questions[question](*words)))
    except (EOFError, ConnectionError):  # closed by `stop`
        pass
    except ModuleNotFoundError as error:
        connection.send((f"absent: {error}", None))
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        connection.send((f"failed: {type(error).__name__}: {first_line}", None))


def _questions(net):
    state = {"step": net.start(), "repeats": None}

    def costs(count):
        step = net.start()
        return [step() for _ in range(count)]

    def step_seconds(at_least):
        step = state["step"]
        if state["repeats"] is None:
            state["repeats"] = repeats_for(step, at_least)
        # While the other nets ran, the caches filled with their data, and a virtual machine may have returned free
        # pages to its host: the first steps would be slow.
        warm_up(step, at_least)
        return settled(lambda: seconds(step, state["repeats"]))

    def training_seconds(epochs):
        train = net.train or costs
        train(1)
        return settled(lambda: seconds(lambda: train(epochs)))

    return {"costs": net.costs or costs, "step": step_seconds, "training": training_seconds}


def settled(measure):
    """Measure, and return the time once this process's threads are idle, because the next process then starts."""
    taken = measure()
    settle()
    return taken
