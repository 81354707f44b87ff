"""What a recording looks like: as a picture, an animation or a page, and in a terminal as it comes.

ON is red and OFF blue. Both together are black on the white of a picture, white in a terminal.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import groupby
from pathlib import Path

import numpy as np
from jinja2 import Environment
from PIL import Image, ImageDraw
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.style import Style
from rich.table import Table
from rich.text import Text

from multispike.events.frames import event_frames, slices
from multispike.events.read import read_events
from multispike.events.stream import Prediction, Summary
from multispike.files import replacing

LONGEST, CAPTION = 320, 14
"""Longest side of a frame by default and height of the line of text below it, in pixels."""

SHADES = 16
"""Levels of brightness of a colour in a terminal: few, so that styles are made once."""

SIDE_COLUMNS, SIDE_ROWS = 32, 9
"""What the text beside a frame needs at least, its rows without the bars."""


@dataclass(frozen=True)
class View:
    """The start of a recording, counted into frames.

    name: of the file; events, on_share, duration_us: of what is shown; whole: that is all of it.
    times: start of each frame, µs from the first event; frames: uint8 `[frames, 2, H, W]`.
    """

    name: str
    format: str
    sensor: tuple[int, int]
    events: int
    on_share: float
    duration_us: int
    times: tuple[int, ...]
    whole: bool
    skipped: str
    frames: np.ndarray

    def lines(self) -> list[tuple[str, str]]:
        """For a reader: (what, how much)."""
        seconds = self.duration_us / 1e6
        rows = [
            ("format", f"{self.format}, {self.sensor[0]}x{self.sensor[1]} pixels"),
            ("events", f"{self.events:,}, {self.on_share:.1%} of them ON"),
            ("duration", f"{seconds:,.3f} s, {self.events / max(seconds, 1e-6):,.0f} events/s"),
            ("frames", f"{len(self.times)}, {'all' if self.whole else 'not all'} of it"),
        ]
        return [*rows, ("skipped", self.skipped)] if self.skipped else rows


def read_view(
    path: str | os.PathLike[str],
    *,
    limit: int,
    window_us: int | None = None,
    count: int | None = None,
    sensor: tuple[int, int] | None = None,
    size: int | None = None,
) -> View:
    """Count the start of a recording into at most `limit` frames.

    window_us, count: what a frame shows, see `multispike.events.frames.slices`. sensor: for files
    that don't tell it; without it, the smallest that holds all events. size: longest side of a
    frame, by default the sensor's, or `LONGEST` if that is less.
    """
    recording = read_events(path, sensor=sensor)
    sensor = recording.sensor
    if sensor is None:
        corners = [(int(events["x"].max()), int(events["y"].max())) for events in recording]
        sensor = max(x for x, _ in corners) + 1, max(y for _, y in corners) + 1
        recording = read_events(path, sensor=sensor)
    share = min(1.0, (size or LONGEST) / max(sensor))
    shape = (max(1, round(sensor[1] * share)), max(1, round(sensor[0] * share)))

    frames, times = [], []
    events = on = last = 0
    whole = True
    for part in slices(recording, window_us=window_us, count=count):
        if len(frames) == limit:
            whole = False
            recording.close()
            break
        frames.append(event_frames(part.events, sensor, size=shape)[0])
        times.append(part.start_us)
        events += len(part.events)
        on += int(part.events["p"].sum())
        last = int(part.events["t"][-1])
    return View(
        name=Path(path).name,
        format=recording.format,
        sensor=sensor,
        events=events,
        on_share=on / events,
        duration_us=last - times[0] + 1,
        times=tuple(time - times[0] for time in times),
        whole=whole,
        skipped=str(recording.skipped),
        frames=np.stack(frames),
    )


def write_view(view: View, path: str | os.PathLike[str]) -> None:
    """Write a view as .png (frames side by side), .gif (animation) or .html (page)."""
    off, on = shades(view.frames.swapaxes(0, 1))
    dark = np.maximum(on, off)
    missing = np.stack([np.maximum(off, dark - on), dark, np.maximum(on, dark - off)], axis=-1)
    pictures = [Image.fromarray(each) for each in np.rint(255 * (1 - missing)).astype(np.uint8)]
    captions = [f"{time / 1000:,.1f} ms" for time in view.times]
    out = Path(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    suffix = out.suffix.lower()
    with replacing(out) as temporary:
        if suffix == ".html":
            temporary.write_text(_page(view, captions, pictures), encoding="utf-8")
            return
        tiles = []
        for picture, caption in zip(pictures, captions, strict=True):
            tiles.append(Image.new("RGB", (picture.width, picture.height + CAPTION), "white"))
            tiles[-1].paste(picture)
            ImageDraw.Draw(tiles[-1]).text((2, picture.height + 1), caption, fill="black")
        if suffix == ".gif":
            first, *others = tiles
            first.save(temporary, "GIF", save_all=True, append_images=others, duration=100, loop=0)
        else:
            _sheet(tiles).save(temporary, "PNG", optimize=True)


def shades(counts: np.ndarray) -> np.ndarray:
    """Counts as brightness from 0 to 1, full from the 99th percentile of those above 0. The root
    shows single events among many."""
    above = counts[counts > 0]
    full = max(1.0, float(np.percentile(above, 99))) if len(above) else 1.0
    return np.minimum(counts / full, 1.0) ** 0.5


def _sheet(tiles: list[Image.Image]) -> Image.Image:
    """All frames on one picture, row by row, as square as can be."""
    width, height = tiles[0].width + 4, tiles[0].height + 4
    columns = max(1, round(math.sqrt(len(tiles) * height / width)))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * width + 4, rows * height + 4), "#c8c8c8")
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        sheet.paste(tile, (column * width + 4, row * height + 4))
    return sheet


def _page(view: View, captions: list[str], pictures: list[Image.Image]) -> str:
    images = []
    for picture in pictures:
        file = io.BytesIO()
        picture.save(file, "PNG", optimize=True)
        images.append(base64.b64encode(file.getvalue()).decode())
    template = resources.files("multispike.report").joinpath("recording.html.j2")
    page = Environment(autoescape=True).from_string(template.read_text(encoding="utf-8"))
    return page.render(
        name=view.name,
        rows=view.lines(),
        frames=list(zip(captions, images, strict=True)),
        width=pictures[0].width,
        height=pictures[0].height,
    )


class StdoutConsole(Console):
    """Standard output: colours in a terminal, plain text elsewhere."""

    def on_broken_pipe(self) -> None:
        """Leave it to the command; rich would end the program with code 1."""
        raise BrokenPipeError


def line_printer(console: Console, classes: Sequence[str]) -> Callable[[Prediction, int], None]:
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
    """The newest slice on the whole terminal: its frame, its likeliest classes, how long it took.

    A thread draws eight times a second, so that drawing delays no slice by itself.
    """

    def __init__(self, console: Console, title: str, classes: Sequence[str]) -> None:
        self._title = title
        self._classes = classes
        self._newest: tuple[Prediction, int] | None = None
        self._slices = 0
        self._live = Live(self, console=console, screen=True, refresh_per_second=8)

    def show(self, prediction: Prediction, dropped: int) -> None:
        self._newest = prediction, dropped
        self._slices += 1
        self._live.start(refresh=True)

    def close(self) -> None:
        self._live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._newest is None:
            return
        prediction, dropped = self._newest
        width, height = console.size
        side = Text(no_wrap=True, overflow="ellipsis")
        side.append(f"{self._title}\n", "dim")
        side.append(f"{prediction.name}  {prediction.confidence:.0%}\n\n", "bold green")
        # The likeliest classes that fit, always in the order of the classes.
        probabilities = prediction.probabilities
        likeliest = np.argsort(-probabilities, kind="stable")[: max(1, height - SIDE_ROWS)]
        for label in np.sort(likeliest).tolist():
            share = float(probabilities[label])
            bar = "█" * round(share * (SIDE_COLUMNS - 19))
            style = "bold green" if label == likeliest[0] else "blue"
            side.append(f"{self._classes[label]:<12.12} ")
            side.append(f"{bar:<{SIDE_COLUMNS - 19}} {share:>4.0%}\n", style)
        for name, value in (
            ("time", f"{prediction.t_us / 1e6:,.3f} s"),
            ("events", f"{prediction.events:,}"),
            ("latency", f"{prediction.latency_ms:,.2f} ms"),
            ("slices", f"{self._slices:,}, {dropped:,} dropped"),
        ):
            side.append(f"\n{name:>7} ", "dim").append(value)
        frames = prediction.frames
        counts = frames.reshape(-1, 2, *frames.shape[2:]).sum(0, dtype=np.int64)
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(width=SIDE_COLUMNS)
        grid.add_row(half_blocks(counts, max(1, width - SIDE_COLUMNS - 2), height - 1), side)
        yield grid


def half_blocks(counts: np.ndarray, columns: int, rows: int) -> Text:
    """A frame as characters, each of two pixels, one above the other.

    counts: integers `[2, H, W]`, OFF and ON; columns, rows: the characters that there is room for.
    A larger frame is shown smaller, each point the largest of its pixels; a frame that fits several
    times is shown several times larger.

    >>> half_blocks(np.array([[[0, 0]], [[1, 0]]]), 2, 1).plain
    '▀▀'
    """
    height, width = counts.shape[1:]
    share = min(columns / width, 2 * rows / height)
    scaled = shades(counts)
    for axis, side in (1, height), (2, width):
        if share >= 1:
            scaled = scaled.repeat(int(share), axis=axis)
        else:
            shown = max(1, int(side * share))
            scaled = np.maximum.reduceat(scaled, -(-np.arange(shown) * side // shown), axis=axis)
    levels = np.rint(scaled * (SHADES - 1)).astype(int)
    levels = np.pad(levels, ((0, 0), (0, levels.shape[1] % 2), (0, 0)))
    text = Text(no_wrap=True, end="")
    for y in range(0, levels.shape[1], 2):
        if y:
            text.append("\n")
        # OFF and ON of the upper pixels, then of the lower ones.
        pairs = zip(*levels[:, y].tolist(), *levels[:, y + 1].tolist(), strict=True)
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
