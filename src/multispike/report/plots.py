"""How tables are drawn with plotly: lines, bars, points and heat maps, in one panel or several."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go

from multispike.report.document import Column, Key, Plot, Table, short_name
from multispike.report.style import PAGE, PARETO, SEQUENTIAL

ByPlace = Mapping[str, float | None]
"""A quantity by the place in the network where it was measured, in the network's order."""

Panels = Mapping[str, tuple[Sequence[str], Sequence[str]]]
"""Heading of a panel -> columns drawn in it, and columns drawn behind them in grey."""

_MANY = 4
"""Lines that a panel shows; of more, each has a panel of its own, before the others in grey."""


def label(text: str) -> str:
    """Text that plotly shows as it is, not as markup."""
    return html.escape(text, quote=False)


def _layer(name: Any) -> str:
    return label(short_name(str(name)))


def canvas(data: Iterable[Any], x: str, y: str, height: int) -> go.Figure:
    figure = go.Figure(list(data), {"height": height})
    figure.layout.template = None  # the page has its own
    figure.update_layout(xaxis_title_text=x or None, yaxis_title_text=y or None)
    return figure


def spreads(values: Iterable[Any]) -> list[float]:
    """Half the length of error bars; 0 for what is not the mean of several seeds."""
    return [getattr(value, "spread", 0.0) for value in values]


def _errors(axis: str, values: Iterable[Any], **look: Any) -> dict[str, Any]:
    """Error bars along an axis, if any value is a mean."""
    bars = {"type": "data", "array": spreads(values), "thickness": 1.5, "width": 4, **look}
    return {f"error_{axis}": bars} if any(bars["array"]) else {}


def column_of(table: Table, title: str) -> list[Any]:
    index = [column.title for column in table.columns].index(title)
    return [row[index] for row in table.rows]


# --- lines --------------------------------------------------------------------------------------


def lines(
    title: str,
    summary: str,
    table: Table,
    marks: Mapping[str, Key],
    x: str,
    y: str,
    *,
    layers: bool = False,
    panels: Panels | None = None,
    bounds: Sequence[str] = (),
) -> Plot:
    """The first column along x, whole numbers or `layers`; every further column that has a mark is
    a line over it.

    Without `panels`, columns share one as long as there are few, and of layers the same. `bounds`:
    columns that are upper bounds, dotted steps with their title on them.
    """
    drawn = [column.title for column in table.columns[1:] if column.title in marks]
    panels = panels or _panels(table, drawn, layers)
    every = [value for name in (*drawn, *bounds) for value in column_of(table, name)]
    top = 1.1 * max((value for value in every if value is not None), default=1.0) or 1.0
    several = len(panels) > 1
    figures = {}
    for heading, (front, behind) in panels.items():
        grey = [_line(table, name, layers) for name in behind if name not in front]
        traces = [_line(table, name, layers, marks[name]) for name in front if name in marks]
        dotted = [_bound(table, name) for name in front if name in bounds]
        size = ("", 260) if several else (y, 360)
        figure = canvas([*grey, *traces, *dotted], x, *size)
        if layers:
            _name_layers(figure, [place for trace in traces for place in trace["x"]])
            figure.update_yaxes(range=[0, top])
        else:
            figure.update_xaxes(tickformat="d", dtick=1 if len(table.rows) <= 12 else None)
        figures[heading] = figure
    heading = f"{title}: {y}" if several else title
    return Plot(heading, summary, table, figures, [marks[name] for name in drawn])


def _panels(table: Table, names: Sequence[str], layers: bool) -> Panels:
    """One panel for all lines over the same rows, if they are few; else one for each line."""
    groups: dict[tuple[bool, ...], list[str]] = {}
    for name in names:
        known = tuple(value is not None for value in column_of(table, name)) if layers else ()
        groups.setdefault(known, []).append(name)
    found: dict[str, tuple[Sequence[str], Sequence[str]]] = {}
    for group in groups.values():
        if len(group) <= _MANY:
            found["" if len(groups) == 1 else ", ".join(group)] = (group, ())
        else:
            found |= {name: ([name], group) for name in group}
    return found


