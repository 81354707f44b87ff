"""Rules for sums, products, functions and views: what passes a signal on, or lets two meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from multispike.activity.graph import Activation, Clamp, Node, Sum, Summed, Through, Window
from multispike.activity.provenance import Signal
from multispike.activity.trace import Run, Trace

# --- sums, products, constants ------------------------------------------------------------------


def add(trace: Trace, run: Run, input: Any, other: Any, *, alpha: Any = 1, **_: Any) -> Tensor:
    """A residual sum, a layer's own sum over time, or a constant."""
    signals = [trace.known(value) for value in (input, other)]
    if alpha != 1 or (signals[0] is None and signals[1] is None):
        return trace.unknown("add", run, input, other)
    a, b = signals
    if a is None or b is None:
        return _add_constant(trace, run, a or b, other if a is not None else input)
    if trace.atomic or input.shape != other.shape:
        return trace.unknown("add", run, input, other)
    if a.node.carries == b.node.carries == "spikes" and _summand(a.node) is _summand(b.node):
        return _summed(trace, run, (a, b), (input, other))
    if a.node is b.node or (a.node.owner is not None and a.node.owner is b.node.owner):
        if a.node.carries == "spikes":
            trace.note("add", "spikes of one layer added up over time")
        return trace.tag(run(), Signal(a.node))  # one layer over time: in its own memory
    return _meet(trace, run, (a, b), (input, other), product=False)


def _summand(node: Node) -> Node:
    """What a node is a sum over time of, or itself."""
    return node.inputs[0] if isinstance(node, Summed) else node


def _summed(
    trace: Trace, run: Run, signals: tuple[Signal, Signal], tensors: tuple[Tensor, Tensor]
) -> Tensor:
    """Spikes of one layer at some timesteps, which a sum may carry that many levels of."""
    trace.note("add", "spikes of one layer added up over time")
    for signal, x in zip(signals, tensors, strict=True):
        trace.written_out(signal, x)
    nodes = [signal.node for signal in signals]
    steps = sum(node.levels if isinstance(node, Summed) else 1 for node in nodes)
    inputs = (_summand(signals[0].node),)
    node = trace.unlisted(
        f"sum of {steps}", inputs, lambda name: Summed(name, inputs, levels=steps)
    )
    node.shape = inputs[0].shape
    return trace.tag(run(), Signal(node))


def _add_constant(trace: Trace, run: Run, signal: Signal | None, other: Any) -> Tensor:
    """Potentials plus a number or bias; plus a tensor that is not part of the network, noted."""
    assert signal is not None
    if signal.node.carries == "spikes" and not (isinstance(other, (int, float)) and other == 0):
        return trace.unknown("add", run, other, signal=signal)
    if isinstance(other, Tensor) and other.dim() > 0:
        trace.note("add", "of a tensor that no layer here computed")
    return trace.tag(run(), Signal(signal.node))


def mul(trace: Trace, run: Run, input: Any, other: Any, **_: Any) -> Tensor:
    """A product of spikes (AND, IAND), or a constant factor."""
    a, b = (trace.known(value) for value in (input, other))
    if a is not None and b is not None:
        a, b = a.inverted or a, b.inverted or b
        spikes = a.node.carries == b.node.carries == "spikes" and a.node is not b.node
        if spikes and input.shape == other.shape and not trace.atomic:
            return _meet(trace, run, (a, b), (input, other), product=True)
        return trace.unknown("mul", run, input, other)
    if a is None and b is not None:
        a, other = b, input
    return _scaled(trace, run, "mul", a, other, input, 1)


def div(trace: Trace, run: Run, input: Any, other: Any, **kwargs: Any) -> Tensor:
    """A constant divisor."""
    a, b = trace.known(input), trace.known(other)
    if b is not None or kwargs.get("rounding_mode") is not None:
        return trace.unknown("div", run, input, other)
    return _scaled(trace, run, "div", a, other, input, -1)


