"""Colours and marks of all plots, and the look of matplotlib's figures for paper and Markdown.

Every colour is a pair. Plots are made with the light one; in dark mode the page replaces each
light colour by its partner, so a figure is stored once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from multispike.files import replacing
from multispike.report.document import Key

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pair = tuple[str, str]
"""A colour on a light and on a dark page."""

PAGE: dict[str, Pair] = {
    "background": ("#ffffff", "#14171c"),
    "panel": ("#f5f6f8", "#1d2128"),
    "text": ("#1b1f26", "#e7eaef"),
    "muted": ("#57606c", "#a3acb8"),
    "line": ("#d8dde3", "#343b45"),
    "accent": ("#0a5ea8", "#7cc0f5"),
}

# Okabe and Ito (2008), safe for colour-blind readers; darkened where 3:1 on white asks for it.
_SERIES: tuple[Pair, ...] = (
    ("#0072b2", "#5ab4ec"),
    ("#d55e00", "#ff9248"),
    ("#008a65", "#2fcc9e"),
    ("#a8518a", "#e59bc8"),
    ("#96700a", "#e6b83a"),
    ("#5c646e", "#b4bcc6"),
    ("#7a2b22", "#f4a9a2"),
    ("#4a3fb0", "#aaa2ff"),
)
SYMBOLS: dict[str, tuple[str, str]] = {
    "circle": ("M12,7a5,5 0 1,0 10,0a5,5 0 1,0 -10,0", "o"),
    "square": ("M12.5,2.5h9v9h-9z", "s"),
    "diamond": ("M17,1l6,6l-6,6l-6,-6z", "D"),
    "triangle-up": ("M17,1.5l5.5,10h-11z", "^"),
    "x": ("M13,1l4,4l4,-4l2,2l-4,4l4,4l-2,2l-4,-4l-4,4l-2,-2l4,-4l-4,-4z", "x"),
    "triangle-down": ("M17,12.5l5.5,-10h-11z", "v"),
}
"""Markers by plotly's name: an SVG path around (17, 7) for a legend, and matplotlib's name."""
DASHES: dict[str, tuple[str, Any]] = {
    "solid": ("", "-"),
    "dash": ("7 3", "--"),
    "dot": ("2 3", ":"),
    "dashdot": ("7 3 2 3", "-."),
    "longdash": ("10 4", (0, (8, 3))),
}
"""Line styles by plotly's name: an SVG dash array for a legend, and matplotlib's name."""


class Category(NamedTuple):
    """A part of the energy."""

    name: str
    heading: str
    """Of a column that leaves room for seven others in a terminal."""
    colours: Pair


CATEGORIES: dict[str, Category] = {
    "ops": Category("operations", "ops", ("#3d4550", "#c9d0d9")),
    "addressing": Category("addressing", "addr", ("#9aa3ae", "#6d7682")),
    "weights": Category("weight reads", "weights", ("#2c4a8c", "#8aa8f0")),
    "potentials": Category("potential reads and writes", "potent.", ("#2a9d9e", "#46cdc6")),
    "bias": Category("bias reads", "bias", ("#e9b949", "#f4d47c")),
    "io": Category("inputs and outputs", "io", ("#c2543d", "#f08a70")),
}
"""By attribute of an energy. Computing is grey, memory is not."""

BASELINE_COLOURS: dict[str, Pair] = {
    "ann": ("#474e59", "#c3cad3"),
    "qann": ("#868e99", "#8b939e"),
    "qann_skip": ("#bcc3cb", "#565e69"),
}
"""Comparisons that nobody ran: grey, from dark to light."""
PARETO: Pair = ("#7a828d", "#8d96a2")
SEQUENTIAL: tuple[Pair, ...] = (
    ("#f3f6fa", "#1b2029"),
    ("#9ec5e6", "#23527e"),
    ("#2f7fc1", "#4297dd"),
    ("#08306b", "#d3e8fb"),
)
"""From nothing to everything, for heat maps."""


def paper_line(mark: Key) -> dict[str, Any]:
    """Keyword arguments of matplotlib's `Axes.plot`."""
    return {
        "color": mark.colour,
        "marker": SYMBOLS[mark.symbol][1],
        "linestyle": DASHES[mark.dash][1],
        "markersize": 4,
        "linewidth": 1.4,
        "label": mark.name,
    }


def marks(names: Sequence[str], colours: Sequence[int] | None = None) -> dict[str, Key]:
    """How every series is drawn everywhere, by position: told apart by colour, symbol and dash.

    `colours` numbers the colours where some series belong together; without it, every series has
    the next one. After the last colour they start again, with other symbols and dashes.

    >>> marks(["ann", "binary-T4"])["binary-T4"].symbol
    'square'
    """
    symbols, dashes, count = list(SYMBOLS), list(DASHES), len(_SERIES)
    return {
        name: Key(
            name,
            _SERIES[(index if colours is None else colours[index]) % count][0],
            symbols[(index + index // count) % len(symbols)],
            dashes[(index + index // count) % len(dashes)],
        )
        for index, name in enumerate(names)
    }


def dark_colours() -> dict[str, str]:
    """Light colour -> its partner on a dark page."""
    named = [category.colours for category in CATEGORIES.values()] + [*BASELINE_COLOURS.values()]
    return dict([*PAGE.values(), *_SERIES, *named, PARETO, *SEQUENTIAL])


def blank(width: float, height: float) -> Figure:
    """An empty figure of that many inches, with no window behind it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

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
