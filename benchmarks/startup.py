"""Start-up in a fresh process: the import, and the first step with an empty and with a filled compile cache."""

import subprocess
import sys

from benchmarks import suite

_MAKE = """
import os, tempfile
import numpy as np
if {cold}:
    folder = tempfile.TemporaryDirectory()
    os.environ["NUMBA_CACHE_DIR"] = folder.name
rng = np.random.default_rng(0)
codes = rng.integers(256, size=({m}, 784), dtype=np.uint8).T
codes *= rng.random(({m}, 784), dtype=np.float32).T < 0.191
labels = np.arange({m}) % 10
"""

_FIRST = """
import fastmlp
fastmlp.set_backend({backend!r})
model = fastmlp.MLP((784, 128, 10))
model.loss_and_grad(fastmlp.pack(codes, scale=1 / 255), labels)
"""


def timeraw_import():
    return "import fastmlp", "import numpy"


class FirstStep:
    """From the import of fastmlp to the first gradient, packing included."""

    params = (["numpy", "numba"], ["cold", "warm"], suite.sample_counts(60_000))
    param_names = ("implementation", "cache", "m")
    repeat = (1, 3, 20.0)
    _code = None

    def setup(self, implementation, cache, m):
        if implementation == "numpy" and cache == "cold":
            raise NotImplementedError("the NumPy backend compiles nothing")
        if implementation == "numba" and not suite.HAS_NUMBA:
            raise NotImplementedError("Numba cannot be imported")
        if self._code is None:
            self._code = _FIRST.format(backend=implementation), _MAKE.format(cold=cache == "cold", m=m)
            if cache == "warm":
                subprocess.run([sys.executable, "-c", self._code[1] + self._code[0]], check=True)

    def timeraw_first_step(self, *cell):
        return self._code
