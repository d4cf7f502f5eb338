"""A Numba without the private names that fastmlp uses: it costs speed, never a wrong result and never an import."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from compare import assert_close, assert_same_bits

import fastmlp

pytestmark = pytest.mark.numba

PACKAGE = Path(fastmlp.__file__).parent

# Numba with another name for one of its names: in each of its modules, before that is compiled.
RENAME = r"""
import re, sys
from importlib.machinery import PathFinder, SourceFileLoader
OLD, renamed = {name!r}, []

class Loader(SourceFileLoader):
    def get_code(self, fullname):
        source = self.get_data(self.path).decode()
        source, count = re.subn(rf"\b{{OLD}}\b", f"renamed_{{OLD}}", source)
        if count == 0:
            return super().get_code(fullname)
        renamed.append(fullname)
        return compile(source, self.path, "exec", dont_inherit=True)

class Finder:
    def find_spec(self, name, path=None, target=None):
        spec = PathFinder.find_spec(name, path) if name.partition(".")[0] in ("numba", "llvmlite") else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec

sys.meta_path.insert(0, Finder())
"""

FUNCTIONS = """
import numpy as np, fastmlp
fastmlp.set_backend("numba")
x = np.random.default_rng(0).standard_normal((5, 40))
results = [fastmlp.ReLU(x), fastmlp.Softmax(x)]
"""

# On packed samples of several leaves; then on a few, with kernels of their own. Each kernel takes seconds to compile.
STEP = """
rng = np.random.default_rng(1)
def step(m):
    x = rng.standard_normal((12, m)) * (rng.random((12, m)) < 0.4)
    model = fastmlp.MLP((12, 9, 4), seed=2)
    loss, gradient = model.loss_and_grad(x, rng.integers(4, size=m))
    return [np.array(loss), gradient]
