"""Operations and memory accesses of one layer per inference: the table of formulas.

Equation numbers are those of Lemaire et al., "An Analytical Estimation of Spiking Neural Networks
Energy Efficiency" (ICONIP 2022, arXiv 2210.13107). "ours" marks what the article does not cover
(residual sums, pooling, graded events, held input, zero skipping). Symbols:

    θin, θout   events read and sent over all T timesteps (non-zeros; one graded event is one)
    fan         synapses per kernel position reached, Co/groups
    Ho, Wo ...  shapes; `out` is Co·Ho·Wo
    synops      synaptic operations: θin·fan·⌈Kh/Sh⌉·⌈Kw/Sw⌉
    fetches     weights and potentials fetched for them: θin·fan·Kh·Kw
                with fanout="exact" both are fan times the kernel positions that events reached

Slips in the literature, not repeated here. The article's Eq. 2.4 has Ni times too many additions
in the spiking linear layer and no reset. One public implementation drops Co in Eq. 16.3 and uses
a spike rate in Eq. 17.2 where a count is due, prices spiking residual sums at zero, and reads the
bias although the layer has none. The article counts ⌈K/S⌉² additions per event but fetches K²
weights and potentials (Eqs. 7 and 9): kept for fanout="lemaire", and the reason why for strides
above 1 the two fan-outs differ most.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Literal, Self, get_args

from multispike.errors import unknown
from multispike.layer_record import LayerRecord

Network = Literal["snn", "ann", "ann_stepwise", "qann", "qann_skip"]
Fanout = Literal["lemaire", "exact"]
GradedOp = Literal["mac", "repeat"]


class Summable:
    """Adds field by field."""

    def __add__(self, other: Self) -> Self:
        names = [field.name for field in fields(self)]  # pyright: ignore[reportArgumentType]
        return type(self)(*(getattr(self, name) + getattr(other, name) for name in names))


@dataclass(frozen=True)
class Counts(Summable):
    """Means per inference. Reads and writes are accesses of one element each."""

    mac: float = 0.0
    """Multiply-accumulates."""
    ac: float = 0.0
    """Additions, and comparisons of a max-pooling."""
    mul: float = 0.0
    """Multiplications (the leak)."""
    read_input: float = 0.0
    read_weights: float = 0.0
    read_bias: float = 0.0
    read_potential: float = 0.0
    write_potential: float = 0.0
    write_output: float = 0.0
    address_mac: float = 0.0
    address_ac: float = 0.0

    def __mul__(self, factor: float) -> Counts:
        return Counts(*(getattr(self, f.name) * factor for f in fields(self)))

    def to_dict(self) -> dict[str, float]:
        """Every count by name."""
        return asdict(self)


def counts(
    record: LayerRecord,
    *,
    network: Network = "snn",
    fanout: Fanout = "lemaire",
    graded_op: GradedOp = "mac",
) -> Counts:
    """Counts of one layer.

    `network`: "snn" as recorded; "ann" the same layer dense and evaluated once; "ann_stepwise"
    dense and evaluated as often as recorded (an ANN that reads T event frames one by one); "qann"
    dense, once and with few-bit activations (only the widths differ); "qann_skip" that, without
    the operations and weight reads of zero inputs. `fanout`: "lemaire" ⌈K/S⌉ per axis, borders
    ignored; "exact" what events truly reached. `graded_op`: how an event of several levels meets a
    weight: "mac" one multiply-accumulate, "repeat" z additions of a weight that is read once.

    >>> layer = LayerRecord("fc", "linear", (4,), (3,), bias=True, input_kind="spikes",
    ...                     levels_in=1, events_in=2, amplitude_in=2, taps_in=2,
    ...                     amplitude_taps_in=2)
    >>> counts(layer).ac, counts(layer, network="ann").mac
    (9.0, 12)
    """
    check_names(network, fanout, graded_op)
    if network == "snn":
        row = _EVENT_DRIVEN[record.kind]
        return row(record, fanout, graded_op)
    dense = _DENSE[record.kind](record)
    if network == "ann_stepwise":
        return dense * record.timesteps
    if network == "qann_skip" and record.kind in ("conv", "linear"):
        return _zero_skipping(record, dense, fanout)
    return dense


def check_names(network: str, fanout: str, graded_op: str) -> None:
    """Raise `InputError` for a name that `counts` does not know."""
    for argument, value, names in (
        ("network", network, Network),
        ("fanout", fanout, Fanout),
        ("graded_op", graded_op, GradedOp),
    ):
        if value not in get_args(names):
            raise unknown(argument, value, get_args(names))


# --- dense networks: ANN and QANN, one evaluation, partial sums in a register ----------------


def _dense_conv(r: LayerRecord) -> Counts:
    out, bias = r.out_size, r.bias * r.out_size
    inner = r.in_shape[0] // r.groups * math.prod(r.kernel)  # Ci/groups·Kh·Kw
    return Counts(
        mac=out * inner,  # Eq. 1.1
        ac=bias,  # Eq. 1.2
        read_input=out * inner,  # Eq. 3
        read_weights=out * inner,  # Eq. 6.1
        read_bias=bias,  # Eq. 6.1
        write_output=out,  # Eq. 11
        address_ac=r.in_size + out + r.out_shape[0] * math.prod(r.kernel),  # Eq. 16, dense
    )


def _dense_linear(r: LayerRecord) -> Counts:
    synapses, bias = r.in_size * r.out_size, r.bias * r.out_size
    return Counts(
        mac=synapses,  # Eq. 2.1
        ac=bias,  # Eq. 2.2
        read_input=r.in_size,  # Eq. 4: each input once
        read_weights=synapses,  # Eq. 6.2
        read_bias=bias,  # Eq. 6.2
        write_output=r.out_size,  # Eq. 12
        address_ac=synapses,  # Eq. 17, dense
    )


def _dense_add(r: LayerRecord) -> Counts:
    return Counts(  # ours; addresses as in Eq. 16: one step per element read or written
        ac=r.out_size, read_input=2 * r.out_size, write_output=r.out_size, address_ac=3 * r.out_size
    )


def _dense_pool(r: LayerRecord) -> Counts:
    window = math.prod(r.kernel) * r.out_size
    return Counts(  # ours; a comparison or addition per element of the window
        ac=window, read_input=window, write_output=r.out_size, address_ac=r.in_size + r.out_size
    )


def _zero_skipping(r: LayerRecord, dense: Counts, fanout: Fanout) -> Counts:
    """Ours: every input is still read (to see that it is zero), its MAC and weight read are not.

    The non-zeros are those of the decoded activation: inputs with at least one event over T.
    "exact" skips the padding too.
    """
    effective = dense.mac * r.active_share
    if fanout == "exact" and r.kind == "conv":
        per_event = r.taps_in / r.events_in if r.events_in else 0.0
        effective = r.active_share * r.in_size * per_event * r.fan
    saved = dense.mac - effective
    return dense + Counts(mac=-saved, read_weights=-saved)


# --- event-driven network ---------------------------------------------------------------------


def _strided(r: LayerRecord) -> int:
    """⌈Kh/Sh⌉·⌈Kw/Sw⌉: output positions one event reaches, borders ignored."""
    return math.prod(math.ceil(k / s) for k, s in zip(r.kernel, r.stride, strict=True))


def _event_synapses(r: LayerRecord, fanout: Fanout, graded_op: GradedOp) -> Counts:
    """Convolution and linear layer, from events to potentials, and the neuron that follows."""
    if fanout == "exact":
        synops = fetches = r.taps_in * r.fan
        repeated = r.amplitude_taps_in * r.fan
    else:
        synops = r.events_in * r.fan * _strided(r)
        repeated = r.amplitude_in * r.fan * _strided(r)
        fetches = r.events_in * r.fan * math.prod(r.kernel)
    graded = r.input_kind == "analog" or r.levels_in > 1
    multiply = graded and (graded_op == "mac" or r.input_kind == "analog")
    additions = 0.0 if multiply else repeated if graded else synops
    bias = r.bias * r.timesteps * r.out_size
    update = r.steps_out * r.out_size  # each potential once per timestep: bias, leak, threshold
    # Ours: under direct coding the stem is computed once, its result held and added T times.
    held = update if r.steps_out != r.timesteps else 0
    return Counts(
        mac=synops if multiply else 0.0,  # ours; analog input: non-zeros only, once
        ac=additions + bias + held + _resets(r),  # Eqs. 1.4, 2.4 (corrected)
        mul=r.leak * update,  # Eqs. 1.3, 2.3
        read_input=r.events_in,  # Eq. 5
        read_weights=fetches,  # Eqs. 7, 8
        read_bias=bias,  # Eqs. 7, 8
        read_potential=fetches + update + held,  # Eqs. 9, 10
        write_potential=fetches + update,  # Eqs. 14, 15
        write_output=r.events_out,  # Eq. 13
        address_mac=2 * r.events_in if r.kind == "conv" else 0.0,  # Eq. 16.2
        address_ac=fetches,  # Eqs. 16.3, 17.2
    )


def _resets(r: LayerRecord) -> float:
    """θout, the soft resets; events of a pooling or of a sum of spikes reset nothing."""
    return r.events_out if r.neuron else 0.0


def _event_add(r: LayerRecord, fanout: Fanout, graded_op: GradedOp) -> Counts:
    """Residual sum; all ours. Addresses are free: an event's source and target coincide."""
    update = r.steps_out * r.out_size
    if r.shortcut == "dense":
        # MS-ResNet adds two full-precision streams; the sum lives on beside the neuron's V.
        integrate = update if r.neuron else 0
        return Counts(
            ac=update + integrate + _resets(r),
            mul=r.leak * update,
            read_potential=2 * update + integrate,
            write_potential=update + integrate,
            write_output=r.events_out,
        )
    own_memory = r.input_kind == "spikes"
    arriving = r.shortcut_events + (r.events_in if own_memory else 0.0)
    # In place, the pass over the potentials is already in the convolution's record.
    scan = update if own_memory else 0
    return Counts(
        ac=arriving + _resets(r),
        mul=r.leak * update,
        read_input=arriving,
        read_potential=arriving + scan,
        write_potential=arriving + scan,
        write_output=r.events_out,
    )


