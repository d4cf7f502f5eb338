"""The explicit-vector micro-kernels, as LLVM IR through Numba's ``@intrinsic``.

Left to itself LLVM stays far below the peak in a matrix product: sums must live in vector registers, and only
explicit vectors do. There is one register tile, which adds a product to a few rows of up to PANEL vectors, in two
forms: `tile` takes `Factors` as they are, `Codes` through a table. `sparse_rows` and `listed_rows` do so for single
rows, each over a list of its own, `ordered_rows` in the order of the list, and `scatter_rows` adds single rows to those
that a list names; all take `RowLists` and `CodedLists`. `list_nonzero` makes lists of groups, `nonzero_bits` says which
numbers are to be listed, or are targets. Where both factors are stored along the sum, `dot_tile` takes inner products.
`logistic_elements`, `tanh_elements` and `gelu_elements` are the activations that need an exponential, `exp_elements` is
that of losses. `adam_updates` and its like make several updates of an optimizer in a row, `adam_rows` makes one
with the sums of `ordered_rows`.

A kernel reads and writes the elements that its formula names and no others, for any number of entries; `list_nonzero`
alone writes one entry more. Callers must pad buffers to a multiple of PADDING rows, because a register tile always
processes a whole group of rows.

Everything that depends on the machine is decided here, once, from the features of Numba's target, which need not be
those of the host. A vector that the target does not have is legal IR all the same: LLVM splits it.
"""

from fastmlp.kernels.vector.dot import dot_tile
from fastmlp.kernels.vector.exp import exp, exp_elements
from fastmlp.kernels.vector.log import log
from fastmlp.kernels.vector.nonzero import list_nonzero, list_nonzero_rows, list_words, nonzero_bits
from fastmlp.kernels.vector.operands import (
    CodedLists,
    Codes,
    Entries,
    Factors,
    Matrix,
    Plane,
    RowLists,
    Rows,
    Share,
    address,
    block,
    chosen,
    codes,
    copy_elements,
    factors,
    lanes,
    line_of,
    matrix,
    number,
    operand_type,
    part,
    pointer_to,
    row,
    row_of,
)
from fastmlp.kernels.vector.scalars import (
    bits_of,
    fetch_add,
    noinline,
    population_count,
    prefetch,
    select,
    smallest_normal,
    trailing_zeros,
)
from fastmlp.kernels.vector.sigmoids import gelu_elements, logistic_elements, tanh_elements
from fastmlp.kernels.vector.softmax import exp_columns, softmax_columns
from fastmlp.kernels.vector.sparse_rows import listed_rows, ordered_rows, scatter_rows, sparse_rows
from fastmlp.kernels.vector.steps import (
    NUMBERS,
    RowUpdate,
    State,
    Updates,
    adam_updates,
    descent_updates,
    momentum_updates,
    nesterov_updates,
)
from fastmlp.kernels.vector.target import (
    BLOCK,
    CACHE_BYTES,
    CPU_NAME,
    DENSE_GROUP,
    DENSE_SAMPLES,
    DOT_COLUMNS,
    DOT_ROWS,
    FACTOR_BYTES,
    GROUP,
    HAS_FMA,
    LINE_BYTES,
    NARROW_GROUPS,
    PACKS_BYTES,
    PACKS_LANES,
    PADDING,
    PANEL,
    SPARSE_BYTES,
    STRIPS,
    VECTOR_BYTES,
    WIDEST_STRIP,
)
from fastmlp.kernels.vector.teamwork import (
    NUMBERS_THREADS,
    add_and_publish,
    exchange,
    flush_subnormals,
    give_way,
    note_thread,
    observe,
    pause,
    publish,
    restore_subnormals,
)
from fastmlp.kernels.vector.tile import tile
from fastmlp.kernels.vector.transpose import block_size, transpose
from fastmlp.kernels.vector.updated_rows import adam_rows
from fastmlp.kernels.vector.workers import call, call_worker, call_workers, open_arguments, opened

__all__ = [
    "BLOCK",
    "CACHE_BYTES",
    "CPU_NAME",
    "DENSE_GROUP",
    "DENSE_SAMPLES",
    "DOT_COLUMNS",
    "DOT_ROWS",
    "FACTOR_BYTES",
    "GROUP",
    "HAS_FMA",
    "LINE_BYTES",
    "NARROW_GROUPS",
    "NUMBERS",
    "NUMBERS_THREADS",
    "PACKS_BYTES",
    "PACKS_LANES",
    "PADDING",
    "PANEL",
    "SPARSE_BYTES",
    "STRIPS",
    "VECTOR_BYTES",
    "WIDEST_STRIP",
    "CodedLists",
    "Codes",
    "Entries",
    "Factors",
    "Matrix",
    "Plane",
    "RowLists",
    "RowUpdate",
    "Rows",
    "Share",
    "State",
    "Updates",
    "adam_rows",
    "adam_updates",
    "add_and_publish",
    "address",
    "bits_of",
    "block",
    "block_size",
    "call",
    "call_worker",
    "call_workers",
    "chosen",
    "codes",
    "copy_elements",
    "descent_updates",
    "dot_tile",
    "exchange",
    "exp",
    "exp_columns",
    "exp_elements",
    "factors",
    "fetch_add",
    "flush_subnormals",
    "gelu_elements",
    "give_way",
    "lanes",
    "line_of",
    "list_nonzero",
    "list_nonzero_rows",
    "list_words",
    "listed_rows",
    "log",
    "logistic_elements",
    "matrix",
    "momentum_updates",
    "nesterov_updates",
    "noinline",
    "nonzero_bits",
    "note_thread",
    "number",
    "observe",
    "open_arguments",
    "opened",
    "operand_type",
    "ordered_rows",
    "part",
    "pause",
    "pointer_to",
    "population_count",
    "prefetch",
    "publish",
    "restore_subnormals",
    "row",
    "row_of",
    "scatter_rows",
    "select",
    "smallest_normal",
    "softmax_columns",
    "sparse_rows",
    "tanh_elements",
    "tile",
    "trailing_zeros",
    "transpose",
]
