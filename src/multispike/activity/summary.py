"""From the nodes of a finished pass to its result: means per inference, paths, records."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from multispike.activity.counting import Magnitudes, Tally
from multispike.activity.elementwise_rules import Activation
from multispike.activity.grid import Grid
from multispike.activity.provenance import Layer, Node, Source
from multispike.layer_record import (
    Geometry,
    Input,
    LayerRecord,
    Neuron,
    Output,
    Pool,
    Stream,
    Sum,
    Synapses,
)
from multispike.results import Activity, Potentials, ResidualSum, Route, SpikeLayer


def summarise(
    nodes: Iterable[Node],
    notes: Iterable[str],
    samples: int,
    accuracy: float | None,
    loss: float | None,
    confusion: Tensor | None,
) -> Activity:
    """The result of a pass over `samples` samples."""
    nodes, lines = list(nodes), dict.fromkeys(notes)
    followers = _followers(nodes, samples, lines)
    layers = [node for node in nodes if isinstance(node, Layer)]
    rows = [_row(n, n.out, _path(n), samples) for n in nodes if _sends(n, followers)]
    return Activity(
        records=tuple(_record(layer, followers.get(layer), samples) for layer in layers),
        neurons=tuple(rows),
        sums=tuple(
            _residual(node, followers.get(node), samples) for node in layers if node.kind == "add"
        ),
        samples=samples,
        accuracy=accuracy,
        loss=loss,
        not_counted=tuple(lines),
        confusion=None if confusion is None else tuple(map(tuple, confusion.tolist())),
    )


# --- neurons and sums ---------------------------------------------------------------------------


def _followers(nodes: Iterable[Node], samples: int, lines: dict[str, None]) -> dict[Layer, Source]:
    """The neurons behind each layer; those that can't be part of a record are noted."""
    followers: dict[Layer, Source] = {}
    for node in nodes:
        if not (isinstance(node, Source) and _is_neuron(node)):
            continue
        layer, why = node.integrates, None
        if layer is None:
            why = "no layer here computes its input"
        elif layer in followers:
            why = f"{followers[layer].name} already follows {layer.name}"
        elif _steps(node, samples) != _steps(layer, samples) > 1:
            why = f"runs more or less often than {layer.name}"
        else:
            followers[layer] = node
        if why:
            lines[f"neuron at {node.name}: {why}; only its events are counted"] = None
    return followers


def _is_neuron(source: Source) -> bool:
    return not source.coded and _spikes(source) and source.out.elements > 0


def _sends(node: Any, followers: dict[Layer, Source]) -> bool:
    """Whether a node is a row of the table of what is sent."""
    if _is_sum(node):
        return node.carries == "spikes" and node not in followers
    if isinstance(node.effect, Activation):
        return not (node.coded and _spikes(node))
    return isinstance(node, Source) and _is_neuron(node)


def _is_sum(node: Any) -> bool:
    return isinstance(node, Layer) and node.kind == "add"


def _path(node: Node) -> Route:
    if _is_sum(node):
        return "sum"
    ends = [
        isinstance(reader, Layer) and _is_sum(reader) and reader.inputs[reader.direct] is not read
        for read, reader in _readers(node)
    ]
    return "shortcut" if ends and all(ends) else "direct"


def _readers(node: Node) -> list[tuple[Node, Node]]:
    """(what is read, who reads it), looking through what costs nothing."""
    pairs = []
    for reader in node.readers:
        pairs += _readers(reader) if reader.effect.costless else [(node, reader)]
    return pairs


def _row(node: Any, tally: Tally, path: Route, samples: int) -> SpikeLayer:
    """`node`, as far as it was added to `tally`."""
    steps, spikes = _whole(tally.elements / samples / math.prod(node.shape)), _spikes(node)
    levels = _levels(node)
    histogram = _histogram(tally.histogram, tally, levels, samples) if spikes else ()
    decoded, errors = histogram if steps == 1 else (), None
    if isinstance(node, Source):
        errors = node.errors
        if node.decoded is not None:
            decoded = _histogram(node.decoded, tally, levels * steps, samples, steps)
    return SpikeLayer(
        name=_origin(node).name,
        path=path,
        shape=node.shape,
        timesteps=steps,
        levels=levels,
        events=_sum(tally.events) / samples,
        amplitude=_amplitude(node, tally) / samples,
        max_level=_top(node, tally),
        histogram=histogram,
        decoded=decoded,
        error_relu=errors and errors.relu,
        error_clipped=errors and errors.clipped,
    )


