"""Sums, products, functions and views: their effects, and a rule for each operation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from multispike.activity.counting import Grid, joined_grids
from multispike.activity.layout import Window
from multispike.activity.provenance import Carries, Effect, Layer, Node, Signal, Unknown, aligned
from multispike.activity.signals import Rule, Signals
from multispike.layer_record import Kind


@dataclass
class Merge(Effect):
    """A residual sum; or a product of spikes (AND, IAND), which touches the same memory.

    tops: of a product, V where an operand a stands for V - a, else 0.
    """

    product: bool = False
    tops: tuple[float, ...] = ()
    kind: ClassVar[Kind | None] = "add"

    def sends(self, inputs: tuple[Node, ...], window: Window | None) -> tuple[Carries, Grid | None]:
        grids = [node.grid for node in inputs if node.grid is not None]
        if self.product and all(node.spiking for node in inputs):
            # Of neurons that have been silent so far, V - a is V.
            pairs = zip(inputs, self.tops, strict=True)
            known = [node.grid or (Grid(top, 1) if top else None) for node, top in pairs]
            return "spikes", known[0].times(known[1]) if known[0] and known[1] else None
        carries = _common(inputs)
        if carries != "spikes" or not grids:
            return carries, None
        return carries, grids[0].scaled(1.0, sum(grid.levels for grid in grids))


@dataclass
class Activation(Effect):
    """A ReLU or another function whose output is analog, and its zeros counted; `limit` is where it
    cuts off spikes, which stay spikes if that is one of their levels."""

    limit: float | None = None

    def sends(self, inputs: tuple[Node, ...], window: Window | None) -> tuple[Carries, Grid | None]:
        grid = inputs[0].grid
        if self.limit is not None and grid is not None and grid.channel is None:
            top = self.limit / grid.step
            if inputs[0].spiking and round(top) >= 1 and abs(top - round(top)) < 1e-3:
                return "spikes", Grid(grid.step, min(grid.levels, round(top)))
        return "analog", None


@dataclass
class PassThrough(Effect):
    """A constant factor, a sum over time, a norm: costs nothing that a record could show.

    factor: positive; a number, or one for each channel.
    levels: how many timesteps are added up.
    over_time: spikes are added up over time.
    carries: if other than what comes in.
    joined: channels of each input, where their channels are joined.
    """

    factor: float | tuple[float, ...] = 1.0
    levels: int = 1
    over_time: bool = False
    carries: Carries | None = None
    joined: tuple[int, ...] = ()
    costless: ClassVar[bool] = True

    def sends(self, inputs: tuple[Node, ...], window: Window | None) -> tuple[Carries, Grid | None]:
        carries = self.carries or _common(inputs)
        grids = [node.grid for node in inputs if node.grid is not None]
        if self.joined and carries == "analog" and all(node.spiking for node in inputs):
            return "spikes", joined_grids([node.grid for node in inputs], self.joined)
        if carries != "spikes" or not grids:
            return carries, None
        levels = max(grid.levels for grid in grids) * self.levels
        return carries, grids[0].scaled(self.factor, levels)


@dataclass
class Carry(Effect):
    """The result, or `target`, carries that signal: the same values, or some that cost no more.

    folds: the layer that a batch norm is part of; the result is finite if its constants are.
    """

    signal: Signal | None
    target: Tensor | None = None
    folds: Layer | None = None
    finite: tuple[Tensor, ...] = ()


@dataclass
class Reorder(Effect):
    """Some of the values, or all in another order, several times, or joined (see `PassThrough`)."""

    joined: tuple[int, ...] = ()


def _common(nodes: tuple[Node, ...]) -> Carries:
    """What a sum or a concatenation carries: spikes if all do, in the same steps."""
    kinds = {node.carries for node in nodes}
    if kinds == {"spikes"}:
        return "spikes" if aligned(nodes) else "analog"
    # Spikes that meet analog values or potentials add to them in place.
    return "analog" if kinds == {"analog"} else "potential"


def unchanged(signals: Signals, input: Any, *_: Any, **__: Any) -> Effect:
    return Carry(signals.signal(input))


def always(effect: Effect | None) -> Rule:
    """The rule of operations whose effect hangs on none of their arguments."""
    return lambda signals, *_, **__: effect


# --- sums, products, constants ------------------------------------------------------------------


def add(signals: Signals, input: Any, other: Any, *, alpha: Any = 1, **_: Any) -> Effect:
    """A residual sum, a layer's own sum over time, or a constant."""
    a, b = signals.known(input), signals.known(other)
    if (signal := a or b) is None or alpha != 1:
        return Unknown()
    if a is None or b is None:
        constant = input if a is None else other
        zero = isinstance(constant, (int, float)) and constant == 0
        if signal.node.spiking and not zero:
            return Unknown(of=signal)
        foreign = isinstance(constant, Tensor) and constant.dim() > 0
        note = "of a tensor that no layer here computed" if foreign else ""
        return Carry(Signal(signal.node), note=note)
    if signals.inside_neuron or input.shape != other.shape:
        return Unknown()
    note = "spikes of one layer added up over time" if a.node.spiking else ""
    (one, count), (same, more) = _summand(a.node), _summand(b.node)
    if one is same and a.node.spiking and b.node.spiking:
        return PassThrough(levels=count + more, over_time=True, of=Signal(one), note=note)
    if a.node is b.node or (a.node.owner is not None and a.node.owner is b.node.owner):
        return Carry(Signal(a.node), note=note)  # one layer over time, in its own memory
    return Merge()


