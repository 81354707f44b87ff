"""Convolutions, linear layers, products and norms: their effects, and their rules.

A rule gets what an operation gets, before that runs, since it may write over its inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from multispike.activity.elementwise_rules import Activation, Carry, PassThrough, always
from multispike.activity.layout import Shape, Window
from multispike.activity.provenance import Effect, Node, Signal, Unknown
from multispike.activity.signals import Rule, Signals
from multispike.layer_record import Kind


class Kernel(NamedTuple):
    """One size an axis; a 1-d layer is one of height 1."""

    size: Shape = (1, 1)
    stride: Shape = (1, 1)
    padding: Shape = (0, 0)
    dilation: Shape = (1, 1)


_POINT = Kernel()


@dataclass
class Synapses(Effect):
    """Inputs times weights: a convolution over `axes` axes, or (0) a linear layer.

    sizes: inputs and outputs of a linear layer, where the axes of its operands don't tell.
    rows: of a matmul of two operands of the network, those of the one that `of` is of.
    weight: what tells apart layers of one place; None for weights that are computed at each call.
    table: rows of an embedding's table, whose inputs are indices of them.
    density: as `layer_record.Synapses.weight_density`.
    """

    axes: int = 0
    sizes: tuple[int, int] | None = None
    rows: int | None = None
    weight: Hashable = None
    table: int = 0
    density: float | None = field(default=None, compare=False)
    bias: bool = field(default=False, compare=False)
    kernel: Kernel = _POINT
    groups: int = 1
    transposed: bool = False

    @property
    def kind(self) -> Kind:  # pyright: ignore[reportIncompatibleVariableOverride]
        if self.axes:
            return "conv"
        return "linear" if self.groups == 1 and self.rows is None else "matmul"

    def window(self, x: Tensor, out: Tensor) -> Window:
        shapes = channels_and_places(x, self.axes), channels_and_places(out, self.axes)
        if self.sizes is not None:
            shapes = (self.sizes[:1], self.sizes[1:])
        return Window(*shapes, *self.kernel, self.groups, self.transposed)


@dataclass
class Parts(Effect):
    """Nothing by itself: `run` does it by operations that have rules of their own."""

    run: Callable[[], Any]


# --- layers with weights ------------------------------------------------------------------------


def conv(
    signals, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, transposed=False
) -> Effect:
    axes = weight.dim() - 2
    size, dilation = per_axis(tuple(weight.shape[2:]), axes), per_axis(dilation, axes)
    if padding == "same":  # asymmetric for even kernels: the further side is the longer one
        padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, size, strict=True))[-axes:]
    padding = per_axis(0 if padding == "valid" else padding, axes, missing=0)
    kernel = Kernel(size, per_axis(stride, axes), padding, dilation)
    options = {"bias": bias is not None, "groups": groups, "transposed": transposed}
    return Synapses(axes, **_weights(signals, weight), **options, kernel=kernel)


def conv_transpose(
    signals, input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
) -> Effect:
    """Every input is spread over a kernel of outputs."""
    return conv(signals, input, weight, bias, stride, padding, dilation, groups, transposed=True)


def linear(signals: Signals, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Effect:
    return Synapses(**_weights(signals, weight), bias=bias is not None)


def _weights(signals: Signals, weight: Tensor) -> dict[str, Any]:
    """What tells one weight from another, and how sparse it is."""
    return {"weight": _identity(weight), "density": signals.density(weight)}


def _identity(weight: Tensor) -> int | None:
    return id(weight) if isinstance(weight, nn.Parameter) else None


def embedding(bags, signals, input, weight, *_, per_sample_weights=None, **__) -> Effect | None:
    """A row for each index, or the sum of those of a bag; the same at every inference if the
    indices are."""
    if signals.signal(input) is None:
        return None
    if bags and (input.dim() != 2 or per_sample_weights is not None):
        return Unknown()
    sizes = (input.shape[1] if bags else 1, weight.shape[1])
    return Synapses(sizes=sizes, table=len(weight), weight=_identity(weight))


def matmul(signals: Signals, input: Tensor, other: Tensor, *_: Any, **__: Any) -> Effect:
    rows = input.shape[-2] if input.dim() > 1 else 1
    columns = other.shape[-1] if other.dim() > 1 else 1
    return _product(signals, (input, rows), (other, columns), input.shape[-1])


def add_matmul(signals: Signals, input: Tensor, a: Tensor, b: Tensor, **_: Any) -> Effect:
    effect = matmul(signals, a, b)
    return replace(effect, bias=True) if isinstance(effect, Synapses) else effect


def einsum(signals: Signals, equation: Any, *operands: Any) -> Effect:
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
    """Two operands, the size that is each one's alone, and the size of what is summed over."""
    first, second = (signals.known(x) or signals.signal(x) for x, _ in (a, b))
    if signals.inside_neuron or (first is None and second is None):
        return Unknown()
    spikes = [signal is not None and signal.node.spiking for signal in (first, second)]
    if first is None or (second is not None and spikes == [False, True]):  # events come first
        a, b, first, second = b, a, second, first
    if second is not None:
        return Synapses(sizes=(summed, b[1]), rows=a[1], of=first)
    groups = b[0].numel() // (summed * b[1])
    sizes = summed * groups, b[1] * groups
    return Synapses(sizes=sizes, **_weights(signals, b[0]), groups=groups, of=first)


