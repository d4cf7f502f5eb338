"""Plots: they draw the given data on the given axes, and change no global state."""

import io
import pickle
import sys

import numpy as np
import pytest

import fastmlp
from fastmlp import keeping, plots
from fastmlp.preprocessing import Inputs
from fastmlp.units import Unit

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

TWO = np.array([0, 1]), np.array([[0.2, 0.1], [0.8, 0.9]]), {"loss": 1.0, "accuracy": 0.5}  # labels, and one mistake


@pytest.fixture
def history():
    return fastmlp.History([1, 2, 3], [3.0, 2.0, 0.5], [0.1, 0.4, 0.9], [3.5, 1.5, 1.0], [0.2, 0.3, 0.7], [0.1] * 3)


@pytest.fixture
def answers(rng):
    """Return images (12, 5, 4), labels (12,), probabilities (3, 12) with mistakes at 2, 5 and 7."""
    labels = np.arange(12) % 3
    p = np.full((3, 12), 0.1)
    p[labels, np.arange(12)] = 0.8
    for i, right in ((2, 0.05), (5, 0.2), (7, 0.01)):
        p[:, i] = (0.9 - right) / 2
        p[labels[i], i], p[(labels[i] + 1) % 3, i] = right, (1 - right) - (0.9 - right) / 2
    return rng.random((12, 5, 4)), labels, p


def axes(count):
    return Figure().subplots(1, count, squeeze=False).ravel()


def test_learning_curves_are_the_columns(history):
    history.seconds = [0.5, 0.25, 0.125]
    loss, accuracy, by_time = plots.learning_curves(history, test={"loss": 1.25, "accuracy": 0.6}).axes
    for ax, columns, x, written in (
        (loss, (history.loss, history.validation_loss), history.epoch, ("1", "1.25")),
        (accuracy, (history.accuracy, history.validation_accuracy), history.epoch, ("70.00 %", "60.00 %")),
        (by_time, (history.accuracy, history.validation_accuracy), [0.5, 0.75, 0.875], ("70.00 %", "60.00 %")),
    ):
        assert ax.get_xlabel() == ("Seconds of training" if ax is by_time else "Epoch")
        legend = ["training", "validation", f"best epoch, 3: {written[0]}", f"test: {written[1]}"]
        assert [text.get_text() for text in ax.get_legend().get_texts()] == legend
        *curves, star, test = ax.lines
        assert (star.get_xdata()[0], star.get_ydata()[0]) == (x[2], columns[1][2])
        assert set(test.get_ydata()) == {1.25 if ax is loss else 0.6}
        for line, column in zip(curves, columns, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), x)
            np.testing.assert_array_equal(line.get_ydata(), column)
        first, second = curves
        assert first.get_linestyle() != second.get_linestyle()
        assert first.get_marker() != second.get_marker()
        assert first.get_color() != second.get_color()
    labels = "Loss (mean cross-entropy)", "Accuracy", "Accuracy"
    assert tuple(ax.get_ylabel() for ax in (loss, accuracy, by_time)) == labels
    assert loss.get_yscale() == "log"
    assert accuracy.yaxis.get_major_formatter()(0.975) == "97.5 %"
    assert by_time.get_xlim()[0] == 0


def test_the_curves_of_one_epoch_have_ticks_that_make_sense():
    loss, accuracy, _ = plots.learning_curves(fastmlp.History([1], [0.5], [1.0], seconds=[0.1])).axes
    for ax in (loss, accuracy):
        low, high = ax.get_xlim()
        assert [tick for tick in ax.get_xticks() if low <= tick <= high] == [1]
    assert -0.1 < accuracy.get_ylim()[0] < accuracy.get_ylim()[1] < 1.1


def test_markers_of_two_curves_do_not_cover_each_other():
    epochs = list(range(1, 101))
    columns = [[1 / (i + k) for i in epochs] for k in range(4)]
    for ax in plots.learning_curves(fastmlp.History(epochs, *columns, [0.1] * 100)).axes:
        (first, every), (second, other) = (line.get_markevery() for line in ax.lines[:2])
        assert not set(range(first, 100, every)) & set(range(second, 100, other))


