"""From float to integer: batch norm folded, int8 weights, int32 thresholds.

Every neuron's potential is counted in units of its own channel, u = V_th / (N * D): the odd
number D is the largest for which all weights of the channel, as potentials per level received, fit
-127..127 units, and that keeps bias, shortcuts and N levels below 2^22 of them (at T = 1, but on
pixels, 2^21). Hence firing compares with k*D and the soft reset subtracts z*D, both exact. The bias
is rounded down at T = 1, where H >= k*D asks no more of it, else to the nearest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from multispike.errors import invalid
from multispike.export.layers import (
    IMAGE,
    POTENTIAL_BITS,
    POTENTIAL_END,
    POTENTIAL_HEADROOM,
    POTENTIAL_LEVEL,
    SHIFT_MAX,
    Bias,
    Ints,
    Layer,
    Neurons,
    Output,
    Potentials,
    Readout,
    Shape,
    Synapses,
    outputs_of,
)
from multispike.export.validate import FOLDED, RATIO
from multispike.neurons import MIN_THRESHOLD, MultiLevelIF

Floats = NDArray[np.float64]

WEIGHT = np.int8
WEIGHT_MAX = 127
GRID = 1 + 1e-6
"""Room for the rounding of float32, so that weights that lie on an 8-bit grid find it again."""

ROUNDING = 2.0**-23
"""Relative rounding of float32."""

STEP_MAX = 2**20 - 1
"""Largest D; reached only by channels whose weights are next to nothing."""

UNITS_MAX = RATIO - 1
"""Largest bias, and N+1 levels, in units: float32 runtimes tell levels apart up to here."""


@dataclass(frozen=True)
class Signal:
    """What a layer sends, and what 1 of it is worth in the float network, [C]."""

    name: str
    sent: Output
    worth: Floats

    @property
    def shape(self) -> Shape:
        return self.sent.shape

    @property
    def potentials(self) -> bool:
        """Whether it is fixed-point potentials, not levels."""
        return self.sent.dtype == "int16"


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


class LayerBuilder:
    """Collects integer layers in the order of execution.

    Attributes:
        layers: so far.
        rounded: each convolution's and linear layer's own weights, rounded as its integers are,
            [Co, Ci, Kh, Kw]. Those that no scale lets through (a batch norm's of 0) are 0.
    """

    def __init__(
        self,
        input_shape: Shape,
        timesteps: int,
        mean: Sequence[float],
        std: Sequence[float],
        neurons: Sequence[MultiLevelIF],
    ) -> None:
        self.layers: list[Layer] = []
        self.rounded: dict[str, Floats] = {}
        self.timesteps = timesteps
        self.mean = np.array(mean, np.float64)
        self.outputs = outputs_of((), input_shape)
        self.image = Signal(IMAGE, self.outputs[IMAGE], 1 / (255 * np.array(std, np.float64)))
        level = float(np.median(np.concatenate([level_of(neuron, None) for neuron in neurons])))
        levels = max(neuron.config.levels for neuron in neurons)
        # One unit for all potentials that cross a shortcut, so that they add as they are.
        units = odd_below(min(POTENTIAL_LEVEL, (POTENTIAL_END - 1) / POTENTIAL_HEADROOM / levels))
        self.unit = level / units
        # Neurons that read them multiply, so that D doesn't get as coarse as the unit.
        self.gain = odd_below(-(-POTENTIAL_LEVEL // units) + 1)

    def add(self, layer: Layer, worth: Floats) -> Signal:
        """Append a layer; gives what it sends, of which 1 is worth that."""
        sent = layer.output([self.outputs[source] for source in layer.sources])
        self.layers.append(layer)
        self.outputs[layer.name] = sent
        return Signal(layer.name, sent, worth)

    def neurons(self, name: str, neuron: MultiLevelIF, drives: list[Drive]) -> Signal:
        """Neurons driven by the sum of `drives`, in units that fit the largest weight."""
        config, first = neuron.config, drives[0]
        if config.beta != 1 and self.timesteps > 1:
            allowed = "1 (integers don't leak): train without leak, or T = 1"
            raise invalid("beta", config.beta, allowed)
        delta = level_of(neuron, first.shape[0])
        threshold, largest = config.levels * delta.max(), (POTENTIAL_END - 1) * self.unit
        if first.source.potentials and threshold > largest:
            allowed = f"<= {largest:.4g}: {POTENTIAL_BITS} bits hold thresholds near the median"
            raise invalid(name, f"a threshold of {threshold:.4g}", allowed)
        bias = np.sum([drive.bias for drive in drives], axis=0) / delta
        most = np.abs(bias) + self.shortcuts(drives, delta)
        if self.timesteps == 1 and first.source.name != IMAGE:
            room = (FOLDED - 1) / (config.levels + 1 + most + config.v_init + 1)
        else:
            room = UNITS_MAX / np.maximum(config.levels + 1, self.timesteps * most)
        step = self.whole_steps(delta, drives, room)
        start = np.zeros_like(step)
        if self.timesteps == 1:
            bias = lifted((bias + config.beta * config.v_init) * step)
        else:
            bias = bias * step
            start = np.floor(lifted(config.v_init * step.astype(np.float64))).astype(np.int32)
        synapses = tuple(self.whole(drive, delta / step) for drive in drives)
        biases = self.bias(name, bias, first, synapses[0], down=self.timesteps == 1)
        layer = Neurons(name, first.shape, synapses, biases, start, step, config.levels, first.sign)
        return self.add(layer, delta)

    def shortcuts(self, drives: list[Drive], delta: Floats) -> Floats:
        """The most that levels which pass as they are bring a channel, in its own levels."""
        plain = (drive.source for drive in drives if drive.weight is None)
        brought = (x.sent.largest * x.worth for x in plain if not x.potentials)
        return sum(brought, np.zeros_like(delta)) / delta

    def whole_steps(self, delta: Floats, drives: list[Drive], room: Floats) -> Ints:
        """D a channel: units in one level, at most `room`."""
        weights = [drive.weight for drive in drives if drive.weight is not None]
        if not weights:
            # Nothing but levels, or potentials in fixed point: their unit is given.
            source = drives[0].source
            gain = self.gain if source.potentials else 1
            step = 2 * np.floor(gain * delta / source.worth / 2 + 1e-9) + 1
            return int32(step, drives[0].name)
        largest = np.max([np.abs(weight).max(axis=(1, 2, 3)) for weight in weights], axis=0)
        with np.errstate(divide="ignore"):
            step = np.minimum(GRID * WEIGHT_MAX * delta / largest, room)
        return odd_below(np.minimum(step, STEP_MAX)).clip(1).astype(np.int32)

    def potentials(self, name: str, drives: list[Drive]) -> Signal:
        """Potentials in the network's fixed-point unit, each path with shifts of its own."""
        unit = np.full(drives[0].shape[0], self.unit)
        synapses = []
        for drive in drives:
            shift = None if drive.weight is None else largest_shift(drive.weight, unit)
            synapses.append(self.whole(drive, unit, shift))
        bias = np.sum([drive.bias for drive in drives], axis=0) / unit
        biases = self.bias(name, bias, drives[0], synapses[0], down=False)
        return self.add(Potentials(name, drives[0].shape, tuple(synapses), biases), unit)

    def readout(self, drive: Drive) -> float:
        """The last linear layer with one unit for all classes; gives what that is worth."""
        assert drive.weight is not None
        weight, bias = float(np.abs(drive.weight).max()), float(np.abs(drive.bias).max())
        unit = max(weight / WEIGHT_MAX, self.timesteps * bias / UNITS_MAX, 1e-30)
        units = np.full(drive.shape[0], unit)
        biases = Bias.uniform(int32(np.round(drive.bias / units), "logits"), drive.shape)
        self.add(Readout("logits", drive.shape, (self.whole(drive, units),), biases), units)
        return unit

    def whole(self, drive: Drive, unit: Floats, shift: Ints | None = None) -> Synapses:
        """`drive` in whole units [C], finer by 2^shift where a shift follows.

        Raises:
            InputError: naming the layer, for weights beyond 127 units.
        """
        name, source = drive.name, drive.source
        if drive.weight is None:
            return Synapses(name, source.name, gain=int32(np.round(source.worth / unit), name))
        if shift is not None:
            unit = unit / 2.0**shift
        unit = unit[:, None, None, None]
        weight = drive.weight / unit
        largest = float(np.abs(weight).max())
        if largest > GRID**2 * WEIGHT_MAX:
            allowed = f"<= {WEIGHT_MAX}: a smaller batch norm scale, or a larger threshold"
            raise invalid(name, f"weights up to {largest:.4g} levels", allowed)
        weight = np.round(weight).clip(-WEIGHT_MAX, WEIGHT_MAX).astype(WEIGHT)
        assert drive.factor is not None
        worth = weight * unit
        self.rounded[name] = np.divide(
            worth, drive.factor, out=np.zeros_like(worth), where=drive.factor != 0
        )
        return Synapses(
            name, source.name, weight, stride=drive.stride, padding=drive.padding, shift=shift
        )

    def bias(self, name: str, values: Floats, drive: Drive, synapses: Synapses, down: bool) -> Bias:
        """`values` [C] in units; on `synapses` of the image with its normalisation's constant."""
        nearest = np.floor if down else np.round
        if drive.source.name != IMAGE:
            return Bias.uniform(int32(nearest(values), name), drive.shape)
        assert synapses.weight is not None
        weight = synapses.weight.astype(np.float64)
        zero = np.einsum("oikl,i->okl", weight, 255 * self.mean)
        if synapses.shift is not None:
            zero = zero / 2.0 ** synapses.shift[:, None, None]
        sizes = zip(drive.source.shape[1:], weight.shape[2:], drive.shape[1:], strict=True)
        (rows, row_taps), (columns, column_taps) = (taps(drive, *size) for size in sizes)
        inside = np.einsum("okl,rk,sl->rso", zero, row_taps, column_taps)
        return Bias(int32(nearest(values - inside), name), rows, columns)


def taps(drive: Drive, size: int, kernel: int, out: int) -> tuple[NDArray[np.uint8], Floats]:
    """Per output position along one axis its class; per class which taps are inside the image."""
    position = np.arange(out)[:, None] * drive.stride - drive.padding + np.arange(kernel)
    inside = (position >= 0) & (position < size)
    classes, of_position = np.unique(inside, axis=0, return_inverse=True)
    return of_position.reshape(-1).astype(np.uint8), classes.astype(np.float64)


def largest_shift(weight: Floats, unit: Floats) -> Ints:
    """The largest power of two a channel that keeps weights within -127..127."""
    largest = np.abs(weight).max(axis=(1, 2, 3)) / unit
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


def odd_below(values: Any) -> Any:
    """The largest odd numbers up to `values`.

    >>> odd_below(np.array([5.0, 6.9, 7.0])).tolist()
    [5.0, 5.0, 7.0]
    """
    return 2 * np.floor((values - 1) / 2) + 1
