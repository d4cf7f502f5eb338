"""The picture of `benchmarks.learning`: the test accuracy that each implementation reaches in a given time."""

from fastmlp import figures

# M. Okabe, K. Ito, "Color Universal Design", 2008; lines also differ in style and marker.
_STYLES = (
    ("#D55E00", "o-"), ("#0072B2", "s--"), ("#56B4E9", "^-."), ("#009E73", "D:"), ("#E69F00", "v--"),
    ("#CC79A7", "P-."), ("#F0E442", "<--"), ("#000000", "X:"),
)  # fmt: skip


def draw(path, curves, title):
    """Write a picture of curves, {name: [(seconds, accuracy) of each run]}, to a file."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    (ax,) = figures.grid(None, 1, columns=1, size=(7, 4.5))
    for (name, points), (color, style) in zip(curves.items(), _STYLES, strict=False):
        ax.plot(*zip(*points, strict=True), style, color=color, label=name, markersize=5, linewidth=1.5)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    figures.use_percent(ax.yaxis)
    ax.set(xlabel="Seconds, from uint8 images to the trained net", ylabel="Test accuracy", title=title)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    ax.figure.savefig(path, dpi=200)
