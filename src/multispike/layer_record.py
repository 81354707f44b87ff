"""What one evaluation pass measures of a layer, and all that the energy model reads. No torch.

Counts are means per inference (one image or one recording), summed over its timesteps. Shapes leave
out timesteps and batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cache
from typing import Any, Literal, Self

from multispike.errors import invalid

Kind = Literal["conv", "linear", "matmul", "add", "pool"]

_ROUNDING = 1e-6  # relative: means over batches arrive as rounded float sums


@dataclass(frozen=True)
class Geometry:
    """How a kernel meets its input, (C, H, W) or (C, D, H, W); one size an axis behind C.

    A linear layer has (F,), or (rows, F) where it runs over rows of a sample: tokens, pixels.
    """

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    kernel: tuple[int, ...] = (1, 1)
    """The whole input for a global pooling."""
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1
    """A pooling treats every channel by itself, whatever is written here."""
    transposed: bool = False
    """Every input is spread over a kernel of outputs."""

    @property
    def kernel_size(self) -> int:
        """Kh·Kw."""
        return math.prod(self.kernel)

    @property
    def strided_size(self) -> int:
        """⌈Kh/Sh⌉·⌈Kw/Sw⌉: output positions that one event reaches, borders ignored."""
        if self.transposed:
            return self.kernel_size
        return math.prod(math.ceil(k / s) for k, s in zip(self.kernel, self.stride, strict=True))

    def axis(self, axis: int) -> tuple[int, ...]:
        """Input size, output size, kernel, stride, padding and dilation of one axis behind C."""
        constants = (self.kernel, self.stride, self.padding, self.dilation)
        sizes = (self.in_shape[axis + 1], self.out_shape[axis + 1])
        return (*sizes, *(constant[axis] for constant in constants))

    @property
    def dense_taps(self) -> int:
        """`Input.taps` of one timestep with every input active."""
        if len(self.in_shape) < 3:  # linear
            return math.prod(self.in_shape)
        axes = range(len(self.in_shape) - 1)
        return self.in_shape[0] * math.prod(sum(positions_read(self, axis)) for axis in axes)


@cache
def positions_read(geometry: Geometry, axis: int) -> tuple[int, ...]:
    """How many (output, kernel position) pairs read each of the inputs along one axis.

    >>> positions_read(Geometry((1, 1, 4), (1, 1, 2), (1, 3), (1, 2), (0, 1)), 1)
    (1, 2, 1, 1)
    """
    size, out, kernel, stride, padding, dilation = geometry.axis(axis)
    transposed, pairs = geometry.transposed, [0] * size
    for near in range(size if transposed else out):
        for offset in range(kernel):
            far = near * stride - padding + offset * dilation
            if 0 <= far < (out if transposed else size):  # not the padding
                pairs[near if transposed else far] += 1
    return tuple(pairs)


@dataclass(frozen=True)
class Stream:
    """Values on their way into or out of a layer: graded events, or analog values."""

    levels: int = 0
    """Largest level an event can carry: N after a neuron, (k+1)N after k sums of SEW-ADD. Sets the
    payload bits. 0 where values are analog, or nothing is sent."""
    events: float = 0.0
    """Non-zero values over all timesteps."""
    amplitude: float = 0.0
    """Sum of their levels z; 0 where values are analog."""

    @property
    def mean_level(self) -> float:
        """(N+1)/2, where levels 1..N are equally likely."""
        return (self.levels + 1) / 2 if self.levels else 0.0

    def assumed(self, events: float) -> Self:
        """That many events of the mean level."""
        return replace(self, events=events, amplitude=self.mean_level * events)


@dataclass(frozen=True)
class Input(Stream):
    """What a kernel reads."""

    taps: float = 0.0
    """Kernel positions that the events truly reach, border and stride included: times Co/groups it
    is the number of synaptic operations. Linear: `events`."""
    amplitude_taps: float = 0.0
    """The same, weighted by z."""
    active: float | None = None
    """Inputs with an event at any timestep: the non-zeros of a quantised ANN of the same transfer
    function. None: taken as min(events, inputs), its upper bound."""


@dataclass(frozen=True)
class Output(Stream):
    """What the neuron that follows sends, or a pooling or a sum of spikes (SEW) itself."""

    max_level: int = 0
    """Largest level seen."""


@dataclass(frozen=True)
class Neuron:
    """The neurons directly behind a layer."""

    timesteps: int
    """The layer's; more only behind a stem under direct coding, whose result is held."""
    leak: bool = False
    """One multiplication per neuron and timestep."""
    states: int = 1
    """Variables of each neuron: beside its potential they are read, decay, are added, written."""
    parameters: tuple[int, ...] = ()
    """Elements of the parameters that neurons don't share, each read per neuron and timestep."""
    feedback: bool = False
    """An event is also added to the neuron's own potential at the next timestep."""


