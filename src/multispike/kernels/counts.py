"""How often each level occurs among graded spikes, in one pass over memory."""

from __future__ import annotations

import ctypes
import math
from typing import NamedTuple

import torch
from torch import Tensor

from multispike.kernels.build import library
from multispike.kernels.layer import plain, pointer, threads_for


class Spikes(ctypes.Structure):
    """`Spikes` of counts.c."""

    _fields_ = (
        *[
            (name, ctypes.c_int64)
            for name in ("steps", "rows", "places", "levels", "bfloat16", "threads")
        ],
        ("scale", ctypes.c_void_p),
        ("shared", ctypes.c_int64),
    )


class Counts(NamedTuple):
    """What `count_levels` found, float64.

    Attributes:
        sums: [2, ...] at every place, over timesteps and rows: non-zeros, and their levels.
        histogram: [N + 1] elements at each level.
        summed: [N*T + 1] the same of the levels summed over T > 1; None for T = 1.
    """

    sums: Tensor
    histogram: Tensor
    summed: Tensor | None


def count_levels(
    spikes: Tensor, unit: float | Tensor | None, levels: int, steps: int = 1
) -> Counts | None:
    """Counts of spikes in one pass over them; None where the kernel can't run.

    Args:
        spikes: [T * rows, ...], dense in this order of the axes; float32 or bfloat16, on the CPU.
        unit: V_th/N, one or one for each place, broadcastable to [...]; None to count every
            non-zero as level 1.
        levels: N, the largest level; N * T at most 31.
        steps: T.
    """
    if not plain(spikes, torch.float32, torch.bfloat16) or not spikes.is_contiguous():
        return None
    kernels = library()
    if kernels is None:
        return None
    shape = spikes.shape[1:]
    scale = None if unit is None else (1 / torch.as_tensor(unit, dtype=torch.float64)).float()
    shared = scale is None or not scale.dim()
    if scale is not None and not shared:
        scale = scale.expand(shape).contiguous()
    sums = torch.zeros(2, *shape, dtype=torch.float64)
    histogram = torch.zeros(levels + 1, dtype=torch.int64)
    summed = torch.zeros(levels * steps + 1, dtype=torch.int64)
    described = Spikes(
        steps=steps,
        rows=len(spikes) // steps,
        places=math.prod(shape),
        levels=levels,
        bfloat16=spikes.dtype == torch.bfloat16,
        threads=threads_for(spikes.numel()),
        scale=pointer(scale),
        shared=shared,
    )
    kernels.multispike_count(
        ctypes.byref(described), *map(pointer, (spikes, sums, histogram, summed))
    )
    return Counts(sums, histogram.double(), summed.double() if steps > 1 else None)
