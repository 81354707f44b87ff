"""How often each level occurs in a spike tensor, counted exactly and in few passes over memory.

A kernel reads the floats once. Where it can't run, `count_nonzero`, `unique` and `bincount` would
take many times a plain sum; so the levels are written once as bytes, of which minima and sums are
cheap, eight to a machine word. The sums of min(z, k) for k = 1..N are the events (k = 1) and the
amplitude (k = N); their differences are the histogram.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from multispike.ops import Counts, count_levels

BYTE_LEVELS = 31
"""Up to this many levels are counted as bytes: sums of at least 8 rows fit into one."""
MAX_LEVELS = 255
"""More levels than this are taken for analog values."""
_SAMPLE = 65536  # elements looked at before a tensor is searched for a step
_CHUNK = 2**19  # elements whose floats stay in the cache between two operations
_TOLERANCE = 1e-3  # of a step: float sums of steps, not other values
_WIDEST = 0.2  # of a step: levels of a half-precision type, which are rounded to it


@dataclass(frozen=True)
class Grid:
    """The values that a spike tensor can hold: step * channel[c] * {0..levels}.

    `channel`, float64 [C], is there where thresholds differ from channel to channel.
    """

    step: float
    levels: int
    channel: Tensor | None = None

    def unit(self, shape: tuple[int, ...]) -> float | Tensor:
        """One step, broadcastable against a tensor [..., *shape]."""
        if self.channel is None:
            return self.step
        channels = self.channel.numel()
        if len(shape) == 1 and shape[0] % channels == 0:  # [C, H, W] flattened
            return self.step * self.channel.repeat_interleave(shape[0] // channels)
        return self.step * self.channel.view(-1, *[1] * (len(shape) - 1))

    def scaled(self, factor: float | Tensor, levels: int) -> Grid:
        """The same steps times a positive factor (a number, or one per channel)."""
        if isinstance(factor, Tensor):
            channel = factor.double().cpu().flatten()
            return replace(self, levels=levels, channel=channel * _channels(self, channel))
        return replace(self, step=self.step * factor, levels=levels)

    def times(self, other: Grid) -> Grid:
        """Products of values of both."""
        channel = None
        if self.channel is not None or other.channel is not None:
            channel = _channels(self, other.channel) * _channels(other, self.channel)
        return Grid(self.step * other.step, self.levels * other.levels, channel)

    def aligned(self, other: Grid) -> bool:
        """Whether sums of values of both are whole steps again."""
        if not math.isclose(self.step, other.step, rel_tol=1e-6):
            return False
        if self.channel is None or other.channel is None:
            return self.channel is other.channel
        return torch.equal(self.channel, other.channel)


def _channels(grid: Grid, like: Tensor | None) -> Tensor:
    if grid.channel is not None:
        return grid.channel
    assert like is not None
    return torch.ones_like(like)


@dataclass
class Stats:
    """What one tensor [rows, *shape] holds, over rows and channels; float64 on the CPU.

    events: non-zeros at each position, [H, W], or one number for a shape (F,).
    amplitude: the same, weighted by value (levels times step); None for analog values.
    histogram: elements at each level 0..levels; None for analog values and for many levels.
    top: the largest level.
    decoded: histogram of the levels summed over `timesteps` > 1, 0..N*T; None where not counted.
    """

    shape: tuple[int, ...]
    elements: int
    events: Tensor
    amplitude: Tensor | None = None
    histogram: Tensor | None = None
    top: int = 0
    timesteps: int = 1
    decoded: Tensor | None = None


def measure(x: Tensor, shape: tuple[int, ...], grid: Grid | None, timesteps: int = 1) -> Stats:
    """Statistics of x [..., *shape]; of analog values where `grid` is None.

    With T > 1 `timesteps` x is [T, ..., *shape] or, with merged axes, [T * ..., *shape].

    >>> stats = measure(torch.tensor([[0.0, 0.5, 1.0]]), (3,), Grid(0.5, 2))
    >>> stats.events.item(), stats.amplitude.item(), stats.histogram.tolist(), stats.top
    (2.0, 1.5, [1.0, 1.0, 1.0], 2)
    """
    rows, elements = x.reshape(-1, *shape), x.numel()
    if grid is None:
        return Stats(shape, elements, _counts(rows, None, 1, 1).sums[0])
    unit = grid.unit(shape)
    if grid.levels > BYTE_LEVELS:
        amplitude = _in_levels(_sum(rows), unit)
        largest = torch.nan_to_num(rows.amax(0).cpu().double() / unit)
        events = _sum(nonzeros(rows)).sum(0)
        top = round(largest.max().item())
        return Stats(shape, elements, events, amplitude.sum(0) * grid.step, None, top)
    few = grid.levels * timesteps <= BYTE_LEVELS
    counts = _counts(rows, unit, grid.levels, timesteps if few else 1)
    events, amplitude = counts.sums
    top = max((level for level, n in enumerate(counts.histogram.tolist()) if n), default=0)
    return Stats(
        shape,
        elements,
        events,
        amplitude * grid.step,
        counts.histogram,
        top,
        timesteps,
        counts.summed,
    )


def nonzeros(x: Tensor) -> Tensor:
    """1 where x is not zero, else 0, in x's dtype (summing booleans is ten times slower)."""
    return torch.ne(x, 0, out=torch.empty_like(x))


