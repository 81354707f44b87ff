"""Adding up what tensors held, over calls and batches."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from multispike.activity.statistics import BYTE_LEVELS, Grid, Stats, measure, nonzeros

if TYPE_CHECKING:
    from multispike.activity.graph import Node


class Tally:
    """The sum of `Stats` over all calls and batches."""

    def __init__(self) -> None:
        self.elements = 0
        self.events: Tensor = torch.zeros((), dtype=torch.float64)
        self.amplitude: Tensor = torch.zeros((), dtype=torch.float64)
        self.histogram: Tensor | None = None
        self.top = 0.0  # in steps at the time; a value once multiplied by `step`
        self.active: float | None = 0.0

    def add(self, stats: Stats, step: float = 0.0) -> None:
        """Add one tensor; `step` turns its largest level into a value."""
        self.elements += stats.elements
        self.events = _plus(self.events, stats.events)
        if stats.amplitude is not None:
            self.amplitude = _plus(self.amplitude, stats.amplitude)
        if stats.histogram is not None:
            self.histogram = longer_plus(self.histogram, stats.histogram)
        self.top = max(self.top, stats.top * step)

    def add_dense(self, elements: int, shape: tuple[int, ...]) -> None:
        """Add a tensor [..., *shape] that is taken as non-zero everywhere, unread."""
        self.elements += elements
        places = shape[1:] if len(shape) == 3 else ()
        share = torch.full(places, elements / math.prod(places), dtype=torch.float64)
        self.events = _plus(self.events, share)

    def add_active(self, active: float | None) -> None:
        """Add the inputs that were active at least once; None once makes the sum unknown."""
        self.active = None if self.active is None or active is None else self.active + active


class Magnitudes:
    """Sizes of values that are no levels: per place of a row, in their own unit."""

    def __init__(self) -> None:
        self.elements = 0
        self.nonzero = 0
        self.total = self.top = torch.zeros((), dtype=torch.float64)  # then [*shape]

    def add(self, x: Tensor, shape: tuple[int, ...]) -> None:
        """Add one tensor [..., *shape]."""
        rows = x.reshape(-1, *shape).abs()
        self.elements += rows.numel()
        self.nonzero += int(rows.count_nonzero())
        self.total = self.total + rows.sum(0, dtype=torch.float64).cpu()
        self.top = torch.maximum(self.top, rows.amax(0).double().cpu())

    def in_levels(self, grid: Grid | None, shape: tuple[int, ...]) -> tuple[float, float]:
        """Sum of |v| and largest |v|, in steps of a grid (plain without one)."""
        unit = 1.0 if grid is None else grid.unit(shape)
        return float((self.total / unit).sum()), float((self.top / unit).max())


class Errors:
    """Squared differences between what neurons send, decoded, and the ReLU it stands for."""

    def __init__(self) -> None:
        self.neurons = 0
        self._relu = self._clipped = 0.0

    def add(self, x: Tensor, spikes: Tensor, grid: Grid) -> None:
        """Add inputs and spikes [T, B, ...] of one call."""
        threshold = torch.as_tensor(grid.unit(x.shape[2:])).to(x) * grid.levels
        mean, decoded = x.mean(0) / threshold, spikes.mean(0) / threshold
        self.neurons += mean.numel()
        self._relu += squares(decoded - mean.clamp(min=0))
        self._clipped += squares(decoded - mean.clamp(0, 1))

    @property
    def relu(self) -> float:
        """Root mean square against max(x, 0) of the mean input x, in V_th."""
        return math.sqrt(self._relu / self.neurons)

    @property
    def clipped(self) -> float:
        """The same against min(max(x, 0), V_th)."""
        return math.sqrt(self._clipped / self.neurons)


def squares(x: Tensor) -> float:
    """Sum of squares, in double precision."""
    return x.double().square().sum().item()


def _plus(a: Tensor, b: Tensor) -> Tensor:
    """a + b where both have a shape, else the sum of both totals (a layer of several shapes)."""
    return a + b if a.shape == b.shape or (not a.dim() and not float(a)) else a.sum() + b.sum()


def longer_plus(a: Tensor | None, b: Tensor) -> Tensor:
    """Sum of two histograms of perhaps different length."""
    if a is None:
        return b.clone()
    if len(a) == len(b):
        return a + b
    if len(a) < len(b):
        a, b = b, a
    return torch.cat([a[: len(b)] + b, a[len(b) :]])


@dataclass
class Signal:
    """The content of one tensor, and of its views, during one batch."""

    node: Node
    stats: list[Stats] = field(default_factory=list)
    active: float | None = None
    inverted: Signal | None = None
    """The spikes a that this is V_th - a of."""
    origin: Signal | None = None
    """The spikes that this is a constant multiple of."""
    sent: bool = False
    """Whether it was counted as what a neuron written out in the forward sends."""

    def measured(self, x: Tensor, shape: tuple[int, ...], timesteps: int) -> Stats:
        """Statistics of x [..., *shape] at so many timesteps, from memory if there are any."""
        for stats in self.stats:
            if stats.shape == shape or len(shape) == 1:
                return stats
        first = x.shape[0] % timesteps == 0
        stats = measure(x, shape, self.node.grid, timesteps if first else 1)
        self.stats.append(stats)
        return stats

    def decoded(self, x: Tensor, shape: tuple[int, ...], timesteps: int) -> Tensor | None:
        """Histogram of the levels, 0..N*T, of spikes x summed over T > 1 timesteps."""
        counted = self._counted(timesteps)
        if counted is not None or self.node.grid is None:
            return counted
        return decoded_levels(x, shape, timesteps, self.node.grid)

    def _counted(self, timesteps: int) -> Tensor | None:
        """`decoded`, where it was counted with the statistics."""
        counted = (stats.decoded for stats in self.stats if stats.timesteps == timesteps)
        return next(counted, None)

    def ever_active(self, x: Tensor, timesteps: int) -> float | None:
        """Elements of x [T*B, ...] or [T, B, ...] that are not zero at every timestep."""
        if self.active is None:
            decoded = self._counted(timesteps)
            if timesteps == 1:
                self.active = float(sum(stats.events.sum() for stats in self.stats[:1]))
            elif decoded is not None:
                self.active = float(decoded[1:].sum())
            else:
                over_time = steps_first(x, timesteps)
                if over_time is None:
                    return None
                used = nonzeros(over_time.amax(0))
                self.active = used.sum(0).double().sum().item()
        return self.active


def steps_first(x: Tensor, timesteps: int) -> Tensor | None:
    """x [T, B, ...] or, with merged axes, [T*B, ...] as [T, ...]; None for other layouts."""
    if x.shape[0] == timesteps:
        return x
    return x.unflatten(0, (timesteps, -1)) if x.shape[0] % timesteps == 0 else None


def decoded_levels(x: Tensor, shape: tuple[int, ...], timesteps: int, grid: Grid) -> Tensor | None:
    """Histogram of the levels summed over time, 0..N*T, of spikes x."""
    over_time = steps_first(x, timesteps)
    if over_time is None:
        return None
    total, whole = over_time.sum(0), grid.scaled(1.0, grid.levels * timesteps)
    if whole.levels <= BYTE_LEVELS:
        return measure(total, shape, whole).histogram
    z = (total.reshape(-1, *shape) / torch.as_tensor(whole.unit(shape)).to(total)).round()
    return torch.bincount(z.long().flatten(), minlength=whole.levels + 1).double().cpu()