def _scaled(
    trace: Trace, run: Run, operation: str, signal: Signal | None, other: Any, x: Any, power: int
) -> Tensor:
    """Times a constant, which becomes part of the weights that follow."""
    if signal is None:
        return trace.unknown(operation, run, x, other)
    number = isinstance(other, (int, float)) or (isinstance(other, Tensor) and not other.dim())
    factor = _constant(other, x)
    if signal.node.carries != "spikes" and (number or factor is not None):
        return trace.tag(run(), Signal(signal.node))
    if factor is None:
        return trace.unknown(operation, run, x, other)
    inputs, factor = (signal.node,), factor**power
    node = trace.unlisted(operation, inputs, lambda name: Through(name, inputs, factor=factor))
    node.shape = signal.node.shape
    return trace.tag(run(), Signal(node, origin=signal.origin or signal))


def _constant(value: Any, x: Tensor) -> Any:
    """A positive number, or one for each channel of x [..., C, H, W]; None for anything else."""
    if isinstance(value, Tensor):
        if value.dim() == 0:
            value = value.item()
        else:
            channels = value.dim() >= 3 and value.numel() == value.shape[-3] == x.shape[-3]
            return value.detach() if channels and bool((value > 0).all()) else None
    return float(value) if isinstance(value, (int, float)) and value > 0 else None


def sub(trace: Trace, run: Run, input: Any, other: Any, *, alpha: Any = 1, **_: Any) -> Tensor:
    """Potentials minus a constant, or V_th - a."""
    a, b = trace.known(input), trace.known(other)
    if a is None and b is not None and alpha == 1:
        return _inverted(trace, run, b, input, other)
    if a is not None and b is None and a.node.carries != "spikes":
        number = not (isinstance(other, Tensor) and other.dim())
        if number or a.node.coded:  # also the mean of each colour
            return trace.tag(run(), Signal(a.node))
    return trace.unknown("sub", run, input, other)


def rsub(trace: Trace, run: Run, input: Tensor, other: Any, **_: Any) -> Tensor:
    """other - input."""
    signal = trace.known(input)
    if signal is None:
        return trace.unknown("sub", run, input, other)
    return _inverted(trace, run, signal, other, input)


def _inverted(trace: Trace, run: Run, signal: Signal, value: Any, x: Tensor) -> Tensor:
    """V_th - a: the IAND of SEW-ResNet; the events are still those of a."""
    grid, factor = signal.node.grid, _constant(value, x)
    if factor is None or signal.node.carries != "spikes":
        return trace.unknown("sub", run, x, signal=signal)
    if grid is not None:
        whole = torch.as_tensor(grid.unit((x.shape[-3], 1, 1) if x.dim() > 3 else (1,)))
        expected = whole.flatten() * grid.levels
        given = torch.as_tensor(factor).double().flatten()
        if not torch.allclose(expected.double(), given, rtol=1e-5):
            return trace.unknown("sub", run, x, signal=signal)
    return trace.tag(run(), Signal(signal.node, inverted=signal))


def _meet(
    trace: Trace, run: Run, signals: Sequence[Signal], tensors: Sequence[Tensor], product: bool
) -> Tensor:
    """A residual sum, or a product of spikes: both inputs are counted before they may change."""
    inputs = tuple(signal.node for signal in signals)
    shape = trace.axes.row_like(tensors[0], inputs[0].shape)
    window = Window(shape, shape)
    operation = "mul" if product else "add"
    merged = trace.node(operation, inputs, lambda name: Sum(name, inputs, window, product), shape)
    for port, signal, x in zip(merged.ports, signals, tensors, strict=True):
        trace.count(port, signal, x, shape)
    if trace.potentials:
        for magnitudes, x in zip(merged.magnitudes[:2], tensors, strict=True):
            magnitudes.add(x, shape)
    out: Tensor = run()
    if trace.potentials:
        merged.magnitudes[2].add(out, shape)
    trace.sent(merged, out, out, shape)
    return out


def join(trace: Trace, run: Run, tensors: Sequence[Tensor], *_: Any, **__: Any) -> Tensor:
    """cat, stack: no cost; spikes stay spikes if their steps are the same."""
    signals = [trace.known(tensor) for tensor in tensors]
    nodes = tuple(dict.fromkeys(signal.node for signal in signals if signal is not None))
    if not nodes or any(signal is None for signal in signals):
        return trace.unknown("cat", run, *tensors)
    out = run()
    trace.axes.follow(tensors[0], out)
    if len(nodes) == 1:
        return trace.tag(out, Signal(nodes[0]))
    return trace.tag(out, Signal(trace.unlisted("cat", nodes, lambda name: Through(name, nodes))))


