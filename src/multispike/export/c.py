"""C99 source of an integer network: weights, tables and calls; the kernels are copied."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from math import gcd, prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multispike.export.c_program import WIDTHS, Program, compile_network
from multispike.export.formats import check_free, filling
from multispike.export.layers import Bias, Driven, Neurons, Pair, Pool, Shape, Synapses, Window
from multispike.export.network import IntegerNetwork
from multispike.export.validate import identifier
from multispike.files import write_text

WEIGHTS_PER_FILE = 1_000_000
"""More, and a compiler needs hundreds of megabytes a file."""

_KERNELS = ("kernels.h", "kernels.c", "main.c", "mps2.c", "mps2.ld")


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
    folder = main.parent
    program = compile_network(network)
    for name in _KERNELS:
        write_text(folder / name, _runtime(name))
    sources = []
    for index, group in enumerate(_grouped(network)):
        sources.append(f"weights{index}")
        write_text(folder / f"weights{index}.c", _weight_file(group))
    facts = _facts(network)
    write_text(folder / "model.h", _filled("model.h.in", facts))
    write_text(main, _filled("model.c.in", _source(program)))
    write_text(folder / "Makefile", _filled("Makefile", {"WEIGHTS": " ".join(sources)}))
    write_text(folder / "README.md", _filled("README.md.in", facts | _memory(program)))
    return program


def flash_bytes(network: IntegerNetwork) -> int:
    """Bytes of weights and tables in read-only memory, without code and descriptors."""
    tables = sum(array.nbytes for _, _, array in _tables(network))
    return tables + sum(weight.size for _, weight in _weights(network))


def _runtime(name: str) -> str:
    return (files("multispike.export") / "runtime" / name).read_text(encoding="utf-8")


def _filled(name: str, words: Mapping[str, str]) -> str:
    """A file of the runtime with `words` for its @NAMES@."""
    return re.sub(r"@([A-Z_]+)@", lambda found: words[found[1]], _runtime(name))


def _weights(network: IntegerNetwork) -> list[tuple[Synapses, NDArray[np.int8]]]:
    """All convolutions and linear layers with their weights."""
    return [(one, one.weight) for one in network.synapses if one.weight is not None]


def _grouped(network: IntegerNetwork) -> Iterator[list[tuple[Synapses, NDArray[np.int8]]]]:
    """Weights in files of about `WEIGHTS_PER_FILE`."""
    group: list[tuple[Synapses, NDArray[np.int8]]] = []
    size = 0
    for one, weight in _weights(network):
        if group and size + weight.size > WEIGHTS_PER_FILE:
            yield group
            group, size = [], 0
        group.append((one, weight))
        size += weight.size
    if group:
        yield group


def _numbers(values: NDArray[np.integer]) -> str:
    """An initialiser, 16 numbers a line."""
    flat = values.ravel()
    if flat.itemsize == 1:  # millions of weights: their texts are looked up
        flat = np.array([str(n) for n in range(-128, 256)])[flat.astype(int) + 128]
    texts = flat.astype(str).tolist()
    lines = (", ".join(texts[i : i + 16]) for i in range(0, len(texts), 16))
    return "{\n    " + ",\n    ".join(lines) + "\n}"


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
            f"const int8_t {name}[{layout.size}] = {_numbers(np.ascontiguousarray(layout))};\n"
        )
    return "\n".join(parts)


def _tables(network: IntegerNetwork) -> Iterator[tuple[str, str, NDArray[np.integer]]]:
    """Name, C type and content of every constant array but the weights."""
    for layer in network.layers:
        name = identifier(layer.name)
        if isinstance(layer, Driven):
            yield f"{name}_bias_values", "int32_t", layer.bias.values
            if not layer.bias.is_uniform:
                yield f"{name}_bias_rows", "uint8_t", layer.bias.rows
                yield f"{name}_bias_columns", "uint8_t", layer.bias.columns
        if isinstance(layer, Neurons):
            if network.timesteps > 1:
                yield f"{name}_start", "int32_t", layer.start
            yield f"{name}_step", "int32_t", layer.step
            if layer.sign is not None:
                yield f"{name}_sign", "int32_t", layer.sign
        for one in getattr(layer, "synapses", ()):
            if one.gain is not None:
                yield f"{identifier(one.name)}_gain", "int32_t", one.gain
            if one.shift is not None:
                yield f"{identifier(one.name)}_shift", "int32_t", one.shift


def _descriptors(network: IntegerNetwork) -> Iterator[str]:
    """The const structs that kernels take."""
    neurons = 0
    number = {one.name: index for index, one in enumerate(network.synapses)}
    for layer in network.layers:
        for one in getattr(layer, "synapses", ()):
            name = identifier(one.name)
            shape = network.outputs[one.source].shape
            if one.weight is None:
                yield (
                    f"static const identity_t {name} = {{{number[one.name]}, {_braces(shape)}, "
                    f"{name}_gain}};"
                )
                continue
            reach, window = one.sum_shape(shape), one.window
            common = [gcd(*axis) for axis in zip(window.stride, window.dilation, strict=True)]
            step = window.stride[0] // common[0], window.stride[1] // common[1]
            drop = window.dilation[0] // common[0], window.dilation[1] // common[1]
            yield f"extern const int8_t {name}_weight[{one.weight.size}];"
            yield (
                f"static const conv_t {name} = {{\n    {number[one.name]}, {_braces(shape)}, "
                f"{_braces(reach)}, {_window(window)}, {_braces(step)}, {_braces(drop)}, "
                f"{one.groups}, {name}_weight,\n}};"
            )
        name = identifier(layer.name)
        if isinstance(layer, Neurons):
            start = f"{name}_start" if network.timesteps > 1 else "NULL"
            yield (
                f"static const neurons_t {name} = {{\n    {neurons}, {_braces(layer.shape)}, "
                f"{_bias(name, layer.bias)}, {start}, {name}_step, {layer.levels},\n}};"
            )
            neurons += 1
            if layer.pool is not None:
                (one,) = layer.synapses
                reach = one.sum_shape(network.outputs[one.source].shape)
                yield _pool(f"{name}_pool", reach, layer.shape, layer.pool)
        elif isinstance(layer, Pool):
            shape = network.outputs[layer.source].shape
            yield _pool(name, shape, layer.shape, layer.window)
        elif isinstance(layer, Driven):
            yield f"static const bias_t {name}_bias = {_bias(name, layer.bias)};"


def _braces(numbers: Shape | Pair) -> str:
    return f"{{{', '.join(map(str, numbers))}}}"


def _window(window: Window) -> str:
    parts = (window.kernel, window.stride, window.before, window.dilation)
    return f"{{{', '.join(map(_braces, parts))}}}"


def _pool(name: str, shape: Shape, reach: Shape, window: Window) -> str:
    parts = f"{_braces(shape)}, {_braces(reach)}, {_window(window)}"
    return f"static const pool_t {name} = {{{parts}}};"


def _bias(name: str, bias: Bias) -> str:
    if bias.is_uniform:
        return f"{{{name}_bias_values, NULL, NULL, 1}}"
    classes = bias.values.shape[1]
    return f"{{{name}_bias_values, {name}_bias_rows, {name}_bias_columns, {classes}}}"


def _counters(names: Iterable[str]) -> str:
    """Initialisers of counters at zero, and the one that ends them."""
    rows = [f'    {{"{name}", 0, 0, 0}},' for name in names]
    return "\n".join([*rows, "    {NULL, 0, 0, 0},"])


def _block(lines: list[str], indent: str) -> str:
    return "\n".join(f"{indent}{line}" if line else "" for line in lines).rstrip()


def _source(program: Program) -> dict[str, str]:
    """What model.c.in leaves open."""
    network = program.network
    loop = _block(program.loop, "    ")
    if network.timesteps > 1:
        loop = _block(program.loop, "        ")
        loop = f"    for (int t = 0; t < MODEL_TIMESTEPS; ++t) {{\n{loop}\n    }}"
    elif network.events:
        loop = f"    const int t = 0;\n{loop}"
    tables = (
        f"static const {kind} {name}[{array.size}] = {_numbers(array)};"
        for name, kind, array in _tables(network)
    )
    arenas = (f"static {kind}_t {kind}_arena[{size}];" for kind, size in program.arenas.items())
    buffers = (
        f"#define {buffer.name} ({buffer.dtype}_arena + {buffer.offset})"
        for buffer in program.buffers
    )
    neurons = (layer.name for layer in network.layers if isinstance(layer, Neurons))
    return {
        "TABLES": "\n".join(tables),
        "DESCRIPTORS": "\n".join(_descriptors(network)),
        "ARENAS": "\n".join(arenas),
        "BUFFERS": "\n".join(buffers),
        "SYNAPSE_COUNTS": _counters(one.name for one in network.synapses),
        "NEURON_COUNTS": _counters(neurons),
        "PRELUDE": _block(program.prelude, "    "),
        "LOOP": loop,
    }


def _facts(network: IntegerNetwork) -> dict[str, str]:
    """What model.h.in and README.md.in leave open about the input and the output."""
    events = network.events
    frames = network.timesteps if events else 1
    axes = network.input_shape if frames == 1 else (frames, *network.input_shape)
    layout = "[channel][row][column]"
    facts = {
        "ARCH": network.arch,
        "INPUTS": "event frames" if events else "images",
        "VALUES": "event counts" if events else "pixels",
        "STEPS": f"{frames} x " if events else "",
        "FRAMES": frames,
        "AXES": ", ".join(map(str, axes)),
        "LAYOUT": f"[timestep]{layout}" if events else layout,
        "SAMPLE": f"{frames * prod(network.input_shape):,}",
        "TIMESTEPS": network.timesteps,
        "CLASSES": network.readout.shape[0],
        "LOGIT_SCALE": f"{network.logit_scale:.9g}",
        **dict(zip(("CHANNELS", "ROWS", "COLUMNS"), network.input_shape, strict=True)),
    }
    return {name: str(fact) for name, fact in facts.items()}


def _memory(program: Program) -> dict[str, str]:
    """What README.md.in leaves open about the program."""
    network = program.network
    weights = sum(weight.size for _, weight in _weights(network))
    largest, bound = max(network.bounds.items(), key=lambda item: item[1])
    arenas = (f"{WIDTHS[kind] * size:,} in {kind}_t" for kind, size in program.arenas.items())
    layers = (
        f"| {layer.name} | {type(layer).__name__} | {' x '.join(map(str, layer.shape))} | "
        f"{network.bounds.get(layer.name, '')} |"
        for layer in network.layers
    )
    return {
        "RAM": f"{program.ram:,}",
        "ARENAS": ", ".join(arenas),
        "WEIGHTS": f"{weights:,}",
        "TABLES": f"{flash_bytes(network) - weights:,}",
        "BOUND": f"{bound:,}",
        "LARGEST": largest,
        "LAYERS": "\n".join(layers),
    }
