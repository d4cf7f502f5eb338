"""The machine: vector width, features of Numba's target, and the sizes that depend on them.

Figures are in benchmarks/TUNING.md, in the row that ends a comment, and ``python -m benchmarks.tuning NAME`` measures
them again. HAS_FMA, VECTOR_BYTES, PANEL, GROUP, CACHE_BYTES, DENSE_SAMPLES, DOT_ROWS, DOT_COLUMNS, STRIPS,
WIDEST_STRIP, SPARSE_BYTES, FEW_ROWS and CHAINS change bits, because they decide how sums are made; the other sizes do
not.
"""

import math

from fastmlp.kernels.internals import FEATURES, PROCESSOR, TRIPLE

# The name of Numba's target, for `fastmlp.show_config`. Row: CPU_NAME.
CPU_NAME = PROCESSOR
_IS_ARM = TRIPLE.startswith(("aarch64", "arm64"))

# Without the instruction, llvm.fma is a library call for each element, several times slower than multiply and add.
# Row: HAS_FMA.
HAS_FMA = "fma" in FEATURES or _IS_ARM

# Whether bytes, or wider lanes, that a mask chooses can be packed side by side by an instruction. Rows: PACKS_BYTES,
# PACKS_LANES.
PACKS_BYTES, PACKS_LANES = "avx512vbmi2" in FEATURES, "avx512vl" in FEATURES

# VECTOR_BYTES: the widest vectors of the target. Narrower ones use fewer lanes of its units. Row: VECTOR_BYTES.
# PANEL: vectors of a row, and GROUP: rows, whose sums are held in registers beside their GROUP factors and one vector
# of a row of b. Larger tiles use each loaded vector and factor more often, until registers are short. 16 registers hold
# 3 rows of 4 vectors as well as 4 of 3, but lists of 3 samples are shorter than those of 4. Rows: PANEL, GROUP.
# DENSE_GROUP: rows of a dense tile, as many as there are registers for: there is no list that gets longer with more
# rows. Row: DENSE_GROUP.
# NARROW_GROUPS: the same for tiles of few vectors, by their number, from none, which is a single column. Their sums
# would be too few to keep the units busy, as each waits for its last addition. Row: NARROW_GROUPS.
# CACHE_BYTES: the rows of b that a list meets may take so much of the L2 cache. More fall out of it, less makes more
# and shorter lists. Row: CACHE_BYTES.
if "avx512f" in FEATURES:
    VECTOR_BYTES, PANEL, GROUP, DENSE_GROUP, CACHE_BYTES = 64, 4, 4, 6, 262_144
elif "avx" in FEATURES:
    VECTOR_BYTES, PANEL, GROUP, DENSE_GROUP, CACHE_BYTES = 32, 4, 3, 3, 51_200
elif _IS_ARM:
    VECTOR_BYTES, PANEL, GROUP, DENSE_GROUP, CACHE_BYTES = 16, 4, 4, 4, 25_600
else:
    VECTOR_BYTES, PANEL, GROUP, DENSE_GROUP, CACHE_BYTES = 16, 2, 4, 4, 25_600

NARROW_GROUPS = (DENSE_GROUP, 12, 6 if DENSE_GROUP == 3 else DENSE_GROUP)

# Groups that use a panel before the next one: about those of a tile. Fewer change the panel more often. Row: BLOCK.
BLOCK = 80

# DENSE_SAMPLES: samples that a dense product sums at a time: their rows of both factors stay in the L1 cache, or beside
# AVX-512 in the L2 cache. Fewer load and store the sums more often. Row: DENSE_SAMPLES.
# FACTOR_BYTES: the part of a factor of plain products that is used over and over, in the L2 cache. Row: FACTOR_BYTES.
DENSE_SAMPLES, FACTOR_BYTES = (240, 262_144) if VECTOR_BYTES == 64 else (80, 200_000)

# Rows and columns of the tile of inner products, whose sums must fit the registers beside a column of factors. Larger
# tiles use each loaded vector more often. Rows: DOT_ROWS, DOT_COLUMNS.
DOT_ROWS, DOT_COLUMNS = (4, 4) if VECTOR_BYTES == 64 or _IS_ARM else (3, 4) if VECTOR_BYTES == 32 else (2, 4)

# STRIPS: vectors of a row that `sparse_rows` takes at once, the most first: enough chains of sums to keep the units
# busy, and few enough that SPARSE_BYTES hold a useful block of samples. Row: STRIPS.
# SPARSE_BYTES: rows that it meets, which stay in the L1 cache: it loads a vector for each multiply-add, and is slower
# than a register tile even there. Row: SPARSE_BYTES.
# WIDEST_STRIP: up to so many vectors at once, products with the samples of a batch take any number, such as the seven
# of 100 outputs: each strip reads its lists anew. Row: WIDEST_STRIP.
STRIPS, SPARSE_BYTES = ((8, 4, 2, 1) if VECTOR_BYTES == 64 else (12, 4, 2, 1)), 24_000
WIDEST_STRIP = STRIPS[0]

# Bytes of a cache line. Buffers begin on one, because loading a vector that straddles two counts as two. Row:
# LINE_BYTES.
LINE_BYTES = 64

# Rows are padded to a multiple of this, so that a register tile may take whole groups of any kind. Row: PADDING.
PADDING = math.lcm(GROUP, DENSE_GROUP, *NARROW_GROUPS)

# Exponentials that are added without compensation: the error of so few is a few eps. More would lose accuracy,
# compensation for fewer would take longer. Row: FEW_ROWS.
FEW_ROWS = 10

# Sums that a core can continue at once, each of which waits for its last addition: two multiply-adds a cycle, ready
# after four. Fewer leave the units waiting, more need registers. Row: CHAINS.
CHAINS = 8
