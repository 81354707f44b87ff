"""What must hold of an integer network before it runs: names, shapes, lengths and ranges."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np

from multispike.errors import invalid
from multispike.export import overflow
from multispike.export.layers import (
    IMAGE,
    MERGES,
    SHIFT_MAX,
    Bias,
    GlobalSum,
    Layer,
    MaxPool,
    Merge,
    Neurons,
    Potentials,
    Readout,
    Shape,
    Synapses,
    pooled,
    sources,
)

Row = tuple[str, object, str, bool]
"""What is looked at, its value, what is allowed, and whether it is. Rows rely on those before."""

NAMES = "a new one of letters, digits, _ . -"


def check(
    arch: str,
    input_shape: Shape,
    timesteps: int,
    logit_scale: float,
    layers: Sequence[Layer],
) -> None:
    """Raise `InputError` unless all fits together and no sum overflows."""
    kinds = [type(layer) for layer in layers]
    ends = kinds.count(Readout) == 1 and kinds[-1] is Readout
    whole: list[Row] = [
        ("arch", arch, "letters, digits, _ . -", _is_word(arch)),
        ("timesteps", timesteps, "an integer >= 1", timesteps >= 1),
        ("logit_scale", logit_scale, "a finite number > 0", 0 < logit_scale < math.inf),
        ("input_shape", input_shape, "(C, H, W)", _is_shape(input_shape)),
        ("layers", len(kinds), "a list with one readout, at its end", ends),
    ]
    for what, value, allowed, holds in chain(whole, _layers(layers, input_shape, timesteps)):
        if not holds:
            raise invalid(what, value, allowed)
    overflow.prove(layers, timesteps)


def _layers(layers: Sequence[Layer], input_shape: Shape, timesteps: int) -> Iterator[Row]:
    """Rows of all layers in order."""
    shapes: dict[str, Shape] = {IMAGE: input_shape}
    projections: set[str] = set()
    potentials: set[str] = set()
    for layer in layers:
        name = layer.name
        yield "name", name, NAMES, _is_name(name, shapes)
        yield f"shape of {name}", layer.shape, "(C, H, W)", _is_shape(layer.shape)
        for source in sources(layer):
            yield f"source of {name}", source, f"one of {', '.join(shapes)}", source in shapes
        for one in getattr(layer, "synapses", ()):
            yield "name", one.name, NAMES, _is_name(one.name, projections)
            projections.add(one.name)
            yield from _synapses(one, shapes[one.source][0], layer.shape[0])
            if one.source in potentials and one.weight is not None:
                allowed = "1x1 without padding, on potentials"
                single = one.weight.shape[2:] == (1, 1) and one.padding == 0
                yield f"weight of {one.name}", one.weight.shape, allowed, single
        if isinstance(layer, (Neurons, Potentials, Readout)):
            yield from _bias(name, layer.bias, layer.shape)
        yield from _own(layer)
        if isinstance(layer, Neurons):
            rests = timesteps > 1 or not layer.start.any()
            yield f"start of {name}", layer.start.tolist(), "zeros where T = 1", rests
        if isinstance(layer, (Merge, GlobalSum)):
            for source in sources(layer):
                yield f"source of {name}", source, "one of levels", source not in potentials
        if isinstance(layer, Potentials) or (
            isinstance(layer, MaxPool) and layer.source in potentials
        ):
            potentials.add(name)
        for what, reached in _reached(layer, shapes):
            fits = reached == layer.shape
            yield f"shape of {name}", layer.shape, f"{reached} by {what}", fits
        shapes[name] = layer.shape


def _synapses(one: Synapses, received: int, places: int) -> Iterator[Row]:
    """Of a projection from `received` channels onto `places`."""
    if one.weight is not None:
        allowed = f"[Co, {received}, Kh, Kw]"
        shape = one.weight.shape
        yield f"weight of {one.name}", shape, allowed, len(shape) == 4 and shape[1] == received
    yield f"stride of {one.name}", one.stride, ">= 1", one.stride >= 1
    yield f"padding of {one.name}", one.padding, ">= 0", one.padding >= 0
    for what, values in (("gain", one.gain), ("shift", one.shift)):
        if values is not None:
            yield f"{what} of {one.name}", values.shape, f"({places},)", values.shape == (places,)
    if one.shift is not None:
        largest = int(np.abs(one.shift.astype(np.int64)).max())
        yield f"shift of {one.name}", largest, f"at most {SHIFT_MAX}", largest <= SHIFT_MAX


def _bias(name: str, bias: Bias, shape: Shape) -> Iterator[Row]:
    """Of a bias on `shape`."""
    values = bias.values.shape
    allowed = f"[R, S, {shape[0]}]"
    yield f"bias of {name}", values, allowed, len(values) == 3 and values[2] == shape[0]
    axes = (("rows", bias.rows), ("columns", bias.columns))
    for (what, classes), size, count in zip(axes, shape[1:], values[:2], strict=True):
        what = f"bias {what} of {name}"
        yield what, classes.shape, f"({size},)", classes.shape == (size,)
        yield what, int(classes.max()), f"classes below {count}", int(classes.max()) < count


def _own(layer: Layer) -> Iterator[Row]:
    """What only this kind of layer has."""
    name = layer.name
    match layer:
        case Neurons():
            yield f"levels of {name}", layer.levels, "1 to 255", 1 <= layer.levels <= 255
            for what, values in (
                ("start", layer.start),
                ("step", layer.step),
                ("sign", layer.sign),
            ):
                if values is not None:
                    fits = values.shape == layer.shape[:1]
                    yield f"{what} of {name}", values.shape, f"{layer.shape[:1]}", fits
            odd = bool((layer.step > 0).all() and (layer.step % 2 == 1).all())
            yield f"step of {name}", layer.step.tolist(), "odd numbers >= 1", odd
            several = len(layer.synapses)
            yield f"synapses of {name}", several, ">= 1", several >= 1
            if layer.sign is not None:
                signs = bool((np.abs(layer.sign) == 1).all())
                yield f"sign of {name}", layer.sign.tolist(), "-1 and 1", signs
                yield f"synapses of {name}", several, "1 before a max-pool", several == 1
                source = layer.synapses[0].source
                yield f"source of {name}", source, "levels before a max-pool", source != IMAGE
            shifts = any(one.shift is not None for one in layer.synapses)
            yield f"synapses of {name}", "a shift", "shifts onto potentials", not shifts
        case Merge():
            yield f"kind of {name}", layer.kind, ", ".join(MERGES), layer.kind in MERGES
        case Potentials():
            yield f"synapses of {name}", 0, ">= 1", len(layer.synapses) >= 1
        case Readout():
            plain = [one.weight is not None and one.shift is None for one in layer.synapses]
            yield f"synapses of {name}", len(plain), "one matrix of weights", plain == [True]


def _reached(layer: Layer, shapes: dict[str, Shape]) -> list[tuple[str, Shape]]:
    """What each source, or projection, makes of the layer's shape."""
    match layer:
        case Merge():
            return [(source, shapes[source]) for source in sources(layer)]
        case MaxPool():
            return [(layer.source, pooled(shapes[layer.source]))]
        case GlobalSum():
            return [(layer.source, (shapes[layer.source][0], 1, 1))]
    reached = [(one.name, one.reach(shapes[one.source])) for one in layer.synapses]
    if isinstance(layer, Neurons) and layer.sign is not None:
        return [(name, pooled(shape)) for name, shape in reached]
    return reached


def _is_shape(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and min(shape) >= 1


def _is_name(name: str, taken: set[str] | dict[str, Shape]) -> bool:
    return name not in taken and _is_word(name)


def _is_word(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_.-]+", name) is not None
