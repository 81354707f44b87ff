"""Sections of a report on the runs: results, neurons, learning, and what the figures rest on."""

from __future__ import annotations

from typing import Any

import torch

from multispike.files import plain_fields
from multispike.neurons import MultiLevelIF
from multispike.report.comparison import Comparison, energy_uj
from multispike.report.document import Column, Content, Plot, Table, percent, row_of
from multispike.report.plots import Lines, Matrix
from multispike.report.wording import findings
from multispike.results import RunResult
from multispike.surrogate import SURROGATES


def overview(data: Comparison) -> Content:
    """The headline table and what it says, losses included."""
    columns = (
        Column("run"),
        Column("T", "d"),
        Column("N", "d"),
        Column("accuracy", ".2%"),
        Column("energy, µJ", ",.2f"),
        Column("events", ",.0f"),
        Column("density", ".3f"),
        Column("parameters", ",d"),
        Column("training, s", ",.1f"),
        Column("images/s", ",.0f"),
    )
    rows = [
        (
            run.name,
            run.timesteps,
            run.levels if run.spiking else None,
            run.accuracy,
            energy_uj(run),
            run.events_per_inference if run.spiking else None,
            run.density,
            run.params,
            run.train_seconds,
            run.images_per_second,
        )
        for run in data.runs
    ]
    priced = data.runs[0].energy_nj
    caption = (
        f"Energy, events and density per inference; energy by {priced.profile},"
        f" {priced.bits} bit; images/s in training"
    )
    return Content(points=findings(data), tables=[Table(columns, rows, caption)])


# --- learning -----------------------------------------------------------------------------------

_LABELLED = 12  # classes up to which every cell of a confusion matrix carries its number
_MISTAKES = 25  # rows of the table where there are more classes


def training(data: Comparison) -> Content:
    """Test accuracy and training loss by epoch."""
    if not data.histories:
        return Content(["No metrics.csv was found in the runs' folders."])
    plots = [
        _curve(data, "test_accuracy", "Test accuracy by epoch", "test accuracy, %", 100),
        _curve(data, "train_loss", "Training loss by epoch", "training loss (cross-entropy)", 1),
    ]
    return Content(legend=[data.marks[name].key() for name in data.histories], plots=plots)


def _curve(data: Comparison, key: str, title: str, axis: str, factor: float) -> Plot:
    spec = ".2f" if factor == 100 else ".4f"
    histories = {
        name: {int(row["epoch"]): factor * row[key] for row in rows}
        for name, rows in data.histories.items()
    }
    ends = [
        f"{name} {history[min(history)]:{spec}} to {history[max(history)]:{spec}}"
        for name, history in histories.items()
    ]
    epochs = sorted({epoch for history in histories.values() for epoch in history})
    table = Table(
        (Column("epoch", "d"), *(Column(name, spec) for name in histories)),
        [(epoch, *(history.get(epoch) for history in histories.values())) for epoch in epochs],
        title,
    )
    drawn = Lines(data.marks, "epoch", axis, 340, points=len(epochs) <= 40, whole=True)
    return Plot(title, f"First to last epoch: {'; '.join(ends)}.", table, drawn)


def confusion(data: Comparison) -> Content:
    """One matrix a run: for images of each class, the share given to each class."""
    plots = [_matrix(run, run.confusion) for run in data.runs if run.confusion]
    if not plots:
        return Content(["These results hold no confusion matrix."])
    text = "Rows are true classes; every row adds up to 100 %."
    return Content([text], plots=plots, plot_width=row_of(len(plots)))


