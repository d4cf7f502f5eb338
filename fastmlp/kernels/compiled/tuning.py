"""Every tuning constant of the Numba backend."""

from fastmlp.kernels import vector

# Below this many array elements the serial shell runs. A launch alone costs 5 to 20 µs, which 1 << 15 elements repay;
# but after it the workers of the omp layer spin for milliseconds beside the threads of BLAS (an epoch of the digits
# took 25 ms with 1 << 15, 2.5 ms with this), so the arrays must be worth a slow product too.
PARALLEL_SIZE = 1 << 18

# Ranges of elements begin on multiples of this, so that no two workers write to the same cache line.
ALIGNMENT = 64

# Columns that pass from row to row together: ten such rows, in and out, lie in the first-level cache.
COLUMN_BLOCK = 128

# Samples whose costs are one sum.
COST_BLOCK = 256

# Targets of which it is asked together whether they are zero: as many as a number has bits.
TARGETS_AT_ONCE = 64

# Samples whose losses are computed together, class by class.
LOSS_BLOCK = 64

# bias_sum adds blocks of this many elements, then the blocks' sums: the error grows like m / block, not like m.
SUM_BLOCK = 512

# ---- The engine: packed input, one fused pass per step ----
#
# Samples are taken in *leaves*, aligned chunks by global index; a leaf in *tiles*, whose activations fit the cache; a
# tile in *groups* of GROUP samples, the rows of a register tile. Parameters and gradients are *packed*: for each layer
# the columns of the transposed weights in panels of PANEL vectors, panel after panel, each (R, width), then the biases.
# A micro-kernel adds to GROUP rows: of Z in the forward pass, a group of samples over its list of active features; of
# the gradient in the backward pass, a group of features over its list of the tile's active samples.
#
# The lists come from a packed matrix, or are made on the way, tile by tile, from the rows of a plain one. Those of a
# hidden layer are made on the way as well: half of its activations are zero when training begins, more later on, and
# 0.70 of them where any of 3 samples that stand together counts. Without them 784-256-256-10 took 915 ms on one core of
# Zen 3, with them 840.
#
# Half of the gradients by what a hidden layer puts out are zero too, where its ReLU is shut. Where nothing is gained by
# the zeros of its input, the gradient by its weights is made unit by unit over the samples that count (`_add_by_unit`)
# and lies in rows, one for each unit, not in panels: a dense step of 784-128-10 took 575 ms, so 515.
SAMPLE_TILE = 240  # samples; a multiple of every GROUP: two or three such activations of 128 units fit a 512 KiB cache
FEW_SAMPLES = 120  # samples up to which a step packs nothing,
FEW_DENSE_SAMPLES = 2000  # and as many where there are no zeros to be skipped

# Below this many multiply-adds of a forward pass one worker does everything: a launch beside the threads of BLAS, which
# spin on after a product, may take milliseconds. From here on two workers take two thirds of the time of one.
PARALLEL_WORK = 1 << 20

# Leaves below a tile, so that a few hundred samples still make work for some cores; with 60 the gradients to be added
# take a tenth longer on two. All are multiples of every GROUP.
LEAF_STEP, LEAF_MULTIPLE = 120, 12
MOST_LEAVES = 32  # more would cost more in adding gradients than they give in balance, until leaves are full
FULL_LEAF = 8 * SAMPLE_TILE
FOLDED = 1 << 16  # subtrees summed up in a gradient are counted in so many, to which the number of a worker is added

# Numbers of 8 bytes in a cache line: what workers write by turns lies in rows so long, for a line goes back and forth.
LINE_NUMBERS = vector.LINE_BYTES // 8

# Rows that are copied and listed at a time, in the cache: whole groups of either kind.
COPIED_ROWS = -(-8 * vector.GROUP // vector.PADDING) * vector.PADDING

# Features are taken in parts, so that the rows of a panel that a part meets stay in the cache while a block of groups
# passes. A dense product reads the rows one after the other, and fewer parts repay it (45 GFLOP/s with one of 784, 43
# with two).
FEATURE_BLOCK = vector.CACHE_BYTES // (vector.PANEL * vector.VECTOR_BYTES)
DENSE_FEATURE_BLOCK = 1024

# Vectors in a row of a product from which on it repays listing the zeros of a hidden layer, or copying dense factors:
# either takes as long as a few multiply-adds for each of them.
WIDE_VECTORS = 16

# Bytes of lists of a hidden layer that are made at a time, before they are used panel by panel.
LISTED_BYTES = 200_000

# Features of dense samples that are copied at a time: whole groups, and an odd number of cache lines in float64.
DENSE_FEATURES = 120

# A tile whose lists would hold more than this share of all features is stored dense: a list entry costs an index.
DENSE_SHARE = 0.9

# Among how many samples of its leaf the next is chosen when they are put in order; all 1920 would gain 1 % more.
ORDER_WINDOW = 512

# Bytes of each row whose inner products are taken at a time: 7 such rows stay in a first-level cache.
DOT_BYTES = 3200

# Products of a register tile: they repay loading and storing its sums, and a panel takes half of a first-level cache.
TILE_FACTORS = 15_360 // (vector.PANEL * vector.VECTOR_BYTES)

# Units from which on it repays copying samples in order to skip some of them for each unit.
SKIPPING_OUTPUTS = 8

# Units whose samples are listed together: 3 MB of lists with a tile of samples.
LISTED_OUTPUTS = 1024

# Rows of a product that repay copying the factors.
COPIED_FACTOR_ROWS = 24

# Samples of a plain matrix that are copied at a time where they do not lie in rows.
ROW_BATCH = 8192
SAMPLE_BLOCK = 125  # samples, about

# Rows of deltas of so many outputs are padded.
STRIDED_OUTPUTS = 64
