"""The logic of the benchmarks and of `fastmlp.bench`: checks, sizes, tables. No test depends on time."""

import itertools
import json
import re
import tomllib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import fastmlp
from fastmlp import bench, formulas, notebook
from fastmlp.distributed import plans

pytest.importorskip("benchmarks", reason="not a checkout")
pytest.importorskip("numba", reason="the kernels' limits are measured with Numba", exc_type=ImportError)

from benchmarks import contest, curves, epochs, learning, limits, nets, peers, problems, recipes, scale, suite
from benchmarks.notebook import Functions
from benchmarks.workers import Worker, WorkerError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def images():
    return problems.synthetic_codes(500)


@pytest.fixture
def small_cache(monkeypatch, tmp_path):
    """Change to a folder in which setup_cache has run, as asv does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(suite, "LARGEST", 200)
    suite.Suite().setup_cache()


def test_synthetic_images_are_as_dense_as_mnist(images):
    codes, labels = images
    assert codes.shape == (784, 500)
    assert codes.dtype == np.uint8
    assert codes.flags.f_contiguous
    assert abs(np.count_nonzero(codes) / codes.size - 0.1912) < 0.001
    assert set(labels) == set(range(10))
    np.testing.assert_array_equal(problems.synthetic_codes(500)[0], codes)


def test_blas_chooses_its_own_kernels_where_it_has_not_yet(run_python):
    """NumPy's BLAS chooses its kernels on import: later changes would only affect child processes."""
    for modules, left in (("benchmarks, numpy", "None"), ("numpy, benchmarks", "Haswell")):
        code = f"import os, {modules}; print(os.environ.get('OPENBLAS_CORETYPE'))"
        assert run_python(code, env={"OPENBLAS_CORETYPE": "Haswell"}).stdout == f"{left}\n"


def test_the_sizes_are_parsed_strictly(monkeypatch):
    monkeypatch.setenv("FASTMLP_BENCH_SIZES", "small")
    assert suite.sample_counts(10, 60_000) == [1000]
    monkeypatch.setenv("FASTMLP_BENCH_SIZES", "full")
    assert suite.sample_counts(10, 60_000) == [10, 60_000]
    monkeypatch.setenv("FASTMLP_BENCH_SIZES", "tiny")
    with pytest.raises(ValueError, match="got 'tiny', expected 'full' or 'small'"):
        suite.sample_counts(10)


@pytest.mark.parametrize("wrong", [1.002, np.nan])
def test_a_gate_reports_the_difference(wrong):
    expected = (np.ones(3), np.full(2, 100.0))
    problems.check(expected, expected, "float64")
    with pytest.raises(AssertionError, match=r"it differs from the plain formulas by (2\.0e-03|nan): not timed"):
        problems.check((np.array([1, 1, wrong]), expected[1]), expected, "float32", "it")


@pytest.mark.usefixtures("small_cache")
def test_a_benchmark_of_a_wrong_function_is_not_timed(monkeypatch):
    monkeypatch.setattr("fastmlp.settings.process.backend", None)  # a benchmark sets it for its process
    cell = ("numpy", "Softmax", "float64", 200)
    Functions().setup(*cell)
    monkeypatch.setattr(fastmlp, "Softmax", lambda x: formulas.Softmax(x) * 1.01)
    with pytest.raises(AssertionError, match=r"Softmax differs from the plain formulas by 1\.0e-02: not timed"):
        Functions().setup(*cell)


@pytest.mark.usefixtures("small_cache")
def test_a_benchmark_prepares_once_for_a_cell():
    prepared = Functions()
    prepared.setup("plain", "ReLU", "float64", 200)
    first = prepared.call
    prepared.setup("plain", "ReLU", "float64", 200)
    assert prepared.call is first
    prepared.setup("plain", "ReLU", "float32", 200)
    assert prepared.call is not first


def test_too_little_memory_means_a_smaller_size(monkeypatch, capsys):
    with pytest.raises(NotImplementedError, match=r"GB are free: only the smaller sizes are measured"):
        suite.need_memory(10**12, "float64")
    suite.need_memory(10, "float64")
    monkeypatch.setattr(problems, "available_bytes", lambda: int(3e9))
    assert peers.affordable((60_000, 10_000, 1000), 5) == 10_000
    assert "3.0 GB are not enough for 60000 samples: measuring 10000" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="choose fewer with --only"):
        peers.affordable((60_000, 10_000, 1000), 50)


