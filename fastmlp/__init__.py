"""Full-batch training of multilayer perceptrons on the CPU, and a drop-in for the from-scratch NumPy MNIST notebook.

``from fastmlp import *`` imports the notebook's seven functions. Importing the package binds names and does nothing
else: a module is imported when one of its names is first used.
"""

TYPE_CHECKING = False  # not from `typing`, whose import takes longer than that of this package
if TYPE_CHECKING:
    from fastmlp import callbacks as callbacks
    from fastmlp import datasets as datasets
    from fastmlp import distributed as distributed
    from fastmlp import estimator as estimator
    from fastmlp import onnx as onnx
    from fastmlp import optimizers as optimizers
    from fastmlp import plots as plots
    from fastmlp import preprocessing as preprocessing
    from fastmlp import schedules as schedules
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
    from fastmlp.history import History, TrainingWarning
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
    from fastmlp.packing import PackedMatrix
    from fastmlp.packs import open_pack, pack
    from fastmlp.version import __version__ as __version__

__all__ = [
    "MLP",
    "Forwardprop",
    "History",
    "PackedMatrix",
    "ReLU",
    "Softmax",
    "TrainingWarning",
    "backward_prop",
    "compute_cost",
    "get_backend",
    "get_num_threads",
    "one_hot",
    "open_pack",
    "pack",
    "set_backend",
    "set_num_threads",
    "show_config",
    "update_params",
    "use_backend",
    "use_threads",
    "warmup",
]

_NAMES = {  # the public names by the module that defines them
    "backend": (
        "get_backend",
        "get_num_threads",
        "set_backend",
        "set_num_threads",
        "show_config",
        "use_backend",
        "use_threads",
        "warmup",
    ),
    "history": ("History", "TrainingWarning"),
    "model": ("MLP",),
    "notebook": ("Forwardprop", "ReLU", "Softmax", "backward_prop", "compute_cost", "one_hot", "update_params"),
    "packing": ("PackedMatrix",),
    "packs": ("open_pack", "pack"),
    "version": ("__version__",),
}
_MODULES = (
    "callbacks", "datasets", "distributed", "estimator", "onnx", "optimizers", "plots", "preprocessing", "schedules",
)  # fmt: skip

if not TYPE_CHECKING:  # or a type checker would accept any name

    def __getattr__(name):
        module = name if name in _MODULES else next((one for one, names in _NAMES.items() if name in names), None)
        if module is None:
            raise AttributeError(f"module 'fastmlp' has no attribute {name!r}")
        from importlib import import_module

        from fastmlp.loading import lock

        with lock:
            found = import_module(f"fastmlp.{module}")
        value = found if name == module else getattr(found, name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted([*__all__, *_MODULES, "__version__"])
