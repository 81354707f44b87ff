"""One tracer runs every operation, counts what its effect says, and tags the result.

It is a `TorchFunctionMode`: it sees every operation. Wrapped modules (`modules`) tell it where that
happens. What no rule covers, and what a rule can't count, is noted by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from multispike.activity.counting import sum_dtype
from multispike.activity.elementwise_rules import (
    ELEMENTWISE_RULES,
    FURTHER,
    NEURON_FUNCTIONS,
    Activation,
    Carry,
    Merge,
    PassThrough,
    Reorder,
)
from multispike.activity.layer_rules import LAYER_RULES, Parts, Synapses, planes
from multispike.activity.layout import Layout, Shape, Time, Window
from multispike.activity.pool_rules import POOL_RULES, Pool
from multispike.activity.provenance import Effect, Layer, Node, Signal, Source, Unknown, aligned
from multispike.activity.signals import Rule, Signals
from multispike.errors import InputError

RULES: dict[str, tuple[str, Rule]] = {
    name: (label, rule)
    for label, rule, names in (*LAYER_RULES, *POOL_RULES, *ELEMENTWISE_RULES)
    for name in names.split()
}
"""Operation -> what notes call it, and its rule."""
_UNKNOWN = Unknown()


class Call(NamedTuple):
    """An operation that is about to run; `label` is what notes and names call it."""

    label: str
    operands: list[Any]
    run: Callable[[], Any]


class Tracer(Signals, TorchFunctionMode):
    """Fills nodes with counts while a model runs under it: `with tracer: model(inputs)`.

    Args:
        timesteps: T, where it is given.
        potentials: whether the values that meet at sums are measured, spikes or not.
    """

    def __init__(self, timesteps: int | None = None, potentials: bool = False) -> None:
        super().__init__()
        self._timesteps = timesteps
        self._potentials = potentials
        self._broken: str | None = None
        """What was not finite in this batch, first of all."""
        self._called: set[Node] = set()
        self._rounds: dict[str, list[Layer]] = {}
        """The layers at each place."""
        self._constants: list[tuple[str, Tensor]] = []
        """(layer, constants) of the norms that were folded."""
        self._images: dict[Layer, Tensor] = {}
        """What each layer that reads an image has read first."""
        self._time: Time | None = None
        """Where inputs have it, as far as their shapes could tell."""
        self.batches = 0
        self.macs: dict[str, float] = {}
        """Multiply-accumulates per inference that a note leaves out, by torch's count."""
        self._row: Shape | None = None
        """Shape and number of elements of one sample's inputs."""
        self._perform: dict[type[Effect], Callable[..., Any]] = {
            Synapses: self._synapses,
            Parts: self._parts,
            Pool: self._pool,
            Merge: self._merge,
            Activation: self._activation,
            PassThrough: self._pass_through,
            Carry: self._carry,
            Reorder: self._reorder,
            Unknown: self._unknown,
        }

    def start(self, inputs: Tensor, samples: int) -> Tensor:
        """Begin a batch; returns the inputs as a new tensor that carries their signal."""
        self.batches += 1
        layout = Layout.of(inputs, samples, self._timesteps)
        if not layout.assumed:
            self._time = layout.time
        elif self._time is not None:  # as many timesteps as samples: as in earlier batches
            layout = Layout(samples, self._timesteps, self._time, samples)
        layout.assumed = self.notes | layout.assumed
        self.layout, self.notes = layout, layout.assumed
        self._broken, self._called, self._images = None, set(), {}
        self.frames, self._signals = [], {}
        inputs = inputs.detach()
        source = self.place("inputs", (), None, lambda name: Source(name, what="input"))
        if layout.time == "unknown":  # not event frames
            source.settled = True
        else:
            self.learn(Signal(source), inputs)
        shape = tuple(inputs.shape[1 if layout.time == "unknown" else 2 :])
        row = (*shape, inputs.numel() // samples)
        if self._row not in (None, row):
            raise InputError(
                f"loader: got inputs {list(inputs.shape)} for {samples} targets, allowed: as many"
                " elements in the same shape for every sample"
            )
        self._row, source.shape = row, shape
        self.check("inputs", inputs)
        return self.tag(inputs, Signal(source))

    def known_timesteps(self, spiking: bool) -> int | None:
        """T, given or seen in the inputs; in a spiking network also in what was made of them."""
        if self._timesteps is not None:
            return self._timesteps
        unseen = (self.layout.time if spiking else self._time) in (None, "unknown")
        return None if unseen else self.layout.steps

    def check(self, name: str, x: Tensor) -> None:
        """Report `name` at the end of the batch unless all of x is finite. Its sum is."""
        if self._broken is None and not math.isfinite(x.sum(dtype=sum_dtype(x))):
            self._broken = name

    def not_finite(self) -> str | None:
        """What was not finite in this batch, first of all."""
        constants, self._constants = self._constants, []
        if constants and not math.isfinite(torch.cat([x for _, x in constants]).sum()):
            for name, x in constants:
                self.check(name, x)
        return self._broken

    def _read(self, x: Tensor, label: str) -> Signal:
        """What a layer reads; values of unknown origin are looked at."""
        signal = self.signal(x)
        if signal is None:
            self.note(label, "its input comes from no operation that was seen")
            name = f"{self.here(label)}.input"
            make = partial(Source, what="function")
            signal = Signal(self.place(name, (), None, make))
            self.tag(x, signal)
        if isinstance(signal.node, Source) and signal.node.what != "neuron":
            self.learn(signal, x)
        return signal if signal.inverted is None else Signal(signal.node)

    def _without_copies(self, layer: Layer, signal: Signal, x: Tensor, steps: int) -> Tensor | None:
        """x without repetitions of an image (direct coding), which a layer computes once.

        None where it has read all of x before: in a loop over timesteps.
        """
        if not signal.node.coded or self._time != "unknown":
            return x
        before, parts = self._images.get(layer), self.layout.over_time(x, steps)
        if parts is None:
            return x
        parts = parts.reshape(steps, -1)
        first = parts[0] if before is None else before
        self._images.setdefault(layer, first)
        if steps == 1 and before is None:
            return x
        if not all(torch.equal(part, first) for part in parts):
            return x
        return first if before is None else None

    # --- effects ----------------------------------------------------------------------------

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        operation = getattr(func, "__name__", "")
        if operation == "__get__":
            operation = func.__self__.__name__
        label, rule = RULES.get(operation, (operation, None))
        effect = _UNKNOWN if rule is None else rule(self, *args, **kwargs)
        if effect is None:
            return func(*args, **kwargs)
        run, label = partial(func, *args, **kwargs), effect.label or label
        if effect.note:
            self.note(label, effect.note)
        out = self._perform[type(effect)](effect, Call(label, [*args, *kwargs.values()], run))
        effect.of = None  # nodes keep their effects, but nothing of a batch
        return out

    def _carriers(self, effect: Effect, call: Call) -> list[tuple[Signal, Tensor]]:
        """The tensors of the network among operands, the one that an effect acts on first."""
        tensors: list[Tensor] = []
        for operand in call.operands:
            tensors += operand if isinstance(operand, (tuple, list)) else (operand,)
        found = [(signal, x) for x in tensors if (signal := self.signal(x)) is not None]
        if effect.of is None:
            return found
        x = next((x for signal, x in found if signal is effect.of), found[0][1])
        return [(effect.of, x), *(pair for pair in found if pair[0] is not effect.of)]

    def _synapses(self, effect: Synapses, call: Call) -> Tensor:
        asked = effect.of is not None or effect.rows is not None
        carriers = self._carriers(effect, call) if asked else []
        x: Tensor = call.operands[0] if effect.of is None else carriers[0][1]
        signal = self._read(x, call.label)
        out: Tensor = call.run()
        inputs: tuple[Node, ...] = (signal.node,)
        rows: Shape = ()
        if effect.rows is not None:
            inputs = tuple(dict.fromkeys(carrier.node for carrier, _ in carriers))
            rows = (effect.rows,)
        elif effect.table and effect.sizes == (1, out.shape[-1]):
            rows = self.layout.row(tuple(x.shape))
        elif not effect.axes and effect.sizes is None:
            rows = self.layout.row(tuple(x.shape), signal.node.shape)[:-1]
        x, window = planes(x, effect.axes), effect.window(x, out)
        layer = self._layer(effect, call.label, inputs, window, rows)
        layer.bias |= effect.bias
        if (share := effect.density) is not None:
            self.note(call.label, f"{1 - share:.1%} of its weights, which are zero and not stored")
            layer.weight_density = share
        port, first = layer.ports[0], layer not in self._called
        self._called.add(layer)
        steps = self.layout.steps_of(x, (*window.in_shape, *rows))
        image = x if effect.rows else self._without_copies(layer, signal, x, steps)
        if image is not None:
            layer.calls += 1
            seen = signal if image is x else Signal(signal.node)
            if effect.table:
                port.add_dense(image.numel(), window)
            else:
                self.count(port, seen, image, window)
            alone = first and signal.node.spiking and effect.rows is None
            port.add_active(self.ever_active(signal, x, steps) if alone else None)
        self.check(layer.name, out)
        return self.tag(out, Signal(layer))

    def _parts(self, effect: Parts, _: Call) -> Any:
        with self:
            return effect.run()

    def _pool(self, effect: Pool, call: Call) -> Any:
        x: Tensor = call.operands[0]
        signal = self._read(x, call.label)
        result = call.run()
        out = result[0] if isinstance(result, tuple) else result
        y = out if out.dim() == x.dim() else out[..., None, None]  # a mean over the image
        x, y, window = planes(x, effect.axes), planes(y, effect.axes), effect.window(x, y)
        pool = self._layer(effect, call.label, (signal.node,), window)
        self.count(pool.ports[0], signal, x, window)
        if signal.node.spiking and effect.area(window) is None:
            self.note(call.label, "averages over windows of unequal size: its output has no levels")
        self.send(pool, out, y.reshape(-1, *window.out_shape), window.out_shape)
        return result

    def _merge(self, effect: Merge, call: Call) -> Tensor:
        carriers = self._carriers(effect, call)
        if effect.product:
            carriers = [(signal.inverted or signal, x) for signal, x in carriers]
        inputs = tuple(signal.node for signal, _ in carriers)
        shape = self.layout.row_like(carriers[0][1], inputs[0].shape, self.here(call.label))
        merged = self._layer(effect, call.label, inputs, Window(shape, shape))
        merged.calls += 1
        for index, (signal, x) in enumerate(carriers):
            self.count(merged.ports[index], signal, x, merged.window)
            if self._potentials:
                merged.magnitudes[index].add(x, shape)
        out: Tensor = call.run()
        if self._potentials:
            merged.magnitudes[2].add(out, shape)
        self.send(merged, out, out, shape)
        return out

    def _activation(self, effect: Activation, call: Call) -> Any:
        x: Tensor = call.operands[0]
        signal = self.known(x)
        if signal is None:
            return self._unknown(_UNKNOWN, call)
        inputs, place = (signal.node,), self.here(call.label)
        make = partial(Node, effect=effect, inputs=inputs)
        node = self.place(place, inputs, effect, make)
        node.shape = self.layout.row_like(x, signal.node.shape, place)
        if effect.limit is not None:
            self.count_written_out(signal, x)
        out: Tensor = call.run()
        self.send(node, out, out, node.shape)
        return out

    def _pass_through(self, effect: PassThrough, call: Call) -> Any:
        carriers = self._carriers(effect, call)
        if not carriers:
            return call.run()
        signal = carriers[0][0]
        if effect.over_time:
            for summand, x in carriers:
                if summand is not effect.of:
                    self.count_written_out(summand, x)
        inputs = (signal.node,)
        node = self._costless(effect, call.label, inputs)
        node.shape = signal.node.shape
        out = call.run()
        if effect.carries == "potential":
            self.check(node.name, out)
        origin = None if effect.over_time else signal.origin or signal
        return self.tag(out, Signal(node, origin=origin))

    def _carry(self, effect: Carry, call: Call) -> Any:
        if effect.folds is not None:
            effect.folds.bias = True
            if self.batches == 1:
                place = self.here(call.label)
                self._constants += [(place, value) for value in effect.finite]
        out = call.run()
        if effect.signal is not None:
            self.tag(out if effect.target is None else effect.target, effect.signal)
        return out

    def _reorder(self, effect: Reorder, call: Call) -> Any:
        out = call.run()
        values = isinstance(out, (Tensor, list, tuple)) and not isinstance(out, torch.Size)
        carriers = self._carriers(effect, call) if values else ()
        if not carriers:
            return out
        if isinstance(out, Tensor):
            self.layout.follow(carriers[0][1], out)
        inputs = tuple(signal.node for signal, _ in carriers)
        if len(set(inputs)) == 1:
            return self.tag(out, Signal(inputs[0]))
        node = self._costless(PassThrough(joined=effect.joined), call.label, inputs)
        return self.tag(out, Signal(node))

    def _unknown(self, effect: Unknown, call: Call) -> Any:
        carriers, elementwise = self._carriers(effect, call), call.label in NEURON_FUNCTIONS
        if self.inside_neuron and call.label in FURTHER and self.batches == 1:
            self._further(call)
        sized = carriers and not elementwise and self.batches == 1 and not self.inside_neuron
        with FlopCounterMode(display=False) if sized else nullcontext() as mode:
            out = call.run()
        parts = out if isinstance(out, (tuple, list)) else (out,)
        tensors = [part for part in parts if isinstance(part, Tensor)]
        if not carriers or not tensors:
            return out
        line = self.note(call.label, "no rule counts it")
        if mode is not None and (flops := mode.get_total_flops()):
            self.macs[line] = self.macs.get(line, 0.0) + flops / 2 / self.layout.batch
        inputs, place = (carriers[0][0].node,), self.here(call.label)
        source = partial(Source, inputs=inputs, what="function", elementwise=elementwise)
        node = self.place(place, inputs, call.label, source, self.costless_names)
        node.shape = inputs[0].shape
        for tensor in tensors:
            self.tag(tensor, Signal(node))
        return out

    def _further(self, call: Call) -> None:
        """Tell a frame what a neuron does to its state beside decays and choices by its spikes."""
        tensors = [x for x in call.operands if isinstance(x, Tensor) and x.is_floating_point()]
        if len({x.shape for x in tensors}) != 1 or tensors[0].dim() < 2:
            return  # a decay of each neuron has no axis of samples
        firsts = [x.reshape(-1)[:256] for x in tensors]
        analog = sum(not torch.equal(x, x.round()) for x in firsts)  # spikes are whole
        if analog > (call.label == "mul"):
            frame = next(frame for frame in self.frames if frame.atomic)
            frame.further.add(call.label)

    def _costless(self, effect: PassThrough, label: str, inputs: tuple[Node, ...]) -> Node:
        make = partial(Node, effect=effect, inputs=inputs)
        return self.place(self.here(label), inputs, effect, make, self.costless_names)

    def _layer(
        self, effect: Effect, label: str, inputs: tuple[Node, ...], window: Window, rows: Shape = ()
    ) -> Layer:
        place, key = self.here(label), (effect, window, rows)
        layer: Layer | None = self.found(place, inputs, key)
        if layer is not None:
            return layer
        rounds = self._rounds.setdefault(place, [])
        if rounds and isinstance(effect, Synapses) and effect.rows is None:
            behind = {inputs[0], *inputs[0].ancestors()}
            for layer in rounds:  # recurrent: it reads its results
                alike = layer.inputs[0].carries == inputs[0].carries
                same = layer in behind and (layer.effect, layer.window, layer.rows) == key
                if same and alike and aligned((layer.inputs[0], inputs[0])):
                    self.same(place, inputs[:1], key, layer)
                    return layer
        make = partial(Layer, effect=effect, inputs=inputs, window=window, rows=rows)
        rounds.append(self.place(place, inputs, key, make))
        return rounds[-1]
