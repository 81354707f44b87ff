"""What one evaluation pass measures per layer, and all that the energy model reads. No torch.

All counts are means per inference (one image or one recording), summed over its timesteps.
Shapes leave out timesteps and batch: `(C, H, W)`, or `(F,)` for a linear layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, get_args

from multispike.errors import invalid, unknown

Kind = Literal["conv", "linear", "add", "pool"]
InputKind = Literal["analog", "spikes"]
Shortcut = Literal["none", "events", "dense"]

_ROUNDING = 1e-6  # relative: means over batches arrive as rounded float sums


@dataclass(frozen=True)
class LayerRecord:
    """One convolution, linear layer, residual sum or pooling, and the neuron that follows it.

    >>> LayerRecord("fc", "linear", (512,), (10,), bias=True).weights
    5120
    """

    name: str
    kind: Kind
    """An add is a residual sum, a pool a max, average or global pooling. An average of spikes
    is counted as their integer sum: its constant 1/K² belongs to the weights that follow."""
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    kernel: tuple[int, int] = (1, 1)
    """Height, width; the whole input for a global pooling."""
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    """Of a convolution. A pooling treats every channel by itself, whatever is written here."""
    bias: bool = False
    """After folding batch normalisation."""
    timesteps: int = 1
    """How many times the layer is evaluated per inference: 1 for a stem under direct coding."""
    timesteps_out: int | None = None
    """How many times the neuron that follows is; None: as often as the layer. Differs only
    behind a stem under direct coding, whose result is held and integrated at every timestep."""
    input_kind: InputKind = "analog"
    """For an add: how the direct path arrives. "spikes": as events, the sum has a memory of its
    own (SEW, Sparse). "analog": as potentials (Spiking ResNet: summed in place; MS-ResNet)."""
    levels_in: int = 0
    """Largest level an incoming event can carry by construction, on either path of an add: N
    after a neuron, (k+1)N after k sums of SEW-ADD. 0 for analog input. Sets the payload bits."""
    levels_out: int = 0
    """The same for the events this layer sends; 0 where it sends none."""
    events_in: float = 0.0
    """Non-zero inputs over all timesteps; of the direct path where the layer is an add."""
    amplitude_in: float = 0.0
    """Sum of their levels z. Not used for analog input."""
    taps_in: float = 0.0
    """Kernel positions that the events truly reach, border, stride and padding included, summed
    over events: times Co/groups it is the number of synaptic operations. Linear: `events_in`."""
    amplitude_taps_in: float = 0.0
    """The same, weighted by z."""
    active_in: float | None = None
    """Inputs with at least one event over all timesteps: the non-zeros a quantised ANN of the
    same transfer function would see. None: taken as min(events_in, inputs), its upper bound."""
    events_out: float = 0.0
    """Events sent on over all timesteps: of the neuron that follows, or of a pooling or a sum of
    spikes (SEW) itself; 0 where potentials are passed on."""
    amplitude_out: float = 0.0
    """Sum of their levels."""
    neuron: bool = False
    """A neuron follows directly."""
    leak: bool = False
    """That neuron is leaky (one multiplication per neuron and timestep)."""
    max_level: int = 0
    """Largest level seen among the events sent."""
    shortcut: Shortcut = "none"
    """What crosses the shortcut of an add: "events"; "dense" full-precision potentials
    (MS-ResNet); "none" where a shortcut convolution adds into the same potentials as the direct
    path, so that its own record already has the additions. "none" for all other kinds."""
    shortcut_events: float = 0.0
    """Events on the shortcut over all timesteps."""

    def __post_init__(self) -> None:
        _check(self)

    @property
    def in_size(self) -> int:
        """Elements of the input at one timestep."""
        return math.prod(self.in_shape)

    @property
    def out_size(self) -> int:
        """Elements of the output at one timestep."""
        return math.prod(self.out_shape)

    @property
    def steps_out(self) -> int:
        """Timesteps of the neuron that follows."""
        return self.timesteps if self.timesteps_out is None else self.timesteps_out

    @property
    def fan(self) -> int:
        """Synapses per kernel position reached: Co/groups; 1 for a pooling or a sum."""
        return self.out_shape[0] // self.groups if self.kind in ("conv", "linear") else 1

    @property
    def weights(self) -> int:
        """Weights stored, without bias."""
        if self.kind not in ("conv", "linear"):
            return 0
        return self.in_shape[0] * self.fan * math.prod(self.kernel)

    @property
    def dense_taps(self) -> int:
        """`taps_in` of one timestep with every input active."""
        if self.kind not in ("conv", "pool"):
            return self.in_size
        reached = [
            sum(reach(*sizes))
            for sizes in zip(
                self.in_shape[1:],
                self.out_shape[1:],
                self.kernel,
                self.stride,
                self.padding,
                self.dilation,
                strict=True,
            )
        ]
        return self.in_shape[0] * math.prod(reached)

    @property
    def active_share(self) -> float:
        """Share of inputs that are active at least once per inference, in [0, 1]."""
        active = self.events_in if self.active_in is None else self.active_in
        return min(active / self.in_size, 1.0)

    def to_dict(self) -> dict[str, Any]:
        """The layer's entry of a result file, without its energy."""
        return {
            "name": self.name,
            "kind": self.kind,
            "in_shape": list(self.in_shape),
            "out_shape": list(self.out_shape),
            "events_in": self.events_in,
            "events_out": self.events_out,
            "max_level": self.max_level,
        }


