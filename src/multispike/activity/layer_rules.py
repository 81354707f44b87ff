"""Convolutions, linear layers, products, norms and poolings: their effects, and their rules.

A rule gets what an operation gets, and returns its effect. It is asked before the operation runs,
since that may write over its inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from types import FunctionType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from multispike.activity.elementwise_rules import PassThrough, always
from multispike.activity.grid import Grid
from multispike.activity.layout import Shape, Window, adaptive_reads
from multispike.activity.provenance import Carries, Effect, Kind, Node, Unknown
from multispike.activity.signals import Rule, Signals


class Kernel(NamedTuple):
    """One size an axis; a 1-d layer is one of height 1."""

    size: Shape = (1, 1)
    stride: Shape = (1, 1)
    padding: Shape = (0, 0)
    dilation: Shape = (1, 1)


_POINT = Kernel()


@dataclass(frozen=True)
class Synapses(Effect):
    """Inputs times weights: a convolution over `axes` axes, or (0) a linear layer.

    sizes: inputs and outputs of a linear layer, where the axes of its operands don't tell.
    weight: what tells apart layers of one place; None for weights that are computed at each call.
    """

    axes: int = 0
    sizes: tuple[int, int] | None = None
    weight: Hashable = None
    bias: bool = field(default=False, compare=False)
    kernel: Kernel = _POINT
    groups: int = 1
    transposed: bool = False

    @property
    def kind(self) -> Kind:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "conv" if self.axes else "linear" if self.groups == 1 else "matmul"

    def window(self, x: Tensor, out: Tensor) -> Window:
        """The geometry, from x to the output."""
        shapes = _sizes(x, self.axes), _sizes(out, self.axes)
        if self.sizes is not None:
            shapes = (self.sizes[:1], self.sizes[1:])
        return Window(*shapes, *self.kernel, self.groups, self.transposed)


@dataclass(frozen=True)
class Product(Effect):
    """A matmul of two operands of the network, the one that `of` is of times the other.

    rows, inputs, outputs: sizes [m, k] of the first, [k, n] of the second.
    """

    rows: int = 1
    inputs: int = 1
    outputs: int = 1
    kind: ClassVar[Kind | None] = "matmul"


@dataclass(frozen=True)
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
        """The geometry, from x to the output."""
        sizes = _sizes(x, self.axes), _sizes(out, self.axes)
        if self.kernel is not None:
            return Window(*sizes, *self.kernel)
        pairs = list(zip(*sizes, strict=True))[1:]
        size = tuple(max(-(-size // out), *adaptive_reads(size, out)) for size, out in pairs)
        stride = tuple(max(1, size // out) for size, out in pairs)
        still = (0,) * len(pairs), (1,) * len(pairs)
        return Window(*sizes, size, stride, *still, adaptive=True)

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
            for (size, out), kernel, stride, padding, _ in zip(sizes, *self.kernel, strict=True)
        )
        return math.prod(self.kernel.size) if self.full and inside else None

    def sends(self, inputs: tuple[Node, ...], window: Window | None) -> tuple[Carries, Grid | None]:
        source, area = inputs[0], self.area(window) if window else None
        if area is None:
            return "analog" if source.carries == "spikes" else source.carries, None
        factor = 1.0 if self.sums else 1 / area
        return source.carries, source.grid and source.grid.scaled(factor, source.grid.levels * area)


@dataclass(frozen=True)
class Parts(Effect):
    """Nothing by itself: `run` does it by operations that have rules of their own."""

    run: Callable[[], Any]


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
    *,
    transposed: bool = False,
) -> Effect:
    """Convolutions over 1 to 3 axes."""
    axes = weight.dim() - 2
    size, dilation = per_axis(tuple(weight.shape[2:]), axes), per_axis(dilation, axes)
    if padding == "same":  # asymmetric for even kernels: the further side is the longer one
        padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, size, strict=True))[-axes:]
    padding = per_axis(0 if padding == "valid" else padding, axes, missing=0)
    kernel = Kernel(size, per_axis(stride, axes), padding, dilation)
    weights = {"weight": _identity(weight), "bias": bias is not None}
    return Synapses(axes, **weights, kernel=kernel, groups=groups, transposed=transposed)


def conv_transpose(
    signals: Signals,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Effect:
    """Every input is spread over a kernel of outputs."""
    constants = (stride, padding, dilation, groups)
    return conv(signals, input, weight, bias, *constants, transposed=True)


def linear(signals: Signals, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Effect:
    """x W^T, for every row of x."""
    return Synapses(weight=_identity(weight), bias=bias is not None)


def _identity(weight: Tensor) -> int | None:
    """What tells one weight from another; None for those that are computed anew for every call."""
    return id(weight) if isinstance(weight, nn.Parameter) else None


# --- products -----------------------------------------------------------------------------------


def matmul(signals: Signals, input: Tensor, other: Tensor, *_: Any, **__: Any) -> Effect:
    """a @ b."""
    rows = input.shape[-2] if input.dim() > 1 else 1
    columns = other.shape[-1] if other.dim() > 1 else 1
    return _product(signals, (input, rows), (other, columns), input.shape[-1])


def add_matmul(signals: Signals, input: Tensor, a: Tensor, b: Tensor, **_: Any) -> Effect:
    """input + a @ b."""
    effect = matmul(signals, a, b)
    return replace(effect, bias=True) if isinstance(effect, Synapses) else effect


def einsum(signals: Signals, equation: Any, *operands: Any) -> Effect:
    """Two operands, in the notation of letters."""
    operands = operands[0] if len(operands) == 1 else operands
    if not isinstance(equation, str) or "." in equation or len(operands) != 2:
        return Unknown()
    terms, _, out = equation.replace(" ", "").partition("->")
    letters = terms.split(",")
    sizes = dict(zip("".join(letters), [n for x in operands for n in x.shape], strict=True))

    def product(of: Iterable[str]) -> int:
        return math.prod(sizes[letter] for letter in of)

    a, b = map(set, letters)
    summed = product((a & b) - set(out or a ^ b))
    return _product(signals, (operands[0], product(a - b)), (operands[1], product(b - a)), summed)


def _product(signals: Signals, a: tuple[Tensor, int], b: tuple[Tensor, int], summed: int) -> Effect:
    """Two operands with the sizes that are theirs alone, and the size of what is summed over."""
    first, second = (signals.known(x) or signals.signal(x) for x, _ in (a, b))
    if signals.inside_neuron or (first is None and second is None):
        return Unknown()
    spikes = [signal is not None and signal.node.carries == "spikes" for signal in (first, second)]
    if first is None or (second is not None and spikes == [False, True]):  # events come first
        a, b, first, second = b, a, second, first
    if second is not None:
        return Product(rows=a[1], inputs=summed, outputs=b[1], of=first)
    groups = b[0].numel() // (summed * b[1])
    sizes = summed * groups, b[1] * groups
    return Synapses(sizes=sizes, weight=_identity(b[0]), groups=groups, of=first)


# --- what consists of other operations ------------------------------------------------------------


def attention(
    signals: Signals,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Effect:
    """softmax(q k^T) v."""

    def run() -> Tensor:
        mask, keys, values = attn_mask, key, value
        if enable_gqa:
            copies = query.shape[-3] // key.shape[-3]
            keys, values = (x.repeat_interleave(copies, -3) for x in (key, value))
        scores = query @ keys.transpose(-2, -1) * (scale or query.shape[-1] ** -0.5)
        if is_causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -math.inf)
        return torch.softmax(scores if mask is None else scores + mask, -1) @ values

    return Parts(run)


def multi_head_attention(signals: Signals, *args: Any, **kwargs: Any) -> Effect:
    """Projections, attention and a projection, as torch composes them."""
    composed = nn.functional.multi_head_attention_forward
    scope = {**composed.__globals__, "has_torch_function": lambda _: False}
    run = FunctionType(composed.__code__, scope, argdefs=composed.__defaults__)
    return Parts(partial(run, *args, **kwargs))


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
    """Max-pooling over 1 to 3 axes."""

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
        return Pool(axes, False, _windows(axes, kernel_size, stride, padding, dilation))

    return rule


def avg_pool(axes: int) -> Rule:
    """Average pooling over 1 to 3 axes."""

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
        kernel = _windows(axes, kernel_size, stride, padding)
        full = divisor_override is None and (count_include_pad or not any(kernel.padding))
        return Pool(axes, True, kernel, full)

    return rule


def power_pool(axes: int) -> Rule:
    """Of power 1 the sum of each window of spikes."""

    def rule(
        signals: Signals,
        input: Tensor,
        norm_type: float,
        kernel_size: Any,
        stride: Any = None,
        ceil_mode: bool = False,
    ) -> Effect:
        signal = signals.known(input)
        if norm_type != 1 or signal is None or signal.node.carries == "potential":
            return Unknown(label=f"lp_pool{axes}d")
        return Pool(axes, True, _windows(axes, kernel_size, stride), sums=True)

    return rule


def _windows(axes: int, size: Any, stride: Any, padding: Any = 0, dilation: Any = 1) -> Kernel:
    """Without a stride, windows do not overlap."""
    size = per_axis(size, axes)
    stride = size if stride in (None, (), []) else per_axis(stride, axes)
    return Kernel(size, stride, per_axis(padding, axes, missing=0), per_axis(dilation, axes))


def reduction(averages: bool) -> Rule:
    """A mean or sum: over the image a pooling; over time, potentials go on in the same memory."""

    def rule(signals: Signals, input: Tensor, dim: Any = None, *_: Any, **__: Any) -> Effect:
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
            label=f"{'mean' if averages else 'sum'} over time",
        )

    return rule


def planes(x: Tensor, axes: int) -> Tensor:
    """x [..., C, L] as [..., C, 1, L]; else as it is."""
    return x.unsqueeze(-2) if axes == 1 else x


def _sizes(x: Tensor, axes: int) -> Shape:
    """[C, H, W] of a layer over some axes; [F] of one without."""
    return tuple(planes(x, axes).shape[-1 - max(axes, 2) if axes else -1 :])


def per_axis(value: Any, axes: int, missing: int = 1) -> Shape:
    """One size an axis, of a number or tuple; a 1-d layer has height `missing`."""
    value = (value,) if isinstance(value, int) else tuple(int(v) for v in value)
    value = value * axes if len(value) == 1 else value
    return (missing, *value) if axes == 1 else value


NORM = always(PassThrough(carries="potential", note="runs at every inference"))
"""A norm that stays: its result is potentials."""
LAYER_RULES: tuple[tuple[str, Rule, str], ...] = (
    ("conv", conv, "conv1d conv2d conv3d"),
    ("conv", conv_transpose, "conv_transpose1d conv_transpose2d conv_transpose3d"),
    ("linear", linear, "linear"),
    ("matmul", matmul, "matmul __matmul__ __rmatmul__ mm bmm mv"),
    ("matmul", add_matmul, "addmm baddbmm"),
    ("matmul", einsum, "einsum"),
    ("attention", attention, "scaled_dot_product_attention"),
    ("attention", multi_head_attention, "multi_head_attention_forward"),
    ("norm", batch_norm, "batch_norm"),
    ("norm", NORM, "layer_norm group_norm instance_norm rms_norm local_response_norm"),
    *(
        ("pool", make(axes), f"{name}_pool{axes}d {name}_pool{axes}d_with_indices")
        for name, make in (("max", max_pool), ("avg", avg_pool), ("lp", power_pool))
        for axes in (1, 2, 3)
    ),
    *(
        (
            "pool",
            always(Pool(axes, averages)),
            f"{name}_pool{axes}d {name}_pool{axes}d_with_indices",
        )
        for name, averages in (("adaptive_max", False), ("adaptive_avg", True))
        for axes in (1, 2, 3)
    ),
    ("mean", reduction(averages=True), "mean"),
    ("sum", reduction(averages=False), "sum"),
)
"""(what notes call it, rule, spellings)."""
