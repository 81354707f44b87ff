"""Sections of a report on the runs: results, information, neurons, learning, versions."""

from __future__ import annotations

from typing import Any

import torch

from multispike.activity.information import information as of_layers
from multispike.activity.information import quantisation_study
from multispike.files import plain_fields
from multispike.neurons import MultiLevelIF
from multispike.report.comparison import Comparison, energy_uj, findings
from multispike.report.document import (
    Cell,
    Column,
    Content,
    Plot,
    Table,
    percent,
    row_of,
    table_of,
)
from multispike.report.plots import ByPlace, Lines, Matrix, along_depth
from multispike.report.style import DASHES, PAGE, Mark
from multispike.results import RunResult
from multispike.surrogate import SURROGATES


def overview(data: Comparison) -> Content:
    """The headline table and what it says, losses included."""
    priced = data.runs[0].energy_nj
    table = table_of(
        data.runs,
        f"Energy, events and density per inference; energy by {priced.profile},"
        f" {priced.bits} bit; images/s in training",
        ("run", "", lambda run: run.name),
        ("T", "d", lambda run: run.timesteps),
        ("N", "d", lambda run: run.levels if run.spiking else None),
        ("accuracy", ".2%", lambda run: run.accuracy),
        ("energy, µJ", ",.2f", energy_uj),
        ("events", ",.0f", lambda run: run.events_per_inference if run.spiking else None),
        ("density", ".3f", lambda run: run.density),
        ("parameters", ",d", lambda run: run.params),
        ("training, s", ",.1f", lambda run: run.train_seconds),
        ("images/s", ",.0f", lambda run: run.images_per_second),
    )
    return Content(points=findings(data), tables=[table])


# --- learning -----------------------------------------------------------------------------------

_LABELLED = 12  # classes up to which every cell of a confusion matrix carries its number
_MISTAKES = 25  # rows of the table where there are more classes


def training(data: Comparison) -> Content:
    """Test accuracy and training loss by epoch."""
    if not data.histories:
        return Content(["No metrics.csv was found in the runs' folders."])
    validated = any("val_accuracy" in row for rows in data.histories.values() for row in rows)
    judge = "Validation" if validated else "Test"
    title, axis = f"{judge} accuracy by epoch", f"{judge.lower()} accuracy, %"
    plots = [
        _curve(data, "test_accuracy", title, axis, 100, ".2f"),
        _curve(data, "train_loss", "Training loss by epoch", "training loss (cross-entropy)", 1,
               ".4f"),
    ]  # fmt: skip
    return Content(legend=[data.marks[name].key() for name in data.histories], plots=plots)


