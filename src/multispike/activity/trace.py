"""What is known while a batch runs: where we are, and what every tensor carries."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from multispike.activity.graph import Activation, Layer, Node, Source
from multispike.activity.layout import Axes, Layout
from multispike.activity.provenance import Signal, Tally
from multispike.activity.statistics import Stats, wide
from multispike.errors import InputError

Run = Callable[[], Any]
Rule = Callable[..., Any]
"""Called instead of an operation, `rule(trace, run, *arguments)`; `run()` computes the result."""

ELEMENTWISE = frozenset(
    (
        *("bool", "int", "long", "add", "sub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge"),
        *("where", "sign", "heaviside", "floor", "ceil", "round", "trunc", "abs", "neg", "pow"),
        *("exp", "log", "sqrt", "square", "minimum", "maximum", "remainder", "fmod", "lerp"),
        *("logical_and", "logical_or", "logical_not", "masked_fill", "masked_fill_", "clamp_max"),
        *("clamp_max_", "floor_", "ceil_", "round_", "exp_", "neg_", "sub_", "mul_", "div_"),
        *("pow_", "activation"),
    )
)
"""Unknown functions that a neuron may consist of: what comes out belongs to the same layer."""

_NOTHING = (None, None)

N = TypeVar("N", bound=Node)


@dataclass
class Frame:
    """A module that is running.

    `weightless`: it has no weights, so it may be a neuron.
    `atomic`: it is also fed by one signal and not inside another one like it.
    `inside`: it is atomic or inside one that is.
    """

    module: nn.Module
    name: str
    weightless: bool
    atomic: bool = False
    inside: bool = False
    source: Signal | None = None
    notes: list[str] = field(default_factory=list)
    """Of an atomic module; forgotten if it turns out to be a neuron."""


class Trace:
    """All nodes of the network, and what the tensors of the current batch carry.

    Attributes:
        axes: where the tensors of the current batch have time and samples.
        nodes: by place, operation and inputs; the same in every batch and at every timestep.
        notes: what could not be counted, in order.
        checks: (layer, sum) that are finite if all of the layer's values are.
        potentials: whether the values that meet at sums are measured, spikes or not.
        layout: what is known of axes from samples that went ahead; to be learned, at first.
    """

    def __init__(self, potentials: bool = False) -> None:
        self.axes = Axes(1)
        self.layout = Layout(self._inside)
        self.potentials = potentials
        self.nodes: dict[Hashable, Node] = {}
        self.notes: dict[str, None] = {}
        self.checks: list[tuple[str, Tensor]] = []
        self._names: set[str] = set()
        self._unlisted: set[str] = set()
        self._signals: dict[int, tuple[weakref.ref[Tensor], Signal]] = {}
        """By the id of a tensor, which another one may get once it is gone."""
        self._constants: set[Hashable] = set()
        self._called: set[Node] = set()
        self._read: dict[Layer, Tensor] = {}
        """What each layer that reads an image has read first."""
        self.frames: list[Frame] = []
        self._time: Literal["first", "second", "unknown"] | None = None
        """Where inputs have it, as far as their shapes could tell."""
        self.row: tuple[int, ...] | None = None
        """Shape and number of elements of one sample's inputs."""

    # --- a batch ----------------------------------------------------------------------------

    def start(self, inputs: Tensor, samples: int) -> Tensor:
        """Begin a batch; returns the inputs as a new tensor that carries their signal."""
        self.axes = axes = self._axes(inputs, samples)
        axes.layout = self.layout
        self.layout.start()
        self.checks = []
        self._called = set()
        self.frames = []
        self._signals = {}
        inputs = inputs.detach()
        source = self.place(("inputs",), "inputs", lambda name: Source(name, what="input"))
        if axes.time == "unknown":  # not event frames
            source.settled = True
        else:
            self.learn(source, inputs)
        shape = axes.row(tuple(inputs.shape))
        row = (*shape, inputs.numel() // samples)
        if self.row not in (None, row):
            raise InputError(
                f"loader: got inputs {list(inputs.shape)} for {samples} targets, allowed: as many"
                " elements in the same shape for every sample"
            )
        self.row, source.shape = row, shape
        self.check("inputs", inputs)
        self.tag(inputs, Signal(source))
        self._read = {}
        return inputs

    def go_by(self, told: dict[Hashable, list[Any]]) -> None:
        """Take the answers about axes from another trace of the same network."""
        self.layout = Layout(self._inside, told)

    def _inside(self) -> str | None:
        return self.frames[-1].name if self.frames else None

    def _axes(self, inputs: Tensor, samples: int) -> Axes:
        """Those of the inputs; of as many timesteps as samples, what earlier batches had."""
        axes = Axes.of(inputs, samples)
        if axes.time != "first" or len(inputs) != samples:
            self._time = axes.time
        elif self._time is None:
            self.notes[f"inputs: {list(inputs.shape)} were taken for [T, B, ...]"] = None
        elif self._time != "first":
            return Axes(samples, self._time, samples)
        return axes

    def broken(self) -> str | None:
        """The first layer of this batch that held NaN or an infinity."""
        return next((name for name, x in self.checks if not math.isfinite(x.item())), None)

    @property
    def atomic(self) -> bool:
        """Whether a module that may be a neuron is running."""
        return bool(self.frames) and self.frames[-1].inside

    def signal(self, x: Any) -> Signal | None:
        """What a tensor carries; None if it did not come out of the network."""
        tensor, signal = self._signals.get(id(x), _NOTHING)
        return signal if tensor is not None and tensor() is x else None

    def known(self, x: Any) -> Signal | None:
        """`signal`, without the results of unknown functions unless they are spikes."""
        signal = self.signal(x)
        if signal is None or not is_function(signal.node):
            return signal
        if self.atomic:
            return None
        self.learn(signal.node, x)
        return signal if signal.node.grid is not None else None

    def read(self, x: Tensor, operation: str) -> Signal:
        """What a layer reads; values of unknown origin are looked at."""
        signal = self.signal(x)
        if signal is None:
            self.note(operation, "its input comes from no operation that was seen")
            name = f"{self.here(operation)}.input"
            signal = Signal(self.place((name,), name, lambda name: Source(name, what="function")))
            self.tag(x, signal)
        if isinstance(signal.node, Source) and signal.node.what != "neuron":
            self.learn(signal.node, x)
        if signal.inverted is not None:
            signal = Signal(signal.node)
        return signal

    def tag(self, out: Any, signal: Signal) -> Any:
        """Say that a tensor (or each of several) carries a signal; returns `out`."""
        if isinstance(out, Tensor):
            self._signals[id(out)] = weakref.ref(out), signal
        elif isinstance(out, (tuple, list)):
            for part in out:
                self.tag(part, Signal(signal.node))
        return out

    def node(
        self,
        operation: str,
        inputs: tuple[Node, ...],
        make: Callable[[str], N],
        apart: Hashable = None,
    ) -> N:
        """The node of a layer or activation at this place, made at its first call.

        `apart` tells operations of one module on the same input apart.
        """
        place = self.here(operation)
        return self.place((place, operation, apart, inputs), place, make, inputs)

    def unlisted(self, operation: str, inputs: tuple[Node, ...], make: Callable[[str], N]) -> N:
        """The same for what is no row of a table, so that it takes no layer's name."""
        place = self.here(operation)
        return self.place((place, operation, inputs), place, make, inputs, self._unlisted)

    def count(self, port: Tally, signal: Signal, x: Tensor, shape: tuple[int, ...]) -> None:
        """Add what a layer reads through one port; potentials are dense, only synapses look."""
        node = signal.node
        if node.carries == "potential":
            port.add_dense(x.numel(), shape)
            return
        stats = self.measured(signal, x, shape)
        port.add(stats, node.grid.step if node.grid else 0.0)
        self.written_out(signal, x, stats)

    def measured(self, signal: Signal, x: Tensor, shape: tuple[int, ...]) -> Stats:
        """Statistics of x [..., *shape] with its timesteps first."""
        timesteps = self.axes.timesteps(x, shape)
        return signal.measured(self.axes.time_first(x, timesteps), shape, timesteps)

    def written_out(self, signal: Signal, x: Tensor, stats: Stats | None = None) -> None:
        """Where a neuron's spikes are read: count what it sends, once, if no module is it."""
        origin = signal.origin or signal
        node, grid, read = origin.node, origin.node.grid, signal.node.grid
        if origin.sent or grid is None or read is None or not is_function(node):
            return
        origin.sent = True
        node.shape = self.axes.row_like(x, node.shape)
        stats = stats or self.measured(signal, x, node.shape)
        if stats.amplitude is not None:  # in values, of a constant multiple perhaps
            stats = replace(stats, amplitude=stats.amplitude * (grid.step / read.step))
        node.out.add(stats, grid.step)

    def sent(
        self,
        node: Layer | Activation | Source,
        out: Tensor,
        x: Tensor,
        shape: tuple[int, ...],
    ) -> Signal:
        """Tag `out`, and count it (seen as x [..., *shape]) unless it is potentials."""
        signal = Signal(node)
        self.tag(out, signal)
        if node.carries != "potential":
            stats = self.measured(signal, x, shape)
            node.out.add(stats, node.grid.step if node.grid else 0.0)
        return signal

    def unknown(self, operation: str, run: Callable[[], Any], *args: Any, **kwargs: Any) -> Any:
        """Run an operation that no rule counts, note it, and mark its result."""
        signals = [kwargs["signal"]] if "signal" in kwargs else []
        for arg in args:
            parts = arg if isinstance(arg, (tuple, list)) else (arg,)
            signals += [signal for part in parts if (signal := self.signal(part)) is not None]
        out = run()
        tensors = [t for t in (out if isinstance(out, (tuple, list)) else (out,))
                   if isinstance(t, Tensor)]  # fmt: skip
        if not signals or not tensors:
            return out
        self.note(operation, "no rule counts it")
        inputs = (signals[0].node,)
        node = self.unlisted(operation, inputs, lambda name: Source(
            name, inputs, what="function", elementwise=operation in ELEMENTWISE
        ))  # fmt: skip
        node.shape = inputs[0].shape
        for tensor in tensors:
            self.tag(tensor, Signal(node))
        return out

    def note(self, operation: str, why: str) -> None:
        """Add a line to what was not counted."""
        module = self.frames[-1].name if self.frames else ""
        line = f"{operation} at {module or 'the network itself'}: {why}"
        atomic = [frame for frame in self.frames if frame.atomic]
        if atomic:
            atomic[0].notes.append(line)
        else:
            self.notes[line] = None

    def check(self, name: str, x: Tensor) -> None:
        """Report `name` at the end of the batch unless all of x is finite."""
        self.checks.append((name, x.sum(dtype=wide(x))))

    def check_constants(self, name: str, node: Node, *values: Tensor | None) -> None:
        """The same for what `node` is computed with; looked at in the first batch only."""
        if (name, node) not in self._constants:
            self._constants.add((name, node))
            for value in values:
                if value is not None:
                    self.check(name, value)

    def without_copies(
        self, layer: Layer, signal: Signal, x: Tensor, timesteps: int
    ) -> Tensor | None:
        """x without repetitions of an image (direct coding), which a layer computes once.

        None where it has read all of x before: in a loop over timesteps.
        """
        if not signal.node.coded or self._time != "unknown":
            return x
        before = self._read.get(layer)
        parts = self.axes.time_first(x, timesteps).reshape(timesteps, -1)
        first = parts[0] if before is None else before
        self._read.setdefault(layer, first)
        if timesteps == 1 and before is None:
            return x
        if not all(torch.equal(part, first) for part in parts):
            return x
        return first if before is None else None

    def first_call(self, node: Node) -> bool:
        """Whether a node is called for the first time in this batch."""
        first = node not in self._called
        self._called.add(node)
        return first

    # --- places and nodes -------------------------------------------------------------------

    def here(self, operation: str) -> str:
        """Where we are: the module if it has no parts, else module.operation."""
        if not self.frames:
            return operation
        frame = self.frames[-1]
        if frame.name and not any(True for _ in frame.module.children()):
            return frame.name
        return f"{frame.name}.{operation}" if frame.name else operation

    def place(
        self,
        key: Hashable,
        place: str,
        make: Callable[[str], N],
        inputs: tuple[Node, ...] = (),
        names: set[str] | None = None,
    ) -> N:
        names = self._names if names is None else names
        node = self.nodes.get(key)
        if node is None:
            name, copies = place, 1
            while name in names:
                copies += 1
                name = f"{place}#{copies}"
            names.add(name)
            node = self.nodes[key] = make(name)
            for reader in inputs:
                reader.readers.add(node)
        return node  # pyright: ignore[reportReturnType]

    def learn(self, source: Node, x: Tensor) -> None:
        """Let a source look at its values; if that was news, everything behind it changes."""
        assert isinstance(source, Source)
        if source.look(x):
            for node in self.nodes.values():
                node.refresh()


def is_function(node: Node) -> bool:
    """Whether nobody knows what a node's values are, other than by looking."""
    return isinstance(node, Source) and node.what == "function"
