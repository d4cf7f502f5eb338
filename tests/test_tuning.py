"""The tuning constants: each has a reason and a row in benchmarks/TUNING.md, and its candidates can be measured."""

import ast
import importlib
import itertools
import re
from pathlib import Path

import pytest

pytest.importorskip("benchmarks", reason="not a checkout")

from benchmarks import tuning, tuning_rows

ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "fastmlp" / "kernels"
SOURCES = {
    tuning_rows.TUNING: KERNELS / "compiled" / "tuning.py",
    tuning_rows.TARGET: KERNELS / "vector" / "target.py",
}


def constants(path):
    """Return the public constants that a module sets."""
    tree = ast.parse(path.read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return {name for name in names if name.isupper() and not name.startswith("_")}


def table():
    """Return the cells of each row of TUNING.md that begins with the name of a constant."""
    lines = (ROOT / "benchmarks" / "TUNING.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| [A-Z]", line)]
    return [cells for cells in rows if re.fullmatch(r"[A-Z_]+", cells[0])]


def every_constant():
    return set().union(*map(constants, SOURCES.values()))


def test_every_constant_has_its_row_in_the_table_and_the_other_way_round():
    assert {cells[0] for cells in table()} == every_constant()


def test_every_row_can_be_measured_or_follows_from_something_else():
    for name, *_, source in table():
        measured = f"`python -m benchmarks.tuning {name}" in source and name in tuning.ROWS
        assert measured != source.startswith("follows from "), name


def test_rows_have_the_columns_of_their_table():
    lines = (ROOT / "benchmarks" / "TUNING.md").read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if before.startswith("|") and line.startswith("|"):
            assert before.count("|") == line.count("|"), line


@pytest.mark.parametrize("path", SOURCES.values(), ids=lambda path: path.stem)
def test_every_constant_is_explained_by_a_comment_that_ends_with_its_row(path):
    words = " ".join(line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#"))
    named = set(re.findall(r"[A-Z_]+", " ".join(re.findall(r"\bRows?: ([A-Z_, ]+)\.", words))))
    assert named == constants(path)


def test_measured_constants_are_set_where_their_row_says():
    for name, row in tuning.ROWS.items():
        assert name in constants(SOURCES[row.module])
        assert set(row.workloads.split()) <= tuning.WORKLOADS.keys()
        assert len(row.candidates) > 1


def decorators(function):
    return {node.id for one in function.decorator_list for node in ast.walk(one) if isinstance(node, ast.Name)}


def compiled_names():
    """Return the attributes in all functions that Numba compiles."""
    names = set()
    for path in KERNELS.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef) and {"body", "kernel"} & decorators(function):
                names |= {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)}
    return names


def test_constants_whose_candidates_share_a_compile_cache_are_in_no_kernel():
    shared = {name: row for name, row in tuning.ROWS.items() if row.host}
    assert {row.module for row in shared.values()} == {tuning_rows.TUNING}
    assert shared.keys().isdisjoint(compiled_names())
    assert {"COST_BLOCK", "SAMPLE_TILE"} <= compiled_names()


def test_the_list_names_every_row(capsys):
    assert tuning.main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(tuning.ROWS)


@pytest.mark.parametrize(
    ("words", "got"),
    [
        (["GROUPS"], "got GROUPS"),
        ([], "got nothing"),
        (["GROUP", "group"], "got group"),
        (["GROUP", "--rounds", "0"], "got 0"),
        (["--all", "GROUP"], "got GROUP"),
        (["GROUP", "--to", "table.md"], "got a file without --all"),
    ],
)
def test_words_that_name_no_row_are_refused(words, got, capsys):
    with pytest.raises(SystemExit, match="2"):
        tuning.main(words)
    error = capsys.readouterr().err
    assert got in error
    assert "expected" in error
    assert got in ("got 0", "got a file without --all") or all(name in error for name in tuning.ROWS)


@pytest.mark.numba
def test_a_candidate_takes_effect_wherever_its_constant_is_used(run_python):
    """Other modules copy constants when they are imported, and compute values from them."""
    run_python(
        """
from benchmarks import tuning
tuning.change("GROUP", 5)
from fastmlp.kernels import vector
from fastmlp.kernels.compiled import lists, tuning as constants
from fastmlp.kernels.vector import target
import sys
shapes = sys.modules["fastmlp.kernels.vector.tile"]._CODED_SHAPES
assert {group for group, _ in shapes} == {5}
assert [vector.GROUP, target.GROUP, lists._GROUP] == [5, 5, 5]
assert vector.PADDING == target.PADDING and vector.PADDING % 5 == 0 == constants.COPIED_ROWS % 5
""",
        cwd=ROOT,
        env={"PYTHONSAFEPATH": None},
    )


