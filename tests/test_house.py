"""The structure of the project: imports between modules, the top level, the README."""

import ast
import graphlib
import re
import subprocess
from pathlib import Path

import pytest

import fastmlp

PACKAGE = Path(fastmlp.__file__).parent
ROOT = PACKAGE.parent

# What each module, or folder, may import of fastmlp; from the highest floor to the lowest.
ARROWS = {
    "__init__": {
        "backend", "callbacks", "datasets", "distributed", "estimator", "history", "loading", "model", "notebook",
        "onnx", "optimizers", "packing", "packs", "plots", "preprocessing", "schedules", "version",
    },
    "__main__": {"cli"},
    "cli": {"commands", "console", "launch", "notices", "options"},
    "commands": {
        "activations", "answers", "arrays", "atomic", "backend", "bench", "checks", "console", "datasets", "given",
        "interchange", "keeping", "launch", "losses", "model", "packed_sets", "packfile", "packing", "preprocessing",
        "progress", "recipes", "refusals", "runs",
    },
    "packed_sets": {
        "checks", "datasets", "given", "packs", "packwriter", "preprocessing", "sources", "units",
    },
    "given": {"arrays", "checks", "datasets", "preprocessing", "refusals", "units"},
    "answers": {"checks", "datasets", "model", "packing", "preprocessing"},
    "runs": {
        "activations", "backend", "checks", "console", "datasets", "history", "keeping", "launch", "losses", "model",
        "packing", "preprocessing", "recipes", "refusals", "storage",
    },
    "launch": {"checks", "distributed", "interrupts"},
    "refusals": {
        "activations", "backend", "checks", "datasets", "options", "plots", "recipes", "storage", "threads",
    },
    "recipes": {"optimizers", "schedules"},
    "keeping": {"console", "figures", "history", "model", "plots", "preprocessing"},
    "console": set(),
    "options": {"checks", "texts"},
    "texts": set(),
    "preprocessing": {
        "arrays", "checks", "datasets", "encoding", "frames", "losses", "model", "packing", "packs", "storage",
        "units",
    },
    "units": {"checks", "encoding"},
    # It measures the public functions and the model against the formulas.
    "bench": {"backend", "checks", "formulas", "model", "notebook", "packing", "packs", "quiet"},
    "model": {
        "activations", "advice", "arrays", "backend", "callbacks", "checkpoint", "checks", "companion", "distributed",
        "encoding", "evaluation", "frames", "history", "interchange", "kernels", "losses", "methods", "packing",
        "parameters", "samples", "stopping", "storage", "summary", "targets", "teams", "training",
    },  # of the kernels only the description of a net, and its scores
    "onnx": {"checks", "estimator", "interchange"},
    "interchange": {
        "activations", "arrays", "atomic", "checks", "encoding", "estimator", "interchange", "kernels", "losses",
        "units", "version",
    },  # of the kernels only the description of a net
    "estimator": {
        "activations", "arrays", "backend", "callbacks", "checks", "estimator", "history", "interrupts", "kernels",
        "losses", "packing", "parameters", "quiet", "threads",
    },  # of the kernels only their rules and the description of a net
    "training": {
        "backend", "callbacks", "checkpoint", "history", "interrupts", "methods", "notices", "progress", "stopping",
        "teams",
    },
    "distributed": {
        "arrays", "backend", "blocks", "checks", "digests", "distributed", "interrupts", "kernels", "packing", "packs",
        "sparse", "teams", "version",
    },  # of the kernels only their tree, scores, operands and the description of a net
    "callbacks": {"checks", "history"},
    "summary": {"activations", "losses"},
    "evaluation": {"backend", "kernels", "losses", "methods", "quiet", "samples"},  # of the kernels only their scores
    "teams": {"packing", "samples"},
    "optimizers": {"checks", "constants", "kernels", "lbfgs", "schedules"},  # of the kernels only their rules
    "lbfgs": {"quiet"},
    "schedules": {"checks", "constants"},
    "constants": {"checks"},
    "checkpoint": {"history", "methods", "stopping", "storage", "teams"},
    "methods": {
        "backend", "batches", "checks", "interrupts", "kernels", "methods", "optimizers", "quiet", "samples",
        "schedules",
    },  # of the kernels only their rules, the description of a net, and its scores
    "batches": {"checks", "kernels", "quiet"},  # of the kernels only parts
    "blocks": {"backend"},
    "stopping": set(),
    "progress": {"checks", "history"},
    "advice": {"history"},
    "history": {"losses", "plots"},
    "plots": {"checks", "curves", "figures", "losses"},
    "curves": {"checks", "figures", "losses"},
    "figures": {"checks"},
    # Of the kernels only the memory of results.
    "notebook": {"arrays", "backend", "checks", "kernels", "packing", "quiet"},
    "samples": {"arrays", "checks", "packing", "quiet", "sparse"},
    "encoding": {"checks", "datasets", "frames", "quiet"},
    "frames": {"checks", "datasets"},
    "packs": {
        "arrays", "atomic", "backend", "batches", "blocks", "checks", "feeding", "frames", "kernels", "packfile",
        "packing", "packwriter", "sources",
    },  # of the kernels only parts, scores and the description of a net
    "digests": {"arrays", "kernels"},  # of the kernels only the sparse operand
    "feeding": {"backend", "batches", "kernels"},  # of the kernels only rules, scores and the description of a net
    "packwriter": {
        "arrays", "atomic", "backend", "blocks", "checks", "digests", "packfile", "packing", "sources",
    },
    "packfile": {"atomic", "checks"},
    "sources": {"arrays", "checks", "frames", "sparse"},
    "packing": {
        "arrays", "backend", "blocks", "checks", "digests", "frames", "kernels", "quiet", "sparse",
    },  # of the kernels only the sparse operand
    "sparse": {"arrays", "checks", "kernels"},  # likewise
    "storage": {"activations", "arrays", "atomic", "checks", "losses", "parameters"},
    "targets": {"arrays", "checks", "kernels", "losses", "quiet"},  # of the kernels only the description of a net
    "losses": {"checks", "kernels", "quiet"},  # of the kernels only the description of a net, and its scores
    "activations": {"checks", "kernels"},  # of the kernels only the description of a net
    "atomic": {"checks"},
    "parameters": {"quiet"},
    "backend": {
        "checks", "companion", "interrupts", "kernels", "loading", "notices", "quiet", "settings", "threads", "version",
    },
    "companion": {"kernels", "threads"},  # of the kernels those that it compiles
    "settings": {"checks"},
    "interrupts": {"notices"},
    "datasets": {"datasets", "checks", "quiet"},
    "checks": {"arrays"},
    "arrays": {"quiet"},
    "kernels": {"kernels"},
    "formulas": set(),
    "loading": set(),
    "notices": set(),
    "quiet": set(),
    "threads": set(),
    "version": set(),
}  # fmt: skip
BY_NAME = {"backend": {"kernels"}}  # imported by importlib, once it is known which backend is active