def _matrix(run: RunResult, counts: tuple[tuple[int, ...], ...]) -> Plot:
    numbers = [str(number) for number in range(len(counts))]
    names = list(run.classes) if len(run.classes) == len(counts) else numbers
    totals = [max(sum(row), 1) for row in counts]
    mistakes = sorted(
        (
            (count, names[true], names[predicted], count / totals[true])
            for true, row in enumerate(counts)
            for predicted, count in enumerate(row)
            if count and true != predicted
        ),
        reverse=True,
    )
    few = len(names) <= _LABELLED
    if few:
        table = Table(
            (Column("true class"), *(Column(name, ",d") for name in names)),
            [(name, *row) for name, row in zip(names, counts, strict=True)],
            f"{run.name}: images by true class (rows) and predicted class (columns)",
        )
    else:
        table = Table(
            (
                Column("true class"),
                Column("predicted class"),
                Column("images", ",d"),
                Column("share of the true class", ".1%"),
            ),
            [(true, taken, count, share) for count, true, taken, share in mistakes[:_MISTAKES]],
            f"{run.name}: the {min(_MISTAKES, len(mistakes))} most frequent mistakes",
        )
    summary = f"{percent(run.accuracy)} right."
    if mistakes:
        count, true, predicted, _ = mistakes[0]
        right = [row[index] / totals[index] for index, row in enumerate(counts)]
        worst = right.index(min(right))
        summary += (
            f" Most frequent mistake: {true} taken for {predicted} ({count:,}×)."
            f" Hardest class: {names[worst]}, {right[worst]:.0%} right."
        )
    return Plot(f"{run.name}: confusion matrix", summary, table, Matrix(counts, names, few))


# --- neurons ------------------------------------------------------------------------------------

_NEEDED = {"surrogate", "alpha", "v_init", "beta"}
"""Settings of a run that make its neuron."""
_POINTS = 601
_EVERY = 25  # points of a curve to one row of its table


def neurons(data: Comparison) -> Content:
    """What each run's neuron answers to a constant input, and the gradient it learns with."""
    known = [run for run in data.spiking if data.settings.get(run.name, {}).keys() >= _NEEDED]
    if not known:
        return Content(["No spiking run with its config.yaml is in this folder."])
    learned = [run.name for run in known if data.settings[run.name].get("learn_threshold") != "no"]
    remarks = [
        "Computed by the neuron that was trained, with each run's own settings. Inputs and outputs"
        " are in units of the threshold V_th.",
    ]
    if learned:
        remarks.append(
            f"V_th is learned in {', '.join(learned)}; the curves scale with it, their shape stays."
        )
    return Content(
        remarks, data.legend(data.runs), [_transfer(data, known), _surrogate(data, known)]
    )


@torch.no_grad()
def transfer(neuron: MultiLevelIF, timesteps: int, x: torch.Tensor) -> torch.Tensor:
    """Decoded output y = mean over T of s[t] for constant inputs x [n], shape [n].

    >>> transfer(MultiLevelIF(levels=1), 4, torch.tensor([0.3, 0.6, 2.0])).tolist()
    [0.25, 0.5, 1.0]
    """
    return neuron(x.expand(timesteps, 1, -1)).mean(0)[0]


def _transfer(data: Comparison, known: list[RunResult]) -> Plot:
    x = torch.linspace(-0.25, 1.5, _POINTS, dtype=torch.float64)
    curves = {run.name: torch.relu(x) for run in data.runs if not run.spiking}
    for run in known:
        own = data.settings[run.name]
        neuron = MultiLevelIF(
            run.levels, 1.0, own["surrogate"], own["alpha"], own["v_init"], own["beta"]
        )
        curves[run.name] = transfer(neuron, run.timesteps, x)
    products = {run.name: run.levels * run.timesteps for run in known}
    values = ", ".join(f"{name}: N·T = {k}, so {k + 1} values" for name, k in products.items())
    offsets = sorted({data.settings[run.name]["v_init"] for run in known})
    return _curves(
        data,
        "Transfer function: decoded output for a constant input",
        f"{values}. Neurons start at {', '.join(f'{value:g}' for value in offsets)} of a level"
        " (0 cuts off, 0.5 rounds). Codes of equal N·T have one curve, whatever T.",
        ("x / V_th", "constant input x / V_th", "decoded output y / V_th"),
        x,
        {run.name: curves[run.name] for run in data.runs if run.name in curves},
        "Transfer functions, sampled",
    )