def test_first_layer_change_is_what_training_changed(rng):
    model = fastmlp.MLP((9, 4, 2), seed=3)
    initial = model.weights[0].copy()
    change = rng.random((4, 9))
    model.weights[0][...] += change
    inputs = Inputs((3, 3), 1.0, ("0", "1"), None)
    x, y, p = np.zeros((2, 9)), np.array([0, 1]), np.eye(2)
    figures = dict(keeping.drawings(model, inputs, keeping.Evaluated("data", x, y, p, {}), None))
    assert list(figures) == ["confusion-matrix", "worst-mistakes", "first-layer", "first-layer-change"]
    for name, weights in (("first-layer", initial + change), ("first-layer-change", initial + change - initial)):
        for ax, row in zip(figures[name].axes, weights, strict=False):
            np.testing.assert_array_equal(ax.images[0].get_array(), row.reshape(3, 3))
    assert figures["first-layer-change"].axes[-1].get_ylabel() == "Change of weight"


def test_learning_curves_without_validation_and_with_a_loss_of_zero():
    loss, accuracy, _ = plots.learning_curves(fastmlp.History([1, 2], [0.5, 0.0], [0.5, 1.0], seconds=[0.1, 0.1])).axes
    assert (len(loss.lines), len(accuracy.lines)) == (1, 1)
    assert loss.get_yscale() == "linear"
    nearly_flat = plots.learning_curves(fastmlp.History([1, 2], [0.5, 0.3], [0.5, 1.0], seconds=[0.1, 0.1]))
    assert nearly_flat.axes[0].get_yscale() == "linear"


@pytest.mark.parametrize("names", [None, ["a", "b", "c"]])
def test_a_confusion_matrix_counts(rng, names):
    labels, predictions = rng.integers(0, 3, (2, 50))
    labels[:3] = 0, 1, 2
    ax = plots.confusion_matrix(labels, predictions, names).axes[0]
    counts = np.array([[np.sum((labels == i) & (predictions == k)) for k in range(3)] for i in range(3)])
    written = [(text.get_text() or "0\n0 %").split("\n") for text in ax.texts]
    np.testing.assert_array_equal(np.array([int(one) for one, _ in written]).reshape(3, 3), counts)
    percent = np.array([float(one.removesuffix(" %")) for _, one in written]).reshape(3, 3)
    np.testing.assert_allclose(percent, 100 * counts / counts.sum(axis=1, keepdims=True), atol=0.5)
    np.testing.assert_allclose(ax.images[0].get_array(), counts / counts.sum(axis=1, keepdims=True))
    assert [t.get_text() for t in ax.get_xticklabels()] == (names or ["0", "1", "2"])
    assert [t.get_text() for t in ax.get_yticklabels()] == (names or ["0", "1", "2"])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Predicted class", "True class")
    assert (
        ax.get_title() == f"{np.sum(labels == predictions)} of 50 right ({100 * np.mean(labels == predictions):.1f} %)"
    )


def test_a_confusion_matrix_of_many_classes_or_of_one_that_never_occurs():
    assert plots.confusion_matrix(np.arange(30), np.arange(30)).axes[0].texts[:] == []
    ax = plots.confusion_matrix([0, 2], [0, 1]).axes[0]
    assert not np.isnan(np.asarray(ax.images[0].get_array(), float)).any()


def test_numbers_in_a_confusion_matrix_stand_out():
    """Text needs a contrast of 4.5 as defined by WCAG 2."""
    shares = np.append(np.linspace(0, 1, 10), [0.21, 0.23])
    counts = np.round(1000 * shares).astype(int)
    labels = np.repeat(np.arange(12), 1000)
    predictions = np.concatenate([np.repeat([i, (i + 1) % 12], [c, 1000 - c]) for i, c in enumerate(counts)])
    ax = plots.confusion_matrix(labels, predictions).axes[0]
    image = ax.images[0]
    for text, share in zip(ax.texts, np.ravel(image.get_array()), strict=True):
        light = [np.dot(linear(color), (0.2126, 0.7152, 0.0722)) for color in (image.to_rgba(share), text.get_color())]
        assert (max(light) + 0.05) / (min(light) + 0.05) >= 4.5, share