def imported(path):
    """Return the modules of fastmlp that a file imports, as 'backend', 'datasets', 'kernels.vector', ..."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module in ("fastmlp", "fastmlp.kernels"):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    ours = {name.removeprefix("fastmlp.") for name in names if name.startswith("fastmlp.")}
    return {name.partition(".")[0] for name in ours}


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_import_what_they_may(path):
    room = room_of(path)
    assert imported(path) <= ARROWS[room]
    if room not in ("backend", "companion", "kernels"):
        assert not re.search(r"kernels\.(reference|compiled)", path.read_text())


def test_arrows_go_one_way():
    graphlib.TopologicalSorter({room: below - {room} for room, below in ARROWS.items()}).prepare()


def test_no_arrow_is_obsolete():
    found = {}
    for path in PACKAGE.rglob("*.py"):
        found.setdefault(room_of(path), set()).update(imported(path))
    assert {room: below | BY_NAME.get(room, set()) for room, below in found.items()} == ARROWS


# Folders and modules of kernels, each with those below it that it may import.
FLOORS = {
    "internals": set(),
    "tree": set(),
    "rules": set(),
    "nets": set(),
    "scores": set(),
    "columns": set(),
    "parts": set(),
    "recycled": set(),
    "inputs": {"columns"},
    "reference_activations": {"nets"},
    "reference_losses": {"nets", "scores"},
    "reference": {"inputs", "nets", "parts", "reference_activations", "reference_losses", "rules", "scores", "tree"},
    "vector": {"internals"},
    "compiled": {"columns", "internals", "nets", "parts", "recycled", "rules", "scores", "tree", "vector"},
}


def kernel_imports():
    """Return {module of kernels: the modules of kernels that it imports}."""
    folder, found = PACKAGE / "kernels", {}
    names = {path: ".".join(path.relative_to(folder).with_suffix("").parts) for path in folder.rglob("*.py")}
    names = {path: name.removesuffix("__init__").rstrip(".") for path, name in names.items()}
    for path, name in names.items():
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("fastmlp.kernels"):
                below = node.module.removeprefix("fastmlp.kernels").lstrip(".")
                targets = (f"{below}.{alias.name}".lstrip(".") for alias in node.names)
                found[name] |= {target if target in names.values() else below for target in targets} - {name}
    return found


def test_arrows_between_kernels_go_one_way():
    found = kernel_imports()
    graphlib.TopologicalSorter(found).prepare()
    for name, below in found.items():
        own = name.partition(".")[0]
        floors = {target.partition(".")[0] for target in below} - {own}
        assert floors <= FLOORS.get(own, set()), name


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_state_of_the_process_is_changed_where_a_signal_can_strike(path):
    """Neither ``with`` nor ``finally`` is certain to restore it: see `fastmlp.interrupts` and `fastmlp.quiet`."""
    text = path.read_text()
    if path.name == "console.py":  # the command line owns its process
        return
    assert not re.search(r"with np\.errstate|signal\.signal\(|set_printoptions|os\.environ\[", text)


def test_formulas_import_only_numpy():
    tree = ast.parse((PACKAGE / "formulas.py").read_text())
    modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    modules |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert modules == {"numpy", "typing"}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_the_top_level():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    top = {path.split("/")[0] for path in listed if path}
    wanted = {"fastmlp", "tests", "benchmarks", "asv.conf.json", "pyproject.toml", "README.md", "LICENSE"}
    assert {name for name in top if not name.startswith(".")} <= wanted


@pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="not a checkout")
def test_the_readme():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    for name in set(re.findall(r"fastmlp\.(\w+)\(", text)):
        assert hasattr(fastmlp, name), name
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        ast.parse(block)
    heads, times = re.findall(r"^\| (?:10 epochs, float64, ms|MNIST, 784-128-10) \| (.*) \|$", text, re.MULTILINE)
    for name, median in zip(heads.split(" | "), times.split(" | "), strict=True):
        assert re.search(rf"^\| {name}\b[^|]*\|[^|]*\| {median} ", text, re.MULTILINE), name


def test_all_names_are_public_documented_and_known_to_type_checkers():
    """Public names are listed three times: for imports at first use, for `*`, and for type checkers."""
    block = next(node for node in ast.parse((PACKAGE / "__init__.py").read_text()).body if isinstance(node, ast.If))
    typed = {node.module: {alias.name for alias in node.names} for node in block.body}
    assert {f"fastmlp.{module}": set(names) for module, names in fastmlp._NAMES.items()} == {
        module: names for module, names in typed.items() if module != "fastmlp"
    }
    assert {*fastmlp.__all__, "__version__"} == {name for names in fastmlp._NAMES.values() for name in names}
    for name in fastmlp.__all__:
        assert getattr(fastmlp, name).__doc__, name


def test_names_come_when_they_are_used(run_python):
    run_python("""
