"""What an integer network is made of: a flat list of layers, executed once a timestep.

Three kinds of numbers pass between layers, always `[C, H, W]` per image:

levels      whole numbers z in {0..M} in one byte: what a neuron, a sum or a pooling of spikes sends
potentials  int16, saturating, in one unit for the whole network (MS-ResNet's shortcuts)
sums        int32, levels added over the image by the global pooling

A neuron's potential is int32 in units of its own, V_th/(N*D) a channel, chosen so that one level is
a whole number D of them (`Neurons.step`). Firing then takes comparisons and subtractions only, and
a soft reset leaves no rounding error behind. D is odd, so that runtimes that can only round find
the same level: floor(H/D) = round((H - (D-1)/2) / D), with never a tie.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from multispike.export.synapses import (
    HALVING,
    IMAGE,
    Bias,
    Ints,
    Output,
    Requirement,
    Shape,
    Synapses,
    Window,
    one_a_channel,
)

POTENTIAL_BITS = 16
"""Fixed-point width of potentials that cross a shortcut; they saturate at its ends."""

POTENTIAL_END = 2 ** (POTENTIAL_BITS - 1)
"""They reach from -POTENTIAL_END to POTENTIAL_END - 1."""

POTENTIAL_LEVEL = 255
"""Units of such a potential in one level (V_th/N), where there are few levels."""

POTENTIAL_HEADROOM = 16
"""How many thresholds V_th such a potential holds, where there are many."""

MERGES = ("add", "and", "iand")


@dataclass(frozen=True)
class Layer(ABC):
    """What all layers have in common. `inputs` are what its `sources` send, in their order."""

    name: str
    shape: Shape
    reads: ClassVar[tuple[str, ...]] = ("uint8",)

    @property
    @abstractmethod
    def sources(self) -> tuple[str, ...]:
        """Names of the layers that it reads."""

    @abstractmethod
    def output(self, inputs: Sequence[Output]) -> Output:
        """What it sends."""

    def implied_shapes(self, inputs: Sequence[Output]) -> list[Shape]:
        """What `shape` has to be, by each of the sources."""
        return [read.shape for read in inputs]

    def requirements(self, inputs: Sequence[Output], timesteps: int) -> Iterator[Requirement]:
        """What must hold beside names and shapes."""
        for source, read in zip(self.sources, inputs, strict=True):
            yield f"source of {self.name}", source, "one of levels", read.dtype in self.reads


@dataclass(frozen=True)
class Driven(Layer):
    """A layer that adds a bias and the sums of its synapses."""

    synapses: tuple[Synapses, ...]
    bias: Bias

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(one.source for one in self.synapses)

    def implied_shapes(self, inputs: Sequence[Output]) -> list[Shape]:
        pairs = zip(self.synapses, inputs, strict=True)
        return [one.sum_shape(read.shape) for one, read in pairs]

    def requirements(self, inputs: Sequence[Output], timesteps: int) -> Iterator[Requirement]:
        for one, read in zip(self.synapses, inputs, strict=True):
            yield from one.requirements(read, self.shape[0])
        yield from self.bias.requirements(self.name, self.shape)
        several = len(self.synapses)
        yield f"synapses of {self.name}", several, ">= 1", several >= 1


@dataclass(frozen=True)
class Neurons(Driven):
    """Multi-level IF neurons with soft reset, and all synapses that drive them.

        H = V + bias + sum of synapses          V starts at `start`
        z = #{k in 1..levels : H >= k * step},  V = H - z * step

    With `pool`, a max-pool stands between convolution and batch norm: of the synapses' sum, the
    maximum of each window is taken and multiplied by the sign of the norm's scale.

    Attributes:
        shape: of the neurons (behind the pooling).
        start, step, sign: int32 `[C]`; `sign` goes with `pool`.
    """

    start: Ints
    step: Ints
    levels: int
    sign: Ints | None = None
    pool: Window | None = None

    def output(self, inputs: Sequence[Output]) -> Output:
        return Output(self.shape, "uint8", self.levels)

    def implied_shapes(self, inputs: Sequence[Output]) -> list[Shape]:
        shapes = super().implied_shapes(inputs)
        return [pooled_shape(self.pool, shape) for shape in shapes] if self.pool else shapes

    def requirements(self, inputs: Sequence[Output], timesteps: int) -> Iterator[Requirement]:
        yield from super().requirements(inputs, timesteps)
        name, several = self.name, len(self.synapses)
        yield f"levels of {name}", self.levels, "1 to 255", 1 <= self.levels <= 255
        yield from one_a_channel(self, ("start", "step", "sign"), self.shape[0])
        odd = bool((self.step > 0).all() and (self.step % 2 == 1).all())
        yield f"step of {name}", self.step.tolist(), "odd numbers >= 1", odd
        both = "a sign and a pool, or neither"
        yield f"sign of {name}", self.sign, both, (self.sign is None) == (self.pool is None)
        if self.sign is not None and self.pool is not None:
            yield from self.pool.requirements(name)
            signs = bool((np.abs(self.sign) == 1).all())
            yield f"sign of {name}", self.sign.tolist(), "-1 and 1", signs
            yield f"synapses of {name}", several, "1 before a max-pool", several == 1
            source = self.synapses[0].source
            yield f"source of {name}", source, "levels before a max-pool", source != IMAGE
        shifts = any(one.shift is not None for one in self.synapses)
        yield f"synapses of {name}", "a shift", "shifts onto potentials", not shifts
        at_zero = timesteps > 1 or not self.start.any()
        yield f"start of {name}", self.start.tolist(), "zeros where T = 1", at_zero


@dataclass(frozen=True)
class Potentials(Driven):
    """A sum of potentials without a neuron (MS-ResNet): int16 = saturate(bias + synapses)."""

    def output(self, inputs: Sequence[Output]) -> Output:
        return Output(self.shape, "int16", POTENTIAL_END)


@dataclass(frozen=True)
class Merge(Layer):
    """Levels of a block's path a and shortcut b: a + b, or for binary ones a AND b, NOT a AND b.

    kind: one of `MERGES`.
    """

    kind: str
    path: str
    shortcut: str

    @property
    def sources(self) -> tuple[str, ...]:
        return self.path, self.shortcut

    def output(self, inputs: Sequence[Output]) -> Output:
        largest = sum(read.largest for read in inputs) if self.kind == "add" else 1
        return Output(self.shape, "uint8", largest)

    def requirements(self, inputs: Sequence[Output], timesteps: int) -> Iterator[Requirement]:
        yield f"kind of {self.name}", self.kind, ", ".join(MERGES), self.kind in MERGES
        yield from super().requirements(inputs, timesteps)


@dataclass(frozen=True)
class Pool(Layer):
    """A pooling of one source."""

    source: str
    window: Window = HALVING

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)

    def implied_shapes(self, inputs: Sequence[Output]) -> list[Shape]:
        return [pooled_shape(self.window, inputs[0].shape)]

    def requirements(self, inputs: Sequence[Output], timesteps: int) -> Iterator[Requirement]:
        yield from super().requirements(inputs, timesteps)
        yield from self.window.requirements(self.name)


@dataclass(frozen=True)
class MaxPool(Pool):
    """The maximum of levels or potentials; what is beyond the border counts for nothing."""

    reads: ClassVar[tuple[str, ...]] = ("uint8", "int16")

    def output(self, inputs: Sequence[Output]) -> Output:
        return Output(self.shape, inputs[0].dtype, inputs[0].largest)


@dataclass(frozen=True)
class SumPool(Pool):
    """Levels added up; the mean's divisor belongs to the next weights."""

    reads: ClassVar[tuple[str, ...]] = ("uint8", "int32")

    def output(self, inputs: Sequence[Output]) -> Output:
        rows, columns = self.window.kernel
        return Output(self.shape, "int32", inputs[0].largest * rows * columns)