def linear(color):
    from matplotlib.colors import to_rgb

    c = np.array(to_rgb(color))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def test_worst_mistakes_come_in_the_order_of_their_loss(answers):
    images, labels, p = answers
    drawn = plots.worst_mistakes(images, labels, p, names=["x", "y", "z"]).axes
    assert len(drawn) == 3
    for ax, i in zip(drawn, (7, 2, 5), strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), images[i])
        guess = p[:, i].argmax()
        true, seen = ax.get_title().split("\n")
        assert true == f"true {'xyz'[labels[i]]} ({100 * p[labels[i], i]:.0f} %)"
        assert ax.get_xlabel() == f"sample {i}"
        assert seen == f"seen as {'xyz'[guess]} ({100 * p[guess, i]:.0f} %)"


@pytest.mark.parametrize(
    ("probability", "text"),
    [(0.0, "0 %"), (2e-9, "< 0.0001 %"), (3.2e-6, "0.0003 %"), (0.004, "0.4 %"), (0.0096, "1 %"), (0.28, "28 %")],
)
def test_a_worst_mistake_shows_by_what_it_is_ordered(probability, text):
    p = np.array([[probability], [1 - probability]])
    (ax,) = plots.worst_mistakes(np.zeros((1, 3, 3)), [0], p).axes
    assert ax.get_title().split("\n")[0] == f"true 0 ({text})"


def test_as_many_mistakes_as_asked_for_and_the_other_axes_are_off(answers):
    assert len(plots.worst_mistakes(*answers, count=2).axes) == 2
    given = axes(5)
    assert plots.worst_mistakes(*answers, axes=given) is None
    assert [len(ax.images) for ax in given] == [1] * 3 + [0] * 2
    assert [ax.axison for ax in given] == [True] * 3 + [False] * 2


def test_no_mistake_is_said():
    (ax,) = plots.worst_mistakes(np.zeros((2, 3, 3)), [0, 1], np.eye(2)).axes
    assert [text.get_text() for text in ax.texts] == ["no mistake"]


def test_the_first_layer_s_rows_are_images_on_one_scale(rng):
    weights = rng.standard_normal((7, 6))
    most = sorted(np.abs(weights).ravel())
    most = most[-1] - 0.041 * (most[-1] - most[-2])  # of 42 values, the quantile 0.999
    figure = plots.first_layer(weights, (2, 3), label="Something")
    *drawn, _ = figure.axes
    for i, (ax, row) in enumerate(zip(drawn, weights, strict=True)):
        np.testing.assert_array_equal(ax.images[0].get_array(), row.reshape(2, 3))
        np.testing.assert_allclose(ax.images[0].get_clim(), (-most, most))
        assert ax.get_title() == str(i)
    assert "Something" in [ax.get_ylabel() for ax in figure.axes]
    assert figure.get_suptitle() == "First layer: all units"
    some = plots.first_layer(weights, (3, 2), count=4)
    *drawn, bar = some.axes
    assert (len(drawn), bar.get_ylabel()) == (4, "Weight")
    assert some.get_suptitle() == "First layer: 4 of 7 units, 0 to 3"


def test_axes_of_the_caller_are_drawn_on_and_nothing_is_returned(history, answers):
    """A notebook shows the figure, and would show it twice."""
    pair, three, (ax,), grid = axes(2), axes(3), axes(1), axes(4)
    assert plots.learning_curves(history, pair) is None
    assert plots.learning_curves(history, three) is None
    assert plots.confusion_matrix([0, 1], [0, 0], ax=ax) is None
    assert plots.first_layer(np.ones((4, 9)), axes=grid) is None
    assert [len(one.lines) for one in (*pair, *three)] == [3] * 5
    assert [len(one.images) for one in (ax, *grid)] == [1] * 5