import sys, fastmlp
modules = (
    "callbacks", "datasets", "distributed", "estimator", "onnx", "optimizers", "plots", "preprocessing", "schedules",
)  # fmt: skip
assert dir(fastmlp) == sorted([*fastmlp.__all__, *modules, "__version__"])
assert {name for name in sys.modules if name.startswith("fastmlp")} == {"fastmlp"} and "numpy" not in sys.modules
assert fastmlp.plots.learning_curves and fastmlp.datasets.mnist.load_data
assert fastmlp.optimizers.Adam(fastmlp.schedules.one_cycle(8e-3))
kernels = {f"fastmlp.kernels.{name}" for name in ("nets", "rules", "scores")}
assert {name for name in sys.modules if name.startswith("fastmlp.kernels.")} == kernels
assert fastmlp.MLP is fastmlp.MLP is __import__("fastmlp.model").model.MLP
namespace = {}
exec("from fastmlp import *", namespace)
assert set(fastmlp.__all__) <= set(namespace)
import fastmlp.backend
assert dir(fastmlp) == sorted([*fastmlp.__all__, *modules, "__version__"])
try:
    fastmlp.nonsense
except AttributeError as error:
    assert str(error) == "module 'fastmlp' has no attribute 'nonsense'"
""")


def test_the_command_line_imports_nothing_that_takes_time_before_it_answers_ctrl_c(run_python):
    code = "import sys; before = set(sys.modules); import fastmlp.cli; print(*sorted(set(sys.modules) - before))"
    added = run_python(code).stdout.split()
    assert added == ["__future__", "fastmlp", "fastmlp.cli", "fastmlp.console", "fastmlp.launch"]
