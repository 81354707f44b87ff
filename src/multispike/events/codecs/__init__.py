"""How each file format of event cameras is turned into arrays; `read_events` chooses the decoder.

A decoder is a function from a `ByteSource` to `Decoded`, as raw as the file: `Recording` checks
coordinates and time. What it can't read it skips and tells in `source.skipped`, or raises `DAMAGE`.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from multispike.errors import InputError, invalid

DAMAGE = (
    OSError, EOFError, ValueError, KeyError, TypeError, IndexError, OverflowError, MemoryError,
    RuntimeError, NotImplementedError, SyntaxError, struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip
"""What the libraries underneath raise on hostile bytes; what ends a recording, not the program."""

LATEST_US = 1 << 61
"""Times beyond this, in either direction, are damage; below it differences don't overflow."""

JITTER_US = 1000
"""Time may go back this far without a restart of the clock: sensors read rows out of order."""

RESTART = "clock went back"
"""The reason in `Skipped` of steps back that are longer."""

MOST_EVENTS = 1 << 26
"""Events that are held in memory at once, to be sorted or counted; they take up to 4 GB."""

LONGEST_LINE = 4096
"""Bytes of a header's line that are believed."""


class Columns(NamedTuple):
    """Events as four arrays of one length, of any integer type, in the order of the file."""

    t: np.ndarray
    x: np.ndarray
    y: np.ndarray
    p: np.ndarray


@dataclass(frozen=True)
class Decoded:
    """What a decoder has found: the format's name, `(width, height)` or None, and the events."""

    format: str
    sensor: tuple[int, int] | None
    columns: Iterator[Columns]


@dataclass
class Skip:
    """How much is not as it should be for one reason, and where it was first."""

    count: int
    unit: str
    position: int
    place: str

    def __str__(self) -> str:
        return f"{self.count} {self.unit} (first at {self.place} {self.position})"


class Skipped(dict[str, Skip]):
    """The account of what a recording holds and could not be used as it is, by reason.

    >>> skipped = Skipped()
    >>> skipped.add("outside the sensor", 2, "events", 17, "event")
    >>> skipped.add("outside the sensor", 1, "events", 90, "event")
    >>> print(skipped)
    outside the sensor: 3 events (first at event 17)
    """

    def add(self, reason: str, count: int, unit: str, position: int, place: str) -> None:
        """Add to a reason, if `count` isn't 0; the position that was told first is kept."""
        if count:
            self.setdefault(reason, Skip(0, unit, position, place)).count += count

    def add_bytes(self, reason: str, count: int, position: int) -> None:
        """`count` bytes from byte `position` of the recording were not understood."""
        self.add(reason, count, "bytes", position, "byte")

    def add_events(self, reason: str, wrong: np.ndarray, numbers: np.ndarray) -> None:
        """The events where `wrong` is true; numbers: which of the recording each of them is."""
        if wrong.any():
            self.add(reason, int(wrong.sum()), "events", int(numbers[wrong.argmax()]), "event")

    def __str__(self) -> str:
        return "; ".join(f"{reason}: {skip}" for reason, skip in self.items())

    def to_dicts(self) -> list[dict[str, Any]]:
        return [
            {"reason": reason, "count": skip.count, "unit": skip.unit,
             "first_at": {"unit": skip.place, "position": skip.position}}
            for reason, skip in self.items()
        ]  # fmt: skip


class ByteSource:
    """A binary stream read forwards only: a file, a pipe or standard input.

    path: the file's name where there is one; seekable: whether that isn't a pipe.
    chunk: how many events a piece should have; sensor: `(width, height)` if the caller knows it.
    position: bytes given out so far; skipped: what could not be used of them.
    """

    def __init__(
        self,
        stream: BinaryIO,
        path: str | None = None,
        chunk: int = 1 << 16,
        sensor: tuple[int, int] | None = None,
    ) -> None:
        self.path = path
        self.chunk = chunk
        self.sensor = sensor
        self.position = 0
        self.skipped = Skipped()
        self.seekable = path is not None and stream.seekable()
        self._stream = stream
        self._head = b""
        # read1 gives what a pipe holds now, where read would wait for the whole block.
        self._some = getattr(stream, "read1", stream.read)

    def peek(self, count: int, end: bytes | None = None) -> bytes:
        """The next `count` bytes without moving on; fewer at the end, or if they hold `end`."""
        while len(self._head) < count and not (end and end in self._head):
            more = self._some(count - len(self._head))
            if not more:
                break
            self._head += more
        return self._head[:count]

    def peek_line(self) -> bytes:
        """The next line without its end, without moving on."""
        return self.peek(LONGEST_LINE, end=b"\n").partition(b"\n")[0]

    def line(self) -> str:
        """The next line without its end, waiting for no more than it."""
        line = self.peek_line()
        self.read_some(len(line) + 1)
        return line.decode("latin-1").strip()

    def read(self, count: int) -> bytes:
        """The next `count` bytes, fewer only at the end."""
        whole = bytearray()  # that grows, so that a damaged length costs no memory
        while data := self.read_some(min(count - len(whole), 1 << 20)):
            whole += data
        return bytes(whole)

    def read_some(self, count: int) -> bytes:
        """At most `count` bytes, at least one unless at the end; waits no longer than for that."""
        if self._head:
            data, self._head = self._head[:count], self._head[count:]
        else:
            data = self._some(count)
        self.position += len(data)
        return data

    def words(self, size: int) -> Iterator[tuple[int, bytes]]:
        """The rest as (start, piece), each of at most `chunk` whole words of `size` bytes."""
        rest = b""
        while data := self.read_some(size * self.chunk):
            start = self.position - len(data) - len(rest)
            data = rest + data
            whole = len(data) // size * size
            rest = data[whole:]
            if whole:
                yield start, data[:whole]
        self.skipped.add_bytes("cut off within an event", len(rest), self.position - len(rest))

    def rewind(self, position: int) -> None:
        """Go back to where `self.position` once was; for files that are `seekable`."""
        self._stream.seek(position)
        self._head, self.position = b"", position

    def drain(self) -> int:
        """Read to the end; the number of bytes."""
        start = self.position
        while self.read_some(1 << 20):
            pass
        return self.position - start

    def close(self) -> None:
        """Close the file; a stream without a path is the caller's and stays open."""
        if self.path is not None:
            self._stream.close()

    def refused(self, found: object, allowed: str) -> InputError:
        """An `InputError` for a recording that is no recording, or of a kind that isn't read."""
        return invalid(f"format of {self.path or 'the stream'}", found, allowed)


def require(module: str, what: str) -> Any:
    """Import a library of the extra `events`, or say in one line how to get it."""
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ImportError as error:
        if error.name != package:
            raise  # it is there, but broken: its own message says more
        allowed = "after `pip install multispike[events]`"
        raise InputError(f"{what}: needs the package {package}, allowed: {allowed}") from None