@dataclass(frozen=True)
class _Layer:
    name: str
    geometry: Geometry
    _: KW_ONLY
    kind: Kind
    timesteps: int = 1
    """How many times the layer is evaluated per inference: 1 for a stem under direct coding."""
    input: Stream = Stream()
    output: Output = Output()
    """All zero where potentials are passed on."""
    neuron: Neuron | None = None

    def __post_init__(self) -> None:
        for part, value, allowed in _broken(self):
            if not isinstance(allowed, str):
                least, most = allowed
                allowed = f"{least:g} to {most:g}" if least else f"at most {most:g}"
            raise invalid(f"{self.name}.{part}", value, allowed)

    def entry(self) -> dict[str, Any]:
        """What a result file says of the layer outside its whole record."""
        return {
            "name": self.name,
            "kind": self.kind,
            "in_shape": self.geometry.in_shape,
            "out_shape": self.geometry.out_shape,
            "events_in": self.input.events,
            "events_out": self.output.events,
            "max_level": self.output.max_level,
        }

    @property
    def levels_in(self) -> int:
        """Largest level that it reads, of a sum on either path."""
        return self.input.levels

    @property
    def in_size(self) -> int:
        """Elements of the input at one timestep."""
        return math.prod(self.geometry.in_shape)

    @property
    def out_size(self) -> int:
        """Elements of the output at one timestep."""
        return math.prod(self.geometry.out_shape)

    @property
    def steps_out(self) -> int:
        """Timesteps of what follows."""
        return self.timesteps if self.neuron is None else self.neuron.timesteps


@dataclass(frozen=True)
class Synapses(_Layer):
    """A convolution or linear layer, batch norms folded into it; or a matmul, whose weights are
    what another layer sent. Spikes times spikes: an AND, and an addition."""

    _: KW_ONLY
    kind: Literal["conv", "linear", "matmul"]
    input: Input = Input()
    bias: bool = False
    table: int = 0
    """Rows of an embedding's table, whose indices are the inputs; 0 for all other layers."""
    weight_density: float | None = None
    """Share of non-zero weights where it is below half: only they are stored, and met evenly."""

    @property
    def channels(self) -> tuple[int, int]:
        """Ci and Co; Ni and No of a linear layer."""
        axis = 0 if self.kind == "conv" else -1
        return self.geometry.in_shape[axis], self.geometry.out_shape[axis]

    @property
    def fan(self) -> float:
        """Synapses per kernel position reached: Co/groups, zeros left out where few are not."""
        every = self.channels[1] // self.geometry.groups
        return every if self.weight_density is None else every * self.weight_density

    @property
    def weights(self) -> int:
        """Weights stored, without bias."""
        return round((self.table or self.channels[0]) * self.fan * self.geometry.kernel_size)

    @property
    def synapses(self) -> int:
        """Weights that one dense evaluation meets, padding included: its multiplications."""
        spread = self.geometry.transposed or self.table
        inputs = self.in_size if spread else self.out_size * self.channels[0] / self.channels[1]
        return round(inputs * self.fan * self.geometry.kernel_size)

    @property
    def active_share(self) -> float:
        """Share of inputs that are active at least once per inference, in [0, 1]."""
        active = self.input.events if self.input.active is None else self.input.active
        return min(active / self.in_size, 1.0)


