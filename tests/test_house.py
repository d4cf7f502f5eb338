"""What holds the house together: arrows between modules, the top level, the README."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

import fastmlp

PACKAGE = Path(fastmlp.__file__).parent
ROOT = PACKAGE.parent
FREE = {"fastmlp", "fastmlp.training"}  # __init__ binds names; History and Callback name types

ARROWS = {
    "cli": {"commands"},
    "commands": {"bench", "checks", "datasets", "inputs", "plots", "model", "storage", "training", "backend"},
    "inputs": {"checks", "datasets", "model", "packing", "storage"},
    "plots": {"checks"},
    # It measures what users call, the notebook's functions and the model, against the formulas.
    "bench": {"backend", "checks", "formulas", "model", "notebook", "packing"},
    "model": {"training", "packing", "parameters", "storage", "backend", "checks", "quiet"},
    "training": {"history", "storage", "backend", "checks", "interrupts", "notices", "quiet"},
    "history": set(),
    "notebook": {"packing", "backend", "checks", "quiet"},
    "packing": {"backend", "checks", "quiet"},
    "storage": {"atomic", "parameters", "checks"},
    "atomic": {"checks"},
    "parameters": set(),
    "backend": {"checks", "interrupts", "kernels", "notices", "quiet", "threads"},
    "interrupts": set(),
    "notices": set(),
    "quiet": set(),
    "threads": set(),
    "datasets": {"datasets", "checks"},
    "formulas": set(),
    "checks": {"quiet"},
    "kernels": {"kernels.vector"},
    "__init__": {"backend", "model", "notebook", "packing", "training"},
}


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
    return {name if name.startswith("kernels.") else name.partition(".")[0] for name in ours if name != "__version__"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_go_one_way(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert imported(path) <= ARROWS[room]
    if room != "backend":
        assert not re.search(r"kernels\.(reference|compiled)", path.read_text()) or room == "kernels"


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


def test_all_is_complete_and_documented():
    assert sorted(fastmlp.__all__) == sorted(set(fastmlp.__all__))
    for name in fastmlp.__all__:
        assert getattr(fastmlp, name).__doc__, name
