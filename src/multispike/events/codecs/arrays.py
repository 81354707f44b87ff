"""Events kept as arrays: npy, npz and HDF5 in chunks; N-MNIST's 5-byte records at once."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from multispike.events.codecs import (
    DAMAGE,
    ByteSource,
    Columns,
    Decoded,
    Skipped,
    require,
    wrong_format,
)

NAMES = {
    "t": ("t", "ts", "timestamp", "timestamps", "time"),
    "x": ("x", "xs"),
    "y": ("y", "ys"),
    "p": ("p", "ps", "pol", "polarity", "on"),
}
"""What the four columns are called in the files of the field's tools."""

ARRAYS = "fields t, x, y and p (t in µs, or in seconds if it isn't whole)"

CENTURY_US = 3e15
NO_TIME = np.iinfo(np.int64).min
"""Stands for a time that is none, as it is too far from all others to be one."""

DECIDING = 1000
"""Events by whose times it is decided whether these are seconds."""


def column_names(names: Iterable[str], file: str) -> list[str]:
    """Which of `names` are t, x, y and p, in this order.

    >>> column_names(["x", "y", "pol", "ts"], "recording.npy")
    ['ts', 'x', 'y', 'pol']
    """
    lower = {name.lower(): name for name in names}
    found = [next((lower[n] for n in NAMES[c] if n in lower), None) for c in "txyp"]
    if None in found:
        given = ", ".join([*lower.values()][:8]) or "no fields"
        if len(lower) > 8:
            given += f" and {len(lower) - 8:,} more"
        raise wrong_format(file, f"an array with {given}", ARRAYS)
    return [name for name in found if name is not None]


def in_microseconds(t: np.ndarray, unit_us: float) -> np.ndarray:
    """Times of a unit in whole µs; what is no number, or beyond a century, becomes `NO_TIME`."""
    with np.errstate(over="ignore", invalid="ignore"):
        exact = t.astype(np.float64) * unit_us
    known = np.abs(exact) <= CENTURY_US
    return np.where(known, np.rint(np.where(known, exact, 0)).astype(np.int64), NO_TIME)


def _timed(pieces: Iterator[Columns]) -> Iterator[Columns]:
    """The same with t in whole µs: integers as they are; floats, too, if they are whole.

    If one of the first `DECIDING` times isn't whole, they are seconds. Until that is known, or the
    pieces end, events wait.
    """
    unit_us = None
    waiting: list[Columns] = []
    try:
        for piece in pieces:
            if piece.t.dtype.kind != "f":
                yield piece._replace(t=piece.t.astype(np.int64, copy=False))
                continue
            waiting.append(piece)
            if unit_us is None:
                t = np.concatenate([each.t for each in waiting])
                t = t[:DECIDING][np.isfinite(t[:DECIDING])]
                if (t != np.rint(t)).any():
                    unit_us = 1e6
                elif sum(len(each.t) for each in waiting) >= DECIDING:
                    unit_us = 1.0
            while unit_us is not None and waiting:
                piece = waiting.pop(0)
                yield piece._replace(t=in_microseconds(piece.t, unit_us))
    except DAMAGE:
        yield from (piece._replace(t=in_microseconds(piece.t, 1.0)) for piece in waiting)
        raise
    yield from (piece._replace(t=in_microseconds(piece.t, 1.0)) for piece in waiting)


def integers(values: np.ndarray) -> np.ndarray:
    """Coordinates or polarity as whole numbers; what is no number becomes -1."""
    if values.dtype.kind in "iub":
        return values.astype(np.int64, copy=False)
    return np.nan_to_num(values.astype(np.float64), nan=-1.0).clip(-1, 1 << 20).astype(np.int64)


def polarity(values: np.ndarray) -> np.ndarray:
    """1 where positive: files write 0 and 1, -1 and 1, or false and true."""
    return values > 0


def _columns(t: np.ndarray, x: np.ndarray, y: np.ndarray, p: np.ndarray) -> Columns:
    """One value an event in each, or a `ValueError`; t as it is in the file."""
    count = len(t)
    t, x, y, p = (values.reshape(count) for values in (t, x, y, p))
    return Columns(t, integers(x), integers(y), polarity(p))


