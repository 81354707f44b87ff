"""What `multispike stream` shows in a terminal: a line a slice, or a live view; and its summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import groupby

import numpy as np
from rich.bar import Bar
from rich.color import Color
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.style import Style
from rich.table import Table
from rich.text import Text

from multispike.events.frames import brightest
from multispike.events.stream import Prediction, Summary

SHADES = 16
"""Levels of brightness of a colour; few, so that styles are made once."""

SIDE_COLUMNS = 32
"""What the text beside the frame needs at least."""

SIDE_ROWS = 9
"""Rows of that text without the bars."""


class StdoutConsole(Console):
    """Standard output: colours in a terminal, plain text elsewhere."""

    def on_broken_pipe(self) -> None:
        """Leave it to the command; rich would end the program with code 1."""
        raise BrokenPipeError


def line_printer(console: Console, classes: Sequence[str]) -> Callable[[Prediction, int], None]:
    """One readable line a slice."""
    width = max(map(len, classes))

    def show(prediction: Prediction, dropped: int) -> None:
        line = Text.assemble(
            f"{prediction.t_us / 1e6:13.6f} s  ",
            (f"{prediction.name:<{width}}", "bold"),
            f"  {prediction.confidence:6.1%}  {prediction.events:>9,} events"
            f"  {prediction.latency_ms:8.2f} ms",
        )
        console.print(line, soft_wrap=True)

    return show


def print_summary(console: Console, summary: Summary) -> None:
    """The summary for a reader."""
    sensor = "x".join(map(str, summary.sensor))
    rows = {
        "source": f"{summary.format} of {sensor} pixels, {summary.recording_seconds:,.3f} s",
        "slices": f"{summary.slices:,} classified, {summary.slices_dropped:,} dropped",
        "events": f"{summary.events:,} in {summary.wall_seconds:,.3f} s,"
        f" {summary.events_per_second:,.0f} events/s",
    }
    if summary.slices:
        rows["latency"] = ", ".join(f"{key} {ms:,.2f} ms" for key, ms in summary.latency_ms.items())
    for skip in summary.skipped:
        where = skip["first_at"]
        rows[f"skipped: {skip['reason']}"] = (
            f"{skip['count']:,} {skip['unit']}, the first at {where['unit']} {where['position']:,}"
        )
    for name, value in rows.items():
        console.print(f"{name:<9} {value}", markup=False, soft_wrap=True)


class LiveView:
    """The newest slice on the whole terminal: its frame, its classes, how long it took.

    A thread draws eight times a second, so that drawing delays no slice by itself. What fits into
    80x24 is shown; frames larger than that are shown smaller, and the classes that are likeliest.
    """

    def __init__(self, console: Console, title: str, classes: Sequence[str]) -> None:
        self._console = console
        self._title = title
        self._classes = classes
        self._newest: tuple[Prediction, int] | None = None
        self._slices = 0
        self._live: Live | None = None

    def show(self, prediction: Prediction, dropped: int) -> None:
        """Make it the newest; the screen is taken with the first."""
        self._newest = prediction, dropped
        self._slices += 1
        if self._live is None:
            self._live = Live(self, console=self._console, screen=True, refresh_per_second=8)
            self._live.start(refresh=True)

    def close(self) -> None:
        """Give the screen back."""
        if self._live is not None:
            self._live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._newest is None:
            return
        prediction, dropped = self._newest
        width, height = console.size
        picture = half_blocks(
            prediction.frames.sum(0, dtype=np.int64), max(1, width - SIDE_COLUMNS - 2), height - 1
        )
        best = f"{prediction.name}  {prediction.confidence:.0%}"
        numbers = Table.grid(padding=(0, 1))
        numbers.add_column(justify="right", style="dim", no_wrap=True)
        numbers.add_column(no_wrap=True)
        numbers.add_row("time", f"{prediction.t_us / 1e6:,.3f} s")
        numbers.add_row("events", f"{prediction.events:,}")
        numbers.add_row("latency", f"{prediction.latency_ms:,.2f} ms")
        numbers.add_row("slices", f"{self._slices:,}, {dropped:,} dropped")
        side = Group(
            Text(self._title, "dim", no_wrap=True, overflow="ellipsis"),
            Text(best, "bold green", no_wrap=True, overflow="ellipsis"),
            "",
            self._bars(prediction.probabilities, max(1, height - SIDE_ROWS)),
            "",
            numbers,
        )
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(width=SIDE_COLUMNS)
        grid.add_row(picture, side)
        yield grid

    def _bars(self, probabilities: np.ndarray, rows: int) -> Table:
        """The likeliest classes that fit, always in the order of the classes."""
        shown = np.sort(np.argsort(-probabilities, kind="stable")[:rows])
        table = Table.grid(padding=(0, 1))
        table.add_column(width=12, no_wrap=True, overflow="ellipsis")
        table.add_column(width=SIDE_COLUMNS - 19)
        table.add_column(width=4, justify="right")
        likeliest = int(probabilities.argmax())
        for label in map(int, shown):
            share = float(probabilities[label])
            style = "bold green" if label == likeliest else ""
            bar = Bar(1.0, 0.0, share, color="green" if style else "blue")
            table.add_row(Text(self._classes[label], style), bar, Text(f"{share:.0%}", style))
        return table


def half_blocks(counts: np.ndarray, columns: int, rows: int) -> Text:
    """A frame as characters, each of two pixels, one above the other.

    ON is red, OFF blue, both together white.

    counts: integers `[2, H, W]`, OFF and ON; columns, rows: the characters that there is room for.
    A larger frame is shown smaller, each point the largest of its pixels, so that a single event
    stays visible; a frame that fits several times is shown several times larger. Colours are full
    from the 99th percentile of the counts that aren't zero.

    >>> half_blocks(np.array([[[0, 0]], [[1, 0]]]), 2, 1).plain
    '▀▀'
    """
    height, width = counts.shape[1:]
    share = min(columns / width, 2 * rows / height)
    scaled = counts
    for axis, side in (1, height), (2, width):
        if share >= 1:
            scaled = scaled.repeat(int(share), axis=axis)
        else:
            shown = max(1, int(side * share))
            scaled = np.maximum.reduceat(scaled, -(-np.arange(shown) * side // shown), axis=axis)
    # The root shows single events among many.
    shades = np.minimum(scaled / brightest(counts), 1.0) ** 0.5
    shades = np.rint(shades * (SHADES - 1)).astype(int)
    if shades.shape[1] % 2:
        shades = np.concatenate([shades, np.zeros_like(shades[:, :1])], axis=1)
    text = Text(no_wrap=True, end="")
    for y in range(0, shades.shape[1], 2):
        if y:
            text.append("\n")
        # OFF and ON of the upper pixels, then of the lower ones.
        pairs = zip(*shades[:, y].tolist(), *shades[:, y + 1].tolist(), strict=True)
        for pair, same in groupby(pairs):
            text.append("▀" * len(list(same)), _style(*pair))
    return text


@lru_cache(maxsize=4096)
def _style(off_above: int, on_above: int, off_below: int, on_below: int) -> Style:
    full = 255 / (SHADES - 1)
    above, below = (
        Color.from_rgb(round(on * full), round(min(on, off) * full), round(off * full))
        for off, on in ((off_above, on_above), (off_below, on_below))
    )
    return Style(color=above, bgcolor=below)
