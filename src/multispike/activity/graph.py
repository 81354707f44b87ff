"""The network as far as counting goes: a node per layer, neuron or function.

A node stands for one place of the network and lives for the whole pass. What it carries follows
from its inputs; only a source (input, neuron, unknown function) learns it from values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from multispike.activity.provenance import Errors, Magnitudes, Tally
from multispike.activity.statistics import Grid, find_grid, nonzeros, on_grid, tolerance
from multispike.layer_record import Kind, positions_read

Carries = Literal["spikes", "analog", "potential"]
"""Spikes: whole levels. Analog: any values, zeros among them. Potential: what a layer computed
and no activation function has seen yet; taken as non-zero everywhere."""


@dataclass(frozen=True)
class Window:
    """How the kernel of a convolution or pooling meets its input; sizes are (height, width)."""

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    adaptive: bool = False

    def reach(self, axis: int) -> Tensor:
        """How many (output, kernel position) pairs read each row (axis 0) or column (axis 1).

        >>> Window((1, 4, 4), (1, 2, 2), (3, 3), (2, 2), (1, 1)).reach(0).tolist()
        [1.0, 2.0, 1.0, 1.0]
        """
        size, out = self.in_shape[axis + 1], self.out_shape[axis + 1]
        if self.adaptive:
            outputs = torch.arange(out)
            starts, ends = outputs * size // out, -(-(outputs + 1) * size // out)
            places = torch.arange(size)[:, None]
            return ((places >= starts) & (places < ends)).sum(1).double()
        pairs = positions_read(
            size,
            out,
            self.kernel[axis],
            self.stride[axis],
            self.padding[axis],
            self.dilation[axis],
        )
        return torch.tensor(pairs, dtype=torch.float64)

    def taps(self, per_position: Tensor) -> float:
        """Kernel positions reached by counts [H, W] (a scalar, for a layer without kernel)."""
        if per_position.dim() < 2:
            return float(per_position)
        return float(self.reach(0) @ per_position @ self.reach(1))


class Node:
    """A place in the network.

    grid: the values of the spikes it sends; None if it sends none, or none but zeros yet.
    shape: one row of the output; () where unknown.
    depth: convolutions and linear layers on the longest way here.
    readers: the nodes that use its output as it is.
    """

    def __init__(self, name: str, inputs: tuple[Node, ...] = ()) -> None:
        self.name = name
        self.inputs = inputs
        self.readers: set[Node] = set()
        self.depth: int = max((node.depth for node in inputs), default=0)
        self.shape: tuple[int, ...] = ()
        self.grid: Grid | None = None
        self.carries: Carries = "potential"
        self.out = Tally()
        """What it sent; empty where nobody counts that."""

    def before(self) -> set[Node]:
        """All nodes that it was computed from."""
        found: set[Node] = set()
        open_ends = list(self.inputs)
        while open_ends:
            node = open_ends.pop()
            if node not in found:
                found.add(node)
                open_ends += node.inputs
        return found

    def refresh(self) -> None:
        """Work out grid and carries from the inputs; called again when a source has changed."""

    @property
    def owner(self) -> Layer | None:
        """The layer whose record a neuron that integrates this output belongs to."""
        return None

    @property
    def coded(self) -> bool:
        """Whether it is the inputs, or computed from them before any layer or neuron."""
        return bool(self.inputs) and all(node.coded for node in self.inputs)


class Source(Node):
    """The inputs, a neuron layer, or a function that nobody knows.

    Spikes are recognised by value: unless the grid is given, what comes out is {0..N} times one
    step, or the source is analog. Zeros leave that open: they count as spikes of a neuron, not of
    anything else.
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
        super().__init__(name, inputs)
        self.what = what
        self.leak = leak
        self.settled = grid is not None
        """Whether nothing is left to learn: the grid was given, or values are on none."""
        self.grid = grid
        self.carries = "spikes" if what == "neuron" else "analog"
        self.decoded: Tensor | None = None
        self.errors: Errors | None = None
        self._owner = inputs[0].owner if inputs and elementwise else None

    @property
    def owner(self) -> Layer | None:
        return self._owner if self.what == "function" else None

    @property
    def coded(self) -> bool:
        return self.what == "input" or (self.what == "function" and super().coded)

    @property
    def integrates(self) -> Layer | None:
        """The layer whose output this neuron integrates."""
        return self._owner

    def look(self, x: Tensor) -> bool:
        """Learn from x which values there are; whether that was news."""
        if self.settled:
            return False
        low, top = x.amin().item(), x.amax().item()
        if not math.isfinite(top) or low == top == 0:
            return False
        known = self.grid
        self.grid = self._fitting(x, top) if low >= 0 else None
        self.settled = self.grid is None
        if self.settled:
            self.out.histogram = self.decoded = None
        self.carries = "analog" if self.settled else "spikes"
        return self.grid != known

    def _fitting(self, x: Tensor, top: float) -> Grid | None:
        """The grid of x >= 0 with largest value `top` and of all that was seen before."""
        known = self.grid
        if known is not None and _on_known(x, top, known):
            return Grid(known.step, max(known.levels, round(top / known.step)))
        found = find_grid(x)
        if found is None or known is None:
            return found
        ratio = round(known.step / found.step)  # only multiples of the step were seen until now
        if ratio < 1 or abs(known.step / found.step - ratio) > 1e-3:
            return None
        self.out.histogram = _spread(self.out.histogram, ratio)
        self.decoded = _spread(self.decoded, ratio)
        return Grid(known.step / ratio, max(found.levels, known.levels * ratio))


