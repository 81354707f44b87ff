"""Proof that no sum of an integer network leaves int32, from its actual weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from multispike.errors import InputError, invalid
from multispike.export.layers import (
    IMAGE,
    POTENTIAL_END,
    GlobalSum,
    Layer,
    MaxPool,
    Merge,
    Neurons,
    Potentials,
    Readout,
    Synapses,
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


def largest_sum(synapses: Synapses, largest_input: int) -> int:
    """Bound on every partial sum over these synapses, in any order: max_c sum |w| * largest input.

    >>> w = np.array([3, -4], np.int8).reshape(1, 2, 1, 1)
    >>> largest_sum(Synapses("fc", "z", w), 2)
    14
    """
    if synapses.weight is None:
        assert synapses.gain is not None
        per_channel = np.abs(synapses.gain.astype(np.int64))
    else:
        per_channel = np.abs(synapses.weight.astype(np.int64)).sum(axis=(1, 2, 3))
    return int(per_channel.max()) * largest_input


def largest_outputs(layers: Sequence[Layer]) -> dict[str, int]:
    """The largest absolute value that each layer, and the image, can send."""
    largest = {IMAGE: 255}
    for layer in layers:
        match layer:
            case Neurons():
                value = layer.levels
            case Potentials():
                value = POTENTIAL_END
            case Merge(kind="add"):
                value = largest[layer.path] + largest[layer.shortcut]
            case Merge():
                value = 1
            case MaxPool():
                value = largest[layer.source]
            case GlobalSum():
                value = largest[layer.source] * _positions(layers, layer)
            case Readout():
                value = 0
        largest[layer.name] = value
    return largest


def prove(layers: Sequence[Layer], timesteps: int) -> dict[str, int]:
    """The bound on every intermediate value of each layer that adds, by name.

    A potential is bounded by |start| + T * (|bias| + sum |w| * largest input): the reset only
    brings it nearer to zero. Levels of a residual sum must fit one byte, those of logic be 0 or 1.

    Raises:
        InputError: naming the layer whose bound exceeds its type.
    """
    largest = largest_outputs(layers)
    bounds = {}
    for layer in layers:
        if isinstance(layer, Merge):
            parts = largest[layer.path], largest[layer.shortcut]
            levels, limit = (sum(parts), LEVEL_MAX) if layer.kind == "add" else (max(parts), 1)
            if levels > limit:
                raise InputError(f"{layer.name}: got levels up to {levels}, allowed: <= {limit}")
        if not isinstance(layer, (Neurons, Potentials, Readout)):
            continue
        bound = int(np.abs(layer.bias.values.astype(np.int64)).max())
        for synapses in layer.synapses:
            part = largest_sum(synapses, largest[synapses.source])
            if synapses.shift is not None:
                # The sum before the shift, with its rounding term, has to fit as well.
                part = max(part, part << max(0, -int(synapses.shift.min())))
                part += 2 ** max(0, int(synapses.shift.max()))
            bound += part
        if isinstance(layer, Neurons):
            bound = timesteps * bound + int(np.abs(layer.start.astype(np.int64)).max())
            bound = max(bound, layer.levels * int(layer.step.max()))
        elif isinstance(layer, Readout):
            bound *= timesteps
        if bound > INT32:
            raise invalid(layer.name, f"sums up to {bound}", f"<= {INT32}: fewer levels or steps")
        bounds[layer.name] = bound
    return bounds


def prove_float32(layers: Sequence[Layer], timesteps: int) -> None:
    """Raise `InputError` unless float32 holds all numbers of the layers exactly.

    Sums must stay below 2^24, but for the dense shortcut convolutions of MS-ResNet, (N+1) * D of
    neurons below 2^22, and at T = 1 (N+1) * D + |bias| of those behind one convolution of levels
    below 2^21.
    """
    largest = largest_outputs(layers)
    sums = prove([_without_dense(layer, largest) for layer in layers], timesteps)
    for layer in layers:
        if isinstance(layer, GlobalSum):
            sums[layer.name] = timesteps * largest[layer.name]
        if isinstance(layer, Neurons):
            ratio = (layer.levels + 1) * int(layer.step.max())
            if ratio >= RATIO:
                raise invalid(layer.name, f"(N+1) * D = {ratio}", f"< {RATIO}, or --format c")
            ratio = _folded(layer) if timesteps == 1 else 0
            if ratio >= FOLDED:
                what = f"(N+1) * D + |bias| = {ratio}"
                raise invalid(layer.name, what, f"< {FOLDED}, or --format c")
    for name, bound in sums.items():
        if bound >= FLOAT32:
            allowed = f"< {FLOAT32} (float32): fewer levels or steps, or --format c"
            raise invalid(name, f"sums up to {bound}", allowed)


def _folded(layer: Neurons) -> int:
    """(N+1) * D + |bias| of neurons whose one convolution of levels may be scaled as a whole."""
    (one, *more) = layer.synapses
    if more or one.weight is None or one.source == IMAGE:
        return 0
    driven = one.weight.astype(bool).any(axis=(1, 2, 3))
    bias = np.abs(layer.bias.values.astype(np.int64)).max(axis=(0, 1))
    reach = (layer.levels + 1) * layer.step.astype(np.int64) + bias
    return int(reach[driven].max(initial=0))


def _without_dense(layer: Layer, largest: dict[str, int]) -> Layer:
    """The layer without convolutions of potentials."""
    if not isinstance(layer, Potentials):
        return layer
    kept = (one for one in layer.synapses if one.weight is None or largest[one.source] <= LEVEL_MAX)
    return replace(layer, synapses=tuple(kept))


def _positions(layers: Sequence[Layer], layer: GlobalSum) -> int:
    """Pixels that a global sum adds up."""
    source = next(other for other in layers if other.name == layer.source)
    return source.shape[1] * source.shape[2]
