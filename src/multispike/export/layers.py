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

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, int, int]
Pair = tuple[int, int]
"""One number for the rows, one for the columns."""

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

RESERVED = frozenset(
    ["auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else", "enum", "extern", "float", "for", "goto", "if", "inline", "int", "long", "register", "restrict", "return", "short", "signed", "sizeof", "static", "struct", "switch", "typedef", "union", "unsigned", "void", "volatile", "while", "main", "input", "input_bytes", "logits", "classes", "count", "t", "accumulate", "add", "add_drive", "add_levels", "add_potentials", "add_shifted", "add_signed", "channels_last", "clear", "fire", "max", "merge_add", "merge_and", "merge_iand", "saturate", "scatter", "set", "shifted", "sum"]
)
"""Words of C and of the kernels, or their beginnings, that no layer may be called by."""

_PARTS = re.compile(".*_(weight|gain|shift|bias|values|rows|columns|start|step|sign|pool)")
"""What a layer's tables in C are called."""

MERGES = ("add", "and", "iand")

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
    window: Window = Window()
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
        yield from _one_a_channel(self, ("gain", "shift"), channels)
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
        yield from _one_a_channel(self, ("start", "step", "sign"), self.shape[0])
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


def identifier(name: str) -> str:
    """The name of a layer or of synapses in C.

    >>> identifier("body.stage1_block1.path.conv1"), identifier("0"), identifier("fire")
    ('stage1_block1_path_conv1', 'layer_0', 'layer_fire')
    """
    word = re.sub(r"\W", "_", name.removeprefix("body."))
    word = f"{word}_layer" if _PARTS.fullmatch(word) else word
    return f"layer_{word}" if word in RESERVED or word[0].isdigit() else word


def outputs_of(layers: Sequence[Layer], input_shape: Shape) -> dict[str, Output]:
    """What the image and each layer send, by name."""
    outputs = {IMAGE: Output(input_shape, "uint8", 255)}
    for layer in layers:
        outputs[layer.name] = layer.output([outputs[source] for source in layer.sources])
    return outputs


def _one_a_channel(owner: Any, fields: Sequence[str], channels: int) -> Iterator[Requirement]:
    """That those fields of synapses or neurons that are there have a number a channel."""
    for field in fields:
        values = getattr(owner, field)
        if values is not None:
            fits = values.shape == (channels,)
            yield f"{field} of {owner.name}", values.shape, f"({channels},)", fits
