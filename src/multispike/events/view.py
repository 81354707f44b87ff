"""`multispike view`: a recording of an event camera as a picture, an animation or a page."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from multispike.config.commands import FORMATS, ViewConfig
from multispike.config.types import parse_sensor

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

LONGEST = 320
"""Longest side of a frame by default, in pixels."""

CAPTION = 14
"""Height of the line of text below a frame, in pixels."""


@dataclass(frozen=True)
class View:
    """What was shown of a recording. times: start of each frame, µs from the first event."""

    format: str
    sensor: tuple[int, int]
    events: int
    on_share: float
    duration_us: int
    times: tuple[int, ...]
    whole: bool
    skipped: str

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


def show(config: ViewConfig) -> None:
    """Write the picture and print what it shows: the command behind `multispike view`."""
    from rich.console import Console

    view = write_view(config)
    console = Console(highlight=False)
    for name, value in view.lines():
        console.print(f"{name:<9} {value}", markup=False, soft_wrap=True)
    console.print(f"{'written':<9} {config.out}", markup=False, soft_wrap=True)


def write_view(config: ViewConfig) -> View:
    """Count the start of a recording into frames and write them to `config.out`.

    Memory holds the frames and one piece of the recording, however long that is.

    Raises `InputError` for a recording that can't be read, see `read_events`.
    """
    from multispike.files import replacing

    config.check()
    view, counts = _read(config)
    pictures = _pictures(counts)
    out = Path(config.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    suffix = out.suffix.lower()
    with replacing(out) as temporary:
        if suffix == ".html":
            temporary.write_text(_page(Path(config.events).name, view, pictures), encoding="utf-8")
        elif suffix == ".gif":
            captioned = [_captioned(p, _when(t)) for p, t in zip(pictures, view.times, strict=True)]
            captioned[0].save(
                temporary, "GIF", save_all=True, append_images=captioned[1:], duration=100, loop=0
            )
        else:
            _sheet(pictures, view).save(temporary, "PNG", optimize=True)
    return view


def _read(config: ViewConfig) -> tuple[View, np.ndarray]:
    """What there is to tell, and the counts: uint8 `[frames, 2, height, width]`."""
    import numpy as np

    from multispike.events.frames import event_frames
    from multispike.events.read import read_events
    from multispike.events.windows import slices

    sensor = parse_sensor(config.sensor) if config.sensor else None
    recording = read_events(config.events, sensor=sensor)
    if recording.sensor is None:
        recording.close()
        recording = read_events(config.events, sensor=_extent(config.events))
    sensor = recording.sensor
    assert sensor is not None
    longest = max(sensor)
    share = min(1.0, (config.size or LONGEST) / longest)
    size = (max(1, round(sensor[1] * share)), max(1, round(sensor[0] * share)))
    window = config.window_us or (None if config.count else 20_000)
    limit = config.frames or FORMATS[Path(config.out).suffix.lower()]

    frames, times = [], []
    events = on = last = 0
    whole = True
    for part in slices(recording, window_us=window, count=config.count):
        if len(frames) == limit:
            whole = False
            recording.close()
            break
        frames.append(event_frames(part.events, sensor, size=size)[0])
        times.append(part.start_us)
        events += len(part.events)
        on += int(part.events["p"].sum())
        last = int(part.events["t"][-1])
    view = View(
        format=recording.format,
        sensor=sensor,
        events=events,
        on_share=on / events,
        duration_us=last - times[0] + 1,
        times=tuple(time - times[0] for time in times),
        whole=whole,
        skipped=str(recording.skipped),
    )
    return view, np.stack(frames)


def _extent(path: str) -> tuple[int, int]:
    """The smallest `(width, height)` that holds all events of a file."""
    from multispike.events.read import read_events

    width = height = 1
    for events in read_events(path):
        width = max(width, int(events["x"].max()) + 1)
        height = max(height, int(events["y"].max()) + 1)
    return width, height


def _pictures(frames: np.ndarray) -> list[Image.Image]:
    """ON red, OFF blue, both black; full colour from the 99th percentile of the counts on."""
    import numpy as np
    from PIL import Image

    full = max(1.0, float(np.percentile(frames[frames > 0], 99)))
    pictures = []
    for frame in frames:
        off, on = np.minimum(frame / full, 1.0) ** 0.5  # the root shows single events among many
        dark = np.maximum(on, off)
        missing = np.stack([np.maximum(off, dark - on), dark, np.maximum(on, dark - off)], axis=-1)
        pictures.append(Image.fromarray(np.rint(255 * (1 - missing)).astype(np.uint8)))
    return pictures


def _when(time_us: int) -> str:
    return f"{time_us / 1000:,.1f} ms"


def _captioned(picture: Image.Image, text: str) -> Image.Image:
    from PIL import Image, ImageDraw

    tile = Image.new("RGB", (picture.width, picture.height + CAPTION), "white")
    tile.paste(picture)
    ImageDraw.Draw(tile).text((2, picture.height + 1), text, fill="black")
    return tile


def _sheet(pictures: list[Image.Image], view: View) -> Image.Image:
    """All frames on one picture, row by row, as square as can be."""
    from PIL import Image

    tiles = [_captioned(p, _when(t)) for p, t in zip(pictures, view.times, strict=True)]
    width, height = tiles[0].width + 4, tiles[0].height + 4
    columns = max(1, round(math.sqrt(len(tiles) * height / width)))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * width + 4, rows * height + 4), "#c8c8c8")
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        sheet.paste(tile, (column * width + 4, row * height + 4))
    return sheet


def _page(name: str, view: View, pictures: list[Image.Image]) -> str:
    """One HTML file with everything in it."""
    from importlib import resources

    from jinja2 import Environment

    images = []
    for picture in pictures:
        file = io.BytesIO()
        picture.save(file, "PNG", optimize=True)
        images.append(base64.b64encode(file.getvalue()).decode())
    template = resources.files("multispike.report").joinpath("recording.html.j2")
    environment = Environment(autoescape=True)
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        name=name,
        rows=view.lines(),
        frames=list(zip((_when(time) for time in view.times), images, strict=True)),
        width=pictures[0].width,
        height=pictures[0].height,
    )
