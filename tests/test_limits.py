"""The limits of the house: length of files and functions, number of parameters, docstrings and annotations."""

import ast
import functools
import statistics
from pathlib import Path

import pytest

import fastmlp

PACKAGE = Path(fastmlp.__file__).parent

LONGEST_FILE = 400
MOST_PARAMETERS = 8
LONGEST_MEDIAN_BODY = 10

LONG_DOCSTRINGS = {"model.py"}  # only the code counts, because MLP's docstrings are its manual
MANY_PARAMETERS = {  # public signatures: the notebook's, and the options of `fit`
    "formulas.update_params",
    "notebook.update_params",
    "model.MLP.fit",
    "classifier.MLPClassifier.__init__",  # scikit-learn's
    "regressor.MLPRegressor.__init__",
}
UNANNOTATED = {"kernels/compiled", "kernels/vector"}  # Numba types the arguments of kernels

FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=str)

FUNCTION = ast.FunctionDef, ast.AsyncFunctionDef
DOCUMENTED = ast.Module, ast.ClassDef, *FUNCTION


@functools.cache
def parsed(path):
    return ast.parse((PACKAGE / path).read_text(encoding="utf-8"))


def functions(node, prefix):
    """Yield the functions and methods below a node with their qualified names, those inside of functions too."""
    for child in ast.iter_child_nodes(node):
        named = isinstance(child, (ast.ClassDef, *FUNCTION))
        name = f"{prefix}.{child.name}" if named else prefix
        if isinstance(child, FUNCTION):
            yield name, child
        yield from functions(child, name)


def public(node, prefix):
    """Yield the public classes, functions and methods of a module with their qualified names."""
    for child in node.body:
        if isinstance(child, (ast.ClassDef, *FUNCTION)) and not child.name.startswith("_"):
            yield f"{prefix}.{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{prefix}.{child.name}")


def arguments(function):
    every = function.args
    return [*every.posonlyargs, *every.args, *every.kwonlyargs, *filter(None, (every.vararg, every.kwarg))]


def docstring_lines(node):
    first = node.body[0] if node.body else None
    is_docstring = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and type(first.value.value) is str
    )
    return first.end_lineno - first.lineno + 1 if is_docstring else 0


def body_lines(function):
    return function.end_lineno - function.body[0].lineno + 1 - docstring_lines(function)


def is_setter(function):
    return any(isinstance(decorator, ast.Attribute) for decorator in getattr(function, "decorator_list", ()))


@each_file
def test_no_file_is_long(path):
    length = len((PACKAGE / path).read_text(encoding="utf-8").splitlines())
    if path.name in LONG_DOCSTRINGS:
        length -= sum(docstring_lines(node) for node in ast.walk(parsed(path)) if isinstance(node, DOCUMENTED))
    assert length <= LONGEST_FILE


def test_no_function_has_many_parameters():
    many = set()
    for path in FILES:
        for name, function in functions(parsed(path), path.stem):
            own = [one for one in arguments(function) if one.arg not in ("self", "cls")]
            many |= {name} if len(own) > MOST_PARAMETERS else set()
    assert many == MANY_PARAMETERS


def test_the_median_function_is_short():
    lengths = [body_lines(function) for path in FILES for _, function in functions(parsed(path), path.stem)]
    assert statistics.median(lengths) <= LONGEST_MEDIAN_BODY


@each_file
def test_all_that_is_public_is_documented(path):
    assert ast.get_docstring(parsed(path))
    nodes = [pair for pair in public(parsed(path), path.stem) if not is_setter(pair[1])]
    assert [name for name, node in nodes if not ast.get_docstring(node)] == []


@each_file
def test_all_that_is_public_is_annotated(path):
    if path.with_suffix("").as_posix().startswith(tuple(UNANNOTATED)):
        return
    for name, node in public(parsed(path), path.stem):
        if isinstance(node, FUNCTION):
            bare = [one.arg for one in arguments(node) if one.annotation is None and one.arg not in ("self", "cls")]
            assert (name, bare) == (name, [])
            assert node.returns is not None, name
