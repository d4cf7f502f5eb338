"""Every tuning constant of the Numba backend, with its unit and its reason.

Figures are in benchmarks/TUNING.md, in the row that ends a comment, and ``python -m benchmarks.tuning NAME`` measures
them again. Values that depend on the vectors of the machine are in `fastmlp.kernels.vector.target`.
"""

import math

from fastmlp.kernels import vector

# ---- Constants that change bits: they decide the order or the grouping of sums ----

# Samples in a tile: two or three tiles of activations of 128 outputs fit an L2 cache of 512 KiB. Larger tiles fall out
# of it, smaller ones use each panel of weights less often. A multiple of every GROUP. Row: SAMPLE_TILE.
SAMPLE_TILE = 240

# Samples in a leaf of the summation tree while there are few: below a tile, so that a few hundred samples still give
# work to some cores. With smaller leaves, adding their gradients takes longer. Row: LEAF_STEP.
LEAF_STEP = 120

# Leaves are multiples of so many samples: of every GROUP and DENSE_GROUP, so that the tree is the same on all machines.
# Row: LEAF_MULTIPLE.
LEAF_MULTIPLE = 12

# Leaves of the tree, until they are full: more take longer to add than they gain in balance. Row: MOST_LEAVES.
MOST_LEAVES = 32

# Samples in a full leaf. The order of samples is free within a leaf only, so longer leaves share more zeros; shorter
# ones balance better. Row: FULL_LEAF.
FULL_LEAF = 8 * SAMPLE_TILE

# Samples up to which a step packs nothing: one pass over the parameters then takes as long as the step. More samples
# are worth the copies, and zeros are skipped. Row: FEW_SAMPLES.
FEW_SAMPLES = 120

# The same where there are no zeros to skip: packing then gains register tiles with aligned rows, but no arithmetic.
# Row: FEW_DENSE_SAMPLES.
FEW_DENSE_SAMPLES = 2000

# Samples whose costs are one sum: ten classes of targets of so many samples stay in an L1 cache of 32 KiB from the
# test for finite numbers to the list. Row: COST_BLOCK.
COST_BLOCK = 256

# Features in a block: the rows of a panel that a list meets stay in CACHE_BYTES while a block of groups passes. Longer
# blocks fall out of the cache, shorter ones load and store the sums of a register tile more often. Row: FEATURE_BLOCK.
FEATURE_BLOCK = vector.CACHE_BYTES // (vector.PANEL * vector.VECTOR_BYTES)

# The same for dense products. They read the rows of a panel one after the other, so that the cache matters less than
# loading and storing sums: all features of an image in one block. Row: DENSE_FEATURE_BLOCK.
DENSE_FEATURE_BLOCK = 1024

# Vectors in a row of a product from which the zeros of a hidden layer are listed, and dense factors copied: either
# takes as long as a few multiply-adds with each vector of the row. Row: WIDE_VECTORS.
WIDE_VECTORS = 16

# Share of all features above which the lists of a tile are not worth it, and it is stored dense: a list entry costs an
# index, and list groups have fewer rows than dense ones. Row: DENSE_SHARE.
DENSE_SHARE = 0.9

# Samples of a leaf among which the next one is chosen when they are put in order. More find closer neighbours, whose
# groups share more zeros, but packing takes longer. Row: ORDER_WINDOW.
ORDER_WINDOW = 512

# Bytes of each row whose inner products are taken at a time: seven such parts stay in an L1 cache. With longer parts
# they do not, with shorter ones the sums of the lanes are taken more often. Row: DOT_BYTES.
DOT_BYTES = 3200

# Products that a register tile of plain factors adds at a time: enough to be worth loading and storing its sums, and a
# panel takes half of an L1 cache. Row: TILE_FACTORS.
TILE_FACTORS = 15_360 // (vector.PANEL * vector.VECTOR_BYTES)

# Outputs of a layer from which its gradient skips samples output by output: the samples are copied once for all
# outputs, and a copy takes longer than the product for a single output. Row: SKIPPING_OUTPUTS.
SKIPPING_OUTPUTS = 8

# Vectors of inputs from which the last layer may have its weights in rows: inner products of shorter rows spend their
# time on the sums of the lanes. Row: ROWS_VECTORS.
ROWS_VECTORS = 8

# The last layer has its weights in rows, one for each output, if these have fewer than this share of the elements of
# columns, both padded to whole vectors: for few outputs, vectors across the columns are partly empty. Above the share,
# register tiles are faster than inner products. Row: ROWS_SHARE.
ROWS_SHARE = 7 / 8

# Samples, about, of a plain pass that make a gradient of their own where parameters are few: it is made in the phase
# that has the samples in its cache. Fewer samples make more gradients to be added, more of them leave the cache. Row:
# SAMPLE_BLOCK.
SAMPLE_BLOCK = 125

