"""Layers written out by hand, in short."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from multispike.layer_record import (
    Geometry,
    Input,
    Kind,
    LayerRecord,
    Neuron,
    Output,
    Pool,
    Stream,
    Sum,
    Synapses,
)

Pair = tuple[float, float]
"""A count, and the same weighted by level."""


def layer(
    kind: Kind,
    in_shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    *,
    levels: tuple[int, int] = (0, 0),
    read: Pair = (0, 0),
    taps: Pair | None = None,
    sent: Pair = (0, 0),
    square: tuple[int, int, int] = (1, 1, 0),
    max_level: int = 0,
    neuron: bool = False,
    leak: bool = False,
    timesteps_out: int | None = None,
    groups: int = 1,
    active: float | None = None,
    **more: Any,
) -> LayerRecord:
    """A layer of that kind: levels (in, out), events read and sent, kernel positions reached (by
    default one an event), (kernel, stride, padding) of a square window. It reads spikes if they
    have levels, else analog values."""
    kernel, stride, padding = ((size, size) for size in square)
    common = {
        "name": kind,
        "geometry": Geometry(in_shape, out_shape, kernel, stride, padding, groups=groups),
        "output": Output(levels[1], *sent, max_level),
        "neuron": Neuron(timesteps_out or more.get("timesteps", 1), leak) if neuron else None,
        **more,
    }
    if kind == "add":
        return Sum(**common, input=Stream(levels[0], *read))
    common["input"] = Input(levels[0], *read, *(read if taps is None else taps), active)
    return Pool(**common) if kind == "pool" else Synapses(**common, kind=kind)


def changed(record: LayerRecord, **parts: Any) -> Any:
    """The layer with other values in its parts: `geometry_stride`, `input_events`, ..."""
    own = {name: value for name, value in parts.items() if name in _names(record)}
    for name in ("geometry", "input", "output", "neuron"):
        inner = getattr(record, name)
        values = {
            part: parts[f"{name}_{part}"] for part in _names(inner) if f"{name}_{part}" in parts
        }
        if values:
            own[name] = replace(inner, **values)
    assert len(own) >= 1, parts
    return replace(record, **own)


def _names(value: Any) -> list[str]:
    return [field.name for field in fields(value)] if value is not None else []


LINEAR = layer(
    "linear", (6,), (3,), name="fc",
    bias=True, timesteps=4, levels=(1, 1), read=(5, 5), sent=(7, 7), neuron=True,
)  # fmt: skip
"""Five binary events at six inputs over four timesteps, seven sent by three neurons."""
