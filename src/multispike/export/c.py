"""C99 source of an integer network: weights, tables and calls; the kernels are copied."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multispike.export.c_program import WIDTHS, Program, compile_network, identifier
from multispike.export.formats import check_free, filling
from multispike.export.layers import Bias, Driven, Neurons, Shape, Synapses
from multispike.export.network import IntegerNetwork
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
    kernels = files("multispike.export") / "runtime"
    for name in _KERNELS:
        write_text(folder / name, (kernels / name).read_text(encoding="utf-8"))
    sources = []
    for index, group in enumerate(_grouped(network)):
        sources.append(f"weights{index}")
        write_text(folder / f"weights{index}.c", _weights(group))
    write_text(folder / "model.h", _header(network))
    write_text(main, _source(program))
    makefile = (kernels / "Makefile").read_text(encoding="utf-8")
    write_text(folder / "Makefile", makefile.replace("@WEIGHTS@", " ".join(sources)))
    write_text(folder / "README.md", _readme(program))
    return program


def flash_bytes(network: IntegerNetwork) -> int:
    """Bytes of weights and tables in read-only memory, without code and descriptors."""
    return sum(array.nbytes for _, _, array in _tables(network)) + sum(
        synapses.weight.size for synapses in _convolutions(network) if synapses.weight is not None
    )


def _convolutions(network: IntegerNetwork) -> list[Synapses]:
    return [one for one in network.synapses if one.weight is not None]


def _grouped(network: IntegerNetwork) -> Iterator[list[Synapses]]:
    """Synapses in files of about `WEIGHTS_PER_FILE`."""
    group: list[Synapses] = []
    size = 0
    for one in _convolutions(network):
        assert one.weight is not None
        if group and size + one.weight.size > WEIGHTS_PER_FILE:
            yield group
            group, size = [], 0
        group.append(one)
        size += one.weight.size
    if group:
        yield group


def _numbers(values: NDArray[np.integer]) -> str:
    """An initialiser, 16 numbers a line."""
    words = np.array([str(n) for n in range(-128, 256)]) if values.dtype.itemsize == 1 else None
    flat = values.ravel()
    texts = (words[flat.astype(int) + 128] if words is not None else flat.astype(str)).tolist()
    lines = (", ".join(texts[i : i + 16]) for i in range(0, len(texts), 16))
    return "{\n    " + ",\n    ".join(lines) + "\n}"


def _weights(group: list[Synapses]) -> str:
    """One file of weights, [in][row][column][out]."""
    parts = ["#include <stdint.h>\n"]
    for one in group:
        assert one.weight is not None
        name = f"{identifier(one.name)}_weight"
        layout = one.weight.transpose(1, 2, 3, 0)
        shape = " x ".join(map(str, layout.shape))
        parts.append(
            f"/* {one.name}: {shape} (in, row, column, out) */\n"
            f"extern const int8_t {name}[{layout.size}];\n"
            f"const int8_t {name}[{layout.size}] = {_numbers(np.ascontiguousarray(layout))};\n"
        )
    return "\n".join(parts)


def _header(network: IntegerNetwork) -> str:
    channels, rows, columns = network.input_shape
    frames = network.timesteps if network.events else 1
    axes = ", ".join(map(str, (*([frames] if frames > 1 else []), *network.input_shape)))
    layout = "[timestep][channel][row][column]" if network.events else "[channel][row][column]"
    return f"""\
/* {network.arch}: {"event frames" if network.events else "images"} -> integer logits, \
{network.timesteps} timestep(s). Generated; see README.md. */
#ifndef MODEL_H
#define MODEL_H

#include <stddef.h>
#include <stdint.h>

#define MODEL_CHANNELS {channels}
#define MODEL_ROWS {rows}
#define MODEL_COLUMNS {columns}
#define MODEL_TIMESTEPS {network.timesteps}
#define MODEL_CLASSES {network.readout.shape[0]}
#define MODEL_FRAME_BYTES (MODEL_CHANNELS * MODEL_ROWS * MODEL_COLUMNS)
#define MODEL_INPUT_BYTES ((size_t){frames} * MODEL_FRAME_BYTES)
#define MODEL_LAYOUT "{axes}" /* {layout} */

enum {{ MODEL_OK = 0, MODEL_ERROR_INPUT = 1, MODEL_ERROR_LOGITS = 2 }};

/* One inference. `input` is uint8 {layout}, `input_bytes` long.
 * `logits` has room for `classes` numbers, each worth {network.logit_scale:.9g}.
 * Returns MODEL_OK, or the error for a size other than MODEL_INPUT_BYTES or MODEL_CLASSES or a null
 * pointer; then `logits` is left as it was. Not reentrant: the buffers are static. */
int model_run(const uint8_t *input, size_t input_bytes, int32_t *logits, size_t classes);

