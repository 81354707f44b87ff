"""The few shapes of plot that the reports use, as plotly figures."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from multispike.report.document import short_name
from multispike.report.style import SEQUENTIAL, Mark


def label(text: str) -> str:
    """Text that plotly shows as it is, not as markup."""
    return html.escape(text, quote=False)


def canvas(x: str, y: str, height: int = 360, **layout: Any) -> go.Figure:
    """An empty figure with titled axes."""
    figure = go.Figure()
    figure.layout.template = None  # the page has its own
    figure.update_layout(height=height, xaxis_title=x or None, yaxis_title=y or None, **layout)
    return figure


def add_line(
    figure: go.Figure,
    mark: Mark,
    x: Sequence[Any],
    y: Sequence[float | None],
    hover: str,
    *,
    points: bool = True,
    shape: str = "linear",
    width: float = 2,
) -> None:
    """A series in its own colour, symbol and dash. `hover` is plotly's template for a point."""
    figure.add_scatter(
        x=list(x),
        y=list(y),
        name=label(mark.name),
        mode="lines+markers" if points else "lines",
        line={"color": mark.colour, "dash": mark.dash, "width": width, "shape": shape},
        marker={"color": mark.colour, "symbol": mark.symbol, "size": 7},
        hovertemplate=f"{label(mark.name)}<br>{hover}<extra></extra>",
    )


def layer_axis(figure: go.Figure, names: Sequence[str]) -> None:
    """Layers along x by `short_name`, in their order, upright where they would collide."""
    short = [short_name(name) for name in names]
    title = "layer"
    if any(re.match(r"\d+\.\d+", name) for name in short):
        alone = all(re.fullmatch(r"\d+\.\d+", name) for name in short)
        title = "block (stage.number)" if alone else "layer (stage.block name)"
    figure.update_xaxes(
        type="category",
        categoryorder="array",
        categoryarray=[label(name) for name in short],
        tickangle=-90 if len(names) > 6 else 0,
        tickfont_size=11,
        title=title,
    )


def heat_map(
    rows: Sequence[Sequence[float]],
    names: Sequence[str],
    text: Sequence[Sequence[str]] | None,
    height: int,
) -> go.Figure:
    """A square matrix of shares; the first row on top, cells labelled by `text` if given."""
    labels = [label(name) for name in names]
    stops = len(SEQUENTIAL) - 1
    figure = canvas("predicted class", "true class", height)
    figure.add_heatmap(
        z=[list(row) for row in rows],
        x=labels,
        y=labels,
        text=text and [list(row) for row in text],
        texttemplate="%{text}" if text else None,
        textfont_size=11,
        colorscale=[(place / stops, light) for place, (light, _) in enumerate(SEQUENTIAL)],
        zmin=0,
        zmax=1,
        xgap=1,
        ygap=1,
        showscale=text is None,
        hovertemplate="true %{y}, predicted %{x}: %{z:.1%}<extra></extra>",
    )
    figure.update_xaxes(type="category", showgrid=False, side="bottom")
    figure.update_yaxes(type="category", showgrid=False, autorange="reversed")
    return figure
