"""Levels: the step of which spikes are whole multiples, found by value, and arithmetic of steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

MAX_LEVELS = 255
"""More levels than this are taken for analog values."""
_SAMPLE = 65536  # elements looked at before a tensor is searched for a step
_TOLERANCE = 1e-3  # of a step: float sums of steps, not other values
_WIDEST = 0.2  # of a step: levels of a half-precision type, which are rounded to it


@dataclass(frozen=True)
class Grid:
    """The values that a spike tensor can hold: step * channel[c] * {0..levels}.

    `channel`, float64 [C], is there where thresholds differ from channel to channel. `signed`:
    also the same values below zero; only of ternary spikes.
    """

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

    x must have a non-zero. Only what is there can be found: a step is a multiple of the true one
    where x holds even levels only.

    >>> find_grid(torch.tensor([0.0, 1.0, 1.5]))
    Grid(step=0.5, levels=3, channel=None, signed=False)
    >>> find_grid(torch.tensor([0.0, 1.0, 1.41])) is None
    True
    """
    flat, signed = x.detach().flatten().float(), bool((x < 0).any())
    flat = flat.abs() if signed else flat
    sample = flat[:: max(1, flat.numel() // _SAMPLE)]
    if sample.unique().numel() > MAX_LEVELS + 1:
        return None
    top = flat.max().item()
    least = torch.where(flat > 0, flat, math.inf).min().item()
    for divisor in range(1, 9):  # 2 and 3 steps are seen before 1
        step = least / divisor
        levels = round(top / step)
        if levels > (1 if signed else MAX_LEVELS):
            return None
        if _on_grid(flat, step, _tolerance(x, levels)):
            return Grid(top / levels, levels, signed=signed)
    return None


def refined_grid(x: Tensor, known: Grid | None, low: float, top: float) -> Grid | None:
    """The grid of x, from `low` to `top`, not all zero, and of all values of a known one; or None.

    The step found is the known one, or a whole fraction of it.
    """
    if known is None:
        return find_grid(x)
    signed = known.signed or low < 0
    levels, ratio = max(known.levels, round(max(top, -low) / known.step)), 1
    if not _on_grid(x, known.step, _tolerance(x, levels)):
        found = find_grid(x)
        ratio = round(known.step / found.step) if found is not None else 0
        if found is None or ratio < 1 or abs(known.step / found.step - ratio) > 1e-3:
            return None
        levels = max(found.levels, known.levels * ratio)
    return None if signed and levels > 1 else Grid(known.step / ratio, levels, signed=signed)


def sum_dtype(x: Tensor) -> torch.dtype | None:
    """What x is summed in: float32 for halves, whose sums leave their range; else its own type."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else None


def _on_grid(x: Tensor, step: float, within: float) -> bool:
    """Whether all of x are whole multiples of `step`, but for a share `within` of a step."""
    z = x.float() / step if sum_dtype(x) else x / step
    return bool((z - z.round()).abs().max() < within)


def _tolerance(x: Tensor, levels: int) -> float:
    """How far from a whole step, in steps, rounding may take the largest of so many levels."""
    if sum_dtype(x) is None:
        return _TOLERANCE
    return min(_WIDEST, max(_TOLERANCE, levels * torch.finfo(x.dtype).eps))
