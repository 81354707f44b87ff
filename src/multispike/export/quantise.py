"""From a float network to integers: batch norm folded, int8 weights, int32 thresholds.

Every neuron's potential is counted in units of its own channel, u = V_th / (N * D): the odd
number D is the largest for which all weights of the channel, as potentials per level received, fit
-127..127 units, and that keeps bias, shortcuts and N levels below 2^22 of them (at T = 1, but on
pixels, 2^21). Hence firing compares with k*D and the soft reset subtracts z*D, both exact. The bias
is rounded down at T = 1, where H >= k*D asks no more of it, else to the nearest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from multispike.errors import InputError, invalid
from multispike.export.folding import (
    GRID,
    WEIGHT_MAX,
    Drive,
    Floats,
    Signal,
    fold,
    identity,
    int32,
    largest_shift,
    level_of,
    lifted,
    project,
    rounded,
    taps,
    whole,
)
from multispike.export.layers import (
    IMAGE,
    POTENTIAL_BITS,
    POTENTIAL_END,
    POTENTIAL_HEADROOM,
    POTENTIAL_LEVEL,
    Bias,
    GlobalSum,
    Ints,
    Layer,
    MaxPool,
    Merge,
    Neurons,
    Potentials,
    Readout,
    Shape,
    Synapses,
    outputs_of,
    pooled_shape,
)
from multispike.export.network import IntegerNetwork
from multispike.export.validate import FOLDED, RATIO
from multispike.models.blocks import OverTime, ResidualBlock
from multispike.models.network import Network
from multispike.neurons import MultiLevelIF

STEP_MAX = 2**20 - 1
"""Largest D; reached only by channels whose weights are next to nothing."""

REACH = RATIO - 1
"""Largest bias, and N+1 levels, in units: float32 runtimes tell levels apart up to here."""


def quantise(
    model: Network,
    mean: Sequence[float],
    std: Sequence[float],
    input_shape: Shape,
    events: bool = False,
) -> IntegerNetwork:
    """The integer network of a trained `model`.

    Args:
        model: of `create_model`, in evaluation mode or not (running statistics are used).
        mean, std: one a channel; the model was trained on (pixel/255 - mean) / std.
        input_shape: (C, H, W) of the uint8 input.
        events: inputs are event frames [T, B, C, H, W].

    Raises:
        InputError: naming what integers can't carry, and what to do.

    >>> from multispike.models import create_model
    >>> model = create_model("sparse_resnet20", in_channels=1)
    >>> network = quantise(model, [0.5], [0.25], (1, 8, 8))
    >>> network.forward(np.zeros((2, 1, 8, 8), np.uint8)).shape
    (2, 10)
    """
    _refuse(model)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise invalid(name, "NaN or infinite values", "finite numbers")
    channels = model.config["in_channels"]
    if len(input_shape) != 3 or input_shape[0] != channels or min(input_shape) < 1:
        raise invalid("input_shape", input_shape, f"({channels}, H, W)")
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels or not np.isfinite(values).all():
            raise invalid(name, list(values), f"{channels} finite numbers")
    if min(std) <= 0:
        raise invalid("std", list(std), "numbers > 0")
    walker = _Walker(model, mean, std)
    readout, unit = walker.walk(model, input_shape)
    return IntegerNetwork(
        arch=model.config["arch"],
        input_shape=input_shape,
        timesteps=model.timesteps,
        events=events,
        layers=(*walker.layers, readout),
        logit_scale=unit / model.timesteps,
    )


def rounded_weights(
    model: Network, mean: Sequence[float], std: Sequence[float], input_shape: Shape
) -> dict[str, Floats]:
    """Each convolution's and linear layer's own weights as `quantise` rounds them, by name.

    Arguments and errors as for `quantise`. Linear weights are [No, Ni, 1, 1].
    """
    _refuse(model)
    walker = _Walker(model, mean, std)
    walker.walk(model, input_shape)
    return walker.rounded


class _Walker:
    """Walks a `Network` in execution order and collects integer layers."""

    def __init__(self, model: Network, mean: Sequence[float], std: Sequence[float]) -> None:
        self.layers: list[Layer] = []
        self.rounded: dict[str, Floats] = {}
        self.timesteps = model.timesteps
        self.mean, self.std = np.array(mean, np.float64), np.array(std, np.float64)
        neurons = [module for module in model.modules() if isinstance(module, MultiLevelIF)]
        level = float(np.median(np.concatenate([level_of(neuron, None) for neuron in neurons])))
        levels = max(neuron.config.levels for neuron in neurons)
        # One unit for all potentials that cross a shortcut, so that they add as they are.
        units = odd_below(min(POTENTIAL_LEVEL, (POTENTIAL_END - 1) / POTENTIAL_HEADROOM / levels))
        self.unit = level / units
        # Neurons that read them multiply, so that D doesn't get as coarse as the unit.
        self.gain = odd_below(-(-POTENTIAL_LEVEL // units) + 1)

    def walk(self, model: Network, input_shape: Shape) -> tuple[Readout, float]:
        """All layers, and the readout with the worth of its unit."""
        self.input_shape = input_shape
        image = Signal(IMAGE, input_shape, 1 / (255 * self.std))
        drive = self.run("stem", model.stem, image)
        assert isinstance(drive, Drive)
        if isinstance(model.encoder, nn.Identity):
            encoded = self.potentials("stem", [drive])
        else:
            encoded = self.run("encoder", model.encoder, drive)
        body = self.run("body", model.body, encoded)
        assert isinstance(body, Signal)
        channels, *size = body.shape
        self.layers.append(GlobalSum("pool", (channels, 1, 1), body.name))
        average = Signal("pool", (channels, 1, 1), body.worth / (size[0] * size[1]))
        logits = self.run("classifier", model.classifier, average)
        assert isinstance(logits, Drive)
        return self.readout(logits)

    def run(self, name: str, module: nn.Module, x: Signal | Drive) -> Signal | Drive:
        """`module` applied to x."""
        match module:
            case nn.Sequential():
                for child, part in module.named_children():
                    x = self.run(f"{name}.{child}", part, x)
                return x
            case nn.Identity():
                return x
            case ResidualBlock():
                assert isinstance(x, Signal)
                return self.block(name, module, x)
            case nn.Conv2d() | nn.Linear():
                assert isinstance(x, Signal)
                return project(name, module, x)
            case nn.BatchNorm2d():
                assert isinstance(x, Drive)
                return fold(module, x)
            case nn.MaxPool2d() if isinstance(x, Drive):
                return replace(x, shape=pooled_shape(x.shape), pools=True)
            case nn.MaxPool2d():
                self.layers.append(MaxPool(name, pooled_shape(x.shape), x.name))
                return replace(x, name=name, shape=pooled_shape(x.shape))
            case OverTime() | MultiLevelIF():
                neuron = module.neuron if isinstance(module, OverTime) else module
                drive = x if isinstance(x, Drive) else identity(f"{name}.input", x)
                return self.neurons(name, neuron, [drive])
        raise invalid(name, type(module).__name__, "the layers of `create_model`'s networks")

    def block(self, name: str, block: ResidualBlock, x: Signal) -> Signal:
        """A residual block of any family; what meets at its sum tells which."""
        merge = f"{name}.merge"
        path = self.run(f"{name}.path", block.path, x)
        shortcut = self.run(f"{name}.shortcut", block.shortcut, x)
        after = block.after.neuron if isinstance(block.after, OverTime) else None
        if isinstance(path, Signal):
            assert isinstance(shortcut, Signal)
            if not np.array_equal(path.worth, shortcut.worth):
                raise InputError(
                    f"{merge}: got two thresholds, allowed: one on both sides of a sum"
                )
            if after is None:
                self.layers.append(
                    Merge(merge, path.shape, block.merge.kind, path.name, shortcut.name)
                )
                return replace(path, name=merge)
            path = identity(f"{merge}.path", path)
        if isinstance(shortcut, Signal):
            shortcut = identity(f"{merge}.shortcut", shortcut)
        if after is None:
            return self.potentials(merge, [path, shortcut])
        return self.neurons(f"{name}.after", after, [path, shortcut])

    def neurons(self, name: str, neuron: MultiLevelIF, drives: list[Drive]) -> Signal:
        """Neurons driven by the sum of `drives`, in units that fit the largest weight."""
        spec, shape = neuron.config, drives[0].shape
        if spec.beta != 1 and self.timesteps > 1:
            raise invalid(
                "beta", spec.beta, "1 (integers don't leak): train without leak, or T = 1"
            )
        delta = level_of(neuron, shape[0])
        bias = np.sum([drive.bias for drive in drives], axis=0) / delta
        reach = np.abs(bias) + self.shortcuts(drives, delta)
        if self.timesteps == 1 and drives[0].source.name != IMAGE:
            room = (FOLDED - 1) / (spec.levels + 1 + reach + spec.v_init + 1)
        else:
            room = REACH / np.maximum(spec.levels + 1, self.timesteps * reach)
        if drives[0].source.potentials:
            largest = (POTENTIAL_END - 1) * self.unit
            if spec.levels * delta.max() > largest:
                allowed = f"<= {largest:.4g}: {POTENTIAL_BITS} bits hold thresholds near the median"
                raise invalid(name, f"a threshold of {spec.levels * delta.max():.4g}", allowed)
        step = self.whole_steps(delta, drives, room)
        unit = delta / step
        start = np.zeros_like(step)
        if self.timesteps == 1:
            bias = lifted((bias + spec.beta * spec.v_init) * step)
        else:
            bias = bias * step
            start = np.floor(lifted(spec.v_init * step.astype(np.float64))).astype(np.int32)
        synapses = tuple(self.whole(drive, unit) for drive in drives)
        self.layers.append(
            Neurons(
                name=name,
                shape=shape,
                synapses=synapses,
                bias=self.bias(name, bias, drives, synapses, shape, down=self.timesteps == 1),
                start=start,
                step=step,
                levels=spec.levels,
                sign=drives[0].sign,
            )
        )
        return Signal(name, shape, delta)

    def shortcuts(self, drives: list[Drive], delta: Floats) -> Floats:
        """The most that levels which pass as they are bring a channel, in its own levels."""
        outputs = outputs_of(self.layers, self.input_shape)
        plain = (drive.source for drive in drives if drive.weight is None)
        brought = (outputs[x.name].largest * x.worth for x in plain if not x.potentials)
        return sum(brought, np.zeros_like(delta)) / delta

    def whole_steps(self, delta: Floats, drives: list[Drive], room: Floats) -> Ints:
        """D a channel: units in one level, at most `room`."""
        if all(drive.weight is None for drive in drives):
            # Nothing but levels, or potentials in fixed point: their unit is given.
            source = drives[0].source
            gain = self.gain if source.potentials else 1
            step = 2 * np.floor(gain * delta / source.worth / 2 + 1e-9) + 1
            return int32(step, drives[0].name)
        largest = np.zeros(len(delta))
        for drive in drives:
            if drive.weight is not None:
                largest = np.maximum(largest, np.abs(drive.weight).max(axis=(1, 2, 3)))
        with np.errstate(divide="ignore"):
            step = np.minimum(GRID * WEIGHT_MAX * delta / largest, room)
        return odd_below(np.minimum(step, STEP_MAX)).clip(1).astype(np.int32)

    def potentials(self, name: str, drives: list[Drive]) -> Signal:
        """Potentials in the network's fixed-point unit, each path with shifts of its own."""
        unit = np.full(drives[0].shape[0], self.unit)
        synapses = tuple(
            self.whole(
                drive, unit, largest_shift(drive, unit) if drive.weight is not None else None
            )
            for drive in drives
        )
        bias = np.sum([drive.bias for drive in drives], axis=0) / unit
        shape = drives[0].shape
        self.layers.append(
            Potentials(
                name, shape, synapses, self.bias(name, bias, drives, synapses, shape, down=False)
            )
        )
        return Signal(name, shape, unit, potentials=True)

    def whole(self, drive: Drive, unit: Floats, shift: Ints | None = None) -> Synapses:
        """`drive` in whole units, and what that makes of its module's weights."""
        synapses = whole(drive, unit, shift)
        if drive.weight is not None:
            self.rounded[drive.name] = rounded(drive, synapses, unit)
        return synapses

    def readout(self, drive: Drive) -> tuple[Readout, float]:
        """The last linear layer with one unit for all classes, and that unit."""
        assert drive.weight is not None
        weight, bias = float(np.abs(drive.weight).max()), float(np.abs(drive.bias).max())
        unit = max(weight / WEIGHT_MAX, self.timesteps * bias / REACH, 1e-30)
        units = np.full(drive.shape[0], unit)
        biases = Bias.uniform(int32(np.round(drive.bias / units), "logits"), drive.shape)
        return Readout("logits", drive.shape, (self.whole(drive, units),), biases), unit

    def bias(
        self,
        name: str,
        values: Floats,
        drives: list[Drive],
        synapses: tuple[Synapses, ...],
        shape: Shape,
        down: bool,
    ) -> Bias:
        """`values` [C] in units, with the constant of the image's normalisation on it."""
        nearest = np.floor if down else np.round
        if drives[0].source.name != IMAGE:
            return Bias.uniform(int32(nearest(values), name), shape)
        weight = synapses[0].weight
        assert weight is not None
        shift = np.zeros(shape[0]) if synapses[0].shift is None else synapses[0].shift
        zero = (
            np.einsum("oikl,i->okl", weight.astype(np.float64), 255 * self.mean)
            / 2.0 ** shift[:, None, None]
        )
        size = drives[0].source.shape
        rows, row_taps = taps(size[1], weight.shape[2], drives[0], shape[1])
        columns, column_taps = taps(size[2], weight.shape[3], drives[0], shape[2])
        inside = np.einsum("okl,rk,sl->rso", zero, row_taps, column_taps)
        return Bias(int32(nearest(values - inside), name), rows, columns)