def test_every_new_figure_shows_itself_in_a_notebook(history, answers):
    """IPython calls `_repr_png_`, whose image has twice the pixels of its display."""
    import PIL.Image

    for figure in (
        history.plot(),
        plots.learning_curves(history),
        plots.confusion_matrix([0, 1], [0, 0]),
        plots.worst_mistakes(*answers),
        plots.first_layer(np.ones((4, 9))),
    ):
        assert isinstance(figure, Figure)
        png, shown = figure._repr_png_()
        size = PIL.Image.open(io.BytesIO(png)).size
        np.testing.assert_allclose(size, (2 * shown["width"], 2 * shown["height"]), atol=1)  # of matplotlib < 3.11
        assert shown["width"] == pytest.approx(figure.get_size_inches()[0] * figure.dpi, abs=1)
        assert pickle.loads(pickle.dumps(figure))._repr_png_()[1] == shown


def test_a_notebook_shows_a_figure_without_further_words(history):
    formatter = pytest.importorskip("IPython.core.formatters", exc_type=ImportError).DisplayFormatter()
    data, metadata = formatter.format(history.plot())
    assert data["image/png"].startswith(b"\x89PNG")
    assert metadata["image/png"]["width"] == 1260
    assert "image/png" not in formatter.format(plots.learning_curves(history, axes(2)))[0]


def test_pyplot_and_its_settings_stay_untouched(run_python):
    run_python("""
import sys, matplotlib
before = matplotlib.rcParams.copy()  # dict() would choose a backend
import numpy as np, fastmlp
from fastmlp import plots
assert plots.require() is None
plots.learning_curves(fastmlp.History([1], [0.5], [0.5], seconds=[0.1])).savefig("/dev/null", format="png")
plots.confusion_matrix([0, 1], [0, 0])
plots.worst_mistakes(np.zeros((2, 3, 3)), [0, 1], np.full((2, 2), 0.5))
plots.first_layer(np.ones((4, 9)))
assert "matplotlib.pyplot" not in sys.modules
assert matplotlib.rcParams.copy() == before
""")


def test_importing_plots_does_not_import_matplotlib(run_python):
    run_python("import sys, fastmlp.plots; assert 'matplotlib' not in sys.modules")


