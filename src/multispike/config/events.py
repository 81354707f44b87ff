"""Settings of the commands that take recordings of event cameras."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from multispike.config.types import Count, JsonFile, RunPath, Sensor, Settings, Threads, Where
from multispike.errors import invalid

RecordingPath = Annotated[
    str, Where("a file that exists", lambda path: Path(path).exists(), late=True)
]

WINDOW_US = 10_000
"""Length of a slice where neither a length nor a count is given."""


@dataclass(frozen=True)
class StreamConfig(Settings):
    """Classify a recording, or what a camera sends, slice by slice.

    Args:
        run: Folder of a run that was trained on events, or a checkpoint by itself.
        events: Recording (EVT2, EVT3, AEDAT2, AEDAT4, HDF5, npy, npz), or - for standard input.
        window_us: Time that a slice takes; 10,000 unless count is given.
        count: Events of a slice, instead of window_us.
        overlap: How much of a slice the next one repeats: µs, or events with count.
        realtime: Let slices come at the recording's own pace; where inference can't follow, drop
            all but the newest one that waits, and count what was dropped.
        view: Show frame, class and confidence in the terminal as they come.
        threads: CPU threads of the inference; by default all cores.

    Examples:
        multispike stream RUN recording.raw
        multispike stream RUN recording.raw --count 5000 --overlap 2500 --json -
        camera | multispike stream RUN - --realtime --view
    """

    run: RunPath
    events: str
    window_us: Count | None = None
    count: Count | None = None
    overlap: int = 0
    realtime: bool = False
    view: bool = False
    sensor: Sensor | None = None
    threads: Threads | None = None
    json: JsonFile | None = None

    def check(self) -> None:
        _either(self.window_us, self.count)
        length = self.count or self.window_us or WINDOW_US
        if not 0 <= self.overlap < length:
            raise invalid("overlap", self.overlap, f"an integer from 0 to {length - 1}")
        if self.json not in (None, "-") and _same_file(self.json, self.events):
            raise invalid("json", self.json, "another file than the recording")
        if self.view and self.json == "-":
            raise invalid("json", "-", "a file, as --view takes the terminal")
        super().check()

    @property
    def slicing(self) -> dict[str, int]:
        """The arguments of `multispike.events.frames.slices`.

        >>> StreamConfig("RUN", "a.raw", overlap=5000).slicing
        {'window_us': 10000, 'overlap': 5000}
        """
        length = {"count": self.count} if self.count else {"window_us": self.window_us or WINDOW_US}
        return {**length, "overlap": self.overlap}


def _either(window_us: int | None, count: int | None) -> None:
    if window_us is not None and count is not None:
        raise invalid("count", count, "window_us or count, not both")


def _same_file(out: str, events: str) -> bool:
    """Whether both are one file, by whatever names; events may be "-", standard input."""
    try:
        return os.path.samefile(out, 0 if events == "-" else events)
    except OSError:
        return False  # one of them is missing, so nothing can be written over


FORMATS = {".png": 16, ".gif": 100, ".html": 100}
"""What can be written, and how many frames of a recording it shows by default."""


@dataclass(frozen=True)
class ViewConfig(Settings):
    """Show a recording of an event camera as PNG, GIF or HTML.

    Args:
        events: Recording: EVT2, EVT3, AEDAT2, AEDAT4, HDF5, npy, npz, or N-MNIST's .bin.
        out: File to write: .png (frames side by side), .gif (animation) or .html (page).
        window_us: Time that a frame shows; 20,000 unless count is given.
        count: Events that a frame shows, instead of window_us.
        frames: Show so many frames from the start; by default 16 (.png) or 100.
        size: Longest side of a frame in pixels; by default the sensor's, or 320 if that is less.

    Examples:
        multispike view recording.raw --out frames.png
        multispike view recording.raw --out film.gif --window-us 10000
    """

    events: RecordingPath
    out: str = "events.png"
    window_us: Count | None = None
    count: Count | None = None
    frames: Count | None = None
    size: Count | None = None
    sensor: Sensor | None = None

    def check(self) -> None:
        _either(self.window_us, self.count)
        if Path(self.out).suffix.lower() not in FORMATS:
            raise invalid("out", self.out, f"a name that ends in {', '.join(FORMATS)}")
        super().check()
