"""The machine: vector width, features of Numba's target, and the sizes that depend on them."""

import math

from fastmlp.kernels.internals import FEATURES, PROCESSOR, TRIPLE

CPU_NAME = PROCESSOR
_IS_ARM = TRIPLE.startswith(("aarch64", "arm64"))

# Without the instruction, llvm.fma is a library call per element: 1.7 GFLOP/s against 12.8 for multiply and add.
HAS_FMA = "fma" in FEATURES or _IS_ARM

# GROUP rows of PANEL vectors are summed in registers, beside their GROUP factors and one vector of a row of b. 16
# registers hold 3 rows of 4 vectors as well as 4 of 3, and the lists of 3 samples are a twelfth shorter. A dense
# product takes as many rows as there are registers for, DENSE_GROUP: no zero is computed because a neighbour needs it.
# CACHE_BYTES is what the rows of b that a list meets may take, in the second level of cache; BLOCK how many groups use
# a panel before the next one: 1 MiB beside AVX-512 holds all panels, less of it the lists of all groups of a tile.
# DENSE_SAMPLES are those that a dense product sums at a time, so that a first level holds their rows of both factors;
# FACTOR_BYTES is what of a factor is used over and over by plain products.
# One core of Zen 3 took 239 ms for a step on MNIST in float64 with 4 rows of 3 vectors, CACHE_BYTES for the first level
# and a BLOCK of 8; 184 as it is here. Prefetching the rows of out, or rows of b in panels, gained nothing there.
if "avx512f" in FEATURES:
    VECTOR_BYTES, PANEL, GROUP, DENSE_GROUP, CACHE_BYTES = 64, 4, 4, 6, 262_144
elif "avx" in FEATURES:
    VECTOR_BYTES, PANEL, GROUP, DENSE_GROUP, CACHE_BYTES = 32, 4, 3, 3, 51_200
elif _IS_ARM:
    VECTOR_BYTES, PANEL, GROUP, DENSE_GROUP, CACHE_BYTES = 16, 4, 4, 4, 25_600
else:
    VECTOR_BYTES, PANEL, GROUP, DENSE_GROUP, CACHE_BYTES = 16, 2, 4, 4, 25_600
BLOCK, DENSE_SAMPLES, FACTOR_BYTES = (8, 240, 262_144) if VECTOR_BYTES == 64 else (80, 80, 200_000)

# Rows and columns of the tile of inner products, whose sums too must fit the registers.
DOT_ROWS, DOT_COLUMNS = (4, 4) if VECTOR_BYTES == 64 or _IS_ARM else (3, 4) if VECTOR_BYTES == 32 else (2, 4)

# How many vectors of a row `sparse_rows` takes at once, the most first; and the bytes of such rows that it meets, which
# lie in the first level of cache. It loads a vector for each multiply-add: 37 GFLOP/s where a tile reaches 48.
STRIPS, SPARSE_BYTES = ((8, 4, 2, 1) if VECTOR_BYTES == 64 else (12, 4, 2, 1)), 24_000

# A vector that straddles two cache lines counts as two: buffers begin on a line.
LINE_BYTES = 64

# Rows are padded to a multiple of this, so that a register tile may take whole groups of either kind.
PADDING = math.lcm(GROUP, DENSE_GROUP)

# Exponentials that are added without compensation: their sum is within 5 eps. A thousand would cost a thousand (Kahan's
# summation takes a sixth longer).
FEW_ROWS = 10

# Chains of sums that a core can go on with at once: two multiply-adds a cycle, each ready after four.
CHAINS = 8
