"""The reference: what an integer network computes, bit for bit, in vectorised arithmetic.

Convolutions run in torch's floating point, which is exact where it multiplies and adds the numbers
themselves: every product and every partial sum, in whatever order, is a whole number below 2^24
(float32) or 2^53 (float64), and the type is chosen by a bound computed from the actual weights
(`Synapses.largest_sum`). All else is int32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.grad import conv2d_input

from multispike.errors import invalid
from multispike.export.layers import (
    IMAGE,
    POTENTIAL_END,
    Concat,
    Driven,
    Ints,
    Layer,
    MaxPool,
    Merge,
    Neurons,
    Output,
    Potentials,
    Readout,
    Shape,
    SumPool,
    Synapses,
    Window,
    outputs_of,
)
from multispike.export.validate import FLOAT32, check, prove

CHUNK, CHUNK_VALUES = 250, 2**26
"""Images, and values of their largest layer, evaluated at once: bounds memory, changes no result.
"""

Observer = Callable[[str, Tensor], None]
"""Called with a layer's name and what it sends [B, C, H, W], each time that is read: the image once
unless it is event frames, every layer once a timestep."""


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """A network in integers; made by `multispike.export.quantise`.

    Attributes:
        arch: the architecture's name.
        input_shape: of one uint8 image or event frame, (C, H, W).
        timesteps: T.
        events: inputs are event frames `[T, B, C, H, W]`, else images `[B, C, H, W]`.
        layers: in the order of execution; the last is the readout.
        logit_scale: one unit of a logit in the float network's units.
        classes: names in the order of the logits; none where they are not known.
        mean, std: of the training's normalisation, which is folded in; a value a channel, or none.
    """

    arch: str
    input_shape: Shape
    timesteps: int
    events: bool
    layers: tuple[Layer, ...]
    logit_scale: float
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check(self.arch, self.input_shape, self.timesteps, self.logit_scale, self.layers)
        for name in ("classes", "mean", "std"):
            size = len(getattr(self, name))
            allowed = self.readout.shape[0] if name == "classes" else self.input_shape[0]
            if size not in (0, allowed):
                raise invalid(name, f"{size} of them", f"{allowed}, or none")
        _ = self.bounds

    @cached_property
    def outputs(self) -> dict[str, Output]:
        """What the image and each layer send, by name."""
        return outputs_of(self.layers, self.input_shape)

    @cached_property
    def bounds(self) -> dict[str, int]:
        """Proven largest absolute value of any intermediate, per layer; `prove` refuses 2^31."""
        return prove(self.layers, self.outputs, self.timesteps)

    @property
    def readout(self) -> Readout:
        last = self.layers[-1]
        assert isinstance(last, Readout)
        return last

    @property
    def class_names(self) -> tuple[str, ...]:
        """As in `classes`; their numbers where these are not known."""
        return self.classes or tuple(map(str, range(self.readout.shape[0])))

    @property
    def synapses(self) -> tuple[Synapses, ...]:
        """Of all layers, in order."""
        driven = (layer for layer in self.layers if isinstance(layer, Driven))
        return tuple(one for layer in driven for one in layer.synapses)

    @cached_property
    def computed_once(self) -> frozenset[str]:
        """Layers whose output later timesteps repeat: what a still image gives without neurons."""
        still = {IMAGE} if self.timesteps > 1 and not self.events else set()
        for layer in self.layers:
            if not isinstance(layer, (Neurons, Readout)) and still.issuperset(layer.sources):
                still.add(layer.name)
        return frozenset(still)

    def forward(self, images: NDArray[np.uint8] | Tensor, observe: Observer | None = None) -> Ints:
        """Images [B, C, H, W], or event frames [T, B, C, H, W], uint8 -> logits int32 [B, classes].

        Raises:
            InputError: for another type or shape.
        """
        pixels = torch.as_tensor(images)
        steps = (self.timesteps,) if self.events else ()
        batch, sizes = len(steps), tuple(pixels.shape)
        fits = sizes[:batch] == steps and sizes[batch + 1 :] == self.input_shape
        if pixels.dtype != torch.uint8 or not fits:
            wanted = ", ".join(map(str, (*steps, "B", *self.input_shape)))
            raise invalid("images", f"{pixels.dtype} {list(sizes)}", f"uint8 [{wanted}]")
        with (
            torch.inference_mode(),
            # Without oneDNN, NNPACK's Winograd would compute with fractions.
            torch.backends.nnpack.flags(enabled=False),
            torch.autocast("cpu", enabled=False),
        ):
            largest = max(math.prod(output.shape) for output in self.outputs.values())
            chunk = max(1, min(CHUNK, CHUNK_VALUES // largest))
            parts = [self._run(part, observe) for part in pixels.split(chunk, dim=batch)]
        return torch.cat(parts).numpy()

    def _run(self, pixels: Tensor, observe: Observer | None) -> Tensor:
        """Logits of one chunk."""
        values: dict[str, Tensor] = {}
        membranes: dict[str, Tensor] = {}
        logits = torch.zeros((), dtype=torch.int32)
        for t in range(self.timesteps):
            if self.events or t == 0:
                values = {IMAGE: pixels[t] if self.events else pixels}
                if observe is not None:
                    observe(IMAGE, values[IMAGE])
            for layer in self.layers[:-1]:
                if t == 0 or layer.name not in self.computed_once:
                    values[layer.name] = self._send(layer, values, membranes)
                if observe is not None:
                    observe(layer.name, values[layer.name])
            logits = logits + self._drive(self.readout, values).flatten(1)
        return logits

    def _send(
        self, layer: Layer, values: dict[str, Tensor], membranes: dict[str, Tensor]
    ) -> Tensor:
        """What `layer` sends at this timestep."""
        match layer:
            case Neurons():
                h = self._drive(layer, values)
                h += membranes.get(layer.name, _channels(layer.start))
                step = _channels(layer.step)
                z = torch.div(h, step, rounding_mode="floor").clamp_(0, layer.levels)
                if self.timesteps > 1:
                    membranes[layer.name] = h - z * step
                return z.to(torch.uint8)
            case Potentials():
                sums = self._drive(layer, values)
                return sums.clamp_(-POTENTIAL_END, POTENTIAL_END - 1)
            case Merge():
                path, shortcut = values[layer.path], values[layer.shortcut]
                if layer.kind == "add":
                    return path + shortcut
                return (path if layer.kind == "and" else 1 - path) * shortcut
            case MaxPool():
                return _max_pool(values[layer.source], layer.window)
            case SumPool():
                return _sum_pool(values[layer.source], layer.window)
            case Concat():
                return torch.cat([values[part] for part in layer.parts], 1)
        raise TypeError(type(layer).__name__)

    def _drive(self, layer: Driven, values: dict[str, Tensor]) -> Tensor:
        """Bias plus the sum of all synapses, int32 [B, C, H, W]; `values` keep sums over the image
        while it is the same."""
        total = torch.zeros((), dtype=torch.int32)
        for one in layer.synapses:
            kept = f"sum of {one.name}"
            part = values[kept] if kept in values else self._sum(one, values[one.source])
            if one.source == IMAGE:
                values[kept] = part
            total = total + part
        if isinstance(layer, Neurons) and layer.pool and layer.sign is not None:
            total = _max_pool(total, layer.pool) * _channels(layer.sign)
        return total + torch.from_numpy(np.ascontiguousarray(layer.bias.image()))

    def _sum(self, synapses: Synapses, values: Tensor) -> Tensor:
        """The synapses' sum over what their source sends, int32."""
        if synapses.gain is not None:
            return values.to(torch.int32) * _channels(synapses.gain)
        weight, window = self._weights[synapses.name], synapses.window
        exact = torch.nn.functional.conv2d(
            _padded(values.to(weight.dtype), window), weight, None, window.stride,
            dilation=window.dilation, groups=synapses.groups,
        )  # fmt: skip
        total = exact.to(torch.int32)
        return total if synapses.shift is None else _shifted(total, _channels(synapses.shift))

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        """Weights in the smallest floating-point type in which their sums are exact."""
        weights = {}
        for one in self.synapses:
            if one.weight is not None:
                bound = one.largest_sum(self.outputs[one.source].largest)
                dtype = torch.float32 if bound < FLOAT32 else torch.float64
                weights[one.name] = torch.from_numpy(one.weight).to(dtype)
        return weights


