"""Full-batch training of multilayer perceptrons on the CPU, and a drop-in for the from-scratch NumPy MNIST notebook.

``from fastmlp import *`` brings the notebook's seven functions. Importing binds names and does nothing else.
"""

from fastmlp.backend import (
    get_backend,
    get_num_threads,
    set_backend,
    set_num_threads,
    show_config,
    use_backend,
    use_threads,
    warmup,
)
from fastmlp.model import MLP
from fastmlp.notebook import (
    Forwardprop,
    ReLU,
    Softmax,
    backward_prop,
    compute_cost,
    one_hot,
    update_params,
)
from fastmlp.packing import PackedMatrix, pack
from fastmlp.training import History

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "Forwardprop",
    "History",
    "PackedMatrix",
    "ReLU",
    "Softmax",
    "backward_prop",
    "compute_cost",
    "get_backend",
    "get_num_threads",
    "one_hot",
    "pack",
    "set_backend",
    "set_num_threads",
    "show_config",
    "update_params",
    "use_backend",
    "use_threads",
    "warmup",
]
