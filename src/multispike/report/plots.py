"""How tables are drawn: lines, bars, points and heat maps with plotly; lines on paper, too."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from multispike.report.document import Column, Plot, Table, short_name
from multispike.report.style import PAGE, PARETO, SEQUENTIAL, Mark

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ByPlace = dict[str, float | None]
"""A quantity by the place in the network where it was measured."""


def label(text: str) -> str:
    """Text that plotly shows as it is, not as markup."""
    return html.escape(text, quote=False)


def canvas(x: str, y: str, height: int = 360, **layout: Any) -> go.Figure:
    """An empty figure with titled axes."""
    figure = go.Figure()
    figure.layout.template = None  # the page has its own
    figure.update_layout(height=height, xaxis_title=x or None, yaxis_title=y or None, **layout)
    return figure


def column_of(table: Table, index: int) -> list[Any]:
    """One column's values."""
    return [row[index] for row in table.rows]


@dataclass(frozen=True)
class Lines:
    """The first column along x; every further column that has a mark is a line over it.

    Attributes:
        marks: title of a column -> how its line looks.
        x, y: titles of the axes.
        layers: the rows are layers, whose short names stand along x.
        points: mark the values on the lines.
        named: write each line's name at its end; there is no legend then.
        bounds: titles of columns that are upper bounds: dotted steps with their title on them.
        whole: x has whole numbers.
    """

    marks: Mapping[str, Mark]
    x: str
    y: str
    height: int = 380
    layers: bool = False
    points: bool = True
    named: bool = False
    bounds: Sequence[str] = ()
    whole: bool = False

    def figure(self, table: Table) -> go.Figure:
        """The lines; where a value is missing there is no point."""
        figure = canvas(self.x, self.y, self.height)
        places = column_of(table, 0)
        if self.layers:
            _name_layers(figure, places)
            places = [label(short_name(place)) for place in places]
        for index, column in enumerate(table.columns[1:], 1):
            values = column_of(table, index)
            known = [i for i, value in enumerate(values) if value is not None]
            x, y = [places[i] for i in known], [values[i] for i in known]
            if column.title in self.bounds and known:
                self._bound(figure, column, x, y)
            elif mark := self.marks.get(column.title):
                self._line(figure, mark, column, x, y)
        figure.update_yaxes(rangemode="tozero" if self.layers or self.named else None)
        if self.whole:
            figure.update_xaxes(tickformat="d", dtick=1 if len(places) <= 12 else None)
        return figure

    def _line(
        self, figure: go.Figure, mark: Mark, column: Column, x: Sequence[Any], y: Sequence[Any]
    ) -> None:
        at_end: dict[str, Any] = {}
        if self.named:
            texts = [*[""] * (len(y) - 1), label(mark.name)]
            at_end = {"text": texts, "textposition": "top left"}
        figure.add_scatter(
            x=x,
            y=y,
            name=label(mark.name),
            mode="lines" + "+markers" * self.points + "+text" * self.named,
            line={"color": mark.colour, "dash": mark.dash, "width": 2},
            marker={"color": mark.colour, "symbol": mark.symbol, "size": 7},
            hovertemplate=f"{label(mark.name)}<br>%{{x}}: %{{y:{column.spec}}}<extra></extra>",
            **at_end,
        )

    def _bound(self, figure: go.Figure, column: Column, x: Sequence[Any], y: Sequence[Any]) -> None:
        rises = len({*y}) > 1  # bounds that meet at one height are kept apart
        texts = [""] * len(y)
        texts[-1 if rises else 0] = label(column.title)
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines+text",
            line={"color": PAGE["muted"][0], "dash": "dot", "width": 1, "shape": "hvh"},
            text=texts,
            textposition="top left" if rises else "top right",
            hovertemplate=f"{label(column.title)}: %{{y}}<extra></extra>",
        )

    def panel(self, axes: Axes, table: Table) -> None:
        """The lines and bounds on a panel of matplotlib, without titles."""
        for index, column in enumerate(table.columns[1:], 1):
            x, y = column_of(table, 0), column_of(table, index)
            if mark := self.marks.get(column.title):
                axes.plot(x, [math.nan if value is None else value for value in y], **mark.line())
            elif column.title in self.bounds:
                known = [point for point in zip(x, y, strict=True) if point[1] is not None]
                x, y = zip(*known, strict=True)
                axes.step(x, y, where="mid", color="0.4", linestyle=":", linewidth=1)
                side, end = ("right", -1) if len({*y}) > 1 else ("left", 0)
                axes.annotate(column.title, (x[end], y[end]), ha=side, va="bottom", size=7)
        axes.grid(alpha=0.3)


def along_depth(
    marks: Mapping[str, Mark],
    values: Mapping[str, ByPlace],
    title: str,
    axis: str,
    spec: str,
    summary: str,
    bounds: Mapping[str, ByPlace] | None = None,
) -> Plot:
    """One line a series over named places of the network, in their order; a table of the same.

    `bounds`: further columns, of whole numbers, which the plot shows as bounds.
    """
    every = {**values, **(bounds or {})}
    places: list[str] = []
    for own in sorted(values.values(), key=len, reverse=True):
        end = 0
        for place in own:
            if place in places:
                end = places.index(place) + 1
            else:  # behind what it follows in its own network
                places.insert(end, place)
                end += 1
    table = Table(
        (
            Column("layer"),
            *(Column(name, spec if name in values else ",d") for name in every),
        ),
        [(place, *(own.get(place) for own in every.values())) for place in places],
        title,
    )
    height = 380 if len(places) > 6 else 330
    drawn = Lines(marks, "", axis, height, layers=True, bounds=tuple(bounds or ()))
    return Plot(title, summary, table, drawn)


