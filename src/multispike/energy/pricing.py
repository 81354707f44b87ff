"""Counts -> nJ: which memory each access goes to, how wide, and the report.

Every layer has memories of its own for weights, biases, potentials, inputs and outputs. Events
pass through queues of `fifo_elements`; an event is as wide as its address (⌈log2 of the layer's
neurons⌉ bits) plus its payload (⌈log2(levels + 1)⌉ bits). Everything else is as wide as `bits`.
A quantised ANN keeps activations of ⌈log2(levels·T + 1)⌉ bits, and weights, biases, analog inputs
and logits of `bits`; its MAC is priced in full at `bits`, as that of a graded event is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from multispike.energy.counts import (
    Counts,
    Fanout,
    GradedOp,
    Network,
    Summable,
    check_names,
    counts,
)
from multispike.energy.profiles import BITS, Profile, get_profile
from multispike.energy.synops import synops
from multispike.errors import invalid
from multispike.layer_record import LayerRecord, checked

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
        return sum(getattr(self, field.name) for field in fields(self))

    def to_dict(self) -> dict[str, float]:
        """Total and categories."""
        return {"total": self.total, **asdict(self)}


@dataclass(frozen=True)
class Memory:
    """A memory of `elements`, each `bits` wide."""

    elements: int
    bits: int


@dataclass(frozen=True)
class LayerEnergy:
    """One layer: what was recorded, counted and paid."""

    record: LayerRecord
    counts: Counts
    memories: dict[str, Memory]
    """By name: weights, bias, potentials, inputs, outputs."""
    energy: Energy

    def to_dict(self) -> dict[str, Any]:
        """The layer's entry of a result file, with counts and memory sizes."""
        return {
            **self.record.to_dict(),
            "energy_nj": self.energy.to_dict(),
            "counts": self.counts.to_dict(),
            "memories": {name: asdict(memory) for name, memory in self.memories.items()},
        }


