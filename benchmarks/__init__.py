"""Benchmarks: fastmlp's promises about speed, each checked by a command.

``python -m benchmarks.targets`` measures the project's targets, ``python -m benchmarks.peers`` compares fastmlp with
other frameworks, ``python -m benchmarks.learning`` compares training on minibatches and measures its targets,
``python -m benchmarks.scale`` measures the ranks of MPI and predicts how many are worth it, ``python -m
benchmarks.packs`` measures packed files, and asv runs the suites that build on `benchmarks.suite` and shows how commits
change their figures.
"""

import os
import sys

# The baseline must be as fast as possible, so BLAS must be free to choose its own kernels. It chooses when NumPy is
# imported; removing the variable later would only make child processes differ from this one.
if "numpy" not in sys.modules:
    os.environ.pop("OPENBLAS_CORETYPE", None)
