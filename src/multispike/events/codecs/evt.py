"""Prophesee raw files: EVT2 and EVT3 behind a text header.

EVT3 is decoded by the library evt3 (MIT), the only one found that takes bytes as they come, keeps
decoding behind damaged words and has the specified time. EVT2 is decoded here, in one function:
expelliarmus never returns on some damaged files, faery ends at the first coordinate outside the
sensor and can't read a pipe, evlib holds whole files.

Format: https://docs.prophesee.ai/stable/data/encoding_formats/index.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from multispike.events.codecs import ByteSource, Columns, Decoded, require

HEADER_LINES = 256
"""Longest header that is believed; a real one has about ten lines."""

SENSORS = {"genx320": (320, 320), "imx636": (1280, 720), "gen4": (1280, 720), "gen3": (640, 480)}
"""`(width, height)` by what the header's names of plugin or sensor contain."""

LARGEST = (1280, 720)
"""Where the header doesn't tell: the largest sensor that was ever sold with these formats."""

ADDRESSED = 2048
"""Pixels a side that the formats' 11 bits can address."""

TIME_HIGH = 0x8
"""Type of a word, its top 4 bits: the upper bits of the time of all events behind it."""


def decode_evt(source: ByteSource) -> Decoded:
    """Events behind a `% ` header with `% evt 2.0` or `3.0`, or `% format EVT2` or `EVT3`."""
    lines = []
    while source.peek(2) == b"% " and len(lines) < HEADER_LINES:
        lines.append(source.line())
        if lines[-1] == "% end":
            break
    header = "\n".join(lines)
    found = re.search(r"^% (?:evt |format EVT)(\d)\.?(\d?)", header, re.MULTILINE | re.IGNORECASE)
    version = "".join(found.groups()).removesuffix("0") if found else "unknown"
    decode = {"2": _evt2, "3": _evt3}.get(version)
    if decode is None:
        raise source.refused(f"EVT {version}", "EVT 2.0 or EVT 3.0")
    return Decoded(f"EVT{version}", _sensor(header), decode(source))


def _sensor(header: str) -> tuple[int, int]:
    """`(width, height)`, unless the format can't address it.

    >>> _sensor("% format EVT3;height=720;width=1280"), _sensor("% plugin_name hal_plugin_gen3_fx3")
    ((1280, 720), (640, 480))
    """
    sides = r"geometry (?P<width>\d+)x(?P<height>\d+)"
    width, height = r"width[ =](?P<width>\d+)", r"height[ =](?P<height>\d+)"
    for pattern in (sides, rf"{width}[^%]*{height}", rf"{height}[^%]*{width}"):
        if found := re.search(pattern, header):
            size = int(found["width"]), int(found["height"])
            return size if min(size) > 0 and max(size) <= ADDRESSED else LARGEST
    names = header.lower()
    return next((size for name, size in SENSORS.items() if name in names), LARGEST)


def _evt2(source: ByteSource) -> Iterator[Columns]:
    """32-bit words: type in the top 4 bits; 0/1: OFF/ON event with 6 bits of time and 11 + 11 of
    x and y; 8: the 28 bits of time above those 6.
    """
    high = -1
    known = (0x0, 0x1, TIME_HIGH, 0xA, 0xE, 0xF)
    for data, kinds in _pieces(source, "<u4", known, events=(0x0, 0x1)):
        words = np.frombuffer(data, "<u4")
        is_time, is_event = kinds == TIME_HIGH, kinds <= 1
        highs = np.append(high, (words[is_time] & 0x0FFFFFFF).astype(np.int64))
        latest = np.cumsum(is_time)
        if high < 0:
            is_event &= latest > 0
        high = int(highs[-1])
        events = words[is_event]
        yield Columns(
            t=highs[latest[is_event]] << 6 | (events >> 22 & 0x3F),
            x=events >> 11 & 0x7FF,
            y=events & 0x7FF,
            p=kinds[is_event],
        )


def _evt3(source: ByteSource) -> Iterator[Columns]:
    """16-bit words, see the format; 2: an event; 4 and 5: up to 12 and 8 events."""
    evt3 = require("evt3", "EVT3 recordings")
    # The largest size the format can address: what is outside the sensor is counted by the caller.
    decoder = evt3.Decoder(sensor_width=ADDRESSED, sensor_height=ADDRESSED)
    known = (0x0, 0x2, 0x3, 0x4, 0x5, 0x6, 0x7, TIME_HIGH, 0xA, 0xE, 0xF)
    for data, _ in _pieces(source, "<u2", known, events=(0x2, 0x4, 0x5)):
        events = decoder.feed(data)
        yield Columns(t=events.t, x=events.x, y=events.y, p=events.p)


def _pieces(
    source: ByteSource, dtype: str, known: Sequence[int], events: Sequence[int]
) -> Iterator[tuple[bytes, np.ndarray]]:
    """The words as bytes, and the type of each.

    Words of a type that isn't known, and those with events before the first time, are counted.
    """
    size = np.dtype(dtype).itemsize
    unknown = ~np.isin(np.arange(16), known)
    timed = False
    for start, data in source.words(size):
        kinds = np.frombuffer(data, dtype) >> 8 * size - 4
        if np.bincount(kinds, minlength=16)[unknown].any():
            where = np.flatnonzero(unknown[kinds])
            first = start + size * int(where[0])
            source.skipped.add_bytes("words of unknown type", size * len(where), first)
        if not timed:
            latest = np.cumsum(kinds == TIME_HIGH)
            timed = bool(latest[-1])
            untimed = np.isin(kinds, events) & (latest == 0)
            count, first = size * int(untimed.sum()), start + size * int(untimed.argmax())
            source.skipped.add_bytes("before the first time stamp", count, first)
        yield data, kinds
