"""Levels: the step that spikes are whole multiples of, found by value; how often each occurs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import torch
from torch import Tensor

from multispike.activity.layout import Window
from multispike.ops.counts import Counts, count_levels

MAX_LEVELS = 255
"""More levels than this are taken for analog values."""
COUNTED_LEVELS = 31
"""Up to this many levels are counted one by one, into a histogram."""
_SAMPLES = 1024, 65536  # elements looked at before a tensor is searched for a step
_TOLERANCE = 1e-3  # of a step: float sums of steps, not other values
_WIDEST = 0.2  # of a step: levels of a half-precision type, which are rounded to it


@dataclass(frozen=True)
class Grid:
    """The values that a spike tensor can hold: step * channel[c] * {0..levels}, channel [C] in
    float64; of ternary spikes, which are `signed`, also the same below zero."""

    step: float
    levels: int
    channel: Tensor | None = None
    signed: bool = False

    def unit(self, shape: tuple[int, ...]) -> float | Tensor:
        """One step, broadcastable against a tensor [..., *shape]."""
        if self.channel is None:
            return self.step
        channels = self.channel.numel()
        if len(shape) == 1 and shape[0] % channels == 0:  # [C, H, W] flattened
            return self.step * self.channel.repeat_interleave(shape[0] // channels)
        return self.step * self.channel.view(-1, *[1] * (len(shape) - 1))

    def scaled(self, factor: float | tuple[float, ...], levels: int) -> Grid:
        """The same steps times a positive factor (a number, or one per channel)."""
        if isinstance(factor, tuple):
            return replace(self.times(Grid(1.0, 1, torch.tensor(factor).double())), levels=levels)
        return replace(self, step=self.step * factor, levels=levels)

    def times(self, other: Grid) -> Grid:
        """Products of values of both."""
        channel = self.channel if other.channel is None else other.channel
        if self.channel is not None and other.channel is not None:
            channel = self.channel * other.channel
        signed = self.signed or other.signed
        return Grid(self.step * other.step, self.levels * other.levels, channel, signed)

    def aligned(self, other: Grid) -> bool:
        """Whether sums of values of both are whole steps again."""
        if not math.isclose(self.step, other.step, rel_tol=1e-6):
            return False
        if self.channel is None or other.channel is None:
            return self.channel is other.channel
        return torch.equal(self.channel, other.channel)


def joined_grids(grids: Sequence[Grid | None], channels: Sequence[int]) -> Grid:
    """The grid of tensors whose channels are joined; of silence any will do."""
    known = [grid or Grid(1.0, 1) for grid in grids]
    steps = [
        grid.step * (torch.ones(count).double() if grid.channel is None else grid.channel)
        for grid, count in zip(known, channels, strict=True)
    ]
    levels = max(grid.levels for grid in known)
    return Grid(1.0, levels, torch.cat(steps), any(grid.signed for grid in known))


def find_grid(x: Tensor) -> Grid | None:
    """The step and largest level of x, or None where x is not {0..N} or {-1, 0, 1} times one step.

    x must have a non-zero; of even levels only, the step found is twice the true one.

    >>> find_grid(torch.tensor([0.0, 1.0, 1.5]))
    Grid(step=0.5, levels=3, channel=None, signed=False)
    >>> find_grid(torch.tensor([0.0, 1.0, 1.41])) is None
    True
    """
    flat = x.detach().flatten()
    for size in _SAMPLES:
        if flat[:: max(1, flat.numel() // size)].abs().unique().numel() > MAX_LEVELS + 1:
            return None
    flat, signed = flat.float().abs(), bool((x < 0).any())
    top = flat.max().item()
    least = torch.where(flat > 0, flat, math.inf).min().item()
    for divisor in range(1, 9):  # 2 and 3 steps are seen before 1
        step = least / divisor
        levels = round(top / step)
        if levels > (1 if signed else MAX_LEVELS):
            return None
        if _on_grid(x, step, levels):
            return Grid(top / levels, levels, signed=signed)
    return None


def refined_grid(x: Tensor, known: Grid | None, low: float, top: float) -> Grid | None:
    """The grid of x, from `low` to `top` and not all zero, and of a known one, or None: its step is
    the known one or a whole fraction of it."""
    if known is None:
        return find_grid(x)
    signed = known.signed or low < 0
    levels, ratio = max(known.levels, round(max(top, -low) / known.step)), 1
    if not _on_grid(x, known.step, levels):
        found = find_grid(x)
        ratio = round(known.step / found.step) if found is not None else 0
        if found is None or ratio < 1 or abs(known.step / found.step - ratio) > 1e-3:
            return None
        levels = max(found.levels, known.levels * ratio)
    return None if signed and levels > 1 else Grid(known.step / ratio, levels, signed=signed)


def exact(x: Tensor) -> torch.dtype:
    """What many values are summed in: float64, but on MPS, which has none."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def sum_dtype(x: Tensor) -> torch.dtype | None:
    """What x is summed in: float32 for halves, whose sums leave their range; else its own type."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else None


def _on_grid(x: Tensor, step: float, levels: int) -> bool:
    """Whether all of x are whole multiples of `step`, as far as its type rounds so many levels."""
    within = _TOLERANCE
    if sum_dtype(x) is not None:
        within = min(_WIDEST, max(within, levels * torch.finfo(x.dtype).eps))
    z = (x if sum_dtype(x) is None else x.float()) / step
    return bool((z - z.round()).abs().max() < within)


Histogram = list[float] | None
"""How many elements are at each level; None where that is not counted."""


@dataclass
class Stats:
    """What one tensor [rows, *shape] holds, over rows and channels; float64 on the CPU.

    total: non-zeros.
    events: of each position, [H, W], or one number for a shape (F,).
    amplitude: the same, weighted by level; None for analog values.
    weight: their sum.
    histogram: none for analog values and for many levels.
    top: the largest level.
    decoded: of the levels summed over `timesteps` > 1.
    """

    shape: tuple[int, ...]
    elements: int
    total: float
    events: Tensor
    amplitude: Tensor | None = None
    weight: float = 0.0
    histogram: Histogram = None
    top: int = 0
    timesteps: int = 1
    decoded: Histogram = None


def measure(x: Tensor, shape: tuple[int, ...], grid: Grid | None, timesteps: int = 1) -> Stats:
    """Statistics of x [..., *shape], or [T, ..., *shape]; of analog values where `grid` is None.

    >>> stats = measure(torch.tensor([[0.0, 0.5, 1.0]]), (3,), Grid(0.5, 2))
    >>> stats.events.item(), stats.amplitude.item(), stats.histogram, stats.top
    (2.0, 3.0, [1.0, 1.0, 1.0], 2)
    """
    rows, elements = x.reshape(-1, *shape), x.numel()
    if grid is None:
        counts = _counts(rows, None, 1, 1)
        return Stats(shape, elements, counts.histogram[1], counts.events)
    unit = grid.unit(shape)
    rows = rows.abs() if grid.signed else rows
    if grid.levels > COUNTED_LEVELS:
        z = _levels(rows, unit, grid.levels)
        events, amplitude = _sums(z)
        found = float(events.sum()), events, amplitude, float(amplitude.sum())
        return Stats(shape, elements, *found, top=int(z.max()))
    if grid.levels * timesteps > COUNTED_LEVELS:
        timesteps = 1
    counts = _counts(rows, unit, grid.levels, timesteps)
    at = counts.histogram
    top = max((level for level, n in enumerate(at) if n), default=0)
    weight = sum(level * n for level, n in enumerate(at))
    found = sum(at[1:]), counts.events, counts.amplitude, weight
    return Stats(shape, elements, *found, at, top, timesteps, counts.summed)


def _levels(rows: Tensor, unit: float | Tensor, levels: int) -> Tensor:
    unit = unit.to(rows.device) if isinstance(unit, Tensor) else unit
    return torch.nan_to_num(rows.float() / unit).round_().clamp_(0, levels)


def _counts(rows: Tensor, unit: float | Tensor | None, levels: int, timesteps: int) -> Counts:
    """Counts of rows [R, C, ...] over rows and channels."""
    order, moved = [*range(1, rows.dim())], not rows.is_contiguous()
    if moved:  # channels_last has channels innermost
        order.sort(key=lambda axis: -rows.stride(axis))
    laid_out, scale = rows.permute(0, *order) if moved else rows, unit
    if moved and isinstance(scale, Tensor) and scale.dim() > 1:
        scale = scale.permute([axis - 1 for axis in order])
    counts = count_levels(laid_out, scale, levels, timesteps, 1 + order.index(1))
    if counts is None:  # no compiler, another device or type
        z = (rows != 0).float() if unit is None else _levels(rows, unit, levels)
        events, amplitude = _sums(z)
        return Counts(events, amplitude, _histogram(z, levels), None)
    if not moved:
        return counts
    places = [axis for axis in order if axis != 1]
    back = [places.index(axis) for axis in range(2, rows.dim())]
    events, amplitude = counts.events.permute(back), counts.amplitude.permute(back)
    return counts._replace(events=events, amplitude=amplitude)


def _sums(z: Tensor) -> Tensor:
    """Non-zeros and levels of each place, over rows and channels; whole numbers on any device."""
    sums = torch.stack([part.sum((0, 1), dtype=torch.int64) for part in (z > 0, z)])
    return sums.cpu().double()


def _histogram(z: Tensor, levels: int) -> list[float]:
    return torch.bincount(z.flatten().long(), minlength=levels + 1).double().tolist()


def count_decoded(x: Tensor, shape: tuple[int, ...], grid: Grid) -> list[float]:
    """Histogram of the levels summed over time, 0..N*T, of spikes x [T, ..., *shape]."""
    levels = grid.levels * len(x)
    z = _levels(x.sum(0).reshape(-1, *shape), grid.unit(shape), levels)
    return _histogram(z, levels)


class Tally:
    """The sum of `Stats` over all calls and batches; histograms count levels of `step`.

    counted, weight: non-zeros and, in values, their sum.
    taps, amplitude_taps: the same of the kernel positions that they reach.
    """

    elements = 0
    counted = weight = 0.0
    taps = amplitude_taps = 0.0
    histogram: Histogram = None
    decoded: Histogram = None
    step = top = 0.0  # the latter in values
    active: float | None = 0.0

    def add(self, stats: Stats, step: float = 0.0, window: Window | None = None) -> None:
        """Add one tensor, whose levels are of `step`, read through a window."""
        self.rescale(step)
        self.elements += stats.elements
        self.counted += stats.total
        self.weight += stats.weight * step
        if window is not None:
            self.taps += window.taps(stats.total, stats.events)
            if stats.amplitude is not None:
                self.amplitude_taps += window.taps(stats.weight, stats.amplitude) * step
        self.histogram = sum_of_histograms(self.histogram, stats.histogram)
        self.top = max(self.top, stats.top * step)

    def rescale(self, step: float) -> None:
        """Count in steps of that size from now on: a whole fraction of the step so far."""
        if step and self.step and step != self.step:
            ratio = round(self.step / step)
            self.histogram = spread_histogram(self.histogram, ratio)
            self.decoded = spread_histogram(self.decoded, ratio)
        self.step = step or self.step

    def add_dense(self, elements: int, window: Window) -> None:
        """Add a tensor that is taken as non-zero everywhere, unread."""
        self.elements += elements
        self.counted += elements
        self.taps += window.taps(elements)

    def add_active(self, active: float | None) -> None:
        """Add the inputs that were active at least once; None once makes the sum unknown."""
        self.active = None if self.active is None or active is None else self.active + active


class Magnitudes:
    """Sizes of values that are no levels: per place of a row, in their own unit."""

    elements = nonzero = 0
    total = top = torch.zeros((), dtype=torch.float64)  # then [*shape]

    def add(self, x: Tensor, shape: tuple[int, ...]) -> None:
        rows = x.reshape(-1, *shape).abs()
        self.elements += rows.numel()
        self.nonzero += int(rows.count_nonzero())
        self.total = self.total + rows.sum(0, dtype=exact(x)).cpu().double()
        self.top = torch.maximum(self.top, rows.amax(0).cpu().double())


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
        self._relu += (decoded - mean.clamp(min=0)).to(exact(x)).square().sum().item()
        self._clipped += (decoded - mean.clamp(0, 1)).to(exact(x)).square().sum().item()

    def rms(self) -> tuple[float, float]:
        """In V_th: against max(x, 0) of the mean input x, and against min(max(x, 0), V_th)."""
        return math.sqrt(self._relu / self.neurons), math.sqrt(self._clipped / self.neurons)


def sum_of_histograms(a: Histogram, b: Histogram) -> Histogram:
    if a is None or b is None:
        return b if a is None else a
    return [sum(pair) for pair in zip_longest(a, b, fillvalue=0.0)]


def spread_histogram(histogram: Histogram, ratio: int) -> Histogram:
    if histogram is None:
        return None
    spread = [0.0] * ((len(histogram) - 1) * ratio + 1)
    spread[::ratio] = histogram
    return spread