@pytest.mark.numba
@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("GROUP", 6, "assert (fastmlp.pack(x).to_dense() == x).all()"),
        ("VECTOR_BYTES", 32, "np.testing.assert_allclose(fastmlp.Softmax(x), formulas.Softmax(x), 1e-13)"),
    ],
)
def test_candidates_for_the_processor_compute_what_numpy_does(run_python, tmp_path, name, value, code):
    """Also those that the processor at hand would not choose."""
    run_python(
        f"""
from benchmarks import tuning
tuning.change({name!r}, {value})
import fastmlp, numpy as np
from fastmlp import formulas
from fastmlp.kernels.vector import target
assert target.{name} == {value}
x = np.random.default_rng(0).standard_normal((70, 501))
x[x < 0.8] = 0
fastmlp.set_backend("numba")
{code}
""",
        cwd=ROOT,
        env={"PYTHONSAFEPATH": None, "NUMBA_CACHE_DIR": str(tmp_path)},
    )


@pytest.mark.numba
def test_what_follows_from_a_candidate_changes_with_it(run_python):
    run_python(
        """
from benchmarks import tuning
tuning.change("SAMPLE_TILE", 480)
from fastmlp.kernels.compiled import tree, tuning as constants
assert (constants.SAMPLE_TILE, constants.FULL_LEAF) == (480, 3840)
assert tree.tiling(1_000_000, 1_000_000).leaf > 2 * 1920
try:
    tuning.change("FULL_LEAF", 480)
except RuntimeError as error:
    assert "has been imported" in str(error)
else:
    raise AssertionError
""",
        cwd=ROOT,
        env={"PYTHONSAFEPATH": None},
    )


@pytest.mark.numba
def test_a_row_is_measured(monkeypatch, capsys):
    """Each candidate in its process; a workload that compiles nothing keeps this short."""
    monkeypatch.setattr(tuning, "_Child", FakeChild)
    assert tuning.main(["FULL_LEAF", "--rounds", "3"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    assert cells[:6] == [
        "FULL_LEAF", "step on images, float64", "480, 960, **1920**", "480, 960, 1920 ms", "0.25, 0.50, 1.00", "differ",
    ]  # fmt: skip
    assert cells[7] == "`python -m benchmarks.tuning FULL_LEAF --rounds 3`"
    assert second.startswith("| FULL_LEAF | step on images, float32 |")


SOME = ("FULL_LEAF", "GROUP", "BLOCK", "FEW_SAMPLES")


def test_all_rows_are_measured_and_what_would_gain_is_told(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(tuning, "_Child", FakeChild)
    monkeypatch.setattr(tuning, "ROWS", {name: tuning.ROWS[name] for name in SOME})
    assert tuning.main(["--all", "--to", str(tmp_path / "table.md")]) == 0
    rows, (said, *gained) = (part.splitlines() for part in capsys.readouterr().out.split("\n\n"))
    assert {row.split()[1] for row in rows} == set(SOME)
    assert rows[0].split()[1] in ("GROUP", "BLOCK"), "those of the processor come first"
    assert said.startswith("measured 4 of 4 constants in 0.0 minutes")
    assert "FULL_LEAF = 480, not 1920: 0.25 of the time, step on images, float64" in gained
    assert not any(line.startswith("FEW_SAMPLES") for line in gained), "it is as fast with any value"
    header, ruler, *table = (tmp_path / "table.md").read_text().splitlines()
    assert table == rows
    assert header.count("|") == ruler.count("|") == rows[0].count("|")
    assert header in (ROOT / "benchmarks" / "TUNING.md").read_text()


def test_no_row_is_begun_when_the_time_is_over(monkeypatch, capsys):
    monkeypatch.setattr(tuning, "_Child", FakeChild)
    assert tuning.main(["--all", "--minutes", "0"]) == 0
    said, left, nothing = capsys.readouterr().out.strip().splitlines()
    assert said.startswith(f"measured 0 of {len(tuning.ROWS)} constants")
    assert all(f"{name} (no time)" in left for name in tuning.ROWS)
    assert nothing == "no other value was faster in each round"


def test_a_candidate_that_fails_leaves_the_others(monkeypatch, capsys):
    class Failing(FakeChild):
        def digests(self):
            if self.name == "BLOCK":
                raise RuntimeError("the process of a candidate ended with status -11")
            return super().digests()

    monkeypatch.setattr(tuning, "_Child", Failing)
    monkeypatch.setattr(tuning, "ROWS", {name: tuning.ROWS[name] for name in SOME})
    assert tuning.main(["--all"]) == 0
    said = capsys.readouterr().out
    assert "measured 3 of 4" in said
    assert "not measured: BLOCK (the process of a candidate ended with status -11)" in said


class FakeChild:
    def __init__(self, name, value, cache=None):
        self.name, self.value = name, value
        row = tuning.ROWS[name]
        shares_the_usual_cache = row.host or value == getattr(importlib.import_module(row.module), name)
        assert (cache is None) == shares_the_usual_cache

    def digests(self):
        return [str(self.value)] * len(tuning.ROWS[self.name].workloads.split())

    def seconds(self, k):
        return 1.0 if self.name == "FEW_SAMPLES" else self.value / 1000

    def close(self):
        pass
