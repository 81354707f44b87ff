"""What must hold of an integer network before it runs: names, shapes and ranges fit, and no sum
leaves int32, from the actual weights. What float32 runtimes need on top: `prove_float32`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

import numpy as np

from multispike.errors import LARGEST_SAMPLE, InputError, check_sample, invalid
from multispike.export.layers import (
    IMAGE,
    SHIFT_MAX,
    Concat,
    Driven,
    Ints,
    Layer,
    MaxPool,
    Merge,
    Neurons,
    Output,
    Pool,
    Potentials,
    Readout,
    Shape,
    SumPool,
    Synapses,
    Window,
    output_of,
    outputs_of,
    pooled_shape,
)

MERGES = ("add", "and", "iand")
INT32 = 2**31 - 1
LEVEL_MAX = 255
"""Levels travel as one byte."""

VALUES_MAX = LARGEST_SAMPLE
"""Of an image or a layer, padding included; a C program's buffers would take 300 MB."""

COUNT_MAX = 2**20
"""Timesteps, and each number of a window."""

FLOAT32 = 2**24
"""Below, float32 is exact for whole numbers."""

BYTE = 256
_LOW = "low bytes"

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

_TABLES = re.compile(
    ".*_(weight|gain|shift|bias|values|rows|columns|start|step|sign|pool|first|gap)"
)
"""What a layer's tables in C are called."""

NAMES = "a new one of letters, digits, _ . -"
SHAPES = f"(C, H, W) of at most {VALUES_MAX:,} values"


def check(
    arch: str, input_shape: Shape, timesteps: int, logit_scale: float, layers: Sequence[Layer]
) -> None:
    """Raise `InputError` unless all fits together; that no sum overflows, `prove` tells."""
    _need("arch", arch, "letters, digits, _ . -", _is_new(arch, ()))
    _need("timesteps", timesteps, f"1 to {COUNT_MAX:,}", 1 <= timesteps <= COUNT_MAX)
    _need("logit_scale", logit_scale, "a finite number > 0", 0 < logit_scale < math.inf)
    _need("input_shape", input_shape, SHAPES, _is_shape(input_shape))
    check_sample("frames", (timesteps, *input_shape))
    *ends, last = [False, *(isinstance(layer, Readout) for layer in layers)]
    _need("layers", len(layers), "a list with one readout, at its end", last and not any(ends))
    outputs = outputs_of((), input_shape)
    projections: set[str] = set()
    for layer in layers:
        name = layer.name
        _need("name", name, NAMES, _is_new(name, outputs))
        _need(f"shape of {name}", layer.shape, SHAPES, _is_shape(layer.shape))
        for source in layer.sources:
            allowed = f"one of {', '.join(outputs)}"
            _need(f"source of {name}", source, allowed, source in outputs)
        inputs = [outputs[source] for source in layer.sources]
        if isinstance(layer, Driven):
            for one in layer.synapses:
                _need("name", one.name, NAMES, _is_new(one.name, projections))
                projections.add(one.name)
            shapes = _check_driven(layer, inputs, timesteps)
        else:
            shapes = _check_undriven(layer, inputs)
        for source, shape in zip(layer.sources, shapes, strict=True):
            _need(f"shape of {name}", layer.shape, f"{shape} by {source}", shape == layer.shape)
        outputs[name] = output_of(layer, outputs)


def _need(what: str, value: object, allowed: str, holds: bool) -> None:
    if not holds:
        raise invalid(what, value, allowed)


