"""From float to integer: int8 weights, int32 thresholds.

Every neuron's potential is counted in units of its own channel, u = V_th / (N * D): the odd
number D is the largest for which all weights of the channel, as potentials per level received, fit
-127..127 units, and that keeps bias, shortcuts and N levels below 2^22 of them (at T = 1, but on
pixels, 2^21). Hence firing compares with k*D and the soft reset subtracts z*D, both exact. The bias
is rounded down at T = 1, where H >= k*D asks no more of it, else to the nearest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multispike.errors import invalid
from multispike.export.folding import Drive, Firing, Floats, Potential, Signal, per_input, weighted
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
    Potentials,
    Readout,
    Shape,
    Synapses,
    output_of,
    outputs_of,
)
from multispike.export.validate import FOLDED, RATIO

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


class LayerBuilder:
    """Collects integer layers in the order of execution.

    Attributes:
        layers: so far.
        grids: by the name of a parameter of the float network, what one unit of its integers is
            worth there, weight by weight; 0 where no scale lets it through (a batch norm's of 0).
    """

    def __init__(
        self, input_shape: Shape, timesteps: int, mean: Sequence[float], std: Sequence[float],
        neurons: Sequence[Firing],
    ) -> None:  # fmt: skip
        self.layers: list[Layer] = []
        self.grids: dict[str, Floats] = {}
        self.timesteps = timesteps
        self.outputs = outputs_of((), input_shape)
        worth, zero = 1 / (255 * np.array(std, np.float64)), 255 * np.array(mean, np.float64)
        self.image = Signal(IMAGE, self.outputs[IMAGE], worth, zero)
        level = float(np.median(np.concatenate([neuron.level for neuron in neurons])))
        levels = max(neuron.levels for neuron in neurons)
        # One unit for all potentials that cross a shortcut, so that they add as they are.
        units = odd_below(min(POTENTIAL_LEVEL, (POTENTIAL_END - 1) / POTENTIAL_HEADROOM / levels))
        self.unit = level / units
        # Neurons that read them multiply, so that D doesn't get as coarse as the unit.
        self.gain = odd_below(-(-POTENTIAL_LEVEL // units) + 1)

    def add(self, layer: Layer, worth: Floats, zero: Floats | None = None) -> Signal:
        """Append a layer; gives what it sends."""
        sent = output_of(layer, self.outputs)
        self.layers.append(layer)
        self.outputs[layer.name] = sent
        return Signal(layer.name, sent, worth, zero)

    def neurons(self, name: str, config: Firing, x: Potential) -> Signal:
        """Neurons driven by x, in units that fit the largest weight."""
        if config.beta != 1 and self.timesteps > 1:
            allowed = "1 (integers don't leak): train without leak, or T = 1"
            raise invalid("beta", config.beta, allowed)
        delta = np.broadcast_to(config.level, x.shape[0])
        drives = self.settled(x.drives, delta)
        threshold, largest = config.levels * delta.max(), (POTENTIAL_END - 1) * self.unit
        if drives[0].source.potentials and threshold > largest:
            allowed = f"<= {largest:.4g}: {POTENTIAL_BITS} bits hold thresholds near the median"
            raise invalid(name, f"a threshold of {threshold:.4g}", allowed)
        bias = np.sum([drive.bias for drive in drives], axis=0) / delta
        most = np.abs(bias) + self.given(drives, delta)
        if self.timesteps == 1 and all(drive.source.name != IMAGE for drive in drives):
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
        biases = self.bias(name, x.shape, bias, drives, synapses, down=self.timesteps == 1)
        parts = (synapses, biases, start, step, config.levels, x.sign, x.pool)
        return self.add(Neurons(name, x.shape, *parts), delta)

    def settled(self, drives: Sequence[Drive], delta: Floats) -> Sequence[Drive]:
        """Levels that come by themselves as weights, unless each is worth whole levels."""
        if any(drive.weight is not None or drive.source.potentials for drive in drives):
            return drives
        ratios = np.array([drive.source.worth / delta for drive in drives])
        if np.abs(ratios - np.round(ratios)).max() < GRID - 1 and ratios.min() > 0.5:
            return drives
        return [weighted(drive) for drive in drives]

    def given(self, drives: Sequence[Drive], delta: Floats) -> Floats:
        """The most that levels which pass as they are, and zeros, bring a channel, in levels."""
        total = np.zeros_like(delta)
        for drive in drives:
            source = drive.source
            if drive.weight is None and not source.potentials:
                total = total + source.sent.largest * source.worth
            elif drive.weight is not None and source.zero is not None and source.name != IMAGE:
                zero = per_input(np.abs(source.zero), len(drive.weight), drive.groups)
                total = total + (np.abs(drive.weight).sum((2, 3)) * zero).sum(1)
        return total / delta

    def whole_steps(self, delta: Floats, drives: Sequence[Drive], room: Floats) -> Ints:
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

    def potentials(self, name: str, x: Potential) -> Signal:
        """Potentials in the network's fixed-point unit, each path with shifts of its own."""
        unit = np.full(x.shape[0], self.unit)
        synapses = []
        for drive in x.drives:
            shift = None
            if drive.weight is not None:
                # The largest power of two a channel that keeps weights within -127..127.
                largest = np.abs(drive.weight).max(axis=(1, 2, 3)) / unit
                least = WEIGHT_MAX / 2.0**SHIFT_MAX
                shift = np.floor(np.log2(GRID * WEIGHT_MAX / np.maximum(largest, least)))
                shift = shift.clip(-SHIFT_MAX, SHIFT_MAX).astype(np.int32)
            synapses.append(self.whole(drive, unit, shift))
        bias = np.sum([drive.bias for drive in x.drives], axis=0) / unit
        biases = self.bias(name, x.shape, bias, x.drives, synapses)
        return self.add(Potentials(name, x.shape, tuple(synapses), biases), unit)

    def readout(self, x: Potential) -> float:
        """The last linear layer with one unit for all classes; gives what that is worth."""
        (drive,) = x.drives
        assert drive.weight is not None
        weight, bias = float(np.abs(drive.weight).max()), float(np.abs(drive.bias).max())
        unit = max(weight / WEIGHT_MAX, self.timesteps * bias / UNITS_MAX, 1e-30)
        units = np.full(x.shape[0], unit)
        synapses = self.whole(drive, units)
        biases = self.bias("logits", x.shape, drive.bias / units, [drive], [synapses])
        self.add(Readout("logits", x.shape, (synapses,), biases), units)
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
        if drive.parameter is not None and drive.factor is not None:
            worth, factor = np.broadcast_to(unit, weight.shape), drive.factor
            blank = np.zeros(weight.shape)
            self.grids[drive.parameter] = np.divide(worth, factor, out=blank, where=factor != 0)
        return Synapses(name, source.name, weight, None, drive.window, drive.groups, shift)

    def bias(
        self, name: str, shape: Shape, values: Floats, drives: Sequence[Drive],
        synapses: Sequence[Synapses], down: bool = False,
    ) -> Bias:  # fmt: skip
        """`values` [C] in units; with the constant of what is read around a zero that is not 0."""
        nearest = np.floor if down else np.round
        pairs = zip(drives, synapses, strict=True)
        moved = [(drive, one) for drive, one in pairs if drive.source.zero is not None]
        if not moved:
            return Bias.uniform(int32(nearest(values), name), shape)
        rows, columns = (taps_inside([drive for drive, _ in moved], axis) for axis in (0, 1))
        values = np.broadcast_to(values, (len(rows[1][0]), len(columns[1][0]), len(values)))
        for index, (drive, one) in enumerate(moved):
            assert one.weight is not None
            assert drive.source.zero is not None
            weight = one.weight.astype(np.float64)
            zero = per_input(drive.source.zero, len(weight), drive.groups)
            constant = np.einsum("oikl,oi->okl", weight, zero)
            if one.shift is not None:
                constant = constant / 2.0 ** one.shift[:, None, None]
            taps = rows[1][index], columns[1][index]
            values = values - np.einsum("okl,rk,sl->rso", constant, *taps)
        return Bias(int32(nearest(values), name), rows[0], columns[0])


def taps_inside(drives: Sequence[Drive], axis: int) -> tuple[NDArray[np.uint8], list[Floats]]:
    """Per output position along one axis its class; per drive and class which of its taps are
    inside the image."""
    inside = []
    for drive in drives:
        taps = drive.window.taps(axis, drive.source.shape)
        inside.append((taps >= 0) & (taps < drive.source.shape[1 + axis]))
    classes, of_position = np.unique(np.hstack(inside), axis=0, return_inverse=True)
    ends = np.cumsum([taps.shape[1] for taps in inside])[:-1]
    parts = np.split(classes.astype(np.float64), ends, axis=1)
    return of_position.reshape(-1).astype(np.uint8), parts


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
