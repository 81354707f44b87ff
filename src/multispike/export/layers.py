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

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, int, int]
Ints = NDArray[np.int32]

IMAGE = "image"
"""The source name of the network's input, uint8 `[C, H, W]`."""

POTENTIAL_BITS = 16
"""Fixed-point width of potentials that cross a shortcut; they saturate at its ends."""

POTENTIAL_END = 2 ** (POTENTIAL_BITS - 1)
"""They reach from -POTENTIAL_END to POTENTIAL_END - 1."""

POTENTIAL_LEVEL = 255
"""Units of such a potential in one level (V_th/N), where there are few levels."""

POTENTIAL_HEADROOM = 16
"""How many thresholds V_th such a potential holds, where there are many."""

SHIFT_MAX = 16
"""Largest shift, either way."""

MERGES = ("add", "and", "iand")


@dataclass(frozen=True)
class Synapses:
    """One projection onto a layer's potentials.

    Attributes:
        name: qualified name of the float network's module.
        source: name of the layer it reads, or `IMAGE`.
        weight: int8 `[Co, Ci, Kh, Kw]`; a linear layer is a 1x1 convolution of a 1x1 image. None
            for an identity.
        gain: int32 `[C]` by which an identity multiplies each channel; None for a convolution.
        stride, padding: of the convolution, the same on both axes.
        shift: int32 `[Co]`, onto `Potentials` only: the sum is divided by 2^shift, rounding half
            up (a negative shift multiplies). None: the sum is added as it is.
    """

    name: str
    source: str
    weight: NDArray[np.int8] | None = None
    gain: Ints | None = None
    stride: int = 1
    padding: int = 0
    shift: Ints | None = None

    def __post_init__(self) -> None:
        if (self.weight is None) == (self.gain is None):
            raise ValueError(f"{self.name}: needs either a weight or a gain")

    def reach(self, shape: Shape) -> Shape:
        """Shape of the sum over an input of `shape`."""
        if self.weight is None:
            return shape
        out, _, *kernel = self.weight.shape
        rows, columns = (
            (size + 2 * self.padding - k) // self.stride + 1
            for size, k in zip(shape[1:], kernel, strict=True)
        )
        return out, rows, columns


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
        rows: uint8 `[H]`, the row class of each row.
        columns: uint8 `[W]`, the column class of each column.
    """

    values: Ints
    rows: NDArray[np.uint8]
    columns: NDArray[np.uint8]

    @classmethod
    def uniform(cls, values: Ints, shape: Shape) -> Bias:
        """The same `values` [C] everywhere."""
        zeros = (np.zeros(size, np.uint8) for size in shape[1:])
        return cls(values[None, None], *zeros)

    @property
    def is_uniform(self) -> bool:
        return self.values.shape[:2] == (1, 1)

    def image(self) -> Ints:
        """`[C, H, W]`."""
        return self.values[self.rows[:, None], self.columns[None, :]].transpose(2, 0, 1)


@dataclass(frozen=True)
class Neurons:
    """Multi-level IF neurons with soft reset, and all synapses that drive them.

        H = V + bias + sum of synapses          V starts at `start`
        z = #{k in 1..levels : H >= k * step},  V = H - z * step

    With `sign`, a 2x2 max-pool stands between convolution and batch norm: of the synapses' sum,
    the maximum of each window is taken and multiplied by the sign of the norm's scale.

    Attributes:
        shape: of the neurons (behind the pooling).
        start, step, sign: int32 `[C]`.
    """

    name: str
    shape: Shape
    synapses: tuple[Synapses, ...]
    bias: Bias
    start: Ints
    step: Ints
    levels: int
    sign: Ints | None = None


@dataclass(frozen=True)
class Potentials:
    """A sum of potentials without a neuron (MS-ResNet): int16 = saturate(bias + synapses)."""

    name: str
    shape: Shape
    synapses: tuple[Synapses, ...]
    bias: Bias


@dataclass(frozen=True)
class Merge:
    """Levels of a block's path a and shortcut b: a + b, or for binary ones a AND b, NOT a AND b.

    kind: one of `MERGES`.
    """

    name: str
    shape: Shape
    kind: str
    path: str
    shortcut: str


@dataclass(frozen=True)
class MaxPool:
    """2x2, stride 2, on levels or potentials; the last row and column of an odd size are kept."""

    name: str
    shape: Shape
    source: str


@dataclass(frozen=True)
class GlobalSum:
    """Levels summed over the image, `[C, 1, 1]`; the mean's 1/(H*W) belongs to the next weights."""

    name: str
    shape: Shape
    source: str


@dataclass(frozen=True)
class Readout:
    """The last linear layer, its bias added once a timestep, summed over time.

    All classes share one unit, or the logits could not be compared.
    """

    name: str
    shape: Shape
    synapses: tuple[Synapses, ...]
    bias: Bias


Layer = Neurons | Potentials | Merge | MaxPool | GlobalSum | Readout


def sources(layer: Layer) -> tuple[str, ...]:
    """Names of the layers that `layer` reads."""
    if isinstance(layer, Merge):
        return layer.path, layer.shortcut
    if isinstance(layer, (MaxPool, GlobalSum)):
        return (layer.source,)
    return tuple(synapses.source for synapses in layer.synapses)


def pooled(shape: Shape) -> Shape:
    """Shape behind a 2x2 max-pool in ceil mode."""
    return shape[0], (shape[1] + 1) // 2, (shape[2] + 1) // 2