def _origin(node: Node) -> Node:
    """What is read, looking through what costs nothing (V_th of AND and IAND)."""
    while node.effect.costless and len(node.inputs) == 1:
        node = node.inputs[0]
    return node


def _histogram(
    counted: Tensor | None, tally: Tally, levels: int, samples: int, steps: int = 1
) -> tuple[float, ...]:
    """Means at 0..levels: what was not counted above zero is zero."""
    if counted is None and _sum(tally.events):
        return ()
    above = [] if counted is None else counted.tolist()[1 : levels + 1]
    above += [0.0] * (levels - len(above))
    return tuple(count / samples for count in [tally.elements / steps - sum(above), *above])


def _residual(node: Layer, neuron: Source | None, samples: int) -> ResidualSum:
    direct, shortcut = node.direct, 1 - node.direct
    ends: list[tuple[Node, Tally, Route, Magnitudes]] = [
        (node.inputs[direct], node.ports[direct], "direct", node.magnitudes[direct]),
        (node.inputs[shortcut], node.ports[shortcut], "shortcut", node.magnitudes[shortcut]),
        (node, node.out, "sum", node.magnitudes[2]),
    ]
    unit = _unit_behind(node)
    rows = [
        _row(source, tally, path, samples)
        if _spikes(source)
        else _potentials(source, node.shape, path, magnitudes, unit, samples)
        for source, tally, path, magnitudes in ends
    ]
    return ResidualSum(node.name, *rows, neuron=neuron and neuron.name)


def _potentials(
    node: Node,
    shape: tuple[int, ...],
    path: Route,
    found: Magnitudes,
    unit: Grid | None,
    samples: int,
) -> Potentials | None:
    if not found.elements:
        return None
    amplitude, largest = found.in_levels(unit, shape)
    return Potentials(
        name=_origin(node).name,
        path=path,
        shape=shape,
        timesteps=_whole(found.elements / samples / math.prod(shape)),
        events=found.nonzero / samples,
        amplitude=amplitude / samples,
        largest=largest,
    )


def _unit_behind(node: Layer) -> Grid | None:
    """The levels of the neurons that read a sum."""
    behind = [reader for _, reader in _readers(node) if isinstance(reader, Source)]
    grids = [reader.grid for reader in sorted(behind, key=lambda reader: reader.name)]
    return next((grid for grid in grids if grid is not None), None)


# --- records ------------------------------------------------------------------------------------


def _record(layer: Layer, neuron: Source | None, samples: int) -> LayerRecord:
    """The layer as the energy model reads it."""
    first = _first(layer)
    source, port = layer.inputs[first], layer.ports[first]
    sends = neuron or (layer if _spikes(source) and layer.kind in ("add", "pool") else None)
    read = _stream(source, port, samples)
    if not _spikes(source):
        read = Stream(events=read.events)
    common: dict[str, Any] = {
        "name": layer.name,
        "geometry": _geometry(layer),
        "timesteps": _steps(layer, samples),
        "neuron": neuron and Neuron(_steps(neuron, samples), neuron.leak),
    }
    if sends:
        sent = vars(_stream(sends, sends.out, samples))
        common["output"] = Output(**sent, max_level=_top(sends, sends.out))
    if layer.kind == "add":
        return Sum(**common, input=read, shortcut=_shortcut(layer, first, samples))
    weighted = _in_steps(_taps(layer, port.amplitude), source) if read.levels else 0.0
    common["input"] = Input(
        **vars(read), taps=_taps(layer, port.events) / samples, amplitude_taps=weighted / samples
    )
    if layer.kind == "pool":
        return Pool(**common)
    if read.levels and port.active is not None:
        common["input"] = replace(common["input"], active=port.active / samples)
    kind = "conv" if layer.rows or layer.kind == "conv" else "linear"
    return Synapses(**common, kind=kind, bias=layer.bias)


