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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, int, int]
Pair = tuple[int, int]
"""One number for the rows, one for the columns."""

Ints = NDArray[np.int32]

IMAGE = "image"
"""The source name of the network's input, uint8 `[C, H, W]`."""

SHIFT_MAX = 16
"""Largest shift, either way."""

POTENTIAL_BITS = 16
"""Fixed-point width of potentials that cross a shortcut; they saturate at its ends."""

POTENTIAL_END = 2 ** (POTENTIAL_BITS - 1)
"""They reach from -POTENTIAL_END to POTENTIAL_END - 1."""

POTENTIAL_LEVEL = 255
"""Units of such a potential in one level (V_th/N), where there are few levels."""

POTENTIAL_HEADROOM = 16
"""How many thresholds V_th such a potential holds, where there are many."""


@dataclass(frozen=True)
class Output:
    """What a layer, or the image, sends.

    Attributes:
        dtype: "uint8" for levels, "int16" for potentials, "int32" for sums.
        largest: the largest absolute value.
    """

    shape: Shape
    dtype: str
    largest: int


@dataclass(frozen=True)
class Window:
    """Where the kernel of a convolution or a pooling stands over an image.

    Attributes:
        before, after: padding above and to the left, below and to the right.
    """

    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    before: Pair = (0, 0)
    after: Pair = (0, 0)
    dilation: Pair = (1, 1)

    @property
    def extent(self) -> Pair:
        """Pixels from the first tap to the last."""
        rows, columns = (d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True))
        return rows, columns

    def reach(self, shape: Shape) -> Pair:
        """How many places it has on an image of `shape`.

        >>> Window((3, 3), (2, 2), (1, 1), (1, 1)).reach((8, 9, 7))
        (5, 4)
        """
        padded = (sum(sizes) for sizes in zip(shape[1:], self.before, self.after, strict=True))
        rows, columns = (
            (size - extent) // stride + 1
            for size, extent, stride in zip(padded, self.extent, self.stride, strict=True)
        )
        return rows, columns

    def taps(self, axis: int, shape: Shape) -> NDArray[np.int64]:
        """The position of each tap at each place along an axis, [places, kernel]."""
        place, tap = np.arange(self.reach(shape)[axis]), np.arange(self.kernel[axis])
        return place[:, None] * self.stride[axis] - self.before[axis] + tap * self.dilation[axis]

    def covers(self, shape: Shape) -> bool:
        """Whether it has one place, the whole image."""
        return self == Window(shape[1:])


POINT = Window()

HALVING = Window((2, 2), (2, 2), after=(1, 1))
"""A 2x2 pooling with stride 2 that keeps the last row and column of an odd size."""


