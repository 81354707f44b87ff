"""Sections of a report on information: what layers send, and what codes of equal N·T lose."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from multispike.activity.information import entropy
from multispike.neurons import MultiLevelIF
from multispike.report.activity_sections import along_depth
from multispike.report.axes import canvas, label
from multispike.report.blocks import Column, Content, Json, Plot, Table
from multispike.report.comparison import Comparison
from multispike.report.style import DASHES, PAGE

_SAMPLES = 20_000
_SPREAD = 0.6
"""Standard deviation of the mean inputs, in V_th: half of them are negative, 5 % are clipped."""
_JITTERS = tuple(step / 10 for step in range(11))
"""How much an input changes from step to step, as a share of the spread of its mean."""


@torch.no_grad()
def quantisation_error(timesteps: int, levels: int, jitter: float, v_init: float = 0.5) -> float:
    """RMS difference between a neuron's decoded output and the ReLU it stands for, in V_th.

    Inputs are x[t] = m + e[t], with m ~ N(0, 0.6²) the input's mean over the inference and
    e[t] ~ N(0, (0.6·jitter)²) independent from step to step, less its own mean, so that every
    code is asked for the same value clip(m, 0, V_th). At T = 1 there is no e.

    >>> exact = [quantisation_error(t, 4 // t, 0.0) for t in (1, 2, 4)]
    >>> max(exact) - min(exact) < 1e-6
    True
    >>> quantisation_error(4, 1, 1.0) > 1.5 * quantisation_error(1, 4, 1.0)
    True
    """
    random = torch.Generator().manual_seed(0)
    mean = _SPREAD * torch.randn(_SAMPLES, generator=random, dtype=torch.float64)
    noise = torch.randn(timesteps, _SAMPLES, generator=random, dtype=torch.float64)
    inputs = mean + _SPREAD * jitter * (noise - noise.mean(0))
    decoded = MultiLevelIF(levels, v_init=v_init)(inputs[:, None]).mean((0, 1))
    return float((decoded - mean.clamp(0, 1)).square().mean().sqrt())


def information(data: Comparison) -> Content:
    """Entropy per neuron and per event, levels in use, and the error of codes of equal N·T."""
    runs = [run for run in data.spiking if any(row["histogram"] for row in run["neurons"])]
    if not runs:
        return Content(["No spiking run with histograms of its levels is in these results."])
    rows = {run["name"]: _rows(run) for run in runs}
    plots = [
        along_depth(
            data,
            {name: {layer: row[key] for layer, row in own.items()} for name, own in rows.items()},
            title,
            axis,
            spec,
            _means(rows, key, spec),
        )
        for key, title, axis, spec in _QUANTITIES
    ]
    products = sorted({run["timesteps"] * run["levels"] for run in runs})
    plots += [_error_plot(product) for product in products if product > 1]
    return Content(
        [
            "The entropy of what a neuron sends, its levels added up over the timesteps, is the"
            " most it can tell the next layer; neurons of a layer are taken together. Bits per"
            " event say what one event, and so its energy, buys.",
        ],
        legend=[data.marks[run["name"]].key() for run in runs],
        tables=[_overall(runs, rows)],
        plots=plots,
    )


_QUANTITIES = (
    ("bits", "Entropy per neuron", "bits per neuron and inference", ".3f"),
    ("bits_per_event", "Entropy per event", "bits per event", ".3f"),
    ("used", "Levels in use", "share of levels 0..N seen", ".2f"),
)
"""Key of a row, title, axis, format."""


def _rows(run: Json) -> dict[str, dict[str, float]]:
    """Per layer of neurons: bits per neuron, bits per event, share of levels in use."""
    found = {}
    for row in run["neurons"]:
        if row["path"] == "sum" or not row["decoded"]:
            continue  # sums add no information, and over time their levels are not recorded
        bits = entropy(row["decoded"])
        found[row["name"]] = {
            "bits": bits,
            "bits_per_event": bits * row["neurons"] / row["events"] if row["events"] else 0.0,
            "used": sum(count > 0 for count in row["histogram"]) / (row["levels"] + 1),
            "neurons": row["neurons"],
            "events": row["events"],
        }
    return found


def _means(rows: dict[str, dict[str, dict[str, float]]], key: str, spec: str) -> str:
    parts = [
        f"{name} {sum(row[key] for row in own.values()) / len(own):{spec}}"
        for name, own in rows.items()
        if own
    ]
    return f"Mean over the layers: {'; '.join(parts)}."


def _overall(runs: Sequence[Json], rows: dict[str, dict[str, dict[str, float]]]) -> Table:
    """The whole network: bits sent, events paid for them."""
    lines = []
    for run in runs:
        own = rows[run["name"]].values()
        bits = sum(row["bits"] * row["neurons"] for row in own)
        events = sum(row["events"] for row in own)
        lines.append(
            (
                run["name"],
                run["timesteps"],
                run["levels"],
                run["timesteps"] * run["levels"],
                bits,
                events,
                bits / events if events else None,
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
    """RMS error over the inputs' jitter, one line for every way to factor N·T."""
    codes = [(t, product // t) for t in range(1, product + 1) if product % t == 0]
    figure = canvas("jitter of the input between timesteps", "RMS error / V_th", 380)
    names = [f"T = {timesteps}, N = {levels}" for timesteps, levels in codes]
    values = {
        name: [quantisation_error(timesteps, levels, jitter) for jitter in _JITTERS]
        for name, (timesteps, levels) in zip(names, codes, strict=True)
    }
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
        (Column("jitter", ".1f"), *(Column(name, ".4f") for name in names)),
        list(zip(_JITTERS, *values.values(), strict=True)),
        f"Quantisation error at N·T = {product}, in V_th",
    )
    worst = max(values, key=lambda name: values[name][-1])
    return Plot(
        f"Quantisation error of codes with N·T = {product}",
        figure,
        f"For constant inputs all are equal ({values[names[0]][0]:.4f}). With jitter 1 the error is"
        f" {values[names[0]][-1]:.4f} at T = 1 and {values[worst][-1]:.4f} with {worst}: spikes"
        " that come before a negative input can't be taken back. Simulated with 20,000 random"
        " inputs, mean N(0, 0.6²), neurons that start at half a level.",
        table,
    )


_SHADES = (PAGE["text"], PAGE["accent"], PAGE["muted"])
