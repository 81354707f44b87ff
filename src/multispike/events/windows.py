"""A recording cut into slices of equal time or of equally many events, as it comes."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from multispike.errors import invalid, is_count


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
        distances; a slice without events is left out. The last one has what is left.
    count: events of a slice. The last one has what is left.
    overlap: how much of a slice the next one repeats, in µs with `window_us`, in events with
        `count`: slices start `window_us - overlap` µs, or `count - overlap` events, apart.

    A slice is given out as soon as it is known to be whole: by time, that is when an event behind
    it, or the end, was read. Only the events of one slice and one piece are held.

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
    if isinstance(overlap, bool) or not 0 <= overlap < length:
        raise invalid("overlap", overlap, f"an integer from 0 to {length - 1}")
    return (_by_count if window_us is None else _by_time)(pieces, length, length - overlap)


def _by_time(pieces: Iterable[np.ndarray], window: int, step: int) -> Iterator[Slice]:
    start = None
    held: list[np.ndarray] = []
    for piece in pieces:
        if not len(piece):
            continue
        if start is None:
            start = int(piece["t"][0])
        held.append(piece)
        if piece["t"][-1] >= start + window:
            events = np.concatenate(held)
            start, done = yield from _windows(events, start, window, step, ended=False)
            held = [events[done:]]
    if start is not None:
        yield from _windows(np.concatenate(held), start, window, step, ended=True)


def _windows(
    events: np.ndarray, start: int, window: int, step: int, ended: bool
) -> Generator[Slice, None, tuple[int, int]]:
    """The slices that are whole; returns the start of the next one and the first event in it."""
    t = np.ascontiguousarray(events["t"])
    first = 0
    while first < len(t) and (ended or t[-1] >= start + window):
        stop = int(np.searchsorted(t, start + window))
        if stop > first:
            yield Slice(start, start + window, events[first:stop])
        start += step
        first = int(np.searchsorted(t, start))
        if first < len(t):
            # Silence may last for hours, so it is jumped over, not walked through.
            start += max(0, (int(t[first]) - start - window) // step + 1) * step
    return start, first


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