def _on_known(x: Tensor, top: float, grid: Grid) -> bool:
    if grid.levels == 1 and math.isclose(top, grid.step, rel_tol=1e-5):
        # All values are at most the step, so their sum tells whether they are equal to it.
        flat = x.reshape(x.shape[0], -1)
        events, total = (part.sum(0).double().sum().item() for part in (nonzeros(flat), flat))
        return math.isclose(total, events * grid.step, rel_tol=1e-5)
    return on_grid(x, grid.step, tolerance(x, round(top / grid.step)))


def _spread(histogram: Tensor | None, ratio: int) -> Tensor | None:
    """Histogram over levels of a step `ratio` times as fine."""
    if histogram is None:
        return None
    spread = histogram.new_zeros((len(histogram) - 1) * ratio + 1)
    spread[::ratio] = histogram
    return spread


class Activation(Node):
    """A ReLU or another function whose output is analog; its zeros are counted."""

    def __init__(self, name: str, inputs: tuple[Node, ...]) -> None:
        super().__init__(name, inputs)
        self.carries = "analog"


class Clamp(Activation):
    """Spikes limited to at most `limit`: spikes if that is one of their levels, else analog."""

    def __init__(self, name: str, inputs: tuple[Node, ...], limit: float) -> None:
        super().__init__(name, inputs)
        self.limit = limit
        self.refresh()

    def refresh(self) -> None:
        source, grid = self.inputs[0], self.inputs[0].grid
        self.carries, self.grid = "analog", None
        if source.carries == "spikes" and grid is not None and grid.channel is None:
            top = self.limit / grid.step
            if round(top) >= 1 and abs(top - round(top)) < 1e-3:
                self.carries = "spikes"
                self.grid = Grid(grid.step, min(grid.levels, round(top)))


class Through(Node):
    """What costs nothing that a record could show: constant factors, copies, sums over time.

    Args:
        factor, levels: what it multiplies steps and levels by.
        carries: if other than what comes in.
    """

    def __init__(
        self,
        name: str,
        inputs: tuple[Node, ...],
        *,
        factor: float | Tensor = 1.0,
        levels: int = 1,
        carries: Carries | None = None,
    ) -> None:
        super().__init__(name, inputs)
        self.factor = factor
        self.levels = levels
        self.forced: Carries | None = carries
        self.refresh()

    def refresh(self) -> None:
        self.carries = _together(self.inputs)
        if self.forced is not None:
            self.carries = self.forced
        grids = _grids(self.inputs) if self.carries == "spikes" else []
        levels = max((grid.levels for grid in grids), default=0) * self.levels
        self.grid = grids[0].scaled(self.factor, levels) if grids else None

    @property
    def owner(self) -> Layer | None:
        owners = {node.owner for node in self.inputs}
        return owners.pop() if len(owners) == 1 else None


