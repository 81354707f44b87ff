"""Tolerances, each with its reason, and small reference implementations."""

import torch

FLOAT_SUM = dict(rtol=1e-5, atol=1e-6)
"""A few hundred float32 additions in another order."""

EDGE = 1e-4
"""Relative distance from a level edge beyond which float32 rounding can't reach the next level."""


def binary_if(x: torch.Tensor, threshold: float) -> torch.Tensor:
    """A binary IF neuron with soft reset, written plainly; x [T, ...] -> 0 or threshold."""
    v = torch.zeros_like(x[0])
    spikes = []
    for x_t in x:
        v = v + x_t
        fired = v >= threshold
        v = v - fired * threshold
        spikes.append(fired * threshold)
    return torch.stack(spikes)