# Elements of all these gradients, for each output of a sample, up to which they are made: adding them must cost less
# than it costs to fetch the outputs that another core has written. Row: GRADIENTS_PER_OUTPUT.
GRADIENTS_PER_OUTPUT = 2

# Features in a block of the lists of batches: their weights are near the L1 cache while samples meet them, in float64
# too. In shorter blocks each list has few entries, and beginning it takes as long as they do. Row: BATCH_FEATURES.
BATCH_FEATURES = 104

# Ranges of features over which batches sum the outputs of the first layer: a thread keeps the weights of its ranges, in
# each update, in its own cache. More have more sums to be added, fewer leave threads without one. Row: BATCH_RANGES.
BATCH_RANGES = 2

# Bytes of the weights that lists of batches meet at once: blocks of features whose rows together are smaller are taken
# together. More of them fall out of the cache before the next sample. Row: BATCH_WEIGHT_BYTES.
BATCH_WEIGHT_BYTES = 65_536

# Samples of a list of a feature, in batches: their deltas stay in an L1 cache from one feature to the next. Fewer make
# lists that are shorter and more often begun. Row: CHUNK_SAMPLES.
CHUNK_SAMPLES = 64

# Bytes up to which batches that are the same in each epoch get lists of features of their own. To take more memory
# would be a surprise. Row: DRAWN_BYTES.
DRAWN_BYTES = 256 << 20

# Share of non-zero entries above which batches read dense rows: an entry of a list takes as long as about two entries
# of a dense row, whose sums stay in registers. Row: BATCH_DENSE_SHARE.
BATCH_DENSE_SHARE = 0.5

# Parameters, about, of a piece of an update, where the layer has no lists: a gradient of so many stays in the L1 cache
# until it is used. Smaller pieces are more often begun. Row: PIECE_PARAMETERS.
PIECE_PARAMETERS = 8192

# ---- Constants that change speed and memory, but no bit ----

# Rows ahead for which a thread asks that updates the rows which a batch meets: these are far apart in memory. Fewer are
# late, more fall out of the cache. Row: ROWS_AHEAD.
ROWS_AHEAD = 4

# Samples ahead for which a thread asks that copies the dense rows of a batch: these lie anywhere in the memory, too.
# Fewer come late, more are more lines than a core can wait for. Row: SAMPLES_AHEAD.
SAMPLES_AHEAD = 4

# Features ahead for which a thread asks where samples are columns: their rows lie in other pages of the memory, where
# the processor does not foresee them. Fewer come late, more fall out of the cache. Row: FEATURES_AHEAD.
FEATURES_AHEAD = 8

# Entries of a batch for each feature below which plain descent skips the rows of the first layer that it does not meet.
# With more of them most rows are met, and a pass over all of them, in their order, takes less time. Row: WAITING_SHARE.
WAITING_SHARE = 0.5

# The same where updates change rows without a gradient too. The arithmetic is done later, for Adam a division and a
# square root in each update until its moments are too small: only rows that wait for long save time. Row:
# BUSY_WAITING_SHARE.
BUSY_WAITING_SHARE = 0.02

# Features among which the next one of a group is chosen: more find features that are zero in more of the same samples,
# but choosing takes longer. In images, neighbours are a row apart. Row: FEATURE_WINDOW.
FEATURE_WINDOW = 64

# Samples by which features are compared: more tell them apart better. Row: FEATURE_SAMPLES.
FEATURE_SAMPLES = 512

# Samples from which features are put in groups, which takes some milliseconds: those of fewer are gained back only
# after many steps. Row: GROUPED_SAMPLES.
GROUPED_SAMPLES = 8192

# Array elements from which elementwise kernels use all workers. A launch itself is worth it much earlier, but after it
# the workers of the omp layer spin for milliseconds beside the threads of BLAS, so the arrays must be large enough to
# pay for a slowed-down product too. Row: PARALLEL_SIZE.
PARALLEL_SIZE = 1 << 18

# Multiply-adds of a forward pass over few samples from which it uses all workers: a launch beside threads of BLAS that
# still spin may take milliseconds. Above, two workers are faster than one. Row: PARALLEL_WORK.
PARALLEL_WORK = 1 << 20

# Multiply-adds that take as long as reading one element of x twice: layers of few outputs are bound by reading x, and
# count as this much work for PARALLEL_WORK. Row: READING_WORK.
READING_WORK = 8

# Samples whose multiply-adds with a weight take as long as reading it and writing its gradient, for PARALLEL_WORK: the
# pass over fewer is bound by that. Row: READING_SAMPLES.
READING_SAMPLES = 2

# Nodes of the tree that each worker has at least, where there are enough leaves: fewer leave workers idle at the end,
# more hold a packed gradient each and are added one by one. Row: NODES_PER_WORKER.
NODES_PER_WORKER = 8

# Elements: ranges of workers begin on multiples of it, so that no two write to the same cache line. Row: ALIGNMENT.
ALIGNMENT = 64

