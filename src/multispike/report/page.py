"""Sections -> one self-contained HTML page: styles, scripts and data inside, nothing fetched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from multispike import __version__
from multispike.report.document import Section
from multispike.report.style import DASHES, PAGE, SYMBOLS, dark_colours

if TYPE_CHECKING:
    import plotly.graph_objects as go


def render(title: str, lead: str, sections: Sequence[Section], footer: str) -> str:
    """The page as a string. All text is escaped; a content security policy forbids any request."""
    from plotly.offline import get_plotlyjs

    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            lead=lead,
            sections=sections,
            footer=footer,
            version=__version__,
            page=PAGE,
            dark=dark_colours(),
            symbols=SYMBOLS,
            dashes=DASHES,
            plotly=Markup(get_plotlyjs()),
            theme=_json({"dark": dark_colours(), "template": _template()}),
            figure_json=figure_json,
        )
    )


def figure_json(figure: go.Figure) -> Markup:
    """A figure as JSON that may stand in a script element."""
    return _script(figure.to_json() or "{}")


def _json(value: Any) -> Markup:
    return _script(json.dumps(value, separators=(",", ":"), allow_nan=False))


def _script(text: str) -> Markup:
    """JSON that cannot end the script element it stands in."""
    return Markup(text.replace("<", r"\u003c"))


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("multispike", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _template() -> dict[str, Any]:
    """What all plots share, in the colours of the light page."""
    text, muted, line = (PAGE[name][0] for name in ("text", "muted", "line"))
    axis = {
        "gridcolor": line,
        "linecolor": line,
        "zerolinecolor": line,
        "tickcolor": "rgba(0,0,0,0)",
        "automargin": True,
        "ticks": "outside",
        "separatethousands": True,
        "exponentformat": "none",
        "ticklen": 4,
        "title": {"standoff": 10, "font": {"color": muted, "size": 13}},
        "tickfont": {"color": muted, "size": 12},
        "fixedrange": True,
    }
    return {
        "layout": {
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {
                "family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif",
                "color": text,
                "size": 13,
            },
            "margin": {"l": 48, "r": 12, "t": 12, "b": 36},
            "showlegend": False,
            "hoverlabel": {
                "bgcolor": PAGE["background"][0],
                "bordercolor": line,
                "font": {"color": text},
            },
            "xaxis": axis,
            "yaxis": axis,
            "hovermode": "closest",
            "dragmode": False,
            "barmode": "stack",
            "bargap": 0.25,
        }
    }
