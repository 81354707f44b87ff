"""The multi-level integrate-and-fire neuron: state goes in and comes out, nothing is kept.

One spike function serves a whole sequence and a single step. It follows arXiv 2510.24637:

    H[t] = beta * V[t-1] + x[t]
    s[t] = V_th/N * clip(floor(H[t] / (V_th/N)), 0, N)     fires at an edge (>=)
    V[t] = H[t] - s[t]                                     soft reset

Inputs in bfloat16 or float16, as mixed precision makes them, are neurons in float32 between two
conversions: the potential is float32 from step to step, the spikes that leave are rounded to the
type of x. That rounding is none where z/N * V_th is representable: in bfloat16, for V_th = 1 and N
a power of two up to 256.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from multispike.errors import InputError, invalid
from multispike.ops import FusedSpikes, empty_like_steps, traced, usable
from multispike.surrogate import (
    SURROGATES,
    WINDOWS,
    NeuronSpec,
    Threshold,
    is_number,
    level,
    threshold_gradient,
)

MIN_THRESHOLD = 1e-3
"""A threshold in a tensor acts at or above this value: at 0 the levels would fall together."""

_SMALLEST, _LARGEST = 1e-30, 1e30
"""Thresholds that float32 holds together with their levels and the inverse of a level."""


class _Floor(torch.autograd.Function):
    """max(V_th, MIN_THRESHOLD), whose gradient passes below the floor too: what has fallen under
    it can come back."""

    @staticmethod
    def forward(ctx: Any, threshold: Tensor) -> Tensor:
        return threshold.clamp_min(MIN_THRESHOLD)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad


def acting(threshold: Threshold) -> Threshold:
    """V_th as neurons use it: a tensor held at MIN_THRESHOLD, straight-through; a number as it is.

    >>> threshold = torch.tensor([-1.0, 0.5], requires_grad=True)
    >>> acting(threshold).sum().backward()
    >>> acting(threshold).tolist() == [torch.tensor(MIN_THRESHOLD).item(), 0.5]
    True
    >>> threshold.grad.tolist()
    [1.0, 1.0]
    """
    return _Floor.apply(threshold) if isinstance(threshold, Tensor) else threshold  # pyright: ignore[reportReturnType]


class _Spikes(torch.autograd.Function):
    """x [T, B, ...], V[-1] or None, V_th -> graded spikes [T, B, ...] and V[T-1] (or None).

    The backward keeps one byte an element for a gradient that is a mask, else the input, from
    which the potentials are computed again: never several float copies.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor | None, threshold: Threshold, spec: NeuronSpec, last: bool
    ) -> tuple[Tensor, Tensor | None]:
        learned = isinstance(threshold, Tensor) and threshold.requires_grad
        masked = spec.surrogate in WINDOWS and not learned
        spikes = empty_like_steps(x, x.dtype)
        masks = empty_like_steps(x, torch.bool) if masked else None
        state = v
        steps = x.shape[0]
        for t in range(steps):
            h = _charge(x[t], state, threshold, spec)
            torch.mul(level(h, threshold, spec.levels) / spec.levels, threshold, out=spikes[t])
            if masks is not None:
                masks[t] = SURROGATES[spec.surrogate](h, threshold, spec.levels, spec.alpha)
            if last or t + 1 < steps:
                state = h - spikes[t]
        # The gradient's own strides must not be asked for: torch.compile can't know them yet.
        ctx.spec, ctx.has_state, ctx.strides = spec, v is not None, spikes.stride()
        constant = threshold if isinstance(threshold, Tensor) else None
        ctx.threshold = None if constant is not None else threshold
        ctx.save_for_backward(masks, None if masked else x, None if masked else v, constant)
        return spikes, state if last else None

    @staticmethod
    def backward(ctx: Any, grad_spikes: Tensor, grad_last: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        spec: NeuronSpec = ctx.spec
        masks, x, v, constant = ctx.saved_tensors
        threshold = ctx.threshold if constant is None else constant
        potentials = None if x is None else _potentials(x, v, threshold, spec)
        surrogate = SURROGATES[spec.surrogate]
        steps = grad_spikes.shape[0]
        grad_x = torch.empty_strided(
            grad_spikes.shape, ctx.strides, dtype=grad_spikes.dtype, device=grad_spikes.device
        )
        grad_threshold = None
        grad_v = grad_last  # dL/dV[t], None where nothing later depends on it
        for t in reversed(range(steps)):
            grad_s = grad_spikes[t]
            if grad_v is not None and not spec.detach_reset:
                grad_s = grad_s - grad_v
            if potentials is None:
                torch.mul(grad_s, masks[t], out=grad_x[t])
            else:
                h = potentials[t]
                torch.mul(grad_s, surrogate(h, threshold, spec.levels, spec.alpha), out=grad_x[t])
                if ctx.needs_input_grad[2]:
                    part = grad_s * threshold_gradient(h, threshold, spec.levels, spec.surrogate)
                    part = part.sum_to_size(threshold.shape)
                    grad_threshold = part if grad_threshold is None else grad_threshold + part
            if grad_v is not None:
                grad_x[t] += grad_v
            grad_v = grad_x[t] if spec.beta == 1 else grad_x[t] * spec.beta
        grad_start = grad_x[0] * spec.beta  # dL/dV[-1]; no view, so that neither changes the other
        if ctx.has_state:
            return grad_x, grad_start, grad_threshold, None, None
        if grad_threshold is not None and spec.v_init:  # V[-1] = v_init/N * V_th
            start = grad_start * (spec.v_init / spec.levels)
            grad_threshold = grad_threshold + start.sum_to_size(threshold.shape)
        return grad_x, None, grad_threshold, None, None


def _charge(x_t: Tensor, v: Tensor | None, threshold: Threshold, spec: NeuronSpec) -> Tensor:
    """H[t] = beta * V[t-1] + x[t], with V[-1] = v_init levels where no state was passed in."""
    if v is None:
        rest = spec.beta * spec.v_init
        return x_t + threshold * (rest / spec.levels) if rest else x_t
    # Two operations: torch.add(x_t, v, alpha=beta) rounds once or twice, as the processor has it.
    return x_t + v if spec.beta == 1 else x_t + v * spec.beta


def _potentials(
    x: Tensor, v: Tensor | None, threshold: Threshold, spec: NeuronSpec
) -> list[Tensor]:
    """H[t] for every t, computed again from the input."""
    potentials = []
    for x_t in x.unbind():
        h = _charge(x_t, v, threshold, spec)
        potentials.append(h)
        if len(potentials) < x.shape[0]:
            v = h - level(h, threshold, spec.levels) / spec.levels * threshold
    return potentials


def _spikes(
    x: Tensor, v: Tensor | None, threshold: Threshold, spec: NeuronSpec, last: bool
) -> tuple[Tensor, Tensor | None]:
    """x [T, B, ...], V[-1] or None -> spikes and, if `last`, V[T-1]: the fused kernel or eager."""
    half = x.dtype in (torch.bfloat16, torch.float16)
    if half:
        v = v if v is None else v.float()
        threshold = threshold.float() if isinstance(threshold, Tensor) else threshold
    if usable(x, v, threshold, spec):
        return FusedSpikes.apply(x, v, threshold, spec, last)  # pyright: ignore[reportReturnType]
    _check_input(x)
    spikes, v = _Spikes.apply(x.float() if half else x, v, threshold, spec, last)  # pyright: ignore[reportGeneralTypeIssues]
    return spikes.to(x.dtype), v


def _check_input(x: Tensor) -> None:
    """Raise `InputError` for an x that neurons can't take."""
    if not x.is_floating_point():
        raise invalid("x", x.dtype, "a tensor of floating-point numbers")
    if x.dim() == 0 or (not traced() and x.shape[0] == 0):
        raise invalid("x", f"shape {list(x.shape)}", "[T, B, ...] with T >= 1")


def _check_threshold(threshold: Threshold, learned: bool) -> None:
    """Raise `InputError` for a V_th that neurons can't have."""
    if isinstance(threshold, Tensor):
        axes = sum(size != 1 for size in threshold.shape)
        if axes > 1 or not threshold.numel():
            raise invalid(
                "threshold", f"shape {list(threshold.shape)}", "a number, or one number a channel"
            )
        if not threshold.is_leaf:
            raise invalid(
                "threshold", "a tensor that was computed with a gradient, which would be lost",
                "an nn.Parameter, or learn_threshold=True and a tensor without gradient",
            )  # fmt: skip
        values = [threshold.min().item(), threshold.max().item()]
    else:
        values = [threshold]
    floored = learned or isinstance(threshold, Tensor)
    smallest = MIN_THRESHOLD if floored else _SMALLEST
    where = ", where it is learned or a tensor" if floored else ""
    for value in values:
        if not is_number(value) or not smallest <= value <= _LARGEST:
            raise invalid("threshold", value, f"numbers from {smallest} to {_LARGEST}{where}")


class MultiLevelIF(nn.Module):
    """Multi-level integrate-and-fire neurons with soft reset (arXiv 2510.24637).

    Args:
        levels: N, the largest level; 1 is the binary IF neuron.
        threshold: V_th, a number from 1e-30 to 1e30, or a tensor [C] with one value a channel; an
            `nn.Parameter` is used as it is, so neurons that meet at one sum can share it. Learned
            and in a tensor at least MIN_THRESHOLD.
        surrogate: "sigmoid" (one logistic bump a level), "ste" (1 inside [0, V_th]) or "clip" (1
            inside [0, V_th + V_th/N], where the level is not clipped).
        alpha: steepness of "sigmoid", in 1/level.
        v_init: V[-1] in levels; 0.5 turns the floor into rounding.
        beta: leak, the share of the potential that is left after one step; 1 is no leak.
        detach_reset: no gradient through the reset.
        learn_threshold: make V_th a parameter (gradient as in LSQ/PACT).

    Raises:
        InputError: for an argument out of range; the message names it.

    >>> neuron = MultiLevelIF(levels=4)
    >>> neuron(torch.tensor([[[0.3, 0.5, 9.0, -1.0]]])).tolist()
    [[[0.25, 0.5, 1.0, 0.0]]]
    """

    def __init__(
        self,
        levels: int = 4,
        threshold: float | Tensor = 1.0,
        surrogate: str = "sigmoid",
        alpha: float = 5.0,
        v_init: float = 0.0,
        beta: float = 1.0,
        detach_reset: bool = True,
        learn_threshold: bool = False,
    ) -> None:
        super().__init__()
        self.spec = NeuronSpec(levels, surrogate, alpha, v_init, beta, detach_reset)
        _check_threshold(threshold, learn_threshold)
        self.threshold: float | nn.Parameter
        if isinstance(threshold, nn.Parameter):
            self.threshold = threshold
        elif learn_threshold or isinstance(threshold, Tensor):
            value = torch.as_tensor(threshold, dtype=torch.get_default_dtype()).detach().clone()
            self.threshold = nn.Parameter(value, requires_grad=learn_threshold)
        else:
            self.threshold = float(threshold)

    @property
    def levels(self) -> int:
        """N, the largest level."""
        return self.spec.levels

    def forward(self, x: Tensor) -> Tensor:
        """Spikes s [T, B, ...] for inputs x [T, B, ...]; starts from v_init, keeps nothing."""
        return _spikes(x, None, self.threshold_for(x), self.spec, False)[0]

    def step(self, x_t: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One timestep: inputs x_t [B, ...] and potential v [B, ...] -> spikes s_t and the new v.

        For half-precision inputs the new v is float32.

        >>> neuron = MultiLevelIF(levels=2)
        >>> s, v = neuron.step(torch.tensor([[0.75]]))
        >>> s.item(), v.item()
        (0.5, 0.25)
        >>> neuron.step(torch.tensor([[0.25]]), v)[0].item()
        0.5
        """
        if v is not None and v.shape != x_t.shape:
            raise invalid("v", tuple(v.shape), f"the shape of x_t, {tuple(x_t.shape)}")
        spikes, v = _spikes(x_t[None], v, self.threshold_for(x_t[None]), self.spec, True)
        return spikes[0], v  # pyright: ignore[reportReturnType]

    def threshold_for(self, x: Tensor) -> Threshold:
        """V_th so that it broadcasts against one step of x [T, B, C, ...]."""
        threshold = acting(self.threshold)
        if not isinstance(threshold, Tensor) or threshold.dim() == 0:
            return threshold
        if x.dim() < 3 or x.shape[2] != threshold.numel():
            raise InputError(
                f"x: got shape {tuple(x.shape)}, allowed: [T, B, {threshold.numel()}, ...]"
                " (one threshold a channel)"
            )
        return threshold.view(-1, *[1] * (x.dim() - 3))

    def extra_repr(self) -> str:
        threshold = self.threshold
        if isinstance(threshold, Tensor):
            threshold = f"learned[{threshold.numel()}]" if threshold.requires_grad else "fixed"
        return f"threshold={threshold}, {self.spec}"


def barrier(levels: int, threshold: float | Tensor = 1.0) -> MultiLevelIF:
    """The neuron that stands after a residual sum and brings it back to {0..N}.

    Its gradient passes wherever the sum is not clipped, so the shortcut does not starve. The reset
    is not detached: while nothing is clipped, the gradient of a sequence passes unchanged as well,
    instead of adding up over all later timesteps, which a row of barriers multiplies until the
    training diverges. The sum is whole levels in exact arithmetic; half a level of initial
    potential keeps the rounding errors of the float sum away from the edges without changing any
    result.

    >>> barrier(4)(torch.tensor([[[0.75 + 0.5, 0.25 + 0.25]]])).tolist()
    [[[1.0, 0.5]]]
    """
    return MultiLevelIF(levels, threshold, surrogate="clip", v_init=0.5, detach_reset=False)
