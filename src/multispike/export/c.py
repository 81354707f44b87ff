"""C99 of an integer network: its `Program` in the templates of `runtime`, beside the kernels."""

from __future__ import annotations

import os
import re
from importlib.resources import files
from pathlib import Path
from textwrap import indent

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined
from numpy.typing import NDArray

from multispike.export.c_program import Program
from multispike.export.formats import check_free, description, filling
from multispike.export.layers import Synapses
from multispike.export.network import IntegerNetwork
from multispike.export.validate import identifier
from multispike.files import write_text

WEIGHTS_PER_FILE = 1_000_000
"""More, and a compiler needs hundreds of megabytes a file."""

_KERNELS = ("kernels.h", "kernels.c", "main.c", "mps2.c", "mps2.ld")
_TEMPLATES = {
    "model.h": "model.h.in", "model.c": "model.c.in", "Makefile": "Makefile",
    "README.md": "README.md.in",
}  # fmt: skip


def export_c(
    network: IntegerNetwork, folder: str | os.PathLike[str], overwrite: bool = False
) -> Program:
    """Write a C99 program that computes `network.forward` bit for bit.

    The folder gets `model.h`, `model.c` (tables and calls), `weights*.c`, `kernels.*`, `main.c`, a
    `Makefile` (`make`, `make dense`, `make count`, `make check`) and a `README.md` with its RAM
    and flash, whole or not at all; `overwrite` replaces these, and what exports of other formats
    left there.

    Raises:
        InputError: if `folder` is a file, or not empty without `overwrite`.
    """
    target = Path(folder)
    check_free("folder", target, overwrite)
    with filling(target) as temporary:
        return write_c(network, temporary / "model.c")


def write_c(network: IntegerNetwork, main: Path) -> Program:
    """The files of `export_c` in an empty folder; `main` is its model.c."""
    program = Program(network)
    groups: list[list[tuple[Synapses, NDArray[np.int8]]]] = []
    room = 0
    for one, weight in program.weights:
        if weight.size > room:
            groups.append([])
            room = WEIGHTS_PER_FILE
        groups[-1].append((one, weight))
        room -= weight.size
    sources = [f"weights{index}" for index in range(len(groups))]
    for source, group in zip(sources, groups, strict=True):
        write_text(main.with_name(f"{source}.c"), _weight_file(group))
    for name in _KERNELS:
        write_text(main.with_name(name), _runtime(name))
    environment = Environment(
        loader=FunctionLoader(_runtime), undefined=StrictUndefined,
        keep_trailing_newline=True, trim_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "commas": "{:,}".format, "indented": indent, "initialiser": _initialiser,
        "literal": _literal,
    }  # fmt: skip
    facts = description(network)
    about = [(name, facts[name]) for name in ("input", "channels", "resize", "normalisation")]
    for name, template in _TEMPLATES.items():
        words = {"program": program, "network": network, "weights": sources, "about": about,
                 "facts": facts.items()}  # fmt: skip
        write_text(main.with_name(name), environment.get_template(template).render(words))
    return program


def _runtime(name: str) -> str:
    return (files("multispike.export") / "runtime" / name).read_text(encoding="utf-8")


def _weight_file(group: list[tuple[Synapses, NDArray[np.int8]]]) -> str:
    """One file of weights, [in][row][column][out / groups]."""
    parts = ["#include <stdint.h>\n"]
    for one, weight in group:
        name = f"{identifier(one.name)}_weight"
        grouped = weight.reshape(one.groups, -1, *weight.shape[1:]).transpose(0, 2, 3, 4, 1)
        layout = grouped.reshape(-1, *grouped.shape[2:])
        shape = " x ".join(map(str, layout.shape))
        parts.append(
            f"/* {one.name}: {shape} (in, row, column, out) */\n"
            f"extern const int8_t {name}[{layout.size}];\n"
            f"const int8_t {name}[{layout.size}] = {_initialiser(layout)};\n"
        )
    return "\n".join(parts)


def _initialiser(values: NDArray[np.integer]) -> str:
    """16 numbers a line."""
    flat = values.ravel()
    if flat.itemsize == 1:  # millions of weights: their texts are looked up
        flat = np.array([str(n) for n in range(-128, 256)])[flat.astype(int) + 128]
    texts = flat.astype(str).tolist()
    lines = (", ".join(texts[i : i + 16]) for i in range(0, len(texts), 16))
    return "{\n    " + ",\n    ".join(lines) + "\n}"


def _literal(text: str) -> str:
    """A C string of the UTF-8 of `text`, on one line; what could mean something else in octal.

    >>> print(_literal('a "caf\u00e9"?'))
    "a \\042caf\\303\\251\\042\\077"
    """
    plain = rb"[A-Za-z0-9 _.,:;+-]"
    codes = text.encode("utf-8", "replace")
    parts = (chr(c) if re.match(plain, bytes([c])) else f"\\{max(c, 32):03o}" for c in codes)
    return f'"{"".join(parts)}"'
