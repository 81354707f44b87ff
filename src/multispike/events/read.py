"""Recordings of event cameras as arrays, in constant memory: one function for all formats."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Generator, Iterator
from typing import Any, BinaryIO

import numpy as np

from multispike.errors import InputError, invalid, is_count
from multispike.events.codecs import (
    DAMAGE,
    JITTER_US,
    LATEST_US,
    MOST_EVENTS,
    RESTART,
    ByteSource,
    Columns,
    Decoded,
)
from multispike.events.codecs.arrays import decode_hdf5, decode_nmnist, decode_npy, decode_npz
from multispike.events.codecs.cameras import decode_aedat2, decode_aedat4, decode_prophesee

EVENT = np.dtype([("t", np.int64), ("x", np.int16), ("y", np.int16), ("p", np.uint8)], align=True)
"""One event: time in µs, column, row (from the upper left), and 1 for brighter, 0 for darker."""

_BY_CONTENT: dict[bytes, Callable[[ByteSource], Decoded]] = {
    b"% ": decode_prophesee,
    b"#!AER-DAT4": decode_aedat4,
    b"#!AER-DAT2": decode_aedat2,
    b"\x89HDF\r\n\x1a\n": decode_hdf5,
    b"\x93NUMPY": decode_npy,
    b"PK\x03\x04": decode_npz,
}
FORMATS = "EVT2, EVT3, DAT, AEDAT2, AEDAT4, HDF5, npy, npz or N-MNIST's .bin"

SUFFIXES = (".raw", ".dat", ".aedat4", ".aedat", ".npy", ".npz", ".h5", ".hdf5", ".bin")
"""What a folder of recordings is searched for."""


class Recording(Iterator[np.ndarray]):
    """The events of a recording in pieces, each an array of `EVENT`, with t never decreasing.

    format: what it was recognised as.
    sensor: `(width, height)`, None if neither the file nor the caller knows.
    skipped: what could not be used so far, or not as it is, and where.
    events: how many have been given out so far.
    first_us, last_us: times of the first and the last of these.
    began: when the first piece was there, in seconds of `time.perf_counter`.
    """

    def __init__(self, source: ByteSource, decoded: Decoded) -> None:
        self.format = decoded.format
        self.sensor = decoded.sensor
        self.skipped = source.skipped
        self.events = self.first_us = self.last_us = 0
        self.began = 0.0
        self._source = source
        self._latest_raw = self._latest = -LATEST_US  # time in the file, and as it was given out
        self._offset = 0
        self._pieces = self._usable(decoded.columns)

    def __next__(self) -> np.ndarray:
        """The next piece, never empty.

        Raises `InputError` at the end if there was not one event in the whole recording.
        """
        return next(self._pieces)

    def known_sensor(self) -> tuple[int, int]:
        """`sensor`; raises `InputError` if nobody knows it."""
        if self.sensor is None:
            where = self._source.path or f"a stream of {self.format}"
            raise invalid("sensor", None, f"WIDTHxHEIGHT in pixels, which {where} doesn't tell")
        return self.sensor

    def whole(self) -> np.ndarray:
        """All events; `InputError` for more than `MOST_EVENTS`."""
        pieces = []
        for piece in self:
            pieces.append(piece)
            if self.events > MOST_EVENTS:
                self.close()
                allowed = f"at most {MOST_EVENTS:,} events a sample"
                raise invalid("recording", self._source.path or "stream", allowed)
        return np.concatenate(pieces)

    def close(self) -> None:
        """Close the file; done at the end, too."""
        self._pieces.close()
        self._source.close()

    def _usable(self, columns: Iterator[Columns]) -> Generator[np.ndarray]:
        """Pieces of at most `chunk` events on the sensor, with a time, in the order of time."""
        chunk = self._source.chunk
        width, height = self.sensor or (1 << 15, 1 << 15)
        seen = 0
        try:
            for raw in columns:
                numbers = np.arange(seen, seen + len(raw.t))
                seen += len(raw.t)
                inside = (raw.x < width) & (raw.y < height)
                if raw.x.dtype.kind == "i":
                    inside &= (raw.x >= 0) & (raw.y >= 0)
                timed = (raw.t >= -LATEST_US) & (raw.t <= LATEST_US)
                usable = inside & timed
                if not usable.all():
                    self.skipped.add_events("outside the sensor", ~inside, numbers)
                    self.skipped.add_events("without a time", inside & ~timed, numbers)
                    raw, numbers = Columns(*(each[usable] for each in raw)), numbers[usable]
                events = np.empty(len(numbers), EVENT)
                for name, values in zip("xyp", raw[1:], strict=True):
                    events[name] = values
                if len(events):
                    events["t"] = self._never_back(raw.t.astype(np.int64, copy=False), numbers)
                for start in range(0, len(events), chunk):
                    piece = events[start : start + chunk]
                    if not self.events:
                        self.began, self.first_us = time.perf_counter(), int(piece["t"][0])
                    self.events += len(piece)
                    self.last_us = int(piece["t"][-1])
                    yield piece
        except InputError:
            raise
        except DAMAGE as error:
            reason = f"the rest, as reading failed ({type(error).__name__})"
            start = self._source.position
            if start:
                self.skipped.add(reason, self._source.drain(), "bytes", start, "byte")
            else:  # HDF5 and npz, which are not read through the source
                self.skipped.add(reason, 1, "times", seen, "event")
        finally:
            self._source.close()
        if not self.events:
            why = str(self.skipped) or "no event in it"
            raise invalid("recording", self._source.path or "stream", f"at least one event ({why})")

    def _never_back(self, t: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Times without steps back: a short one is raised, a long one shifts all that follows."""
        raw, self._latest_raw = self._latest_raw, int(t[-1])
        if t[0] >= raw and t[0] + self._offset >= self._latest and not (t[1:] < t[:-1]).any():
            t = t + self._offset
        else:
            steps = np.diff(t, prepend=raw)
            restarts = np.flatnonzero(steps < -JITTER_US)
            if len(restarts):
                first = int(numbers[restarts[0]])
                self.skipped.add(RESTART, len(restarts), "times", first, "event")
            offsets = self._offset + np.cumsum(np.where(steps < -JITTER_US, -steps, 0))
            self._offset = int(offsets[-1])
            t = np.maximum(np.maximum.accumulate(t + offsets), self._latest)
        self._latest = int(t[-1])
        return t


