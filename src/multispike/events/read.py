"""Recordings of event cameras as arrays, in constant memory: one function for all formats.

for events in read_events("recording.raw"):
    print(events["t"], events["x"], events["y"], events["p"])
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from multispike.errors import InputError, invalid, is_count
from multispike.events.codecs import DAMAGE, ByteSource, Columns, Decoded, Skipped, wrong_format
from multispike.events.codecs.aedat import decode_aedat2, decode_aedat4
from multispike.events.codecs.arrays import decode_hdf5, decode_nmnist, decode_npy, decode_npz
from multispike.events.codecs.evt import decode_evt
from multispike.events.timestamps import Clock

EVENT = np.dtype([("t", np.int64), ("x", np.int16), ("y", np.int16), ("p", np.uint8)], align=True)
"""One event: time in µs, column, row (from the upper left), and 1 for brighter, 0 for darker."""

LATEST_US = 1 << 61
"""Times beyond this, in either direction, are damage; below it differences don't overflow."""

SUFFIXES = (".raw", ".aedat4", ".aedat", ".npy", ".npz", ".h5", ".hdf5", ".bin")
"""What a folder of recordings is searched for."""

_Decoder = Callable[[ByteSource, int, Skipped], Decoded]

_BY_CONTENT: tuple[tuple[bytes, _Decoder], ...] = (
    (b"% ", decode_evt),
    (b"#!AER-DAT4", decode_aedat4),
    (b"#!AER-DAT2", decode_aedat2),
    (b"\x89HDF\r\n\x1a\n", decode_hdf5),
    (b"\x93NUMPY", decode_npy),
    (b"PK\x03\x04", decode_npz),
)
_BY_SUFFIX: dict[str, _Decoder] = {".bin": decode_nmnist}
FORMATS = "EVT2, EVT3, AEDAT2, AEDAT4, HDF5, npy, npz or N-MNIST's .bin"


class Recording(Iterator[np.ndarray]):
    """The events of a recording in pieces, each an array of `EVENT`, with t never decreasing.

    format: what it was recognised as.
    sensor: `(width, height)`, None if neither the file nor the caller knows.
    skipped: what could not be used so far, and where.
    events: how many have been given out so far.
    """

    def __init__(
        self, source: ByteSource, decoded: Decoded, chunk: int, skipped: Skipped, close: bool
    ) -> None:
        self.format = decoded.format
        self.sensor = decoded.sensor
        self.skipped = skipped
        self.events = 0
        self._source = source
        self._chunk = chunk
        self._close = close
        self._clock = Clock(skipped)
        self._seen = 0
        self._pieces = self._make(decoded.columns)

    def __next__(self) -> np.ndarray:
        """The next piece, never empty.

        Raises `InputError` at the end if there was not one event in the whole recording.
        """
        piece = next(self._pieces)
        self.events += len(piece)
        return piece

    def close(self) -> None:
        """Close the file; done at the end, too."""
        self._pieces.close()
        if self._close:
            self._source.close()

    def _make(self, columns: Iterator[Columns]):
        try:
            while (piece := self._checked(columns)) is not None:
                yield from self._parts(self._clock.order(*piece))
            nothing = np.empty(0, EVENT), np.empty(0, np.int64)
            yield from self._parts(self._clock.order(*nothing, ended=True))
            if not self.events:
                why = str(self.skipped) or "no event in it"
                raise invalid(
                    "recording", self._source.path or "stream", f"at least one event ({why})"
                )
        finally:
            if self._close:
                self._source.close()

    def _parts(self, events: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(events), self._chunk):
            yield events[start : start + self._chunk]

    def _checked(self, columns: Iterator[Columns]) -> tuple[np.ndarray, np.ndarray] | None:
        """The next piece of the decoder without events that can't be, and the numbers of the rest.

        None at the end.
        """
        try:
            raw = next(columns, None)
            if raw is None:
                return None
            numbers = np.arange(self._seen, self._seen + len(raw.t))
            self._seen += len(raw.t)
            usable = self._usable(raw, numbers)
        except InputError:
            raise
        except DAMAGE as error:
            reason = f"the rest, as reading failed ({type(error).__name__})"
            start = self._source.position
            if start:
                self.skipped.add(reason, self._source.drain(), "bytes", start, "byte")
            else:  # HDF5 and npz, which are not read through the source
                self.skipped.add(reason, 1, "times", self._seen, "event")
            return None
        if usable is not None:
            numbers = numbers[usable]
        events = np.empty(len(numbers), EVENT)
        for name, values in zip("txyp", raw, strict=True):
            events[name] = values if usable is None else values[usable]
        return events, numbers

    def _usable(self, raw: Columns, numbers: np.ndarray) -> np.ndarray | None:
        """Which events lie on the sensor and have a time; None if all do, which is usual."""
        width, height = self.sensor or (1 << 15, 1 << 15)
        inside = (raw.x < width) & (raw.y < height)
        if raw.x.dtype.kind == "i":
            inside &= (raw.x >= 0) & (raw.y >= 0)
        usable = inside & (raw.t >= -LATEST_US) & (raw.t <= LATEST_US)
        if usable.all():
            return None
        for reason, wrong in ("outside the sensor", ~inside), ("without a time", inside & ~usable):
            if wrong.any():
                first = int(numbers[wrong][0])
                self.skipped.add(reason, int(wrong.sum()), "events", first, "event")
        return usable


