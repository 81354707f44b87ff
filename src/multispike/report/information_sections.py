"""Sections of a report on information: what layers send, and what codes of equal N·T lose."""

from __future__ import annotations

from collections.abc import Sequence

from multispike.activity.information import LayerInformation, quantisation_study
from multispike.activity.information import information as _entropies
from multispike.report.activity_sections import along_depth
from multispike.report.axes import canvas, label
from multispike.report.comparison import Comparison
from multispike.report.document import Column, Content, Json, Plot, Table
from multispike.report.style import DASHES, PAGE
from multispike.results import SpikeLayer

_JITTERS = tuple(step / 10 for step in range(11))
"""How much an input changes from step to step, as a share of the spread of its mean."""


def information(data: Comparison) -> Content:
    """Entropy per neuron and per event, levels in use, and the error of codes of equal N·T."""
    runs = [run for run in data.spiking if any(row["histogram"] for row in run["neurons"])]
    if not runs:
        return Content(["No spiking run with histograms of its levels is in these results."])
    rows = {run["name"]: _rows(run) for run in runs}
    plots = []
    for key, title, axis, spec in _QUANTITIES:
        values = {
            name: {
                layer: value
                for layer, row in own.items()
                if (value := getattr(row, key)) is not None
            }
            for name, own in rows.items()
        }
        if any(values.values()):
            plots.append(along_depth(data, values, title, axis, spec, _means(values, spec)))
    products = sorted({run["timesteps"] * run["levels"] for run in runs})
    plots += [_error_plot(product) for product in products if product > 1]
    return Content(
        [
            "The entropy of what a neuron sends, its levels added up over the timesteps, is the"
            " most it can tell the next layer; neurons of a layer are taken together. Bits per"
            " event say what one event, and so its energy, buys. A neuron stands for the ReLU"
            " max(x, 0) of its mean input x: the error against it has two parts. What exceeds V_th"
            " no code of this threshold can send; the error against the clipped ReLU, min(max(x,"
            " 0), V_th), is that of the code alone.",
        ],
        legend=[data.marks[run["name"]].key() for run in runs],
        tables=[_overall(runs, rows)],
        plots=plots,
    )


_QUANTITIES = (
    ("bits", "Entropy per neuron", "bits per neuron and inference", ".3f"),
    ("bits_per_event", "Entropy per event", "bits per event", ".3f"),
    ("levels_used", "Levels in use", "share of levels 0..N seen", ".2f"),
    ("error_relu", "Error against the ReLU", "RMS error / V_th", ".4f"),
    ("error_clipped", "Error against the clipped ReLU", "RMS error / V_th", ".4f"),
)
"""Attribute of a layer's information, title, axis, format."""


def _rows(run: Json) -> dict[str, LayerInformation]:
    """By layer."""
    derived = ("neurons", "density")
    layers = _entropies(
        SpikeLayer(**{key: value for key, value in row.items() if key not in derived})
        for row in run["neurons"]
    )
    return {layer.name: layer for layer in layers}


def _means(rows: dict[str, dict[str, float]], spec: str) -> str:
    parts = [f"{name} {sum(own.values()) / len(own):{spec}}" for name, own in rows.items() if own]
    return f"Mean over the layers: {'; '.join(parts)}."


def _overall(runs: Sequence[Json], rows: dict[str, dict[str, LayerInformation]]) -> Table:
    """The whole network: bits sent, events paid for them."""
    lines = []
    for run in runs:
        own = rows[run["name"]].values()
        told = [row.bits * row.neurons for row in own if row.bits is not None]
        bits = sum(told) if len(told) == len(own) else None
        events = sum(row.events for row in own)
        lines.append(
            (
                run["name"],
                run["timesteps"],
                run["levels"],
                run["timesteps"] * run["levels"],
                bits,
                events,
                bits / events if bits is not None and events else None,
            )
        )
    columns = (
        Column("run"),
        Column("T", "d"),
        Column("N", "d"),
        Column("N·T", "d"),
        Column("bits per inference", ",.0f"),
        Column("events per inference", ",.0f"),
        Column("bits per event", ".3f"),
    )
    return Table(columns, lines, "Information sent by all neurons, residual sums left out")


def _error_plot(product: int) -> Plot:
    """RMS error against the clipped ReLU over the inputs' jitter, one line for every way to factor
    N·T; that against the ReLU stands in the table."""
    figure = canvas("jitter of the input between timesteps", "RMS error / V_th", 380)
    values: dict[str, list[float]] = {}
    whole: dict[str, list[float]] = {}
    for code in quantisation_study(product, _JITTERS, v_init=0.5):
        name = f"T = {code.timesteps}, N = {code.levels}"
        values.setdefault(name, []).append(code.error_clipped)
        whole.setdefault(f"{name}, ReLU", []).append(code.error_relu)
    names = list(values)
    for place, (name, errors) in enumerate(values.items()):
        shade = _SHADES[min(place, len(_SHADES) - 1)][0]
        figure.add_scatter(
            x=list(_JITTERS),
            y=errors,
            mode="lines+text",
            line={"color": shade, "dash": list(DASHES)[place % len(DASHES)], "width": 2},
            text=[*[""] * (len(errors) - 1), label(name)],
            textposition="top left",
            hovertemplate=f"{label(name)}<br>jitter %{{x:.1f}}: %{{y:.4f}}<extra></extra>",
        )
    figure.update_yaxes(rangemode="tozero")
    table = Table(
        (Column("jitter", ".1f"), *(Column(name, ".4f") for name in (*names, *whole))),
        list(zip(_JITTERS, *values.values(), *whole.values(), strict=True)),
        f"Error at N·T = {product} against the clipped ReLU, then against the ReLU, in V_th",
    )
    worst = max(values, key=lambda name: values[name][-1])
    return Plot(
        f"Error of codes with N·T = {product} against the clipped ReLU",
        figure,
        f"For constant inputs all are equal ({values[names[0]][0]:.4f}). With jitter 1 the error is"
        f" {values[names[0]][-1]:.4f} at T = 1 and {values[worst][-1]:.4f} with {worst}: spikes"
        " that come before a negative input can't be taken back. Simulated with 20,000 random"
        " inputs, mean N(0, 0.6²), neurons that start at half a level.",
        table,
    )


_SHADES = (PAGE["text"], PAGE["accent"], PAGE["muted"])