def _summand(node: Node) -> tuple[Node, int]:
    """What a node is a sum over time of, and how many of it; or itself."""
    effect = node.effect
    if isinstance(effect, PassThrough) and effect.over_time and effect.factor == 1:
        return node.inputs[0], effect.levels
    return node, 1


def mul(signals: Signals, input: Any, other: Any, **_: Any) -> Effect:
    """A product of spikes (AND, IAND), or a constant factor."""
    a, b = signals.known(input), signals.known(other)
    if a is None or b is None:
        return _scale(a, other, input, 1) if b is None else _scale(b, input, input, 1)
    tops = a.top, b.top
    a, b = a.inverted or a, b.inverted or b
    spikes = a.node.spiking and b.node.spiking and a.node is not b.node
    if not spikes or input.shape != other.shape or signals.inside_neuron:
        return Unknown()
    return Merge(product=True, tops=tops)


def div(signals: Signals, input: Any, other: Any, **kwargs: Any) -> Effect:
    if signals.known(other) is not None or kwargs.get("rounding_mode") is not None:
        return Unknown()
    return _scale(signals.known(input), other, input, -1)


def _scale(signal: Signal | None, other: Any, x: Any, power: int) -> Effect:
    """Times a constant, which becomes part of the weights that follow."""
    if signal is None:
        return Unknown()
    number = isinstance(other, (int, float)) or (isinstance(other, Tensor) and not other.dim())
    factor = _constant(other, x)
    if not signal.node.spiking and (number or factor is not None):
        return Carry(Signal(signal.node))
    if factor is None:
        return Unknown()
    if isinstance(factor, Tensor):
        return PassThrough(tuple((factor.double() ** power).flatten().tolist()), of=signal)
    return PassThrough(factor**power, of=signal)


def _constant(value: Any, x: Tensor) -> Any:
    """A positive number, or one for each channel of x [..., C, H, W]; None for anything else."""
    if isinstance(value, Tensor):
        if value.dim() == 0:
            value = value.item()
        else:
            channels = value.dim() >= 3 and value.numel() == value.shape[-3] == x.shape[-3]
            return value.detach().cpu() if channels and bool((value > 0).all()) else None
    return float(value) if isinstance(value, (int, float)) and value > 0 else None


def sub(signals: Signals, input: Any, other: Any, *, alpha: Any = 1, **_: Any) -> Effect:
    """Potentials minus a constant, or V_th - a."""
    a, b = signals.known(input), signals.known(other)
    if a is None and b is not None and alpha == 1:  # V_th - a, if neurons send no more than V_th
        grid, factor = b.node.grid, _constant(input, other)
        if factor is None or not b.node.spiking:
            return Unknown(of=b)
        given = torch.as_tensor(factor).double().flatten()
        if grid is not None:
            unit = grid.unit((other.shape[-3], 1, 1) if other.dim() > 3 else (1,))
            expected = torch.as_tensor(unit).flatten().double() * grid.levels
            if not torch.allclose(expected, given, rtol=1e-5):
                return Unknown(of=b)
        return Carry(Signal(b.node, inverted=b, top=float(given.max())))
    if a is not None and b is None and not a.node.spiking:
        number = not (isinstance(other, Tensor) and other.dim())
        if number or a.node.coded:  # also the mean of each colour
            return Carry(Signal(a.node))
    return Unknown()


def rsub(signals: Signals, input: Any, other: Any, **options: Any) -> Effect:
    return sub(signals, other, input, **options)


def relu(signals: Signals, input: Tensor, *_: Any, **__: Any) -> Effect:
    """A comparison, free; spikes stay what they are."""
    signal = signals.known(input)
    if signal is None or not signal.node.spiking:
        return Activation()
    grid = signal.node.grid
    return Activation(grid.step) if grid is not None and grid.signed else Carry(signal)


def clamp(signals: Signals, input: Tensor, min: Any = None, max: Any = None, **_: Any) -> Effect:
    """Spikes limited to some of their levels are spikes; else an activation."""
    signal = signals.known(input)
    numbers = all(limit is None or isinstance(limit, (int, float)) for limit in (min, max))
    if signal is None or not signal.node.spiking or not numbers or (min or 0) > 0:
        return Activation(label="activation")
    return Carry(signal) if max is None else Activation(float(max))


# --- views and copies ---------------------------------------------------------------------------


