"""The look of matplotlib's figures, with the colours and marks of a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from multispike.files import replacing
from multispike.report.document import Key

_MARKERS = {
    "circle": "o", "square": "s", "diamond": "D", "x": "x",
    "triangle-up": "^", "triangle-down": "v",
}  # fmt: skip
_DASHES: dict[str, Any] = {
    "solid": "-", "dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (8, 3)),
}  # fmt: skip


def paper_line(mark: Key) -> dict[str, Any]:
    """Keyword arguments of matplotlib's `Axes.plot`."""
    return {
        "color": mark.colour,
        "marker": _MARKERS[mark.symbol],
        "linestyle": _DASHES[mark.dash],
        "markersize": 4,
        "linewidth": 1.4,
        "label": mark.name,
    }


def blank(width: float, height: float) -> Figure:
    """An empty figure of that many inches, with no window behind it."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def legend_below(figure: Figure) -> None:
    """One legend for all panels, of the series of the first."""
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize=9)


def save(figure: Figure, path: Path, dpi: int) -> None:
    """As PNG without version or date in it: the same figure gives the same file."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})
