"""A recording cut into slices of equal time or of equally many events, as it comes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from multispike.errors import invalid


class Slice(NamedTuple):
    """Events from `start_us` up to, not including, `stop_us`; never none."""

    start_us: int
    stop_us: int
    events: np.ndarray


def slices(
    pieces: Iterable[np.ndarray], *, window_us: int | None = None, count: int | None = None
) -> Iterator[Slice]:
    """Cut the pieces of a recording (`read_events`) by time or by count; exactly one is given.

    window_us: length of a slice. The first starts with the first event, the others follow without
        a gap; a slice without events is left out. The last one has what is left.
    count: events of a slice. What is left at the end and is fewer makes no slice, unless it is all
        there is.

    Only the events of one slice are held.

    >>> events = np.array([(0,), (4,), (9,), (31,)], [("t", int)])
    >>> [(s.start_us, s.stop_us, len(s.events)) for s in slices([events], window_us=10)]
    [(0, 10, 3), (30, 40, 1)]
    >>> [(s.start_us, s.stop_us, len(s.events)) for s in slices([events], count=2)]
    [(0, 5, 2), (9, 32, 2)]
    """
    if (window_us is None) == (count is None):
        raise invalid("window_us, count", (window_us, count), "one of them, and not both")
    for name, value in (("window_us", window_us), ("count", count)):
        if value is not None and (isinstance(value, bool) or value < 1):
            raise invalid(name, value, "an integer >= 1")
    return _by_time(pieces, window_us) if window_us else _by_count(pieces, count or 1)


def _by_time(pieces: Iterable[np.ndarray], window: int) -> Iterator[Slice]:
    start = None
    held: list[np.ndarray] = []
    for piece in pieces:
        while len(piece):
            if start is None:
                start = int(piece["t"][0])
            cut = int(np.searchsorted(piece["t"], start + window))
            if cut:
                held.append(piece[:cut])
            piece = piece[cut:]
            if len(piece):
                if held:
                    yield Slice(start, start + window, np.concatenate(held))
                    held = []
                # Silence may last for hours, so it is jumped over, not walked through.
                start += (int(piece["t"][0]) - start) // window * window
    if held and start is not None:
        yield Slice(start, start + window, np.concatenate(held))


def _by_count(pieces: Iterable[np.ndarray], count: int) -> Iterator[Slice]:
    held: list[np.ndarray] = []
    have = given = 0
    for piece in pieces:
        while len(piece):
            part, piece = piece[: count - have], piece[count - have :]
            held.append(part)
            have += len(part)
            if have == count:
                yield _slice(held)
                held, have, given = [], 0, given + 1
    if held and not given:
        yield _slice(held)


def _slice(held: list[np.ndarray]) -> Slice:
    events = np.concatenate(held)
    return Slice(int(events["t"][0]), int(events["t"][-1]) + 1, events)
