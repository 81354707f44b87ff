"""What reports are made of: sections with cards, text, plots and tables; and a table as the
terminal shows it. Torch-free, for commands that answer at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Self, TypeVar

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as TerminalTable

from multispike.files import write_json

if TYPE_CHECKING:
    import plotly.graph_objects as go

Cell = str | float | int | None
Item = TypeVar("Item")


class Mean(float):
    """The mean of a number over runs that differ in their seed. Sums of means, and their products
    with plain numbers, are means as well; a difference or a ratio of two is a plain number."""

    values: Sequence[float]

    def __new__(cls, values: Sequence[float]) -> Self:
        mean = super().__new__(cls, fmean(values))
        mean.values = values
        return mean

    def __getnewargs__(self) -> tuple[Sequence[float]]:  # of a copy, as plotly makes
        return (self.values,)

    @property
    def spread(self) -> float:
        """Sample standard deviation."""
        return stdev(self.values)

    def __add__(self, other: float) -> Mean:
        others = other.values if isinstance(other, Mean) else [other] * len(self.values)
        return Mean([a + b for a, b in zip(self.values, others, strict=True)])

    def __mul__(self, factor: float) -> Mean:
        return Mean([value * factor for value in self.values])

    def __truediv__(self, divisor: float) -> float:
        if isinstance(divisor, Mean):
            return float(self) / float(divisor)
        return Mean([value / divisor for value in self.values])

    __radd__, __rmul__ = __add__, __mul__


@dataclass(frozen=True)
class Column:
    """A column of a table; `spec` is the format of its numbers, empty for a column of text."""

    title: str
    spec: str = ""

    def show(self, value: Cell, missing: str = "–") -> str:
        """A cell as text.

        >>> Column("accuracy", ".1%").show(0.9434), Column("energy", ",.1f").show(None)
        ('94.3%', '–')
        >>> Column("accuracy", ".1%").show(Mean([0.9, 0.92]))
        '91.0 ± 1.4%'
        """
        if value is None:
            return missing
        if not self.spec or isinstance(value, str):
            return str(value)
        text = format(value, self.spec)
        if isinstance(value, Mean):
            text = f"{text.removesuffix('%')} ± {value.spread:{self.spec}}"
        return text


@dataclass(frozen=True)
class Table:
    """Rows under columns; the first column names the row."""

    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Cell]]
    caption: str
    folded: bool = False
    """Shown on demand."""

    def cells(self) -> list[list[tuple[str, bool]]]:
        """Every cell that is shown as text, and whether it is a number's column."""
        return [
            [
                (column.show(value), bool(column.spec))
                for column, value in zip(self.columns, row, strict=True)
            ]
            for row in self.rows
        ]


def table_of(
    items: Iterable[Item],
    caption: str,
    *fields: tuple[str, str, Callable[[Item], Cell]],
    folded: bool = False,
) -> Table:
    """A row an item; a field is a column's title, its format, and what an item has there."""
    columns = tuple(Column(title, spec) for title, spec, _ in fields)
    rows = [tuple(read(item) for _, _, read in fields) for item in items]
    return Table(columns, rows, caption, folded)


@dataclass(frozen=True)
class Key:
    """A legend's entry, and how a series is drawn everywhere."""

    name: str
    colour: str
    symbol: str = ""
    """Plotly's name of the marker; without one the entry is a plain patch of colour."""
    dash: str = "solid"
    """Plotly's name of the line's dash; "none" for a marker alone."""


@dataclass(frozen=True)
class Plot:
    """A table, its drawing in one panel or several, and a sentence that sums it up."""

    title: str
    summary: str
    table: Table
    panels: Mapping[str, go.Figure]
    """By what stands above each; nothing does where there is but one."""
    legend: Sequence[Key] = ()


@dataclass(frozen=True)
class Finding:
    """What follows from the numbers: a figure, what it is of in a few words, a whole sentence."""

    figure: str
    caption: str
    text: str


@dataclass(frozen=True)
class Section:
    """Content under a heading: cards, paragraphs, plots, tables, in this order."""

    title: str
    paragraphs: Sequence[str] = ()
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    cards: Sequence[Finding] = ()
    points: Sequence[str] = ()
    """Statements as a list."""

    @property
    def key(self) -> str:
        """Anchor in the page."""
        return re.sub(r"\W+", "-", self.title.lower())

    @property
    def legend(self) -> list[Key]:
        """The entries of all plots, each once."""
        return list(dict.fromkeys(key for plot in self.plots for key in plot.legend))


def number(value: float) -> str:
    """A number for running text: four digits at most, thousands grouped; a spread as exactly.

    >>> number(1234567.8), number(12.3456), number(0.004217), number(Mean([1.0, 3.25]))
    ('1,234,568', '12.35', '0.004217', '2.125 ± 1.591')
    """
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, Mean):
        text = f"{text} ± {value.spread:,.{len(text.partition('.')[2])}f}"
    return text


def percent(value: float) -> str:
    """A share in percent, two digits after the point: 0.9434 -> '94.34 %'."""
    return f"{Column('', '.2f').show(100 * value)} %"


def listed(parts: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def short_name(name: str) -> str:
    """A layer's name without what all of them share.

    >>> short_name("body.stage2_block1.path.conv1"), short_name("body.stage2_block1.merge")
    ('2.1 conv1', '2.1 sum')
    >>> short_name("stem.conv0"), short_name("body.stage2_block1.shortcut.conv0")
    ('conv0', '2.1 shortcut')
    """
    name = re.sub(r"^(stem|body|classifier)\.", "", name)
    name = re.sub(r"^stage(\d+)_block(\d+)\.?", r"\1.\2 ", name)
    name = re.sub(r"shortcut\.(conv|neuron)0", "shortcut", name)
    return name.replace("path.", "").replace("merge", "sum").strip()


# --- the terminal -------------------------------------------------------------------------------


def terminal_table(
    table: Table, title: str, *, footer: Sequence[Cell] = (), narrow: bool = False
) -> TerminalTable:
    """A table as rich prints it, numbers whole and to the right.

    A row of one cell is a heading of those below. `narrow` saves a blank between columns, and those
    around ±.
    """
    printed = TerminalTable(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0) if narrow else (0, 1),
        title=escape(title),
        caption=escape(table.caption) or None,
        show_footer=bool(footer),
    )
    for column, end in zip(table.columns, footer or [""] * len(table.columns), strict=True):
        look: Any = {"overflow": "fold"}
        if column.spec:
            look = {"justify": "right", "no_wrap": True}
        printed.add_column(column.title, column.show(end, "-"), **look)
    for row in table.rows:
        if len(row) == 1:
            printed.add_section()
            printed.add_row(f"[bold]{escape(str(row[0]))}[/]")
        else:
            cells = [c.show(value, "-") for c, value in zip(table.columns, row, strict=True)]
            printed.add_row(
                *(escape(cell.replace(" ± ", "±") if narrow else cell) for cell in cells)
            )
    return printed


def give(json: str | None, result: Any, *shown: Any) -> None:
    """Print tables and lines, and write a result where `json` says. If that is standard output
    ("-"), they go to standard error."""
    console = Console(stderr=json == "-")
    for part in shown:
        wrap = not isinstance(part, str) or console.is_terminal
        markup = not isinstance(part, str)
        console.print(part, highlight=False, markup=markup, soft_wrap=not wrap)
    if json:
        write_json(json, result)
