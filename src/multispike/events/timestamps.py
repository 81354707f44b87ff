"""The times of a recording made to never go back, whatever the pieces in which it is read."""

from __future__ import annotations

import numpy as np

from multispike.events.codecs import Skipped

JITTER_US = 1000
"""Time may go back this far without being a restart of the clock: the order in which the rows of a
sensor are read differs from the order of their times."""

LONGEST_RUN = 1 << 16
"""Events of a run that may be wrong: as many as the fastest cameras send between two time words."""


class Clock:
    """Takes wrong times and steps back out of events that come piece by piece.

    A run is what lies between two steps of more than `JITTER_US`, in either direction. A short one
    that lies outside the time of its neighbours, which are in order, is left out: a damaged time
    word makes one, of all events up to the next word. So the events of a short run wait here until
    the run behind it begins, or the recording ends.
    """

    def __init__(self, skipped: Skipped) -> None:
        self._skipped = skipped
        self._waiting: np.ndarray | None = None
        self._waiting_numbers = np.empty(0, np.int64)
        self._before: int | None = None
        """Time, as in the file, of the event before those that wait."""
        self._streak = 0
        """How many runs in a row, before the one that waits, lie outside their neighbours' time."""
        self._given: int | None = None
        """Time, as it was given out, of the latest event."""
        self._given_raw = 0
        """The same event's time as in the file."""
        self._offset = 0

    def order(self, events: np.ndarray, numbers: np.ndarray, ended: bool = False) -> np.ndarray:
        """The events that are decided, with times that don't decrease.

        events: structured, with int64 µs in the field `t`, which is written to; numbers: which
        event of the recording each one is, for the account; ended: nothing will follow.
        """
        if self._waiting is not None:
            events = np.concatenate([self._waiting, events])
            numbers = np.concatenate([self._waiting_numbers, numbers])
        if not len(events):
            return events
        t = events["t"].copy()
        rises = not (t[1:] < t[:-1]).any() and (self._before is None or t[0] >= self._before)
        decided, wrong = (self._decided if rises else self._judged)(t, ended)
        waits = decided < len(t)
        self._waiting = events[decided:].copy() if waits else None
        self._waiting_numbers = numbers[decided:]
        if decided:
            self._before = int(t[decided - 1])
        events, numbers, t = events[:decided], numbers[:decided], t[:decided]
        if wrong is not None:
            lost = numbers[wrong]
            self._skipped.add("time out of order", len(lost), "events", int(lost[0]), "event")
            events, numbers, t = events[~wrong], numbers[~wrong], t[~wrong]
        if len(t):
            events["t"] = self._raised(t, numbers, rises)
        return events

    def _continues(self, t: np.ndarray) -> bool:
        """Whether the first of these events belongs to a run that can't be wrong any more."""
        if self._before is None:
            return True  # the first run of all: nothing before it says when it should be
        return self._waiting is None and abs(int(t[0]) - self._before) <= JITTER_US

    def _decided(self, t: np.ndarray, ended: bool) -> tuple[int, None]:
        """How many of events in order are decided: all, but for a short run at the end."""
        start = int(np.searchsorted(t, t[-1] - JITTER_US))
        begins = t[start] - t[start - 1] > JITTER_US if start else not self._continues(t)
        if ended or not begins or len(t) - start > LONGEST_RUN:
            start = len(t)
        if start:
            self._streak = 0
        return start, None

    def _judged(self, t: np.ndarray, ended: bool) -> tuple[int, np.ndarray | None]:
        """How many of the events are decided, and which of those are wrong (None: none)."""
        starts = np.append(0, np.flatnonzero(np.abs(np.diff(t)) > JITTER_US) + 1)
        stops = np.append(starts[1:], len(t))
        first, last = t[starts], t[stops - 1]
        before = np.append(first[0] if self._before is None else self._before, last[:-1])
        after = np.append(first[1:], last[-1])
        short = np.maximum.reduceat(t, starts) - first <= JITTER_US
        short &= first - np.minimum.reduceat(t, starts) <= JITTER_US
        short &= stops - starts <= LONGEST_RUN
        short[0] &= not self._continues(t)
        astray = short & (before <= after)
        astray &= (first < before - JITTER_US) | (last > after + JITTER_US)
        astray[-1] = False
        # What is right between two that went astray alike looks astray, too: of neighbours, every
        # second one is kept.
        place = np.arange(len(astray))
        count = place - np.maximum.accumulate(np.where(astray, -1 - self._streak, place))
        wrong = np.repeat(astray & (count % 2 == 1), stops - starts)
        decided = len(t)
        if short[-1] and not ended:
            decided = int(starts[-1])
            self._streak = int(count[-2]) if len(count) > 1 else self._streak
        else:
            self._streak = 0
        wrong = wrong[:decided]
        return decided, wrong if wrong.any() else None

    def _raised(self, t: np.ndarray, numbers: np.ndarray, rises: bool) -> np.ndarray:
        """Steps back taken out: short ones by waiting, long ones by shifting all that follows."""
        raw = int(t[-1])
        given = int(t[0]) + self._offset if self._given is None else self._given
        if rises and int(t[0]) + self._offset >= given:
            t = t + self._offset
        else:
            steps = np.diff(t, prepend=t[0] if self._given is None else self._given_raw)
            restarts = np.flatnonzero(steps < -JITTER_US)
            if len(restarts):
                first = int(numbers[restarts[0]])
                self._skipped.add("clock went back", len(restarts), "times", first, "event")
            shift = np.cumsum(np.where(steps < -JITTER_US, -steps, 0)) + self._offset
            self._offset = int(shift[-1])
            t = np.maximum(np.maximum.accumulate(t + shift), given)
        self._given, self._given_raw = int(t[-1]), raw
        return t
