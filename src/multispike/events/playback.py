"""When the slices of a recording come: as fast as they are asked for, or at its own pace."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from multispike.events.read import Recording
from multispike.events.windows import Slice, slices


class Arrival(NamedTuple):
    """A slice and when it was available, in seconds of `time.perf_counter`."""

    part: Slice
    available: float


class AsRead:
    """Every slice, as fast as they are asked for; a pipe is read no faster, so its writer waits.

    A slice is available once it has been asked for and read: that it lay in a pipe, or in a piece
    with slices before it, is no part of its latency. For `slicing` see
    `multispike.events.windows.slices`.
    """

    dropped = 0

    def __init__(self, recording: Recording, **slicing: int) -> None:
        self._slices = slices(recording, **slicing)
        self.close = recording.close

    def __iter__(self) -> Iterator[Arrival]:
        return (Arrival(part, time.perf_counter()) for part in self._slices)


class Realtime:
    """Slices at the recording's own pace, read by a thread; of those that wait, only the newest.

    The recording's clock starts at its first event, at the moment when that was read. A slice is
    available when its end has come by this clock, or when it was read, if that is later.

    dropped: slices that were never given out, since a newer one came while they waited.
    """

    def __init__(self, recording: Recording, **slicing: int) -> None:
        self.dropped = 0
        self._recording = recording
        self._slices = slices(recording, **slicing)
        self._waiting: Arrival | None = None
        self._ended = False
        self._error: BaseException | None = None
        self._change = threading.Condition()
        self._closing = threading.Event()
        # A daemon, as it may be waiting for a pipe in which nothing ever comes.
        self._thread = threading.Thread(target=self._read, name="reader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Arrival]:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting is not None or self._ended)
                arrival, self._waiting = self._waiting, None
            if arrival is not None:
                yield arrival
            elif self._error is not None:
                raise self._error
            else:
                return

    def close(self) -> None:
        """Stop reading and close the recording, at the latest when its next bytes come."""
        self._closing.set()
        self._thread.join(timeout=1.0)

    def _read(self) -> None:
        try:
            for part in self._slices:
                read = time.perf_counter()
                due = self._recording.began + (part.stop_us - self._recording.first_us) / 1e6
                while not self._closing.is_set() and (left := due - time.perf_counter()) > 0:
                    self._closing.wait(min(left, 60.0))  # a damaged clock may ask for centuries
                if self._closing.is_set():
                    return
                with self._change:
                    self.dropped += self._waiting is not None
                    self._waiting = Arrival(part, max(read, due))
                    self._change.notify()
        except BaseException as error:  # it belongs to the thread that asks for slices
            self._error = error
        finally:
            self._recording.close()
            with self._change:
                self._ended = True
                self._change.notify()
