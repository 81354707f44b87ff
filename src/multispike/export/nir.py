"""NIR (neuromorphic intermediate representation) of an integer network at T = 1, and back.

NIR (Pedersen et al. 2024, arXiv 2311.14711) knows no graded spikes. But a level is the number of
edges reached, so N neurons of N levels become N `IF` nodes that read one sum; at one step from zero
such a node compares what it reads with its threshold. What reads levels reads all N nodes: NIR adds
what meets at a node. A max-pool is a sum and an edge at 1/2, since the largest level is the number
of edges that any in the window reached. The graph takes raw pixels as floats and gives the integer
logits exactly.

Only `Conv2d` and `IF` are written, as other readers know no more in common: gains and poolings are
convolutions with diagonal weights, the mean over the image is part of the next weights, a linear
layer is a convolution over the whole image. Where N = 1, all that differs from channel to channel
is in biases, and an `IF` node has one threshold, above every bound, so that readers whose neurons
may fire more than once a step fire once; a bias that differs near borders is weights on a channel
of ones.

Not expressible: the soft reset of T > 1 (NIR's neurons reset to a value), products (AND, IAND),
rounding shifts (MS-ResNet) and a minimum (negative batch norm scale before a max-pool).
"""

from __future__ import annotations

import io
import os
from dataclasses import replace
from graphlib import TopologicalSorter
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from multispike.errors import InputError, check_sample, invalid
from multispike.export.folding import Floats
from multispike.export.formats import description
from multispike.export.layers import (
    IMAGE,
    POINT,
    Bias,
    Concat,
    Layer,
    MaxPool,
    Merge,
    Neurons,
    Readout,
    Shape,
    SumPool,
    Synapses,
    Window,
)
from multispike.export.network import IntegerNetwork
from multispike.export.validate import prove_float32
from multispike.files import replacing

EDGE_MAX = 2**23
"""Below, float32 holds halves."""

_DAMAGE = (
    *(OSError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RuntimeError),
    *(AssertionError, MemoryError, InputError),
)
"""What reading and running another's file may raise."""


def export_nir(network: IntegerNetwork, path: str | os.PathLike[str]) -> None:
    """Write `network` as a NIR file (HDF5).

    Raises:
        InputError: for what NIR can't express (see the module) or its float32 can't hold, naming
            the layer.
    """
    content = io.BytesIO()  # where a disk is full, HDF5's own writing ends the process
    _package().write(content, nir_graph(network))
    with replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())


def _package() -> Any:
    if find_spec("nir") is None:
        raise InputError("nir: not installed, allowed: pip install 'multispike[nir]'")
    return import_module("nir")


def nir_graph(network: IntegerNetwork) -> Any:
    """The `nir.NIRGraph` of `network`, its metadata with the worth of one unit of a logit."""
    if network.timesteps > 1:
        raise invalid("timesteps", network.timesteps, "1 (NIR has no soft reset)")
    writer = _Writer(network)
    prove_float32(network.layers, network.outputs, network.timesteps)
    metadata = {"arch": network.arch, **description(network)}
    return writer.nir.NIRGraph(nodes=writer.nodes, edges=writer.edges, metadata=metadata)


