"""Settings of `multispike stream`."""

from __future__ import annotations

import os
from dataclasses import dataclass

from multispike.config.viewing import parse_sensor
from multispike.errors import invalid, require_counts

WINDOW_US = 10_000
"""Length of a slice where neither a length nor a count is given."""


@dataclass(frozen=True)
class StreamConfig:
    """Which recording to classify, and how it is cut into slices.

    Args:
        run: Folder of a run that was trained on events.
        events: Recording (EVT2, EVT3, AEDAT2, AEDAT4, HDF5, npy, npz), or - for standard input.
        window_us: Time that a slice takes; 10,000 unless count is given.
        count: Events of a slice, instead of window_us.
        overlap: How much of a slice the next one repeats: µs, or events with count.
        realtime: Let slices come at the recording's own pace; where inference can't follow, drop
            all but the newest one that waits, and count what was dropped.
        view: Show frame, class and confidence in the terminal as they come.
        sensor: WIDTHxHEIGHT in pixels, for recordings that don't tell it.
        threads: CPU threads of the inference; by default all cores.
        json: Write JSON lines to this file, or - for standard output.
    """

    run: str
    events: str
    window_us: int | None = None
    count: int | None = None
    overlap: int = 0
    realtime: bool = False
    view: bool = False
    sensor: str | None = None
    threads: int | None = None
    json: str | None = None

    def check(self) -> None:
        """Raise `InputError` for a value that is not allowed."""
        if self.window_us is not None and self.count is not None:
            raise invalid("count", self.count, "window_us or count, not both")
        require_counts(self, "window_us", "count", "threads")
        length = self.count or self.window_us or WINDOW_US
        if not 0 <= self.overlap < length:
            raise invalid("overlap", self.overlap, f"an integer from 0 to {length - 1}")
        if self.json not in (None, "-") and _same_file(self.json, self.events):
            raise invalid("json", self.json, "another file than the recording")
        if self.view and self.json == "-":
            raise invalid("json", "-", "a file, as --view takes the terminal")
        if self.sensor is not None:
            parse_sensor(self.sensor)

    @property
    def slicing(self) -> dict[str, int]:
        """The arguments of `multispike.events.windows.slices`.

        >>> StreamConfig("RUN", "a.raw", overlap=5000).slicing
        {'window_us': 10000, 'overlap': 5000}
        """
        length = {"count": self.count} if self.count else {"window_us": self.window_us or WINDOW_US}
        return {**length, "overlap": self.overlap}


def _same_file(out: str, events: str) -> bool:
    """Whether both are one file, by whatever names; events may be "-", standard input."""
    try:
        return os.path.samefile(out, 0 if events == "-" else events)
    except OSError:
        return False  # one of them is missing, so nothing can be written over