results += step(400)
"""
REGRESSION = """
z, y = np.random.default_rng(3).standard_normal((2, 3, 200))
slopes, loss, hit = np.empty_like(z), np.empty(200), np.empty(200)
fastmlp.backend.kernels().loss_gradient(slopes, loss, hit, z, y, np.ones(200), "huber")
results += [slopes, loss]
"""
STEP_OF_FEW = "results += step(3)"

REPORT = """
from fastmlp.kernels import compiled, internals
hits = sum(hits for hits, _ in compiled.cache_statistics().values())
print(fastmlp.get_backend(), hits, *sorted(set(internals.missing)))
print(fastmlp.show_config(mode="dicts").get("slower without"))
np.savez("results.npz", *results)
"""


@pytest.fixture
def results(run_python, tmp_path):
    """Return a function that runs code in a new process with an empty cache: what is missing there, and the results."""

    def run(*code, before=""):
        env = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONWARNINGS": "error"}
        printed = run_python("\n".join([before, *code, REPORT]), env=env, cwd=tmp_path, timeout=400).stdout
        first, second = printed.splitlines()
        backend, hits, *missing = first.split()
        assert (backend, hits) == ("numba", "0")
        assert second == (", ".join(missing) if missing else "None")  # what `show_config` says
        with np.load(tmp_path / "results.npz") as file:
            return missing, [file[name] for name in file.files]

    return run


def wanted(*code):
    """Return the results in this process, with Numba as it is."""
    namespace = {}
    with fastmlp.use_backend("numba"):
        exec("\n".join(code).replace('fastmlp.set_backend("numba")', ""), namespace)
    return namespace["results"]


def check(found, *code):
    expected = wanted(*code)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert_same_bits(one, other)


CONVENTION = "from fastmlp.kernels.internals import convention\nconvention.give_up()"
BODIES = "from fastmlp.kernels.internals import bodies\nbodies.give_up()"


def test_a_step_without_calls_by_address(results):
    """Workers are then called one after the other; the bits are those of any number of them."""
    missing, found = results(f"fastmlp.set_num_threads(2)\n{STEP}{REGRESSION}", before=f"{CONVENTION}{FUNCTIONS}")
    assert missing == ["call_conv"]
    check(found, FUNCTIONS, STEP, REGRESSION)


def test_a_step_without_addresses_of_functions(results):
    """What is called by its address otherwise is then part of its callers, also of those that a companion compiles."""
    name = "get_pointer_to_function"
    missing, found = results(FUNCTIONS, STEP, REGRESSION, before=RENAME.format(name=name))
    assert missing == ["call_conv", f"library.{name}"]
    check(found, FUNCTIONS, STEP, REGRESSION)


def test_a_step_without_bodies_of_a_compiler_of_their_own(results):
    missing, found = results(FUNCTIONS, STEP, before=BODIES)
    assert missing == ["JITCodeLibrary"]
    check(found, FUNCTIONS, STEP)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("JITCodeLibrary", ["JITCodeLibrary", "call_conv"]),
        ("_optimize_final_module", ["JITCodeLibrary"]),
        ("_finalize_dynamic_globals", ["JITCodeLibrary"]),
        ("excinfo_t", ["call_conv"]),
        ("_get_return_status", ["call_conv"]),
        ("return_status_propagate", ["call_conv"]),
        ("IndexDataCacheFile", ["FunctionCache", "IndexDataCacheFile"]),
        ("_load_overload", ["FunctionCache"]),
    ],
)
def test_functions_of_a_numba_without_a_name(results, name, missing):
    names, found = results(FUNCTIONS, f"assert renamed, {name!r}", before=RENAME.format(name=name))
    assert names == missing
    check(found, FUNCTIONS)


def test_functions_of_a_numba_with_neither_bodies_nor_calls(results):
    before = RENAME.format(name="_finalize_final_module") + CONVENTION
    missing, found = results(FUNCTIONS, before=before)
    assert missing == ["JITCodeLibrary", "call_conv"]
    check(found, FUNCTIONS)


# So large that kernels ask for the number of threads: first of a Numba that has not started any, then of one that has.
LARGE = """
large = np.full(1 << 19, -1.0)
results += [fastmlp.ReLU(large).sum(), fastmlp.ReLU(large).sum()]
"""


@pytest.mark.parametrize("name", ["_is_initialized", "_get_num_threads", "entry_point", "_lock"])
def test_functions_of_a_numba_without_a_name_that_is_replaced(results, name):
    names, found = results(FUNCTIONS, LARGE, f"assert renamed, {name!r}", before=RENAME.format(name=name))
    assert any(name in one for one in names)
    check(found, FUNCTIONS, LARGE)


def test_a_numba_that_does_not_say_for_which_processor_it_compiles(results):
    """Vectors are then as narrow as on any processor, and there is no multiply-add: bits differ, values do not."""
    code = FUNCTIONS, STEP, STEP_OF_FEW
    names, found = results(*code, before=RENAME.format(name="magic_tuple"))
    assert names == ["codegen.magic_tuple"]
    for one, other in zip(found, wanted(*code), strict=True):
        assert_close(one, other, "product", one.dtype)


# ---- No other module uses private or undocumented names ----

# All names of Numba and llvmlite that modules besides `internals` import, and those that they use of a whole module.
IMPORTED = {
    "llvmlite", "llvmlite.binding", "llvmlite.ir",
    "numba", "numba.njit", "numba.prange", "numba.types", "numba.extending.intrinsic",
    # Undocumented, but in all versions for years, and in the examples of the documentation of `intrinsic`.
    "numba.core.cgutils",
}  # fmt: skip
USED = {
    "llvmlite.__version__", "llvmlite.binding",
    "numba.__version__", "numba.get_num_threads", "numba.int64", "numba.njit",
    "numba.set_num_threads", "numba.typeof",
}  # fmt: skip
PRIVATE = {
    "_replace",  # of a NamedTuple
    "_make",
    "_fields",
    "_getframe",  # of sys
    "_repr_png_",  # of IPython
    "_getvalue",  # of Numba's structs, as the documentation of `intrinsic` has it
    "_label_binarizer",  # of scikit-learn's multilayer perceptrons, the bases of the estimators
    "_random_state",
    "_update_no_improvement_count",
    "_init_callback_context",  # of scikit-learn's callbacks, since 1.9; looked up, so that older versions go without
}
LOOKED_UP = {"_skl_callbacks", "_init_callback_context", "_parent_callback_ctx"}  # likewise


def trees(*, inside):
    for path in sorted(PACKAGE.rglob("*.py")):
        if ("internals" in path.parts) == inside:
            yield from ast.walk(ast.parse(path.read_text()))


def of_numba(name):
    return name.partition(".")[0] in ("numba", "llvmlite")


def test_the_internals_of_numba_are_used_in_one_folder():
    imported, used = set(), set()
    for node in trees(inside=False):
        if isinstance(node, ast.ImportFrom) and of_numba(node.module):
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names if of_numba(alias.name)}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and of_numba(node.value.id):
            used.add(ast.unparse(node))
    assert imported == IMPORTED
    assert used == USED


def defined_names():
    """Return the functions, classes and variables of fastmlp, and the attributes that its objects set themselves."""
    defined = set()
    for node in (*trees(inside=False), *trees(inside=True)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            defined.add(node.attr)
    return defined


def test_private_names_are_those_of_fastmlp_itself():
    """Attributes that begin with an underscore, and that no module of fastmlp defines."""
    attributes = [node.attr for node in trees(inside=False) if isinstance(node, ast.Attribute)]
    assert {name for name in attributes if re.match("_[^_]", name)} - defined_names() == PRIVATE


def test_names_looked_up_by_text_are_those_of_fastmlp_itself():
    """`getattr(x, "_name")` would slip through."""
    texts = {one.value for node in trees(inside=False) if isinstance(node, ast.Call)
             and ast.unparse(node.func) in ("getattr", "hasattr", "setattr")
             for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)}  # fmt: skip
    assert {text for text in texts if re.match("_[^_]", text)} - defined_names() == LOOKED_UP
