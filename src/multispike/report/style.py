"""Colours and marks of all plots.

Every colour is a pair. Plots are made with the light one; in dark mode the page replaces each
light colour by its partner, so a figure is stored once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from multispike.report.document import Key

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
SYMBOLS = {
    "circle": "M12,7a5,5 0 1,0 10,0a5,5 0 1,0 -10,0",
    "square": "M12.5,2.5h9v9h-9z",
    "diamond": "M17,1l6,6l-6,6l-6,-6z",
    "triangle-up": "M17,1.5l5.5,10h-11z",
    "x": "M13,1l4,4l4,-4l2,2l-4,4l4,4l-2,2l-4,-4l-4,4l-2,-2l4,-4l-4,-4z",
    "triangle-down": "M17,12.5l5.5,-10h-11z",
}
"""Plotly's name of a marker -> an SVG path around (17, 7) for a legend."""
DASHES = {"solid": "", "dash": "7 3", "dot": "2 3", "dashdot": "7 3 2 3", "longdash": "10 4"}
"""Plotly's name of a line style -> an SVG dash array for a legend."""


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


def marks(names: Sequence[str]) -> dict[str, Key]:
    """How every series is drawn everywhere, by position. After the last colour they start again,
    with other symbols and dashes.

    >>> marks(["ann", "binary-T4"])["binary-T4"].symbol
    'square'
    """
    symbols, dashes, count = list(SYMBOLS), list(DASHES), len(_SERIES)
    return {
        name: Key(
            name,
            _SERIES[index % count][0],
            symbols[(index + index // count) % len(symbols)],
            dashes[(index + index // count) % len(dashes)],
        )
        for index, name in enumerate(names)
    }


def dark_colours() -> dict[str, str]:
    """Light colour -> its partner on a dark page."""
    named = [category.colours for category in CATEGORIES.values()] + [*BASELINE_COLOURS.values()]
    return dict([*PAGE.values(), *_SERIES, *named, PARETO, *SEQUENTIAL])
