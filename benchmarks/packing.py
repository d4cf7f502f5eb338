"""Packing the input: time, and size of the packed matrix."""

import fastmlp
from benchmarks import problems, suite


class Pack(suite.Suite):
    params = (["numpy", "numba"], ["uint8", *suite.DTYPES], suite.sample_counts(100, 1000, 60_000))
    param_names = ("implementation", "dtype", "m")

    def prepare(self, implementation, dtype, m):
        suite.choose_backend(implementation)
        x = suite.codes_and_labels(m)[0].copy() if dtype == "uint8" else suite.arrays(m, dtype)[0]
        self.pack = lambda: fastmlp.pack(x, scale=1 / 255)
        computed = "float64" if dtype == "uint8" else dtype
        problems.check(
            self.pack().to_dense(computed), x / x.dtype.type(255) if dtype != "uint8" else x / 255.0, computed
        )

    def time_pack(self, *cell):
        self.pack()

    def track_held(self, *cell):
        return self.pack().nbytes

    track_held.unit = "bytes"
