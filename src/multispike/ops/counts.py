"""How often each level occurs among graded spikes, in one pass over memory."""

from __future__ import annotations

import math
from ctypes import c_double
from struct import Struct
from typing import NamedTuple

import torch
from torch import Tensor

from multispike.ops.build import library, pointer, threads_for, zeros

_SPIKES = Struct("8qPf")
"""`Spikes` of counts.c."""


class Counts(NamedTuple):
    """What `count_levels` found: of every pixel, over timesteps, rows and channels, its non-zeros
    and the sum of their levels, float64; elements at each level, N + 1, and at each sum of levels
    over T > 1 steps, N*T + 1."""

    events: Tensor
    amplitude: Tensor
    histogram: list[float]
    summed: list[float] | None


def count_levels(
    spikes: Tensor, unit: float | Tensor | None, levels: int, steps: int = 1, channels: int = 1
) -> Counts | None:
    """Counts of spikes in one pass over them; None where the kernel can't run.

    Args:
        spikes: [T * rows, ...], dense in this order of the axes; float32 or bfloat16, on the CPU.
        unit: V_th/N, one or one for each place, broadcastable to [...]; None to count every
            non-zero as level 1.
        levels: N, the largest level; N * T at most 31.
        steps: T.
        channels: the axis of `spikes` that is not part of a pixel's place.
    """
    on_cpu = type(spikes) is Tensor and spikes.device.type == "cpu"
    typed = spikes.dtype in (torch.float32, torch.bfloat16) and spikes.is_contiguous()
    kernels = library() if on_cpu and typed else None
    if kernels is None:
        return None
    shape, scale = spikes.shape[1:], None
    if isinstance(unit, Tensor):
        scale = (1 / unit.double()).float().expand(shape).contiguous()
    threads = threads_for(spikes.numel())
    pixels = (*shape[: channels - 1], *shape[channels:])
    sums = zeros(threads, 2, *pixels) if unit is not None or spikes.itemsize < 4 else zeros(*pixels)
    histogram = (c_double * (levels + 1))()
    summed = (c_double * (levels * steps + 1))() if steps > 1 else None
    described = _SPIKES.pack(
        *(steps, len(spikes) // steps, math.prod(shape), shape[channels - 1]),
        *(math.prod(shape[channels:]), levels, spikes.dtype == torch.bfloat16, threads),
        pointer(scale),
        0.0 if unit is None or scale is not None else 1 / unit,
    )
    kernels.multispike_count(described, pointer(spikes), pointer(sums), histogram, summed)
    events, amplitude = (sums[0, 0], sums[0, 1]) if sums.dim() > len(pixels) else (sums, sums)
    return Counts(events, amplitude, histogram[:], None if summed is None else summed[:])
