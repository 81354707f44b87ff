"""Rules for convolutions, linear layers, norms and poolings: what becomes a record of its own."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from multispike.activity.graph import Layer, Pool, Through, Window
from multispike.activity.provenance import Signal
from multispike.activity.trace import Rule, Run, Trace
from multispike.layer_record import Kind


def conv(
    trace: Trace,
    run: Run,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """1-d and 2-d convolutions."""
    axes = weight.dim() - 2
    if axes > 2:
        return trace.unknown("conv3d", run, input)
    signal = trace.read(input, "conv")
    out: Tensor = run()
    x, y = _planes(input, axes), _planes(out, axes)
    window = _conv_window(
        (tuple(x.shape[-3:]), tuple(y.shape[-3:])),
        tuple(weight.shape[2:]),
        *(v if isinstance(v, (int, str)) else tuple(v) for v in (stride, padding, dilation)),
        groups,
    )
    return _weighted(trace, "conv", signal, x, out, window, weight, bias)


@lru_cache
def _conv_window(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    kernel: tuple[int, ...],
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Window:
    """Of a convolution over as many axes as its kernel has; asked for again in every batch."""
    axes = len(kernel)
    kernel, stride, dilation = _pair(kernel, axes), _pair(stride, axes), _pair(dilation, axes)
    if padding == "same":  # asymmetric for even kernels: the further side is the longer one
        padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
    padding = _pair(0 if padding == "valid" else padding, axes, 0)
    return Window(*shapes, kernel, stride, padding, dilation, groups)


def linear(
    trace: Trace, run: Run, input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """x W^T, for every row of x; the rows of a sample (tokens, pixels) are kept in the shape."""
    signal = trace.read(input, "linear")
    out: Tensor = run()
    window = Window((input.shape[-1],), (out.shape[-1],))
    rows = trace.axes.row(tuple(input.shape))[:-1]
    return _weighted(trace, "linear", signal, input, out, window, weight, bias, rows)


def _weighted(
    trace: Trace,
    kind: Kind,
    signal: Signal,
    x: Tensor,
    out: Tensor,
    window: Window,
    weight: Tensor,
    bias: Tensor | None,
    rows: tuple[int, ...] = (),
) -> Tensor:
    inputs = (signal.node,)
    # Weights that are computed anew for every call have no identity that lasts.
    apart = (window, rows, id(weight) if isinstance(weight, nn.Parameter) else None)

    def make(name: str) -> Layer:
        made = Layer(name, inputs, kind, window, rows)
        _note_recurrence(trace, made, kind)
        return made

    layer = trace.node(kind, inputs, make, apart)
    layer.bias |= bias is not None
    port, first = layer.ports[0], trace.first_call(layer)
    steps = trace.axes.timesteps(x, (*window.in_shape, *rows))
    image = trace.without_copies(layer, signal, x, steps)
    if image is not None:
        seen = signal if image is x else Signal(signal.node)
        trace.count(port, seen, image, window.in_shape)
        alone = first and signal.node.carries == "spikes"
        over_time = trace.axes.time_first(x, steps)
        port.add_active(signal.ever_active(over_time, steps) if alone else None)
    trace.check(layer.name, out)
    return trace.tag(out, Signal(layer))


def _note_recurrence(trace: Trace, layer: Layer, kind: Kind) -> None:
    """Name a module that reads what came from itself, which is unrolled: a layer every round."""
    module = trace.frames[-1].name if trace.frames else ""
    again = layer.name != module == trace.here(kind)  # another layer of a module without parts
    if again and any(
        isinstance(node, Layer) and node.name.partition("#")[0] == module for node in layer.before()
    ):
        trace.note(kind, "recurrent: it reads what came from itself, each round a layer of its own")


def batch_norm(
    trace: Trace,
    run: Run,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    *_: Any,
    **__: Any,
) -> Tensor:
    """Folded into the convolution or linear layer before it, where there is one."""
    signal = trace.signal(input)
    layer = signal.node.owner if signal is not None else None
    below = layer.foldable if layer is not None and layer.carries == "potential" else None
    if below is None or training or running_mean is None:
        why = "its statistics are not constant" if below is not None else (
            "not behind a convolution or linear layer that it could be folded into"
        )  # fmt: skip
        return norm(trace, run, input, why=why)
    below.bias = True
    # The input has been looked at: so the result is finite if these are.
    trace.check_constants(trace.here("norm"), below, running_mean, running_var, weight, bias)
    assert signal is not None
    return trace.tag(run(), Signal(signal.node))


def norm(
    trace: Trace, run: Run, input: Tensor, *_: Any, why: str = "runs at every inference", **__: Any
) -> Tensor:
    """A norm that stays: its result is potentials, its operations are not counted."""
    trace.note("norm", why)
    signal = trace.signal(input)
    out: Tensor = run()
    if signal is None:
        return out
    inputs = (signal.node,)
    node = trace.unlisted("norm", inputs, lambda name: Through(name, inputs, carries="potential"))
    node.shape = signal.node.shape
    trace.check(node.name, out)
    return trace.tag(out, Signal(node))


# --- pooling ------------------------------------------------------------------------------------


def max_pool(axes: int) -> Rule:
    """Max-pooling over 1 or 2 axes."""

    def rule(
        trace: Trace,
        run: Run,
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        *_: Any,
        **__: Any,
    ) -> Any:
        signal = trace.read(input, "pool")
        out = _values(result := run())
        window = _window(input, out, axes, kernel_size, stride, padding, dilation)
        _pooled(trace, signal, _planes(input, axes), out, window, area=1)
        return result

    return rule


def _values(result: Any) -> Tensor:
    """The output of a pooling that may give indices too."""
    return result[0] if isinstance(result, tuple) else result


def avg_pool(axes: int) -> Rule:
    """Average pooling over 1 or 2 axes."""

    def rule(
        trace: Trace,
        run: Run,
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Tensor:
        signal = trace.read(input, "pool")
        out: Tensor = run()
        window = _window(input, out, axes, kernel_size, stride, padding, 1)
        full = divisor_override is None and (count_include_pad or window.padding == (0, 0))
        area = math.prod(window.kernel) if full and _inside(window) else None
        _pooled(trace, signal, _planes(input, axes), out, window, area)
        return out

    return rule


def _window(
    x: Tensor, out: Tensor, axes: int, kernel: Any, stride: Any, padding: Any, dilation: Any
) -> Window:
    """Of a pooling; without a stride, windows do not overlap."""
    kernel = _pair(kernel, axes)
    return Window(
        tuple(_planes(x, axes).shape[-3:]),
        tuple(_planes(out, axes).shape[-3:]),
        kernel,
        kernel if stride in (None, (), []) else _pair(stride, axes),
        _pair(padding, axes, 0),
        _pair(dilation, axes),
    )


def _inside(window: Window) -> bool:
    """Whether no window reaches beyond the padding (ceil_mode lets the last one)."""
    return all(
        (out - 1) * stride - padding + kernel <= size + padding
        for out, stride, padding, kernel, size in zip(
            window.out_shape[1:], window.stride, window.padding, window.kernel,
            window.in_shape[1:], strict=True,
        )
    )  # fmt: skip


def adaptive(axes: int, averages: bool) -> Rule:
    """Adaptive pooling over 1 or 2 axes."""

    def rule(trace: Trace, run: Run, input: Tensor, *_: Any, **__: Any) -> Any:
        signal = trace.read(input, "pool")
        out = _values(result := run())
        _adaptive_pooled(trace, signal, _planes(input, axes), out, _planes(out, axes), averages)
        return result

    return rule


def _adaptive_pooled(
    trace: Trace, signal: Signal, x: Tensor, out: Tensor, y: Tensor, averages: bool
) -> None:
    in_shape, out_shape = tuple(x.shape[-3:]), tuple(y.shape[-3:])
    window = Window(in_shape, out_shape, adaptive=True)
    sizes = tuple(zip(in_shape[1:], out_shape[1:], strict=True))
    even = all(size % o == 0 or o % size == 0 for size, o in sizes)
    kernel = _pair(tuple(max(-(-size // o), int(window.reach(axis).max()))
                         for axis, (size, o) in enumerate(sizes)), 2)  # fmt: skip
    stride = _pair(tuple(max(1, size // o) for size, o in sizes), 2)
    window = Window(in_shape, out_shape, kernel, stride, adaptive=True)
    area = math.prod(max(1, size // o) for size, o in sizes) if averages else 1
    _pooled(trace, signal, x, out, window, area if even or not averages else None)


def _pooled(
    trace: Trace, signal: Signal, x: Tensor, out: Tensor, window: Window, area: int | None
) -> None:
    inputs, shape = (signal.node,), window.in_shape
    pool = trace.node("pool", inputs, lambda name: Pool(name, inputs, window, area), (window, area))
    trace.count(pool.ports[0], signal, x, shape)
    if signal.node.carries == "spikes" and area is None:
        trace.note("pool", "averages over windows of unequal size: its output has no levels")
    trace.sent(pool, out, out.reshape(-1, *window.out_shape), window.out_shape)


def mean(
    trace: Trace, run: Run, input: Tensor, dim: Any = None, keepdim: bool = False, **kwargs: Any
) -> Tensor:
    """A mean over the image, or over time."""
    return _reduced(trace, run, input, dim, averages=True)


def total(
    trace: Trace, run: Run, input: Tensor, dim: Any = None, keepdim: bool = False, **kwargs: Any
) -> Tensor:
    """A sum over time."""
    return _reduced(trace, run, input, dim, averages=False)


def _reduced(trace: Trace, run: Run, input: Tensor, dim: Any, averages: bool) -> Tensor:
    """A mean over the image is a pooling. Over time, potentials go on in the same memory."""
    signal = trace.known(input)
    dims = sorted(d % input.dim() for d in ((dim,) if isinstance(dim, int) else dim or ()))
    rank = input.dim()
    time = [trace.axes.time_axis(tuple(input.shape))]
    if signal is None or dims not in (time, [rank - 2, rank - 1]) or (len(dims) == 2 and rank < 4):
        return trace.unknown("mean" if averages else "sum", run, input)
    if len(dims) == 2 and averages:
        out: Tensor = run()
        y = out.reshape(*input.shape[:-2], 1, 1)
        _adaptive_pooled(trace, signal, input, out, y, averages=True)
        return out
    if dims != time:
        return trace.unknown("sum", run, input)
    steps, node = input.shape[time[0]], signal.node
    if node.carries == "spikes":
        trace.written_out(signal, input)
        trace.note("mean over time" if averages else "sum over time", "additions of spikes")
    inputs = (node,)
    summed = trace.unlisted(
        "over time",
        inputs,
        lambda name: Through(name, inputs, factor=1 / steps if averages else 1.0, levels=steps),
    )
    summed.shape = node.shape
    return trace.tag(run(), Signal(summed))


def _pair(value: Any, axes: int, missing: int = 1) -> tuple[int, int]:
    """(height, width) of a number or tuple; a 1-d layer has height `missing`."""
    if isinstance(value, int):
        value = (value,) * axes
    value = tuple(int(v) for v in value)
    if len(value) == 1:
        value = value * axes
    return (missing, value[0]) if axes == 1 else (value[0], value[1])


def _planes(x: Tensor, axes: int) -> Tensor:
    """x [..., C, L] as [..., C, 1, L]; x [..., C, H, W] as it is."""
    return x.unsqueeze(-2) if axes == 1 else x
