"""A thread that ends the run on all processes when another process falls silent."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

import numpy as np

# Seconds between two signs of life, and of silence until the run is ended. The variable sets the latter.
_EVERY, _SILENCE, _VARIABLE = 1.0, 20.0, "FASTMLP_SILENCE"


class Watchdog:
    """Sends a sign of life to the next process of a ring, and listens to the previous one."""

    def __init__(self, comm: Any) -> None:
        self._comm, self._world = comm.Dup(), comm
        self._rank, self._size = self._comm.Get_rank(), self._comm.Get_size()
        self._silence = float(os.environ.get(_VARIABLE, _SILENCE))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="fastmlp watchdog", daemon=True)
        if self._size > 1:
            self._thread.start()

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()
        if self._size > 1:
            self._thread.join()
        self._comm.Free()

    def _watch(self) -> None:
        previous, following = (self._rank - 1) % self._size, (self._rank + 1) % self._size
        sign, heard = np.zeros(1, np.uint8), time.monotonic()
        requests: list[Any] = []
        every = min(_EVERY, self._silence / 4)
        while not self._ended.wait(every):
            requests = [one for one in requests if not one.Test()]
            if len(requests) < 100:
                requests.append(self._comm.Isend(sign, following))
            before = time.monotonic()
            while self._comm.Iprobe(previous):
                self._comm.Recv(np.empty(1, np.uint8), previous)
                heard = before
            if time.monotonic() - heard > self._silence:
                text = (
                    f"fastmlp: rank {previous} has been silent for {self._silence:g} s: the run is ended on all ranks"
                )
                print(text, file=sys.stderr, flush=True)  # noqa: T201
                time.sleep(0.5)  # mpiexec drops what it has not passed on
                self._world.Abort(1)
