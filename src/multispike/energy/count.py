"""Operations and memory accesses of one layer per inference: the table of formulas.

Equation numbers are those of Lemaire et al., "An Analytical Estimation of Spiking Neural Networks
Energy Efficiency" (ICONIP 2022, arXiv 2210.13107). "ours" marks what the article does not cover
(residual sums, pooling, graded events, held input, zero skipping). Symbols:

    θin, θout   events read and sent over all T timesteps (non-zeros; one graded event is one)
    fan         synapses per kernel position reached, Co/groups; where more than half of the weights
                are zero, times the share of the others
    Ho, Wo ...  shapes; `out` is Co·Ho·Wo
    synops      synaptic operations: θin·fan·⌈Kh/Sh⌉·⌈Kw/Sw⌉
    fetches     weights and potentials fetched for them: θin·fan·Kh·Kw
                with fanout="exact" both are fan times the kernel positions that events reached

Slips in the literature are not repeated here (docs/energy.md has them). The article counts ⌈K/S⌉²
additions per event but fetches K² weights and potentials (Eqs. 7 and 9): kept for fanout="lemaire",
and the reason why for strides above 1 the two fan-outs differ most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import add
from typing import Literal, Self, TypedDict, get_args

from multispike.errors import unknown
from multispike.layer_record import LayerRecord, Neuron, Pool, Stream, Sum, Synapses, checked

Execution = Literal["snn", "ann", "ann_stepwise", "qann", "qann_skip"]
Fanout = Literal["lemaire", "exact"]
GradedOp = Literal["mac", "repeat", "unroll", "bits"]
"""How an event of level z, at most N, is executed: by one multiply-accumulate a weight; by z
additions of a weight that is fetched once; as z binary events, one after the other; by ⌈log2(N+1)⌉
shifted additions of a weight that is fetched once."""


class Choices(TypedDict, total=False):
    """What the article leaves open; see `count_layer`."""

    fanout: Fanout
    graded_op: GradedOp


class Summable:
    """Adds field by field."""

    def __add__(self, other: Self) -> Self:
        return type(self)(*map(add, vars(self).values(), vars(other).values()))


@dataclass(frozen=True)
class Counts(Summable):
    """Means per inference. Reads and writes are accesses of one element each."""

    mac: float = 0.0
    """Multiply-accumulates."""
    ac: float = 0.0
    """Additions, and comparisons of a max-pooling."""
    mul: float = 0.0
    """Multiplications (leaks and other decays)."""
    read_input: float = 0.0
    read_weights: float = 0.0
    read_bias: float = 0.0
    read_potential: float = 0.0
    write_potential: float = 0.0
    write_output: float = 0.0
    address_mac: float = 0.0
    address_ac: float = 0.0

    def __mul__(self, factor: float) -> Counts:
        return Counts(*(count * factor for count in vars(self).values()))


def count_layer(
    record: LayerRecord,
    *,
    network: Execution = "snn",
    fanout: Fanout = "lemaire",
    graded_op: GradedOp = "mac",
    stem_each_timestep: bool = False,
) -> Counts:
    """Counts of one layer.

    `network`: "snn" as recorded; "ann" the same layer dense and evaluated once; "ann_stepwise"
    dense and evaluated as often as recorded (an ANN that reads T event frames one by one); "qann"
    dense, once and with few-bit activations (only the widths differ); "qann_skip" that, without
    the operations and weight reads of zero inputs. `fanout`: "lemaire" ⌈K/S⌉ per axis, borders
    ignored; "exact" what events truly reached. `graded_op`: see `GradedOp`. With
    `stem_each_timestep` the potentials of a stem under direct coding are accessed at each of the T
    timesteps.

    >>> from multispike.layer_record import Geometry, Input
    >>> layer = Synapses("fc", Geometry((4,), (3,)), kind="linear", bias=True,
    ...                  input=Input(levels=1, events=2, amplitude=2, taps=2, amplitude_taps=2))
    >>> count_layer(layer).ac, count_layer(layer, network="ann").mac
    (9.0, 12)
    """
    check_names(network, fanout, graded_op)
    if network != "snn":
        counts = _dense(record)
        if network == "qann_skip" and isinstance(record, Synapses):
            counts += _zero_skipping(record, counts, fanout)
        return counts * record.timesteps if network == "ann_stepwise" else counts
    match record:
        case Sum():
            counts = _event_add(record, graded_op)
        case Pool():
            counts = _event_pool(record, fanout, graded_op)
        case Synapses():
            counts = _event_synapses(record, fanout, graded_op, stem_each_timestep)
    return counts + _event_neuron(record, graded_op)


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


def _dense(r: LayerRecord) -> Counts:
    out = r.out_size
    match r:
        case Sum():  # ours; addresses as in Eq. 16: one step per element read or written
            return Counts(ac=out, read_input=2 * out, write_output=out, address_ac=3 * out)
        case Pool():  # ours; a comparison or addition per element of the window
            window = r.geometry.kernel_size * out
            addresses = r.in_size + out
            return Counts(ac=window, read_input=window, write_output=out, address_ac=addresses)
    linear, synapses = r.kind != "conv", r.synapses  # out·Ci/groups·Kh·Kw
    addresses = r.in_size + out + r.channels[1] * r.geometry.kernel_size
    return Counts(
        mac=0 if r.table else synapses,  # Eqs. 1.1, 2.1
        ac=r.bias * out + (synapses - out if r.table else 0),  # Eqs. 1.2, 2.2; rows of a bag: ours
        read_input=r.in_size if linear else synapses,  # Eq. 4: each input once; Eq. 3
        read_weights=synapses,  # Eqs. 6.1, 6.2
        read_bias=r.bias * out,  # Eqs. 6.1, 6.2
        write_output=out,  # Eqs. 11, 12
        address_ac=synapses if linear else addresses,  # Eqs. 17, 16, dense
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


def payload_bits(levels: int) -> int:
    """⌈log2(levels + 1)⌉: bits that hold 0..levels.

    >>> [payload_bits(levels) for levels in (1, 3, 4, 7, 8)]
    [1, 2, 3, 3, 4]
    """
    return levels.bit_length()


def _events(stream: Stream, graded_op: GradedOp) -> float:
    """Events on a stream: "unroll" makes one of each unit of z."""
    return stream.amplitude if graded_op == "unroll" and stream.levels else stream.events


def _event_synapses(
    r: Synapses, fanout: Fanout, graded_op: GradedOp, stem_each_timestep: bool
) -> Counts:
    """Convolution and linear layer, from events to potentials."""
    events = _events(r.input, graded_op)
    if fanout == "exact":
        synops, units = r.input.taps * r.fan, r.input.amplitude_taps * r.fan
        fetches = units if graded_op == "unroll" and r.input.levels else synops
    else:
        reached = r.fan * r.geometry.strided_size
        synops, units = r.input.events * reached, r.input.amplitude * reached
        fetches = events * r.fan * r.geometry.kernel_size
    mac, additions = 0.0, units  # "repeat" and "unroll"
    if r.input.levels == 1 or r.table:  # ours: rows of a table are added to potentials
        additions = synops
    elif r.input.levels == 0 or graded_op == "mac":
        mac, additions = synops, 0.0  # ours; analog input: non-zeros only, once
    elif graded_op == "bits":
        additions = synops * payload_bits(r.input.levels)
    bias = r.bias * r.timesteps * r.out_size
    update = r.steps_out * r.out_size  # each potential once per timestep: bias, leak, threshold
    # Ours: under direct coding the stem is computed once, its result held and added T times.
    held, accessed = update if r.steps_out != r.timesteps else 0, fetches
    if held and stem_each_timestep:
        held, accessed = 0, fetches * r.steps_out
    return Counts(
        mac=mac,
        ac=additions + bias + held,  # Eqs. 1.4, 2.4 (corrected), without the resets
        read_input=events,  # Eq. 5
        read_weights=fetches,  # Eqs. 7, 8
        read_bias=bias,  # Eqs. 7, 8
        read_potential=accessed + update + held,  # Eqs. 9, 10
        write_potential=accessed + update,  # Eqs. 14, 15
        address_mac=2 * events if r.kind == "conv" else 0.0,  # Eq. 16.2
        address_ac=fetches,  # Eqs. 16.3, 17.2
    )


def _event_neuron(r: LayerRecord, graded_op: GradedOp) -> Counts:
    """The neuron behind any of them; events of a pooling or of a sum of spikes reset nothing. What
    it keeps beside one potential, and parameters of its own, are ours."""
    sent, update = _events(r.output, graded_op), r.steps_out * r.out_size
    neuron = r.neuron or Neuron(r.steps_out)
    further, fed = (neuron.states - 1) * update, neuron.feedback * sent
    return Counts(
        ac=(sent if r.neuron else 0.0) + further + fed,  # Eqs. 1.4, 2.4: θout soft resets
        mul=neuron.leak * update + further,  # Eqs. 1.3, 2.3
        read_bias=float(len(neuron.parameters) * update),
        read_potential=further + fed,
        write_potential=further + fed,
        write_output=sent,  # Eq. 13
    )


def _event_add(r: Sum, graded_op: GradedOp) -> Counts:
    """Residual sum; all ours. Addresses are free: an event's source and target coincide."""
    update = r.steps_out * r.out_size
    if r.shortcut == "dense":
        # MS-ResNet adds two full-precision streams; the sum lives on beside the neuron's V.
        integrate = update if r.neuron else 0
        return Counts(
            ac=update + integrate,
            read_potential=2 * update + integrate,
            write_potential=update + integrate,
        )
    own_memory = r.input.levels > 0
    arriving = _events(r.crossing, graded_op)
    arriving += _events(r.input, graded_op) if own_memory else 0.0
    # In place, the pass over the potentials is already in the convolution's record.
    scan = update if own_memory else 0
    return Counts(
        ac=arriving,
        read_input=arriving,
        read_potential=arriving + scan,
        write_potential=arriving + scan,
    )