class Summed(Through):
    """Spikes of one layer, `levels` timesteps of them added up one by one."""


def _grids(nodes: tuple[Node, ...]) -> list[Grid]:
    return [node.grid for node in nodes if node.grid is not None]


def _together(nodes: tuple[Node, ...]) -> Carries:
    """What a sum or a concatenation carries: spikes if all do, in the same steps."""
    kinds = {node.carries for node in nodes}
    if kinds == {"spikes"}:
        grids = _grids(nodes)
        return "spikes" if all(grid.aligned(grids[0]) for grid in grids) else "analog"
    # Spikes that meet analog values or potentials add to them in place.
    return "analog" if kinds == {"analog"} else "potential"


class Layer(Node):
    """A convolution, linear layer, pooling or residual sum: one record.

    rows: of a linear layer, the axes of one sample that it runs over: tokens, pixels.
    """

    def __init__(
        self,
        name: str,
        inputs: tuple[Node, ...],
        kind: Kind,
        window: Window,
        rows: tuple[int, ...] = (),
    ) -> None:
        super().__init__(name, inputs)
        self.kind: Kind = kind
        self.window = window
        self.rows = rows
        self.shape = (*rows, *window.out_shape)
        self.bias = False
        self.ports = tuple(Tally() for _ in inputs)
        if kind in ("conv", "linear"):
            self.depth += 1
        self.refresh()

    @property
    def owner(self) -> Layer | None:
        return self

    @property
    def coded(self) -> bool:
        return False

    @property
    def foldable(self) -> Layer | None:
        """The convolution or linear layer that a norm after this one becomes a part of."""
        if self.kind in ("conv", "linear"):
            return self
        below = self.inputs[0].owner if self.kind == "pool" else None
        return below.foldable if below is not None and self.carries == "potential" else None


class Pool(Layer):
    """`area` elements are averaged (an average is their sum times 1/area); None: unevenly many.

    A maximum has area 1.
    """

    def __init__(
        self, name: str, inputs: tuple[Node, ...], window: Window, area: int | None
    ) -> None:
        self.area = area
        super().__init__(name, inputs, "pool", window)

    def refresh(self) -> None:
        source, area = self.inputs[0], self.area
        self.carries = "analog" if source.carries == "spikes" and not area else source.carries
        grid = source.grid if area else None
        self.grid = grid.scaled(1 / area, grid.levels * area) if grid and area else None


class Sum(Layer):
    """Where the direct path and the shortcut meet: `direct` is the index of the deeper input.

    A product of spikes (SEW's AND and IAND) is recorded alike: it touches the same memory.
    """

    def __init__(
        self, name: str, inputs: tuple[Node, ...], window: Window, product: bool = False
    ) -> None:
        self.direct = int(inputs[1].depth > inputs[0].depth)
        self.product = product
        self.magnitudes = (Magnitudes(), Magnitudes(), Magnitudes())
        """Of both inputs and of the output; empty unless potentials are asked for."""
        super().__init__(name, inputs, "add", window)

    def refresh(self) -> None:
        self.carries = _together(self.inputs)
        grids = _grids(self.inputs)
        if self.product and all(node.carries == "spikes" for node in self.inputs):
            self.carries = "spikes"
            self.grid = grids[0].times(grids[1]) if len(grids) == 2 else None
        elif self.carries == "spikes" and grids:
            self.grid = grids[0].scaled(1.0, sum(grid.levels for grid in grids))
        else:
            self.grid = None
