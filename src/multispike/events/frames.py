"""Recordings cut into slices as they come, and events counted into frames.

Channel 0 of a frame counts OFF events (p = 0, darker), channel 1 ON events (p = 1, brighter).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Literal, NamedTuple, get_args

import numpy as np

from multispike.errors import check_sample, invalid, is_count, unknown
from multispike.events.codecs import MOST_EVENTS

Binning = Literal["time", "count"]


class Slice(NamedTuple):
    """Events from `start_us` up to, not including, `stop_us`; never none."""

    start_us: int
    stop_us: int
    events: np.ndarray


def slices(
    pieces: Iterable[np.ndarray],
    *,
    window_us: int | None = None,
    count: int | None = None,
    overlap: int = 0,
) -> Iterator[Slice]:
    """Cut the pieces of a recording (`read_events`) by time or by count; exactly one is given.

    window_us: length of a slice. The first starts with the first event, the others follow at equal
        distances; a slice without events is left out.
    count: events of a slice. The last one has what is left.
    overlap: how much of a slice the next one repeats, in µs or, with `count`, in events.

    A slice is given out as soon as it is known to be whole: by time, when an event behind it, or
    the end, was read. Only the events of one slice and one piece are held.

    >>> events = np.array([(0,), (4,), (9,), (31,)], [("t", int)])
    >>> [(s.start_us, s.stop_us, len(s.events)) for s in slices([events], window_us=10)]
    [(0, 10, 3), (30, 40, 1)]
    >>> [(s.start_us, s.stop_us, len(s.events)) for s in slices([events], window_us=10, overlap=5)]
    [(0, 10, 3), (5, 15, 1), (25, 35, 1), (30, 40, 1)]
    >>> [(s.start_us, s.stop_us, len(s.events)) for s in slices([events], count=3)]
    [(0, 10, 3), (31, 32, 1)]
    """
    if (window_us is None) == (count is None):
        raise invalid("window_us, count", (window_us, count), "one of them, and not both")
    name, length = ("count", count) if window_us is None else ("window_us", window_us)
    if length is None or not is_count(length):
        raise invalid(name, length, "an integer >= 1")
    if name == "count" and length > MOST_EVENTS:
        raise invalid(name, length, f"at most {MOST_EVENTS:,} events a slice")
    if isinstance(overlap, bool) or not 0 <= overlap < length:
        raise invalid("overlap", overlap, f"an integer from 0 to {length - 1}")
    return (_by_count if window_us is None else _by_time)(pieces, length, length - overlap)


def _by_time(pieces: Iterable[np.ndarray], window: int, step: int) -> Iterator[Slice]:
    held: list[np.ndarray] = []
    start = None
    for piece in chain(pieces, [None]):
        if piece is not None:
            start = int(piece["t"][0]) if start is None else start
            held.append(piece)
            if piece["t"][-1] < start + window:
                if sum(map(len, held)) > MOST_EVENTS:
                    raise invalid("window_us", window, f"at most {MOST_EVENTS:,} events a slice")
                continue
        if start is None:
            return
        events = np.concatenate(held)
        t = np.ascontiguousarray(events["t"])
        first = 0
        while first < len(t) and (piece is None or t[-1] >= start + window):
            stop = int(np.searchsorted(t, start + window))
            if stop > first:
                yield Slice(start, start + window, events[first:stop])
            start += step
            first = int(np.searchsorted(t, start))
            if first < len(t):
                # Silence may last for hours, so it is jumped over, not walked through.
                start += max(0, (int(t[first]) - start - window) // step + 1) * step
        held = [events[first:]]


def _by_count(pieces: Iterable[np.ndarray], count: int, step: int) -> Iterator[Slice]:
    held: list[np.ndarray] = []
    have, repeated = 0, 0  # of those held, how many a slice had already
    for piece in pieces:
        held.append(piece)
        have += len(piece)
        if have < count:
            continue
        events = np.concatenate(held)
        first = 0
        for first in range(0, have - count + 1, step):
            yield _slice(events[first : first + count])
        held, repeated = [events[first + step :]], count - step
        have = len(held[0])
    if have > repeated:
        yield _slice(np.concatenate(held))


def _slice(events: np.ndarray) -> Slice:
    return Slice(int(events["t"][0]), int(events["t"][-1]) + 1, events)


def event_frames(
    events: np.ndarray,
    sensor: tuple[int, int],
    *,
    timesteps: int = 1,
    bins: int = 1,
    size: int | tuple[int, int] | None = None,
    by: Binning = "time",
    span: tuple[int, int] | None = None,
) -> np.ndarray:
    """Count events into T frames of 2K channels.

    events: a structured array with t, x, y and p, in the order of time, all on the sensor.
    sensor: `(width, height)` of the coordinates, as recordings have it.
    timesteps, bins: T and K; events are divided into T·K bins. Channels 2k and 2k + 1 of frame t
        are the OFF and ON events of bin t·K + k.
    size: `(height, width)` of the frames, or one side of square ones; default: the sensor's.
        Pixel (x, y) falls into column x·width // sensor width and row y·height // sensor height,
        so events are neither lost nor split.
    by: "time": bins equally long between the first and the last event; "count": bins with equally
        many events, but for one.
    span: with `by="time"`, the (start, stop) in µs that is divided instead; a bin holds its start
        but not its end, and events outside are left out.

    Returns uint8 `[T, 2K, height, width]`; more than 255 events in a pixel stay 255.

    >>> events = np.array([(0, 0, 0, 1), (5, 3, 0, 0), (9, 3, 1, 0)],
    ...                   [("t", int), ("x", int), ("y", int), ("p", int)])
    >>> event_frames(events, (4, 2), timesteps=2, size=(1, 2)).tolist()
    [[[[0, 0]], [[1, 0]]], [[[0, 2]], [[0, 0]]]]
    >>> event_frames(events, (4, 2), bins=2, size=(1, 2)).tolist()
    [[[[0, 0]], [[1, 0]], [[0, 2]], [[0, 0]]]]
    """
    if by not in get_args(Binning):
        raise unknown("by", by, get_args(Binning))
    for name, value in (("timesteps", timesteps), ("bins", bins)):
        if not is_count(value):
            raise invalid(name, value, "an integer >= 1")
    if span is not None and (by != "time" or span[0] >= span[1]):
        raise invalid("span", span, '(start, stop) in µs, start before stop, with by="time"')
    width, height = sensor
    rows, columns = frame_size(size, sensor)
    check_sample("frames", (timesteps, 2 * bins, rows, columns))
    if span is not None:
        start, stop = np.searchsorted(events["t"], span)
        events = events[start:stop]
    # The index of each event in the flat counts, from tables: a look-up is cheaper than a division.
    row_of = np.arange(height) * rows // height * columns
    column_of = np.arange(width) * columns // width
    index = row_of.take(events["y"]) + column_of.take(events["x"])
    index += (events["p"] != 0) * (rows * columns)
    divided = timesteps * bins
    if divided > 1 and len(events):
        if by == "time":
            start, stop = span or (int(events["t"][0]), int(events["t"][-1]) + 1)
            # The first whole µs of each bin but the first; Python's integers can't overflow.
            edges = [start - -k * (stop - start) // divided for k in range(1, divided)]
            place = np.searchsorted(edges, events["t"], side="right")
        else:
            place = np.arange(len(events)) * divided // len(events)
        index += place * (2 * rows * columns)
    counts = np.bincount(index, minlength=divided * 2 * rows * columns)
    return np.minimum(counts, 255).astype(np.uint8).reshape(timesteps, 2 * bins, rows, columns)


def frame_size(size: int | tuple[int, int] | None, sensor: tuple[int, int]) -> tuple[int, int]:
    """`(height, width)` of frames, checked: the sensor's by default, and never larger than it.

    >>> frame_size(64, (346, 260)), frame_size(None, (346, 260))
    ((64, 64), (260, 346))
    """
    width, height = sensor
    pair = (height, width) if size is None else (size, size) if isinstance(size, int) else size
    if len(pair) != 2 or not all(map(is_count, pair)) or pair[0] > height or pair[1] > width:
        allowed = f"one side or (height, width), at most the sensor's {height}x{width}"
        raise invalid("size", size, allowed)
    return pair
