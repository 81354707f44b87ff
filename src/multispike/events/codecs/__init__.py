"""How each file format of event cameras is turned into arrays; `recordings` is the way in.

A decoder is a function `(source: ByteSource, chunk: int, skipped: Skipped) -> Decoded`. What it
gives is as raw as the file: the caller checks coordinates and time. A decoder must not fail for
what a file holds: it skips what it can't read and says so in `skipped`, or raises one of `DAMAGE`.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from multispike.errors import InputError, invalid

DAMAGE = (
    OSError, EOFError, ValueError, KeyError, TypeError, IndexError, OverflowError, MemoryError,
    RuntimeError, NotImplementedError, SyntaxError, struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip
"""What the libraries underneath raise on hostile bytes; what ends a recording, not the program."""


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
    """How much was left out for one reason, and where it was first."""

    count: int
    unit: str
    position: int
    place: str

    def __str__(self) -> str:
        return f"{self.count} {self.unit} (first at {self.place} {self.position})"


@dataclass
class Skipped:
    """The account of what a recording holds and could not be used, by reason.

    >>> skipped = Skipped()
    >>> skipped.add("outside the sensor", 2, "events", 17, "event")
    >>> skipped.add("outside the sensor", 1, "events", 90, "event")
    >>> print(skipped)
    outside the sensor: 3 events (first at event 17)
    """

    reasons: dict[str, Skip] = field(default_factory=dict)

    def add(self, reason: str, count: int, unit: str, position: int, place: str) -> None:
        """Add to a reason; the position that was told first is kept."""
        if reason in self.reasons:
            self.reasons[reason].count += count
        else:
            self.reasons[reason] = Skip(count, unit, position, place)

    def add_bytes(self, reason: str, count: int, position: int) -> None:
        """`count` bytes from byte `position` of the recording were not understood."""
        if count:
            self.add(reason, count, "bytes", position, "byte")

    def count(self, unit: str) -> int:
        """All that was skipped in `unit`: "events", "bytes" or "times"."""
        return sum(skip.count for skip in self.reasons.values() if skip.unit == unit)

    def __bool__(self) -> bool:
        return bool(self.reasons)

    def __str__(self) -> str:
        return "; ".join(f"{reason}: {skip}" for reason, skip in self.reasons.items())


class ByteSource:
    """A binary stream read forwards only: a file, a pipe or standard input.

    position: bytes given out so far. path: the file's name where there is one.
    """

    def __init__(self, stream: BinaryIO, path: str | None = None) -> None:
        self.path = path
        self.position = 0
        self._stream = stream
        self._head = b""
        # read1 gives what a pipe holds now, where read would wait for the whole block.
        self._some = getattr(stream, "read1", stream.read)

    def peek(self, count: int) -> bytes:
        """The next `count` bytes, fewer only at the end, without moving on."""
        while len(self._head) < count:
            more = self._some(count - len(self._head))
            if not more:
                break
            self._head += more
        return self._head[:count]

    def peek_line(self) -> bytes:
        """The next line without its end, `LONGEST_LINE` bytes at most, without moving on."""
        while b"\n" not in self._head and len(self._head) < LONGEST_LINE:
            more = self._some(LONGEST_LINE - len(self._head))
            if not more:
                break
            self._head += more
        return self._head[:LONGEST_LINE].partition(b"\n")[0]

    def line(self) -> str:
        """The next line without its end, waiting for no more than it."""
        line = self.peek_line()
        self._take(len(line) + 1)
        return line.decode("latin-1").strip()

    def read(self, count: int) -> bytes:
        """The next `count` bytes, fewer only at the end."""
        parts = [self._take(count)]
        missing = count - len(parts[0])
        while missing > 0:
            more = self._stream.read(min(missing, 1 << 20))  # a damaged length costs no memory
            if not more:
                break
            parts.append(more)
            missing -= len(more)
        self.position += count - missing - len(parts[0])
        return b"".join(parts)

    def read_some(self, count: int) -> bytes:
        """At most `count` bytes, at least one unless at the end; waits no longer than for that."""
        if self._head:
            return self._take(count)
        data = self._some(count)
        self.position += len(data)
        return data

    def words(self, size: int, block: int, skipped: Skipped) -> Iterator[tuple[int, bytes]]:
        """The rest as (start, piece), in pieces of whole `size`-byte words, about `block` bytes."""
        rest = b""
        while data := self.read_some(block):
            start = self.position - len(data) - len(rest)
            data = rest + data
            whole = len(data) // size * size
            rest = data[whole:]
            if whole:
                yield start, data[:whole]
        skipped.add_bytes("cut off within an event", len(rest), self.position - len(rest))

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()

    def drain(self) -> int:
        """Read to the end; the number of bytes."""
        start = self.position
        while self.read_some(1 << 20):
            pass
        return self.position - start

    def _take(self, count: int) -> bytes:
        data, self._head = self._head[:count], self._head[count:]
        self.position += len(data)
        return data


def require(module: str, what: str) -> Any:
    """Import a library of the extra `events`, or say in one line how to get it."""
    try:
        return import_module(module)
    except ImportError as error:
        if error.name != module.partition(".")[0]:
            raise  # it is there, but broken: its own message says more
        raise InputError(
            f"{what}: needs the package {module.partition('.')[0]},"
            " allowed: after `pip install multispike[events]`"
        ) from None


def wrong_format(name: str, found: object, allowed: str) -> InputError:
    """An `InputError` for a recording that is no recording, or of a kind that isn't read."""
    return invalid(f"format of {name}", found, allowed)
