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

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from multispike.errors import invalid, is_count, unknown
from multispike.ops.reference import Constants
from multispike.ops.spikes import fire
from multispike.surrogate import SURROGATES, Threshold

MIN_THRESHOLD = 1e-3
"""A threshold in a tensor acts at or above this value: at 0 the levels would fall together."""

_SMALLEST, _LARGEST = 1e-30, 1e30
"""Thresholds that float32 holds together with their levels and the inverse of a level."""


@dataclass(frozen=True)
class NeuronConfig:
    """The settings of a layer of neurons; see `MultiLevelIF` for their meaning.

    Raises:
        InputError: for a value out of range; the message names it.
    """

    levels: int = 4
    threshold: Threshold = 1.0
    surrogate: str = "sigmoid"
    alpha: float = 5.0
    v_init: float = 0.0
    beta: float = 1.0
    detach_reset: bool = True
    learn_threshold: bool = False
    timesteps: int = 1

    def __post_init__(self) -> None:
        if self.surrogate not in SURROGATES:
            raise unknown("surrogate", str(self.surrogate), SURROGATES)
        for name, ok, allowed in (
            ("levels", is_count, "an integer >= 1"),
            ("timesteps", is_count, "an integer >= 1"),
            ("alpha", lambda x: 0 < x < math.inf, "a finite number > 0"),
            ("v_init", lambda x: 0 <= x < 1, "a number of levels in [0, 1)"),
            ("beta", lambda x: 0 < x <= 1, "a number in (0, 1]"),
        ):
            value = getattr(self, name)
            if not (isinstance(value, Real) and ok(value)):
                raise invalid(name, value, allowed)
        threshold = self.threshold
        if isinstance(threshold, Tensor):
            axes = sum(size != 1 for size in threshold.shape)
            if axes > 1 or not threshold.numel():
                allowed = "a number, or one number a channel"
                raise invalid("threshold", f"shape {list(threshold.shape)}", allowed)
            if not threshold.is_leaf:
                raise invalid(
                    "threshold", "a tensor that was computed with a gradient, which would be lost",
                    "an nn.Parameter, or learn_threshold=True and a tensor without gradient",
                )  # fmt: skip
            values = [] if threshold.is_meta else [threshold.min().item(), threshold.max().item()]
        else:
            values = [threshold]
        floored = self.learn_threshold or isinstance(threshold, Tensor)
        smallest = MIN_THRESHOLD if floored else _SMALLEST
        where = ", where it is learned or a tensor" if floored else ""
        for value in values:
            if not isinstance(value, Real) or not smallest <= value <= _LARGEST:
                raise invalid("threshold", value, f"numbers from {smallest} to {_LARGEST}{where}")


class _Floor(torch.autograd.Function):
    """max(V_th, MIN_THRESHOLD), through which the gradient passes: what fell can come back."""

    @staticmethod
    def forward(ctx: Any, threshold: Tensor) -> Tensor:
        return threshold.clamp_min(MIN_THRESHOLD)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad


def floored(threshold: Threshold) -> Threshold:
    """V_th as neurons use it: a tensor held at MIN_THRESHOLD, straight-through; a number as it is.

    >>> threshold = torch.tensor([-1.0, 0.5], requires_grad=True)
    >>> floored(threshold).sum().backward()
    >>> floored(threshold).tolist() == [torch.tensor(MIN_THRESHOLD).item(), 0.5]
    True
    >>> threshold.grad.tolist()
    [1.0, 1.0]
    """
    return _Floor.apply(threshold) if isinstance(threshold, Tensor) else threshold  # pyright: ignore[reportReturnType]