def _surrogate(data: Comparison, known: list[RunResult]) -> Plot:
    h = torch.linspace(-0.5, 1.75, _POINTS, dtype=torch.float64)
    curves, kinds = {}, []
    for run in known:
        own = data.settings[run.name]
        name, alpha = own["surrogate"], own["alpha"]
        curves[run.name] = SURROGATES[name](h, 1.0, run.levels, alpha).double()
        steepness = f" (α = {alpha:g})" if name == "sigmoid" else ""
        kinds.append(f"{run.name}: {name}{steepness}, N = {run.levels}")
    return _curves(
        data,
        "Surrogate gradient: what stands in for the derivative of a spike",
        f"{'; '.join(kinds)}. A barrier after a residual sum always learns straight-through (ste).",
        ("H / V_th", "potential H / V_th", "surrogate of ds/dH"),
        h,
        curves,
        "Surrogate gradients, sampled",
    )


def _curves(
    data: Comparison,
    title: str,
    summary: str,
    axes: tuple[str, str, str],
    x: torch.Tensor,
    curves: dict[str, torch.Tensor],
    caption: str,
) -> Plot:
    """Functions of one variable; `axes`: its column, and the titles of both axes."""
    table = Table(
        (Column(axes[0], ".3f"), *(Column(name, ".3f") for name in curves)),
        list(zip(x.tolist(), *(y.tolist() for y in curves.values()), strict=True)),
        caption,
        every=_EVERY,
    )
    return Plot(title, summary, table, Lines(data.marks, *axes[1:], points=False))


# --- what the figures rest on ---------------------------------------------------------------------


def assumptions(data: Comparison) -> Content:
    """Constants with their sources, choices, and what is left out."""
    known = [run for run in data.runs if run.assumptions]
    if not known or known[0].assumptions is None:
        return Content(["These results hold no assumptions."])
    first = known[0].assumptions
    constants = Table(
        (Column("constant"), Column("value", ".4g"), Column("source")),
        [(name, one.value, one.source) for name, one in first.profile.constants.items()],
        f"Constants of the profile {first.profile.name}",
    )
    operations = Table(
        (Column("operation"), Column("energy, pJ", ".4g")),
        list(first.operation_pj.items()),
        f"Operations at {known[0].energy_nj.bits} bit",
    )
    priced = Table(
        (Column("run"), Column("priced as"), Column("fan-out"), Column("graded event")),
        [
            (run.name, own.network, own.fanout, own.graded_op)
            for run in known
            if (own := run.assumptions)
        ],
        "How each run is priced; a graded event costs a MAC, or z additions (repeat)",
    )
    lines = [("chosen", choice) for choice in first.choices]
    lines += [("not modelled", gap) for gap in first.not_modelled]
    lines += [(f"not counted in {run.name}", gap) for run in known for gap in run.not_counted]
    rest = Table((Column("kind"), Column("assumption")), lines, "Choices, and what is left out")
    return Content(
        [
            "Energies are computed from measured activity, not measured on a chip."
            " They compare networks under one set of assumptions; they predict no device."
        ],
        tables=[priced, operations, constants, rest],
    )


def environment(data: Comparison) -> Content:
    """Machine and versions of every run, and all of its settings."""
    machines = {run.name: plain_fields(run.environment) for run in data.runs}
    keys = list(dict.fromkeys(key for machine in machines.values() for key in machine))
    table = Table(
        (Column("run"), Column("seed"), *map(Column, keys)),
        [
            (run.name, str(run.seed), *(_text(machines[run.name].get(key)) for key in keys))
            for run in data.runs
        ],
        "What each run was trained and measured with",
    )
    names = list(dict.fromkeys(key for config in data.settings.values() for key in config))
    settings = Table(
        (Column("setting"), *map(Column, data.settings)),
        [(key, *(_text(config.get(key)) for config in data.settings.values())) for key in names],
        "All settings",
        folded=True,
    )
    return Content(tables=[table, settings] if data.settings else [table])


def _text(value: Any) -> str:
    return "–" if value is None else str(value)