def read_events(
    source: str | os.PathLike[str] | BinaryIO,
    chunk: int = 1 << 16,
    sensor: tuple[int, int] | None = None,
    lying: Collection[str] = (),
) -> Recording:
    """Open a recording: EVT2, EVT3, DAT, AEDAT2, AEDAT4, HDF5, npy, npz, or N-MNIST's .bin.

    The format is told by the first bytes (N-MNIST's, which have no mark, by the suffix).

    source: a path, or a binary stream (HDF5 and npz need a path). A stream is read as it comes:
        events are given out as soon as the bytes are there.
    chunk: at most so many events a piece; memory does not depend on the recording's length, but
        for arrays in a file that have to be sorted.
    sensor: `(width, height)`, where the file doesn't tell it or tells it wrongly. Events outside
        are skipped and counted.
    lying: formats whose camera lay on its side: their x and y are exchanged.

    Of what is damaged or cut off, all that is whole is given out, and `.skipped` tells the rest.
    Steps back in time of up to 1 ms are raised to the latest time; behind a longer one (the clock
    wrapped, or was reset) time goes on from the latest. Arrays in a file are sorted; in a stream,
    they are refused if time goes back often.

    Raises `InputError` if there is no such file, its format is none of these, a library is
    missing, or, at the end, if not one event could be read.

    >>> import io
    >>> words = np.array([8 << 28 | 1, 1 << 28 | 5 << 22 | 7 << 11 | 9], "<u4")
    >>> recording = read_events(io.BytesIO(b"% evt 2.0\\n" + words.tobytes()))
    >>> [events.tolist() for events in recording], recording.format, recording.sensor
    ([[(69, 7, 9, 1)]], 'EVT2', (1280, 720))
    """
    if not is_count(chunk):
        raise invalid("chunk", chunk, "an integer >= 1")
    if sensor is not None and not all(1 <= side <= 1 << 15 for side in sensor):
        raise invalid("sensor", sensor, "(width, height), from 1 to 32768 pixels")
    path = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
    try:
        stream: Any = source if path is None else open(path, "rb")  # noqa: SIM115  see close()
    except OSError as error:
        raise invalid("recording", path, f"a readable file ({error.strerror})") from None
    events = ByteSource(stream, path, chunk, sensor)
    try:
        head = events.peek(16)
        decode = next((_BY_CONTENT[mark] for mark in _BY_CONTENT if head.startswith(mark)), None)
        if decode is None and head and path and path.lower().endswith(".bin"):
            decode = decode_nmnist
        if decode is None:
            raise events.refused(head or "an empty file", FORMATS)
        found = decode(events)
    except DAMAGE as error:
        events.close()
        if isinstance(error, InputError):
            raise
        raise events.refused(f"a damaged file ({error})", FORMATS) from None
    size, columns = sensor or found.sensor, found.columns
    if found.format in lying:
        size = size and (size[1], size[0])
        columns = (Columns(t, y, x, p) for t, x, y, p in columns)
    return Recording(events, Decoded(found.format, size, columns))