@dataclass(frozen=True)
class Pool(_Layer):
    """A pooling. An average of spikes is their integer sum: 1/K² belongs to the weights behind."""

    _: KW_ONLY
    kind: Literal["pool"] = "pool"
    input: Input = Input()


@dataclass(frozen=True)
class Sum(_Layer):
    """A residual sum; its geometry is one shape, twice."""

    _: KW_ONLY
    kind: Literal["add"] = "add"
    input: Stream = Stream()
    """The direct path. Events: the sum has a memory of its own (SEW, Sparse). Analog: potentials
    (Spiking ResNet: summed in place; MS-ResNet)."""
    shortcut: Stream | Literal["dense"] | None = None
    """Events; "dense" full-precision potentials (MS-ResNet); None where a shortcut convolution adds
    into the potentials of the direct path: its own record has the additions."""

    @property
    def crossing(self) -> Stream:
        """The events on the shortcut; none where something else crosses it."""
        return self.shortcut if isinstance(self.shortcut, Stream) else Stream()

    @property
    def levels_in(self) -> int:
        return max(self.input.levels, self.crossing.levels)


LayerRecord = Synapses | Pool | Sum
"""One layer, and the neuron that follows it."""


def with_density(records: Iterable[LayerRecord], density: float) -> tuple[LayerRecord, ...]:
    """The same layers with assumed events instead of measured ones.

    `density` is the share of neurons that send an event at one timestep, the same for every
    layer that reads or sends events, on both paths of a residual sum. Events carry the mean level
    (N+1)/2, fall evenly over the image and are independent from step to step; `max_level` is the
    bound. Analog inputs stay as recorded; where nothing was, they are non-zero everywhere. Raises
    `InputError` for a density outside [0, 1].
    """
    if not 0 <= density <= 1:
        raise invalid("density", density, "a number in [0, 1]")
    return tuple(_at_density(record, density) for record in records)


def _at_density(record: LayerRecord, density: float) -> LayerRecord:
    read, sent, steps = record.input, record.output, record.timesteps
    if read.levels or not read.events:
        share = density if read.levels else 1.0
        read = read.assumed(share * steps * record.in_size)
        if isinstance(read, Input):
            taps = share * steps * record.geometry.dense_taps
            # 1 - (1 - share)^steps, without cancellation for small shares
            once = 1.0 if share == 1 else -math.expm1(steps * math.log1p(-share))
            counts = {"taps": taps, "amplitude_taps": read.mean_level * taps}
            read = replace(read, **counts, active=once * record.in_size)
    sent = sent.assumed(density * record.steps_out * record.out_size if sent.levels else 0.0)
    parts: dict[str, Any] = {"input": read}
    parts["output"] = replace(sent, max_level=sent.levels if sent.events else 0)
    if isinstance(record, Sum) and isinstance(record.shortcut, Stream):
        parts["shortcut"] = record.shortcut.assumed(density * steps * record.in_size)
    return replace(record, **parts)


def checked(records: Sequence[LayerRecord]) -> tuple[LayerRecord, ...]:
    """`records` as a tuple; raises `InputError` where there are none."""
    if not records:
        raise invalid("records", list(records), "at least one layer")
    return tuple(records)


Broken = tuple[str, Any, str | tuple[float, float]]  # part, value, what is allowed


