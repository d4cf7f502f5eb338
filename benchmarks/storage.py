"""Model files: saving and loading, compared with NumPy's npz of the same arrays."""

import numpy as np

import fastmlp
from benchmarks import problems, suite

NETS = {"784-128-10": (784, 128, 10), "784-1024-1024-10": (784, 1024, 1024, 10)}


class Files(suite.Suite):
    params = (["npz", "fastmlp"], list(NETS), suite.DTYPES)
    param_names = ("implementation", "net", "dtype")

    def prepare(self, implementation, net, dtype):
        model = fastmlp.MLP(NETS[net], dtype=dtype, seed=0)
        if implementation == "npz":
            self.save = lambda: np.savez("model.npz", parameters=model.parameters)
            self.load = lambda: np.load("model.npz")["parameters"]
        else:
            if not hasattr(fastmlp.MLP, "save"):
                raise NotImplementedError("this fastmlp has no model files")
            self.save = lambda: model.save("model.safetensors")
            self.load = lambda: fastmlp.MLP.load("model.safetensors").parameters
        self.save()
        problems.check(self.load(), model.parameters, dtype, "the loaded model")

    def time_save(self, *cell):
        self.save()

    def time_load(self, *cell):
        self.load()
