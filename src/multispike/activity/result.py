"""What a pass found out, as plain numbers: records for the energy model, tables for people."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from multispike.layer_record import LayerRecord

Path = Literal["direct", "shortcut", "sum"]


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """What one layer sends, or one way of a residual sum carries.

    Counts are means per inference over all timesteps.
    """

    name: str
    path: Path
    """"shortcut": neurons that only feed the shortcut of a sum; "sum": a sum of spikes."""
    shape: tuple[int, ...]
    timesteps: int
    events: float
    """Elements that are not zero."""
    amplitude: float
    """Sum of their levels; 0 for a ReLU."""

    @property
    def neurons(self) -> int:
        """Outputs at one timestep."""
        return math.prod(self.shape)

    @property
    def density(self) -> float:
        """Events per neuron and timestep."""
        return self.events / (self.neurons * self.timesteps)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {**plain, "neurons": self.neurons, "density": self.density}


@dataclass(frozen=True, kw_only=True)
class SpikeLayer(Crossing):
    """Spikes: of one layer of neurons, or at one residual sum."""

    levels: int
    """Largest level by construction (for neurons of other libraries: seen); 0 for a ReLU."""
    max_level: int
    histogram: tuple[float, ...] = ()
    """Outputs at each level 0..levels, over neurons and timesteps; empty for a ReLU."""
    decoded: tuple[float, ...] = ()
    """Neurons at each level summed over time, 0..levels·timesteps; empty if not known."""
    error_relu: float | None = None
    """Root mean square of the decoded output minus the ReLU of the mean input, in V_th; None
    where it was not asked for, or the neuron is not ours."""
    error_clipped: float | None = None
    """The same against the ReLU clipped at V_th: the error of the code alone."""

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> SpikeLayer:
        """What `to_dict` gave."""
        known = {field.name for field in fields(cls)}
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in row.items()
            if key in known
        }
        return cls(**plain)


@dataclass(frozen=True, kw_only=True)
class Potentials(Crossing):
    """Values that are no spikes; their levels are |v| in levels of the neuron behind the sum (as
    they are where none is)."""

    largest: float
    """Largest |v|, in the same unit."""


@dataclass(frozen=True)
class ResidualSum:
    """Both ways into a residual sum and what comes out; None for potentials, unless asked for."""

    name: str
    direct: SpikeLayer | Potentials | None
    shortcut: SpikeLayer | Potentials | None
    total: SpikeLayer | Potentials | None
    """Before a barrier brings it back to {0..N}."""
    neuron: str | None
    """Name of the neurons that follow directly, whose row is among `Activity.neurons`."""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        parts = {part: getattr(self, part) for part in ("direct", "shortcut", "total")}
        rows = {name: row and row.to_dict() for name, row in parts.items()}
        return {"name": self.name, **rows, "neuron": self.neuron}


@dataclass(frozen=True)
class Activity:
    """One evaluation pass; counts are means per inference."""

    records: tuple[LayerRecord, ...]
    """In order of execution."""
    neurons: tuple[SpikeLayer, ...]
    """All that is sent: neuron layers (or ReLUs), and sums of spikes that no neuron follows."""
    sums: tuple[ResidualSum, ...]
    """All residual sums, in order."""
    samples: int
    accuracy: float | None
    """None where targets are not class indices."""
    loss: float | None
    """Mean cross-entropy; None likewise."""
    not_counted: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...] | None = None
    """[target][prediction], on request."""

    @property
    def events(self) -> float:
        """Events sent per inference."""
        return sum(layer.events for layer in self.neurons)

    @property
    def amplitude(self) -> float:
        """Sum of their levels."""
        return sum(layer.amplitude for layer in self.neurons)

    @property
    def density(self) -> float:
        """Events per neuron and timestep, over all that is sent."""
        places = sum(layer.neurons * layer.timesteps for layer in self.neurons)
        return self.events / places if places else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists."""
        return {
            "samples": self.samples,
            "accuracy": self.accuracy,
            "loss": self.loss,
            "events_per_inference": self.events,
            "amplitude_per_inference": self.amplitude,
            "density": self.density,
            "neurons": [layer.to_dict() for layer in self.neurons],
            "sums": [total.to_dict() for total in self.sums],
            "layers": [record.to_dict() for record in self.records],
            "not_counted": list(self.not_counted),
            "confusion": self.confusion and [list(row) for row in self.confusion],
        }