def _channels(values: Ints) -> Tensor:
    """[C] -> [C, 1, 1], to broadcast against [B, C, H, W]."""
    return torch.from_numpy(values)[:, None, None]


def _padded(values: Tensor, window: Window, value: float = 0) -> Tensor:
    """`values` with the padding of a window; a view where it has none."""
    (top, left), (bottom, right) = window.before, window.after
    sides = (left, right, top, bottom)
    return torch.nn.functional.pad(values, sides, value=value) if any(sides) else values


def _max_pool(values: Tensor, window: Window) -> Tensor:
    # Exact: whole numbers below 2^53 pass through float64 unchanged.
    dtype = torch.float32 if values.dtype == torch.uint8 else torch.float64
    padded = _padded(values.to(dtype), window, -torch.inf)
    pooled = torch.nn.functional.max_pool2d(
        padded, window.kernel, window.stride, dilation=window.dilation
    )
    return pooled.to(values.dtype)


def _sum_pool(values: Tensor, window: Window) -> Tensor:
    if window.covers(tuple(values.shape[1:])):  # pyright: ignore[reportArgumentType]
        return values.sum((2, 3), keepdim=True, dtype=torch.int32)
    padded = _padded(values.to(torch.float64), window)
    mean = torch.nn.functional.avg_pool2d(padded, window.kernel, window.stride, divisor_override=1)
    return mean.to(torch.int32)


