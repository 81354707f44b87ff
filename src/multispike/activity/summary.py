"""From the nodes of a finished pass to its result: means per inference, paths, records."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

from multispike import layer_record
from multispike.activity.counting import Histogram, Tally
from multispike.activity.elementwise_rules import Activation
from multispike.activity.provenance import Layer, Node, Source, is_sum
from multispike.activity.tracing import Tracer
from multispike.layer_record import Geometry, LayerRecord, Stream
from multispike.results import Potentials, ResidualSum, Route, SpikeLayer


class Summary:
    """What a finished pass over `samples` samples has found."""

    def __init__(self, tracer: Tracer, samples: int) -> None:
        self._samples = samples
        self._batches = tracer.batches
        self._notes = dict(tracer.notes)
        self._macs = tracer.macs
        nodes = tracer.nodes
        self._layers = [node for node in nodes if isinstance(node, Layer)]
        neurons = [node for node in nodes if isinstance(node, Source) and _is_neuron(node)]
        self._timesteps = tracer.known_timesteps(spiking=bool(neurons))
        self._spiking = bool(neurons)
        self._followers = self._follow(neurons)
        self._senders = [node for node in nodes if _sends(node, self._followers)]

    def parts(self) -> dict[str, Any]:
        records = tuple(self._record(layer) for layer in self._layers)
        every = sum(self._macs.values())
        for record in records:
            if isinstance(record, layer_record.Synapses) and not record.table:
                every += record.timesteps * record.synapses
        sizes = {
            note: f", {macs / every:.1%} of all multiply-accumulates"
            for note, macs in self._macs.items()
        }
        return {
            "records": records,
            "neurons": tuple(self._row(node, node.out, _path(node)) for node in self._senders),
            "sums": tuple(self._residual(node) for node in self._layers if node.kind == "add"),
            "samples": self._samples,
            "not_counted": tuple(note + sizes.get(note, "") for note in self._notes),
        }

    # --- neurons and sums -------------------------------------------------------------------

    def _follow(self, neurons: list[Source]) -> dict[Layer, Source]:
        """The neurons behind each layer; those that can't be part of a record are noted."""
        followers: dict[Layer, Source] = {}
        for node in neurons:
            layer, why = node.integrates, None
            if layer is None:
                encodes = not node.settled and all(source.coded for source in node.inputs)
                if not (encodes and node.what == "neuron"):
                    why = "no layer here computes its input"
            elif layer in followers:
                why = f"{followers[layer].name} already follows {layer.name}"
            elif self._steps(node) != self._steps(layer) > 1:
                why = f"runs more or less often than {layer.name}"
            else:
                followers[layer] = node
            missing = f"{why}; only its events are counted" if why else ""
            if not why and layer and node.what == "function" and self._steps(node) > 1:
                missing = "written out in the forward; its leak and further state are not counted"
            if missing:
                size = f"{self._steps(node) * math.prod(node.shape):,} updates"
                self._notes[f"neuron at {node.name}: {missing}, of {size}"] = None
        return followers

    def _row(self, node: Any, tally: Tally, path: Route) -> SpikeLayer:
        """`node`, as far as it was added to `tally`."""
        steps = self._times(tally.elements, node.shape)
        levels, histogram, decoded, errors = _levels(node), (), (), (None, None)
        if isinstance(node, Source) and node.errors is not None:
            errors = node.errors.rms()
        if node.spiking:
            for counted in (tally, node.out):
                counted.rescale(node.grid.step if node.grid is not None else 0.0)
            histogram = self._histogram(tally.histogram, tally, levels)
            decoded = histogram if steps == 1 else ()
            if node.out.decoded is not None:
                decoded = self._histogram(node.out.decoded, tally, levels * steps, steps)
        return SpikeLayer(
            name=_origin(node).name,
            path=path,
            shape=node.shape,
            timesteps=steps,
            levels=levels,
            events=tally.counted / self._samples,
            amplitude=_amplitude(node, tally) / self._samples,
            max_level=_top(node, tally),
            histogram=histogram,
            decoded=decoded,
            error_relu=errors[0],
            error_clipped=errors[1],
        )

    def _histogram(
        self, counted: Histogram, tally: Tally, levels: int, steps: int = 1
    ) -> tuple[float, ...]:
        """Means at 0..levels: what was not counted above zero is zero."""
        if counted is None and tally.counted:
            return ()
        above = [] if counted is None else counted[1 : levels + 1]
        above += [0.0] * (levels - len(above))
        found = [tally.elements / steps - sum(above), *above]
        return tuple(count / self._samples for count in found)

    def _residual(self, node: Layer) -> ResidualSum:
        behind = [reader for _, reader in _readers(node) if isinstance(reader, Source)]
        grids = [reader.grid for reader in sorted(behind, key=lambda reader: reader.name)]
        grid = next((grid for grid in grids if grid is not None), None)
        level = 1.0 if grid is None else grid.unit(node.shape)
        rows: list[SpikeLayer | Potentials | None] = []
        paths: dict[Route, int] = {"direct": node.direct, "shortcut": 1 - node.direct, "sum": 2}
        for path, index in paths.items():
            source, tally = (*node.inputs, node)[index], (*node.ports, node.out)[index]
            found, row = node.magnitudes[index], None
            if source.spiking:
                row = self._row(source, tally, path)
            elif found.elements:
                row = Potentials(
                    name=_origin(source).name,
                    path=path,
                    shape=node.shape,
                    timesteps=self._times(found.elements, node.shape),
                    events=found.nonzero / self._samples,
                    amplitude=float((found.total / level).sum()) / self._samples,
                    largest=float((found.top / level).max()),
                )
            rows.append(row)
        neuron = self._followers.get(node)
        return ResidualSum(node.name, *rows, neuron=neuron and neuron.name)

    # --- records ----------------------------------------------------------------------------

    def _record(self, layer: Layer) -> LayerRecord:
        first, neuron, samples = _first(layer), self._followers.get(layer), self._samples
        source, port = layer.inputs[first], layer.ports[first]
        sends = neuron or (layer if source.spiking and layer.kind in ("add", "pool") else None)
        table = getattr(layer.effect, "table", 0)
        read: dict[str, Any] = {"events": port.counted / samples}
        if source.spiking and not table:
            read = self._stream(source, port)
        timesteps, copies = self._timesteps_of(layer)
        common: dict[str, Any] = {
            "name": layer.name,
            "geometry": _geometry(layer, copies),
            "timesteps": timesteps,
        }
        if neuron:
            steps = max(1, self._steps(neuron) // copies)
            common["neuron"] = replace(neuron.keeps, timesteps=steps)
        if sends:
            sent = self._stream(sends, sends.out)
            common["output"] = layer_record.Output(**sent, max_level=_top(sends, sends.out))
        if layer.kind == "add":
            shortcut = self._shortcut(layer, first)
            return layer_record.Sum(**common, input=Stream(**read), shortcut=shortcut)
        read["taps"] = port.taps / samples
        if read.get("levels"):
            read["amplitude_taps"] = _in_steps(port.amplitude_taps, source) / samples
            if layer.kind != "pool" and port.active is not None:
                read["active"] = port.active / samples
        common["input"] = layer_record.Input(**read)
        if layer.kind == "pool":
            return layer_record.Pool(**common)
        weights = {"bias": layer.bias, "weight_density": layer.weight_density, "table": table}
        return layer_record.Synapses(**common, kind=layer.kind, **weights)

    def _timesteps_of(self, layer: Layer) -> tuple[int, int]:
        """How often a layer runs per inference: timesteps, and rows or heads at each of them."""
        steps = self._steps(layer)
        if layer.kind in ("conv", "pool"):
            return steps, 1
        timesteps = self._timesteps
        if timesteps is None:
            timesteps = math.ceil(layer.calls / self._batches) if self._spiking else 1
        return (timesteps, steps // timesteps) if steps % timesteps == 0 else (steps, 1)

    def _stream(self, node: Node, tally: Tally) -> dict[str, Any]:
        """Fields of what a node sends, as far as it was added to `tally`."""
        sums = {"events": tally.counted, "amplitude": _amplitude(node, tally)}
        return {"levels": _levels(node)} | {name: x / self._samples for name, x in sums.items()}

    def _shortcut(self, layer: Layer, first: int) -> Stream | Literal["dense"] | None:
        other = layer.inputs[1 - first]
        if other.spiking:
            return Stream(**self._stream(other, layer.ports[1 - first]))
        owner = other.owner if other.carries == "potential" else None
        alone = owner is not None and {reader for _, reader in _readers(owner)} == {layer}
        return None if owner and alone and owner.has_weights else "dense"

    def _steps(self, node: Layer | Source) -> int:
        if isinstance(node, Layer):
            row = (*node.window.in_shape, *node.rows)
            return self._times(node.ports[_first(node)].elements, row)
        return self._times(node.out.elements, node.shape)

    def _times(self, elements: int, shape: tuple[int, ...]) -> int:
        """How often a tensor came per inference, at least once; up if not in every batch."""
        return max(1, math.ceil(elements / self._samples / math.prod(shape) - 1e-9))


# --- what nodes are -----------------------------------------------------------------------------


def _is_neuron(source: Source) -> bool:
    spiking = source.spiking and source.out.elements > 0
    return spiking and not source.coded and (source.what == "neuron" or source.elementwise)


def _sends(node: Any, followers: dict[Layer, Source]) -> bool:
    """Whether a node is a row of the table of what is sent."""
    if is_sum(node):
        return node.spiking and node not in followers
    if isinstance(node.effect, Activation):
        return not (node.coded and node.spiking)
    return isinstance(node, Source) and _is_neuron(node)


def _path(node: Node) -> Route:
    if is_sum(node):
        return "sum"
    ends = [
        isinstance(reader, Layer) and is_sum(reader) and reader.inputs[reader.direct] is not read
        for read, reader in _readers(node)
    ]
    return "shortcut" if ends and all(ends) else "direct"


def _readers(node: Node) -> list[tuple[Node, Node]]:
    """(what is read, who reads it), looking through what costs nothing."""
    pairs = []
    for reader in node.readers:
        pairs += _readers(reader) if reader.effect.costless else [(node, reader)]
    return pairs


def _origin(node: Node) -> Node:
    """What is read, looking through what costs nothing (V_th of AND and IAND)."""
    while node.effect.costless and len(node.inputs) == 1:
        node = node.inputs[0]
    return node


def _first(layer: Layer) -> int:
    """The input that a record calls its own: of a sum the direct path, but never spikes beside
    potentials, which they are added to."""
    if layer.kind != "add":
        return 0
    lone = layer.inputs[layer.direct].spiking and not layer.inputs[1 - layer.direct].spiking
    return 1 - layer.direct if lone else layer.direct


def _geometry(layer: Layer, copies: int) -> Geometry:
    """Of `copies` rows or heads at every timestep."""
    w, groups = layer.window, layer.window.groups
    shapes, copied = [w.in_shape, w.out_shape], (copies,) if copies > 1 else ()
    if layer.kind == "conv" and not w.transposed:
        shapes[0] = w.in_shape[:1]  # enlarged by what "same" padding adds on its further side
        for size, out, kernel, stride, padding, dilation in map(w.axis, range(len(w.kernel))):
            needed = (out - 1) * stride + dilation * (kernel - 1) + 1 - 2 * padding
            shapes[0] += (max(size, needed),)
    elif layer.kind == "add":
        shapes = [(*copied, *shape) for shape in shapes]
    elif layer.has_weights or layer.kind == "matmul":
        rows = math.prod(layer.rows)
        if layer.kind == "matmul" and groups == 1:
            groups, shapes = copies, [(copies * shape[0],) for shape in shapes]
        else:
            rows *= copies
        if rows > 1:
            shapes = [(rows, *shape) for shape in shapes]
    constants = (w.kernel, w.stride, w.padding, w.dilation, groups, w.transposed)
    return Geometry(shapes[0], shapes[1], *constants)


def _levels(node: Node) -> int:
    """Largest level by construction; 1 where nothing but zeros came."""
    if node.grid is not None:
        return node.grid.levels
    if node.spiking:
        return 1
    if not isinstance(node, Layer):
        return 0
    # Spikes in, but no common step any more: a bound is all there is.
    below = sum(_levels(source) for source in node.inputs if source.spiking)
    return below * (math.prod(node.window.kernel) if node.kind == "pool" else 1)


def _amplitude(node: Node, tally: Tally) -> float:
    """Sum of levels; without a common step, one for each event."""
    if node.grid is not None:
        return _in_steps(tally.weight, node)
    stepless = isinstance(node, Layer) and node.carries == "analog"
    below = stepless and any(source.spiking for source in node.inputs)
    return tally.counted if below else 0.0


def _in_steps(value: float, node: Node) -> float:
    return float(round(value / node.grid.step)) if node.grid is not None else 0.0


def _top(node: Node, tally: Tally) -> int:
    return round(tally.top / node.grid.step) if node.grid is not None else 0
