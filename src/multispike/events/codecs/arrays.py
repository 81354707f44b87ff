"""Events kept as arrays: npy, npz and HDF5 in chunks; N-MNIST's 5-byte records.

A file whose times aren't in order (blocks by polarity, simulations in parallel) is sorted, which
takes its size in memory. A stream can't be; it is refused if its time goes back often.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from importlib import import_module
from itertools import chain
from typing import Any

import numpy as np

from multispike.errors import invalid
from multispike.events.codecs import (
    DAMAGE,
    MOST_EVENTS,
    RESTART,
    ByteSource,
    Columns,
    Decoded,
    require,
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

WIDEST = 1 << 10
"""Bytes of an event that are believed."""

LARGEST_CHUNK = 1 << 28
"""Bytes of HDF5 that are decompressed at once."""

FEW, UNSORTED = 10, 0.01
"""How often the time of a stream may go back: a few times, or in this share of its events."""

BLOSC = 32001
FILTERS = {
    BLOSC: "blosc", 32004: "lz4", 32008: "bitshuffle", 32013: "zfp", 32015: "zstd",
    32026: "blosc2", 36559: "ECF, brought by Metavision",
}  # fmt: skip
"""Compressions of HDF5 that h5py finds in plugins only. hdf5plugin brings all but the last."""

Read = Callable[[Sequence[str]], Iterator[list[np.ndarray]]]
"""Gives the columns of these names in pieces, as they are in the file. Files can be read again."""


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
    found = [next((lower[name] for name in NAMES[c] if name in lower), "") for c in "txyp"]
    if not all(found):
        given = ", ".join(lower.values())[:200] or "no fields"
        raise source.refused(f"an array with {given}", ARRAYS)
    return found


def _events(read: Read, names: Sequence[str], source: ByteSource) -> Iterator[Columns]:
    """The events of columns t, x, y and p, in the order of time or nearly so."""
    back, first, seen = _steps_back(read, names[0]) if source.seekable else (0, 0, 0)
    source.skipped.clear()  # it is told when all columns are read
    columns = _columns(read(names), source)
    if back and seen <= MOST_EVENTS:
        source.skipped.add("not in the order of time, so sorted", back, "times", first, "event")
        columns = _sorted(columns, source.chunk)
    seen = 0
    for events in _timed(columns):
        yield events
        seen += len(events.t)
        restarts = source.skipped.get(RESTART)
        if restarts and restarts.count > max(FEW, UNSORTED * seen):
            allowed = f"events in the order of time; files of up to {MOST_EVENTS:,} are sorted"
            raise invalid("recording", source.path or "a stream", allowed)


def _steps_back(read: Read, name: str) -> tuple[int, int, int]:
    """How often the times decrease, at which event first, and how many events there are; no further
    than to one event too many for sorting."""
    back = first = seen = 0
    latest = None
    with suppress(*DAMAGE):
        for (t,) in read([name]):
            times = np.ravel(t) if latest is None else np.append(latest, t)
            less = times[1:] < times[:-1]
            if not back and less.any():
                first = seen + len(t) - len(less) + int(less.argmax())
            back += int(less.sum())
            seen, latest = seen + len(t), times[-1:]
            if seen > MOST_EVENTS:
                break
    return back, first, seen


def _sorted(pieces: Iterator[Columns], chunk: int) -> Iterator[Columns]:
    """All events sorted by time, in pieces; damage is raised behind them."""
    held: list[Columns] = []
    damage = None
    try:
        held.extend(pieces)
    except DAMAGE as error:
        damage = error
    if held:
        columns = [np.concatenate(parts) for parts in zip(*held, strict=True)]
        order = np.argsort(columns[0], kind="stable")
        for start in range(0, len(order), chunk):
            yield Columns(*(column[order[start : start + chunk]] for column in columns))
    if damage is not None:
        raise damage


def _columns(pieces: Iterable[list[np.ndarray]], source: ByteSource) -> Iterator[Columns]:
    """Columns t, x, y and p as events; `ValueError` if they don't have one value an event."""
    seen = 0
    for columns in pieces:
        for name, column in zip("txyp", columns, strict=True):
            if column.dtype.kind not in "biuf":
                raise source.refused(f"an array with {name} of {column.dtype}", ARRAYS)
        t, x, y, p = (column.reshape(len(columns[0])) for column in columns)
        numbers = np.arange(seen, seen + len(p))
        if len(p) and not (p.min() >= -1 and p.max() <= 1):
            odd = ~((p >= -1) & (p <= 1))
            source.skipped.add_events("polarity not 0, 1 or -1, ON if above 0", odd, numbers)
        if "f" in x.dtype.kind + y.dtype.kind:
            cut = [np.isfinite(each) & (each != np.trunc(each)) for each in (x, y)]
            told = "between pixels, cut to whole ones"
            source.skipped.add_events(told, cut[0] | cut[1], numbers)
        seen += len(p)
        yield Columns(t, integers(x), integers(y), polarity(p))


