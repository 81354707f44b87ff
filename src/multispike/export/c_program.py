"""An integer network in C: its constants, a straight line of calls to the kernels, and where the
buffers lie."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multispike.export.layers import (
    IMAGE,
    Concat,
    Driven,
    Layer,
    MaxPool,
    Merge,
    Neurons,
    Pool,
    Potentials,
    Shape,
    SumPool,
    Synapses,
    Window,
)
from multispike.export.network import IntegerNetwork
from multispike.export.validate import identifier

PRELUDE = -1
"""The time before the first layer: what is done once an inference, not once a timestep."""

_PREFIXES = {"uint8": "z", "int16": "p", "int32": "sums"}
_ADD = {"uint8": "add_levels", "int16": "add_potentials"}
_MULTIPLY = {"uint8": "conv_events", "int16": "conv_potentials", "int32": "conv_sums"}
_MAX_POOL = {"uint8": "max_pool", "int16": "max_pool_potentials"}
_SUM_POOL = {"uint8": "sum_pool", "int32": "sum_pool_sums"}
_PLACE = {"uint8": "place_levels", "int16": "place_potentials", "int32": "place_sums"}
"""Kernels by what they read."""


@dataclass
class Buffer:
    """Static memory for a value that is alive from layer `first` to layer `last`, both included."""

    name: str
    dtype: str
    size: int
    first: int
    last: int
    offset: int = 0

    def overlaps(self, other: Buffer) -> bool:
        """Whether both are alive at some time."""
        return self.first <= other.last and other.first <= self.last


class Program:
    """What the C files of a network say.

    Attributes:
        tables: C name and content of every constant array but the weights.
        structs: C definitions of what kernels take.
        prelude, loop: statements done once, and once a timestep; lines of "" part layers.
        weights: C name and content of what synapses are stored in.
        pruned: the synapses whose zero weights are not stored, and how many these are.
        buffers: with offsets into one arena a type.
        arenas: elements of each arena.
        ram: bytes of all arenas.
        flash: bytes of weights and tables in read-only memory, without code and structs.
    """

    def __init__(self, network: IntegerNetwork) -> None:
        self.network = network
        self.tables: list[tuple[str, NDArray[np.integer]]] = []
        self.structs: list[str] = []
        self.prelude: list[str] = []
        self.loop: list[str] = []
        self.buffers: list[Buffer] = []
        self.weights: list[tuple[str, NDArray[np.integer]]] = []
        self.pruned: list[tuple[str, int]] = []
        self.synapses = [one.name for one in network.synapses]
        self.neurons = [layer.name for layer in network.layers if isinstance(layer, Neurons)]
        self.several = network.timesteps > 1
        self.end = len(network.layers)
        self.last_read: dict[str, int] = {}
        for index, layer in enumerate(network.layers):
            for source in layer.sources:
                before = self.once(layer) or (self.held(layer) and source == IMAGE)
                time = PRELUDE if before else index
                self.last_read[source] = max(time, self.last_read.get(source, PRELUDE))
        if self.several and not network.events and self.last_read[IMAGE] > PRELUDE:
            self.last_read[IMAGE] = self.end  # it is read again in the next timestep
        self.image()
        for index, layer in enumerate(network.layers):
            self.constants(layer)
            self.calls(index, layer)
        self.arenas = _place(self.buffers)
        bytes_of = {kind: np.dtype(kind).itemsize * size for kind, size in self.arenas.items()}
        self.arena_bytes, self.ram = bytes_of, sum(bytes_of.values())
        self.weight_bytes = sum(values.nbytes for _, values in self.weights)
        self.flash = self.weight_bytes + sum(values.nbytes for _, values in self.tables)

    def once(self, layer: Layer) -> bool:
        """Whether `layer` is computed before the loop over time."""
        return layer.name in self.network.computed_once

    def held(self, layer: Layer) -> bool:
        """Whether neurons are driven by a still image in every timestep."""
        still = self.several and not self.network.events
        return still and isinstance(layer, Neurons) and layer.sources == (IMAGE,)

    def constants(self, layer: Layer) -> None:
        """Tables and structs of one layer."""
        name = identifier(layer.name)
        if isinstance(layer, Pool):
            self.pool(name, self.network.outputs[layer.source].shape, layer.shape, layer.window)
        if not isinstance(layer, Driven):
            return
        places = None if layer.bias.is_uniform else layer.bias
        bias = (
            self.table(f"{name}_bias_values", layer.bias.values),
            self.table(f"{name}_bias_rows", places and places.rows),
            self.table(f"{name}_bias_columns", places and places.columns),
            layer.bias.values.shape[1],
        )
        if not isinstance(layer, Neurons):
            self.projections(layer)
            self.struct("bias_t", f"{name}_bias", *bias)
            return
        start = self.table(f"{name}_start", layer.start if self.several else None)
        step = self.table(f"{name}_step", layer.step)
        self.table(f"{name}_sign", layer.sign)
        self.projections(layer)
        number = self.neurons.index(layer.name)
        self.struct("neurons_t", name, number, layer.shape, bias, start, step, layer.levels)
        if layer.pool is not None:
            (one,) = layer.synapses
            summed = one.sum_shape(self.network.outputs[one.source].shape)
            self.pool(f"{name}_pool", summed, layer.shape, layer.pool)

    def projections(self, layer: Driven) -> None:
        for one in layer.synapses:
            name, number = identifier(one.name), self.synapses.index(one.name)
            shape, window = self.network.outputs[one.source].shape, one.window
            gain = self.table(f"{name}_gain", one.gain)
            self.table(f"{name}_shift", one.shift)
            if one.weight is None:
                self.struct("identity_t", name, number, shape, gain)
                continue
            stored = self.store(name, one)
            common = np.gcd(window.stride, window.dilation)
            steps = (tuple(each // common) for each in (window.stride, window.dilation))
            shapes = shape, one.sum_shape(shape), _window(window), *steps
            self.struct("conv_t", name, number, *shapes, one.groups, *stored)

    def store(self, name: str, one: Synapses) -> list[str]:
        """Weights, [in][row][column][out / groups]: their C name, those of where each run of them
        begins and of the zeros before each one."""
        assert one.weight is not None
        shape = one.weight.shape
        grouped = one.weight.reshape(one.groups, -1, *shape[1:]).transpose(0, 2, 3, 4, 1)
        parts, unused = {"weight": grouped.reshape(-1, *grouped.shape[2:])}, ["NULL", "NULL"]
        if one.sparse:
            weight, first, gap = without_zeros(grouped.reshape(-1, grouped.shape[-1]))
            parts, unused = {"weight": weight, "first": first, "gap": gap}, []
            self.pruned.append((one.name, one.weight.size - int(np.count_nonzero(weight))))
        for part, values in parts.items():
            self.weights.append((f"{name}_{part}", values))
            self.structs.append(f"extern const {values.dtype}_t {name}_{part}[{values.size}];")
        return [*(f"{name}_{part}" for part in parts), *unused]

    def table(self, name: str, values: NDArray[np.integer] | None) -> str:
        """The C name of a constant array."""
        if values is None:
            return "NULL"
        self.tables.append((name, values))
        return name

    def pool(self, name: str, shape: Shape, reach: Shape, window: Window) -> None:
        self.struct("pool_t", name, shape, reach, _window(window))

    def struct(self, kind: str, name: str, *parts: Any) -> None:
        text = _braces(parts)
        if kind in ("conv_t", "neurons_t"):
            text = f"{{\n    {text[1:-1]},\n}}"
        self.structs.append(f"static const {kind} {name} = {text};")

    def image(self) -> None:
        """Rearrange the input, once or once a frame."""
        events, shape = self.network.events, literal(self.network.input_shape)
        z = self.output(IMAGE, 0 if events else PRELUDE, self.last_read[IMAGE])
        if events:
            frame = "input + (size_t)t * MODEL_FRAME_BYTES"
            self.loop += [f"channels_last({z}, {frame}, {shape});", ""]
        else:
            self.prelude += [f"channels_last({z}, input, {shape});"]

    def reserve(self, name: str, dtype: str, shape: Shape, first: int, last: int) -> str:
        self.buffers.append(Buffer(name, dtype, math.prod(shape), first, last))
        return name

    def value(self, name: str) -> str:
        """The C name of what a layer sends."""
        return f"{_PREFIXES[self.network.outputs[name].dtype]}_{identifier(name)}"

    def output(self, name: str, first: int, last: int) -> str:
        """Reserve memory for what a layer, or the image, sends."""
        sent = self.network.outputs[name]
        return self.reserve(self.value(name), sent.dtype, sent.shape, first, last)

    def calls(self, index: int, layer: Layer) -> None:
        """Calls for `layer`, into the loop or before it."""
        name, shape, to = identifier(layer.name), literal(layer.shape), self.value(layer.name)
        read = [self.value(source) for source in layer.sources]
        kind = self.network.outputs[layer.sources[0]].dtype
        match layer:
            case Neurons():
                calls = self.charge_and_fire(index, layer)
            case Potentials():
                calls = self.potentials(index, layer)
            case Merge():
                calls = [f"merge_{layer.kind}({to}, {', '.join(read)}, {shape});"]
            case MaxPool():
                calls = [f"{_MAX_POOL[kind]}({to}, {read[0]}, &{name});"]
            case SumPool():
                calls = [f"{_SUM_POOL[kind]}({to}, {read[0]}, &{name});"]
            case Concat():
                calls, first = [], 0
                for source, part in zip(layer.sources, read, strict=True):
                    part_shape = self.network.outputs[source].shape
                    place = f"{literal(part_shape)}, {layer.shape[0]}, {first}"
                    calls += [f"{_PLACE[kind]}({to}, {part}, {place});"]
                    first += part_shape[0]
            case _:
                self.prelude += [f"clear(logits, {shape});"]
                calls = [f"add_bias(logits, {name}_bias, {shape});"]
                calls += [self.add("logits", one) for one in self.network.readout.synapses]
        if layer is not self.network.readout:
            last = self.last_read.get(layer.name, index)
            alive = (PRELUDE, self.end) if self.once(layer) else (index, last)
            self.output(layer.name, *alive)
        target = self.prelude if self.once(layer) else self.loop
        target += [*calls, ""]

    def charge_and_fire(self, index: int, layer: Neurons) -> list[str]:
        name, shape = identifier(layer.name), literal(layer.shape)
        alive = (PRELUDE, self.end) if self.several else (index, index)
        v = self.reserve(f"v_{name}", "int32", layer.shape, *alive)
        calls = [f"/* {layer.name}: {' x '.join(map(str, layer.shape))} neurons */"]
        if self.several:
            self.prelude += [f"set_channels({v}, {name}.start, {shape});"]
        if self.held(layer):
            drive = self.reserve(f"drive_{name}", "int32", layer.shape, PRELUDE, self.end)
            self.prelude += [f"set_bias({drive}, {name}.bias, {shape});"]
            self.prelude += [self.add(drive, one) for one in layer.synapses]
            calls += [f"add_drive({v}, {drive}, {shape});"]
        else:
            calls += [f"{'add' if self.several else 'set'}_bias({v}, {name}.bias, {shape});"]
            if layer.pool is None:
                calls += [self.add(v, one) for one in layer.synapses]
            else:
                calls += self.pooled(index, layer, layer.pool, v)
        return [*calls, f"fire({self.value(layer.name)}, {v}, &{name});"]

    def pooled(self, index: int, layer: Neurons, pool: Window, v: str) -> list[str]:
        """Synapses whose sum is max-pooled before it reaches the neurons."""
        (one,) = layer.synapses
        shape = one.sum_shape(self.network.outputs[one.source].shape)
        name = identifier(layer.name)
        drive = most = self.reserve(f"drive_{name}", "int32", shape, index, index)
        steps = zip(pool.stride, pool.extent, strict=True)
        in_place = pool.before == (0, 0) and all(stride >= extent for stride, extent in steps)
        if not in_place:
            most = self.reserve(f"most_{name}", "int32", layer.shape, index, index)
        return [
            f"clear({drive}, {literal(shape)});",
            self.add(drive, one),
            f"max_pool_drive({most}, {drive}, &{name}_pool);",
            f"add_signed({v}, {most}, {name}_sign, {literal(layer.shape)});",
        ]

    def potentials(self, index: int, layer: Potentials) -> list[str]:
        """A sum of potentials in fixed point."""
        name, shape = identifier(layer.name), literal(layer.shape)
        time = PRELUDE if self.once(layer) else index
        v = self.reserve(f"v_{name}", "int32", layer.shape, time, time)
        calls = [
            f"/* {layer.name}: {' x '.join(map(str, layer.shape))} potentials */",
            f"set_bias({v}, {name}_bias, {shape});",
        ]
        drive = f"drive_{name}"
        shifted = [one for one in layer.synapses if one.shift is not None]
        if shifted:
            self.reserve(drive, "int32", layer.shape, time, time)
        for one in shifted:
            calls += [
                f"clear({drive}, {shape});",
                self.add(drive, one),
                f"add_shifted({v}, {drive}, {identifier(one.name)}_shift, {shape});",
            ]
        calls += [self.add(v, one) for one in layer.synapses if one.shift is None]
        return [*calls, f"saturate({self.value(layer.name)}, {v}, {shape});"]

    def add(self, v: str, one: Synapses) -> str:
        """The call that adds synapses onto `v`."""
        dtype = self.network.outputs[one.source].dtype
        call = (_ADD if one.weight is None else _MULTIPLY)[dtype]
        return f"{call}({v}, &{identifier(one.name)}, {self.value(one.source)});"


def without_zeros(runs: NDArray[np.int8]) -> tuple[NDArray[np.integer], ...]:
    """Weights that are not zero, where each run of them begins, and how many zeros are before each
    one; of 256 in a row the last is stored whatever it is, so that a byte holds that.

    >>> [part.tolist() for part in without_zeros(np.array([[0, 3, 0, 0, 4], [0, 0, 0, 0, 5]]))]
    [[3, 4, 5], [0, 2, 3], [1, 2, 4]]
    """
    kept = runs != 0
    kept[:, 255::256] = True
    kept[0, 0] |= not kept.any()  # C has no empty tables
    run, place = np.nonzero(kept)
    before = np.where(np.diff(run, prepend=-1) == 0, np.roll(place, 1), -1)
    first = np.append(0, np.cumsum(kept.sum(1)))
    return runs[kept], first.astype(np.int32), (place - before - 1).astype(np.uint8)


def literal(shape: Shape) -> str:
    """A shape as a C99 compound literal."""
    return f"(shape_t){_braces(shape)}"


def _braces(value: Any) -> str:
    """A C initialiser, tuples in braces."""
    return f"{{{', '.join(map(_braces, value))}}}" if isinstance(value, tuple) else str(value)


def _window(window: Window) -> tuple[Any, ...]:
    return window.kernel, window.stride, window.before, window.dilation


def _place(buffers: Iterable[Buffer]) -> dict[str, int]:
    """Give each buffer an offset, no two that live at once overlapping: largest first, lowest."""
    arenas: dict[str, int] = {}
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda b: (-b.size, b.first, b.name)):
        rivals = [
            other for other in placed if other.dtype == buffer.dtype and other.overlaps(buffer)
        ]
        for rival in sorted(rivals, key=lambda b: b.offset):
            if buffer.offset + buffer.size <= rival.offset:
                break
            buffer.offset = max(buffer.offset, rival.offset + rival.size)
        placed.append(buffer)
        arenas[buffer.dtype] = max(arenas.get(buffer.dtype, 0), buffer.offset + buffer.size)
    return arenas
