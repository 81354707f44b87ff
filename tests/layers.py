"""Layers written out by hand, in short."""

from __future__ import annotations

from typing import Any

from multispike.layer_record import Kind, LayerRecord

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
    **more: Any,
) -> LayerRecord:
    """A layer of that kind: levels (in, out), events read and sent, kernel positions reached (by
    default one an event), (kernel, stride, padding) of a square window. It reads spikes if they
    have levels, else analog values."""
    taps = ((0, 0) if kind == "add" else read) if taps is None else taps
    return LayerRecord(
        more.pop("name", kind),
        kind,
        in_shape,
        out_shape,
        **{
            "kernel": (square[0],) * 2,
            "stride": (square[1],) * 2,
            "padding": (square[2],) * 2,
            "input_kind": "spikes" if levels[0] else "analog",
            "levels_in": levels[0],
            "levels_out": levels[1],
            "events_in": read[0],
            "amplitude_in": read[1],
            "taps_in": taps[0],
            "amplitude_taps_in": taps[1],
            "events_out": sent[0],
            "amplitude_out": sent[1],
            **more,
        },
    )


LINEAR = layer(
    "linear", (6,), (3,), name="fc",
    bias=True, timesteps=4, levels=(1, 1), read=(5, 5), sent=(7, 7), neuron=True,
)  # fmt: skip
"""Five binary events at six inputs over four timesteps, seven sent by three neurons."""