class _Writer:
    """Writes layers in order; `units` has, per layer, the nodes whose sum is what it sends."""

    def __init__(self, network: IntegerNetwork) -> None:
        self.nir = _package()
        self.network = network
        shape = np.array(network.input_shape)
        self.nodes: dict[str, Any] = {IMAGE: self.nir.Input(input_type={"input": shape})}
        self.edges: list[tuple[str, str]] = []
        self.units: dict[str, list[str]] = {IMAGE: [IMAGE]}
        self.sums: set[str] = set()
        self.means: dict[str, Shape] = {}  # images whose sum is left to what reads it
        for layer in network.layers:
            self.units[layer.name] = self.layer(layer)

    def add(self, name: str, node: Any, sources: list[str]) -> str:
        """One node that reads the sum of `sources`."""
        name = name.replace(".", "_")  # dots part groups in HDF5
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return name

    def layer(self, layer: Layer) -> list[str]:
        """Nodes of one layer; gives those whose sum is what it sends."""
        name = layer.name
        match layer:
            case Neurons():
                return self.neurons(layer)
            case Merge(kind="add"):
                self.sums.add(name)
                return self.units[layer.path] + self.units[layer.shortcut]
            case MaxPool() if layer.source in self.sums:
                allowed = "levels of single neurons (NIR's nodes add what they read, unpooled)"
                raise invalid(name, f"a max-pool of {layer.source}", allowed)
            case MaxPool():
                shape = self.network.outputs[layer.source].shape
                return self.any_of(name, self.units[layer.source], shape, layer.window)
            case SumPool():
                self.sums.add(name)
                source, shape = layer.source, self.network.outputs[layer.source].shape
                if layer.window.covers(shape):
                    self.means[name] = self.means.get(source, shape)
                    return self.units[source]
                return [self.sum_pool(name, self.units[source], shape, layer.window)]
            case Concat() if self.means.keys().isdisjoint(layer.parts):
                self.sums.add(name)
                return self.placed(layer)
            case Readout():
                return [self.readout(layer)]
        what = layer.kind if isinstance(layer, Merge) else "fixed-point potentials"
        what = "means, concatenated" if isinstance(layer, Concat) else what
        raise invalid(name, what, "sums of levels (NIR has no products and no shifts)")

    def placed(self, layer: Concat) -> list[str]:
        """Each part among zeros for the channels of the others."""
        nodes, places = [], np.eye(layer.shape[0])[:, :, None, None]
        for part in layer.parts:
            shape = self.network.outputs[part].shape
            own, places = places[:, : shape[0]], places[:, shape[0] :]
            name = f"{layer.name}_{part}"
            nodes.append(self.convolution(name, self.units[part], shape, own, POINT))
        return nodes

    def neurons(self, layer: Neurons) -> list[str]:
        """N edges on one sum, behind each of them the max-pool where there is one."""
        shape, bias, first = layer.shape, layer.bias, layer.synapses[0]
        if layer.pool is not None and layer.sign is not None:
            if (layer.sign < 0).any():
                raise invalid(layer.name, "a negative scale", "positive ones before a max-pool")
            shape = first.sum_shape(self.network.outputs[first.source].shape)
            bias = Bias.uniform(bias.values[0, 0], shape)
        uneven = layer.levels == 1 and not bias.is_uniform
        border = self.border(first, bias) if uneven else None
        drive = [self.synapses(first, border), *map(self.synapses, layer.synapses[1:])]
        if layer.levels == 1 and (bias.is_uniform or border is not None):
            bound = self.network.bounds[layer.name]
            offset = bias.values[0, 0] if border is None else 0
            self.nodes[drive[0]].bias[:] = bound + 1 + offset - layer.step
            edges = [bound + 0.5]
        else:
            step = layer.step[:, None, None].astype(np.float64)
            edges = [k * step - bias.image() - 0.5 for k in range(1, layer.levels + 1)]
        units = []
        for k, edge in enumerate(edges, start=1):
            largest = np.abs(edge).max()
            if largest >= EDGE_MAX:
                raise invalid(layer.name, f"a threshold of {largest}", f"< {EDGE_MAX} (float32)")
            units.append(self.fire(f"{layer.name}_level{k}", drive, shape, edge))
        if layer.pool is None:
            return units
        return self.any_of(f"{layer.name}_pool", units, shape, layer.pool)

    def fire(self, name: str, drive: list[str], shape: Shape, edge: Any) -> str:
        """Neurons that send 1 above an edge."""
        threshold = np.broadcast_to(edge, shape).astype(np.float32)
        return self.add(name, self.nir.IF(np.ones_like(threshold), threshold), drive)

    def border(self, one: Synapses, bias: Bias) -> Floats | None:
        """Weights on a channel of ones that give a bias that depends on the position.

        Which taps are inside is an interval for each class of rows and columns: such matrices have
        whole inverses. None where there are too few taps for it, or float32 would round.
        """
        source = self.network.outputs[one.source].shape
        inverse = []
        for axis, classes in enumerate((bias.rows, bias.columns)):
            taps = one.window.taps(axis, source)[np.unique(classes, return_index=True)[1]]
            inside = ((taps >= 0) & (taps < source[1 + axis])).astype(np.float64)
            chosen: list[int] = []
            for tap in range(inside.shape[1]):
                if np.linalg.matrix_rank(inside[:, [*chosen, tap]]) > len(chosen):
                    chosen.append(tap)
            if len(chosen) < len(inside):
                return None
            inverse.append(np.zeros(inside.T.shape))
            inverse[-1][chosen] = np.rint(np.linalg.inv(inside[:, chosen]))
        weight = np.einsum("kr,rsc,ls->ckl", inverse[0], bias.values, inverse[1])
        exact = np.abs(weight).sum((1, 2)).max() < EDGE_MAX
        return weight[:, None] if exact and one.groups == 1 else None

    def any_of(self, name: str, units: list[str], shape: Shape, window: Window) -> list[str]:
        """Maximum of levels: per level, whether any in the window reached it."""
        reach, most = (shape[0], *window.reach(shape)), int(np.prod(window.kernel))
        pooled = []
        for k, unit in enumerate(units, start=1):
            summed = self.sum_pool(f"{name}_sum{k}", [unit], shape, window, most)
            pooled.append(self.fire(f"{name}_any{k}", [summed], reach, most + 0.5))
        return pooled

    def sum_pool(
        self, name: str, sources: list[str], shape: Shape, window: Window, bias: int = 0
    ) -> str:
        """Sums of windows; NIR pads both sides alike, and drops what is left at the end."""
        alike = replace(window, after=window.before)
        if alike.reach(shape) != window.reach(shape):
            raise invalid(name, shape, "even sizes (NIR drops an odd row or column)")
        weight = np.zeros((shape[0], shape[0], *window.kernel))
        weight[np.arange(shape[0]), np.arange(shape[0])] = 1
        return self.convolution(name, sources, shape, weight, alike, bias=bias)

    def convolution(
        self, name: str, sources: list[str], shape: Shape, weight: Any, window: Window,
        groups: int = 1, bias: int = 0,
    ) -> str:  # fmt: skip
        if window.before != window.after:
            allowed = "the same on both sides (NIR has no other)"
            raise invalid(name, f"padding {window.before} and {window.after}", allowed)
        square = _square(window, shape)
        if square.reach(shape) != window.reach(shape):
            allowed = "a square, or sides whose difference is even (nir reads no other)"
            raise invalid(name, f"a kernel of {window.kernel}", allowed)
        room = [b - a for a, b in zip(window.kernel, square.kernel, strict=True)]
        weight = np.pad(weight, [(0, 0), (0, 0), *((-(-r // 2), r // 2) for r in room)])
        biases = np.full(len(weight), bias, np.float32)
        parts = (square.stride, square.before, square.dilation, groups, biases)
        node = self.nir.Conv2d(shape[1:], weight.astype(np.float32), *parts)
        return self.add(name, node, sources)

    def synapses(self, one: Synapses, border: Floats | None = None) -> str:
        """A convolution, its bias still 0; `border` are its weights on a channel of ones."""
        sources, shape = self.units[one.source], self.network.outputs[one.source].shape
        if one.weight is None:
            assert one.gain is not None
            gain = np.diag(one.gain)[:, :, None, None]
            return self.convolution(one.name, sources, shape, gain, POINT)
        weight, window = one.weight, one.window
        if one.source in self.means:
            shape = self.means[one.source]
            window = Window(shape[1:])
            weight = np.broadcast_to(weight, (*weight.shape[:2], *window.kernel))
        if border is not None:
            channels = shape[0]
            ones = np.eye(channels + 1, channels)[:, :, None, None]
            sources = [self.convolution(f"{one.name}_ones", sources, shape, ones, POINT)]
            self.nodes[sources[0]].bias[channels] = 1
            shape = channels + 1, *shape[1:]
            weight = np.concatenate([weight, border], 1)
        return self.convolution(one.name, sources, shape, weight, window, one.groups)

    def readout(self, layer: Readout) -> str:
        logits = self.synapses(layer.synapses[0])
        self.nodes[logits].bias[:] = layer.bias.values[0, 0]
        output = self.nir.Output(output_type={"output": np.array(layer.shape)})
        return self.add("logits", output, [logits])


def _square(window: Window, shape: Shape) -> Window:
    """The window with a square kernel around it, since nir 1.0.8 takes every kernel for square."""
    side = max(window.kernel)
    wider = (-(-(side - k) // 2) * d for k, d in zip(window.kernel, window.dilation, strict=True))
    rows, columns = (b + more for b, more in zip(window.before, wider, strict=True))
    places = zip(window.reach(shape), window.stride, strict=True)
    down, across = (max(side, stride) if place == 1 else stride for place, stride in places)
    ends = rows, columns
    return Window((side, side), (down, across), ends, ends, window.dilation)


def load(path: str | os.PathLike[str]) -> nn.Module:
    """The graph of a file that `export_nir` wrote, as a module: pixels [B, C, H, W], 0 to 255, of
    any number type, to the integer logits, int64 [B, classes].

    Raises:
        InputError: for a file that is missing, damaged, contradicts itself or has other nodes.
    """
    nir, file = _package(), os.fspath(path)
    if not Path(file).is_file():
        raise InputError(f"path: got {file!r}, allowed: an existing file")
    try:
        module = _Graph(nir.read(Path(file)))
        check_sample("pixels", module.input_shape)
        module(torch.zeros(1, *module.input_shape))
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"path: got {file!r}, no network of export_nir: {reason}") from error
    return module


class _Graph(nn.Module):
    """Nodes in the order of execution, one step from zero."""

    def __init__(self, graph: Any) -> None:
        super().__init__()
        read: dict[str, list[str]] = {name: [] for name in graph.nodes}
        for source, name in graph.edges:
            read[name].append(source)
        self.read = {name: read[name] for name in TopologicalSorter(read).static_order()}
        self.input_shape = tuple(map(int, graph.nodes[IMAGE].input_type["input"]))
        self.steps = nn.ModuleDict()
        for name in self.read:
            kind = type(graph.nodes[name]).__name__
            if kind not in ("Input", "Output", "Conv2d", "IF"):
                raise InputError(f"{name}: got {kind}, allowed: Input, Output, Conv2d, IF")
            make = {"Conv2d": _Convolution, "IF": _Edge}.get(kind)
            self.steps[name] = make(graph.nodes[name]) if make else nn.Identity()

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        if tuple(pixels.shape[1:]) != self.input_shape:
            allowed = f"[B, {', '.join(map(str, self.input_shape))}]"
            raise invalid("pixels", list(pixels.shape), allowed)
        values = {}
        for name, sources in self.read.items():
            read = sum(values[source] for source in sources) if sources else pixels.float()
            values[name] = self.steps[name](read)
        return values["logits"].flatten(1).round().long()


class _Convolution(nn.Module):
    def __init__(self, node: Any) -> None:
        super().__init__()
        self.weight = nn.Buffer(torch.from_numpy(node.weight))
        self.bias = nn.Buffer(torch.from_numpy(node.bias))
        sizes = node.stride, node.padding, node.dilation
        self.sizes = [tuple(map(int, size)) for size in sizes]
        self.groups = int(node.groups)

    def forward(self, x: Tensor) -> Tensor:
        stride, padding, dilation = self.sizes
        return nn.functional.conv2d(
            x, self.weight, self.bias, stride, padding, dilation, self.groups
        )


class _Edge(nn.Module):
    """An `IF` node: one step from zero, v = r * x, and 1 above the threshold."""

    def __init__(self, node: Any) -> None:
        super().__init__()
        self.r = nn.Buffer(torch.from_numpy(node.r))
        self.threshold = nn.Buffer(torch.from_numpy(node.v_threshold))

    def forward(self, x: Tensor) -> Tensor:
        return (self.r * x > self.threshold).float()