def _event_pool(r: LayerRecord, fanout: Fanout, graded_op: GradedOp) -> Counts:
    """Pooling; all ours.

    Spikes: each event updates the running maximum or sum of every window that it falls into;
    at the end of each timestep the windows are scanned, sent where non-zero, and cleared.
    Potentials: dense, T times.
    """
    update = r.steps_out * r.out_size
    if r.input_kind == "spikes":
        windows = r.taps_in if fanout == "exact" else r.events_in * _strided(r)
        return Counts(
            ac=windows + _resets(r),
            mul=r.leak * update,
            read_input=r.events_in,
            read_potential=windows + update,
            write_potential=windows + update,
            write_output=r.events_out,
            address_mac=2 * r.events_in,
            address_ac=windows,
        )
    window = r.timesteps * math.prod(r.kernel) * r.out_size
    integrate = update if r.neuron else 0
    return Counts(
        ac=window + integrate + _resets(r),
        mul=r.leak * update,
        read_input=window,
        read_potential=integrate,
        write_potential=integrate,
        write_output=r.events_out if r.neuron else update,
        address_ac=r.timesteps * (r.in_size + r.out_size),
    )


_DENSE: dict[str, Callable[[LayerRecord], Counts]] = {
    "conv": _dense_conv,
    "linear": _dense_linear,
    "add": _dense_add,
    "pool": _dense_pool,
}
_EVENT_DRIVEN: dict[str, Callable[[LayerRecord, Fanout, GradedOp], Counts]] = {
    "conv": _event_synapses,
    "linear": _event_synapses,
    "add": _event_add,
    "pool": _event_pool,
}