def wide(x: Tensor) -> torch.dtype | None:
    """What x is summed in: float32 for halves, whose sums leave their range; else its own type."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else None


def _sum(rows: Tensor) -> Tensor:
    """Sum over the first axis, at least in float32, handed over as float64 on the CPU."""
    return rows.sum(0, dtype=wide(rows)).cpu().double()


def _in_levels(total: Tensor, unit: float | Tensor) -> Tensor:
    """A sum of levels as whole numbers, exact while one position gets less than 10^6 a batch."""
    return torch.nan_to_num(total / unit).round()


def _counts(rows: Tensor, unit: float | Tensor | None, levels: int, timesteps: int) -> Counts:
    """Counts of rows [R, C, ...] over rows and channels."""
    order = sorted(range(1, rows.dim()), key=lambda axis: -rows.stride(axis))
    laid_out = rows.permute(0, *order)  # as in memory: channels_last has channels innermost
    if isinstance(unit, Tensor) and unit.dim() > 1:
        unit = unit.permute([axis - 1 for axis in order])
    channels = 1 + order.index(1)
    counts = count_levels(laid_out, unit, levels, timesteps, channels)
    if counts is None:
        sums = [_sum(nonzeros(laid_out))] if unit is None else _byte_sums(laid_out, unit, levels)
        histogram = _histogram(laid_out.numel(), torch.stack([part.sum() for part in sums]))
        counts = Counts(torch.stack([sums[0], sums[-1]]).sum(channels), histogram, None)
    places = [axis for axis in order if axis != 1]
    back = [1 + places.index(axis) for axis in range(2, rows.dim())]
    return counts._replace(sums=counts.sums.permute(0, *back))


def _histogram(elements: int, capped: Tensor) -> Tensor:
    """Elements at each level 0..N, from the sums over all elements of min(z, k), k = 1..N."""
    zero = capped.new_zeros(1)
    reached = capped.diff(prepend=zero)  # level k or above
    return torch.cat([zero + elements, reached, zero]).diff().neg()


def _byte_sums(rows: Tensor, unit: float | Tensor, levels: int) -> list[Tensor]:
    """Sums of min(z, k) over the first axis, k = 1..levels, each of the shape of one row."""
    shape = rows.shape[1:]
    size = math.prod(shape)
    few = max(1, _CHUNK // size)
    codes = torch.zeros if size % 8 else torch.empty  # whole words a row
    z = codes((len(rows), -(-size // 8) * 8), dtype=torch.uint8, device=rows.device)
    planes = z[:, :size].view(rows.shape)
    for part, target in zip(rows.split(few), planes.split(few), strict=True):
        target.copy_(_rounded_up_half(part, unit))
    sums = []
    for k in range(1, levels + 1):
        words = (z.clamp(max=k) if k < levels else z).view(torch.int64)
        total = torch.zeros(size, dtype=torch.float64, device=rows.device)
        # So few rows at a time that no byte overflows into its neighbour.
        for part in words.split(255 // k):
            total += part.sum(0).view(torch.uint8)[:size]
        sums.append(total.view(shape).cpu())
    return sums


def _rounded_up_half(x: Tensor, unit: float | Tensor) -> Tensor:
    """x in levels plus one half: what truncates to the nearest level."""
    if isinstance(unit, Tensor):
        return x / unit.to(x.device, x.dtype) + 0.5
    return torch.add(x.new_tensor(0.5), x, alpha=1 / unit)


def find_grid(x: Tensor) -> Grid | None:
    """The step and largest level of x, or None where x is not {0..N} times one step.

    x must be non-negative and have a non-zero. Only what is there can be found: a step is a
    multiple of the true one where x holds even levels only.

    >>> find_grid(torch.tensor([0.0, 1.0, 1.5]))
    Grid(step=0.5, levels=3, channel=None)
    >>> find_grid(torch.tensor([0.0, 1.0, 1.41])) is None
    True
    """
    flat = x.detach().flatten().float()
    sample = flat[:: max(1, flat.numel() // _SAMPLE)]
    if sample.unique().numel() > MAX_LEVELS + 1:
        return None
    top = flat.max().item()
    least = torch.where(flat > 0, flat, math.inf).min().item()
    for divisor in range(1, 9):  # 2 and 3 steps are seen before 1
        step = least / divisor
        levels = round(top / step)
        if levels > MAX_LEVELS:
            return None
        if on_grid(flat, step, tolerance(x, levels)):
            return Grid(top / levels, levels)
    return None


def on_grid(x: Tensor, step: float, within: float) -> bool:
    """Whether all of x are whole multiples of `step`, but for a share `within` of a step."""
    z = x.float() / step if wide(x) else x / step
    return bool((z - z.round()).abs().max() < within)


def tolerance(x: Tensor, levels: int) -> float:
    """How far from a whole step, in steps, rounding may take the largest of so many levels."""
    if wide(x) is None:
        return _TOLERANCE
    return min(_WIDEST, max(_TOLERANCE, levels * torch.finfo(x.dtype).eps))