@dataclass(frozen=True, repr=False)
class EnergyReport:
    """Energy of a whole network per inference, and the assumptions it rests on.

    >>> energy([LayerRecord("fc", "linear", (4,), (3,), events_in=4, taps_in=4)], network="ann")
    0.29045895 nJ per inference as ann, lemaire2022 at 32 bit
    layer  kind      nJ      %    ops  memory
    fc     linear  0.29  100.0  13.6%   86.4%
    """

    profile: Profile
    bits: int
    network: Network
    fanout: Fanout
    graded_op: GradedOp
    layers: tuple[LayerEnergy, ...]
    not_counted: tuple[str, ...] = ()

    @property
    def energy(self) -> Energy:
        """Sum over the layers."""
        return sum((layer.energy for layer in self.layers), Energy())

    @property
    def counts(self) -> Counts:
        """Sum over the layers."""
        return sum((layer.counts for layer in self.layers), Counts())

    @property
    def total_nj(self) -> float:
        """nJ per inference."""
        return self.energy.total

    def __repr__(self) -> str:
        """Total, then a row a layer: energy, its share, and of it operations and memory."""
        total = self.total_nj
        title = (
            f"{total:,.8g} nJ per inference as {self.network}, {self.profile.name} at {self.bits}"
            " bit"
        )
        rows = [("layer", "kind", "nJ", "%", "ops", "memory")]
        for layer in self.layers:
            own, parts = layer.energy.total, layer.energy
            computing = (parts.ops + parts.addressing) / own if own else 0.0
            rows.append(
                (
                    layer.record.name,
                    layer.record.kind,
                    f"{own:,.2f}",
                    f"{100 * own / total if total else 0:.1f}",
                    f"{computing:.1%}",
                    f"{1 - computing if own else 0:.1%}",
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if place < 2 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        return "\n".join([title, *lines, *(f"not counted: {line}" for line in self.not_counted)])

    def to_json(self) -> dict[str, Any]:
        """A dict of plain numbers, strings and lists, with all assumptions."""
        return {
            "energy_nj": {
                "profile": self.profile.name,
                "bits": self.bits,
                **self.energy.to_dict(),
            },
            "synops": synops([layer.record for layer in self.layers]).to_dict(),
            "layers": [layer.to_dict() for layer in self.layers],
            "not_counted": list(self.not_counted),
            "assumptions": {
                "profile": self.profile.to_dict(),
                "network": self.network,
                "fanout": self.fanout,
                "graded_op": self.graded_op,
                "operation_pj": {
                    "add": self.profile.add(self.bits),
                    "mul": self.profile.mul(self.bits),
                    "mac": self.profile.mac(self.bits),
                },
                "choices": list(CHOICES),
                "not_modelled": list(NOT_MODELLED),
            },
        }


def energy(
    records: Sequence[LayerRecord],
    profile: str | Profile = "lemaire2022",
    bits: int = 32,
    *,
    fanout: Fanout = "lemaire",
    graded_op: GradedOp = "mac",
    network: Network = "snn",
    not_counted: Sequence[str] = (),
) -> EnergyReport:
    """Energy per inference of the recorded layers.

    `bits` is the width of weights, biases, potentials and operations: 8, 16 or 32. `not_counted`
    names what the records leave out and is passed on. For the rest see `counts`. Raises
    `InputError` for empty records, an unknown name or a width that is not offered.

    >>> layer = LayerRecord("fc", "linear", (4,), (3,), events_in=4, taps_in=4)
    >>> round(energy([layer], network="ann").total_nj, 4)
    0.2905
    """
    prices = checked_profile(profile, bits, fanout, graded_op, network)
    return EnergyReport(
        profile=prices,
        bits=bits,
        network=network,
        fanout=fanout,
        graded_op=graded_op,
        layers=tuple(
            _price(
                record,
                counts(record, network=network, fanout=fanout, graded_op=graded_op),
                prices,
                bits,
                network,
            )
            for record in checked(records)
        ),
        not_counted=tuple(not_counted),
    )


def checked_profile(
    profile: str | Profile,
    bits: int,
    fanout: Fanout = "lemaire",
    graded_op: GradedOp = "mac",
    network: Network = "snn",
    argument: str = "profile",
) -> Profile:
    """The profile; raises `InputError` where `energy` would, before there are records.

    `argument` is what the caller calls it.
    """
    check_names(network, fanout, graded_op)
    if bits not in BITS:
        raise invalid("bits", bits, f"one of {', '.join(map(str, BITS))}")
    return get_profile(profile, argument)


def _price(
    record: LayerRecord, count: Counts, profile: Profile, bits: int, network: Network
) -> LayerEnergy:
    memories = _memories(record, profile, bits, network)
    pj = {name: profile.access(m.elements, m.bits) for name, m in memories.items()}
    add, mac = profile.add(bits), profile.mac(bits)
    return LayerEnergy(
        record,
        count,
        memories,
        Energy(
            ops=1e-3 * (count.mac * mac + count.ac * add + count.mul * profile.mul(bits)),
            addressing=1e-3 * (count.address_mac * mac + count.address_ac * add),
            weights=1e-3 * count.read_weights * pj["weights"],
            potentials=1e-3 * (count.read_potential + count.write_potential) * pj["potentials"],
            bias=1e-3 * count.read_bias * pj["bias"],
            io=1e-3 * (count.read_input * pj["inputs"] + count.write_output * pj["outputs"]),
        ),
    )


def _memories(
    record: LayerRecord, profile: Profile, bits: int, network: Network
) -> dict[str, Memory]:
    """Size and width of a layer's five memories."""
    event_driven = network == "snn"
    biases = record.out_shape[0] if record.bias else 0
    fifo = int(profile.fifo_elements.value)
    reads_events = record.input_kind == "spikes" or record.shortcut == "events"
    sends_events = record.levels_out > 0
    inputs, outputs = Memory(record.in_size, bits), Memory(record.out_size, bits)
    if event_driven and reads_events:
        inputs = Memory(fifo, _event_bits(record.in_size, record.levels_in))
    if event_driven and sends_events:
        outputs = Memory(fifo, _event_bits(record.out_size, record.levels_out))
    if network in ("qann", "qann_skip") and reads_events:
        inputs = Memory(record.in_size, payload_bits(record.levels_in * record.timesteps))
    if network in ("qann", "qann_skip") and sends_events:
        outputs = Memory(record.out_size, payload_bits(record.levels_out * record.steps_out))
    return {
        "weights": Memory(record.weights, bits),
        "bias": Memory(biases, bits),
        "potentials": Memory(record.out_size if event_driven else 0, bits),
        "inputs": inputs,
        "outputs": outputs,
    }


def payload_bits(levels: int) -> int:
    """⌈log2(levels + 1)⌉: bits that hold 0..levels.

    >>> [payload_bits(levels) for levels in (1, 3, 4, 7, 8)]
    [1, 2, 3, 3, 4]
    """
    return levels.bit_length()


def _event_bits(neurons: int, levels: int) -> int:
    """Address and payload of one event."""
    return payload_bits(neurons - 1) + payload_bits(levels)