def _timed(columns: Iterator[Columns]) -> Iterator[Columns]:
    """The events with t in whole µs: integers as they are, floats as they are if they are whole.

    If one of the first `DECIDING` times isn't whole, they are seconds. Until that is known, or the
    columns end, events wait; damage is raised behind those that did.
    """
    waiting: list[Columns] = []
    unit_us = 1.0

    def in_unit(pieces: Iterable[Columns]) -> Iterator[Columns]:
        for t, x, y, p in pieces:
            is_float = t.dtype.kind == "f"
            whole = in_microseconds(t, unit_us) if is_float else t.astype(np.int64, copy=False)
            yield Columns(whole, x, y, p)

    try:
        for events in columns:
            waiting.append(events)
            if events.t.dtype.kind != "f":
                break
            first = np.concatenate([each.t for each in waiting])[:DECIDING]
            known = first[np.isfinite(first)]
            if (known != np.rint(known)).any():
                unit_us = 1e6
            if unit_us > 1 or len(first) == DECIDING:
                break
    except DAMAGE:
        yield from in_unit(waiting)
        raise
    yield from in_unit(chain(waiting, columns))


def decode_npy(source: ByteSource) -> Decoded:
    """A structured array with the fields t, x, y and p."""
    count, dtype = _npy_header(source, source)
    start = source.position

    def read(names: Sequence[str]) -> Iterator[list[np.ndarray]]:
        if source.seekable:
            source.rewind(start)
        missing = count
        for _, data in source.words(dtype.itemsize):
            records = np.frombuffer(data, dtype)[:missing]
            missing -= len(records)
            yield [records[name] for name in names]
        source.skipped.add("missing at the end", missing, "events", count - missing, "event")

    return Decoded("npy", None, _events(read, _column_names(dtype.names or (), source), source))


def _npy_header(stream: Any, source: ByteSource) -> tuple[int, np.dtype]:
    """Number and type of an npy file's values; its stream is left at the first one."""
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("not version 1.0, the only one whose length is limited")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # takes a damaged header for one of Python 2
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    except Exception as error:  # whatever Python's own parser raises
        raise source.refused(f"npy with a damaged header ({error})", "a whole header") from None
    several = dtype.names is None and math.prod(shape[1:]) != 1  # values of one event
    if dtype.hasobject or not 0 < dtype.itemsize <= WIDEST or several or (fortran and shape[1:]):
        raise source.refused(f"npy of {str(dtype)[:200]} {list(shape)}", ARRAYS)
    return math.prod(shape), dtype


