"""Events kept as arrays: npy, npz and HDF5 in chunks; N-MNIST's 5-byte records at once."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from multispike.events.codecs import DAMAGE, ByteSource, Columns, Decoded, require

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


def in_microseconds(t: np.ndarray, unit_us: float) -> np.ndarray:
    """Times of a unit in whole µs; what is no number, or beyond a century, becomes `NO_TIME`."""
    with np.errstate(over="ignore", invalid="ignore"):
        exact = t.astype(np.float64) * unit_us
    known = np.abs(exact) <= CENTURY_US
    return np.where(known, np.rint(np.where(known, exact, 0)).astype(np.int64), NO_TIME)


def integers(values: np.ndarray) -> np.ndarray:
    """Coordinates or polarity as whole numbers; what is no number becomes -1."""
    if values.dtype.kind in "iub":
        return values.astype(np.int64, copy=False)
    return np.nan_to_num(values.astype(np.float64), nan=-1.0).clip(-1, 1 << 20).astype(np.int64)


def polarity(values: np.ndarray) -> np.ndarray:
    """1 where positive: files write 0 and 1, -1 and 1, or false and true."""
    return values > 0


def _column_names(names: Iterable[str], source: ByteSource) -> list[str]:
    """Which of `names` are t, x, y and p, in this order."""
    lower = {name.lower(): name for name in names}
    found = [next((lower[n] for n in NAMES[c] if n in lower), None) for c in "txyp"]
    if None in found:
        given = ", ".join([*lower.values()][:8]) or "no fields"
        if len(lower) > 8:
            given += f" and {len(lower) - 8:,} more"
        raise source.refused(f"an array with {given}", ARRAYS)
    return [name for name in found if name is not None]


def _timed(pieces: Iterable[Sequence[np.ndarray]]) -> Iterator[Columns]:
    """Events of columns t, x, y and p, as they are in the file, with t in whole µs.

    Integers stay as they are; floats, too, if they are whole. If one of the first `DECIDING` times
    isn't whole, they are seconds. Until that is known, or the pieces end, events wait. Columns
    that don't have one value an event raise `ValueError`.
    """
    unit_us = None
    waiting: list[Columns] = []

    def in_unit(unit: float) -> Iterator[Columns]:
        while waiting:
            events = waiting.pop(0)
            yield events._replace(t=in_microseconds(events.t, unit))

    try:
        for columns in pieces:
            t, x, y, p = (column.reshape(len(columns[0])) for column in columns)
            events = Columns(t, integers(x), integers(y), polarity(p))
            if t.dtype.kind != "f":
                yield events._replace(t=t.astype(np.int64, copy=False))
                continue
            waiting.append(events)
            if unit_us is None:
                first = np.concatenate([each.t for each in waiting])[:DECIDING]
                known = first[np.isfinite(first)]
                if (known != np.rint(known)).any():
                    unit_us = 1e6
                elif len(first) == DECIDING:
                    unit_us = 1.0
            if unit_us is not None:
                yield from in_unit(unit_us)
    except DAMAGE:
        yield from in_unit(1.0)
        raise
    yield from in_unit(1.0)


def decode_npy(source: ByteSource) -> Decoded:
    """A structured array with the fields t, x, y and p."""
    count, dtype = _npy_header(source, source)
    names = _column_names(dtype.names or (), source)

    def columns() -> Iterator[Sequence[np.ndarray]]:
        missing = count
        for _, data in source.words(dtype.itemsize):
            records = np.frombuffer(data, dtype)[:missing]
            missing -= len(records)
            yield [records[name] for name in names]
        if missing:
            source.skipped.add("missing at the end", missing, "events", source.position, "byte")

    return Decoded("npy", None, _timed(columns()))


def _npy_header(stream: Any, source: ByteSource) -> tuple[int, np.dtype]:
    """Number and type of an npy file's values; its stream is left at the first one."""
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
        raise source.refused(f"npy with a damaged header ({error})", "a whole header") from None
    if dtype.hasobject or dtype.itemsize == 0 or (fortran and len(shape) > 1):
        raise source.refused(f"npy of {dtype}", ARRAYS)
    return math.prod(shape), dtype


def decode_npz(source: ByteSource) -> Decoded:
    """One array per column, as SpikingJelly writes them, compressed or not."""
    if source.path is None:
        raise source.refused("npz in a stream", "a file: its index is at the end")
    archive = zipfile.ZipFile(source.path)
    members = _column_names((name.removesuffix(".npy") for name in archive.namelist()), source)

    def columns() -> Iterator[Sequence[np.ndarray]]:
        with archive:
            streams = [archive.open(f"{name}.npy") for name in members]
            lengths, dtypes = zip(*(_npy_header(each, source) for each in streams), strict=True)
            missing = _shortest(lengths, source)
            while missing > 0:
                count = min(source.chunk, missing)
                parts = [
                    np.frombuffer(stream.read(count * dtype.itemsize), dtype)
                    for stream, dtype in zip(streams, dtypes, strict=True)
                ]
                whole = min(len(part) for part in parts)
                yield [part[:whole] for part in parts]
                if whole < count:
                    lost = missing - whole
                    source.skipped.add("missing at the end", lost, "events", missing, "event")
                    return
                missing -= count

    return Decoded("npz", None, _timed(columns()))


def decode_hdf5(source: ByteSource) -> Decoded:
    """Arrays t, x, y and p in `/events`, `/CD/events` or the root, or one table there with them."""
    if source.path is None:
        raise source.refused("HDF5 in a stream", "a file: it is read out of order")
    h5py = require("h5py", "HDF5 recordings")
    file = h5py.File(source.path, "r")
    node: Any = next((file[name] for name in ("CD/events", "events") if name in file), file)
    is_table = isinstance(node, h5py.Dataset)
    names = _column_names((node.dtype.names or ()) if is_table else node.keys(), source)

    def columns() -> Iterator[Sequence[np.ndarray]]:
        with file:
            length = len(node) if is_table else _shortest([len(node[n]) for n in names], source)
            for start in range(0, length, source.chunk):
                part = slice(start, min(start + source.chunk, length))
                table = node[part] if is_table else {name: node[name][part] for name in names}
                yield [np.asarray(table[name]) for name in names]

    return Decoded("HDF5", None, _timed(columns()))


def _shortest(lengths: Sequence[int], source: ByteSource) -> int:
    """How many events there are if the columns differ in length."""
    length, most = min(lengths), max(lengths)
    if most > length:
        source.skipped.add("columns of unequal length", most - length, "events", length, "event")
    return length


def decode_nmnist(source: ByteSource) -> Decoded:
    """N-MNIST's and N-Caltech101's 5-byte records, by Tonic's function; read at once (20 KB)."""
    tonic = require("tonic.io", "N-MNIST's recordings")
    # Tonic fills the fields by their order, which has to be this one.
    dtype = np.dtype([(name, np.int64) for name in "xytp"])

    def columns() -> Iterator[Columns]:
        data = source.read(1 << 28)
        whole = len(data) // 5 * 5
        source.skipped.add_bytes("cut off within an event", len(data) - whole, whole)
        events = tonic.read_mnist_file(io.BytesIO(data[:whole]), dtype, is_stream=True)
        yield Columns(events["t"], events["x"], events["y"], events["p"])

    return Decoded("N-MNIST", (34, 34), columns())