def decode_npy(source: ByteSource, chunk: int, skipped: Skipped) -> Decoded:
    """A structured array with the fields t, x, y and p."""
    file = source.path or "the stream"
    shape, dtype = npy_header(source, file)
    names = column_names(dtype.names or (), file)

    def columns() -> Iterator[Columns]:
        missing = _length(shape)
        for _, data in source.words(dtype.itemsize, dtype.itemsize * chunk, skipped):
            records = np.frombuffer(data, dtype)[:missing]
            missing -= len(records)
            yield _columns(*(records[name] for name in names))
        if missing:
            skipped.add("missing at the end", missing, "events", source.position, "byte")

    return Decoded("npy", None, _timed(columns()))


def _length(shape: tuple[int, ...]) -> int:
    return math.prod(shape)


def npy_header(stream: Any, file: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an npy file, whose stream is left at the first value."""
    try:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # takes a damaged header for one of Python 2
            shape, fortran, dtype = read(stream)
    except Exception as error:  # whatever Python's own parser raises
        raise wrong_format(file, f"npy with a damaged header ({error})", "a whole header") from None
    if dtype.hasobject or dtype.itemsize == 0 or (fortran and len(shape) > 1):
        raise wrong_format(file, f"npy of {dtype}", ARRAYS)
    return shape, dtype


def decode_npz(source: ByteSource, chunk: int, skipped: Skipped) -> Decoded:
    """One array per column, as SpikingJelly writes them, compressed or not."""
    if source.path is None:
        raise wrong_format("the recording", "npz in a stream", "a file: its index is at the end")
    archive = zipfile.ZipFile(source.path)
    members = column_names((name.removesuffix(".npy") for name in archive.namelist()), source.path)

    def columns() -> Iterator[Columns]:
        with archive:
            streams = [archive.open(f"{name}.npy") for name in members]
            headers = [npy_header(stream, source.path or "") for stream in streams]
            dtypes = [dtype for _, dtype in headers]
            missing = _shortest([_length(shape) for shape, _ in headers], skipped)
            while missing > 0:
                count = min(chunk, missing)
                parts = [
                    np.frombuffer(stream.read(count * dtype.itemsize), dtype)
                    for stream, dtype in zip(streams, dtypes, strict=True)
                ]
                whole = min(len(part) for part in parts)
                yield _columns(*(part[:whole] for part in parts))
                if whole < count:
                    skipped.add("missing at the end", missing - whole, "events", missing, "event")
                    return
                missing -= count

    return Decoded("npz", None, _timed(columns()))


def decode_hdf5(source: ByteSource, chunk: int, skipped: Skipped) -> Decoded:
    """Arrays t, x, y and p in `/events`, `/CD/events` or the root, or one table there with them."""
    if source.path is None:
        raise wrong_format("the recording", "HDF5 in a stream", "a file: it is read out of order")
    h5py = require("h5py", "HDF5 recordings")
    file = h5py.File(source.path, "r")
    node: Any = next((file[name] for name in ("CD/events", "events") if name in file), file)
    is_table = isinstance(node, h5py.Dataset)
    names = column_names((node.dtype.names or ()) if is_table else node.keys(), source.path)

    def columns() -> Iterator[Columns]:
        with file:
            lengths = [len(node)] if is_table else [len(node[name]) for name in names]
            length = _shortest(lengths, skipped)
            for start in range(0, length, chunk):
                part = slice(start, min(start + chunk, length))
                if is_table:
                    table = node[part]
                    yield _columns(*(table[name] for name in names))
                else:
                    yield _columns(*(np.asarray(node[name][part]) for name in names))

    return Decoded("HDF5", None, _timed(columns()))


def _shortest(lengths: list[int], skipped: Skipped) -> int:
    """How many events there are if the columns differ in length."""
    length = min(lengths)
    if max(lengths) > length:
        skipped.add("columns of unequal length", max(lengths) - length, "events", length, "event")
    return length


def decode_nmnist(source: ByteSource, chunk: int, skipped: Skipped) -> Decoded:
    """N-MNIST's and N-Caltech101's 5-byte records, by Tonic's function; read at once (20 KB)."""
    tonic = require("tonic.io", "N-MNIST's recordings")
    # Tonic fills the fields by their order, which has to be this one.
    dtype = np.dtype([(name, np.int64) for name in "xytp"])

    def columns() -> Iterator[Columns]:
        data = source.read(1 << 28)
        whole = len(data) // 5 * 5
        skipped.add_bytes("cut off within an event", len(data) - whole, whole)
        events = tonic.read_mnist_file(io.BytesIO(data[:whole]), dtype, is_stream=True)
        yield Columns(events["t"], events["x"], events["y"], events["p"])

    return Decoded("N-MNIST", (34, 34), columns())
