"""What must hold of an integer network before it runs: names, shapes and ranges fit, and no sum
leaves int32, from the actual weights. What float32 runtimes need on top: `prove_float32`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from multispike.errors import InputError, invalid
from multispike.export.layers import (
    Driven,
    Layer,
    Merge,
    Neurons,
    Potentials,
    Readout,
    SumPool,
    outputs_of,
)
from multispike.export.synapses import (
    IMAGE,
    Output,
    Requirement,
    Shape,
)

INT32 = 2**31 - 1
LEVEL_MAX = 255
"""Levels travel as one byte."""

FLOAT32 = 2**24
"""Below, float32 is exact for whole numbers."""

RATIO = 2**22
"""Below, for (N+1)*D, H/D in float32 stays clear of the ties of its rounding."""

FOLDED = 2**21
"""Below, for (N+1)*D + |bias|, so does sum/D + bias/D: its four roundings of 2^-24 each add up to
at most 3 * 2^-24 * 2^21 / D, less than half a unit, 1/(2D)."""

_WORDS = re.compile(
    "auto|break|case|char|const|continue|default|do|double|else|enum|extern|float|for|goto|if|inline|"
    "int|long|register|restrict|return|short|signed|sizeof|static|struct|switch|typedef|union|while|"
    "unsigned|void|volatile|main|input|input_bytes|logits|classes|count|t|accumulate|add|fire|max|"
    "add_(drive|levels|potentials|shifted|signed)|channels_last|clear|merge_(add|and|iand)|saturate|"
    "scatter|set|shifted|sum"
)
"""Words of C and of the kernels, or their beginnings, that no layer may be called by."""

_TABLES = re.compile(".*_(weight|gain|shift|bias|values|rows|columns|start|step|sign|pool)")
"""What a layer's tables in C are called."""

NAMES = "a new one of letters, digits, _ . -"


def check(
    arch: str,
    input_shape: Shape,
    timesteps: int,
    logit_scale: float,
    layers: Sequence[Layer],
) -> None:
    """Raise `InputError` unless all fits together; that no sum overflows, `prove` tells."""
    requirements = _requirements(arch, input_shape, timesteps, logit_scale, layers)
    for what, value, allowed, holds in requirements:
        if not holds:
            raise invalid(what, value, allowed)


def _requirements(
    arch: str,
    input_shape: Shape,
    timesteps: int,
    logit_scale: float,
    layers: Sequence[Layer],
) -> Iterator[Requirement]:
    """Of the whole network, then of all layers in order."""
    yield "arch", arch, "letters, digits, _ . -", _is_new(arch, ())
    yield "timesteps", timesteps, "an integer >= 1", timesteps >= 1
    scale = "a finite number > 0"
    yield "logit_scale", logit_scale, scale, 0 < logit_scale < math.inf
    yield "input_shape", input_shape, "(C, H, W)", _is_shape(input_shape)
    *ends, last = [False, *(isinstance(layer, Readout) for layer in layers)]
    yield "layers", len(layers), "a list with one readout, at its end", last and not any(ends)
    outputs = outputs_of((), input_shape)
    projections: set[str] = set()
    for layer in layers:
        name = layer.name
        yield "name", name, NAMES, _is_new(name, outputs)
        yield f"shape of {name}", layer.shape, "(C, H, W)", _is_shape(layer.shape)
        for source in layer.sources:
            yield f"source of {name}", source, f"one of {', '.join(outputs)}", source in outputs
        for one in layer.synapses if isinstance(layer, Driven) else ():
            yield "name", one.name, NAMES, _is_new(one.name, projections)
            projections.add(one.name)
        inputs = [outputs[source] for source in layer.sources]
        yield from layer.requirements(inputs, timesteps)
        for source, shape in zip(layer.sources, layer.implied_shapes(inputs), strict=True):
            fits = shape == layer.shape
            yield f"shape of {name}", layer.shape, f"{shape} by {source}", fits
        outputs[name] = layer.output(inputs)