@dataclass(frozen=True)
class Synapses:
    """One projection onto a layer's potentials: a convolution's weights, or an identity's gain.

    Attributes:
        name: qualified name of the float network's module.
        source: name of the layer it reads, or `IMAGE`.
        weight: int8 `[Co, Ci/groups, Kh, Kw]`; a linear layer's kernel is the whole image.
        gain: int32 `[C]` by which an identity multiplies each channel.
        groups: of channels, each of which sees only its own share of the inputs.
        shift: int32 `[Co]`, onto `Potentials` only: the sum is divided by 2^shift, rounding half
            up (a negative shift multiplies). None: the sum is added as it is.
    """

    name: str
    source: str
    weight: NDArray[np.int8] | None = None
    gain: Ints | None = None
    window: Window = POINT
    groups: int = 1
    shift: Ints | None = None

    def sum_shape(self, shape: Shape) -> Shape:
        """Shape of the sum over an input of `shape`."""
        return shape if self.weight is None else (len(self.weight), *self.window.reach(shape))

    @cached_property
    def sparse(self) -> bool:
        """Whether the C program leaves out zero weights: there are more of them than others, and a
        byte beside each other one and four for where each run begins take less."""
        if self.weight is None:
            return False
        others, runs = int(np.count_nonzero(self.weight)), self.weight.size * self.groups
        return 2 * others + 4 * (runs // len(self.weight) + 1) < self.weight.size

    def largest_sum(self, largest_input: int) -> int:
        """Bound on every partial sum, in any order: max_c sum |w| * largest input.

        >>> w = np.array([3, -4], np.int8).reshape(1, 2, 1, 1)
        >>> Synapses("fc", "z", w).largest_sum(2)
        14
        """
        factors = self.gain if self.weight is None else self.weight
        assert factors is not None
        magnitudes = np.abs(factors.astype(np.int64)).reshape(len(factors), -1)
        return int(magnitudes.sum(axis=1).max()) * largest_input


@dataclass(frozen=True)
class Bias:
    """A constant a channel, or, where the image is normalised on the fly, one a kind of position.

    The float network pads the *normalised* image with zeros. On raw pixels that padding would be
    255*mean, seldom a whole number. Instead pixels are padded with 0 and the normalisation's
    constant, a sum over the kernel taps *inside* the image, becomes part of the bias. It differs
    only near the border: positions whose taps fall on the image alike share a row and a column
    class.

    Attributes:
        values: int32 `[R, S, C]`.
        rows, columns: uint8 `[H]` and `[W]`, the class of each row and column.
    """

    values: Ints
    rows: NDArray[np.uint8]
    columns: NDArray[np.uint8]

    @classmethod
    def uniform(cls, values: Ints, shape: Shape) -> Bias:
        """The same `values` [C] everywhere."""
        return cls(values[None, None], *(np.zeros(size, np.uint8) for size in shape[1:]))

    @property
    def is_uniform(self) -> bool:
        return self.values.shape[:2] == (1, 1)

    def image(self) -> Ints:
        """`[C, H, W]`."""
        return self.values[self.rows[:, None], self.columns[None, :]].transpose(2, 0, 1)


@dataclass(frozen=True)
class Layer(ABC):
    """What all layers have in common."""

    name: str
    shape: Shape

    @property
    @abstractmethod
    def sources(self) -> tuple[str, ...]:
        """Names of the layers that it reads."""


@dataclass(frozen=True)
class Driven(Layer):
    """A layer that adds a bias and the sums of its synapses."""

    synapses: tuple[Synapses, ...]
    bias: Bias

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(one.source for one in self.synapses)


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


@dataclass(frozen=True)
class Potentials(Driven):
    """A sum of potentials without a neuron (MS-ResNet): int16 = saturate(bias + synapses)."""


@dataclass(frozen=True)
class Merge(Layer):
    """Levels of a block's path a and shortcut b; kind "add": a + b, or for binary ones "and":
    a AND b, "iand": NOT a AND b."""

    kind: str
    path: str
    shortcut: str

    @property
    def sources(self) -> tuple[str, ...]:
        return self.path, self.shortcut


@dataclass(frozen=True)
class Pool(Layer):
    """A pooling of one source."""

    source: str
    window: Window = HALVING

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)


@dataclass(frozen=True)
class MaxPool(Pool):
    """The maximum of levels or potentials; what is beyond the border counts for nothing."""


@dataclass(frozen=True)
class SumPool(Pool):
    """Levels added up; the mean's divisor belongs to the next weights."""


@dataclass(frozen=True)
class Concat(Layer):
    """Channels of several sources of one type, one behind the other."""

    parts: tuple[str, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        return self.parts


@dataclass(frozen=True)
class Readout(Driven):
    """The last linear layer, its bias added once a timestep, summed over time.

    All classes share one unit, or the logits could not be compared.
    """


def pooled_shape(window: Window, shape: Shape) -> Shape:
    """Shape behind a pooling of an input of `shape`."""
    return shape[0], *window.reach(shape)


def output_of(layer: Layer, outputs: Mapping[str, Output]) -> Output:
    """What a layer sends; `outputs` of those before it."""
    inputs = [outputs[source] for source in layer.sources]
    dtype, largest = "uint8", 1
    match layer:
        case Neurons():
            largest = layer.levels
        case Potentials():
            dtype, largest = "int16", POTENTIAL_END
        case Readout():
            dtype, largest = "int32", 0
        case Merge(kind="add"):
            largest = sum(read.largest for read in inputs)
        case SumPool():
            dtype, largest = "int32", inputs[0].largest * int(np.prod(layer.window.kernel))
        case MaxPool() | Concat():
            dtype, largest = inputs[0].dtype, max(read.largest for read in inputs)
    return Output(layer.shape, dtype, largest)


def outputs_of(layers: Sequence[Layer], input_shape: Shape) -> dict[str, Output]:
    """What the image and each layer send, by name."""
    outputs = {IMAGE: Output(input_shape, "uint8", 255)}
    for layer in layers:
        outputs[layer.name] = output_of(layer, outputs)
    return outputs