def _broken(record: Any) -> Iterator[Broken]:
    """What a record contradicts itself in; each rule relies on those before it."""
    read, sent, kind = record.input, record.output, record.kind
    steps, places = record.timesteps, record.timesteps * record.in_size
    yield from _broken_geometry(record.geometry, kind)
    if steps < 1:
        yield "timesteps", steps, "an integer >= 1"
    if record.steps_out != steps and (steps > 1 or record.steps_out < steps):
        yield "neuron.timesteps", record.steps_out, f"{steps}, or any behind one evaluation"
    yield from _broken_stream("input", read, places)
    yield from _broken_stream("output", sent, record.steps_out * record.out_size)
    sends = bool(record.neuron or (read.levels and kind in ("add", "pool")))
    if sent.events and not sends:
        yield "output.events", sent.events, "0 where no neuron follows"
    if sends != (sent.levels > 0):
        allowed = "an integer >= 1" if sends else "0 where nothing is sent"
        yield "output.levels", sent.levels, allowed
    yield from _outside("output.max_level", sent.max_level, 0, sent.levels)
    if kind == "add":
        if read.levels and not isinstance(record.shortcut, Stream):
            yield "shortcut", record.shortcut, "events beside a spiking path"
        yield from _broken_stream("shortcut", record.crossing, places)
        return
    least = read.events if kind in ("linear", "matmul") else 0.0
    yield from _outside("input.taps", read.taps, least, record.geometry.kernel_size * read.events)
    yield from _outside("input.active", read.active or 0.0, 0.0, min(record.in_size, read.events))
    if kind != "pool":
        yield from _outside("weight_density", record.weight_density or 0.0, 0.0, 0.5)
        least, most = read.taps if read.levels else 0.0, read.levels * read.taps
        yield from _outside("input.amplitude_taps", read.amplitude_taps, least, most)


def _broken_geometry(g: Geometry, kind: Kind) -> Iterator[Broken]:
    flat = kind in ("linear", "matmul")
    ranks = (1, 2) if flat else (1, 2, 3, 4, 5) if kind == "add" else (3, 4)
    axes = 2 if kind == "add" else max(2, len(g.in_shape) - 1)
    for part in ("in_shape", "out_shape", "kernel", "stride", "padding", "dilation"):
        counts = ranks if part.endswith("shape") else (axes,)
        sizes, least = getattr(g, part), int(part != "padding")
        if len(sizes) not in counts or min(sizes, default=0) < least:
            yield part, sizes, f"{counts[0]} to {counts[-1]} sizes, each >= {least}"
    channels = (g.in_shape[-1], g.out_shape[-1]) if flat else (g.in_shape[0], g.out_shape[0])
    divides = g.groups >= 1 and not any(count % g.groups for count in channels)
    match kind:
        case "add":
            expected = g.in_shape
        case "pool":  # adaptive and ceil-mode poolings round height and width as they like
            expected = (channels[0], *g.out_shape[1:])
        case "conv":
            if not divides:
                yield "groups", g.groups, "a divisor of both channel counts"
            sizes = (
                (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
                for size, _, kernel, stride, padding, dilation in map(g.axis, range(axes))
            )
            expected = g.out_shape if g.transposed else (channels[1], *sizes)
        case _:
            if g.groups != 1 and not (kind == "matmul" and divides):
                yield "groups", g.groups, "1 for a linear layer"
            if g.kernel_size != 1:
                yield "kernel", g.kernel, "(1, 1) for a linear layer"
            expected = (*g.in_shape[:-1], channels[1])
    if g.out_shape != expected:
        yield "out_shape", g.out_shape, str(expected)


def _broken_stream(name: str, stream: Stream, places: int) -> Iterator[Broken]:
    for part, value in vars(stream).items():
        if value is not None and not 0 <= value < math.inf:
            yield f"{name}.{part}", value, "a finite number >= 0"
    yield from _outside(f"{name}.events", stream.events, 0.0, places)
    least = stream.events if stream.levels else 0.0  # analog values have no amplitude
    yield from _outside(f"{name}.amplitude", stream.amplitude, least, stream.levels * stream.events)


def _outside(part: str, value: float, least: float, most: float) -> Iterator[Broken]:
    if not least * (1 - _ROUNDING) <= value <= most * (1 + _ROUNDING):
        yield part, value, (least, most)