def test_without_matplotlib_the_extra_is_named(monkeypatch, history):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    for draw in (plots.require, lambda: plots.learning_curves(history), lambda: plots.confusion_matrix([0], [0])):
        with pytest.raises(ImportError, match=r'pip install "\.\[cli\]" in a clone'):
            draw()


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda a: plots.learning_curves(fastmlp.History()), "history: got no epoch"),
        (lambda a: plots.learning_curves(fastmlp.History([1], [1.0], [1.0]), axes(1)), "axes: got 1 axes, expected 2"),
        (lambda a: plots.confusion_matrix([0, 1], [0]), "predictions: got shape"),
        (lambda a: plots.confusion_matrix([0, 2], [0, 0], ["a", "b"]), "labels: got label 2"),
        (lambda a: plots.confusion_matrix([0, -1], [0, 0]), "labels: got label -1"),
        (lambda a: plots.worst_mistakes(a[0][:, 0], a[1], a[2]), "images: got shape"),
        (lambda a: plots.worst_mistakes(a[0], a[1][1:], a[2]), "labels: got shape"),
        (lambda a: plots.worst_mistakes(a[0], a[1], a[2].T), "probabilities: got shape"),
        (lambda a: plots.worst_mistakes(*a, names=["a"]), "names: got 1 names, expected 3"),
        (lambda a: plots.worst_mistakes(*a, count=0), "count: got 0"),
        (lambda a: plots.worst_mistakes(*a, axes=axes(2)), "axes: got 2 axes, expected 3"),
        (lambda a: plots.first_layer(np.ones((2, 7))), "shape: got 2 x 2 for inputs of 7"),
        (lambda a: plots.first_layer(np.ones((2, 6)), (2, 2)), "shape: got 2 x 2 for inputs of 6"),
        (lambda a: plots.first_layer(np.ones(4)), "weights: got shape"),
    ],
)
def test_what_does_not_fit_is_refused(answers, draw, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        draw(answers)


def test_predictions_are_drawn_against_the_truth(rng):
    true = rng.normal(size=50)
    predicted = true + rng.normal(0, 0.1, 50)
    ax = plots.predicted_against_true(true, predicted).axes[0]
    line, points = ax.lines
    np.testing.assert_array_equal(points.get_xdata(), true)
    np.testing.assert_array_equal(points.get_ydata(), predicted)
    np.testing.assert_array_equal(line.get_xdata(), line.get_ydata())
    assert min(line.get_xdata()) <= min(*true, *predicted) < max(*true, *predicted) <= max(line.get_xdata())
    r2 = 1 - np.sum((predicted - true) ** 2) / np.sum((true - true.mean()) ** 2)
    assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == (f"$R^2$ = {r2:.4f}", "True", "Predicted")
    (own,) = axes(1)
    assert plots.predicted_against_true(true, predicted, own) is None
    assert len(own.lines) == 2
    many = plots.predicted_against_true(np.arange(10_000.0), np.arange(10_000.0)).axes[0].lines[1]
    assert many.get_alpha() < points.get_alpha() == 1
    with pytest.raises(ValueError, match=r"^predictions: got shape \(2,\)"):
        plots.predicted_against_true([1.0], [1.0, 2.0])


def test_the_curves_of_a_regression_are_r2_as_a_plain_number():
    history = fastmlp.History([1, 2], [0.5, 0.2], seconds=[0.1, 0.1], r2=[0.1, 0.7], loss_name="squared_error")
    loss, score, _ = plots.learning_curves(history).axes
    assert (loss.get_ylabel(), score.get_ylabel()) == ("Loss (mean half squared error)", "$R^2$")
    np.testing.assert_array_equal(score.lines[0].get_ydata(), [0.1, 0.7])
    assert "%" not in score.yaxis.get_major_formatter()(0.5)


def test_the_order_of_the_worst_mistakes_is_explained():
    p = np.array([[0.4, 0.9, 0.2], [0.6, 0.1, 0.8]])
    figure = plots.worst_mistakes(np.zeros((3, 8, 8)), [0, 1, 1], p)
    said = "Worst mistakes: lowest probability of the true class first"
    assert figure.get_suptitle().replace("\n", " ") == said
    assert plots.worst_mistakes(np.zeros((1, 8, 8)), [0], p[:, 1:2]).get_suptitle() == ""


def test_pictures_of_a_run_have_a_title_with_data_net_and_recipe(history):
    model = fastmlp.MLP((9, 4, 2), seed=3)
    model.notes = {"trained": "adam, batches of 32, 3 epochs; ended after 3 epochs (epochs): ..."}
    inputs, evaluated = Inputs((3, 3), 1.0, ("0", "1"), None), keeping.Evaluated("cats", np.zeros((2, 9)), *TWO)
    drawn = dict(keeping.drawings(model, inputs, evaluated, history))
    assert len(drawn) == 5
    for figure in drawn.values():
        assert figure.get_suptitle().replace("\n", " ").startswith("cats, 9-4-2, adam, batches of 32, 3 epochs")
        assert max(map(len, figure.get_suptitle().split("\n"))) <= 14 * figure.get_size_inches()[0]
    own = "Worst mistakes: lowest probability of the true class first"
    assert drawn["worst-mistakes"].get_suptitle().replace("\n", " ").endswith(f"3 epochs {own}")
    model.notes = {}
    assert next(keeping.drawings(model, inputs, evaluated, history))[1].get_suptitle() == "cats, 9-4-2"


def test_the_test_value_of_a_regression_is_its_score(rng):
    """The loss of the history is that of standardised targets."""
    model = fastmlp.MLP((2, 1), loss="squared_error")
    history = fastmlp.History([1, 2], [0.5, 0.2], seconds=[0.1, 0.1], r2=[0.1, 0.7], loss_name="squared_error")
    evaluated = keeping.Evaluated("a", np.zeros((3, 2)), np.arange(3.0), np.ones((1, 3)), {"loss": 99.0, "r2": 0.5})
    drawn = dict(keeping.drawings(model, Inputs((2,), 1.0, (), None, unit=Unit()), evaluated, history))
    assert [len(ax.lines) for ax in drawn["learning-curves"].axes] == [1, 2, 2]