def _curve(data: Comparison, key: str, title: str, axis: str, factor: float, spec: str) -> Plot:
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
    names = run.classes
    if len(names) != len(counts):
        names = tuple(map(str, range(len(counts))))
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
        table = table_of(
            mistakes[:_MISTAKES],
            f"{run.name}: the {min(_MISTAKES, len(mistakes))} most frequent mistakes",
            ("true class", "", lambda mistake: mistake[1]),
            ("predicted class", "", lambda mistake: mistake[2]),
            ("images", ",d", lambda mistake: mistake[0]),
            ("share of the true class", ".1%", lambda mistake: mistake[3]),
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
def transfer(neuron: MultiLevelIF, x: torch.Tensor) -> torch.Tensor:
    """Decoded output y = mean over T of s[t] for constant inputs x [n], shape [n].

    >>> transfer(MultiLevelIF(levels=1, timesteps=4), torch.tensor([0.3, 0.6, 2.0])).tolist()
    [0.25, 0.5, 1.0]
    """
    return neuron(x.expand(neuron.timesteps, -1)).mean(0)


def _transfer(data: Comparison, known: list[RunResult]) -> Plot:
    x = torch.linspace(-0.25, 1.5, _POINTS, dtype=torch.float64)
    curves = {run.name: torch.relu(x) for run in data.runs if run in known or not run.spiking}
    for run in known:
        own = data.settings[run.name]
        neuron = MultiLevelIF(
            run.levels, 1.0, own["surrogate"], own["alpha"], own["v_init"], own["beta"],
            timesteps=run.timesteps,
        )  # fmt: skip
        curves[run.name] = transfer(neuron, x)
    products = {run.name: run.levels * run.timesteps for run in known}
    values = ", ".join(f"{name}: N·T = {k}, so {k + 1} values" for name, k in products.items())
    offsets = sorted({data.settings[run.name]["v_init"] for run in known})
    return Plot(
        "Transfer function: decoded output for a constant input",
        f"{values}. Neurons start at {', '.join(f'{value:g}' for value in offsets)} of a level"
        " (0 cuts off, 0.5 rounds). Codes of equal N·T have one curve, whatever T.",
        _sampled("x / V_th", x, curves, "Transfer functions, sampled"),
        Lines(data.marks, "constant input x / V_th", "decoded output y / V_th", points=False),
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
    return Plot(
        "Surrogate gradient: what stands in for the derivative of a spike",
        f"{'; '.join(kinds)}. A barrier after a residual sum always learns straight-through (ste).",
        _sampled("H / V_th", h, curves, "Surrogate gradients, sampled"),
        Lines(data.marks, "potential H / V_th", "surrogate of ds/dH", points=False),
    )


def _sampled(name: str, x: torch.Tensor, curves: dict[str, torch.Tensor], caption: str) -> Table:
    """Functions of one variable."""
    columns = tuple(Column(title, ".3f") for title in (name, *curves))
    rows = list(zip(x.tolist(), *(y.tolist() for y in curves.values()), strict=True))
    return Table(columns, rows, caption, every=_EVERY)


# --- information --------------------------------------------------------------------------------

_JITTERS = tuple(step / 10 for step in range(11))
"""How much an input changes from step to step, as a share of the spread of its mean."""

_QUANTITIES = (
    ("bits", "Entropy per neuron", "bits per neuron and inference", ".3f"),
    ("bits_per_event", "Entropy per event", "bits per event", ".3f"),
    ("levels_used", "Levels in use", "share of levels 0..N seen", ".2f"),
    ("error_relu", "Error against the ReLU", "RMS error / V_th", ".4f"),
    ("error_clipped", "Error against the clipped ReLU", "RMS error / V_th", ".4f"),
)
"""Attribute of a layer's information, title, axis, format."""


def information(data: Comparison) -> Content:
    """Entropy per neuron and per event, levels in use, and the error of codes of equal N·T."""
    layers = {run.name: of_layers(run.neurons) for run in data.spiking}
    runs = [run for run in data.spiking if layers[run.name]]
    if not runs:
        return Content(["No spiking run with histograms of its levels is in these results."])
    plots = []
    for key, title, axis, spec in _QUANTITIES:
        values: dict[str, ByPlace] = {}
        means = []
        for run in runs:
            known = {row.name: getattr(row, key) for row in layers[run.name]}
            known = {name: value for name, value in known.items() if value is not None}
            values[run.name] = {**known}
            if known:
                means.append(f"{run.name} {sum(known.values()) / len(known):{spec}}")
        if means:
            summary = f"Mean over the layers: {'; '.join(means)}."
            plots.append(along_depth(data.marks, values, title, axis, spec, summary))
    products = sorted({run.timesteps * run.levels for run in runs})
    plots += [_error_plot(product) for product in products if product > 1]

    def events(run: RunResult) -> float:
        return sum(row.events for row in layers[run.name])

    def bits(run: RunResult) -> float | None:
        told = [row.bits * row.neurons for row in layers[run.name] if row.bits is not None]
        return sum(told) if len(told) == len(layers[run.name]) else None

    def bits_per_event(run: RunResult) -> Cell:
        sent, paid = bits(run), events(run)
        return sent / paid if sent is not None and paid else None

    table = table_of(
        runs,
        "Information sent by all neurons, residual sums left out",
        ("run", "", lambda run: run.name),
        ("T", "d", lambda run: run.timesteps),
        ("N", "d", lambda run: run.levels),
        ("N·T", "d", lambda run: run.timesteps * run.levels),
        ("bits per inference", ",.0f", bits),
        ("events per inference", ",.0f", events),
        ("bits per event", ".3f", bits_per_event),
    )
    return Content(
        [
            "The entropy of what a neuron sends, its levels added up over the timesteps, is the"
            " most it can tell the next layer; neurons of a layer are taken together. Bits per"
            " event say what one event, and so its energy, buys. A neuron stands for the ReLU"
            " max(x, 0) of its mean input x: the error against it has two parts. What exceeds V_th"
            " no code of this threshold can send; the error against the clipped ReLU, min(max(x,"
            " 0), V_th), is that of the code alone.",
        ],
        legend=data.legend(runs),
        tables=[table],
        plots=plots,
    )


def _error_plot(product: int) -> Plot:
    """RMS error against the clipped ReLU over the inputs' jitter, one line for every way to factor
    N·T; that against the ReLU stands in the table."""
    clipped: dict[str, list[float]] = {}
    whole: dict[str, list[float]] = {}
    for code in quantisation_study(product, _JITTERS, v_init=0.5):
        name = f"T = {code.timesteps}, N = {code.levels}"
        clipped.setdefault(name, []).append(code.error_clipped)
        whole.setdefault(f"{name}, ReLU", []).append(code.error_relu)
    shades = [PAGE[name][0] for name in ("text", "accent", "muted")]
    marks = {
        name: Mark(name, shades[min(i, 2)], "circle", list(DASHES)[i % len(DASHES)])
        for i, name in enumerate(clipped)
    }
    table = Table(
        (Column("jitter", ".1f"), *(Column(name, ".4f") for name in (*clipped, *whole))),
        list(zip(_JITTERS, *clipped.values(), *whole.values(), strict=True)),
        f"Error at N·T = {product} against the clipped ReLU, then against the ReLU, in V_th",
    )
    first = next(iter(clipped.values()))
    worst = max(clipped, key=lambda name: clipped[name][-1])
    x, y = "jitter of the input between timesteps", "RMS error / V_th"
    return Plot(
        f"Error of codes with N·T = {product} against the clipped ReLU",
        f"For constant inputs all are equal ({first[0]:.4f}). With jitter 1 the error is"
        f" {first[-1]:.4f} at T = 1 and {clipped[worst][-1]:.4f} with {worst}: spikes"
        " that come before a negative input can't be taken back. Simulated with 20,000 random"
        " inputs, mean N(0, 0.6²), neurons that start at half a level.",
        table,
        Lines(marks, x, y, points=False, named=True),
    )


# --- versions -----------------------------------------------------------------------------------


def versions(data: Comparison) -> Content:
    """Machine and versions of every run, and all of its settings."""
    machines = {run.name: plain_fields(run.environment) for run in data.runs}
    keys = list(dict.fromkeys(key for machine in machines.values() for key in machine))
    table = Table(
        tuple(map(Column, ("run", "seed", *keys))),
        [
            (run.name, str(run.seed), *(_text(machines[run.name].get(key)) for key in keys))
            for run in data.runs
        ],
        "What each run was trained and measured with",
    )
    names = dict.fromkeys(key for config in data.settings.values() for key in config)
    settings = Table(
        tuple(map(Column, ("setting", *data.settings))),
        [(key, *(_text(config.get(key)) for config in data.settings.values())) for key in names],
        "All settings",
        folded=True,
    )
    return Content(tables=[table, settings] if data.settings else [table])


def _text(value: Any) -> Cell:
    return None if value is None else str(value)
