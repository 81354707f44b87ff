"""Graded spikes and the gradients that stand in for their derivative.

A neuron compares its potential with N level edges e_k = V_th * k/N, k = 1..N, and fires *at* an
edge (>=). Dividing by the step alone would be wrong by one level for potentials within a rounding
error of an edge, so the quotient is only a first guess that two comparisons settle.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Threshold = float | Tensor
"""V_th: one number, or a tensor that broadcasts against the potential."""


def level(h: Tensor, threshold: Threshold, levels: int) -> Tensor:
    """The level z = #{k in 1..N : h >= V_th * k/N}, as a float tensor of whole numbers.

    Equals clip(floor(h / (V_th/N)), 0, N) in real arithmetic (arXiv 2510.24637, multi-level IF).

    >>> level(torch.tensor([-1.0, 0.24, 0.25, 0.99, 1.0, 7.0]), 1.0, 4).tolist()
    [0.0, 0.0, 1.0, 3.0, 4.0, 4.0]
    """
    guess = torch.floor(h * (levels / threshold)).clamp_(0, levels)
    reached = (h >= (guess + 1) / levels * threshold).to(h.dtype)
    missed = (h < guess / levels * threshold).to(h.dtype)
    return (guess + reached - missed).clamp_(0, levels)


def sigmoid_gradient(h: Tensor, threshold: Threshold, levels: int, alpha: float) -> Tensor:
    """Sum of one logistic bump a level: sum_k alpha * s(u_k) (1 - s(u_k)), u_k = alpha (h/D - k).

    With D = V_th/N this is the sum over k of D * a' s(a'(h - kD)) (1 - s(a'(h - kD))), a' = alpha/D
    (arXiv 2510.24637; for N = 1 and V_th = 1 its sigma'(x, alpha)). 0 at an infinite potential, NaN
    at NaN.

    >>> round(sigmoid_gradient(torch.tensor(1.0), 1.0, 1, 5.0).item(), 6)
    1.25
    """
    u = h * (alpha * levels / threshold)
    total = torch.zeros_like(u)
    for k in range(1, levels + 1):
        bump = torch.sigmoid(u - alpha * k)
        total += bump * (1 - bump)
    return total * alpha


def window_gradient(
    h: Tensor, threshold: Threshold, levels: int, alpha: float, beyond: int = 0
) -> Tensor:
    """Straight-through: 1 where 0 <= h <= V_th + `beyond` levels, else 0 (as bool, a byte each).

    Up to V_th shuts out potentials of the highest level, of which rounding (v_init = 0.5) has many.
    Up to one level beyond it is exact through the clip: there floor(h / (V_th/N)) is in {0..N}, and
    the window lies evenly around the edges.

    >>> h = torch.tensor([-0.1, 0.0, 1.0, 1.1, 1.3])
    >>> [window_gradient(h, 1.0, 4, 5.0, beyond).int().tolist() for beyond in (0, 1)]
    [[0, 1, 1, 0, 0], [0, 1, 1, 1, 0]]
    """
    return (h >= 0) & (h <= threshold * (1 + beyond / levels))


def threshold_gradient(h: Tensor, threshold: Threshold, levels: int, surrogate: str) -> Tensor:
    """d s / d V_th as in LSQ and PACT: z/N - h/V_th in the window, 1 above it, 0 below it.

    The window is that of the gradient by h, or [0, V_th] for "sigmoid", which has none. What V_th
    does to h through the initial potential comes on top (`multispike.neurons`).

    >>> h = torch.tensor([-1.0, 0.5, 1.25, 2.0])
    >>> [threshold_gradient(h, 1.0, 2, name).tolist() for name in ("ste", "clip")]
    [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, -0.25, 1.0]]
    """
    inside = level(h, threshold, levels) / levels - h / threshold
    above = h > threshold * (1 + WINDOWS.get(surrogate, 0) / levels)
    return torch.where(above, 1.0, torch.where(h < 0, 0.0, inside))


WINDOWS = {"ste": 0, "clip": 1}
"""Gradients that are 1 in a window and 0 outside: levels by which it reaches beyond V_th."""

SURROGATES: dict[str, Callable[[Tensor, Threshold, int, float], Tensor]] = {
    "sigmoid": sigmoid_gradient,
    **{name: partial(window_gradient, beyond=beyond) for name, beyond in WINDOWS.items()},
}
"""Name -> stand-in for dz*D/dh; a new gradient is a new row."""
