"""What an export leaves in a folder: written beside and moved in, no half of it builds or loads.

Importing this loads no torch.
"""

from __future__ import annotations

import json
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
from multispike.files import write_text

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
        use: Python for its README.md; "" where the writer writes that.
    """

    main: str
    others: str
    writer: str
    use: str = ""


_ONNX = """\
import onnxruntime
session = onnxruntime.InferenceSession("model.onnx")
logits = session.run(["logits"], {"image": pixels})[0]  # float32 [B, classes]
"""
_OPENVINO = """\
import openvino
exact = {"INFERENCE_PRECISION_HINT": "f32"}  # processors with bfloat16 would round sums to it
model = openvino.Core().compile_model("model.xml", "CPU", exact)
logits = model(pixels)[0]  # float32 [B, classes]
"""
_NIR = """\
import torch
from multispike.export.nir import load
logits = load("model.nir")(torch.from_numpy(pixels))  # whole numbers [B, classes]
"""
_C = r"model\.h|main\.c|kernels\.[ch]|mps2\.(c|ld)|weights\d+\.c|Makefile|README\.md"

FORMATS = {
    "c": Format("model.c", _C, "c:write_c"),
    "nir": Format("model.nir", r"README\.md", "nir:export_nir", _NIR),
    "onnx": Format("model.onnx", r"README\.md", "onnx:export_onnx", _ONNX),
    "openvino": Format("model.xml", r"model\.bin|README\.md", "onnx:export_openvino", _OPENVINO),
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
        if FORMATS[format].use:
            write_text(temporary / "README.md", readme(network, FORMATS[format]))
        save(network, temporary / NETWORK)
        return {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}


def readme(network: IntegerNetwork, format: Format) -> str:
    """What lies beside a graph: what it takes and gives, and how it is called."""
    facts = "\n".join(f"- {name}: {fact}" for name, fact in description(network).items())
    pixels = f"import numpy\npixels = numpy.zeros({_batch(network)}, numpy.uint8)  # yours\n"
    code = f"```python\n{pixels}{format.use}```\n"
    return f"# {network.arch}, {format.main}\n\n{facts}\n\n{code}"


def description(network: IntegerNetwork) -> dict[str, str]:
    """What a user of any format has to know, as one line each."""
    (channels, rows, columns), frames = network.input_shape, network.events
    layout = "[timestep][channel][row][column]" if frames else "[channel][row][column]"
    sizes = " x ".join(map(str, (*([network.timesteps] if frames else []), *network.input_shape)))
    colours = {1: "grey", 3: "red, green, blue"}.get(channels, f"{channels} of the training")
    if frames:
        what, colours = "event counts", "less light, more light, a pair a bin of time"
        resize = f"recordings are counted in {rows} x {columns} places"
    else:
        what = "pixels"
        resize = f"images are scaled (bicubic) to cover {rows} x {columns} and cut at the centre"
    rule = f"({what} / 255 - mean) / std, mean {list(network.mean)}, std {list(network.std)}"
    return {
        "input": f"uint8 {layout}, {sizes}, raw {what}",
        "channels": colours,
        "resize": resize,
        "normalisation": f"{rule if network.mean else 'of the training'}; it is folded in",
        "classes": json.dumps(network.class_names, ensure_ascii=False),
        "logit_scale": repr(network.logit_scale),
    }


def _batch(network: IntegerNetwork) -> tuple[int, ...]:
    return (*([network.timesteps] if network.events else []), 1, *network.input_shape)


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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".", suffix=".tmp", dir=folder) as name:
            yield Path(name)
            written = {path.name for path in Path(name).iterdir()}
            for path in _earlier(folder, written):
                path.unlink()
            for path in reversed(_main_first(Path(name).iterdir())):
                os.replace(path, folder / path.name)
    except BaseException as error:
        if made:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and error.filename:  # as it would be called, not temporarily
            place = Path(os.fsdecode(error.filename))
            if place.parent.parent == folder:
                error.filename = str(folder / place.name)
        raise


def _earlier(folder: Path, written: set[str]) -> list[Path]:
    """Files of earlier exports."""
    names = {NETWORK, *written}
    for format in FORMATS.values():
        if (folder / format.main).is_file():
            parts = (p.name for p in folder.iterdir() if re.fullmatch(format.others, p.name))
            names |= {format.main, *parts}
    return _main_first(folder / name for name in names if (folder / name).is_file())


def _main_first(paths: Iterator[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.name not in _MAIN)