# Columns that pass from row to row together: ten rows of them, in and out, stay in the L1 cache. Shorter blocks have
# more loops to begin. Row: COLUMN_BLOCK.
COLUMN_BLOCK = 128

# Targets tested for zero at once: one for each bit of a uint64. Row: TARGETS_AT_ONCE.
TARGETS_AT_ONCE = 64

# Samples of a tile whose losses are computed together, class by class: whole vectors of any width, while logits,
# gradient and targets of all classes stay in the L1 cache. Row: LOSS_BLOCK.
LOSS_BLOCK = 64

# folded[s, 0] = (number of leaves summed) * FOLDED + worker: more than any number of workers. Row: FOLDED.
FOLDED = 1 << 16

# 8-byte numbers in a cache line: rows that workers write by turns have this length, because a line that two cores write
# goes back and forth between their caches. Row: LINE_NUMBERS.
LINE_NUMBERS = vector.LINE_BYTES // 8

# Rows of a plain matrix that are copied and listed at a time: eight groups, which stay in the cache from the copy to
# the lists; a multiple of PADDING, so that both kinds of groups are whole. Row: COPIED_ROWS.
COPIED_ROWS = -(-8 * vector.GROUP // vector.PADDING) * vector.PADDING

# Bytes of each row of a plain matrix that are copied at a time where its columns are the samples: whole cache lines,
# which the memory gives one after the other, and a multiple of COPIED_ROWS elements. The copies, 72 samples of float64,
# stay in the L2 cache; with fewer, each row is visited more often. Row: COPIED_COLUMN_BYTES.
_WHOLE = math.lcm(8 * COPIED_ROWS, vector.LINE_BYTES)
COPIED_COLUMN_BYTES = -(-512 // _WHOLE) * _WHOLE

# Bytes of such copies up to which they are made: where there are more features, COPIED_ROWS are copied at a time, so
# that the memory of a thread stays small beside X. Row: COPIED_BYTES.
COPIED_BYTES = 1 << 20

# Bytes of the lists of a hidden layer that are made before they are used panel by panel: they stay in the L2 cache.
# Fewer use each panel less often. Row: LISTED_BYTES.
LISTED_BYTES = 200_000

# Features of dense samples that are copied at a time: whole groups, and an odd number of cache lines in float64, so
# that rows do not fall into the same few sets of the L1 cache. Row: DENSE_FEATURES.
DENSE_FEATURES = 120

# Outputs whose samples are listed together. The lists of a tile of samples must stay small beside the parameters; with
# fewer outputs, the samples are copied more often. Row: LISTED_OUTPUTS.
LISTED_OUTPUTS = 1024

# Bytes of the memory of a step up to which a thread keeps it for its next one: to make it takes a fifth of a step on a
# thousand samples, and of large steps nothing that counts. Row: KEPT_BYTES.
KEPT_BYTES = 1 << 22

# Rows of a plain product from which its factors are copied first: each is then used often enough. Row:
# COPIED_FACTOR_ROWS.
COPIED_FACTOR_ROWS = 24

# Samples of a plain matrix that are copied at a time where they are not stored in rows. More take memory, fewer make
# more launches. Row: ROW_BATCH.
ROW_BATCH = 8192

# Outputs from which the rows of a layer's deltas are padded to an odd number of cache lines: with a power of two, all
# deltas of an output would fall into one set of the cache. Short rows are not worth the padding. Row: STRIDED_OUTPUTS.
STRIDED_OUTPUTS = 64

# Samples of a piece of a batch: they meet the same block of weights while it is in the cache. Fewer use it less often,
# more leave threads without a piece. Row: PIECE_SAMPLES.
PIECE_SAMPLES = 64

# Turns for which a thread waits for its team before it lets others have the core: some microseconds, longer than a
# phase takes to open. A thread that never gives way takes the core of one that has work. Row: SPINS.
SPINS = 1000

# Multiply-adds of an update from which it is worth a team: below, waiting for one another takes longer than the other
# half of the work. Row: TEAM_WORK.
TEAM_WORK = 1 << 20

# Multiply-adds that take as long as updating a parameter, for TEAM_WORK: Adam has a division and a square root. Row:
# UPDATE_WORK.
UPDATE_WORK = 8

# The most runs of updates until a team that was slower than one thread is tried again: with more, a core that becomes
# free is found later; with fewer, the slower one takes more of the time. Row: RUNS_PER_TRIAL.
RUNS_PER_TRIAL = 32

# The share of the time that trials of one thread may cost where a team is faster. Row: TRIAL_SHARE.
TRIAL_SHARE = 0.02

# Runs of updates after which parameters are saved. They are repeated from there if an update fails, so that more take
# longer then; saving them before each run would take longer always. Row: REPEATED_RUNS.
REPEATED_RUNS = 32