def odd_below(values: Any) -> Any:
    """The largest odd numbers up to `values`.

    >>> odd_below(np.array([5.0, 6.9, 7.0])).tolist()
    [5.0, 5.0, 7.0]
    """
    return 2 * np.floor((values - 1) / 2) + 1


def _refuse(model: Network) -> None:
    """Raise `InputError` for networks that integers can't carry, before any work."""
    if not isinstance(model, Network):
        raise invalid("model", type(model).__name__, "a network of `create_model`")
    if model.config["neuron"] == "relu":
        raise InputError(
            "neuron: got 'relu', allowed: 'binary', 'multilevel' (an ANN's activations are no"
            " events: train with one of those, or export the ANN itself to ONNX)"
        )
    for name, module in _blocks(model):
        if module.merge.kind != "add" and model.config["levels"] > 1:
            raise InputError(
                f"levels: got {model.config['levels']}, allowed: 1 ({module.merge.kind} of {name}"
                " is logic on binary spikes; graded ones it takes out of the integers: use ADD)"
            )
    if model.config["levels"] > 255:
        raise invalid("levels", model.config["levels"], "at most 255: one byte a level")


def _blocks(model: Network) -> Iterator[tuple[str, ResidualBlock]]:
    """All residual blocks by name."""
    for name, module in model.named_modules():
        if isinstance(module, ResidualBlock):
            yield name, module
