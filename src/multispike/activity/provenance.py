"""Where tensors come from: what operations do (effects), and the places of the network (nodes).

A rule tells the effect of an operation. A node stands for one place and lives for the whole pass;
what it sends follows from its effect and its inputs. Only a source learns it from values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor, nn

from multispike.activity.counting import Errors, Grid, Magnitudes, Stats, Tally, refined_grid
from multispike.activity.layout import Shape, Window
from multispike.layer_record import Kind, Neuron

Carries = Literal["spikes", "analog", "potential"]
"""Spikes: whole levels. Analog: any values, zeros among them. Potential: what a layer computed
and no activation function has seen yet; taken as non-zero everywhere."""


@dataclass(kw_only=True)
class Effect:
    """What an operation does to the values it reads.

    note: what of it is not counted.
    label: how the note calls the operation, if not by the name in the table of rules.
    of: the operand that it acts on, if that is not the first one that the network computed.
    kind: of the record of its node, if it has one.
    costless: whether no record or row shows its node.
    """

    note: str = ""
    label: str = ""
    of: Signal | None = field(default=None, compare=False)
    kind: ClassVar[Kind | None] = None
    costless: ClassVar[bool] = False

    def sends(self, inputs: tuple[Node, ...], window: Window | None) -> tuple[Carries, Grid | None]:
        return "potential", None


@dataclass
class Unknown(Effect):
    """No rule counts it."""


class Node:
    """A place in the network.

    grid: of the spikes it sends; None if it sends none, or none but zeros yet.
    shape: one row of the output; () where unknown.
    depth: convolutions and linear layers on the longest way here.
    readers: the nodes that use its output as it is.
    out: what it sent; empty where that is not counted.
    """

    carries: Carries
    grid: Grid | None

    def __init__(
        self, name: str, effect: Effect, inputs: tuple[Node, ...] = (), window: Window | None = None
    ) -> None:
        self.name = name
        self.effect = effect
        self.inputs = inputs
        self.window = window
        self.readers: set[Node] = set()
        self.depth: int = max((node.depth for node in inputs), default=0)
        self.shape: Shape = ()
        self.out = Tally()
        self.refresh()

    def refresh(self) -> None:
        """Work out what it sends; called again when a source has changed."""
        self.carries, self.grid = self.effect.sends(self.inputs, self.window)

    @property
    def spiking(self) -> bool:
        return self.carries == "spikes"

    def ancestors(self) -> set[Node]:
        found, open_ends = set[Node](), {*self.inputs}
        while open_ends:
            found |= open_ends
            open_ends = {below for node in open_ends for below in node.inputs} - found
        return found

    @property
    def owner(self) -> Layer | None:
        """The layer whose record a neuron that integrates this output belongs to."""
        owners = {node.owner for node in self.inputs}
        return owners.pop() if self.effect.costless and len(owners) == 1 else None

    @property
    def coded(self) -> bool:
        """Whether it is the inputs, or computed from them before any layer or neuron."""
        return bool(self.inputs) and all(node.coded for node in self.inputs)


class Layer(Node):
    """A convolution, linear layer, product, pooling or residual sum: one record.

    rows: of a linear layer, the axes of one sample that it runs over: tokens, pixels.
    calls: how often it ran.
    ports: what it read of each input.
    magnitudes: of both inputs and the output of a sum; nothing unless potentials are asked for.
    direct: which input of a sum is the direct path: the deeper one.
    """

    window: Window

    def __init__(
        self, name: str, effect: Effect, inputs: tuple[Node, ...], window: Window, rows: Shape = ()
    ) -> None:
        super().__init__(name, effect, inputs, window)
        assert effect.kind is not None
        self.kind: Kind = effect.kind
        self.rows = rows
        self.shape = (*rows, *window.out_shape)
        self.bias = False
        self.weight_density: float | None = None
        self.calls = 0
        self.ports = tuple(Tally() for _ in inputs)
        self.magnitudes = [Magnitudes() for _ in range(3 if self.kind == "add" else 0)]
        self.direct = int(len(inputs) > 1 and inputs[1].depth > inputs[0].depth)
        self.has_weights = self.kind in ("conv", "linear")
        self.depth += self.has_weights

    @property
    def owner(self) -> Layer | None:
        return self

    @property
    def coded(self) -> bool:
        return False

    @property
    def foldable(self) -> Layer | None:
        """The convolution or linear layer that a norm after this one becomes a part of."""
        if self.has_weights:
            return self
        below = self.inputs[0].owner if self.kind == "pool" else None
        return below.foldable if below is not None and self.carries == "potential" else None


class Source(Node):
    """The inputs, a neuron layer, or an unknown function.

    Unless the grid is given, spikes are recognised by value: {-N..N} times one step. Zeros leave
    that open: they count as spikes of a neuron, not of anything else.

    elementwise: whether a neuron may consist of it: its output belongs to the same layer.
    keeps: of a neuron, its state and its own parameters; timesteps are unknown yet.
    integrates: the layer whose output this neuron integrates.
    settled: whether nothing is left to learn: the grid was given, or values are on none.
    """

    def __init__(
        self,
        name: str,
        inputs: tuple[Node, ...] = (),
        *,
        what: Literal["input", "neuron", "function"] = "neuron",
        grid: Grid | None = None,
        elementwise: bool = True,
        leak: bool = False,
    ) -> None:
        self.what = what
        self.elementwise = elementwise
        self.integrates = inputs[0].owner if inputs and elementwise else None
        self.keeps = Neuron(1, leak)
        self.settled = grid is not None
        self.grid = grid
        self.carries = "spikes" if what == "neuron" else "analog"
        self.errors: Errors | None = None
        super().__init__(name, Unknown(), inputs)

    def refresh(self) -> None:
        pass  # nothing follows from its inputs

    @property
    def owner(self) -> Layer | None:
        return self.integrates if self.what == "function" else None

    @property
    def coded(self) -> bool:
        return self.what == "input" or (self.what == "function" and super().coded)

    def learn(self, x: Tensor) -> bool:
        """Learn from x which values there are; whether that was news."""
        if self.settled:
            return False
        low, top = (bound.item() for bound in x.aminmax())
        if not math.isfinite(top) or low == top == 0:
            return False
        known = self.grid, self.carries
        self.grid = refined_grid(x, self.grid, low, top)
        self.settled = self.grid is None
        self.carries = "analog" if self.settled else "spikes"
        return (self.grid, self.carries) != known


@dataclass(slots=True)
class Signal:
    """The content of one tensor, and of its views, during one batch.

    inverted: the spikes a that this is `top` - a of.
    origin: the spikes that this is a constant multiple of.
    sent: whether it was counted as what a neuron written out in the forward sends.
    learned: whether its source has looked at it.
    """

    node: Node
    stats: list[Stats] = field(default_factory=list)
    active: float | None = None
    inverted: Signal | None = None
    top: float = 0.0
    origin: Signal | None = None
    sent: bool = False
    learned: bool = False

    def decoded(self, timesteps: int) -> list[float] | None:
        """Histogram of levels summed over time, where it was counted with the statistics."""
        counted = (stats.decoded for stats in self.stats if stats.timesteps == timesteps)
        return next(counted, None)


@dataclass(slots=True)
class Frame:
    """A module that is running.

    weightless: it has no weights, so it may be a neuron.
    leaf: it has no parts.
    atomic: it is also fed by one signal and not inside another one like it.
    inside: it is atomic or inside one that is.
    notes: of an atomic module; forgotten if it turns out to be a neuron.
    further: of an atomic module, products and powers of its state and functions of it, by name.
    """

    module: nn.Module
    name: str
    weightless: bool
    leaf: bool
    atomic: bool = False
    inside: bool = False
    source: Signal | None = None
    notes: list[str] = field(default_factory=list)
    further: set[str] = field(default_factory=set)


def aligned(nodes: Iterable[Node]) -> bool:
    """Whether nodes send their spikes in the same steps, as far as known."""
    grids = [node.grid for node in nodes if node.grid is not None]
    return all(grid.aligned(grids[0]) for grid in grids)


def is_function(node: Node) -> bool:
    """Whether only looking tells what a node's values are."""
    return isinstance(node, Source) and node.what == "function"


def is_sum(node: Node) -> bool:
    return isinstance(node, Layer) and node.kind == "add"
