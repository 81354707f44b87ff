"""What the tensors of a batch carry, the places of the network, and what is counted there."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from multispike.activity.counting import Stats, Tally, measure
from multispike.activity.layout import Layout, Shape, Window
from multispike.activity.provenance import Carries, Effect, Frame, Node, Signal, Source, is_function

Rule = Callable[..., Effect | None]
"""`rule(signals, *arguments of the operation)`: its effect; None where no values pass."""
N = TypeVar("N", bound=Node)
_NOTHING = (None, None)
_RANDOM = torch.Generator().manual_seed(0)


def _density(weight: Tensor) -> float | None:
    """As `Signals.density`. Where less than half of all weights are not zero, all of 128 that are
    drawn at random are not zero once in 10^38 times."""
    if weight.numel() > 4096:
        drawn = torch.randint(weight.numel(), (128,), generator=_RANDOM, device="cpu")
        if all(weight.take(drawn.to(weight.device)).tolist()):
            return None
    share = int(weight.count_nonzero()) / max(1, weight.numel())
    return share if share < 0.5 else None


class Signals:
    """All nodes of the network, and what the tensors of the current batch carry: what rules ask.

    nodes: one for each place, effect and inputs; the same in every batch and at every timestep.
    notes: what could not be counted, in order.
    frames: the modules that are running, innermost last.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self._at: dict[tuple[str, tuple[Node, ...]], list[tuple[Any, Node]]] = {}
        """Nodes with their keys, by place and inputs."""
        self.notes: dict[str, None] = {}
        self.frames: list[Frame] = []
        self.layout = Layout(1)
        self._names: set[str] = set()
        self.costless_names: set[str] = set()
        self._densities: dict[int, float | None] = {}
        """By the id of a parameter, which its network keeps."""
        self._signals: dict[int, tuple[weakref.ref[Tensor], Signal]] = {}
        """By the id of a tensor, until it is gone."""

    # --- what tensors carry -----------------------------------------------------------------

    @property
    def inside_neuron(self) -> bool:
        """Whether a module runs that may be a neuron."""
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
        if self.inside_neuron:
            return None
        self.learn(signal, x)
        return signal if signal.node.grid is not None else None

    def tag(self, out: Any, signal: Signal) -> Any:
        """Say that a tensor (or each of several) carries a signal; returns `out`."""
        if isinstance(out, Tensor):
            gone = partial(self._signals.pop, id(out))
            self._signals[id(out)] = weakref.ref(out, gone), signal
        elif isinstance(out, (tuple, list)):
            for part in out:
                self.tag(part, Signal(signal.node))
        return out

    def learn(self, signal: Signal, x: Tensor) -> Carries:
        """Let a source look at its values; if that was news, everything behind it changes."""
        if not signal.learned and isinstance(signal.node, Source) and signal.node.learn(x):
            for node in self.nodes if signal.node.readers else ():
                node.refresh()
        signal.learned = True
        return signal.node.carries

    def density(self, weight: Tensor) -> float | None:
        """Share of weights that are not zero if it is below half; a parameter is looked at once."""
        if not isinstance(weight, nn.Parameter):
            return _density(weight)
        if id(weight) not in self._densities:
            self._densities[id(weight)] = _density(weight)
        return self._densities[id(weight)]

    # --- places and nodes -------------------------------------------------------------------

    def note(self, label: str, why: str) -> str:
        """Add a line to what was not counted; returns it."""
        module = self.frames[-1].name if self.frames else ""
        line = f"{label} at {module or 'the network itself'}: {why}"
        atomic = next((frame for frame in self.frames if frame.atomic), None)
        if atomic is not None:
            atomic.notes.append(line)
        else:
            self.notes[line] = None
        return line

    def here(self, label: str) -> str:
        """Where we are: the module if it has no parts, else module.operation."""
        if not self.frames:
            return label
        frame = self.frames[-1]
        if frame.name and frame.leaf:
            return frame.name
        return f"{frame.name}.{label}" if frame.name else label

    def found(self, place: str, inputs: tuple[Node, ...], key: Any) -> Any:
        """The node of this key and these inputs at a place; None before it was made."""
        nodes = self._at.get((place, inputs), ())
        return next((node for known, node in nodes if known == key), None)

    def place(
        self,
        place: str,
        inputs: tuple[Node, ...],
        key: Any,
        make: Callable[[str], N],
        names: set[str] | None = None,
    ) -> N:
        """`found`, made at its first call under a name not in `names`: what is no row of a table
        takes no layer's name."""
        names = self._names if names is None else names
        node = self.found(place, inputs, key)
        if node is None:
            name, copies = place, 1
            while name in names:
                copies += 1
                name = f"{place}#{copies}"
            names.add(name)
            node = make(name)
            self.nodes.append(node)
            self.same(place, inputs, key, node)
        return node

    def same(self, place: str, inputs: tuple[Node, ...], key: Any, node: Node) -> None:
        """Let a node be the one of this key and these inputs, which it reads."""
        self._at.setdefault((place, inputs), []).append((key, node))
        for source in inputs:
            source.readers.add(node)

    # --- counting ---------------------------------------------------------------------------

    def measured(self, signal: Signal, x: Tensor, shape: Shape) -> Stats:
        """Statistics of x [..., *shape], from memory if there are any."""
        for stats in signal.stats:
            if stats.shape == shape or len(shape) == 1:
                return stats
        steps = self.layout.steps_of(x, shape)
        over_time = self.layout.over_time(x, steps)
        if over_time is None:
            over_time, steps = x, 1
        signal.stats.append(measure(over_time, shape, signal.node.grid, steps))
        return signal.stats[-1]

    def count(self, port: Tally, signal: Signal, x: Tensor, window: Window) -> None:
        """Add what a layer reads through one port; potentials are dense, only synapses look."""
        node = signal.node
        if node.carries == "potential":
            port.add_dense(x.numel(), window)
            return
        stats = self.measured(signal, x, window.in_shape)
        port.add(stats, node.grid.step if node.grid else 0.0, window)
        self.count_written_out(signal, x, stats)

    def count_written_out(self, signal: Signal, x: Tensor, stats: Stats | None = None) -> None:
        """Where a neuron's spikes are read: count what it sends, once, if no module is it."""
        origin = signal.origin or signal
        node, grid = origin.node, origin.node.grid
        if origin.sent or grid is None or signal.node.grid is None or not is_function(node):
            return
        origin.sent = True
        node.shape = self.layout.row_like(x, node.shape, node.name)
        node.out.add(stats or self.measured(signal, x, node.shape), grid.step)

    def send(self, node: Node, out: Tensor, x: Tensor, shape: Shape) -> Signal:
        """Tag `out`, and count it (seen as x [..., *shape]) unless it is potentials."""
        signal = Signal(node)
        self.tag(out, signal)
        if node.carries != "potential":
            stats = self.measured(signal, x, shape)
            node.out.add(stats, node.grid.step if node.grid else 0.0)
        return signal

    def ever_active(self, signal: Signal, x: Tensor, steps: int) -> float | None:
        """Elements of x that are not zero at every timestep."""
        if signal.active is None:
            decoded = signal.decoded(steps)
            if steps == 1:
                signal.active = sum(stats.total for stats in signal.stats[:1])
            elif decoded is not None:
                signal.active = sum(decoded[1:])
            else:
                over_time = self.layout.over_time(x, steps)
                if over_time is not None:
                    signal.active = float(over_time.amax(0).count_nonzero())
        return signal.active
