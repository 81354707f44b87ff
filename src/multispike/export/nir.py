"""NIR (neuromorphic intermediate representation) of an integer network at T = 1.

NIR (Pedersen et al. 2024, arXiv 2311.14711) knows no graded spikes, but steps: a level is the
number of edges reached, so N neurons of N levels become N `Threshold` nodes that read one sum, at
k*D - bias - 1/2, k = 1..N; the half keeps whole sums off the edges, where NIR fires above and we
fire at a threshold. What reads levels reads all N nodes: NIR adds what meets at a node. A max-pool
is a sum-pool and a threshold of 1/2 on each of the N, since the largest level is the number of
edges that any in the window reached. The graph takes raw pixels as floats and gives the integer
logits exactly.

Not expressible: the soft reset of T > 1 (NIR's neurons reset to a value), products (AND, IAND),
rounding shifts (MS-ResNet) and a minimum (negative batch norm scale before a max-pool).
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from multispike.errors import InputError, invalid
from multispike.export.layers import (
    IMAGE,
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


def export_nir(network: IntegerNetwork, path: str | os.PathLike[str]) -> None:
    """Write `network` as a NIR file (HDF5).

    Raises:
        InputError: for what NIR can't express (see the module) or its float32 can't hold, naming
            the layer.
    """
    if find_spec("nir") is None:
        raise InputError("nir: not installed, allowed: pip install 'multispike[nir]'")
    graph = nir_graph(network)
    with replacing(path) as temporary:
        import_module("nir").write(str(temporary), graph)


def nir_graph(network: IntegerNetwork) -> Any:
    """The `nir.NIRGraph` of `network`, its metadata with the worth of one unit of a logit."""
    if network.timesteps > 1:
        raise invalid("timesteps", network.timesteps, "1 (NIR has no soft reset)")
    writer = _Writer(network)
    prove_float32(network.layers, network.outputs, network.timesteps)
    metadata = {"logit_scale": network.logit_scale, "arch": network.arch}
    return writer.nir.NIRGraph(nodes=writer.nodes, edges=writer.edges, metadata=metadata)


class _Writer:
    """Writes layers in order; `units` has, per layer, the nodes whose sum is what it sends."""

    def __init__(self, network: IntegerNetwork) -> None:
        self.nir = import_module("nir")
        self.network = network
        shape = np.array(network.input_shape)
        self.nodes: dict[str, Any] = {IMAGE: self.nir.Input(input_type={"input": shape})}
        self.edges: list[tuple[str, str]] = []
        self.units: dict[str, list[str]] = {IMAGE: [IMAGE]}
        self.sums: set[str] = set()
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
                shape = self.network.outputs[layer.source].shape
                node = self.sum_pool(name, shape, layer.window)
                return [self.add(name, node, self.units[layer.source])]
            case Concat():
                raise invalid(name, "concatenation", "sums (NIR's nodes add what they read)")
            case Readout():
                return [self.readout(layer)]
        what = layer.kind if isinstance(layer, Merge) else "fixed-point potentials"
        raise invalid(name, what, "sums of levels (NIR has no products and no shifts)")

    def neurons(self, layer: Neurons) -> list[str]:
        """N thresholds on one sum, behind each of them the max-pool where there is one."""
        drive = [self.synapses(one) for one in layer.synapses]
        shape, bias = layer.shape, layer.bias.image()
        if layer.pool is not None and layer.sign is not None:
            if (layer.sign < 0).any():
                raise invalid(layer.name, "a negative scale", "positive ones before a max-pool")
            (one,) = layer.synapses
            shape = one.sum_shape(self.network.outputs[one.source].shape)
            bias = bias[:, :1, :1]
        units = []
        for k in range(1, layer.levels + 1):
            edges = k * layer.step[:, None, None].astype(np.float64) - bias - 0.5
            largest = np.abs(edges).max()
            if largest >= EDGE_MAX:
                raise invalid(layer.name, f"a threshold of {largest}", f"< {EDGE_MAX} (float32)")
            node = self.nir.Threshold(np.broadcast_to(edges, shape).astype(np.float32))
            units.append(self.add(f"{layer.name}_level{k}", node, drive))
        if layer.pool is None:
            return units
        return self.any_of(f"{layer.name}_pool", units, shape, layer.pool)

    def any_of(self, name: str, units: list[str], shape: Shape, window: Window) -> list[str]:
        """Maximum of levels: per level, whether any in the window reached it."""
        half = np.full((shape[0], *window.reach(shape)), 0.5, np.float32)
        pooled = []
        for k, unit in enumerate(units, start=1):
            node = self.sum_pool(name, shape, window)
            summed = self.add(f"{name}_sum{k}", node, [unit])
            pooled.append(self.add(f"{name}_any{k}", self.nir.Threshold(half), [summed]))
        return pooled

    def sum_pool(self, name: str, shape: Shape, window: Window) -> Any:
        """A pooling node; NIR pads both sides alike, and drops what is left at the end."""
        alike = Window(window.kernel, window.stride, window.before, window.before)
        if alike.reach(shape) != window.reach(shape) or window.dilation != (1, 1):
            allowed = "even sizes (NIR's poolings drop an odd row or column), no dilation"
            raise invalid(name, shape, allowed)
        return self.nir.SumPool2d(
            *(np.array(part) for part in (window.kernel, window.stride, window.before))
        )

    def synapses(self, one: Synapses) -> str:
        """A convolution without bias, or an identity's scale."""
        sources = self.units[one.source]
        shape = self.network.outputs[one.source].shape
        if one.gain is not None:
            gain = np.broadcast_to(one.gain[:, None, None], shape).astype(np.float32)
            return self.add(one.name, self.nir.Scale(gain), sources)
        assert one.weight is not None
        window, weight = one.window, one.weight.astype(np.float32)
        if window.before != window.after:
            allowed = "the same on both sides (NIR has no other)"
            raise invalid(one.name, f"padding {window.before} and {window.after}", allowed)
        zero = np.zeros(len(weight), np.float32)
        parts = (window.stride, window.before, window.dilation, one.groups, zero)
        return self.add(one.name, self.nir.Conv2d(shape[1:], weight, *parts), sources)

    def readout(self, layer: Readout) -> str:
        (one,) = layer.synapses
        assert one.weight is not None
        weight = one.weight.reshape(len(one.weight), -1).astype(np.float32)
        shape = np.array(self.network.outputs[one.source].shape)
        flatten = self.nir.Flatten({"input": shape}, start_dim=0)
        flat = self.add("flatten", flatten, self.units[one.source])
        affine = self.nir.Affine(weight, layer.bias.values[0, 0].astype(np.float32))
        logits = self.add(one.name, affine, [flat])
        output = self.nir.Output(output_type={"output": np.array([len(weight)])})
        return self.add("logits", output, [logits])
