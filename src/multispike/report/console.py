"""A table as the terminal shows it. Torch-free, for commands that answer at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as TerminalTable

from multispike.files import write_json
from multispike.report.document import Cell, Table


def terminal_table(
    table: Table, title: str, *, footer: Sequence[Cell] = (), narrow: bool = False
) -> TerminalTable:
    """A table as rich prints it, numbers whole and to the right.

    A row of one cell is a heading of those below. `narrow` saves a blank between columns.
    """
    printed = TerminalTable(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0) if narrow else (0, 1),
        title=title,
        caption=table.caption or None,
        show_footer=bool(footer),
    )
    for column, end in zip(table.columns, footer or [""] * len(table.columns), strict=True):
        text = column.show(end, "-")
        if column.spec:
            printed.add_column(column.title, text, justify="right", no_wrap=True)
        else:
            printed.add_column(column.title, text, overflow="fold")
    for row in table.rows:
        if len(row) == 1:
            printed.add_section()
            printed.add_row(f"[bold]{row[0]}[/]")
        else:
            cells = zip(table.columns, row, strict=True)
            printed.add_row(*(column.show(value, "-") for column, value in cells))
    return printed


def give(json: str | None, result: Any, *shown: Any) -> None:
    """Print tables and lines, and write a result where `json` says. If that is standard output
    ("-"), they go to standard error."""
    console = Console(stderr=json == "-")
    for part in shown:
        wrap = not isinstance(part, str) or console.is_terminal
        console.print(part, highlight=False, soft_wrap=not wrap)
    if json:
        write_json(json, result)