def test_asv_installs_what_the_package_needs():
    text = re.sub(r"^\s*//.*$", "", (ROOT / "asv.conf.json").read_text(), flags=re.MULTILINE)
    conf = json.loads(text)
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert set(conf["matrix"]["req"]) == {re.match(r"[\w-]+", one)[0] for one in needed}
    assert all("--no-deps" in conf[f"{what}_command"][0] for what in ("build", "install"))


@pytest.mark.numba
def test_operations_of_a_step():
    """24.55 GFLOP for dense input, counted as the multiply-adds of the five products."""
    m, n, h, c = 60_000, 784, 128, 10
    products = [(h, n, m), (c, h, m), (h, c, m), (c, m, h), (h, m, n)]
    assert limits.necessary_operations(n * m, m, (n, h, c)) == sum(2 * i * j * k for i, j, k in products)


@pytest.fixture
def folder(tmp_path, images):
    for name, array in zip(("codes", "labels"), images, strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    return tmp_path


def test_a_killed_worker_is_a_line(folder):
    worker = Worker(nets.BASELINE, folder, "float64")
    assert worker.ask("costs", 2)[1] < worker.ask("costs", 2)[0]
    worker._process.kill()
    with pytest.raises(WorkerError, match="its process ended with status -9"):
        worker.ask("step", 0.01)
    worker.stop()


def test_an_absent_or_failing_peer_is_a_line(folder, monkeypatch):
    (folder / "jax.py").write_text("raise ModuleNotFoundError('No module named jax')")
    (folder / "torch.py").write_text("raise OSError('libtorch is damaged\\nand more')")
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(WorkerError, match="^absent: No module named jax$"):
        Worker("JAX, jit", folder, "float64")
    with pytest.raises(WorkerError, match="^failed: OSError: libtorch is damaged$"):
        Worker("PyTorch, eager", folder, "float64")


def test_the_table_goes_between_its_markers(tmp_path, monkeypatch, capsys):
    """The command writes its table into the README, including slower rows and the limits."""
    monkeypatch.setattr(peers, "DTYPES", ["float64"])
    readme, figures = tmp_path / "README.md", tmp_path / "figures.json"
    begin, end = peers.SHORT
    readme.write_text(f"{begin}\n{end}\nbefore\n{peers.BEGIN}\nold\n{peers.END}\nafter\n")
    words = ["--small", "--only", "numpy, packed", "--json", str(figures), "--readme", str(readme)]
    assert peers.main(words) == 0
    table = capsys.readouterr().out.strip()
    short, _, long = readme.read_text().partition("before\n")
    assert long == f"{peers.BEGIN}\n{table}\n{peers.END}\nafter\n"
    median = table.splitlines()[2].split(" | ")[2].partition(" ")[0]
    rows = f"| 10 epochs, float64, ms | NumPy |\n| --- | --- |\n| MNIST, 784-128-10 | {median} |"
    assert short.replace("synthetic images", "MNIST") == f"{begin}\n{rows}\n{end}\n"
    assert re.search(r"^\| fastmlp, numpy, packed \| [\d.]+ \([\d.]+-[\d.]+\) \| ", table, re.MULTILINE)
    result = json.loads(figures.read_text())
    assert result["problem"]["samples"] == 1000
    assert set(result["figures"]["float64"]["fastmlp, numpy, packed"]) == {"version", "step", "training"}
    readme.write_text("no markers\n")
    with pytest.raises(SystemExit, match="add them where the table goes"):
        peers.rewrite(readme, table)


def test_the_model_of_scaling_is_its_formula():
    """10 leaves of 100 samples, gradients of 6 numbers; ranks of 4, 3 and 3 leaves, in 1, 2 and 2 nodes."""
    of, machine = scale.Problem(1000, 100, 6), scale.Machine(0.5, 0.01, 0.25, 0.125, 64.0)
    bounds = [-(-cut // 100) for cut in plans.sample_cuts(1000, 100, 3)]
    nodes = [len(plans.nodes_of(*pair, 10)) for pair in itertools.pairwise(bounds)]
    for rank, found in enumerate(scale.traffic(of, 3)):
        received = sum(
            3 * 16 + 2 * 8 * (nodes[k] + 1) + 24 * (bounds[k + 1] - bounds[k]) for k in range(3) if k != rank
        )
        assert found == (5, 10, received)
    slowest = max(one.received for one in scale.traffic(of, 3))
    # 4 leaves on 3 cores are 2 in turn; 2 rounds for 3 ranks, of each of 3 statuses.
    expected = 0.5 + 0.01 * 200 + 5 * 0.25 + (3 * 2 + 2 * 2) * 0.125 + slowest / 64
    assert scale.seconds(machine, of, 3, 3) == pytest.approx(expected)
    assert scale.seconds(machine, of, 1, 1) == pytest.approx(0.5 + 0.01 * 1000)
    assert scale.efficiency(machine, of, 3, 3) == pytest.approx((0.5 + 0.01 * 1000) / (9 * expected))


def test_batches_for_compilers_have_one_size(images):
    """The samples that fill up the last batch have no share in its loss."""
    codes, labels = images
    task = recipes.Task(codes, labels, codes, labels, 1 / 255, (784, 128, 10))
    recipe = recipes.adam(64, 1.0, 0.5)
    x, y, share = recipe.arranged(task, seed=3)
    assert x.shape == (8, 64, 784)
    np.testing.assert_allclose(share.sum(axis=1), 1, rtol=1e-6)
    samples = recipe.samples(500, seed=3)
    np.testing.assert_array_equal(y[share > 0], labels[samples])
    np.testing.assert_array_equal(x[share > 0], codes.T[samples])
    assert sorted(recipe.order(500, 2, 3)) == list(range(8))
    assert list(recipe._replace(shuffle=False).samples(500, 3)) == list(range(500))


def test_numbers_of_updates_are_those_of_the_whole_run():
    numbers = recipes.adam(64, 1.0, 0.5).numbers(500, epochs=2)
    assert numbers.shape == (2, 8, 3)
    assert numbers[1, 0, 0] == 1  # the peak, half-way
    assert numbers[1, -1, 0] == 0.125
    np.testing.assert_allclose(numbers[1, 1, 1:], [0.9**10, 0.99**10], rtol=1e-6)


@pytest.mark.usefixtures("small_cache")
@pytest.mark.parametrize("optimizer", epochs.OPTIMIZERS)
def test_updates_are_checked_before_they_are_timed(monkeypatch, optimizer):
    monkeypatch.setattr("fastmlp.settings.process.backend", None)
    epochs.Update().setup("numba", optimizer)
    monkeypatch.setattr(recipes, "_gradients", lambda *_: [np.float64(1)] * 4)
    with pytest.raises(AssertionError, match="the training differs from the plain formulas by .*: not timed"):
        epochs.Update().setup("numba", optimizer)


def test_a_series_without_hope_ends():
    series = contest.Series(2, [1.0] * 5, [0.96, 0.961, 0.959, 0.96, 0.96])
    assert series.hopeless(0.97)
    assert not series.hopeless(0.9605)
    assert not contest.Series(2, [1.0], [0.1]).hopeless(0.97)
    assert series.spread(series.seconds) == 0


@pytest.fixture
def races(tmp_path, monkeypatch):
    """A contest of two workers: the accuracy of "fast" is 0.5 in 1 epoch and 0.9 in 2, that of "slow" 0.6 and 0.7."""
    monkeypatch.setattr(contest, "TASKS", {"MNIST": lambda m: recipes.images(200)})
    accuracies = {"fast": {1: 0.5, 2: 0.9}, "slow": {1: 0.6, 2: 0.7}, "wrong": {}}

    class Fake:
        def __init__(self, name, *words, service):
            self.name = name

        def ask(self, question, recipe, *words):
            if question == "loss":
                return 99.0 if self.name == "wrong" else contest_loss
            return 2.0, accuracies[self.name][words[0]]

        def stop(self):
            pass

    task = recipes.images(200)
    contest_loss = task.loss(recipes.train_plainly(task, recipes.PLAIN, 1, 0))
    monkeypatch.setattr(contest, "Worker", Fake)
    return contest.Contest(tmp_path, "MNIST", contest.QUICK, ["fast", "slow", "wrong"])


def test_a_learner_that_learns_something_else_is_not_timed(races):
    assert list(races.workers) == ["fast", "slow"]
    assert races.reasons["wrong"].startswith("not timed: a loss of 99.0000 after an epoch")


def test_each_learner_has_its_fewest_epochs(races):
    found = races.reach(recipes.EPOCH[128], 0.55, (1, 2))
    assert {name: one.epochs for name, one in found.items()} == {"fast": 2, "slow": 1}
    assert found["fast"].seconds == [2.0] * contest.QUICK.seeds
    assert list(races.reach(recipes.EPOCH[128], 0.8, (1, 2))) == ["fast"]


def test_a_learner_that_has_taken_its_budget_gets_no_longer_runs(races):
    races.scale = races.scale._replace(budget=2.0 * races.scale.seeds)  # one series
    assert list(races.reach(recipes.EPOCH[128], 0.55, (1, 2))) == ["slow"]
    assert sorted((epochs, name) for _, epochs, name in races._series) == [(1, "fast"), (1, "slow")]


@pytest.fixture
def timed(monkeypatch):
    """Return a function that takes the seconds of learners, and returns a lab in which they were measured, once."""

    def lab(seconds):
        races = object.__new__(contest.Contest)  # without processes
        races.scale, races.workers, races.reasons, races.epochs = contest.QUICK, seconds, {}, {}
        found = learning.Lab(None, contest.QUICK)
        found.contests["MNIST"], found.asked = races, []

        def in_turns(workers, rounds, *question):
            found.asked.append(question[0])
            return {name: {"median": time} for name, time in seconds.items()}

        monkeypatch.setattr(contest, "in_turns", in_turns)
        return found

    return lab


SECONDS = {"fastmlp": 1.0, "PyTorch, eager": 7.0, "PyTorch, compiled": 5.0, "JAX, one jit for an epoch": 2.0}


def test_one_measurement_gives_the_ratios_over_all_peers_and_over_two_frameworks(timed, capsys):
    lab = timed(SECONDS | {"scikit-learn, MLPClassifier": 6.0})
    learning.report(learning.rows(lab, busy=False), "MNIST, an epoch in batches of 128")
    assert lab.asked == ["epoch", "first"]
    printed = re.sub(" +", " ", capsys.readouterr().out)
    assert "MNIST, an epoch in batches of 128, over the fastest peer 3 6 2.00 x missed\n" in printed
    assert "MNIST, an epoch in batches of 128, over PyTorch and scikit-learn 4 8 5.00 x\n" in printed


@pytest.mark.parametrize("absent", ["PyTorch", "scikit-learn"])
def test_a_ratio_over_two_frameworks_needs_both(timed, absent):
    found = SECONDS | {"scikit-learn, MLPClassifier": 6.0}
    lab = timed({name: time for name, time in found.items() if not name.startswith(absent)})
    assert lab.epoch_ratio("MNIST", 128, ("PyTorch", "scikit-learn")) is None
    assert lab.epoch_ratio("MNIST", 128) == 2


def test_the_tables_of_learning_go_between_their_markers(tmp_path, monkeypatch, capsys):
    """The command measures the learners that are installed, and names the others. Compilers would take minutes."""
    names = [name for name in learning.BUILDERS if "compiled" not in name and "TensorFlow" not in name]
    monkeypatch.setattr(learning, "BUILDERS", dict.fromkeys([*names, "TensorFlow, tf.function for an epoch"]))
    (tmp_path / "tensorflow.py").write_text("raise ModuleNotFoundError('No module named tensorflow')")
    monkeypatch.syspath_prepend(tmp_path)
    readme = tmp_path / "README.md"
    begin, end = (f"<!-- python -m benchmarks.learning: {word} -->" for word in ("begin", "end"))
    readme.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    assert learning.main(["--quick", "--only", "MNIST, an epoch in batches of 128", "--readme", str(readme)]) in (1, 2)
    printed = capsys.readouterr().out
    table = readme.read_text().removeprefix(f"before\n{begin}\n").removesuffix(f"\n{end}\nafter\n")
    assert printed.endswith(table + "\n")
    assert re.search(r"^\| fastmlp \| [\d.]+ \([\d.]+-[\d.]+\); [\d.]+ \|", table, re.MULTILINE)
    assert "| TensorFlow, tf.function for an epoch | not installed |" in table
    assert "failed" not in table
    assert "not timed" not in table


def test_a_curve_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "curve.png"
    curves.draw(picture, {"one": 30.0}, {"one": [(0.1, 0.9), (0.3, 0.95)], "other": [(1.0, 0.9)]}, ("a net", "runs"))
    assert picture.stat().st_size > 1000


def test_the_busy_process_ends():
    with contest.busy_process(True) as process:
        assert process.poll() is None
    assert process.poll() is not None
    with contest.busy_process(False) as process:
        assert process is None


def test_compare_prints_a_table_and_converts(images, backend, dtype):
    codes, labels = images
    found = bench.compare(codes, labels, scale=1 / 255, hidden=16, dtype=dtype.name, seconds=0.2)
    assert found.net == "784-16-10"
    assert found.backend == backend
    assert abs(found.density - 0.1912) < 0.001
    assert found.rows[0].difference == 0
    assert found.rows[0].speedup == 1
    assert all(row.difference < 100 * np.finfo(dtype).eps for row in found.rows)
    assert all(row.low <= row.speedup <= row.high for row in found.rows)
    assert all(f"{row.name} " in str(found) for row in found.rows)
    assert json.loads(found.to_json())["rows"][2]["milliseconds"] == found.rows[2].milliseconds
    # At least X, one-hot Y, Z1 and A1, or the packed matrix and the gradient.
    assert found.rows[0].megabytes * 1e6 > 500 * (784 + 10 + 2 * 16) * dtype.itemsize
    packed = fastmlp.pack(codes, scale=1 / 255)
    assert found.rows[2].megabytes * 1e6 > packed.nbytes + 784 * 16 * dtype.itemsize
    assert not tracemalloc.is_tracing()


def test_a_speed_up_is_the_formulas_time_over_one_s_own(images, monkeypatch):
    codes, labels = images
    times = [[4.0, 4.0, 8.0], [2.0, 2.0, 2.0], [8.0, 8.0, 16.0]]
    monkeypatch.setattr(bench, "_times", lambda steps, budget: times)
    found = bench.compare(codes, labels, scale=1 / 255, hidden=4)
    assert [row.milliseconds for row in found.rows] == [4000, 2000, 8000]
    assert [row.speedup for row in found.rows] == [1, 2, 0.5]
    assert found.rows[1].low <= 2 <= found.rows[1].high <= 4
    assert found.rounds == 3


def test_compare_times_nothing_that_differs(images, monkeypatch):
    codes, labels = images
    monkeypatch.setattr(notebook, "compute_cost", lambda a2, y: np.nan)
    found = bench.compare(codes, labels, scale=1 / 255, hidden=4, seconds=0.1)
    formulas_row, functions_row, model_row = found.rows
    assert functions_row.milliseconds is None
    assert "differs: not timed" in str(found)
    assert json.loads(found.to_json())["rows"][1]["difference"] is None
    assert formulas_row.milliseconds > 0
    assert model_row.speedup > 0


def test_compare_wants_data_on_which_the_formulas_stay_finite(images):
    codes, labels = images
    with pytest.raises(ValueError, match=r"X: got values up to 2.55e\+06, .*scale=1/255"):
        bench.compare(codes * 1e4, labels)


@pytest.mark.parametrize("wrong", [{"Y": [0, 1]}, {"Y": [-1, 0, 1]}, {"seconds": 0}, {"dtype": "f2"}], ids=str)
def test_compare_names_a_wrong_argument(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"^{name}: got"):
        bench.compare(**{"X": np.eye(3), "Y": [0, 1, 2], "hidden": 2, **wrong})
