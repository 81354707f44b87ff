"""What pixels become before a network reads them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def scale_and_offset(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """(x / 255 - mean) / std as `x * scale + offset`: float32 [C, 1, 1] each, from float64.

    >>> scale, offset = scale_and_offset([0.5], [0.25])
    >>> (255 * scale + offset).item()
    2.0
    """
    means, deviations = (torch.tensor(values, dtype=torch.float64) for values in (mean, std))
    scale, offset = (1 / (255 * deviations)).float(), (-means / deviations).float()
    return scale.view(-1, 1, 1), offset.view(-1, 1, 1)
