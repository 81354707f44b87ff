"""Counts -> nJ: which memory each access goes to, how wide, and the report.

Every layer has memories of its own for weights, biases, potentials, inputs and outputs. Events
pass through queues of `fifo_elements`; an event is as wide as its address (⌈log2 of the layer's
neurons⌉ bits) plus its payload (⌈log2(levels + 1)⌉ bits). Everything else is as wide as `bits`.
A quantised ANN keeps activations of ⌈log2(levels·T + 1)⌉ bits, and weights, biases, analog inputs
and logits of `bits`; its MAC is priced in full at `bits`, as that of a graded event is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from multispike.energy.count import (
    Counts,
    Execution,
    Fanout,
    GradedOp,
    Summable,
    SynapticOperations,
    check_names,
    count_layer,
    payload_bits,
    synops,
)
from multispike.energy.profiles import BITS, Profile, get_profile
from multispike.errors import invalid
from multispike.files import known_fields, plain_fields
from multispike.layer_record import Kind, LayerRecord, Synapses, checked

CHOICES = (
    "batch normalisation is folded into weights and biases before counting",
    "a stem under direct coding is computed once; its held result is added at every timestep",
    "a graded event is one event; its address and payload set the width of its queue entry",
    "event frames are read as graded events: one for each pixel, polarity and timestep that has a"
    " count, which is its payload",
    "an ANN given T event frames is evaluated T times, densely; its quantised twins, and the ANN"
    " twin of an SNN, once",
    "operations and addresses are priced at the profile's bits, whatever the payload",
    "weights, biases, potentials and operations are of one width; exported programs have weights of"
    " 8 bits and potentials of 32, and lie between the prices at 8 and at 32",
    "residual sums and poolings are priced; a shortcut convolution adds in place",
    "a max-pooling of spikes compares per event and scans its windows once per timestep",
)
NOT_MODELLED = (
    "leakage, clock and control",
    "DRAM, caches and reuse of fetched weights or potentials in registers",
    "routing of events between cores, and queues that overflow",
    "encoding of the input image, counting of camera events into frames",
    "mean of the logits over timesteps, argmax",
)


@dataclass(frozen=True)
class Energy(Summable):
    """nJ per inference by category."""

    ops: float = 0.0
    addressing: float = 0.0
    weights: float = 0.0
    potentials: float = 0.0
    bias: float = 0.0
    io: float = 0.0
    """Inputs read and outputs written."""

    @property
    def total(self) -> float:
        """Sum of the categories, nJ."""
        return self.ops + self.addressing + self.weights + self.potentials + self.bias + self.io

    def to_dict(self) -> dict[str, Any]:
        return {"total": self.total, **plain_fields(self)}


@dataclass(frozen=True, kw_only=True)
class NetworkEnergy(Energy):
    """The same of all layers, and what it was priced with."""

    profile: str
    bits: int

    def to_dict(self) -> dict[str, Any]:
        return {"profile": self.profile, "bits": self.bits, **super().to_dict()}


@dataclass(frozen=True)
class Memory:
    """A memory of `elements`, each `bits` wide."""

    elements: int
    bits: int


@dataclass(frozen=True, kw_only=True)
class LayerEnergy:
    """One layer of a report or result file: what was recorded, counted and paid."""

    name: str
    kind: Kind
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    events_in: float
    events_out: float
    max_level: int
    energy_nj: Energy
    counts: Counts = field(default_factory=Counts)
    memories: dict[str, Memory] = field(default_factory=dict)
    """By name: weights, bias (and what each neuron has of its own), potentials, inputs, outputs."""
    record: LayerRecord | None = None
    """All that it takes to price the layer again; None where an older version wrote the file."""

    def to_dict(self) -> dict[str, Any]:
        """Its entry in a result file."""
        return known_fields(self)


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What an energy rests on."""

    profile: Profile
    network: Execution
    fanout: Fanout
    graded_op: GradedOp
    operation_pj: dict[str, float]
    """pJ of an addition ("add"), multiplication ("mul") and multiply-accumulate ("mac")."""
    choices: tuple[str, ...] = CHOICES
    not_modelled: tuple[str, ...] = NOT_MODELLED


@dataclass(frozen=True, kw_only=True, repr=False)
class EnergyReport:
    """Energy of a whole network per inference, and the assumptions it rests on.

    >>> from multispike.layer_record import Geometry, Input
    >>> layer = Synapses("fc", Geometry((4,), (3,)), kind="linear", input=Input(events=4, taps=4))
    >>> price_layers([layer], network="ann")
    0.29045895 nJ per inference as ann, lemaire2022 at 32 bit
    layer  kind              nJ     %    ops  memory
    fc     linear          0.29   100   14%     86%
    """

    energy_nj: NetworkEnergy
    synops: SynapticOperations
    layers: tuple[LayerEnergy, ...]
    not_counted: tuple[str, ...] = ()
    assumptions: Assumptions | None = None

    @property
    def total_nj(self) -> float:
        """nJ per inference."""
        return self.energy_nj.total

    @property
    def counts(self) -> Counts:
        """Sum over the layers."""
        return sum((layer.counts for layer in self.layers), Counts())

    @property
    def network(self) -> Execution | None:
        """How the layers were run; None where an older version did not say."""
        return self.assumptions and self.assumptions.network

    def __repr__(self) -> str:
        """Total, then a row a layer: energy, its share, and of it operations and memory."""
        total = self.energy_nj
        priced = f"{total.profile} at {total.bits} bit"
        lines = [f"{total.total:,.8g} nJ per inference as {self.network}, {priced}"]
        wide = max(len(name) for name in ("layer", *(layer.name for layer in self.layers)))
        lines.append(f"{'layer':{wide}}  kind    {'nJ':>12}     %    ops  memory")
        for layer in self.layers:
            own = layer.energy_nj
            share = own.total / total.total if total.total else 0.0
            computing = (own.ops + own.addressing) / own.total if own.total else 0.0
            lines.append(
                f"{layer.name:{wide}}  {layer.kind:6}  {own.total:12,.2f}  {100 * share:4.0f}"
                f"  {computing:4.0%}  {1 - computing if own.total else 0:6.0%}"
            )
        return "\n".join([*lines, *(f"not counted: {line}" for line in self.not_counted)])

    def to_json(self) -> dict[str, Any]:
        """A dict of plain numbers, strings and lists, with all assumptions; what is None is left
        out."""
        return known_fields(self)


