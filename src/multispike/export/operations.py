"""What each ATen operation becomes in an integer network: the table `RULES`, and its functions.

A function has the operation's own arguments, behind the walk, with a `Signal` or `Potential` for
what depends on the image.
"""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multispike.errors import InputError
from multispike.export.folding import Floats, Potential, Signal, affine, identity, project
from multispike.export.graph import Rule, Value, Walk, firing_of
from multispike.export.layers import POINT, Concat, MaxPool, Merge, SumPool, Window, pooled_shape
from multispike.ops.spikes import spikes

aten = torch.ops.aten


def pair(values: Any) -> tuple[int, int]:
    """A setting of both axes, given as one number or two."""
    first, *more = [values] if isinstance(values, int) else values
    return first, more[0] if more else first


def neurons(walk: Walk, x: Value, v: Any, *settings: Any) -> tuple[Signal, None]:
    if v is not None:
        raise walk.refused("neurons that start from v_init")
    firing, name = firing_of(x, v, *settings), walk.new_name()
    if firing.level.size not in (1, x.shape[0]):
        raise walk.refused(f"one threshold, or {x.shape[0]}, one a channel")
    if isinstance(x, Signal):
        x = identity(walk.new_name(f"{name}.input"), x)
    return walk.builder.neurons(name, firing, x), None


def getitem(walk: Walk, values: tuple[Any, ...], index: int) -> Any:
    if values[index] is None:
        raise walk.refused("neurons whose potential is not read")
    return values[index]


