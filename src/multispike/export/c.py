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
from multispike.export.network import IntegerNetwork
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
    groups: list[list[tuple[str, NDArray[np.integer]]]] = []
    room = 0
    for name, values in program.weights:
        if values.size > room:
            groups.append([])
            room = WEIGHTS_PER_FILE
        groups[-1].append((name, values))
        room -= values.size
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


def _weight_file(group: list[tuple[str, NDArray[np.integer]]]) -> str:
    parts = ["#include <stdint.h>\n"]
    for name, values in group:
        what = f"const {values.dtype}_t {name}[{values.size}]"
        shape = " x ".join(map(str, values.shape))
        parts.append(f"/* {shape} */\nextern {what};\n{what} = {_initialiser(values)};\n")
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