def _shifted(total: Tensor, shift: Tensor) -> Tensor:
    """total / 2^shift, rounding half up (towards +inf); negative shifts multiply."""
    right = shift.clamp_min(0)
    half = torch.bitwise_left_shift(torch.ones_like(right), right) >> 1
    scaled = torch.bitwise_left_shift(total, (-shift).clamp_min(0))
    return torch.bitwise_right_shift(scaled + half, right)


def count(
    network: IntegerNetwork, images: NDArray[np.uint8] | Tensor
) -> dict[tuple[str, str], NDArray[np.int64]]:
    """Run `images` (as in `IntegerNetwork.forward`) and count, as the C program does (`-DCOUNT`)
    and, exactly, `multispike.activity`.

    Returns:
        Summed over images and timesteps, of ("synapses", name): non-zero inputs, the sum of their
        levels, and weights applied (true fan-out, border and stride included); of ("neurons",
        layer): non-zero outputs, the sum of their levels, and visits of a potential to add the
        bias, compare and reset, T a neuron. Dense projections (MS-ResNet's potentials) count their
        non-zero potentials.
    """
    names = [("synapses", one.name) for one in network.synapses]
    names += [("neurons", layer.name) for layer in network.layers if isinstance(layer, Neurons)]
    counts = {name: np.zeros(3, np.int64) for name in names}
    fans = {one.name: fan_out(one, network.outputs[one.source].shape) for one in network.synapses}

    def observe(name: str, values: Tensor) -> None:
        active = values != 0
        sent = int(active.sum()), int(values.sum(dtype=torch.int64))
        for one in network.synapses:
            if one.source == name:
                met = int((active.sum(0) * fans[one.name]).sum())
                counts["synapses", one.name] += (*sent, met)
        if ("neurons", name) in counts:
            counts["neurons", name] += (*sent, values.numel())

    network.forward(images, observe)
    return counts


def fan_out(synapses: Synapses, shape: Shape) -> Tensor:
    """Weights that an event at each position of an input of `shape` meets, int64 [C, H, W]; zeros
    among them unless the weights are sparse.

    >>> w = np.ones((2, 1, 3, 3), np.int8)
    >>> window = Window((3, 3), before=(1, 1), after=(1, 1))
    >>> fan_out(Synapses("conv", "z", w, window=window), (1, 2, 3)).tolist()
    [[[8, 12, 8], [8, 12, 8]]]
    """
    if synapses.weight is None:
        return torch.ones(shape, dtype=torch.int64)
    window, weight = synapses.window, torch.from_numpy(synapses.weight)
    met = (weight != 0) if synapses.sparse else torch.ones_like(weight)
    every = torch.ones(1, *synapses.sum_shape(shape))
    around = _padded(torch.empty(1, *shape, device="meta"), window).shape
    options: Any = (window.stride, 0, window.dilation, synapses.groups)
    found = conv2d_input(around, met.float(), every, *options)
    (top, left), (_, rows, columns) = window.before, shape
    return found[0, :, top : top + rows, left : left + columns].round().long()
