"""`MLP.summary`, its HTML for notebooks, and `History.to_frame`."""

import html.parser

import pytest

import fastmlp
from fastmlp import losses
from fastmlp.kernels.nets import LOSSES
from fastmlp.summary import Layers, as_html


class Cells(html.parser.HTMLParser):
    """Collects the text of each element."""

    def __init__(self):
        super().__init__()
        self.cells, self.open = {}, []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.cells.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.cells[self.open[-1]][-1] += data


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("sizes", [(4, 3), (5, 7, 1), (30, 20, 10, 2)])
def test_the_table_has_the_shapes_and_sums_of_the_arrays(sizes, loss):
    names = ("tanh", "gelu")[: len(sizes) - 2]
    net = fastmlp.MLP(sizes, dtype="float32", activation=names or "relu", loss=loss)
    title, head, *rows, last = net.summary().splitlines()
    assert title == repr(net)
    assert head.split() == ["layer", "weight", "bias", "parameters", "activation", "memory"]
    assert len({len(row) for row in [head, *rows]}) == 1
    assert len(rows) == len(net.weights)
    for row, weight, bias, name in zip(rows, net.weights, net.biases, [*names, None], strict=True):
        assert str(weight.shape) in row
        assert str(bias.shape) in row
        assert f" {weight.size + bias.size} " in row
        assert name is None or f" {name} " in row
    size = net.parameters.nbytes
    words = f"{size} bytes" if size < 1024 else f"{size / 1024:.1f} KiB"
    assert last == f"{net.parameters.size:,} parameters, {words}; loss: {losses.in_words(loss)}"


def test_a_notebook_shows_the_same_as_the_text():
    net = fastmlp.MLP((784, 128, 10))
    parser = Cells()
    parser.feed(net._repr_html_())
    title, head, *rows, last = net.summary().splitlines()
    assert parser.cells["p"] == [title, last]
    assert parser.cells["th"] == head.split()
    assert " ".join(parser.cells["td"]).split() == " ".join(rows).split()


def test_the_html_is_escaped():
    text = as_html(Layers((2, 2), 8, "relu", "cross_entropy", "<script>alert('x')</script> & more"))
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "&amp; more" in text


def test_a_history_becomes_a_frame():
    pd = pytest.importorskip("pandas")
    net = fastmlp.MLP((2, 2))
    x, y = [[0.0, 1.0], [1.0, 0.0]], [0, 1]
    history = net.fit(x, y, epochs=4, validation=(x, y))
    frame = history.to_frame()
    pd.testing.assert_frame_equal(frame, pd.DataFrame(history.to_dict()))
    assert list(frame) == history.names()
    assert frame["epoch"].tolist() == [1, 2, 3, 4]


def test_without_pandas_the_error_names_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match='python -m pip install "pandas"'):
        fastmlp.History().to_frame()
