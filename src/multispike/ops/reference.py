"""The neurons in torch's operations: what `multispike::spikes` is wherever no kernel runs.

All timesteps of a layer, forward and backward. Potentials and gradients are float32 from step to
step where x is bfloat16 or float16.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from multispike.surrogate import SURROGATES, level, threshold_gradient


class Constants(NamedTuple):
    """The numbers of the operators' schema; see `multispike.neurons.NeuronConfig`."""

    levels: int
    surrogate: str
    alpha: float
    v_init: float
    beta: float
    detach_reset: bool


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type of potentials for inputs of `dtype`."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def empty_like_steps(x: Tensor, dtype: torch.dtype) -> Tensor:
    """An empty tensor of x's shape [T, B, ...], dense over time, each step laid out as x[0].

    `empty_like` will not do: the stem's drive is one step *expanded* over T, and layouts such as
    channels_last have to survive for the next convolution.
    """
    step = torch.empty_like(x[0], device="meta")
    strides = (step.numel(), *step.stride())
    return torch.empty_strided(x.shape, strides, dtype=dtype, device=x.device)


def laid_out(tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    """`tensor`, [T, a step] or a step, copied only if a step's strides are not the last of those
    given for [T, a step]."""
    if tensor.stride()[tensor.dim() - len(strides) + 1 :] == strides[1:]:
        return tensor
    strides = strides[len(strides) - tensor.dim() :]
    empty = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device)
    return empty.copy_(tensor)


def forward(
    x: Tensor, v: Tensor | None, threshold: Tensor, c: Constants, with_window: bool, return_v: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Spikes [T, B, ...] and, if asked for, V[T-1] and the window of the gradient (uint8)."""
    spikes = empty_like_steps(x, x.dtype)
    window = empty_like_steps(x, torch.uint8) if with_window else None
    threshold, last = _widened(threshold, x.dtype), None
    for t, (h, s, v_t) in enumerate(_steps(x, v, threshold, c)):
        spikes[t], last = s, v_t
        if window is not None:
            window[t] = SURROGATES[c.surrogate](h, threshold, c.levels, c.alpha)
    assert last is not None  # T >= 1
    return spikes, laid_out(last, spikes.stride()) if return_v else None, window


def backward(
    grad_spikes: Tensor, grad_v: Tensor | None, window: Tensor | None, x: Tensor | None,
    v: Tensor | None, threshold: Tensor, c: Constants, need_v: bool, need_threshold: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """Gradients of x and, if asked for, V[-1] and V_th, from the window or else from x and v."""
    dtype, shape = grad_spikes.dtype, threshold.shape
    threshold = _widened(threshold, dtype)
    like = window if x is None else x
    assert like is not None
    grad_x = empty_like_steps(like, dtype)
    potentials = None if x is None else [h for h, _, _ in _steps(x, v, threshold, c)]
    grad_threshold = None
    for t in reversed(range(len(grad_x))):
        grad_s = grad_spikes[t].to(wide(dtype))
        if grad_v is not None and not c.detach_reset:
            grad_s = grad_s - grad_v
        if potentials is None:
            grad_h = grad_s * like[t]
        else:
            h = potentials[t]
            grad_h = grad_s * SURROGATES[c.surrogate](h, threshold, c.levels, c.alpha)
            if need_threshold:
                more = grad_s * threshold_gradient(h, threshold, c.levels, c.surrogate)
                more = more.sum_to_size(shape)
                grad_threshold = more if grad_threshold is None else grad_threshold + more
        if grad_v is not None:
            grad_h = grad_h + grad_v
        grad_x[t] = grad_h
        grad_v = grad_h * c.beta
    assert grad_v is not None  # T >= 1
    if grad_threshold is not None and v is None and c.v_init:  # V[-1] = v_init/N * V_th
        start = grad_v * (c.v_init / c.levels)
        grad_threshold = grad_threshold + start.sum_to_size(shape)
    return grad_x, laid_out(grad_v, grad_x.stride()) if need_v else None, grad_threshold


def _widened(threshold: Tensor, dtype: torch.dtype) -> Tensor:
    """V_th as it meets potentials; a number, float64 without axes, is rounded by what it meets."""
    number = threshold.dtype == torch.float64 and threshold.dim() == 0
    return threshold if number else threshold.to(wide(dtype))


def _steps(
    x: Tensor, v: Tensor | None, threshold: Tensor, c: Constants
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """H[t], s[t] and V[t] for every t; V[-1] is v_init levels where no state was passed in."""
    for x_t in x.to(wide(x.dtype)):
        if v is None:
            start = c.beta * c.v_init
            h = x_t + threshold * (start / c.levels) if start else x_t
        else:
            # Two operations: torch.add(x_t, v, alpha=beta) rounds once or twice, as the processor
            # has it.
            h = x_t + v if c.beta == 1 else x_t + v * c.beta
        s = level(h, threshold, c.levels) / c.levels * threshold
        v = h - s
        yield h, s, v