def _name_layers(figure: go.Figure, names: Sequence[str]) -> None:
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


@dataclass(frozen=True)
class Bars:
    """A bar a row; the columns that have a colour are its parts.

    Attributes:
        colours: title of a column -> colour, or one a row.
        value: title of the axis of values.
        layers: the rows are layers and stand upright, else bars lie.
        grouped: parts stand beside each other, not on each other.
        highest: end of the axis of values, so that several plots share it.
    """

    colours: Mapping[str, str | Sequence[str]]
    value: str
    height: int
    layers: bool = False
    grouped: bool = False
    highest: float | None = None

    def figure(self, table: Table) -> go.Figure:
        """The bars, the first row on top or left."""
        places = [label(str(name)) for name in column_of(table, 0)]
        if self.layers:
            figure = canvas("", self.value, self.height)
            _name_layers(figure, column_of(table, 0))
            places = [label(short_name(name)) for name in column_of(table, 0)]
        else:
            figure = canvas(self.value, "", self.height, bargap=0.3 if self.grouped else 0.35)
            figure.update_yaxes(autorange="reversed", type="category")
        if self.grouped:
            figure.update_layout(barmode="group")
        here, there = ("x", "y") if self.layers else ("y", "x")
        for index, column in enumerate(table.columns):
            if column.title in self.colours:
                name, _, unit = column.title.partition(", ")
                figure.add_bar(
                    **{here: places, there: column_of(table, index)},
                    orientation=None if self.layers else "h",
                    marker_color=self.colours[column.title],
                    hovertemplate=f"%{{{here}}}<br>{name}: %{{{there}:{column.spec}}} {unit}"
                    "<extra></extra>",
                )
        if self.highest is not None:
            figure.update_yaxes(range=[0, 1.05 * self.highest])
        return figure


@dataclass(frozen=True)
class Points:
    """A named point a row, its second column up and its third along x, and a front of some.

    Attributes:
        marks: name of a row -> how its point looks.
        x, y: titles of the axes; y is a share, drawn in percent.
        front: the rows that a dotted line of steps connects, from left to right.
    """

    marks: Mapping[str, Mark]
    x: str
    y: str
    front: Sequence[str]

    def figure(self, table: Table) -> go.Figure:
        """The points; x is logarithmic where it spans more than a factor of eight."""
        names, shares, costs = (column_of(table, index) for index in range(3))
        points = {name: (x, 100 * y) for name, y, x in zip(names, shares, costs, strict=True)}
        xs, ys = zip(*points.values(), strict=True)
        unit = self.x.partition(", ")[2]
        wide = max(xs) > 8 * min(xs)
        figure = canvas(f"{self.x}{' (logarithmic)' if wide else ''}", self.y, 400)
        steps = [points[name] for name in self.front]
        figure.add_scatter(
            x=[x for x, _ in steps],
            y=[y for _, y in steps],
            mode="lines",
            line={"color": PARETO[0], "dash": "dot", "width": 1.5, "shape": "hv"},
            hoverinfo="skip",
        )
        for name, (x, y) in points.items():
            mark = self.marks[name]
            figure.add_scatter(
                x=[x],
                y=[y],
                mode="markers+text",
                text=[label(name)],
                textposition=f"top {_side(x, xs)}",
                cliponaxis=False,
                marker={"color": mark.colour, "symbol": mark.symbol, "size": 13},
                hovertemplate=f"{label(name)}<br>%{{x:,.2f}} {unit}<br>%{{y:.2f}} %<extra></extra>",
            )
        low, high = min(xs), max(xs)
        room = max((high - low) * 0.25, 0.05 * high)
        figure.update_xaxes(
            {"type": "log", "dtick": "D2", "tickformat": ",.4~g"}
            if wide
            else {"range": [max(low - room, 0), high + room]}
        )
        room = max((max(ys) - min(ys)) * 0.25, 0.5)
        figure.update_yaxes(range=[min(ys) - room, max(ys) + room])
        return figure


def _side(x: float, xs: Sequence[float]) -> str:
    """Where a label has room: beside points at the edges, it stays inside the plot."""
    place = (x - min(xs)) / max(max(xs) - min(xs), 1e-300)
    return "right" if place < 1 / 3 else "left" if place > 2 / 3 else "center"


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: shares of each true class, the first on top.

    Attributes:
        counts: [true][predicted].
        names: of the classes.
        labelled: write the counts into the cells.
    """

    counts: Sequence[Sequence[int]]
    names: Sequence[str]
    labelled: bool

    def figure(self, table: Table) -> go.Figure:
        """The matrix; the table may hold but the mistakes."""
        labels = [label(name) for name in self.names]
        stops = len(SEQUENTIAL) - 1
        figure = canvas("predicted class", "true class", 400)
        figure.add_heatmap(
            z=[[cell / max(sum(row), 1) for cell in row] for row in self.counts],
            x=labels,
            y=labels,
            text=[[f"{cell:,}" if cell else "" for cell in row] for row in self.counts]
            if self.labelled
            else None,
            texttemplate="%{text}" if self.labelled else None,
            textfont_size=11,
            colorscale=[(place / stops, light) for place, (light, _) in enumerate(SEQUENTIAL)],
            zmin=0,
            zmax=1,
            xgap=1,
            ygap=1,
            showscale=not self.labelled,
            hovertemplate="true %{y}, predicted %{x}: %{z:.1%}<extra></extra>",
        )
        figure.update_xaxes(type="category", showgrid=False, side="bottom")
        figure.update_yaxes(type="category", showgrid=False, autorange="reversed")
        return figure
