"""Settings of `multispike view`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from multispike.errors import invalid, require_counts

FORMATS = {".png": 16, ".gif": 100, ".html": 100}
"""What can be written, and how many frames of a recording it shows by default."""


@dataclass(frozen=True)
class ViewConfig:
    """How to look at a recording.

    Args:
        events: Recording: EVT2, EVT3, AEDAT2, AEDAT4, HDF5, npy, npz, or N-MNIST's .bin.
        out: File to write: .png (frames side by side), .gif (animation) or .html (page).
        window_us: Time that a frame shows; 20,000 unless count is given.
        count: Events that a frame shows, instead of window_us.
        frames: Show so many frames from the start; by default 16 (.png) or 100.
        size: Longest side of a frame in pixels; by default the sensor's, or 320 if that is less.
        sensor: WIDTHxHEIGHT in pixels, for files that don't tell it.
    """

    events: str
    out: str = "events.png"
    window_us: int | None = None
    count: int | None = None
    frames: int | None = None
    size: int | None = None
    sensor: str | None = None

    def check(self) -> None:
        """Raise `InputError` for a value that is not allowed."""
        if Path(self.out).suffix.lower() not in FORMATS:
            raise invalid("out", self.out, f"a name that ends in {', '.join(FORMATS)}")
        if self.window_us is not None and self.count is not None:
            raise invalid("count", self.count, "window_us or count, not both")
        require_counts(self, "window_us", "count", "frames", "size")
        if self.sensor is not None:
            parse_sensor(self.sensor)


def parse_sensor(text: str) -> tuple[int, int]:
    """`(width, height)`.

    >>> parse_sensor("640x480")
    (640, 480)
    """
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not match:
        raise invalid("sensor", text, "WIDTHxHEIGHT in pixels, such as 640x480")
    return int(match[1]), int(match[2])