def _check_driven(layer: Driven, inputs: Sequence[Output], timesteps: int) -> list[Shape]:
    """Of its synapses, bias and neurons; gives the shapes that its sources ask for."""
    name, channels = layer.name, layer.shape[0]
    for one, read in zip(layer.synapses, inputs, strict=True):
        _check_synapses(one, read, channels)
    values = layer.bias.values.shape
    fits = len(values) == 3 and values[2] == channels
    _need(f"bias of {name}", values, f"[R, S, {channels}]", fits)
    axes = ("rows", layer.bias.rows), ("columns", layer.bias.columns)
    for (axis, classes), size, count in zip(axes, layer.shape[1:], values[:2], strict=True):
        what = f"bias {axis} of {name}"
        _need(what, classes.shape, f"({size},)", classes.shape == (size,))
        _need(what, int(classes.max()), f"classes below {count}", int(classes.max()) < count)
    several = len(layer.synapses)
    _need(f"synapses of {name}", several, ">= 1", several >= 1)
    if isinstance(layer, Readout):
        plain = [one.weight is not None and one.shift is None for one in layer.synapses]
        _need(f"synapses of {name}", several, "one matrix of weights", plain == [True])
    elif isinstance(layer, Neurons):
        _check_neurons(layer, inputs[0], timesteps)
    pairs = zip(layer.synapses, inputs, strict=True)
    shapes = [one.sum_shape(read.shape) for one, read in pairs]
    if isinstance(layer, Neurons) and layer.pool:
        shapes = [pooled_shape(layer.pool, shape) for shape in shapes]
    return shapes


def _check_synapses(one: Synapses, read: Output, channels: int) -> None:
    """Of a projection from what it reads onto `channels`."""
    _check_window(one.name, one.window, read.shape)
    if one.weight is not None:
        groups, shape = one.groups, one.weight.shape
        fits = len(shape) == 4 and groups >= 1 and shape[0] % groups == 0
        fits = fits and (shape[1] * groups, *shape[2:]) == (read.shape[0], *one.window.kernel)
        allowed = f"[Co, {read.shape[0]}/groups, Kh, Kw] of {groups} groups, and the window's"
        _need(f"weight of {one.name}", shape, allowed, fits)
    either = (one.weight is None) != (one.gain is None)
    _need(f"gain of {one.name}", one.gain, "a weight or a gain", either)
    _check_channels(one.name, channels, gain=one.gain, shift=one.shift)
    if one.shift is not None:
        largest = int(np.abs(one.shift.astype(np.int64)).max())
        _need(f"shift of {one.name}", largest, f"at most {SHIFT_MAX}", largest <= SHIFT_MAX)


def _check_neurons(layer: Neurons, read: Output, timesteps: int) -> None:
    name = layer.name
    _need(f"levels of {name}", layer.levels, "1 to 255", 1 <= layer.levels <= LEVEL_MAX)
    _check_channels(name, layer.shape[0], start=layer.start, step=layer.step, sign=layer.sign)
    odd = bool((layer.step > 0).all() and (layer.step % 2 == 1).all())
    _need(f"step of {name}", layer.step.tolist(), "odd numbers >= 1", odd)
    both = "a sign and a pool, or neither"
    _need(f"sign of {name}", layer.sign, both, (layer.sign is None) == (layer.pool is None))
    if layer.sign is not None and layer.pool is not None:
        _check_window(name, layer.pool, layer.synapses[0].sum_shape(read.shape))
        signs = bool((np.abs(layer.sign) == 1).all())
        _need(f"sign of {name}", layer.sign.tolist(), "-1 and 1", signs)
        several, source = len(layer.synapses), layer.synapses[0].source
        _need(f"synapses of {name}", several, "1 before a max-pool", several == 1)
        _need(f"source of {name}", source, "levels before a max-pool", source != IMAGE)
    shifts = any(one.shift is not None for one in layer.synapses)
    _need(f"synapses of {name}", "a shift", "shifts onto potentials", not shifts)
    at_zero = timesteps > 1 or not layer.start.any()
    _need(f"start of {name}", layer.start.tolist(), "zeros where T = 1", at_zero)


def _check_undriven(layer: Layer, inputs: Sequence[Output]) -> list[Shape]:
    """Of merges, poolings and concatenations; gives the shapes that their sources ask for."""
    name, dtypes = layer.name, [read.dtype for read in inputs]
    shapes = [read.shape for read in inputs]
    if isinstance(layer, Concat):
        fits = len(dtypes) > 1 and len({*dtypes}) == 1
        _need(f"parts of {name}", dtypes, "two or more of one type", fits)
        return [(sum(shape[0] for shape in shapes), *shape[1:]) for shape in shapes]
    if isinstance(layer, Merge):
        _need(f"kind of {name}", layer.kind, ", ".join(MERGES), layer.kind in MERGES)
    reads = {MaxPool: ("uint8", "int16"), SumPool: ("uint8", "int32")}.get(type(layer), ("uint8",))
    for source, dtype in zip(layer.sources, dtypes, strict=True):
        _need(f"source of {name}", source, "one of levels", dtype in reads)
    if isinstance(layer, Pool):
        _check_window(name, layer.window, shapes[0])
        shapes = [pooled_shape(layer.window, shape) for shape in shapes]
    return shapes