def decode_npz(source: ByteSource) -> Decoded:
    """One array per column, as SpikingJelly writes them, compressed or not."""
    path = source.path
    if not source.seekable or path is None:
        raise source.refused("npz in a stream", "a file: its index is at the end")
    with zipfile.ZipFile(path) as archive:
        members = _column_names((name.removesuffix(".npy") for name in archive.namelist()), source)

    def read(names: Sequence[str]) -> Iterator[list[np.ndarray]]:
        with ExitStack() as opened:
            archive = opened.enter_context(zipfile.ZipFile(path))
            streams = [opened.enter_context(archive.open(f"{name}.npy")) for name in names]
            lengths, dtypes = zip(*(_npy_header(each, source) for each in streams), strict=True)
            length = _shortest(lengths, source)
            for start in range(0, length, source.chunk):
                count = min(source.chunk, length - start)
                parts = [
                    np.frombuffer(stream.read(count * dtype.itemsize), dtype)
                    for stream, dtype in zip(streams, dtypes, strict=True)
                ]
                whole = min(map(len, parts))
                yield [part[:whole] for part in parts]
                if whole < count:
                    lost = length - start - whole
                    source.skipped.add("missing at the end", lost, "events", start + whole, "event")
                    return

    return Decoded("npz", None, _events(read, members, source))


def decode_hdf5(source: ByteSource) -> Decoded:
    """Arrays t, x, y and p in `/events`, `/CD/events` or the root, or one table there with them."""
    if not source.seekable or source.path is None:
        raise source.refused("HDF5 in a stream", "a file: it is read out of order")
    h5py = require("h5py", "HDF5 recordings")
    with suppress(ImportError):
        import_module("hdf5plugin")  # makes its filters known to h5py
    file = h5py.File(source.path, "r")
    node: Any = next((file[name] for name in ("CD/events", "events") if name in file), file)
    is_table = isinstance(node, h5py.Dataset)
    members = _column_names((node.dtype.names or ()) if is_table else node.keys(), source)
    datasets = [node] if is_table else [node[name] for name in members]
    for dataset in datasets:
        if not isinstance(dataset, h5py.Dataset):
            raise source.refused(f"HDF5 with a group {dataset.name}", ARRAYS)
        if dataset.is_virtual or dataset.external:  # which may be gone, or anything
            raise source.refused("HDF5 whose events lie in other files", "a whole file")
        settings = dataset.id.get_create_plist()
        for index in range(settings.get_nfilters()):
            number, _, values, _ = settings.get_filter(index)
            if not h5py.h5z.filter_avail(number):
                name = FILTERS.get(number, "an unknown one")
                found = f"HDF5 compressed by filter {number} ({name})"
                raise source.refused(found, "filters that h5py finds: `pip install hdf5plugin`")
            if number == BLOSC and not values:  # its plug-in reads them unseen, and crashes
                raise source.refused("HDF5 by blosc without its settings", "a whole file")
        width = math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
        chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
        if width > WIDEST or chunk > LARGEST_CHUNK:
            found = f"HDF5 with {width:,} bytes an event in chunks of {chunk:,} bytes"
            raise source.refused(found, f"at most {WIDEST:,} and {LARGEST_CHUNK:,} bytes")

    def read(names: Sequence[str]) -> Iterator[list[np.ndarray]]:
        length = _shortest([len(dataset) for dataset in datasets], source)
        for start in range(0, length, source.chunk):
            part = slice(start, min(start + source.chunk, length))
            table = node[part] if is_table else {name: node[name][part] for name in names}
            yield [np.asarray(table[name]) for name in names]

    return Decoded("HDF5", None, _events(read, members, source))


def _shortest(lengths: Sequence[int], source: ByteSource) -> int:
    """How many events there are if the columns differ in length."""
    length, most = min(lengths), max(lengths)
    source.skipped.add("columns of unequal length", most - length, "events", length, "event")
    return length


def decode_nmnist(source: ByteSource) -> Decoded:
    """N-MNIST's and N-Caltech101's 5-byte records: x, y, a bit of polarity and 23 of time; a y of
    240 is no event but says that time has wrapped once more."""

    def columns() -> Iterator[Columns]:
        wraps = 0
        for _, data in source.words(5):
            x, y, *low = np.frombuffer(data, np.uint8).reshape(-1, 5).T.astype(np.int64)
            wrapped = wraps + np.cumsum(y == 240)
            wraps = int(wrapped[-1])
            t = ((low[0] & 127) << 16 | low[1] << 8 | low[2]) + (wrapped << 13)
            events = y != 240
            yield Columns(t[events], x[events], y[events], low[0][events] >> 7)

    return Decoded("N-MNIST", (34, 34), columns())