def join(signals: Signals, tensors: Sequence[Tensor], dim: int = 0, **_: Any) -> Effect:
    """cat, stack: no cost; spikes stay spikes if their steps are the same, or known by channel."""
    if not tensors or any(signals.known(tensor) is None for tensor in tensors):
        return Unknown()
    rank = max(1, tensors[0].dim())
    by_channel = dim % rank in (rank - 1, rank - 3) and dim % rank > 0 and rank != 3
    return Reorder(joined=tuple(x.shape[dim] for x in tensors) if by_channel else ())


def write(signals: Signals, target: Tensor, index: Any, value: Any = None) -> Effect:
    """target[index] = value, target.copy_(value): what was counted of the target is old then."""
    signal = signals.signal(index if value is None else value) or signals.signal(target)
    return Carry(signal and Signal(signal.node), target)


def pad(signals, input, pad, mode="constant", value=None) -> Effect:
    """Zeros at the border change no event."""
    copies = mode != "constant" or value
    return Reorder(note="copies of values at the border" if copies else "")


def dropout(signals, input, p=0.5, training=True, *_, **__) -> Effect:
    return Unknown() if training else unchanged(signals, input)


def interpolate(signals: Signals, input: Tensor, *args: Any, **kwargs: Any) -> Effect:
    """Nearest neighbours are copies, other values are new."""
    copies = kwargs.get("mode", "nearest").startswith("nearest")
    return Reorder(note="copies of values") if copies else Unknown()


MOVED, ANALOG = always(Reorder()), always(Activation())
COMPUTED = always(Activation(note="exponentials or divisions of this function"))
ELEMENTWISE_RULES: tuple[tuple[str, Rule, str], ...] = (
    ("add", add, "add add_ __radd__ __iadd__"),
    ("mul", mul, "mul mul_ multiply __rmul__ __imul__"),
    ("div", div, "div div_ divide true_divide __itruediv__"),
    ("sub", sub, "sub sub_ subtract __isub__"),
    ("sub", rsub, "rsub __rsub__"),
    ("cat", join, "cat concat concatenate"),
    ("cat", lambda signals, tensors, *_, **__: join(signals, tensors), "stack"),
    ("activation", relu, "relu relu_"),
    ("activation", ANALOG, "relu6 hardtanh hardtanh_ leaky_relu leaky_relu_ prelu threshold"),
    ("activation", ANALOG, "clamp_min clamp_min_"),
    ("activation", COMPUTED, "gelu silu sigmoid tanh softplus elu celu selu mish"),
    ("activation", COMPUTED, "hardswish hardsigmoid softmax log_softmax rrelu"),
    ("clamp", clamp, "clamp clamp_ clip clip_"),
    ("clamp", lambda signals, input, max: clamp(signals, input, max=max), "clamp_max clamp_max_"),
    ("view", unchanged, "flatten unflatten view view_as reshape reshape_as ravel squeeze squeeze_"),
    ("view", unchanged, "unsqueeze unsqueeze_ contiguous clone detach detach_ to float double"),
    ("view", unchanged, "half bfloat16 type type_as cpu cuda alias requires_grad_ identity"),
    ("part", MOVED, "__getitem__ select narrow index_select unbind chunk split tensor_split"),
    ("part", MOVED, "expand expand_as repeat repeat_interleave permute transpose swapaxes t"),
    ("part", MOVED, "movedim flip roll pixel_shuffle pixel_unshuffle channel_shuffle adjoint"),
    ("part", MOVED, "broadcast_to zero_pad2d T mT H mH data real imag"),
    ("write", write, "__setitem__ copy_"),
    ("pad", pad, "pad"),
    ("dropout", dropout, "dropout dropout1d dropout2d dropout3d feature_dropout alpha_dropout"),
    ("dropout", dropout, "feature_alpha_dropout"),
    ("interpolate", interpolate, "interpolate upsample"),
    ("constant", always(None), "zeros_like ones_like empty_like full_like rand_like randn_like"),
    ("constant", always(None), "new_zeros new_ones new_full new_empty new_tensor"),
    ("size", always(None), "shape ndim dtype device size dim stride numel _assert __len__"),
    ("size", always(None), "is_floating_point is_contiguous is_cuda layout requires_grad"),
)
"""(what notes call it, rule, spellings): functions, methods, operators, in place."""

_NEURON_FUNCTIONS = (
    "bool int long add sub mul div eq ne lt le gt ge where sign heaviside floor ceil round trunc"
    " abs neg pow exp log sqrt square minimum maximum remainder fmod lerp logical_and logical_or"
    " logical_not masked_fill masked_fill_ floor_ ceil_ round_ exp_ neg_ pow_ activation"
)
NEURON_FUNCTIONS = frozenset(_NEURON_FUNCTIONS.split())
"""Functions that no rule counts and a neuron may consist of: their output is of the same layer."""
FURTHER = frozenset(("mul", "pow", "square", "exp", "exp_", "log", "sqrt"))
"""Of these, what a neuron may do to its state beside a decay: quadratic and exponential terms."""
