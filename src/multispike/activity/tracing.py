"""One tracer runs every operation, counts what its effect says, and tags the result.

It is a `TorchFunctionMode`: it sees every operation. Module hooks (`recording`) tell it where that
happens. What no rule covers, and what a rule can't count, is noted by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from multispike.activity.counting import (
    Stats,
    Tally,
    count_nonzero_elements,
    measure,
    split_time,
)
from multispike.activity.elementwise_rules import (
    ELEMENTWISE_RULES,
    NEURON_FUNCTIONS,
    Activation,
    Invert,
    Merge,
    Overwrite,
    PassThrough,
    Reorder,
    Unchanged,
)
from multispike.activity.grid import sum_dtype
from multispike.activity.layer_rules import LAYER_RULES, Fold, Pool, Synapses
from multispike.activity.layout import Layout, Shape, Time, Window
from multispike.activity.provenance import (
    Effect,
    Layer,
    Node,
    Provenance,
    Rule,
    Signal,
    Source,
    Unknown,
    is_function,
)
from multispike.errors import InputError

RULES: dict[str, tuple[str, Rule]] = {
    name: (label, rule)
    for label, rule, names in (*LAYER_RULES, *ELEMENTWISE_RULES)
    for name in names.split()
}
"""Operation -> what notes call it, and its rule."""

Run = Callable[[], Any]


class Tracer(Provenance, TorchFunctionMode):
    """Fills nodes with counts while a model runs under it: `with tracer: model(inputs)`.

    Args:
        timesteps: T, where it is given.
        potentials: whether the values that meet at sums are measured, spikes or not.
    """

    def __init__(self, timesteps: int | None = None, potentials: bool = False) -> None:
        super().__init__()
        self._timesteps = timesteps
        self._potentials = potentials
        self._sums: list[tuple[str, Tensor]] = []
        """(layer, sum), finite if all of the layer's values are."""
        self._checked: set[Hashable] = set()
        self._called: set[Node] = set()
        self._images: dict[Layer, Tensor] = {}
        """What each layer that reads an image has read first."""
        self._time: Time | None = None
        """Where inputs have it, as far as their shapes could tell."""
        self._row: Shape | None = None
        """Shape and number of elements of one sample's inputs."""
        self._perform: dict[type[Effect], Callable[..., Any]] = {
            Synapses: self._synapses,
            Pool: self._pool,
            Merge: self._merge,
            Activation: self._activation,
            PassThrough: self._pass_through,
            Fold: self._fold,
            Unchanged: self._unchanged,
            Reorder: self._reorder,
            Invert: self._invert,
            Overwrite: self._overwrite,
            Unknown: self._unknown,
        }

    # --- a batch ----------------------------------------------------------------------------

    def start(self, inputs: Tensor, samples: int) -> Tensor:
        """Begin a batch; returns the inputs as a new tensor that carries their signal."""
        layout = Layout.of(inputs, samples, self._timesteps)
        if not layout.assumed:
            self._time = layout.time
        elif self._time is not None:  # as many timesteps as samples: as in earlier batches
            layout = Layout(samples, self._timesteps, self._time, samples)
        layout.assumed = self.notes | layout.assumed
        self.layout, self.notes = layout, layout.assumed
        self._sums, self._called, self.frames, self._signals = [], set(), [], {}
        inputs = inputs.detach()
        source = self.place(("inputs",), "inputs", lambda name: Source(name, what="input"))
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
        self.tag(inputs, Signal(source))
        self._images = {}
        return inputs

    def first_broken(self) -> str | None:
        """The first layer of this batch that held NaN or an infinity."""
        return next((name for name, total in self._sums if not math.isfinite(total)), None)

    def check(self, name: str, x: Tensor) -> None:
        """Report `name` at the end of the batch unless all of x is finite."""
        self._sums.append((name, x.sum(dtype=sum_dtype(x))))

    def _read(self, x: Tensor, label: str) -> Signal:
        """What a layer reads; values of unknown origin are looked at."""
        signal = self.signal(x)
        if signal is None:
            self.note(label, "its input comes from no operation that was seen")
            name = f"{self.here(label)}.input"
            signal = Signal(self.place((name,), name, lambda name: Source(name, what="function")))
            self.tag(x, signal)
        if isinstance(signal.node, Source) and signal.node.what != "neuron":
            self.learn(signal, x)
        return signal if signal.inverted is None else Signal(signal.node)

    # --- counting ---------------------------------------------------------------------------

    def _measured(self, signal: Signal, x: Tensor, shape: Shape) -> Stats:
        """Statistics of x [..., *shape], from memory if there are any."""
        for stats in signal.stats:
            if stats.shape == shape or len(shape) == 1:
                return stats
        steps = self.layout.steps_of(x, shape)
        x = self.layout.time_first(x, steps)
        first = x.shape[0] % steps == 0
        signal.stats.append(measure(x, shape, signal.node.grid, steps if first else 1))
        return signal.stats[-1]

    def _count(self, port: Tally, signal: Signal, x: Tensor, shape: Shape) -> None:
        """Add what a layer reads through one port; potentials are dense, only synapses look."""
        node = signal.node
        if node.carries == "potential":
            port.add_dense(x.numel(), shape)
            return
        stats = self._measured(signal, x, shape)
        port.add(stats, node.grid.step if node.grid else 0.0)
        self._count_written_out(signal, x, stats)

    def _count_written_out(self, signal: Signal, x: Tensor, stats: Stats | None = None) -> None:
        """Where a neuron's spikes are read: count what it sends, once, if no module is it."""
        origin = signal.origin or signal
        node, grid, read = origin.node, origin.node.grid, signal.node.grid
        if origin.sent or grid is None or read is None or not is_function(node):
            return
        origin.sent = True
        node.shape = self.layout.row_like(x, node.shape, node.name)
        stats = stats or self._measured(signal, x, node.shape)
        if stats.amplitude is not None:  # in values, of a constant multiple perhaps
            stats = replace(stats, amplitude=stats.amplitude * (grid.step / read.step))
        node.out.add(stats, grid.step)

    def send(self, node: Node, out: Tensor, x: Tensor, shape: Shape) -> Signal:
        """Tag `out`, and count it (seen as x [..., *shape]) unless it is potentials."""
        signal = Signal(node)
        self.tag(out, signal)
        if node.carries != "potential":
            stats = self._measured(signal, x, shape)
            node.out.add(stats, node.grid.step if node.grid else 0.0)
        return signal

    def _ever_active(self, signal: Signal, x: Tensor, steps: int) -> float | None:
        """Elements of x that are not zero at every timestep."""
        if signal.active is None:
            decoded = signal.decoded(steps)
            if steps == 1:
                signal.active = float(sum(stats.events.sum() for stats in signal.stats[:1]))
            elif decoded is not None:
                signal.active = float(decoded[1:].sum())
            else:
                over_time = split_time(self.layout.time_first(x, steps), steps)
                if over_time is not None:
                    signal.active = count_nonzero_elements(over_time.amax(0))
        return signal.active

    def _without_copies(self, layer: Layer, signal: Signal, x: Tensor, steps: int) -> Tensor | None:
        """x without repetitions of an image (direct coding), which a layer computes once.

        None where it has read all of x before: in a loop over timesteps.
        """
        if not signal.node.coded or self._time != "unknown":
            return x
        before = self._images.get(layer)
        parts = self.layout.time_first(x, steps).reshape(steps, -1)
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
        label, rule = RULES.get(operation, (operation, None))
        run = partial(func, *args, **kwargs)
        effect = Unknown() if rule is None else rule(self, *args, **kwargs)
        if effect is None:
            return run()
        return self._apply(effect, effect.label or label, [*args, *kwargs.values()], run)

    def _apply(self, effect: Effect, label: str, operands: list[Any], run: Run) -> Any:
        """Run an operation and do what its effect says."""
        if effect.note:
            self.note(label, effect.note)
        return self._perform[type(effect)](effect, label, operands, run)

    def _carriers(self, effect: Effect, operands: list[Any]) -> list[tuple[Signal, Tensor]]:
        """The tensors of the network among operands, the one that an effect acts on first."""
        tensors: list[Tensor] = []
        for operand in operands:
            tensors += operand if isinstance(operand, (tuple, list)) else (operand,)
        found = [(signal, x) for x in tensors if (signal := self.signal(x)) is not None]
        if effect.of is None:
            return found
        return [(effect.of, found[0][1]), *((s, x) for s, x in found if s is not effect.of)]

    def _synapses(self, effect: Synapses, label: str, operands: list[Any], run: Run) -> Tensor:
        x: Tensor = operands[0]
        signal = self._read(x, label)
        out: Tensor = run()
        rows: Shape = ()
        if effect.axes:
            x = _planes(x, effect.axes)
            window = effect.window(tuple(x.shape[-3:]), tuple(_planes(out, effect.axes).shape[-3:]))
        else:
            window = effect.window((x.shape[-1],), (out.shape[-1],))
            rows = self.layout.row(tuple(x.shape), signal.node.shape, self.here(label))[:-1]
        layer = self._layer(effect, label, (signal.node,), window, rows)
        layer.bias |= effect.bias
        port, first = layer.ports[0], layer not in self._called
        self._called.add(layer)
        steps = self.layout.steps_of(x, (*window.in_shape, *rows))
        image = self._without_copies(layer, signal, x, steps)
        if image is not None:
            seen = signal if image is x else Signal(signal.node)
            self._count(port, seen, image, window.in_shape)
            alone = first and signal.node.carries == "spikes"
            port.add_active(self._ever_active(signal, x, steps) if alone else None)
        self.check(layer.name, out)
        return self.tag(out, Signal(layer))

    def _pool(self, effect: Pool, label: str, operands: list[Any], run: Run) -> Any:
        x: Tensor = operands[0]
        signal = self._read(x, label)
        result = run()
        out = result[0] if isinstance(result, tuple) else result
        y = out if out.dim() == x.dim() else out[..., None, None]  # a mean over the image
        x, y = _planes(x, effect.axes), _planes(y, effect.axes)
        window = effect.window(tuple(x.shape[-3:]), tuple(y.shape[-3:]))
        pool = self._layer(effect, label, (signal.node,), window)
        self._count(pool.ports[0], signal, x, window.in_shape)
        if signal.node.carries == "spikes" and effect.area(window) is None:
            self.note(label, "averages over windows of unequal size: its output has no levels")
        self.send(pool, out, y.reshape(-1, *window.out_shape), window.out_shape)
        return result

    def _merge(self, effect: Merge, label: str, operands: list[Any], run: Run) -> Tensor:
        carriers = self._carriers(effect, operands)
        if effect.product:
            carriers = [(signal.inverted or signal, x) for signal, x in carriers]
        inputs = tuple(signal.node for signal, _ in carriers)
        shape = self.layout.row_like(carriers[0][1], inputs[0].shape, self.here(label))
        merged = self._layer(effect, label, inputs, Window(shape, shape))
        for port, magnitudes, (signal, x) in zip(
            merged.ports, merged.magnitudes, carriers, strict=False
        ):
            self._count(port, signal, x, shape)
            if self._potentials:
                magnitudes.add(x, shape)
        out: Tensor = run()
        if self._potentials:
            merged.magnitudes[2].add(out, shape)
        self.send(merged, out, out, shape)
        return out

    def _activation(self, effect: Activation, label: str, operands: list[Any], run: Run) -> Any:
        x: Tensor = operands[0]
        signal = self.known(x)
        if signal is None:
            return self._unknown(Unknown(), label, operands, run)
        inputs, place = (signal.node,), self.here(label)
        node = self.place((effect, inputs), place, partial(Node, effect=effect, inputs=inputs))
        node.shape = self.layout.row_like(x, signal.node.shape, place)
        if effect.limit is not None:
            self._count_written_out(signal, x)
        out: Tensor = run()
        self.send(node, out, out, node.shape)
        return out

    def _pass_through(self, effect: PassThrough, label: str, operands: list[Any], run: Run) -> Any:
        carriers = self._carriers(effect, operands)
        if not carriers:
            return run()
        signal = carriers[0][0]
        if effect.over_time:
            for summand, x in carriers:
                if summand is not effect.of:
                    self._count_written_out(summand, x)
        inputs = (signal.node,)
        node = self._costless(effect, label, inputs)
        node.shape = signal.node.shape
        out = run()
        if effect.carries == "potential":
            self.check(node.name, out)
        origin = None if effect.over_time else signal.origin or signal
        return self.tag(out, Signal(node, origin=origin))

    def _fold(self, effect: Fold, label: str, operands: list[Any], run: Run) -> Tensor:
        signal = self.signal(operands[0])
        layer = signal.node.owner if signal is not None else None
        below = layer.foldable if layer is not None and layer.carries == "potential" else None
        if signal is None or below is None or not effect.constant:
            why = "its statistics are not constant" if below is not None else (
                "not behind a convolution or linear layer that it could be folded into"
            )  # fmt: skip
            return self._apply(PassThrough(carries="potential", note=why), label, operands, run)
        below.bias = True
        # The input has been looked at: so the result is finite if these are.
        place = self.here(label)
        if (place, below) not in self._checked:  # in the first batch
            self._checked.add((place, below))
            for value in effect.constants:
                if value is not None:
                    self.check(place, value)
        return self.tag(run(), Signal(signal.node))

    def _unchanged(self, effect: Unchanged, label: str, operands: list[Any], run: Run) -> Any:
        signal = self.signal(operands[0])
        out = run()
        return out if signal is None else self.tag(out, signal)

    def _reorder(self, effect: Reorder, label: str, operands: list[Any], run: Run) -> Any:
        carriers = self._carriers(effect, operands)
        out = run()
        if not carriers:
            return out
        if isinstance(out, Tensor) and effect.of is None:
            self.layout.follow(carriers[0][1], out)
        inputs = tuple(dict.fromkeys(signal.node for signal, _ in carriers))
        if len(inputs) == 1 or effect.of is not None:
            return self.tag(out, Signal(inputs[0]))
        return self.tag(out, Signal(self._costless(PassThrough(), label, inputs)))

    def _invert(self, effect: Invert, label: str, operands: list[Any], run: Run) -> Any:
        assert effect.of is not None
        return self.tag(run(), Signal(effect.of.node, inverted=effect.of))

    def _overwrite(self, effect: Overwrite, label: str, operands: list[Any], run: Run) -> Any:
        signal = self.signal(effect.value) or self.signal(effect.target)
        out = run()
        if signal is not None:
            self.tag(effect.target, Signal(signal.node))
        return out

    def _unknown(self, effect: Unknown, label: str, operands: list[Any], run: Run) -> Any:
        """Run an operation that no rule counts, note it, and mark its result."""
        carriers = self._carriers(effect, operands)
        out = run()
        parts = out if isinstance(out, (tuple, list)) else (out,)
        tensors = [part for part in parts if isinstance(part, Tensor)]
        if not carriers or not tensors:
            return out
        self.note(label, "no rule counts it")
        inputs, place = (carriers[0][0].node,), self.here(label)
        source = partial(
            Source, inputs=inputs, what="function", elementwise=label in NEURON_FUNCTIONS
        )
        node = self.place((label, inputs), place, source, self._costless_names)
        node.shape = inputs[0].shape
        for tensor in tensors:
            self.tag(tensor, Signal(node))
        return out

    def _costless(self, effect: PassThrough, label: str, inputs: tuple[Node, ...]) -> Node:
        make = partial(Node, effect=effect, inputs=inputs)
        return self.place((effect, inputs), self.here(label), make, self._costless_names)

    def _layer(
        self,
        effect: Synapses | Pool | Merge,
        label: str,
        inputs: tuple[Node, ...],
        window: Window,
        rows: Shape = (),
    ) -> Layer:
        def make(name: str) -> Layer:
            made = Layer(name, effect, inputs, window, rows)
            module = self.frames[-1].name if self.frames else ""
            again = made.has_weights and name != module == place  # of a module without parts
            if again and any(node.name.partition("#")[0] == module for node in made.ancestors()
                             if isinstance(node, Layer)):  # fmt: skip
                self.note(label, _RECURRENT)
            return made

        place = self.here(label)
        return self.place((effect, inputs, window, rows), place, make)


_RECURRENT = "recurrent: it reads what came from itself, each round a layer of its own"


def _planes(x: Tensor, axes: int) -> Tensor:
    """x [..., C, L] as [..., C, 1, L]; x [..., C, H, W] as it is."""
    return x.unsqueeze(-2) if axes == 1 else x