def with_density(records: Iterable[LayerRecord], density: float) -> tuple[LayerRecord, ...]:
    """The same layers with assumed events instead of measured ones.

    `density` is the share of neurons that send an event at one timestep, the same for every
    layer that reads or sends events, on both paths of a residual sum. Assumed besides: events
    carry the mean level (N+1)/2 (levels 1..N equally likely), fall evenly over the image, and
    are independent from one timestep to the next; `max_level` is the bound. Analog inputs stay as
    they were recorded; where nothing was, they are non-zero everywhere. Raises `InputError` for a
    density outside [0, 1].
    """
    if not 0 <= density <= 1:
        raise invalid("density", density, "a number in [0, 1]")
    return tuple(_at_density(record, density) for record in records)


def _at_density(record: LayerRecord, density: float) -> LayerRecord:
    """`with_density` for one layer."""
    spikes = record.input_kind == "spikes"
    if spikes or not record.events_in:
        record = _reading(record, density if spikes else 1.0)
    sends = record.neuron or (spikes and record.kind in ("add", "pool"))
    events_out = density * record.steps_out * record.out_size if sends else 0.0
    through_shortcut = density * record.timesteps * record.in_size
    return replace(
        record,
        events_out=events_out,
        amplitude_out=(record.levels_out + 1) / 2 * events_out,
        max_level=record.levels_out if events_out else 0,
        shortcut_events=through_shortcut if record.shortcut == "events" else 0.0,
    )


def _reading(record: LayerRecord, share: float) -> LayerRecord:
    """The layer with that share of its inputs active at each timestep."""
    mean = (record.levels_in + 1) / 2 if record.input_kind == "spikes" else 0.0
    events, taps = (share * record.timesteps * n for n in (record.in_size, record.dense_taps))
    return replace(
        record,
        events_in=events,
        amplitude_in=mean * events,
        taps_in=taps,
        amplitude_taps_in=mean * taps,
        active_in=_once_at_least(share, record.timesteps) * record.in_size,
    )


def _once_at_least(share: float, timesteps: int) -> float:
    """1 - (1 - share)^timesteps, without cancellation for small shares."""
    return 1.0 if share == 1 else -math.expm1(timesteps * math.log1p(-share))


def checked(records: Sequence[LayerRecord]) -> tuple[LayerRecord, ...]:
    """`records` as a tuple; raises `InputError` where there are none."""
    if not records:
        raise invalid("records", list(records), "at least one layer")
    return tuple(records)


@cache
def reach(
    size: int, out: int, kernel: int, stride: int, padding: int, dilation: int
) -> tuple[int, ...]:
    """How many (output, kernel position) pairs read each of the `size` inputs along one axis.

    >>> reach(4, 2, kernel=3, stride=2, padding=1, dilation=1)
    (1, 2, 1, 1)
    """
    pairs = [0] * size
    for output in range(out):
        for offset in range(kernel):
            place = output * stride - padding + offset * dilation
            if 0 <= place < size:  # not the padding
                pairs[place] += 1
    return tuple(pairs)


_COUNTS = (
    "events_in",
    "amplitude_in",
    "taps_in",
    "amplitude_taps_in",
    "events_out",
    "amplitude_out",
    "shortcut_events",
)


def _check(record: LayerRecord) -> None:
    """Raise `InputError` where a record contradicts itself."""
    for field, names in (("kind", Kind), ("input_kind", InputKind), ("shortcut", Shortcut)):
        if getattr(record, field) not in get_args(names):
            raise unknown(f"{record.name}.{field}", getattr(record, field), get_args(names))
    _check_geometry(record)
    _check_signals(record)
    _check_counts(record)


def _require(record: LayerRecord, field: str, holds: bool, allowed: str) -> None:
    """Raise `InputError` on `field` of `record` unless `holds`."""
    if not holds:
        raise invalid(f"{record.name}.{field}", getattr(record, field), allowed)


