"""Sections of a report on neurons: transfer function and surrogate gradient, from the real code."""

from __future__ import annotations

import torch

from multispike.neurons import MultiLevelIF
from multispike.report.axes import add_line, canvas
from multispike.report.comparison import Comparison, is_spiking
from multispike.report.document import Column, Content, Json, Plot, Table
from multispike.surrogate import SURROGATES

_NEEDED = {"surrogate", "alpha", "v_init", "beta"}
"""Settings of a run that make its neuron."""
_POINTS = 601
_SHOWN = 25  # rows of a table of curves: all of a plot's points would help nobody


def neurons(data: Comparison) -> Content:
    """What each run's neuron answers to a constant input, and the gradient it learns with."""
    known = [run for run in data.spiking if data.settings.get(run["name"], {}).keys() >= _NEEDED]
    if not known:
        return Content(["No spiking run with its config.yaml is in this folder."])
    plots = [_transfer(data, known), _surrogate(data, known)]
    learned = [
        run["name"] for run in known if data.settings[run["name"]].get("learn_threshold") != "no"
    ]
    remarks = [
        "Computed by the neuron that was trained, with each run's own settings. Inputs and outputs"
        " are in units of the threshold V_th.",
    ]
    if learned:
        remarks.append(
            f"V_th is learned in {', '.join(learned)}; the curves scale with it, their shape stays."
        )
    return Content(remarks, [data.marks[run["name"]].key() for run in data.runs], plots)


def neuron_of(run: Json, settings: Json) -> MultiLevelIF:
    """The neuron of a run, with threshold 1."""
    return MultiLevelIF(
        run["levels"],
        1.0,
        settings["surrogate"],
        settings["alpha"],
        settings["v_init"],
        settings["beta"],
    )


@torch.no_grad()
def transfer(neuron: MultiLevelIF, timesteps: int, x: torch.Tensor) -> torch.Tensor:
    """Decoded output y = mean over T of s[t] for constant inputs x [n], shape [n].

    >>> transfer(MultiLevelIF(levels=1), 4, torch.tensor([0.3, 0.6, 2.0])).tolist()
    [0.25, 0.5, 1.0]
    """
    return neuron(x.expand(timesteps, 1, -1)).mean(0)[0]


def _transfer(data: Comparison, runs: list[Json]) -> Plot:
    x = torch.linspace(-0.25, 1.5, _POINTS, dtype=torch.float64)
    figure = canvas("constant input x / V_th", "decoded output y / V_th", 380)
    columns, curves = [Column("x / V_th", ".3f")], [x.tolist()]
    for run in data.runs:
        mark = data.marks[run["name"]]
        if is_spiking(run) and run in runs:
            neuron = neuron_of(run, data.settings[run["name"]])
            y = transfer(neuron, run["timesteps"], x).tolist()
        elif not is_spiking(run):
            y = torch.relu(x).tolist()
        else:
            continue
        add_line(figure, mark, x.tolist(), y, "x = %{x:.3f}, y = %{y:.3f}", points=False)
        columns.append(Column(run["name"], ".3f"))
        curves.append(y)
    settings = ", ".join(
        f"{run['name']}: N·T = {run['levels'] * run['timesteps']}, so"
        f" {run['levels'] * run['timesteps'] + 1} values"
        for run in runs
    )
    offsets = {data.settings[run["name"]]["v_init"] for run in runs}
    rounding = (
        f" Neurons start at {', '.join(f'{value:g}' for value in sorted(offsets))} of a level"
        " (0 cuts off, 0.5 rounds). Codes of equal N·T have one curve, whatever T."
    )
    return Plot(
        "Transfer function: decoded output for a constant input",
        figure,
        f"{settings}.{rounding}",
        _sampled(columns, curves, "Transfer functions, sampled"),
    )


def _surrogate(data: Comparison, runs: list[Json]) -> Plot:
    h = torch.linspace(-0.5, 1.75, _POINTS, dtype=torch.float64)
    figure = canvas("potential H / V_th", "surrogate of ds/dH", 380)
    columns, curves = [Column("H / V_th", ".3f")], [h.tolist()]
    kinds = []
    for run in runs:
        settings = data.settings[run["name"]]
        slope = SURROGATES[settings["surrogate"]](h, 1.0, run["levels"], settings["alpha"])
        values = slope.double().tolist()
        add_line(
            figure,
            data.marks[run["name"]],
            h.tolist(),
            values,
            "H = %{x:.3f}: %{y:.3f}",
            points=False,
        )
        columns.append(Column(run["name"], ".3f"))
        curves.append(values)
        alpha = f" (α = {settings['alpha']:g})" if settings["surrogate"] == "sigmoid" else ""
        kinds.append(f"{run['name']}: {settings['surrogate']}{alpha}, N = {run['levels']}")
    return Plot(
        "Surrogate gradient: what stands in for the derivative of a spike",
        figure,
        f"{'; '.join(kinds)}. A barrier after a residual sum always learns straight-through (ste).",
        _sampled(columns, curves, "Surrogate gradients, sampled"),
    )


def _sampled(columns: list[Column], curves: list[list[float]], caption: str) -> Table:
    every = (_POINTS - 1) // (_SHOWN - 1)
    return Table(
        tuple(columns), list(zip(*(curve[::every] for curve in curves), strict=True)), caption
    )