def conv2d(
    walk: Walk, x: Value, weight: Tensor, bias: Tensor | None = None, stride: Any = 1,
    padding: Any = 0, dilation: Any = 1, groups: int = 1,
) -> Potential:  # fmt: skip
    x, kernel = walk.numbers(x), weight.shape[2:]
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(pair(dilation), kernel, strict=True)]
        before, after = [size // 2 for size in total], [size - size // 2 for size in total]
    else:
        before = after = pair(0 if padding == "valid" else padding)
    window = Window(pair(kernel), pair(stride), pair(before), pair(after), pair(dilation))
    if x.repeated:
        if walk.shape_of()[-2:] != (1, 1) or any((*before, *after)):
            raise walk.refused("a kernel, without padding, as large as the pixel was made")
        weight, window, x = weight.sum((2, 3), keepdim=True), POINT, replace(x, repeated=False)
    window = padded(window, x)
    return projected(walk, replace(x, padding=(0,) * 4), weight, bias, window, groups)


def padded(window: Window, x: Signal) -> Window:
    """The window that pads with the zeros around x, too."""
    top, left, bottom, right = x.padding
    before = window.before[0] + top, window.before[1] + left
    after = window.after[0] + bottom, window.after[1] + right
    return replace(window, before=before, after=after)


def linear(walk: Walk, x: Value, weight: Tensor, bias: Tensor | None = None) -> Potential:
    x = walk.numbers(x)
    if weight.shape[1] != np.prod(x.shape):
        raise walk.refused("a linear layer over all that there is of an image, flattened")
    weight = weight.reshape(-1, *x.shape)
    return projected(walk, replace(x, flat=False), weight, bias, Window(x.shape[1:]))


def projected(
    walk: Walk, x: Signal, weight: Tensor, bias: Tensor | None, window: Window, groups: int = 1
) -> Potential:
    """A convolution of x; its weights keep their name where they are a parameter."""
    given: Any = walk.node.args[1]
    parameter = walk.parameters.get(given) if weight.numel() == walk.values[given].numel() else None
    values, offset = weight.double().numpy(), None if bias is None else bias.double().numpy()
    return project(walk.new_name(), x, values, offset, window, groups, parameter)


def batch_norm(
    walk: Walk, x: Value, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None,
    variance: Tensor | None, training: bool, momentum: float, eps: float, *_: Any,
) -> Value:  # fmt: skip
    if mean is None or variance is None:
        raise walk.refused("batch norm with running statistics")
    scale = (1 if weight is None else weight.double()) / (variance.double() + eps).sqrt()
    offset = (0 if bias is None else bias.double()) - mean.double() * scale
    moved = affine(x, scale.numpy(), offset.numpy())
    return replace(moved, name=walk.module) if isinstance(moved, Potential) else moved


def add(walk: Walk, a: Any, b: Any, *, alpha: float = 1) -> Value:
    if alpha != 1:
        raise walk.refused("sums without a factor")
    for x, constant in ((a, b), (b, a)):
        if not isinstance(constant, Value):
            return affine(x, *per_channel(walk, x, 1, constant))
    if a.shape != b.shape:
        raise walk.refused(f"two sides of one shape, not {a.shape} and {b.shape}")
    name, drives, fixed = walk.module, [], False
    for part, x in (("path", a), ("shortcut", b)):
        if isinstance(x, Signal):
            x = identity(walk.new_name(f"{name}.{part}"), x)
        drives += x.drives
        fixed = fixed or any(drive.source.potentials for drive in x.drives)
    total = Potential(name, a.shape, tuple(drives))
    return walk.numbers(total) if fixed else total


def sub(walk: Walk, a: Any, b: Any, *, alpha: float = 1) -> Value:
    if isinstance(a, Value) and isinstance(b, Value):
        raise walk.refused("a sum")
    if isinstance(a, Value):
        return affine(a, *per_channel(walk, a, 1, -alpha * b))
    return affine(b, *per_channel(walk, b, -alpha, a))


def rsub(walk: Walk, a: Value, b: float, alpha: float = 1) -> Value:
    return sub(walk, b, a, alpha=alpha)


def mul(walk: Walk, a: Any, b: Any) -> Value:
    """A product with numbers; of two binary signals AND, or of NOT a (threshold - a) and b IAND."""
    for x, constant in ((a, b), (b, a)):
        if not isinstance(constant, Value):
            return scaled(walk, x, constant)
    a, b = walk.numbers(a), walk.numbers(b)
    inverted = [x.zero is not None and bool((x.worth < 0).all()) for x in (a, b)]
    kind = "iand" if any(inverted) else "and"
    levels = max(a.sent.largest, b.sent.largest)
    if levels > 1 or a.shape != b.shape or all(inverted):
        raise InputError(
            f"levels: got {levels}, allowed: 1 ({kind} of {walk.module}"
            " is logic on binary spikes; graded ones it takes out of the integers: use ADD)"
        )
    if inverted[1]:
        a, b = b, a
    layer = Merge(walk.new_name(), a.shape, kind, a.name, b.name)
    return walk.builder.add(layer, np.abs(a.worth) * b.worth)


def div(walk: Walk, a: Any, b: Any) -> Value:
    if isinstance(b, Value):
        raise walk.refused("a quotient by numbers")
    scale, _ = per_channel(walk, a, b, 0)
    if isinstance(a, Signal) and a.zero is None:
        return replace(a, worth=a.worth / scale)
    return scaled(walk, a, 1 / scale)


def scaled(walk: Walk, x: Value, constant: Any) -> Value:
    scale, offset = per_channel(walk, x, constant, 0)
    if isinstance(x, Signal) and x.zero is None and (scale > 0).all():
        return replace(x, worth=x.worth * scale)
    return affine(x, scale, offset)


def per_channel(walk: Walk, x: Value, *constants: Any) -> list[Floats]:
    """Numbers that meet x as [C] each."""
    found, ones = [], (1,) * sum(size > 1 for size in x.shape[1:])
    for constant in constants:
        values = np.asarray(torch.as_tensor(constant).double())
        fits = values.size == 1 or values.squeeze().shape == (x.shape[0],)
        if not fits or (ones and values.size > 1 and values.shape[-2:] != (1, 1)):
            raise walk.refused("a number, or one a channel")
        found.append(np.broadcast_to(values.reshape(-1), x.shape[0]))
    return found


def pooling(walk: Walk, kernel: Any, stride: Any, padding: Any, dilation: Any = 1) -> Window:
    """A pooling's window on this node's input, its padding cut to what is reached."""
    kernel, stride, dilation = pair(kernel), pair(stride or kernel), pair(dilation)
    before, size = pair(padding), walk.shape_of(walk.node.args[0])[-2:]  # pyright: ignore[reportArgumentType]
    window = Window(kernel, stride, before, (0, 0), dilation)
    rows, columns = (
        max(0, (places - 1) * step + extent - start - pixels)
        for places, step, extent, start, pixels in zip(
            walk.shape_of()[-2:], stride, window.extent, before, size, strict=True
        )
    )
    return replace(window, after=(rows, columns))


def fires_next(walk: Walk) -> bool:
    """Whether what this node gives goes into neurons only, at most through a batch norm."""
    node = walk.node
    while len(node.users) == 1:
        (node,) = node.users
        if node.target is spikes:
            return True
        if node.target not in RULES or RULES[node.target].apply not in (reshape, batch_norm):
            return False
    return False


def max_pool2d(
    walk: Walk, x: Value, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False,
) -> Value:  # fmt: skip
    window = pooling(walk, kernel, stride, padding, dilation)
    if isinstance(x, Potential):
        (first, *more) = x.drives
        plain = not more and first.weight is not None and first.source.zero is None and not x.pool
        if plain and fires_next(walk):
            ones = np.ones(x.shape[0], np.int32)
            return replace(x, shape=pooled_shape(window, x.shape), pool=window, sign=ones)
        x = walk.numbers(x)
    if x.sent.dtype == "int32":
        raise walk.refused("max pools of levels or potentials, not of sums")
    if (x.worth < 0).any() or (any(x.padding) and (x.potentials or x.zero is not None)):
        x = fixed_point(walk, x)
    # Padded zeros are no more than any level.
    rows, columns = walk.shape_of()[-2:]
    layer = MaxPool(walk.new_name(), (x.shape[0], rows, columns), x.name, padded(window, x))
    return walk.builder.add(layer, x.worth, x.zero)


def fixed_point(walk: Walk, x: Signal) -> Signal:
    return walk.builder.potentials(walk.new_name(), identity(walk.new_name(), x))


def avg_pool2d(
    walk: Walk, x: Value, kernel: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor: int | None = None,
) -> Value:  # fmt: skip
    window = pooling(walk, kernel, stride, padding)
    cut = max(window.after[0] - pair(padding)[0], window.after[1] - pair(padding)[1])
    uneven = any(pair(padding)) and not count_include_pad
    if not divisor and (cut > 0 or uneven):
        raise walk.refused("windows of one size: count_include_pad=True, ceil_mode=False")
    return averaged(walk, x, window, divisor or window.kernel[0] * window.kernel[1])


def adaptive_avg_pool2d(walk: Walk, x: Value, size: Any) -> Value:
    _, *pixels = x.shape
    if pixels == [1, 1]:
        return replace(walk.numbers(x), repeated=[*size] != pixels)
    if any(each % places for each, places in zip(pixels, size, strict=True)):
        allowed = f"sizes that divide {pixels[0]}x{pixels[1]}, so that all windows are of one size"
        raise walk.refused(allowed)
    kernel = pixels[0] // size[0], pixels[1] // size[1]
    return averaged(walk, x, Window(kernel, kernel), kernel[0] * kernel[1])


def averaged(walk: Walk, x: Value, window: Window, count: int) -> Value:
    """Sums, the divisor in what they are worth; of potentials, convolutions with 1 / count."""
    if window.reach(x.shape) == (1, 1):
        window = replace(window, stride=(1, 1))
    if isinstance(x, Potential):
        (first, *more) = x.drives
        point = not more and first.weight is not None and not x.pool and first.window == POINT
        if point and not first.source.potentials and not any(window.before + window.after):
            # A 1x1 convolution of sums, exact, instead of sums of potentials.
            pooled = averaged(walk, first.source, window, count)
            assert isinstance(pooled, Signal)
            assert first.weight is not None
            factor = None if first.factor is None else first.factor / count
            drive = replace(first, source=pooled, weight=first.weight / count, factor=factor)
            return Potential(x.name, (x.shape[0], *pooled.shape[1:]), (drive,))
        x = walk.numbers(x)
    if x.potentials:
        weight = np.full((x.shape[0], 1, *window.kernel), 1 / count)
        return project(walk.new_name(), x, weight, None, window, x.shape[0])
    if x.zero is not None and any(window.before + window.after):
        raise walk.refused("an average pool without padding behind batch norm")
    layer = SumPool(walk.new_name(), pooled_shape(window, x.shape), x.name, window)
    zero = None if x.zero is None else x.zero * window.kernel[0] * window.kernel[1]
    return walk.builder.add(layer, x.worth / count, zero)


def mean(walk: Walk, x: Value, dims: Any, keepdim: bool = False, **_: Any) -> Value:
    shape = walk.shape_of(walk.node.args[0])  # pyright: ignore[reportArgumentType]
    dims = {dim % len(shape) for dim in (range(len(shape)) if dims is None else dims)}
    over_time, adds = 0 in dims and shape[:2] == (walk.timesteps, walk.batch), walk.node.target
    if over_time and not walk.divisor:
        dims -= {0}
        walk.divisor = walk.timesteps if adds is aten.mean.dim else 1
    if not dims:
        return x
    if dims != {len(shape) - 1, len(shape) - 2} or shape[-3:] != x.shape:
        raise walk.refused("means over T, or over rows and columns")
    rows, columns = x.shape[1:]
    count = rows * columns if adds is aten.mean.dim else 1
    return averaged(walk, x, Window((rows, columns)), count)


def cat(walk: Walk, parts: list[Value], dim: int = 0) -> Value:
    rank, image = len(walk.shape_of()), walk.shape_of()[-2:] == parts[0].shape[1:]
    repeated = all(part is parts[0] for part in parts)
    over_time = dim == 0 and walk.shape_of()[0] == walk.timesteps * walk.batch
    if len(parts) == 1 or (repeated and over_time):
        return parts[0]
    if dim % rank != (rank - 3 if image else rank - 1):
        raise walk.refused("a concatenation of channels")
    signals = [walk.numbers(part) for part in parts]
    if len({one.sent.dtype for one in signals}) > 1:
        signals = [one if one.potentials else fixed_point(walk, one) for one in signals]
    shape = (sum(one.shape[0] for one in signals), *signals[0].shape[1:])
    zero = None
    if any(one.zero is not None for one in signals):
        zeros = (np.zeros(one.shape[0]) if one.zero is None else one.zero for one in signals)
        zero = np.concatenate(list(zeros))
    worth = np.concatenate([one.worth for one in signals])
    layer = Concat(walk.new_name(), shape, tuple(one.name for one in signals))
    return walk.builder.add(layer, worth, zero)


def pad(walk: Walk, x: Value, sizes: list[int], *how: Any) -> Signal:
    left, right, top, bottom = [*sizes, 0, 0, 0, 0][:4]
    plain = all(each in ("constant", None, 0) for each in how)
    if not plain or min(sizes) < 0 or any(sizes[4:]):
        raise walk.refused("padding of rows and columns with zeros")
    x = walk.numbers(x)
    padding = zip(x.padding, (top, left, bottom, right), strict=True)
    return replace(x, padding=tuple(sum(both) for both in padding))  # pyright: ignore[reportArgumentType]


def reshape(walk: Walk, x: Value, *_: Any, **__: Any) -> Value:
    """The same numbers: time and batch anew, or an image as a vector and back."""
    shape, pixels = walk.shape_of(), int(np.prod(x.shape))
    if shape[-3:] == x.shape and walk.is_time(shape[:-3]):
        return replace(x, flat=False)
    if shape[-1] == pixels and walk.is_time(shape[:-1]):
        return replace(x, flat=x.shape[1:] != (1, 1))
    raise walk.refused("time and batch as leading axes, and images kept whole or flattened")


RULES = {
    spikes: Rule(neurons),
    operator.getitem: Rule(getitem),
    aten.conv2d.default: Rule(conv2d, ("padding", "repeated")),
    aten.conv2d.padding: Rule(conv2d, ("padding", "repeated")),
    aten.linear.default: Rule(linear, ("flat", "time")),
    aten.batch_norm.default: Rule(batch_norm),
    aten.add.Tensor: Rule(add),
    aten.add_.Tensor: Rule(add),
    aten.sub.Tensor: Rule(sub),
    aten.rsub.Scalar: Rule(rsub),
    aten.mul.Tensor: Rule(mul),
    aten.div.Tensor: Rule(div),
    aten.max_pool2d.default: Rule(max_pool2d, ("padding",)),
    aten.avg_pool2d.default: Rule(avg_pool2d),
    aten.adaptive_avg_pool2d.default: Rule(adaptive_avg_pool2d),
    aten.mean.dim: Rule(mean, ("time",)),
    aten.sum.dim_IntList: Rule(mean, ("time",)),
    aten.cat.default: Rule(cat),
    aten.pad.default: Rule(pad, ("padding",)),
    aten.constant_pad_nd.default: Rule(pad, ("padding",)),
    **dict.fromkeys(
        (
            *(aten.flatten.using_ints, aten.unflatten.int, aten.unsqueeze.default),
            *(aten.squeeze.dim, aten.squeeze.dims, aten.view.default, aten.reshape.default),
            *(aten.expand.default, aten.repeat.default, aten.select.int, aten.alias.default),
            *(aten.contiguous.default, aten.clone.default, aten.detach.default, aten.to.dtype),
            *(aten.dropout.default, aten.feature_dropout.default),
        ),
        Rule(reshape, ("flat", "time")),
    ),
}
"""What is in no row is refused by its name and its module's."""
