"""What an export leaves in a folder: written beside and moved in, no half of it builds or loads.

Importing this loads no torch.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from multispike.errors import invalid

if TYPE_CHECKING:
    from multispike.export.network import IntegerNetwork

NETWORK = "network.npz"
"""The integer network itself, beside any format; `export.serialize.load` reads it."""


@dataclass(frozen=True)
class Format:
    """A row of the table.

    Attributes:
        main: the file without which nothing builds or loads.
        others: a pattern of the names of the others.
        writer: "module:function" of `multispike.export`, called with the network and the path of
            the main file in an empty folder.
    """

    main: str
    others: str
    writer: str


_C = r"model\.h|main\.c|kernels\.[ch]|mps2\.(c|ld)|weights\d+\.c|Makefile|README\.md"

FORMATS = {
    "c": Format("model.c", _C, "c:write_c"),
    "nir": Format("model.nir", "", "nir:export_nir"),
    "onnx": Format("model.onnx", "", "onnx:export_onnx"),
    "openvino": Format("model.xml", r"model\.bin", "onnx:export_openvino"),
}
"""A new format is a new row."""

_MAIN = {NETWORK, *(format.main for format in FORMATS.values())}


def write(network: IntegerNetwork, format: str, folder: Path) -> dict[str, int]:
    """Write the format's files and the integer network; gives their names and bytes."""
    from multispike.export.serialize import save
    from multispike.progress import progress_bar

    module, function = FORMATS[format].writer.split(":")
    writer = getattr(import_module(f"multispike.export.{module}"), function)
    with progress_bar(True) as bar, filling(folder) as temporary:
        bar.add_task(f"writing {format}", total=None)
        writer(network, temporary / FORMATS[format].main)
        save(network, temporary / NETWORK)
        return {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}


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
    for format in FORMATS.values():
        if (folder / format.main).is_file():
            parts = (p.name for p in folder.iterdir() if re.fullmatch(format.others, p.name))
            names |= {format.main, *parts}
    return _main_first(folder / name for name in names if (folder / name).is_file())


def _main_first(paths: Iterator[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.name not in _MAIN)
