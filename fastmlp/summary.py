"""The layers of a net as a table, as text and HTML."""

import html
from typing import NamedTuple

from fastmlp import activations, losses

_HEAD = ("layer", "weight", "bias", "parameters", "activation", "memory")


class Layers(NamedTuple):
    """What a summary tells of a model.

    Attributes
    ----------
    layer_sizes : tuple of int
        Widths from input to output.
    itemsize : int
        Bytes of a parameter.
    activation : str or tuple of str
        As of `fastmlp.MLP`.
    loss : str
        The name of the loss.
    title : str
        The model in one line.
    """

    layer_sizes: tuple[int, ...]
    itemsize: int
    activation: activations.Activation
    loss: str
    title: str


def text(net: Layers) -> str:
    """Return the layers as a table of text, under the model and above the sums."""
    rows = _rows(net)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([net.title, *lines, _sum(net)])


def as_html(net: Layers) -> str:
    """Return the layers as a table of HTML; all text is escaped."""
    head, *body = (
        "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
        for tag, row in zip(("th", *("td",) * len(net.layer_sizes)), _rows(net), strict=False)
    )
    rows = "".join(f"<tr>{row}</tr>" for row in body)
    title, total = html.escape(net.title), html.escape(_sum(net))
    return f"<p>{title}</p><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table><p>{total}</p>"


def size(count: float) -> str:
    """Return a number of bytes in words.

    Examples
    --------
    >>> from fastmlp.summary import size
    >>> size(40), size(814160)
    ('40 bytes', '795.1 KiB')
    """
    if count < 1024:
        return f"{count:.0f} bytes"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


def _rows(net: Layers) -> list[tuple[str, ...]]:
    hidden = len(net.layer_sizes) - 2
    names = (net.activation,) * hidden if isinstance(net.activation, str) else net.activation
    rows: list[tuple[str, ...]] = [_HEAD]
    pairs = zip(net.layer_sizes[:-1], net.layer_sizes[1:], (*names, _output(net.loss)), strict=True)
    for number, (n_in, n_out, name) in enumerate(pairs, 1):
        count = n_out * (n_in + 1)
        weight, bias = f"({n_out}, {n_in})", f"({n_out}, 1)"
        rows.append((str(number), weight, bias, f"{count:,}", name, size(count * net.itemsize)))
    return rows


def _sum(net: Layers) -> str:
    count = sum(n_out * (n_in + 1) for n_in, n_out in zip(net.layer_sizes[:-1], net.layer_sizes[1:], strict=True))
    return f"{count:,} parameters, {size(count * net.itemsize)}; loss: {losses.in_words(net.loss)}"


def _output(loss: str) -> str:
    return {"cross_entropy": "softmax", "logistic": "logistic", "poisson": "exp"}.get(loss, "identity")
