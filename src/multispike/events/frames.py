"""From events to frames of counts: channel 0 counts OFF events, channel 1 ON events.

OFF (p = 0) is darker, ON (p = 1) brighter.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from multispike.errors import invalid, is_count, unknown

Binning = Literal["time", "count"]


def event_frames(
    events: np.ndarray,
    sensor: tuple[int, int],
    *,
    timesteps: int = 1,
    size: int | tuple[int, int] | None = None,
    by: Binning = "time",
    span: tuple[int, int] | None = None,
) -> np.ndarray:
    """Count events into T frames.

    events: of `multispike.events.read.EVENT`, or any structured array with t, x, y and p, in
        the order of time; coordinates on the sensor.
    sensor: `(width, height)` of the coordinates, as recordings have it.
    timesteps: T bins. 1 puts the whole sample into one frame.
    size: `(height, width)` of the frames, or one side of square ones; default: the sensor's.
        Pixel (x, y) falls into column x·width // sensor width and row y·height // sensor height,
        so events are neither lost nor split; where the sizes don't divide, some columns gather
        from one sensor pixel more than others.
    by: "time": bins equally long between the first and the last event; "count": bins with equally
        many events, but for one.
    span: with `by="time"`, the (start, stop) in µs that is divided instead; a bin holds its start
        but not its end, and events outside are left out.

    Returns uint8 `[T, 2, height, width]`; more than 255 events in a pixel stay 255.

    >>> events = np.array([(0, 0, 0, 1), (5, 3, 0, 0), (9, 3, 1, 0)],
    ...                   [("t", int), ("x", int), ("y", int), ("p", int)])
    >>> event_frames(events, (4, 2), timesteps=2, size=(1, 2)).tolist()
    [[[[0, 0]], [[1, 0]]], [[[0, 2]], [[0, 0]]]]
    """
    if by not in get_args(Binning):
        raise unknown("by", by, get_args(Binning))
    if not is_count(timesteps):
        raise invalid("timesteps", timesteps, "an integer >= 1")
    if span is not None and (by != "time" or span[0] >= span[1]):
        raise invalid("span", span, '(start, stop) in µs, start before stop, with by="time"')
    width, height = sensor
    rows, columns = frame_size(size, sensor)
    if span is not None:
        start, stop = np.searchsorted(events["t"], span)
        events = events[start:stop]
    # The index of each event in the flat counts, from tables: a look-up is cheaper than a division.
    row_of = np.arange(height) * rows // height * columns
    column_of = np.arange(width) * columns // width
    index = row_of.take(events["y"]) + column_of.take(events["x"])
    index += (events["p"] != 0) * (rows * columns)
    if timesteps > 1 and len(events):
        if by == "time":
            start, stop = span if span is not None else (int(events["t"][0]), events["t"][-1] + 1)
            # Whole numbers, so that an event at the edge of two bins falls into the later one.
            bins = (events["t"] - start) * timesteps // (stop - start)
        else:
            bins = np.arange(len(events)) * timesteps // len(events)
        index += bins * (2 * rows * columns)
    counts = np.bincount(index, minlength=timesteps * 2 * rows * columns)
    return np.minimum(counts, 255).astype(np.uint8).reshape(timesteps, 2, rows, columns)


def frame_size(size: int | tuple[int, int] | None, sensor: tuple[int, int]) -> tuple[int, int]:
    """`(height, width)` of frames, checked: the sensor's by default, and never larger than it.

    >>> frame_size(64, (346, 260)), frame_size(None, (346, 260))
    ((64, 64), (260, 346))
    """
    width, height = sensor
    pair = (height, width) if size is None else (size, size) if isinstance(size, int) else size
    limits = (height, width)
    if len(pair) != 2 or not all(
        is_count(side) and side <= limit for side, limit in zip(pair, limits, strict=True)
    ):
        raise invalid(
            "size", size, f"one side or (height, width), at most the sensor's {height}x{width}"
        )
    return pair


def transpose(events: np.ndarray) -> np.ndarray:
    """Mirrored at the diagonal, x and y exchanged. Returns a copy.

    >>> transpose(np.array([(5, 3)], [("x", int), ("y", int)])).tolist()
    [(3, 5)]
    """
    mirrored = events.copy()
    mirrored["x"], mirrored["y"] = events["y"], events["x"]
    return mirrored


def drop_counted(frames: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """Each event is lost with this probability: every count is drawn from a binomial.

    frames: counts of any shape, such as a batch `[B, T, 2, H, W]` of uint8. Returns a copy. Exact
    below saturation: dropping events and then counting them has the same distribution.
    """
    kept = np.ascontiguousarray(frames).reshape(-1).copy()
    where = np.flatnonzero(kept)
    kept[where] = rng.binomial(kept[where], 1 - probability)
    return kept.reshape(frames.shape)


def brightest(counts: np.ndarray) -> float:
    """The count that is drawn at full brightness: the 99th percentile of those above 0."""
    above = counts[counts > 0]
    return max(1.0, float(np.percentile(above, 99))) if len(above) else 1.0
