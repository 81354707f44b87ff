"""The folder of an export: written beside and moved in, no half of it builds or loads."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from multispike.errors import invalid

NETWORK = "network.npz"
"""The integer network itself, beside any format; `export.serialize.load` reads it."""

FILES = {
    "c": (
        "model.c",
        r"model\.h|main\.c|kernels\.[ch]|mps2\.(c|ld)|weights\d+\.c|Makefile|README\.md",
    ),
    "nir": ("model.nir", ""),
    "onnx": ("model.onnx", ""),
    "openvino": ("model.xml", r"model\.bin"),
}
"""Format -> its main file, without which nothing builds or loads, and a pattern of the others."""

_MAIN = {NETWORK, *(main for main, _ in FILES.values())}


def check_free(argument: str, folder: Path, overwrite: bool, option: str = "overwrite") -> None:
    """Raise `InputError` for a file, or a folder that is not empty and not to be overwritten."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not overwrite):
        raise invalid(argument, str(folder), f"an empty or new folder, or {option}")


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Yield an empty folder; on success, what is in it replaces earlier exports in `folder`.

    A format's files go if its main file stands there, or would be written over; whatever else lies
    there stays. Main files go first and come last: where this is interrupted, either what stood
    there before is left, or nothing that builds or loads. A folder made for this goes if it fails.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryDirectory(prefix=".", suffix=".tmp", dir=folder) as name:
            yield Path(name)
            written = {path.name for path in Path(name).iterdir()}
            for path in _earlier(folder, written):
                path.unlink()
            for path in reversed(_main_first(Path(name).iterdir())):
                os.replace(path, folder / path.name)
    except BaseException:
        if made:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _earlier(folder: Path, written: set[str]) -> list[Path]:
    """Files of earlier exports; a README.md beside a model.onnx is somebody's own."""
    names = {NETWORK, *written}
    for main, parts in FILES.values():
        if (folder / main).is_file():
            names |= {main, *(p.name for p in folder.iterdir() if re.fullmatch(parts, p.name))}
    return _main_first(folder / name for name in names if (folder / name).is_file())


def _main_first(paths: Iterator[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.name not in _MAIN)
