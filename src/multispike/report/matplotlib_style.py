"""Figures for paper and Markdown: matplotlib, drawn with the marks of every other report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from multispike.files import replacing
from multispike.report.style import Mark

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKERS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "x": "x",
    "triangle-down": "v",
}
_STYLES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (8, 3))}


def blank(width: float, height: float) -> Figure:
    """An empty figure of that many inches, with no window behind it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def line(mark: Mark) -> dict[str, Any]:
    """Keyword arguments of `Axes.plot` for a series drawn as `mark`."""
    return {
        "color": mark.colour,
        "marker": _MARKERS[mark.symbol],
        "linestyle": _STYLES[mark.dash],
        "markersize": 4,
        "linewidth": 1.4,
        "label": mark.name,
    }


def legend_below(figure: Figure) -> None:
    """One legend for all panels, of the series of the first."""
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize=9)


def save(figure: Figure, path: Path, dpi: int) -> None:
    """As PNG without version or date in it: the same figure gives the same file."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})
