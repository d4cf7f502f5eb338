"""Benchmarks: what fastmlp promises about speed, printed by commands.

``python -m benchmarks.targets`` holds the project to its targets, ``python -m benchmarks.peers`` compares it with other
frameworks, and the suites that build on `benchmarks.suite` are run by asv, which shows what a commit did to each of
them.
"""

import os
import sys

# The baseline must be the strongest, so BLAS shall choose its own kernels. It does when NumPy is imported; afterwards
# only the children of this process would compute otherwise than it does.
if "numpy" not in sys.modules:
    os.environ.pop("OPENBLAS_CORETYPE", None)