# --- functions ----------------------------------------------------------------------------------


def relu(trace: Trace, run: Run, input: Tensor, *_: Any, **__: Any) -> Tensor:
    """A comparison, free; spikes stay what they are."""
    signal = trace.known(input)
    if signal is not None and signal.node.carries == "spikes":
        return trace.tag(run(), signal)
    return activation(trace, run, input)


def activation(trace: Trace, run: Run, input: Tensor, *_: Any, **__: Any) -> Tensor:
    """Comparisons, free; the result is analog, with zeros."""
    signal = trace.known(input)
    if signal is None:
        return trace.unknown("activation", run, input)
    inputs = (signal.node,)
    node = trace.node("activation", inputs, lambda name: Activation(name, inputs))
    node.shape = trace.axes.row_like(input, signal.node.shape)
    out: Tensor = run()
    trace.sent(node, out, out, node.shape)
    return out


def clamp(
    trace: Trace, run: Run, input: Tensor, min: Any = None, max: Any = None, **_: Any
) -> Tensor:
    """Spikes limited to some of their levels are spikes; else an activation."""
    signal = trace.known(input)
    known = all(limit is None or isinstance(limit, (int, float)) for limit in (min, max))
    if signal is None or signal.node.carries != "spikes" or not known or (min or 0) > 0:
        return activation(trace, run, input)
    if max is None:
        return same(trace, run, input)
    inputs, shape = (signal.node,), trace.axes.row_like(input, signal.node.shape)
    limit = float(max)
    node = trace.node("clamp", inputs, lambda name: Clamp(name, inputs, limit), limit)
    node.shape = shape
    trace.written_out(signal, input)
    out: Tensor = run()
    trace.sent(node, out, out, shape)
    return out


def clamp_max(trace: Trace, run: Run, input: Tensor, max: Any) -> Tensor:
    """The same from above only."""
    return clamp(trace, run, input, None, max)


def costly(trace: Trace, run: Run, input: Tensor, *_: Any, **__: Any) -> Tensor:
    """A function that hardware has to compute."""
    trace.note("activation", "exponentials or divisions of this function")
    return activation(trace, run, input)


def same(trace: Trace, run: Run, input: Any, *_: Any, **__: Any) -> Any:
    """The same values in the same order."""
    signal = trace.signal(input)
    out = run()
    return out if signal is None else trace.tag(out, signal)


def part(trace: Trace, run: Run, input: Any, *_: Any, **__: Any) -> Any:
    """Some of the values, or all in another order, or several times."""
    signal = trace.signal(input)
    out = run()
    if signal is None:
        return out
    if isinstance(out, Tensor):
        trace.axes.follow(input, out)
    return trace.tag(out, Signal(signal.node))


def attribute(trace: Trace, run: Run, input: Any, *_: Any, **__: Any) -> Any:
    """`x.shape`, `x.device`: no tensors. `x.data`, `x.T`: parts."""
    out = run()
    return part(trace, lambda: out, input) if isinstance(out, Tensor) else out


def write(trace: Trace, run: Run, target: Tensor, index: Any, value: Any = None) -> Any:
    """target[index] = value, target.copy_(value); what was counted of the target is old then."""
    signal = trace.signal(index if value is None else value) or trace.signal(target)
    out = run()
    if signal is not None:
        trace.tag(target, Signal(signal.node))
    return out


def pad(
    trace: Trace, run: Run, input: Tensor, pad: Any, mode: str = "constant", value: Any = None
) -> Tensor:
    """Zeros at the border change no event."""
    if mode != "constant" or value:
        trace.note("pad", "copies of values at the border")
    return part(trace, run, input)


def dropout(
    trace: Trace, run: Run, input: Tensor, p: float = 0.5, training: bool = True, *_: Any, **__: Any
) -> Tensor:
    """The identity, in evaluation."""
    return trace.unknown("dropout", run, input) if training else same(trace, run, input)


def interpolate(trace: Trace, run: Run, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Nearest neighbours are copies, other values are new."""
    if kwargs.get("mode", "nearest").startswith("nearest"):
        trace.note("interpolate", "copies of values")
        return part(trace, run, input)
    return trace.unknown("interpolate", run, input)


def plain(trace: Trace, run: Run, *_: Any, **__: Any) -> Any:
    """Says nothing about the values of its arguments."""
    return run()
