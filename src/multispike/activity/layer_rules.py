"""Convolutions, linear layers, norms and poolings: their effects, and a rule for each operation.

A rule gets what an operation gets, and returns its effect. It is asked before the operation runs,
since that may write over its inputs.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from multispike.activity.elementwise_rules import PassThrough, always
from multispike.activity.grid import Grid
from multispike.activity.layout import Shape, Window
from multispike.activity.provenance import (
    Carries,
    Effect,
    Kind,
    Node,
    Unknown,
)
from multispike.activity.signals import Rule, Signals


@dataclass(frozen=True)
class Synapses(Effect):
    """Inputs times weights: a convolution over `axes` axes, or (0) a linear layer.

    weight: what tells apart layers of one place; None for weights that are computed at each call.
    """

    axes: int
    weight: Hashable = None
    bias: bool = field(default=False, compare=False)
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def kind(self) -> Kind:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "conv" if self.axes else "linear"

    def window(self, x: Tensor, out: Tensor) -> Window:
        """The geometry, from x to the output."""
        sizes = _sizes(x, self.axes), _sizes(out, self.axes)
        constants = (self.kernel, self.stride, self.padding, self.dilation)
        return Window(*sizes, *constants, self.groups)


@dataclass(frozen=True)
class Pool(Effect):
    """Maxima or averages over windows of 1 or 2 axes; without a kernel they divide the input.

    full: an average divides by the size of the kernel, padding included.
    """

    axes: int
    averages: bool
    kernel: tuple[int, int] | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    full: bool = True
    kind: ClassVar[Kind | None] = "pool"

    def window(self, x: Tensor, out: Tensor) -> Window:
        """The geometry, from x to the output."""
        sizes = _sizes(x, self.axes), _sizes(out, self.axes)
        if self.kernel is not None:
            return Window(*sizes, self.kernel, self.stride, self.padding, self.dilation)
        window, pairs = Window(*sizes, adaptive=True), list(zip(*sizes, strict=True))[1:]
        kernel = [
            max(-(-size // out), int(window.reads(axis).max()))
            for axis, (size, out) in enumerate(pairs)
        ]
        stride = [max(1, size // out) for size, out in pairs]
        return Window(*sizes, pair(kernel, 2), pair(stride, 2), adaptive=True)

    def area(self, window: Window) -> int | None:
        """Elements averaged (an average is their sum times 1/area); None: unevenly many.

        A maximum has area 1.
        """
        if not self.averages:
            return 1
        sizes = list(zip(window.in_shape[1:], window.out_shape[1:], strict=True))
        if self.kernel is None:
            even = all(size % out == 0 or out % size == 0 for size, out in sizes)
            return math.prod(max(1, size // out) for size, out in sizes) if even else None
        # ceil_mode lets the last window reach beyond the padding.
        inside = all(
            (out - 1) * stride + kernel <= size + 2 * padding
            for (size, out), stride, padding, kernel in zip(
                sizes, self.stride, self.padding, self.kernel, strict=True
            )
        )
        return math.prod(self.kernel) if self.full and inside else None

    def sends(self, inputs: tuple[Node, ...], window: Window | None) -> tuple[Carries, Grid | None]:
        source, area = inputs[0], self.area(window) if window else None
        if area is None:
            return "analog" if source.carries == "spikes" else source.carries, None
        grid = source.grid and source.grid.scaled(1 / area, source.grid.levels * area)
        return source.carries, grid


@dataclass(frozen=True)
class Fold(Effect):
    """A batch norm, part of the layer before it if its statistics are constant."""

    constants: tuple[Tensor | None, ...]
    constant: bool


# --- layers with weights ------------------------------------------------------------------------


def conv(
    signals: Signals,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Effect:
    """1-d and 2-d convolutions."""
    axes = weight.dim() - 2
    if axes > 2:
        return Unknown(label="conv3d")
    kernel, dilation = pair(tuple(weight.shape[2:]), axes), pair(dilation, axes)
    if padding == "same":  # asymmetric for even kernels: the further side is the longer one
        padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))[-axes:]
    return Synapses(
        axes,
        _identity(weight),
        bias is not None,
        kernel,
        pair(stride, axes),
        pair(0 if padding == "valid" else padding, axes, missing=0),
        dilation,
        groups,
    )


def linear(signals: Signals, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Effect:
    """x W^T, for every row of x."""
    return Synapses(0, _identity(weight), bias is not None)


def _identity(weight: Tensor) -> int | None:
    """What tells one weight from another; None for those that are computed anew for every call."""
    return id(weight) if isinstance(weight, nn.Parameter) else None


# --- norms --------------------------------------------------------------------------------------


def batch_norm(
    signals: Signals,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    *_: Any,
    **__: Any,
) -> Effect:
    """Part of the convolution or linear layer before it, where there is one."""
    constant = not training and running_mean is not None
    return Fold((running_mean, running_var, weight, bias), constant)


# --- poolings -----------------------------------------------------------------------------------


def max_pool(axes: int) -> Rule:
    """Max-pooling over 1 or 2 axes."""

    def rule(
        signals: Signals,
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        *_: Any,
        **__: Any,
    ) -> Effect:
        return _pool(axes, False, kernel_size, stride, padding, dilation)

    return rule


def avg_pool(axes: int) -> Rule:
    """Average pooling over 1 or 2 axes."""

    def rule(
        signals: Signals,
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Effect:
        padded = pair(padding, axes, missing=0) != (0, 0)
        full = divisor_override is None and (count_include_pad or not padded)
        return _pool(axes, True, kernel_size, stride, padding, 1, full)

    return rule


def _pool(
    axes: int, averages: bool, kernel: Any, stride: Any, padding: Any, dilation: Any, full=True
) -> Pool:
    """Without a stride, windows do not overlap."""
    kernel = pair(kernel, axes)
    return Pool(
        axes,
        averages,
        kernel,
        kernel if stride in (None, (), []) else pair(stride, axes),
        pair(padding, axes, missing=0),
        pair(dilation, axes),
        full,
    )


def mean(signals: Signals, input: Tensor, dim: Any = None, *_: Any, **__: Any) -> Effect:
    """Over the image it is a pooling; over time, potentials go on in the same memory."""
    return _reduction(signals, input, dim, averages=True)


def total(signals: Signals, input: Tensor, dim: Any = None, *_: Any, **__: Any) -> Effect:
    """A sum over time."""
    return _reduction(signals, input, dim, averages=False)


def _reduction(signals: Signals, input: Tensor, dim: Any, averages: bool) -> Effect:
    signal, rank = signals.known(input), input.dim()
    dims = sorted(d % rank for d in ((dim,) if isinstance(dim, int) else dim or ()))
    if signal is None:
        return Unknown()
    if dims == [rank - 2, rank - 1] and rank >= 4 and averages:
        return Pool(2, averages=True, label="pool")
    time = signals.time_axis(tuple(input.shape))
    if dims != [time]:
        return Unknown()
    steps, spikes = input.shape[time], signal.node.carries == "spikes"
    return PassThrough(
        1 / steps if averages else 1.0,
        steps,
        over_time=spikes,
        note="additions of spikes" if spikes else "",
        label="mean over time" if averages else "sum over time",
    )


def planes(x: Tensor, axes: int) -> Tensor:
    """x [..., C, L] as [..., C, 1, L]; else as it is."""
    return x.unsqueeze(-2) if axes == 1 else x


def _sizes(x: Tensor, axes: int) -> Shape:
    """[C, H, W] of a layer over some axes; [F] of one without."""
    return tuple(planes(x, axes).shape[-3 if axes else -1 :])


def pair(value: Any, axes: int, missing: int = 1) -> tuple[int, int]:
    """(height, width) of a number or tuple; a 1-d layer has height `missing`."""
    value = (value,) * axes if isinstance(value, int) else tuple(int(v) for v in value)
    if len(value) == 1:
        value = value * axes
    return (missing, value[0]) if axes == 1 else (value[0], value[-1])


NORM = always(PassThrough(carries="potential", note="runs at every inference"))
"""A norm that stays: its result is potentials."""
LAYER_RULES: tuple[tuple[str, Rule, str], ...] = (
    ("conv", conv, "conv1d conv2d conv3d"),
    ("linear", linear, "linear"),
    ("norm", batch_norm, "batch_norm"),
    ("norm", NORM, "layer_norm group_norm instance_norm rms_norm local_response_norm"),
    ("pool", max_pool(1), "max_pool1d max_pool1d_with_indices"),
    ("pool", max_pool(2), "max_pool2d max_pool2d_with_indices"),
    ("pool", avg_pool(1), "avg_pool1d"),
    ("pool", avg_pool(2), "avg_pool2d"),
    ("pool", always(Pool(1, True)), "adaptive_avg_pool1d"),
    ("pool", always(Pool(2, True)), "adaptive_avg_pool2d"),
    ("pool", always(Pool(1, False)), "adaptive_max_pool1d adaptive_max_pool1d_with_indices"),
    ("pool", always(Pool(2, False)), "adaptive_max_pool2d adaptive_max_pool2d_with_indices"),
    ("mean", mean, "mean"),
    ("sum", total, "sum"),
)
"""(what notes call it, rule, spellings)."""