def _stream(node: Node, tally: Tally, samples: int) -> Stream:
    """What a node sends, as far as it was added to `tally`."""
    return Stream(_levels(node), _sum(tally.events) / samples, _amplitude(node, tally) / samples)


def _geometry(layer: Layer) -> Geometry:
    w = layer.window
    shapes = [_padded(layer) if layer.kind == "conv" else w.in_shape, w.out_shape]
    if layer.rows:  # a linear layer over tokens or pixels: a 1x1 convolution over them
        shapes = [(shape[-1], 1, math.prod(layer.rows)) for shape in shapes]
    return Geometry(shapes[0], shapes[1], w.kernel, w.stride, w.padding, w.dilation, w.groups)


def _first(layer: Layer) -> int:
    """The input that a record calls its own: of a sum the direct path, but never spikes beside
    potentials, which they are added to."""
    if layer.kind != "add":
        return 0
    lone = _spikes(layer.inputs[layer.direct]) and not _spikes(layer.inputs[1 - layer.direct])
    return 1 - layer.direct if lone else layer.direct


def _shortcut(layer: Layer, first: int, samples: int) -> Stream | Literal["dense"] | None:
    """What crosses the shortcut of a sum."""
    other = layer.inputs[1 - first]
    if _spikes(other):
        return _stream(other, layer.ports[1 - first], samples)
    owner = other.owner if other.carries == "potential" else None
    alone = owner is not None and {reader for _, reader in _readers(owner)} == {layer}
    return None if owner and alone and owner.kind in ("conv", "linear") else "dense"


def _padded(layer: Layer) -> tuple[int, ...]:
    """The input shape, enlarged by what asymmetric "same" padding adds on its further side."""
    w = layer.window
    needed = [
        (out - 1) * stride + dilation * (kernel - 1) + 1 - 2 * padding
        for out, stride, dilation, kernel, padding in zip(
            w.out_shape[1:], w.stride, w.dilation, w.kernel, w.padding, strict=True
        )
    ]
    return (w.in_shape[0], *map(max, zip(w.in_shape[1:], needed, strict=True)))


def _taps(layer: Layer, counts: Tensor) -> float:
    return layer.window.taps(counts) if layer.kind in ("conv", "pool") else _sum(counts)


# --- units --------------------------------------------------------------------------------------


def _spikes(node: Node) -> bool:
    return node.carries == "spikes"


def _levels(node: Node) -> int:
    """Largest level by construction; 1 where nothing but zeros came."""
    if node.grid is not None:
        return node.grid.levels
    if _spikes(node):
        return 1
    if not isinstance(node, Layer):
        return 0
    # Spikes in, but no common step any more: a bound is all there is.
    below = sum(_levels(source) for source in node.inputs if _spikes(source))
    return below * (math.prod(node.window.kernel) if node.kind == "pool" else 1)


def _amplitude(node: Node, tally: Tally) -> float:
    """Sum of levels; without a common step, one for each event."""
    if node.grid is not None:
        return _in_steps(_sum(tally.amplitude), node)
    stepless = isinstance(node, Layer) and node.carries == "analog"
    below = stepless and any(_spikes(source) for source in node.inputs)
    return _sum(tally.events) if below else 0.0


def _in_steps(value: float, node: Node) -> float:
    return float(round(value / node.grid.step)) if node.grid is not None else 0.0


def _top(node: Node, tally: Tally) -> int:
    return round(tally.top / node.grid.step) if node.grid is not None else 0


def _sum(counts: Tensor) -> float:
    return float(counts.sum())


def _steps(node: Layer | Source, samples: int) -> int:
    """How often a layer or neuron runs per inference."""
    if isinstance(node, Layer):
        port = node.ports[_first(node)]
        return _whole(port.elements / samples / math.prod((*node.window.in_shape, *node.rows)))
    return _whole(node.out.elements / samples / math.prod(node.shape))


def _whole(steps: float) -> int:
    """At least 1; up where a layer did not run in every batch."""
    return max(1, math.ceil(steps - 1e-9))