def _points(table: Table, name: str, layers: bool) -> dict[str, Any]:
    """Coordinates of the rows in which a column has a value, as exact as a drawing can show: a page
    of many panels has many of them."""
    places = [_layer(row[0]) if layers else row[0] for row in table.rows]
    pairs = zip(places, column_of(table, name), strict=True)
    known = [(place, value) for place, value in pairs if value is not None]
    values = [float(f"{y:.5g}") if isinstance(y, float) else y for _, y in known]
    bars = _errors("y", [value for _, value in known])
    return {"x": [place for place, _ in known], "y": values, **bars}


def _line(table: Table, name: str, layers: bool, mark: Key | None = None) -> dict[str, Any]:
    """A line as its mark says, with its points if they are few; without a mark, in grey."""
    line = {"type": "scatter", **_points(table, name, layers), "mode": "lines"}
    if mark is None:
        line.pop("error_y", None)
        return {**line, "line": {"color": PAGE["line"][0], "width": 1}, "hoverinfo": "skip"}
    [spec] = [column.spec for column in table.columns if column.title == name]
    return {
        **line,
        "name": label(mark.name),
        "mode": "lines+markers" if layers or len(table.rows) <= 40 else "lines",
        "line": {"color": mark.colour, "dash": mark.dash, "width": 2},
        "marker": {"color": mark.colour, "symbol": mark.symbol, "size": 7},
        "hovertemplate": f"{label(mark.name)}<br>%{{x}}: %{{y:{spec}}}<extra></extra>",
    }


def _bound(table: Table, name: str) -> dict[str, Any]:
    points = _points(table, name, layers=True)
    rises = len({*points["y"]}) > 1
    texts = [""] * len(points["y"])
    texts[-1 if rises else 0] = label(name.rpartition(": ")[2])
    return {
        "type": "scatter",
        **points,
        "mode": "lines+text",
        "line": {"color": PAGE["muted"][0], "dash": "dot", "width": 1, "shape": "hvh"},
        "text": texts,
        "textposition": "top left" if rises else "top right",
        "hovertemplate": f"{label(name)}: %{{y}}<extra></extra>",
    }


def along_depth(
    marks: Mapping[str, Key],
    values: Mapping[str, ByPlace],
    title: str,
    axis: str,
    spec: str,
    summary: str,
    **more: Any,
) -> Plot:
    """One line a series over places of its network, in their order; further arguments as of
    `lines`. Rows of the table: the places of one network after those of another."""
    ways = dict.fromkeys(tuple(own) for own in values.values())
    rows = [
        (place, *(own[place] if tuple(own) == way else None for own in values.values()))
        for way in ways
        for place in way
    ]
    table = Table((Column("layer"), *(Column(name, spec) for name in values)), rows, title)
    return lines(title, summary, table, marks, "layer", axis, layers=True, **more)


def _name_layers(figure: go.Figure, names: Sequence[str]) -> None:
    """Layers along x in their order, upright where they would collide."""
    order = list(dict.fromkeys(names))
    figure.update_xaxes(
        type="category",
        categoryorder="array",
        categoryarray=order,
        tickangle=-90 if len(order) > 6 else 0,
        tickfont_size=11,
    )


# --- bars, points, heat maps --------------------------------------------------------------------


def bars(
    table: Table, colours: Mapping[str, str | Sequence[str]], value: str, *, grouped: bool = False
) -> go.Figure:
    """A lying bar a row, the first on top; the columns that have a colour (or one a row) are its
    parts, stacked or beside each other."""
    height = 120 + len(table.rows) * (90 if grouped else 44)
    figure = canvas(_bars(table, 0, colours, lying=True), value, "", height)
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_layout(barmode="group" if grouped else "stack", bargap=0.3)
    return figure


def layer_bars(table: Table, colours: Mapping[str, str], value: str) -> dict[str, go.Figure]:
    """A panel for each name in the first column, with a standing bar for each layer in the second;
    all panels on one scale."""
    runs = dict.fromkeys(str(row[0]) for row in table.rows)
    tall = 380 if len(runs) <= _MANY else 260
    highest = max(map(sum, zip(*(column_of(table, name) for name in colours), strict=True)))
    figures = {}
    for run in runs:
        own = replace(table, rows=[row for row in table.rows if row[0] == run])
        figure = canvas(_bars(own, 1, colours, lying=False), "", value, tall)
        _name_layers(figure, [_layer(row[1]) for row in own.rows])
        figure.update_yaxes(range=[0, 1.05 * highest])
        figures[run] = figure
    return figures