def _is_shape(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and min(shape) >= 1


def _is_new(name: str, taken: Container[str]) -> bool:
    """Whether a name is not taken yet, and may stand in generated code, comments included."""
    return name not in taken and re.fullmatch(r"[A-Za-z0-9_.-]+", name) is not None


def identifier(name: str) -> str:
    """The name of a layer or of synapses in C.

    >>> identifier("body.stage1_block1.path.conv1"), identifier("0"), identifier("fire")
    ('stage1_block1_path_conv1', 'layer_0', 'layer_fire')
    """
    word = re.sub(r"\W", "_", name.removeprefix("body."))
    word = f"{word}_layer" if _TABLES.fullmatch(word) else word
    return f"layer_{word}" if _WORDS.fullmatch(word) or word[0].isdigit() else word


def prove(layers: Sequence[Layer], outputs: Mapping[str, Output], timesteps: int) -> dict[str, int]:
    """The bound on every intermediate value of each layer that adds, by name.

    A potential is bounded by |start| + T * (|bias| + sum |w| * largest input): the reset only
    brings it nearer to zero. Levels of a residual sum must fit one byte, those of logic be 0 or 1.

    Args:
        outputs: what the image and each layer send (`outputs_of`).

    Raises:
        InputError: naming the layer whose bound exceeds its type.
    """
    bounds = {}
    for layer in layers:
        if isinstance(layer, Merge):
            parts = [outputs[source].largest for source in layer.sources]
            levels, limit = (sum(parts), LEVEL_MAX) if layer.kind == "add" else (max(parts), 1)
            if levels > limit:
                raise InputError(f"{layer.name}: got levels up to {levels}, allowed: <= {limit}")
        if not isinstance(layer, Driven):
            continue
        bound = int(np.abs(layer.bias.values.astype(np.int64)).max())
        for synapses in layer.synapses:
            largest = synapses.largest_sum(outputs[synapses.source].largest)
            if synapses.shift is not None:
                # The sum before the shift, with its rounding term, has to fit as well.
                largest = max(largest, largest << max(0, -int(synapses.shift.min())))
                largest += 2 ** max(0, int(synapses.shift.max()))
            bound += largest
        if not isinstance(layer, Potentials):
            bound *= timesteps
        if isinstance(layer, Neurons):
            bound += int(np.abs(layer.start.astype(np.int64)).max())
            bound = max(bound, layer.levels * int(layer.step.max()))
        if bound > INT32:
            raise invalid(layer.name, f"sums up to {bound}", f"<= {INT32}: fewer levels or steps")
        bounds[layer.name] = bound
    return bounds


def prove_float32(layers: Sequence[Layer], outputs: Mapping[str, Output], timesteps: int) -> None:
    """Raise `InputError` unless float32 holds all numbers of the layers exactly.

    Sums must stay below 2^24, but for the dense shortcut convolutions of MS-ResNet, (N+1) * D of
    neurons below 2^22, and at T = 1 (N+1) * D + |bias| of those behind one convolution of levels
    below 2^21.
    """
    sums = prove([_without_dense(layer, outputs) for layer in layers], outputs, timesteps)
    for layer in layers:
        if isinstance(layer, SumPool):
            sums[layer.name] = timesteps * outputs[layer.name].largest
        if isinstance(layer, Neurons):
            ratio = (layer.levels + 1) * int(layer.step.max())
            if ratio >= RATIO:
                raise invalid(layer.name, f"(N+1) * D = {ratio}", f"< {RATIO}, or --format c")
            ratio = _folded_ratio(layer) if timesteps == 1 else 0
            if ratio >= FOLDED:
                what = f"(N+1) * D + |bias| = {ratio}"
                raise invalid(layer.name, what, f"< {FOLDED}, or --format c")
    for name, bound in sums.items():
        if bound >= FLOAT32:
            allowed = f"< {FLOAT32} (float32): fewer levels or steps, or --format c"
            raise invalid(name, f"sums up to {bound}", allowed)


def _folded_ratio(layer: Neurons) -> int:
    """(N+1) * D + |bias| of neurons whose one convolution of levels may be scaled as a whole."""
    (one, *more) = layer.synapses
    if more or one.weight is None or one.source == IMAGE:
        return 0
    driven = one.weight.astype(bool).any(axis=(1, 2, 3))
    bias = np.abs(layer.bias.values.astype(np.int64)).max(axis=(0, 1))
    ratio = (layer.levels + 1) * layer.step.astype(np.int64) + bias
    return int(ratio[driven].max(initial=0))


def _without_dense(layer: Layer, outputs: Mapping[str, Output]) -> Layer:
    """The layer without convolutions of potentials."""
    if not isinstance(layer, Potentials):
        return layer
    kept = (
        one
        for one in layer.synapses
        if one.weight is None or outputs[one.source].largest <= LEVEL_MAX
    )
    return replace(layer, synapses=tuple(kept))