def _event_pool(r: Pool, fanout: Fanout, graded_op: GradedOp) -> Counts:
    """Pooling; all ours.

    Spikes: each event updates the running maximum or sum of every window that it falls into;
    at the end of each timestep the windows are scanned, sent where non-zero, and cleared.
    Potentials: dense, T times.
    """
    update = r.steps_out * r.out_size
    if r.input.levels:
        events = _events(r.input, graded_op)
        reached = r.geometry.strided_size
        if fanout == "exact":
            reached = r.input.taps / r.input.events if r.input.events else 0.0
        windows = events * reached
        return Counts(
            ac=windows,
            read_input=events,
            read_potential=windows + update,
            write_potential=windows + update,
            address_mac=2 * events,
            address_ac=windows,
        )
    window = r.timesteps * r.geometry.kernel_size * r.out_size
    integrate = update if r.neuron else 0
    return Counts(
        ac=window + integrate,
        read_input=window,
        read_potential=integrate,
        write_potential=integrate,
        write_output=0 if r.neuron else update,
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
    carry a 2. `dense` counts zeros too. One difference: NeuroBench leaves out every weight that is
    zero, we those of layers where they are more than half. Embeddings have none. Raises
    `InputError` for empty records.

    >>> from multispike.layer_record import Geometry, Input
    >>> layer = Synapses("fc", Geometry((4,), (3,)), kind="linear",
    ...                  input=Input(levels=1, events=2, amplitude=2, taps=2, amplitude_taps=2))
    >>> synops([layer])
    SynapticOperations(effective_acs=6.0, effective_macs=0.0, dense=12.0)
    """
    acs = macs = dense = 0.0
    for record in checked(records):
        if isinstance(record, Synapses) and not record.table:
            effective = record.input.taps * record.fan
            binary = record.input.levels == 1
            acs += effective if binary else 0.0
            macs += 0.0 if binary else effective
            fan = record.channels[1] // record.geometry.groups
            dense += record.timesteps * record.geometry.dense_taps * fan
    return SynapticOperations(acs, macs, dense)