class MultiLevelIF(nn.Module):
    """Multi-level integrate-and-fire neurons with soft reset (arXiv 2510.24637).

    Layers without a notion of time stand between neurons: time and batch share the first axis,
    time-major, [T*B, ...]. At T = 1 that is [B, ...], and no sample meets another.

    Args:
        levels: N, the largest level; 1 is the binary IF neuron.
        threshold: V_th, a number from 1e-30 to 1e30, or a tensor [C] with one value a channel; an
            `nn.Parameter` is used as it is, so neurons that meet at one sum can share it. Learned
            and in a tensor at least MIN_THRESHOLD.
        surrogate: "sigmoid" (one logistic bump a level), "ste" (1 inside [0, V_th]) or "clip" (1
            inside [0, V_th + V_th/N], where the level is not clipped).
        alpha: steepness of "sigmoid", in 1/level.
        v_init: V[-1] in levels; 0.5 turns the floor into rounding, unless beta < 1 leaks of it too.
        beta: leak, the share of the potential that is left after one step; 1 is no leak.
        detach_reset: no gradient through the reset.
        learn_threshold: make V_th a parameter (gradient as in LSQ/PACT).
        timesteps: T, how many steps a forward call integrates over.

    Raises:
        InputError: for an argument out of range; the message names it.

    >>> neuron = MultiLevelIF(levels=4)
    >>> neuron(torch.tensor([[0.3, 0.5], [9.0, -1.0]])).tolist()
    [[0.25, 0.5], [1.0, 0.0]]
    >>> MultiLevelIF(levels=4, timesteps=2)(torch.tensor([[0.3, 0.5], [0.2, -1.0]])).tolist()
    [[0.25, 0.5], [0.25, 0.0]]
    """

    def __init__(
        self, levels: int = 4, threshold: float | Tensor = 1.0, surrogate: str = "sigmoid",
        alpha: float = 5.0, v_init: float = 0.0, beta: float = 1.0, detach_reset: bool = True,
        learn_threshold: bool = False, timesteps: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config = NeuronConfig(
            levels, threshold, surrogate, alpha, v_init, beta, detach_reset, learn_threshold,
            timesteps,
        )  # fmt: skip
        self.levels, self.timesteps = levels, timesteps
        self._constants = Constants(levels, surrogate, alpha, v_init, beta, detach_reset)
        self.threshold: float | nn.Parameter
        if isinstance(threshold, nn.Parameter):
            self.threshold = threshold
        elif learn_threshold or isinstance(threshold, Tensor):
            value = torch.as_tensor(threshold, dtype=torch.get_default_dtype()).detach().clone()
            self.threshold = nn.Parameter(value, requires_grad=learn_threshold)
        else:
            self.threshold = float(threshold)

    def forward(self, x: Tensor) -> Tensor:
        """Spikes for inputs x [T*B, ...], in their shape; starts from v_init, keeps nothing.

        x [T, B, ...] gives the same, where the threshold is not one a channel: channels are axis 1.

        Raises:
            InputError: for an axis 0 that T does not divide, other channels than thresholds, or x
                that are no floating-point numbers.
        """
        if x.dim() == 0 or x.shape[0] % self.timesteps:
            allowed = f"[T*B, ...] or [T, B, ...] with timesteps T = {self.timesteps}"
            raise invalid("x", f"shape {list(x.shape)}", allowed)
        steps = x.unflatten(0, (self.timesteps, -1))
        return fire(steps, None, self.threshold_for(x), self._constants, False)[0].flatten(0, 1)

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
        s, v = fire(x_t[None], v, self.threshold_for(x_t), self._constants, True)
        assert v is not None
        return s[0], v

    def threshold_for(self, x: Tensor) -> Threshold:
        """V_th: a number, or a tensor that broadcasts against x [T*B, C, ...]."""
        threshold = floored(self.threshold)
        if not isinstance(threshold, Tensor) or threshold.dim() == 0:
            return threshold
        if x.dim() < 2 or x.shape[1] != threshold.numel():
            allowed = f"[T*B, {threshold.numel()}, ...] (one threshold a channel)"
            raise invalid("x", f"shape {list(x.shape)}", allowed)
        return threshold.view(-1, *[1] * (x.dim() - 2))

    def extra_repr(self) -> str:
        threshold = self.threshold
        if isinstance(threshold, Tensor):
            threshold = f"learned[{threshold.numel()}]" if threshold.requires_grad else "fixed"
        settings = vars(self.config) | {"threshold": threshold}
        return ", ".join(f"{name}={value!r}" for name, value in settings.items())


def barrier(levels: int, threshold: float | Tensor = 1.0, timesteps: int = 1) -> MultiLevelIF:
    """The neuron that stands after a residual sum and brings it back to {0..N}.

    Its gradient passes wherever the sum is not clipped, so the shortcut does not starve. The reset
    is not detached: while nothing is clipped, the gradient of a sequence passes unchanged as well,
    instead of adding up over all later timesteps, which a row of barriers multiplies until the
    training diverges. The sum is whole levels in exact arithmetic; half a level of initial
    potential keeps the rounding errors of the float sum away from the edges without changing any
    result.

    >>> barrier(4)(torch.tensor([[0.75 + 0.5, 0.25 + 0.25]])).tolist()
    [[1.0, 0.5]]
    """
    return MultiLevelIF(
        levels, threshold, "clip", v_init=0.5, detach_reset=False, timesteps=timesteps
    )
