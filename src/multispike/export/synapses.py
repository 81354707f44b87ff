"""What drives a layer of an integer network: windows, synapses and biases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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

Requirement = tuple[str, object, str, bool]
"""What is looked at, its value, what is allowed, and whether it is. Each relies on those before."""


@dataclass(frozen=True)
class Output:
    """What a layer, or the image, sends.

    Attributes:
        shape: per image.
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

    def requirements(self, name: str) -> Iterator[Requirement]:
        """Of the window of a layer or of synapses."""
        for field, least in (
            ("kernel", 1), ("stride", 1), ("before", 0), ("after", 0), ("dilation", 1),
        ):  # fmt: skip
            values = getattr(self, field)
            fits = len(values) == 2 and min(values) >= least
            yield f"{field} of {name}", values, f"two integers >= {least}", fits


POINT = Window()

HALVING = Window((2, 2), (2, 2), after=(1, 1))
"""A 2x2 pooling with stride 2 that keeps the last row and column of an odd size."""


@dataclass(frozen=True)
class Synapses:
    """One projection onto a layer's potentials.

    Attributes:
        name: qualified name of the float network's module.
        source: name of the layer it reads, or `IMAGE`.
        weight: int8 `[Co, Ci/groups, Kh, Kw]`; a linear layer's kernel is the whole image. None for
            an identity.
        gain: int32 `[C]` by which an identity multiplies each channel; None for a convolution.
        window: of the convolution.
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

    def __post_init__(self) -> None:
        if (self.weight is None) == (self.gain is None):
            raise ValueError(f"{self.name}: needs either a weight or a gain")

    def sum_shape(self, shape: Shape) -> Shape:
        """Shape of the sum over an input of `shape`."""
        return shape if self.weight is None else (len(self.weight), *self.window.reach(shape))

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

    def requirements(self, read: Output, channels: int) -> Iterator[Requirement]:
        """Of a projection from what it reads onto `channels`."""
        yield from self.window.requirements(self.name)
        if self.weight is not None:
            groups, shape = self.groups, self.weight.shape
            fits = len(shape) == 4 and groups >= 1 and shape[0] % groups == 0
            fits = fits and (shape[1] * groups, *shape[2:]) == (read.shape[0], *self.window.kernel)
            allowed = f"[Co, {read.shape[0]}/groups, Kh, Kw] of {groups} groups, and the window's"
            yield f"weight of {self.name}", shape, allowed, fits
        yield from one_a_channel(self, ("gain", "shift"), channels)
        if self.shift is not None:
            largest = int(np.abs(self.shift.astype(np.int64)).max())
            yield f"shift of {self.name}", largest, f"at most {SHIFT_MAX}", largest <= SHIFT_MAX


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

    def requirements(self, name: str, shape: Shape) -> Iterator[Requirement]:
        """Of the bias of layer `name`."""
        values = self.values.shape
        fits = len(values) == 3 and values[2] == shape[0]
        yield f"bias of {name}", values, f"[R, S, {shape[0]}]", fits
        axes = (("rows", self.rows), ("columns", self.columns))
        for (axis, classes), size, count in zip(axes, shape[1:], values[:2], strict=True):
            what = f"bias {axis} of {name}"
            yield what, classes.shape, f"({size},)", classes.shape == (size,)
            yield what, int(classes.max()), f"classes below {count}", int(classes.max()) < count


def one_a_channel(owner: Any, fields: Sequence[str], channels: int) -> Iterator[Requirement]:
    """That those fields of synapses or neurons that are there have a number a channel."""
    for field in fields:
        values = getattr(owner, field)
        if values is not None:
            fits = values.shape == (channels,)
            yield f"{field} of {owner.name}", values.shape, f"({channels},)", fits