def price_layers(
    records: Sequence[LayerRecord],
    profile: str | Profile = "lemaire2022",
    bits: int = 32,
    *,
    fanout: Fanout = "lemaire",
    graded_op: GradedOp = "mac",
    network: Execution = "snn",
    not_counted: Sequence[str] = (),
) -> EnergyReport:
    """Energy per inference of the recorded layers.

    `bits` is the width of weights, biases, potentials and operations: 8, 16 or 32. `not_counted`
    names what the records leave out and is passed on. For the rest see `count_layer`. Raises
    `InputError` for empty records, an unknown name or a width that is not offered.

    >>> from multispike.layer_record import Geometry, Input
    >>> layer = Synapses("fc", Geometry((4,), (3,)), kind="linear", input=Input(events=4, taps=4))
    >>> round(price_layers([layer], network="ann").total_nj, 4)
    0.2905
    """
    prices = checked_profile(profile, bits, fanout, graded_op, network)
    operations = {name: getattr(prices, name)(bits) for name in ("add", "mul", "mac")}
    layers = []
    for record in checked(records):
        counts = count_layer(
            record,
            network=network,
            fanout=fanout,
            graded_op=graded_op,
            stem_each_timestep=prices.value("stem_each_timestep") > 0,
        )
        memories = _memories(record, prices, bits, network, graded_op)
        layers.append(
            LayerEnergy(
                **record.entry(),
                energy_nj=_energy(counts, memories, prices, **operations),
                counts=counts,
                memories=memories,
                record=record,
            )
        )
    total = sum((layer.energy_nj for layer in layers), Energy())
    return EnergyReport(
        energy_nj=NetworkEnergy(profile=prices.name, bits=bits, **vars(total)),
        synops=synops(records),
        layers=tuple(layers),
        not_counted=tuple(not_counted),
        assumptions=Assumptions(
            profile=prices,
            network=network,
            fanout=fanout,
            graded_op=graded_op,
            operation_pj=operations,
        ),
    )


def checked_profile(
    profile: str | Profile,
    bits: int,
    fanout: Fanout = "lemaire",
    graded_op: GradedOp = "mac",
    network: Execution = "snn",
    argument: str = "profile",
) -> Profile:
    """The profile, by the caller's `argument`; raises `InputError` where `price_layers` would,
    before there are records."""
    check_names(network, fanout, graded_op)
    if bits not in BITS:
        raise invalid("bits", bits, f"one of {', '.join(map(str, BITS))}")
    return get_profile(profile, argument)


def _energy(
    counts: Counts, memories: dict[str, Memory], prices: Profile, add: float, mul: float, mac: float
) -> Energy:
    pj = {name: prices.access(m.elements, m.bits) for name, m in memories.items()}
    return Energy(
        ops=1e-3 * (counts.mac * mac + counts.ac * add + counts.mul * mul),
        addressing=1e-3 * (counts.address_mac * mac + counts.address_ac * add),
        weights=1e-3 * counts.read_weights * pj["weights"],
        potentials=1e-3 * (counts.read_potential + counts.write_potential) * pj["potentials"],
        bias=1e-3 * counts.read_bias * pj["bias"],
        io=1e-3 * (counts.read_input * pj["inputs"] + counts.write_output * pj["outputs"]),
    )


def _memories(
    record: LayerRecord, profile: Profile, bits: int, network: Execution, graded_op: GradedOp
) -> dict[str, Memory]:
    """Size and width of a layer's five memories."""
    event_driven = network == "snn"
    weights, biases = 0, 0
    if isinstance(record, Synapses):
        weights, biases = record.weights, record.bias * record.channels[1]
    biases += sum(record.neuron.parameters) if record.neuron else 0
    fifo = int(profile.value("fifo_elements"))

    def values(size: int, levels: int, timesteps: int) -> Memory:
        if not levels or network in ("ann", "ann_stepwise"):
            return Memory(size, bits)
        if event_driven:  # address and payload of one event
            payload = payload_bits(1 if graded_op == "unroll" else levels)
            word = profile.value("event_is_word") > 0
            return Memory(fifo, bits if word else payload_bits(size - 1) + payload)
        return Memory(size, payload_bits(levels * timesteps))

    return {
        "weights": Memory(weights, bits),
        "bias": Memory(biases, bits),
        "potentials": Memory(record.out_size if event_driven else 0, bits),
        "inputs": values(record.in_size, record.levels_in, record.timesteps),
        "outputs": values(record.out_size, record.output.levels, record.steps_out),
    }
