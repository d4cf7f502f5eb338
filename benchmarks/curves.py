"""The picture of `benchmarks.learning`: the time of an epoch, and the accuracy that is reached in a given time."""

from fastmlp import figures

# M. Okabe, K. Ito, "Color Universal Design", 2008; lines also differ in style and marker.
_STYLES = (
    ("#D55E00", "o-"), ("#0072B2", "s--"), ("#56B4E9", "^-."), ("#009E73", "D:"), ("#E69F00", "v--"),
    ("#CC79A7", "P-."), ("#F0E442", "<--"), ("#000000", "X:"),
)  # fmt: skip


def draw(path, epochs, curves, titles):
    """Write a picture to a file.

    Parameters
    ----------
    path : str
    epochs : dict
        The milliseconds of an epoch of each implementation.
    curves : dict
        The (seconds, accuracy) of runs of each.
    titles : tuple of str
        Of both parts.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    bars, ax = figures.grid(None, 2, columns=2, size=(6, 3.6))
    colors = {name: color for name, (color, _) in zip(curves, _STYLES, strict=False)}
    names = list(epochs)[::-1]  # the first one on top
    drawn = bars.barh(names, [epochs[name] for name in names], color=[colors.get(name, "gray") for name in names])
    bars.bar_label(drawn, fmt="%.0f", padding=3, fontsize=8)
    bars.margins(x=0.12)
    bars.set(xlabel="Milliseconds of an epoch", title=titles[0])
    for (name, points), (color, style) in zip(curves.items(), _STYLES, strict=False):
        ax.plot(*zip(*points, strict=True), style, color=color, label=name, markersize=4, linewidth=1.5)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    figures.use_percent(ax.yaxis)
    ax.set(xlabel="Seconds, from uint8 images to the trained net", ylabel="Test accuracy", title=titles[1])
    ax.grid(alpha=0.3)
    for one in (bars, ax):
        one.title.set_fontsize(9)
        one.tick_params(labelsize=8)
        one.xaxis.label.set_fontsize(8)
        one.yaxis.label.set_fontsize(8)
    ax.legend(fontsize=7, loc="lower left")
    ax.figure.savefig(path, dpi=130)
