"""Prophesee raw files: EVT2 and EVT3 behind a text header.

EVT3 is decoded by the library evt3 (MIT), the only one found that takes bytes as they come, keeps
decoding behind damaged words and has the specified time. EVT2 is decoded here, in one function:
expelliarmus never returns on some damaged files, faery ends at the first coordinate outside the
sensor and can't read a pipe, evlib holds whole files.

Format: https://docs.prophesee.ai/stable/data/encoding_formats/index.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from multispike.events.codecs import (
    ByteSource,
    Columns,
    Decoded,
    Skipped,
    require,
    wrong_format,
)

HEADER_LINES = 256
"""Longest header that is believed; a real one has about ten lines."""

SENSORS = {"genx320": (320, 320), "imx636": (1280, 720), "gen4": (1280, 720), "gen3": (640, 480)}
"""`(width, height)` by what the header's names of plugin or sensor contain."""

LARGEST = (1280, 720)
"""Where the header doesn't tell: the largest sensor that was ever sold with these formats."""

EVT2_UNKNOWN = ~np.isin(np.arange(16), (0x0, 0x1, 0x8, 0xA, 0xE, 0xF))
EVT3_UNKNOWN = ~np.isin(np.arange(16), (0x0, 0x2, 0x3, 0x4, 0x5, 0x6, 0x7, 0x8, 0xA, 0xE, 0xF))
"""Types of words (their top 4 bits) that the formats don't have."""

EVT3_TIME_HIGH = 0x8
EVT3_EVENTS = (0x2, 0x4, 0x5)
"""Types of words with an event, or with up to 12 or 8 of them."""


def decode_evt(source: ByteSource, chunk: int, skipped: Skipped) -> Decoded:
    """Events behind a `% ` header with `% evt 2.0` or `3.0`, or `% format EVT2` or `EVT3`."""
    lines = []
    while source.peek(2) == b"% " and len(lines) < HEADER_LINES:
        lines.append(source.line())
        if lines[-1] == "% end":
            break
    header = "\n".join(lines)
    found = re.search(r"^% (?:evt |format EVT)(\d)\.?(\d?)", header, re.MULTILINE | re.IGNORECASE)
    version = "".join(found.groups()).removesuffix("0") if found else "unknown"
    if version == "2":
        return Decoded("EVT2", _sensor(header), _evt2(source, chunk, skipped))
    if version == "3":
        return Decoded("EVT3", _sensor(header), _evt3(source, chunk, skipped))
    raise wrong_format(source.path or "the recording", f"EVT {version}", "EVT 2.0 or EVT 3.0")


def _sensor(header: str) -> tuple[int, int]:
    """`(width, height)`.

    >>> _sensor("% format EVT3;height=720;width=1280"), _sensor("% plugin_name hal_plugin_gen3_fx3")
    ((1280, 720), (640, 480))
    """
    for pattern in (r"geometry (\d+)x(\d+)", r"width[ =](\d+)[^%]*height[ =](\d+)"):
        if found := re.search(pattern, header):
            return _believed(int(found[1]), int(found[2]))
    if found := re.search(r"height[ =](\d+)[^%]*width[ =](\d+)", header):
        return _believed(int(found[2]), int(found[1]))
    names = header.lower()
    return next((size for name, size in SENSORS.items() if name in names), LARGEST)


def _believed(width: int, height: int) -> tuple[int, int]:
    """The size that is written, unless the format's 11 bits can't address it."""
    return (width, height) if 0 < width <= 2048 and 0 < height <= 2048 else LARGEST


def _evt2(source: ByteSource, chunk: int, skipped: Skipped) -> Iterator[Columns]:
    """32-bit words: type in the top 4 bits; 0/1: OFF/ON event with 6 bits of time and 11 + 11 of
    x and y; 8: the 28 bits of time above those 6.
    """
    high = None
    for start, data in source.words(4, 4 * chunk, skipped):
        words = np.frombuffer(data, "<u4")
        kinds = words >> 28
        _count_unknown(kinds, EVT2_UNKNOWN, 4, start, skipped)
        is_high = kinds == 8
        highs = (words[is_high] & 0x0FFFFFFF).astype(np.int64)
        latest = np.cumsum(is_high)
        is_event = kinds <= 1
        if high is None:
            timed = is_event & (latest > 0)
            untimed = int(is_event.sum() - timed.sum())
            if untimed:
                skipped.add_bytes(
                    "before the first time stamp", 4 * untimed, start + 4 * int(is_event.argmax())
                )
            is_event = timed
        events, latest = words[is_event], latest[is_event]
        times = np.concatenate([[high or 0], highs])
        high = int(times[-1]) if len(highs) else high
        yield Columns(
            t=times[latest] << 6 | (events >> 22 & 0x3F),
            x=events >> 11 & 0x7FF,
            y=events & 0x7FF,
            p=kinds[is_event],
        )


def _evt3(source: ByteSource, chunk: int, skipped: Skipped) -> Iterator[Columns]:
    # The largest size the format can address, so that it is us who counts what is outside.
    decoder = require("evt3", "EVT3 recordings").Decoder(sensor_width=2048, sensor_height=2048)
    timed = False
    for start, data in source.words(2, 2 * chunk, skipped):
        kinds = np.frombuffer(data, "<u2") >> 12
        _count_unknown(kinds, EVT3_UNKNOWN, 2, start, skipped)
        if not timed:  # then the decoder gives no events, and tells nothing of them
            latest = np.cumsum(kinds == EVT3_TIME_HIGH)
            timed = bool(latest[-1])
            untimed = np.isin(kinds, EVT3_EVENTS) & (latest == 0)
            if untimed.any():
                first = start + 2 * int(untimed.argmax())
                skipped.add_bytes("before the first time stamp", 2 * int(untimed.sum()), first)
        events = decoder.feed(data)
        yield Columns(t=events.t, x=events.x, y=events.y, p=events.p)


def _count_unknown(
    kinds: np.ndarray, unknown: np.ndarray, size: int, start: int, skipped: Skipped
) -> None:
    if np.bincount(kinds, minlength=16)[unknown].any():
        where = np.flatnonzero(unknown[kinds])
        skipped.add_bytes("words of unknown type", size * len(where), start + size * int(where[0]))
