"""Synaptic operations in NeuroBench's convention, for comparison with other work.

Yik et al., "NeuroBench" (arXiv 2304.04640), metric `SynapticOperations`: per connection layer,
the non-zero inputs times the weights that they truly meet (padding excluded), biases, residual
sums, poolings and neurons left out. A layer's operations are ACs where all inputs are binary,
MACs otherwise. `dense` counts zeros too. One difference: NeuroBench also leaves out weights that
are exactly zero; records know shapes only, so a pruned network counts as a full one here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from multispike.layer_record import LayerRecord, checked


@dataclass(frozen=True)
class SynapticOperations:
    """Means per inference over all timesteps."""

    effective_acs: float
    effective_macs: float
    dense: float

    def to_dict(self) -> dict[str, float]:
        """The entry of a result file."""
        return asdict(self)


def synops(records: Sequence[LayerRecord]) -> SynapticOperations:
    """Synaptic operations of all convolutions and linear layers.

    Binary is an input of spikes with one level: a sum of binary spikes (SEW-ADD) counts as MACs,
    since it can carry a 2. Raises `InputError` for empty records.

    >>> layer = LayerRecord("fc", "linear", (4,), (3,), input_kind="spikes", levels_in=1,
    ...                     events_in=2, amplitude_in=2, taps_in=2, amplitude_taps_in=2)
    >>> synops([layer])
    SynapticOperations(effective_acs=6.0, effective_macs=0.0, dense=12.0)
    """
    acs = macs = dense = 0.0
    for record in checked(records):
        if record.kind not in ("conv", "linear"):
            continue
        effective = record.taps_in * record.fan
        if record.input_kind == "spikes" and record.levels_in == 1:
            acs += effective
        else:
            macs += effective
        dense += record.timesteps * record.dense_taps * record.fan
    return SynapticOperations(acs, macs, dense)
