"""Poolings, means and sums: their effect, and their rules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from multispike.activity.counting import Grid
from multispike.activity.elementwise_rules import PassThrough, always
from multispike.activity.layer_rules import Kernel, channels_and_places, per_axis
from multispike.activity.layout import Window, adaptive_reads
from multispike.activity.provenance import Carries, Effect, Node, Unknown
from multispike.activity.signals import Rule
from multispike.layer_record import Kind


@dataclass
class Pool(Effect):
    """Maxima or averages over windows; without a kernel they divide the input.

    full: an average divides by the size of the kernel, padding included.
    sums: it divides by nothing.
    """

    axes: int
    averages: bool
    kernel: Kernel | None = None
    full: bool = True
    sums: bool = False
    kind: ClassVar[Kind | None] = "pool"

    def window(self, x: Tensor, out: Tensor) -> Window:
        sizes = channels_and_places(x, self.axes), channels_and_places(out, self.axes)
        if self.kernel is not None:
            return Window(*sizes, *self.kernel)
        pairs = list(zip(*sizes, strict=True))[1:]
        size = tuple(max(-(-size // out), *adaptive_reads(size, out)) for size, out in pairs)
        stride = tuple(max(1, size // out) for size, out in pairs)
        still = (0,) * len(pairs), (1,) * len(pairs)
        return Window(*sizes, size, stride, *still, adaptive=True)

    def area(self, window: Window) -> int | None:
        """Elements averaged, 1 for a maximum; None: unevenly many."""
        if not self.averages:
            return 1
        sizes = list(zip(window.in_shape[1:], window.out_shape[1:], strict=True))
        if self.kernel is None:
            even = all(size % out == 0 or out % size == 0 for size, out in sizes)
            return math.prod(max(1, size // out) for size, out in sizes) if even else None
        # ceil_mode lets the last window reach beyond the padding.
        inside = all(
            (out - 1) * stride + kernel <= size + 2 * padding
            for (size, out), kernel, stride, padding, _ in zip(sizes, *self.kernel, strict=True)
        )
        return math.prod(self.kernel.size) if self.full and inside else None

    def sends(self, inputs: tuple[Node, ...], window: Window | None) -> tuple[Carries, Grid | None]:
        source, area = inputs[0], self.area(window) if window else None
        if area is None:
            return "analog" if source.spiking else source.carries, None
        factor = 1.0 if self.sums else 1 / area
        return source.carries, source.grid and source.grid.scaled(factor, source.grid.levels * area)


def max_pool(axes, signals, input, kernel_size, stride=None, padding=0, dilation=1, *_, **__):
    return Pool(axes, False, _windows(axes, kernel_size, stride, padding, dilation))


def avg_pool(axes, signals, input, kernel_size, stride=None, padding=0, *further, **named):
    _, padded, divisor = (*further, *(False, True, None)[len(further) :])
    kernel = _windows(axes, kernel_size, stride, padding)
    padded = named.get("count_include_pad", padded) or not any(kernel.padding)
    full = padded and named.get("divisor_override", divisor) is None
    return Pool(axes, True, kernel, full)


def power_pool(axes, signals, input, norm_type, kernel_size, stride=None, ceil_mode=False):
    """Of power 1 the sum of each window of spikes."""
    signal = signals.known(input)
    if norm_type != 1 or signal is None or signal.node.carries == "potential":
        return Unknown(label=f"lp_pool{axes}d")
    return Pool(axes, True, _windows(axes, kernel_size, stride), sums=True)


def _windows(axes: int, size: Any, stride: Any, padding: Any = 0, dilation: Any = 1) -> Kernel:
    """Without a stride, windows do not overlap."""
    size = per_axis(size, axes)
    stride = size if stride in (None, (), []) else per_axis(stride, axes)
    return Kernel(size, stride, per_axis(padding, axes, missing=0), per_axis(dilation, axes))


def reduction(averages, signals, input, dim=None, *_, **__) -> Effect:
    """A mean or sum: over the image a pooling; over time, potentials go on in the same memory."""
    signal, rank = signals.known(input), input.dim()
    dims = sorted(d % rank for d in ((dim,) if isinstance(dim, int) else dim or ()))
    if signal is None:
        return Unknown()
    if dims == [rank - 2, rank - 1] and rank >= 4 and averages:
        return Pool(2, averages=True, label="pool")
    time = signals.layout.time_axis(tuple(input.shape))
    if dims != [time]:
        return Unknown()
    steps, spikes = input.shape[time], signal.node.spiking
    return PassThrough(
        1 / steps if averages else 1.0,
        steps,
        over_time=spikes,
        note="additions of spikes" if spikes else "",
        label=f"{'mean' if averages else 'sum'} over time",
    )


POOL_RULES: tuple[tuple[str, Rule, str], ...] = (
    *(
        ("pool", rule, f"{name}_pool{axes}d {name}_pool{axes}d_with_indices")
        for axes in (1, 2, 3)
        for name, rule in (
            ("max", partial(max_pool, axes)),
            ("avg", partial(avg_pool, axes)),
            ("lp", partial(power_pool, axes)),
            ("adaptive_max", always(Pool(axes, averages=False))),
            ("adaptive_avg", always(Pool(axes, averages=True))),
        )
    ),
    ("mean", partial(reduction, True), "mean"),
    ("sum", partial(reduction, False), "sum"),
)
