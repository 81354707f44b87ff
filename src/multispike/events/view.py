"""A recording of an event camera as a picture, an animation or a page."""

from __future__ import annotations

import base64
import io
import math
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from jinja2 import Environment
from PIL import Image, ImageDraw

from multispike.events.frames import brightest, event_frames
from multispike.events.read import read_events
from multispike.events.windows import slices
from multispike.files import replacing

LONGEST = 320
"""Longest side of a frame by default, in pixels."""

CAPTION = 14
"""Height of the line of text below a frame, in pixels."""


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

    def captions(self) -> list[str]:
        """The time of each frame."""
        return [f"{time / 1000:,.1f} ms" for time in self.times]


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

    window_us, count: what a frame shows, see `multispike.events.windows.slices`. sensor: for files
    that don't tell it; without it, the smallest that holds all events. size: longest side of a
    frame, by default the sensor's, or `LONGEST` if that is less.

    Memory holds the frames and one piece of the recording, however long that is. Raises
    `InputError` for a recording that can't be read, see `read_events`.
    """
    recording = read_events(path, sensor=sensor)
    if recording.sensor is None:
        width = height = 1
        for events in recording:
            width = max(width, int(events["x"].max()) + 1)
            height = max(height, int(events["y"].max()) + 1)
        recording = read_events(path, sensor=(width, height))
    sensor = recording.sensor
    assert sensor is not None
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
    full = brightest(view.frames)
    pictures = [_picture(frame, full) for frame in view.frames]
    out = Path(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    suffix = out.suffix.lower()
    with replacing(out) as temporary:
        if suffix == ".html":
            temporary.write_text(_page(view, pictures), encoding="utf-8")
            return
        tiles = [_captioned(*each) for each in zip(pictures, view.captions(), strict=True)]
        if suffix == ".gif":
            first, *others = tiles
            first.save(temporary, "GIF", save_all=True, append_images=others, duration=100, loop=0)
        else:
            _sheet(tiles).save(temporary, "PNG", optimize=True)


def _picture(frame: np.ndarray, full: float) -> Image.Image:
    """ON red, OFF blue, both black."""
    off, on = np.minimum(frame / full, 1.0) ** 0.5  # the root shows single events among many
    dark = np.maximum(on, off)
    missing = np.stack([np.maximum(off, dark - on), dark, np.maximum(on, dark - off)], axis=-1)
    return Image.fromarray(np.rint(255 * (1 - missing)).astype(np.uint8))


def _captioned(picture: Image.Image, text: str) -> Image.Image:
    tile = Image.new("RGB", (picture.width, picture.height + CAPTION), "white")
    tile.paste(picture)
    ImageDraw.Draw(tile).text((2, picture.height + 1), text, fill="black")
    return tile


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


def _page(view: View, pictures: list[Image.Image]) -> str:
    """One HTML file with everything in it."""
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
        frames=list(zip(view.captions(), images, strict=True)),
        width=pictures[0].width,
        height=pictures[0].height,
    )
