"""Synapses on their way from float to integer: weights folded, then counted in whole units."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from multispike.errors import invalid
from multispike.export.layers import SHIFT_MAX, Ints, Shape, Synapses
from multispike.neurons import MIN_THRESHOLD, MultiLevelIF

Floats = NDArray[np.float64]

WEIGHT = np.int8
WEIGHT_MAX = 127
GRID = 1 + 1e-6
"""Room for the rounding of float32, so that weights that lie on an 8-bit grid find it again."""


ROUNDING = 2.0**-23
"""Relative rounding of float32."""


def int32(values: Floats, name: str) -> Ints:
    """Whole numbers as int32.

    Raises:
        InputError: naming the layer, where they don't fit.
    """
    largest = float(np.abs(values).max())
    if not largest < 2**31:
        allowed = "< 2^31: biases and shortcuts in proportion to thresholds"
        raise invalid(name, f"{largest:.3g} units", allowed)
    return values.astype(np.int32)


def lifted(values: Floats) -> Floats:
    """`values`, raised by what float32 may have taken, so that rounding down keeps whole ones.

    >>> np.floor(lifted(np.array([2.9999999, 2.99999, -1e-12]))).tolist()
    [3.0, 2.0, 0.0]
    """
    return values + ROUNDING * np.maximum(np.abs(values), 1)


@dataclass(frozen=True)
class Signal:
    """What a layer sends: its name and shape, and what 1 is worth in the float network, [C].

    potentials: fixed-point potentials, not levels.
    """

    name: str
    shape: Shape
    worth: Floats
    potentials: bool = False


@dataclass(frozen=True)
class Drive:
    """Synapses in floating point, on their way to a layer.

    weight: potential per unit of the source; None for an identity.
    factor: what the module's own weights were multiplied by to get there, [Co, Ci, 1, 1].
    sign: set where a max-pool stands before batch norm, and `shape` is behind it.
    """

    name: str
    source: Signal
    shape: Shape
    bias: Floats
    weight: Floats | None = None
    factor: Floats | None = None
    stride: int = 1
    padding: int = 0
    pools: bool = False
    sign: Ints | None = None


def taps(size: int, kernel: int, drive: Drive, out: int) -> tuple[NDArray[np.uint8], Floats]:
    """Per output position along one axis its class; per class which taps are inside the image."""
    position = np.arange(out)[:, None] * drive.stride - drive.padding + np.arange(kernel)
    inside = (position >= 0) & (position < size)
    classes, of_position = np.unique(inside, axis=0, return_inverse=True)
    return of_position.reshape(-1).astype(np.uint8), classes.astype(np.float64)


def project(name: str, module: nn.Conv2d | nn.Linear, x: Signal) -> Drive:
    """A convolution or linear layer, its weights per unit of x."""
    weight = module.weight.detach().double().numpy()
    stride, padding = 1, 0
    if isinstance(module, nn.Conv2d):
        stride, padding = module.stride[0], module.padding[0]
        plain = module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
        square = len(set(module.stride)) == 1 and len(set(module.padding)) == 1
        if not (plain and square) or not isinstance(padding, int):
            raise invalid(
                name, str(module), "convolutions without groups or dilation, square stride"
            )
    else:
        weight = weight[:, :, None, None]
    bias = np.zeros(len(weight))
    if module.bias is not None:
        bias = module.bias.detach().double().numpy()
    shape = Synapses(name, x.name, weight=weight, stride=stride, padding=padding).sum_shape(x.shape)  # pyright: ignore[reportArgumentType]
    factor = np.broadcast_to(x.worth[:, None, None], (*weight.shape[:2], 1, 1))
    return Drive(name, x, shape, bias, weight * factor, factor, stride, padding)


def identity(name: str, x: Signal) -> Drive:
    """x itself, added to a potential."""
    return Drive(name, x, x.shape, np.zeros(x.shape[0]))


def fold(norm: nn.BatchNorm2d, drive: Drive) -> Drive:
    """Batch norm into weights and bias; behind a max-pool the scale's sign stays outside."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    assert drive.weight is not None
    assert drive.factor is not None
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    offset = norm.bias.detach().double() - norm.running_mean.double() * scale
    factor = scale.numpy()
    bias = drive.bias * factor + offset.numpy()
    sign = None
    if drive.pools:
        sign = np.where(factor < 0, -1, 1).astype(np.int32)
        factor = np.abs(factor)
    each = factor[:, None, None, None]
    return replace(
        drive, weight=drive.weight * each, factor=drive.factor * each, bias=bias, sign=sign
    )


def whole(drive: Drive, unit: Floats, shift: Ints | None = None) -> Synapses:
    """`drive` in whole units [C], finer by 2^shift where a shift follows.

    Raises:
        InputError: naming the layer, for weights beyond 127 units.
    """
    if drive.weight is None:
        gain = int32(np.round(drive.source.worth / unit), drive.name)
        return Synapses(drive.name, drive.source.name, gain=gain)
    weight = drive.weight / finest(unit, shift)[:, None, None, None]
    largest = float(np.abs(weight).max())
    if largest > GRID**2 * WEIGHT_MAX:
        allowed = f"<= {WEIGHT_MAX}: a smaller batch norm scale, or a larger threshold"
        raise invalid(drive.name, f"weights up to {largest:.4g} levels", allowed)
    weight = np.round(weight).clip(-WEIGHT_MAX, WEIGHT_MAX)
    return Synapses(
        drive.name,
        drive.source.name,
        weight.astype(WEIGHT),
        stride=drive.stride,
        padding=drive.padding,
        shift=shift,
    )


def finest(unit: Floats, shift: Ints | None) -> Floats:
    """What a weight of 1 is worth."""
    return unit if shift is None else unit / 2.0**shift


def rounded(drive: Drive, synapses: Synapses, unit: Floats) -> Floats:
    """The module's own weights as `synapses` has them, rounded; [Co, Ci, Kh, Kw].

    Those that no scale lets through (a batch norm's scale of 0) are 0.
    """
    assert drive.factor is not None
    assert synapses.weight is not None
    worth = synapses.weight * finest(unit, synapses.shift)[:, None, None, None]
    return np.divide(worth, drive.factor, out=np.zeros_like(worth), where=drive.factor != 0)


def largest_shift(drive: Drive, unit: Floats) -> Ints:
    """The largest power of two a channel that keeps weights within -127..127."""
    assert drive.weight is not None
    largest = np.abs(drive.weight).max(axis=(1, 2, 3)) / unit
    shift = np.floor(np.log2(GRID * WEIGHT_MAX / np.maximum(largest, WEIGHT_MAX / 2.0**SHIFT_MAX)))
    return shift.clip(-SHIFT_MAX, SHIFT_MAX).astype(np.int32)


def level_of(neuron: MultiLevelIF, channels: int | None) -> Floats:
    """One level, V_th/N: [channels], or the values as they are."""
    threshold = neuron.threshold
    if isinstance(threshold, torch.Tensor):
        values = threshold.detach().double().clamp_min(MIN_THRESHOLD).numpy().reshape(-1)
    else:
        values = np.array([threshold])
    values = values / neuron.levels
    return values if channels is None else np.broadcast_to(values, channels).copy()