def _check_window(name: str, window: Window, shape: Shape) -> None:
    for field, least in (
        ("kernel", 1),
        ("stride", 1),
        ("before", 0),
        ("after", 0),
        ("dilation", 1),
    ):
        values = getattr(window, field)
        fits = len(values) == 2 and least <= min(values) and max(values) <= COUNT_MAX
        _need(f"{field} of {name}", values, f"two integers from {least} to {COUNT_MAX:,}", fits)
    rows, columns = map(sum, zip(shape[1:], window.before, window.after, strict=True))
    _need(f"padding of {name}", window.before, SHAPES, _is_shape((shape[0], rows, columns)))


def _check_channels(name: str, channels: int, **fields: Ints | None) -> None:
    """That fields that are there have a number a channel."""
    for field, values in fields.items():
        if values is not None:
            fits = values.shape == (channels,)
            _need(f"{field} of {name}", values.shape, f"({channels},)", fits)


def _is_shape(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and min(shape) >= 1 and math.prod(shape) <= VALUES_MAX


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

    Sums must stay below 2^24, of convolutions that are summed `in_bytes` those of either byte,
    (N+1) * D of neurons below 2^22, and at T = 1 (N+1) * D + |bias| of those behind one convolution
    of levels below 2^21.
    """
    high: dict[str, int] = {}

    def low(layer: Driven, one: Synapses) -> Synapses:
        if not in_bytes(layer, one, outputs, timesteps):
            return one
        high[layer.name] = high.get(layer.name, 0) + _high_sum(one, outputs)
        return replace(one, source=_LOW)

    summed = [
        replace(layer, synapses=tuple(low(layer, one) for one in layer.synapses))
        if isinstance(layer, Driven) else layer
        for layer in layers
    ]  # fmt: skip
    low_bytes = replace(outputs[IMAGE], largest=BYTE - 1)
    sums = prove(summed, {**outputs, _LOW: low_bytes}, timesteps)
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
        bound += high.get(name, 0)
        if bound >= FLOAT32:
            allowed = f"< {FLOAT32} (float32): fewer levels or steps, or --format c"
            raise invalid(name, f"sums up to {bound}", allowed)


def in_bytes(layer: Driven, one: Synapses, outputs: Mapping[str, Output], timesteps: int) -> bool:
    """Whether float32 sums the high and the low bytes of potentials apart, as 256 * high + low
    comes near 2^24: onto potentials, or onto neurons that don't keep the sum."""
    read = outputs[one.source]
    if one.weight is None or read.dtype != "int16":
        return False
    once = isinstance(layer, Neurons) and timesteps == 1 and layer.pool is None
    near = one.largest_sum(read.largest) >= FLOAT32 // 2
    return near and (once or isinstance(layer, Potentials))


def _high_sum(one: Synapses, outputs: Mapping[str, Output]) -> int:
    """Bound on the sum of high bytes, and behind a shift on what is left of it."""
    most = outputs[one.source].largest
    high = one.largest_sum(most // BYTE + 1)
    if one.shift is None or one.weight is None:
        return high
    shifted = np.abs(one.weight.astype(np.int64)).sum((1, 2, 3)) * most / 2.0**one.shift
    return max(high, int(shifted.max()))


def _folded_ratio(layer: Neurons) -> int:
    """(N+1) * D + |bias| of neurons whose one convolution of levels may be scaled as a whole."""
    (one, *more) = layer.synapses
    if more or one.weight is None or one.source == IMAGE:
        return 0
    driven = one.weight.astype(bool).any(axis=(1, 2, 3))
    bias = np.abs(layer.bias.values.astype(np.int64)).max(axis=(0, 1))
    ratio = (layer.levels + 1) * layer.step.astype(np.int64) + bias
    return int(ratio[driven].max(initial=0))