#endif
"""


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
            _, _, rows, columns = one.weight.shape
            yield f"extern const int8_t {name}_weight[{one.weight.size}];"
            yield (
                f"static const conv_t {name} = {{\n    {number[one.name]}, {_braces(shape)}, "
                f"{_braces(one.sum_shape(shape))}, {rows}, {columns}, {one.stride}, {one.padding}, "
                f"{name}_weight,\n}};"
            )
        name = identifier(layer.name)
        if isinstance(layer, Neurons):
            start = f"{name}_start" if network.timesteps > 1 else "NULL"
            yield (
                f"static const neurons_t {name} = {{\n    {neurons}, {_braces(layer.shape)}, "
                f"{_bias(name, layer.bias)}, {start}, {name}_step, {layer.levels},\n}};"
            )
            neurons += 1
        elif isinstance(layer, Driven):
            yield f"static const bias_t {name}_bias = {_bias(name, layer.bias)};"


def _braces(shape: Shape) -> str:
    return f"{{{shape[0]}, {shape[1]}, {shape[2]}}}"


def _bias(name: str, bias: Bias) -> str:
    if bias.is_uniform:
        return f"{{{name}_bias_values, NULL, NULL, 1}}"
    classes = bias.values.shape[1]
    return f"{{{name}_bias_values, {name}_bias_rows, {name}_bias_columns, {classes}}}"


def _source(program: Program) -> str:
    """model.c"""
    network = program.network
    tables = "\n".join(
        f"static const {kind} {name}[{array.size}] = {_numbers(array)};"
        for name, kind, array in _tables(network)
    )
    arenas = "\n".join(
        f"static {kind} {kind.removesuffix('_t')}_arena[{size}];"
        for kind, size in program.arenas.items()
    )
    buffers = "\n".join(
        f"#define {buffer.name} ({buffer.type.removesuffix('_t')}_arena + {buffer.offset})"
        for buffer in program.buffers
    )
    names = [f'    {{"{one.name}", 0, 0, 0}},' for one in network.synapses]
    neurons = [
        f'    {{"{layer.name}", 0, 0, 0}},'
        for layer in network.layers
        if isinstance(layer, Neurons)
    ]
    end = "    {NULL, 0, 0, 0},"
    prelude = "\n".join(f"    {line}" if line else "" for line in program.prelude).rstrip()
    many = network.timesteps > 1
    indent = "        " if many else "    "
    loop = "\n".join(f"{indent}{line}" if line else "" for line in program.loop).rstrip()
    if many:
        loop = f"    for (int t = 0; t < MODEL_TIMESTEPS; ++t) {{\n{loop}\n    }}"
    elif network.events:
        loop = f"    const int t = 0;\n{loop}"
    return f"""\
#include "model.h"

#include "kernels.h"

{tables}

{chr(10).join(_descriptors(network))}

/* Values that are never alive together share memory. */
{arenas}
{buffers}

#ifdef COUNT
counts_t synapse_counts[] = {{
{chr(10).join([*names, end])}
}};
counts_t neuron_counts[] = {{
{chr(10).join([*neurons, end])}
}};
#endif

int model_run(const uint8_t *input, size_t input_bytes, int32_t *logits, size_t classes)
{{
    if (input == NULL || input_bytes != MODEL_INPUT_BYTES)
        return MODEL_ERROR_INPUT;
    if (logits == NULL || classes != MODEL_CLASSES)
        return MODEL_ERROR_LOGITS;

{prelude}

{loop}
    return MODEL_OK;
}}
"""


def _readme(program: Program) -> str:
    network = program.network
    channels, rows, columns = network.input_shape
    steps = network.timesteps if network.events else 1
    frames = f"{steps} x " if network.events else ""
    values = "event counts" if network.events else "pixels"
    sample = steps * channels * rows * columns
    arenas = ", ".join(
        f"{WIDTHS[kind] * size:,} in {kind}" for kind, size in program.arenas.items()
    )
    weights = sum(one.weight.size for one in _convolutions(network) if one.weight is not None)
    largest, bound = max(network.bounds.items(), key=lambda item: item[1])
    layers = "\n".join(
        f"| {layer.name} | {type(layer).__name__} | {' x '.join(map(str, layer.shape))} | "
        f"{network.bounds.get(layer.name, '')} |"
        for layer in network.layers
    )
    return f"""\
# {network.arch}, integer and event-driven

Input: uint8, {frames}{channels} x {rows} x {columns} ([channel][row][column]); raw {values}, the
normalisation is folded in. Output: {network.readout.shape[0]} int32 logits, each worth
{network.logit_scale:.9g} of the float network's units. Timesteps: {network.timesteps}.

    make && ./model images.bin       # raw bytes or a uint8 .npy file; one line of logits an image
    make dense && ./model-dense      # every input visited, zero or not, for comparison
    make count && ./model-count      # events, synaptic operations and updates on standard error
    make check && ./model-check      # address and undefined-behaviour sanitizers
    make mps2                        # Arm Cortex-M4 with 64 KB of RAM, for qemu-system-arm

In another program: `model.h`, `model.c`, `kernels.*` and `weights*.c`; call `model_run`.

| memory | bytes |
|---|---|
| RAM, static buffers | {program.ram:,} ({arenas}) |
| flash, int8 weights | {weights:,} |
| flash, other tables | {flash_bytes(network) - weights:,} |

Code comes on top: on a Cortex-M4 (gcc -O2) about 3 KB for the kernels and 2 to 5 KB for the calls.
Nothing is allocated at run time; the stack holds a few small frames and never grows with the input.
`main.c`, which is only for trying it out, adds RAM for its input ({sample:,} bytes), 4 KB to read
.npy headers, and what printf needs.

No sum can leave int32: bounds from the actual weights, of which the largest is {bound:,}
({largest}), are below 2,147,483,647.

| layer | kind | shape | bound on its sums |
|---|---|---|---|
{layers}
"""