def read_events(
    source: str | os.PathLike[str] | BinaryIO,
    chunk: int = 1 << 16,
    sensor: tuple[int, int] | None = None,
) -> Recording:
    """Open a recording: EVT2, EVT3, AEDAT2, AEDAT4, HDF5, npy, npz, or N-MNIST's .bin.

    The format is told by the first bytes (N-MNIST's, which have no mark, by the suffix).

    source: a path, or a binary stream (HDF5 and npz need a path). A stream is read as it comes:
        events are given out as soon as the bytes are there.
    chunk: at most so many events a piece; memory does not depend on the recording's length.
    sensor: `(width, height)`, where the file doesn't tell it or tells it wrongly. Events outside
        are skipped and counted.

    A recording that is damaged, cut off or has a clock that jumps never raises as long as one
    event could be read: what is whole is given out, `.skipped` tells what was not. Time: single
    events out of order are dropped, steps back of up to 1 ms are raised to the latest time, and
    behind a longer one (the clock wrapped, or was reset) time goes on from the latest. Behind a
    gap of more than 1 ms events wait until what follows tells whether their time is right.

    Raises `InputError` if there is no such file, its format is none of these, a library is
    missing, or, at the end, if nothing could be read.

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
    path = Path(source) if isinstance(source, (str, os.PathLike)) else None
    if path is None:
        stream: BinaryIO = source  # type: ignore[assignment]
    else:
        try:
            stream = open(path, "rb")  # noqa: SIM115  closed by the recording
        except OSError as error:
            raise invalid("recording", str(path), f"a readable file ({error.strerror})") from None
    bytes_source = ByteSource(stream, None if path is None else str(path))
    skipped = Skipped()
    try:
        decode = _decoder(bytes_source, path)
        decoded = decode(bytes_source, chunk, skipped)
    except DAMAGE as error:
        if path is not None:
            stream.close()
        if isinstance(error, InputError):
            raise
        name = str(path or "the stream")
        raise wrong_format(name, f"a damaged file ({error})", FORMATS) from None
    if sensor is not None:
        decoded = Decoded(decoded.format, sensor, decoded.columns)
    return Recording(bytes_source, decoded, chunk, skipped, close=path is not None)


def _decoder(source: ByteSource, path: Path | None) -> _Decoder:
    head = source.peek(16)
    name = str(path or "the stream")
    if not head:
        raise wrong_format(name, "an empty file", FORMATS)
    for mark, decode in _BY_CONTENT:
        if head.startswith(mark):
            return decode
    suffix = path.suffix.lower() if path else ""
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    raise wrong_format(name, head, FORMATS)
