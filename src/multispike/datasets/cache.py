"""Decoded arrays on disk, found again by the content of the files they came from.

An entry is a folder `NAME-KEY` with one `.npy` file per array and a `meta.json`. KEY is a hash of
the content of all source files, the decoder's version and its options: no entry is ever stale.
Entries are built in a hidden folder, under a lock, flushed to the disk and renamed into place.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.lib.format import open_memmap
from numpy.typing import DTypeLike

from multispike.errors import invalid
from multispike.files import default_cache_dir, sha256, write_json

log = logging.getLogger(__name__)

FORMAT = 1
"""Version of the layout of an entry; part of every key."""

SETTLED_NS = 2_000_000_000
"""Age from which on a file's times tell whether it was written again: two writes within one tick of
a file system's clock (a few ms; 2 s on FAT) leave the same times."""

Allocate = Callable[[str, tuple[int, ...], DTypeLike], np.ndarray]
"""Gives a writable array by name: memory-mapped in the cache or, without one, in memory."""


Fetched = tuple[dict[str, np.ndarray], dict[str, Any]]
"""Arrays by name, and the meta data."""


class Cache:
    """Decoded arrays below `folder` (default: `default_cache_dir()`), created on first use."""

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = Path(folder).expanduser() if folder is not None else default_cache_dir()

    def fetch(
        self,
        name: str,
        sources: Sequence[Path],
        build: Callable[[Allocate], Mapping[str, Any]],
        *,
        version: int,
        options: Mapping[str, Any],
    ) -> Fetched:
        """What `build` makes of `sources`, decoded at most once.

        `build(allocate)` fills the arrays it allocates and returns JSON-able meta data. Arrays
        come back memory-mapped copy-on-write: writing to them changes no file. Where the cache
        can't be written, one line is logged as a warning and they come back in memory.

        Raises `InputError` if a source can't be read or changes while it is read.
        """
        content = self._content(sources)
        described = json.dumps([FORMAT, name, version, dict(options), content], sort_keys=True)
        entry = self.folder / f"{name}-{hashlib.sha256(described.encode()).hexdigest()[:32]}"

        def checked(allocate: Allocate) -> dict[str, Any]:
            meta = dict(build(allocate))
            if self._content(sources) != content:
                allowed = "files that do not change while they are read"
                raise invalid(f"source of {name}", str(sources[0]), allowed)
            return meta

        if found := _read_entry(entry):
            return found
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(entry.with_name(f".{entry.name}.lock")):
                return _read_entry(entry) or _write_entry(entry, checked)
        except (OSError, NotImplementedError) as error:
            log.warning("cache: %s can't be written (%s): going on without it", self.folder, error)
        arrays: dict[str, np.ndarray] = {}

        def in_memory(name: str, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
            return arrays.setdefault(name, np.empty(shape, dtype))

        return arrays, checked(in_memory)

    def _content(self, sources: Sequence[Path]) -> str:
        """A hash of the names and contents of `sources`.

        It is remembered by size, inode and times of every file. Times include the change time,
        which, unlike the modification time, no program can set back.
        """
        try:
            paths = sorted(Path(os.path.abspath(source)) for source in sources)
            before = [_identity(path) for path in paths]
            listed = json.dumps([[str(path) for path in paths], before])
            memo = self.folder / "sources" / f"{hashlib.sha256(listed.encode()).hexdigest()}.json"
            settled = all(time.time_ns() - max(times) > SETTLED_NS for *_, times in before)
            if settled:
                with suppress(OSError, ValueError, KeyError, TypeError):  # no memo, or damaged
                    return json.loads(memo.read_text())["content"]
            with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock
                hashes = list(pool.map(sha256, paths))
            settled = settled and [_identity(path) for path in paths] == before
        except OSError as error:
            allowed = f"a readable file ({error.strerror})"
            raise invalid("data file", error.filename, allowed) from None
        root = os.path.commonpath([path.parent for path in paths]) if paths else ""
        names = [path.relative_to(root).as_posix() for path in paths]
        named = json.dumps(list(zip(names, hashes, strict=True)))
        content = hashlib.sha256(named.encode()).hexdigest()
        if settled:
            with suppress(OSError):  # fetch says that the cache can't be written
                memo.parent.mkdir(parents=True, exist_ok=True)
                write_json(memo, {"content": content})
        return content


def _identity(path: Path) -> tuple[int, int, int, tuple[int, int]]:
    """What changes when a file is written or replaced; the times (ns) come last."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, (status.st_mtime_ns, status.st_ctime_ns)


def _write_entry(entry: Path, build: Callable[[Allocate], dict[str, Any]]) -> Fetched:
    """A new entry; raises `OSError` where it can't be written."""
    folder = entry.with_name(f".{entry.name}.building")
    if entry.exists():
        log.warning("cache: %s is damaged: decoding again", entry)
        shutil.rmtree(entry)
    shutil.rmtree(folder, ignore_errors=True)  # what a killed build has left
    folder.mkdir()
    arrays: dict[str, np.memmap] = {}

    def allocate(name: str, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        path = folder / f"{name}.npy"
        arrays[name] = open_memmap(path, "w+", dtype=np.dtype(dtype), shape=shape)
        # Blocks are reserved: a full disk would kill the process (SIGBUS) at a later write.
        if hasattr(os, "posix_fallocate"):
            with open(path, "r+b") as stream:
                os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
        return arrays[name]

    try:
        meta = build(allocate)
        for name, array in arrays.items():
            array.flush()
            with open(folder / f"{name}.npy", "rb+") as stream:
                os.fsync(stream.fileno())
        write_json(folder / "meta.json", {**meta, "arrays": sorted(arrays)})
        os.rename(folder, entry)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if found := _read_entry(entry):
        return found
    raise OSError("the finished entry does not open")


def _read_entry(entry: Path) -> Fetched | None:
    """The arrays and meta data of an entry; None if it is absent or damaged."""
    try:
        meta = json.loads((entry / "meta.json").read_text())
        arrays = {
            name: np.load(entry / f"{name}.npy", mmap_mode="c") for name in meta.pop("arrays")
        }
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return arrays, meta