def _check_geometry(record: LayerRecord) -> None:
    """Shapes, kernel and the output size that follows from them."""
    rank = 1 if record.kind == "linear" else 3
    for field in ("in_shape", "out_shape"):
        shape = getattr(record, field)
        right = record.kind == "add" or len(shape) == rank
        wanted = f"{rank} positive sizes" if record.kind != "add" else "positive sizes"
        _require(record, field, right and len(shape) > 0 and all(n >= 1 for n in shape), wanted)
    for field, least in (("kernel", 1), ("stride", 1), ("padding", 0), ("dilation", 1)):
        pair = getattr(record, field)
        right = len(pair) == 2 and all(n >= least for n in pair)
        _require(record, field, right, f"(height, width), each >= {least}")
    if record.kind == "add":
        _require(record, "out_shape", record.out_shape == record.in_shape, str(record.in_shape))
    elif record.kind == "pool":
        # Height and width are not checked: adaptive and ceil-mode poolings round as they like.
        channels = record.in_shape[0]
        _require(record, "out_shape", record.out_shape[0] == channels, f"{channels} channels")
    elif record.kind == "linear":
        _require(record, "kernel", record.kernel == (1, 1), "(1, 1) for a linear layer")
        _require(record, "groups", record.groups == 1, "1 for a linear layer")
    else:
        divides = record.groups >= 1 and not (
            record.in_shape[0] % record.groups or record.out_shape[0] % record.groups
        )
        _require(record, "groups", divides, "a divisor of both channel counts")
        expected = tuple(
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, padding, dilation in zip(
                record.in_shape[1:],
                record.kernel,
                record.stride,
                record.padding,
                record.dilation,
                strict=True,
            )
        )
        _require(record, "out_shape", record.out_shape[1:] == expected, f"(Co, *{expected})")


def _check_signals(record: LayerRecord) -> None:
    """Timesteps, levels, neuron and shortcut."""
    steps = f"{record.timesteps} (or any where the layer is evaluated once)"
    _require(record, "timesteps", record.timesteps >= 1, "an integer >= 1")
    held = record.steps_out == record.timesteps or (record.timesteps == 1 and record.steps_out > 1)
    _require(record, "timesteps_out", held, steps)
    if record.input_kind == "spikes" or record.shortcut == "events":
        _require(record, "levels_in", record.levels_in >= 1, "an integer >= 1 for spikes")
    else:
        _require(record, "levels_in", record.levels_in == 0, "0 for analog input")
    sends = record.neuron or (record.input_kind == "spikes" and record.kind in ("add", "pool"))
    least = 1 if sends else 0
    _require(record, "levels_out", record.levels_out >= least, f"an integer >= {least}")
    _require(record, "events_out", sends or not record.events_out, "0 where no neuron follows")
    _require(record, "leak", record.neuron or not record.leak, "False where no neuron follows")
    if record.kind != "add":
        _require(record, "shortcut", record.shortcut == "none", "'none' unless an add")
    elif record.input_kind == "spikes":
        _require(record, "shortcut", record.shortcut == "events", "'events' beside a spiking path")
    crossing = record.shortcut == "events"
    _require(record, "shortcut_events", crossing or not record.shortcut_events, "0")


def _check_counts(record: LayerRecord) -> None:
    """Counts are finite, non-negative, and no more than there are places for them."""
    active = () if record.active_in is None else ("active_in",)
    for field in (*_COUNTS, *active):
        value = getattr(record, field)
        _require(record, field, math.isfinite(value) and value >= 0, "a finite number >= 0")
    places = record.timesteps * record.in_size
    reach = math.prod(record.kernel) * record.events_in
    for field, most in (
        ("events_in", places),
        ("active_in", min(record.in_size, record.events_in)),
        ("shortcut_events", places),
        ("events_out", record.steps_out * record.out_size),
        ("taps_in", reach),
    ):
        value = getattr(record, field) or 0.0
        _require(record, field, value <= most * (1 + _ROUNDING), f"at most {most:g}")
    if record.kind == "linear":
        same = math.isclose(record.taps_in, record.events_in, rel_tol=_ROUNDING)
        _require(record, "taps_in", same, f"events_in = {record.events_in:g}")
    between = [("amplitude_out", record.events_out, record.levels_out)]
    if record.input_kind == "spikes":
        between.append(("amplitude_in", record.events_in, record.levels_in))
        if record.kind in ("conv", "linear"):
            between.append(("amplitude_taps_in", record.taps_in, record.levels_in))
    for field, events, levels in between:
        value, most = getattr(record, field), levels * events
        inside = events * (1 - _ROUNDING) <= value <= most * (1 + _ROUNDING)
        _require(record, field, inside, f"{events:g} to {most:g}")
    within = 0 <= record.max_level <= record.levels_out
    _require(record, "max_level", within, f"0 to levels_out = {record.levels_out}")
