"""Plots of experiments/ as small SVG files: lines with error bars over x, one group a label. Needs matplotlib.

    from plots import Group, save_plot
    save_plot("age.svg", [Group("latents", x, y, low, high)], xlabel="pairs written after it", ylabel="exact match, %")

The same data give the same bytes with one version of matplotlib: no date, a fixed salt for ids, text as text.
"""
import dataclasses
import sys

try:
    import matplotlib
except ImportError:
    sys.exit("error: no matplotlib in this Python\nhint: python3 -m venv DIR && DIR/bin/pip install matplotlib, and run with DIR/bin/python")
matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter  # noqa: E402

STYLE = {
    "svg.hashsalt": "ctxc", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "grid.linewidth": 0.5, "lines.linewidth": 1.3,
    "lines.markersize": 4, "errorbar.capsize": 2, "legend.frameon": False}
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999"]  # safe for colour-blind eyes
MARKERS = "os^Dvp*x"


@dataclasses.dataclass
class Group:
    """Points that belong together. `low` and `high` are the ends of the interval around each y (None: no bars)."""
    label: str
    x: list
    y: list
    low: list = None
    high: list = None
    line: str = "-"  # matplotlib's line style; "" = points alone

    def errors(self):
        if self.low is None:
            return None
        # An interval of resampled means may end a rounding error on the wrong side of its point.
        return [[max(0, y - low) for y, low in zip(self.y, self.low)], [max(0, high - y) for y, high in zip(self.y, self.high)]]


def draw(axes, groups, looks, title=None, xlabel=None, ylabel=None, xlog=None, ylog=None, ylim=None, xticks=None):
    """Groups into one pair of axes. `looks`: label -> number of its colour. `xlog`, `ylog`: base of a logarithmic axis."""
    for group in groups:
        i = looks.setdefault(group.label, len(looks))
        axes.errorbar(group.x, group.y, yerr=group.errors(), label=group.label, linestyle=group.line or "none",
                      color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)], elinewidth=0.8)
    for scale, axis, base in ((axes.set_xscale, axes.xaxis, xlog), (axes.set_yscale, axes.yaxis, ylog)):
        if base:
            scale("log", base=base)
            axis.set_major_formatter(ScalarFormatter())
    if xticks is not None:
        axes.xaxis.set_major_locator(FixedLocator(list(xticks)))
        axes.xaxis.set_minor_locator(NullLocator())
    if ylim:
        axes.set_ylim(*ylim)
    axes.set(title=title or "", xlabel=xlabel or "", ylabel=ylabel or "")


def save_plot(path, groups, width=6.4, height=3.2, **options):
    """One picture; `options` are those of draw()."""
    save_panels(path, [(groups, options)], width, height)


def save_panels(path, panels, width=6.4, height=3.2):
    """Pictures side by side: [(groups, options of draw())]; `width` is that of one. One legend, on the right, for all."""
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(width * len(panels), height), squeeze=False, layout="constrained")
        looks, handles = {}, {}
        for cell, (groups, options) in zip(axes[0], panels):
            draw(cell, groups, looks, **options)
            for handle, label in zip(*cell.get_legend_handles_labels()):
                handles.setdefault(label, handle)
        figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=8)
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        plt.close(figure)