def _bars(
    table: Table, place: int, colours: Mapping[str, str | Sequence[str]], lying: bool
) -> list[dict[str, Any]]:
    here, there = ("y", "x") if lying else ("x", "y")
    names = [label(str(row[place])) if lying else _layer(row[place]) for row in table.rows]
    traces = []
    total = [column.title for column in table.columns if column.title.startswith("total")]
    for column in table.columns:
        if column.title in colours:
            name, _, unit = column.title.partition(", ")
            values = column_of(table, column.title)
            shown = f"%{{{here}}}<br>{name}: %{{{there}:{column.spec}}} {unit}<extra></extra>"
            traces.append(
                {
                    "type": "bar",
                    here: names,
                    there: values,
                    "orientation": "h" if lying else "v",
                    "marker": {"color": colours[column.title]},
                    "hovertemplate": shown,
                    **({} if total else _errors(there, values, color=PAGE["text"][0])),
                }
            )
    if total:  # of parts on each other, the bar of all of them
        traces[-1] |= _errors(there, column_of(table, total[0]), color=PAGE["text"][0])
    return traces


def points(
    table: Table, marks: Mapping[str, Key], x: str, y: str, front: Sequence[str]
) -> go.Figure:
    """A named point a row, its second column (a share) up in percent and its third along x, which
    is logarithmic where it spans more than a factor of eight; `front` names the rows that a dotted
    line of steps connects. The page leaves out names that would collide."""
    rows: Sequence[Sequence[Any]] = table.rows
    places = {str(name): (cost, 100 * share) for name, share, cost, *_ in rows}
    xs, ys = zip(*places.values(), strict=True)
    left, right, wide = min(xs), max(xs), max(xs) > 8 * min(xs)
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "x": [places[name][0] for name in front],
            "y": [places[name][1] for name in front],
            "mode": "lines",
            "line": {"color": PARETO[0], "dash": "dot", "width": 1.5, "shape": "hv"},
            "hoverinfo": "skip",
        }
    ]
    for name, (cost, share) in places.items():
        bars, at = _errors("y", [share]), (cost - left) / max(right - left, 1e-300)
        side = "right" if at < 1 / 3 else "left" if at > 2 / 3 or bars else "center"
        traces.append(
            {
                "type": "scatter",
                "x": [cost],
                "y": [share],
                "mode": "markers+text",
                "text": [label(name)],
                "textposition": f"top {side}",
                "cliponaxis": False,
                "marker": {"color": marks[name].colour, "symbol": marks[name].symbol, "size": 13},
                "hovertemplate": f"{label(name)}<br>%{{x:,.2f}} µJ<br>%{{y:.2f}} %<extra></extra>",
                **_errors("x", [cost]),
                **bars,
            }
        )
    figure = canvas(traces, f"{x} (logarithmic)" if wide else x, y, 400)
    room = max((right - left) * 0.25, 0.05 * right)
    figure.update_xaxes(
        {"type": "log", "dtick": "D2", "tickformat": ",.4~g"}
        if wide
        else {"range": [max(left - room, 0), right + room]}
    )
    bars = list(zip(ys, spreads(ys), strict=True))
    low, high = min(y - bar for y, bar in bars), max(y + bar for y, bar in bars)
    room = max((high - low) * 0.25, 0.5)
    figure.update_yaxes(range=[low - room, high + room])
    return figure


def heat_map(counts: Sequence[Sequence[int]], names: Sequence[str]) -> go.Figure:
    """A confusion matrix, [true][predicted], as shares of each true class, the first on top."""
    labels, few = [label(name) for name in names], len(names) <= 12
    stops = len(SEQUENTIAL) - 1
    trace = {
        "type": "heatmap",
        "z": [[cell / max(sum(row), 1) for cell in row] for row in counts],
        "x": labels,
        "y": labels,
        "text": [[f"{cell:,}" if cell else "" for cell in row] for row in counts] if few else None,
        "texttemplate": "%{text}" if few else None,
        "textfont": {"size": 11},
        "colorscale": [(place / stops, light) for place, (light, _) in enumerate(SEQUENTIAL)],
        "zmin": 0,
        "zmax": 1,
        "xgap": 1,
        "ygap": 1,
        "showscale": not few,
        "hovertemplate": "true %{y}, predicted %{x}: %{z:.1%}<extra></extra>",
    }
    figure = canvas([trace], "predicted class", "true class", 380)
    figure.update_xaxes(type="category", showgrid=False, side="bottom")
    figure.update_yaxes(type="category", showgrid=False, autorange="reversed")
    return figure
