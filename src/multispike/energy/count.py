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

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Literal, Self, TypedDict, get_args

from multispike.errors import unknown
from multispike.layer_record import LayerRecord, Pool, Sum, Synapses, checked

Execution = Literal["snn", "ann", "ann_stepwise", "qann", "qann_skip"]
Fanout = Literal["lemaire", "exact"]
GradedOp = Literal["mac", "repeat"]


class Choices(TypedDict, total=False):
    """What the article leaves open; see `count_layer`."""

    fanout: Fanout
    graded_op: GradedOp


class Summable:
    """Adds field by field."""

    def __add__(self, other: Self) -> Self:
        pairs = zip(astuple(self), astuple(other), strict=True)  # pyright: ignore[reportArgumentType]
        return type(self)(*(one + two for one, two in pairs))


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
        return Counts(*(count * factor for count in astuple(self)))


def count_layer(
    record: LayerRecord,
    *,
    network: Execution = "snn",
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

    >>> from multispike.layer_record import Geometry, Input
    >>> layer = Synapses("fc", Geometry((4,), (3,)), kind="linear", bias=True,
    ...                  input=Input(levels=1, events=2, amplitude=2, taps=2, amplitude_taps=2))
    >>> count_layer(layer).ac, count_layer(layer, network="ann").mac
    (9.0, 12)
    """
    check_names(network, fanout, graded_op)
    event_driven = network == "snn"
    match record:
        case Sum():
            counts = _event_add(record) if event_driven else _dense_add(record)
        case Pool():
            counts = _event_pool(record, fanout) if event_driven else _dense_pool(record)
        case Synapses() if event_driven:
            counts = _event_synapses(record, fanout, graded_op)
        case Synapses():
            counts = _dense_synapses(record)
            if network == "qann_skip":
                counts += _zero_skipping(record, counts, fanout)
    return counts * record.timesteps if network == "ann_stepwise" else counts


def execution(records: Sequence[LayerRecord], spiking: bool) -> Execution:
    """How a recorded network runs: an ANN as often as its layers were evaluated."""
    stepwise = any(record.timesteps > 1 for record in records)
    return "snn" if spiking else "ann_stepwise" if stepwise else "ann"


def check_names(network: str, fanout: str, graded_op: str) -> None:
    """Raise `InputError` for a name that `count_layer` does not know."""
    for argument, value, names in (
        ("network", network, Execution),
        ("fanout", fanout, Fanout),
        ("graded_op", graded_op, GradedOp),
    ):
        if value not in get_args(names):
            raise unknown(argument, value, get_args(names))


# --- dense networks: ANN and QANN, one evaluation, partial sums in a register ----------------


def _dense_synapses(r: Synapses) -> Counts:
    out, g, linear = r.out_size, r.geometry, r.kind == "linear"
    synapses = out * (g.in_shape[0] // g.groups * g.kernel_size)  # out·Ci/groups·Kh·Kw
    addresses = r.in_size + out + g.out_shape[0] * g.kernel_size
    return Counts(
        mac=synapses,  # Eqs. 1.1, 2.1
        ac=r.bias * out,  # Eqs. 1.2, 2.2
        read_input=r.in_size if linear else synapses,  # Eq. 4: each input once; Eq. 3
        read_weights=synapses,  # Eqs. 6.1, 6.2
        read_bias=r.bias * out,  # Eqs. 6.1, 6.2
        write_output=out,  # Eqs. 11, 12
        address_ac=synapses if linear else addresses,  # Eqs. 17, 16, dense
    )


def _dense_add(r: Sum) -> Counts:
    return Counts(  # ours; addresses as in Eq. 16: one step per element read or written
        ac=r.out_size, read_input=2 * r.out_size, write_output=r.out_size, address_ac=3 * r.out_size
    )


def _dense_pool(r: Pool) -> Counts:
    window = r.geometry.kernel_size * r.out_size
    return Counts(  # ours; a comparison or addition per element of the window
        ac=window, read_input=window, write_output=r.out_size, address_ac=r.in_size + r.out_size
    )


def _zero_skipping(r: Synapses, dense: Counts, fanout: Fanout) -> Counts:
    """Ours: every input is still read (to see that it is zero), its MAC and weight read are not.

    The non-zeros are those of the decoded activation: inputs with at least one event over T.
    "exact" skips the padding too.
    """
    effective = dense.mac * r.active_share
    if fanout == "exact" and r.kind == "conv":
        per_event = r.input.taps / r.input.events if r.input.events else 0.0
        effective = r.active_share * r.in_size * per_event * r.fan
    saved = dense.mac - effective
    return Counts(mac=-saved, read_weights=-saved)


# --- event-driven network ---------------------------------------------------------------------


def _event_synapses(r: Synapses, fanout: Fanout, graded_op: GradedOp) -> Counts:
    """Convolution and linear layer, from events to potentials, and the neuron that follows."""
    if fanout == "exact":
        synops = fetches = r.input.taps * r.fan
        repeated = r.input.amplitude_taps * r.fan
    else:
        synops = r.input.events * r.fan * r.geometry.strided_size
        repeated = r.input.amplitude * r.fan * r.geometry.strided_size
        fetches = r.input.events * r.fan * r.geometry.kernel_size
    analog, binary = r.input.levels == 0, r.input.levels == 1
    multiply = analog or (graded_op == "mac" and not binary)
    additions = 0.0 if multiply else synops if binary else repeated
    bias = r.bias * r.timesteps * r.out_size
    update = r.steps_out * r.out_size  # each potential once per timestep: bias, leak, threshold
    # Ours: under direct coding the stem is computed once, its result held and added T times.
    held = update if r.steps_out != r.timesteps else 0
    return Counts(
        mac=synops if multiply else 0.0,  # ours; analog input: non-zeros only, once
        ac=additions + bias + held + _resets(r),  # Eqs. 1.4, 2.4 (corrected)
        mul=r.leak * update,  # Eqs. 1.3, 2.3
        read_input=r.input.events,  # Eq. 5
        read_weights=fetches,  # Eqs. 7, 8
        read_bias=bias,  # Eqs. 7, 8
        read_potential=fetches + update + held,  # Eqs. 9, 10
        write_potential=fetches + update,  # Eqs. 14, 15
        write_output=r.output.events,  # Eq. 13
        address_mac=2 * r.input.events if r.kind == "conv" else 0.0,  # Eq. 16.2
        address_ac=fetches,  # Eqs. 16.3, 17.2
    )


def _resets(r: LayerRecord) -> float:
    """θout, the soft resets; events of a pooling or of a sum of spikes reset nothing."""
    return r.output.events if r.neuron else 0.0


def _event_add(r: Sum) -> Counts:
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
            write_output=r.output.events,
        )
    own_memory = r.input.levels > 0
    arriving = r.crossing.events + (r.input.events if own_memory else 0.0)
    # In place, the pass over the potentials is already in the convolution's record.
    scan = update if own_memory else 0
    return Counts(
        ac=arriving + _resets(r),
        mul=r.leak * update,
        read_input=arriving,
        read_potential=arriving + scan,
        write_potential=arriving + scan,
        write_output=r.output.events,
    )


def _event_pool(r: Pool, fanout: Fanout) -> Counts:
    """Pooling; all ours.

    Spikes: each event updates the running maximum or sum of every window that it falls into;
    at the end of each timestep the windows are scanned, sent where non-zero, and cleared.
    Potentials: dense, T times.
    """
    update = r.steps_out * r.out_size
    if r.input.levels:
        windows = r.input.taps if fanout == "exact" else r.input.events * r.geometry.strided_size
        return Counts(
            ac=windows + _resets(r),
            mul=r.leak * update,
            read_input=r.input.events,
            read_potential=windows + update,
            write_potential=windows + update,
            write_output=r.output.events,
            address_mac=2 * r.input.events,
            address_ac=windows,
        )
    window = r.timesteps * r.geometry.kernel_size * r.out_size
    integrate = update if r.neuron else 0
    return Counts(
        ac=window + integrate + _resets(r),
        mul=r.leak * update,
        read_input=window,
        read_potential=integrate,
        write_potential=integrate,
        write_output=r.output.events if r.neuron else update,
        address_ac=r.timesteps * (r.in_size + r.out_size),
    )


# --- NeuroBench -------------------------------------------------------------------------------


@dataclass(frozen=True)
class SynapticOperations:
    """Means per inference over all timesteps."""

    effective_acs: float
    effective_macs: float
    dense: float


def synops(records: Sequence[LayerRecord]) -> SynapticOperations:
    """Synaptic operations of all convolutions and linear layers in NeuroBench's convention.

    Yik et al., "NeuroBench" (arXiv 2304.04640), metric `SynapticOperations`: non-zero inputs times
    the weights that they truly meet (padding excluded); biases, residual sums, poolings and neurons
    left out. ACs where all inputs are binary, MACs otherwise: a sum of binary spikes (SEW-ADD) can
    carry a 2. `dense` counts zeros too. One difference: NeuroBench also leaves out weights that are
    zero; records know shapes only. Raises `InputError` for empty records.

    >>> from multispike.layer_record import Geometry, Input
    >>> layer = Synapses("fc", Geometry((4,), (3,)), kind="linear",
    ...                  input=Input(levels=1, events=2, amplitude=2, taps=2, amplitude_taps=2))
    >>> synops([layer])
    SynapticOperations(effective_acs=6.0, effective_macs=0.0, dense=12.0)
    """
    acs = macs = dense = 0.0
    for record in checked(records):
        if isinstance(record, Synapses):
            effective = record.input.taps * record.fan
            binary = record.input.levels == 1
            acs += effective if binary else 0.0
            macs += 0.0 if binary else effective
            dense += record.timesteps * record.geometry.dense_taps * record.fan
    return SynapticOperations(acs, macs, dense)