# --- what consists of other operations ------------------------------------------------------------


def attention(
    signals, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **options
) -> Effect:

    def run() -> Tensor:
        mask, keys, values = attn_mask, key, value
        if options.get("enable_gqa"):
            copies = query.shape[-3] // key.shape[-3]
            keys, values = (x.repeat_interleave(copies, -3) for x in (key, value))
        scale = options.get("scale") or query.shape[-1] ** -0.5
        scores = query @ keys.transpose(-2, -1) * scale
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


def recurrent(name, signals, input, hx, params, *options) -> Effect:
    """LSTM, GRU, RNN: of each layer and direction two linear layers; their gates are noted."""
    function, cell = getattr(torch._VF, name), name.endswith("_cell")
    if signals.inside_neuron or not (cell or isinstance(params, (tuple, list))):
        return Unknown()  # of packed sequences
    ways = 2 if not cell and options[4] else 1

    def run() -> Any:
        if cell:
            with torch._C.DisableTorchFunction():
                out = function(input, hx, params, *options)
            counted(input, out if isinstance(out, Tensor) else out[0], (params, *options), hx)
            return out
        has_biases, layers, *_, batch_first = options
        x, ends, each = input, [], len(params) // options[1]
        for layer in range(layers):
            own = params[layer * each : (layer + 1) * each]
            one = slice(layer * ways, (layer + 1) * ways)
            state = tuple(h[one] for h in hx) if isinstance(hx, tuple) else hx[one]
            with torch._C.DisableTorchFunction():
                once = (has_biases, 1, 0.0, False, ways == 2, batch_first)
                y, *end = function(x, state, own, *once)
            counted(x, y, own, y)
            x, ends = y, [*ends, end]
        return (x, *(torch.cat(parts) for parts in zip(*ends, strict=True)))

    def counted(x: Tensor, y: Tensor, weights: Any, hidden: Any) -> None:
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        node = None
        for way in range(ways):
            inward, back = weights[way * len(weights) // ways :][:2]
            drive = signals.signal(nn.functional.linear(x, inward))
            if node is None and drive is not None:
                make = partial(Node, effect=Activation(), inputs=(drive.node,))
                node = signals.place(signals.here(name), (drive.node,), name, make)
                node.shape = (y.shape[-1],)
                signals.send(node, y, y, node.shape)
                if signals.signal(hidden) is None:
                    signals.tag(hidden, Signal(node))
            size = back.shape[1]
            nn.functional.linear(hidden[..., way * size : (way + 1) * size], back)

    return Parts(run, note="products and functions of its gates")


def batch_norm(
    signals, input, running_mean, running_var, weight=None, bias=None, training=False, *_, **__
) -> Effect:
    """Part of the convolution or linear layer before it, where there is one."""
    signal = signals.signal(input)
    layer = signal.node.owner if signal is not None else None
    below = layer.foldable if layer is not None and layer.carries == "potential" else None
    if signal is None or below is None:
        why = "not behind a convolution or linear layer that it could be folded into"
    elif training or running_mean is None:
        why = "its statistics are not constant"
    else:
        constants = (running_mean, running_var, weight, bias)
        finite = tuple(value for value in constants if value is not None)
        return Carry(Signal(signal.node), folds=below, finite=finite)
    return PassThrough(carries="potential", note=why)


def planes(x: Tensor, axes: int) -> Tensor:
    """x [..., C, L] as [..., C, 1, L]; else as it is."""
    return x.unsqueeze(-2) if axes == 1 else x


def channels_and_places(x: Tensor, axes: int) -> Shape:
    """[C, H, W] of a layer over some axes; [F] of one without."""
    return tuple(planes(x, axes).shape[-1 - max(axes, 2) if axes else -1 :])


def per_axis(value: Any, axes: int, missing: int = 1) -> Shape:
    """One size an axis, of a number or tuple; a 1-d layer has height `missing`."""
    value = (value,) if isinstance(value, int) else tuple(map(int, value))
    value = value * axes if len(value) == 1 else value
    return (missing, *value) if axes == 1 else value


NORM = always(PassThrough(carries="potential", note="runs at every inference"))
"""A norm that stays: its result is potentials."""
LAYER_RULES: tuple[tuple[str, Rule, str], ...] = (
    ("conv", conv, "conv1d conv2d conv3d"),
    ("conv", conv_transpose, "conv_transpose1d conv_transpose2d conv_transpose3d"),
    ("linear", linear, "linear"),
    ("embedding", partial(embedding, False), "embedding"),
    ("embedding_bag", partial(embedding, True), "embedding_bag"),
    ("matmul", matmul, "matmul __matmul__ __rmatmul__ mm bmm mv"),
    ("matmul", add_matmul, "addmm baddbmm"),
    ("einsum", einsum, "einsum"),
    ("attention", attention, "scaled_dot_product_attention"),
    ("attention", multi_head_attention, "multi_head_attention_forward"),
    *(
        (name, partial(recurrent, name), name)
        for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu")
        for name in (kind, f"{kind}_cell")
    ),
    ("norm", batch_norm, "batch_norm"),
    ("norm", NORM, "layer_norm group_norm instance_norm rms_norm local_response_norm"),
)
