"""Benchmarks: what fastmlp promises about speed, printed by commands.

``python -m benchmarks.targets`` holds the project to its targets, ``python -m benchmarks.peers`` compares it with other
frameworks, and the suites that build on `benchmarks.suite` are run by asv, which shows what a commit did to each of
them.
"""

import os

# The baseline must be the strongest: before NumPy is imported, so that BLAS chooses its own kernels.
os.environ.pop("OPENBLAS_CORETYPE", None)
