"""scikit-learn's own checks of an estimator, and its own tests of its multilayer perceptrons, on our classes.

Its tests are run from where they are installed; nothing of them is copied. No check and no test is excepted.
"""

import importlib.util

import pytest

sklearn = pytest.importorskip("sklearn", "1.7")

from sklearn.utils.estimator_checks import estimator_checks_generator  # noqa: E402

from fastmlp.estimator import MLPClassifier, MLPRegressor  # noqa: E402

IGNORED = "ignore::sklearn.exceptions.ConvergenceWarning", "ignore::sklearn.exceptions.SkipTestWarning"


CHECKS = [one for model in (MLPClassifier(), MLPRegressor()) for one in estimator_checks_generator(model)]


@pytest.mark.filterwarnings(*IGNORED)
@pytest.mark.parametrize(("estimator", "check"), CHECKS, ids=lambda one: getattr(one, "func", type(one)).__name__)
def test_estimators_pass_the_checks_of_sklearn(estimator, check):
    check(estimator)


def test_the_tests_of_sklearn_pass(run_python):
    """In a process of its own, in which scikit-learn's names stand for our classes."""
    if importlib.util.find_spec("sklearn.neural_network.tests.test_mlp") is None:
        pytest.skip("this scikit-learn was installed without its tests")
    code = """
import sys, pytest, sklearn.neural_network
from fastmlp import estimator
for name in estimator.__all__:
    setattr(sklearn.neural_network, name, getattr(estimator, name))

class Seen:
    tests = 0
    def pytest_collection_modifyitems(self, items):
        for name in estimator.__all__:
            assert all(getattr(item.module, name) is getattr(estimator, name) for item in items)
    def pytest_runtest_logreport(self, report):
        self.tests += report.when == "call" and report.passed

seen = Seen()
options = ["-q", "-p", "no:cacheprovider", "-W", "ignore", "-c", "/dev/null"]
status = pytest.main([*options, "--pyargs", "sklearn.neural_network.tests.test_mlp"], plugins=[seen])
assert status == 0 and seen.tests > 50, (status, seen.tests)
"""
    found = run_python(code, timeout=900, check=False)
    assert found.returncode == 0, found.stdout[-5000:] + found.stderr[-5000:]
