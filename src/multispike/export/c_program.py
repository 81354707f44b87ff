"""An integer network as a straight line of calls to the C kernels, and where its buffers lie."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from multispike.export.layers import (
    IMAGE,
    Concat,
    Layer,
    MaxPool,
    Merge,
    Neurons,
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

WIDTHS = {"uint8": 1, "int16": 2, "int32": 4}
"""Element types of buffers, and their bytes."""

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


@dataclass
class Program:
    """The body of `model_run`.

    prelude, loop: C statements done once, and once a timestep; lines of "" part layers.
    buffers: with offsets into one arena a type. arenas: elements of each arena.
    """

    network: IntegerNetwork
    prelude: list[str] = field(default_factory=list)
    loop: list[str] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    arenas: dict[str, int] = field(default_factory=dict)

    @property
    def ram(self) -> int:
        """Bytes of all arenas."""
        return sum(WIDTHS[kind] * size for kind, size in self.arenas.items())


def literal(shape: Shape) -> str:
    """A shape as a C99 compound literal."""
    return f"(shape_t){{{shape[0]}, {shape[1]}, {shape[2]}}}"


def compile_network(network: IntegerNetwork) -> Program:
    """Calls and buffers of `network`."""
    writer = _Writer(network)
    for index, layer in enumerate(network.layers):
        writer.write(index, layer)
    program = writer.program
    program.arenas = _place(program.buffers)
    return program


class _Writer:
    """Writes one layer after the other."""

    def __init__(self, network: IntegerNetwork) -> None:
        self.network = network
        self.program = Program(network)
        self.end = len(network.layers)
        self.last_read: dict[str, int] = {}
        for index, layer in enumerate(network.layers):
            for source in layer.sources:
                time = self.when(index, layer, source)
                self.last_read[source] = max(time, self.last_read.get(source, PRELUDE))
        if network.timesteps > 1 and not network.events and self.last_read[IMAGE] > PRELUDE:
            self.last_read[IMAGE] = self.end  # it is read again in the next timestep
        self.image()

    def once(self, layer: Layer) -> bool:
        """Whether `layer` is computed before the loop over time."""
        return layer.name in self.network.computed_once

    def held(self, layer: Layer) -> bool:
        """Whether neurons are driven by a still image in every timestep."""
        several = self.network.timesteps > 1 and not self.network.events
        return several and isinstance(layer, Neurons) and layer.sources == (IMAGE,)

    def when(self, index: int, layer: Layer, source: str) -> int:
        """The time at which `layer` reads `source`."""
        before = self.once(layer) or (self.held(layer) and source == IMAGE)
        return PRELUDE if before else index

    def image(self) -> None:
        """Rearrange the input, once or once a frame."""
        shape = literal(self.network.input_shape)
        first = 0 if self.network.events else PRELUDE
        z = self.output(IMAGE, first, self.last_read[IMAGE])
        if self.network.events:
            frame = "input + (size_t)t * MODEL_FRAME_BYTES"
            self.program.loop += [f"channels_last({z}, {frame}, {shape});", ""]
        else:
            self.program.prelude += [f"channels_last({z}, input, {shape});"]

    def reserve(self, name: str, dtype: str, shape: Shape, first: int, last: int) -> str:
        self.program.buffers.append(Buffer(name, dtype, math.prod(shape), first, last))
        return name

    def value(self, name: str) -> str:
        """The C name of what a layer sends."""
        return f"{_PREFIXES[self.network.outputs[name].dtype]}_{identifier(name)}"

    def output(self, name: str, first: int, last: int) -> str:
        """Reserve memory for what a layer, or the image, sends."""
        sent = self.network.outputs[name]
        return self.reserve(self.value(name), sent.dtype, sent.shape, first, last)

    def write(self, index: int, layer: Layer) -> None:
        """Calls for `layer`, into the loop or before it."""
        name, shape = identifier(layer.name), literal(layer.shape)
        read = [self.value(source) for source in layer.sources]
        kind = self.network.outputs[layer.sources[0]].dtype
        match layer:
            case Neurons():
                calls = self.neurons(index, layer)
            case Potentials():
                calls = self.potentials(index, layer)
            case Merge():
                calls = [
                    f"merge_{layer.kind}({self.value(layer.name)}, {', '.join(read)}, {shape});"
                ]
            case MaxPool():
                calls = [f"{_MAX_POOL[kind]}({self.value(layer.name)}, {read[0]}, &{name});"]
            case SumPool():
                calls = [f"{_SUM_POOL[kind]}({self.value(layer.name)}, {read[0]}, &{name});"]
            case Concat():
                calls, first = [], 0
                for source, part in zip(layer.sources, read, strict=True):
                    part_shape = self.network.outputs[source].shape
                    to = f"{literal(part_shape)}, {layer.shape[0]}, {first}"
                    calls += [f"{_PLACE[kind]}({self.value(layer.name)}, {part}, {to});"]
                    first += part_shape[0]
            case _:
                self.program.prelude += [f"clear(logits, {shape});"]
                calls = [f"add_bias(logits, {name}_bias, {shape});"]
                calls += [self.synapses("logits", one) for one in self.network.readout.synapses]
        if layer is not self.network.readout:
            last = self.last_read.get(layer.name, index)
            alive = (PRELUDE, self.end) if self.once(layer) else (index, last)
            self.output(layer.name, *alive)
        target = self.program.prelude if self.once(layer) else self.program.loop
        target += [*calls, ""]

    def neurons(self, index: int, layer: Neurons) -> list[str]:
        """Charge and fire."""
        name, shape = identifier(layer.name), literal(layer.shape)
        several = self.network.timesteps > 1
        alive = (PRELUDE, self.end) if several else (index, index)
        v = self.reserve(f"v_{name}", "int32", layer.shape, *alive)
        calls = [f"/* {layer.name}: {' x '.join(map(str, layer.shape))} neurons */"]
        if several:
            self.program.prelude += [f"set_channels({v}, {name}.start, {shape});"]
        if self.held(layer):
            drive = self.reserve(f"drive_{name}", "int32", layer.shape, PRELUDE, self.end)
            self.program.prelude += [f"set_bias({drive}, {name}.bias, {shape});"]
            self.program.prelude += [self.synapses(drive, one) for one in layer.synapses]
            calls += [f"add_drive({v}, {drive}, {shape});"]
        else:
            calls += [f"{'add' if several else 'set'}_bias({v}, {name}.bias, {shape});"]
            if layer.sign is None:
                calls += [self.synapses(v, one) for one in layer.synapses]
            else:
                calls += self.pooled(index, layer, v)
        return [*calls, f"fire({self.value(layer.name)}, {v}, &{name});"]

    def pooled(self, index: int, layer: Neurons, v: str) -> list[str]:
        """Synapses whose sum is max-pooled before it reaches the neurons."""
        (one,) = layer.synapses
        assert layer.pool is not None
        shape = one.sum_shape(self.network.outputs[one.source].shape)
        name, before = identifier(layer.name), literal(shape)
        drive = most = self.reserve(f"drive_{name}", "int32", shape, index, index)
        if not in_place(layer.pool):
            most = self.reserve(f"most_{name}", "int32", layer.shape, index, index)
        return [
            f"clear({drive}, {before});",
            self.synapses(drive, one),
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
                self.synapses(drive, one),
                f"add_shifted({v}, {drive}, {identifier(one.name)}_shift, {shape});",
            ]
        calls += [self.synapses(v, one) for one in layer.synapses if one.shift is None]
        return [*calls, f"saturate({self.value(layer.name)}, {v}, {shape});"]

    def synapses(self, v: str, synapses: Synapses) -> str:
        """The call that adds synapses onto `v`."""
        dtype = self.network.outputs[synapses.source].dtype
        call = (_ADD if synapses.weight is None else _MULTIPLY)[dtype]
        return f"{call}({v}, &{identifier(synapses.name)}, {self.value(synapses.source)});"


def in_place(window: Window) -> bool:
    """Whether a pooling may write over what it reads."""
    steps = zip(window.stride, window.extent, strict=True)
    return window.before == (0, 0) and all(stride >= extent for stride, extent in steps)


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