@dataclass(frozen=True)
class Concat(Layer):
    """Channels of several sources of one type, one behind the other."""

    parts: tuple[str, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        return self.parts

    def output(self, inputs: Sequence[Output]) -> Output:
        return Output(self.shape, inputs[0].dtype, max(read.largest for read in inputs))

    def implied_shapes(self, inputs: Sequence[Output]) -> list[Shape]:
        channels = sum(read.shape[0] for read in inputs)
        return [(channels, *read.shape[1:]) for read in inputs]

    def requirements(self, inputs: Sequence[Output], timesteps: int) -> Iterator[Requirement]:
        kinds = [read.dtype for read in inputs]
        yield f"parts of {self.name}", kinds, "two or more of one type", len(kinds) > 1
        yield f"parts of {self.name}", kinds, "two or more of one type", len({*kinds}) == 1


@dataclass(frozen=True)
class Readout(Driven):
    """The last linear layer, its bias added once a timestep, summed over time.

    All classes share one unit, or the logits could not be compared.
    """

    def output(self, inputs: Sequence[Output]) -> Output:
        return Output(self.shape, "int32", 0)

    def requirements(self, inputs: Sequence[Output], timesteps: int) -> Iterator[Requirement]:
        yield from super().requirements(inputs, timesteps)
        plain = [one.weight is not None and one.shift is None for one in self.synapses]
        yield f"synapses of {self.name}", len(plain), "one matrix of weights", plain == [True]


def pooled_shape(window: Window, shape: Shape) -> Shape:
    """Shape behind a pooling of an input of `shape`."""
    return shape[0], *window.reach(shape)


def outputs_of(layers: Sequence[Layer], input_shape: Shape) -> dict[str, Output]:
    """What the image and each layer send, by name."""
    outputs = {IMAGE: Output(input_shape, "uint8", 255)}
    for layer in layers:
        outputs[layer.name] = layer.output([outputs[source] for source in layer.sources])
    return outputs
