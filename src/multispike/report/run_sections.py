"""Sections of a report on the runs: results, density, training, mistakes, information, versions."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from multispike.activity.information import information as of_layers
from multispike.report.comparison import Comparison, energy_uj, findings, pareto_front
from multispike.report.document import (
    Cell,
    Column,
    Key,
    Plot,
    Section,
    Table,
    listed,
    percent,
    table_of,
)
from multispike.report.plots import ByPlace, along_depth, heat_map, lines, points
from multispike.report.seeds import Group, count
from multispike.results import Environment, RunResult


def overview(data: Comparison) -> Section:
    """What the runs say in cards, losses included; accuracy against energy; the headline table."""
    priced, kinds = data.runs[0].energy_nj, findings(data)
    several = len(data.runs) < len(data.every)
    table = table_of(
        data.runs,
        f"Energy, events and density per inference; energy by {priced.profile},"
        f" {priced.bits} bit; images/s in training",
        ("run", "", lambda run: run.name),
        *([("n", "d", count)] if several else []),
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
    return Section(
        "Results",
        plots=[_accuracy_energy(data)],
        tables=[table],
        cards=[kind[0] for kind in kinds if kind],
        points=[finding.text for kind in kinds for finding in kind],
    )


def _accuracy_energy(data: Comparison) -> Plot:
    """A point a run, and the front of those worth having."""
    names = [run.name for run in pareto_front(data.runs, energy_uj, lambda run: run.accuracy)]
    table = table_of(
        data.runs,
        "Accuracy and energy per inference",
        ("run", "", lambda run: run.name),
        ("accuracy", ".2%", lambda run: run.accuracy),
        ("energy, µJ", ",.2f", energy_uj),
        ("on the Pareto front", "", lambda run: "yes" if run.name in names else "no"),
    )
    summary = (
        f"On the Pareto front (dotted): {listed(names)}."
        " For every other run there is one that is at least as accurate for no more energy."
    )
    if len(names) == len(data.runs):
        summary = (
            f"All on the Pareto front (dotted): more accuracy costs more energy, {listed(names)}."
        )
    drawn = points(table, data.marks, "energy per inference, µJ", "test accuracy, %", names)
    legend = [Key(mark.name, mark.colour, mark.symbol, "none") for mark in data.marks.values()]
    title = "Test accuracy against energy per inference"
    return Plot(title, summary, table, {"": drawn}, legend)


def density(data: Comparison) -> Section:
    """Share of neurons that send something, layer by layer."""
    averages = "; ".join(f"{run.name} {run.density:.3f}" for run in data.runs)
    plot = along_depth(
        data.marks,
        {run.name: {row.name: row.density for row in run.neurons} for run in data.runs},
        "Density per layer of neurons",
        "density (share not zero)",
        ".4f",
        f"Mean over all neurons: {averages}. For a ReLU it is the share of outputs above zero.",
    )
    return Section("Density", plots=[plot])


def training(data: Comparison) -> Section | None:
    """Accuracy and training loss by epoch."""
    if not data.histories:
        return None
    validated = any("val_accuracy" in row for rows in data.histories.values() for row in rows)
    judge = "Validation" if validated else "Test"
    title, axis = f"{judge} accuracy by epoch", f"{judge.lower()} accuracy, %"
    loss = ("Training loss by epoch", "training loss (cross-entropy)")
    plots = [
        _curve(data, "test_accuracy", title, axis, 100, ".2f"),
        _curve(data, "train_loss", *loss, 1, ".4f"),
    ]
    return Section("Training", plots=plots)


def _curve(data: Comparison, key: str, title: str, axis: str, factor: float, spec: str) -> Plot:
    def history(run: RunResult) -> dict[int, float]:
        return {int(row["epoch"]): factor * row[key] for row in data.histories[run.name]}

    known = [g for g in data.groups if data.histories.keys() >= {run.name for run in g.runs}]
    histories = {group.name: group.of(history) for group in known}
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
    summary = f"First to last epoch: {'; '.join(ends)}."
    return lines(title, summary, table, data.marks, "epoch", axis)


_MISTAKES = 8  # rows of the table for each run


def confusion(data: Comparison) -> Section | None:
    """A matrix a run: for images of each class, the share given to each class."""
    runs = [run for run in data.runs if run.confusion]
    if not runs:
        return None
    rows, panels, sentences = [], {}, []
    for run in runs:
        counts, names = run.confusion or (), run.classes
        if len(names) != len(counts):
            names = tuple(map(str, range(len(counts))))
        mistakes = sorted(
            (
                (count, run.name, names[true], names[predicted], count / max(sum(row), 1))
                for true, row in enumerate(counts)
                for predicted, count in enumerate(row)
                if count and true != predicted
            ),
            reverse=True,
        )
        rows += mistakes[:_MISTAKES]
        panels[run.name if len(runs) > 1 else ""] = heat_map(counts, names)
        worst = f", most often {mistakes[0][2]} taken for {mistakes[0][3]}" if mistakes else ""
        sentences.append(f"{run.name}: {percent(run.accuracy)} right{worst}")
    table = table_of(
        rows,
        f"The most frequent mistakes, at most {_MISTAKES} a run",
        ("run", "", lambda row: row[1]),
        ("true class", "", lambda row: row[2]),
        ("predicted class", "", lambda row: row[3]),
        ("images", ",d", lambda row: row[0]),
        ("share of the true class", ".1%", lambda row: row[4]),
    )
    title, summary = "Confusion matrix", f"{'; '.join(sentences)}."
    text = "Rows are true classes; every row adds up to 100 %."
    if len(data.runs) < len(data.every):
        text += " The images of all seeds are counted together."
    return Section("Confusion", [text], [Plot(title, summary, table, panels)])


_QUANTITIES = (
    ("bits", "Entropy per neuron", "bits per neuron and inference", ".3f"),
    ("bits_per_event", "Entropy per event", "bits per event", ".3f"),
    ("levels_used", "Levels in use", "share of levels 0..N seen", ".2f"),
    ("error_relu", "Error against the ReLU", "RMS error / V_th", ".4f"),
    ("error_clipped", "Error against the clipped ReLU", "RMS error / V_th", ".4f"),
)
"""Attribute of a layer's information, title, axis, format."""


def information(data: Comparison) -> Section | None:
    """Entropy per neuron and per event, levels in use, and the error against the ReLU."""
    keys = ("name", "events", "neurons", *(key for key, *_ in _QUANTITIES))

    def told(run: RunResult) -> list[dict[str, Any]]:
        return [{key: getattr(row, key) for key in keys} for row in of_layers(run.neurons)]

    layers = {group.name: group.of(told) for group in data.groups}
    runs = [run for run in data.spiking if layers[run.name]]
    if not runs:
        return None
    plots = []
    for key, title, axis, spec in _QUANTITIES:
        values: dict[str, ByPlace] = {}
        means = []
        for run in runs:
            known = {row["name"]: row[key] for row in layers[run.name]}
            known = {name: value for name, value in known.items() if value is not None}
            values[run.name] = known
            if known:
                means.append(f"{run.name} {sum(known.values()) / len(known):{spec}}")
        if means:
            summary = f"Mean over the layers: {'; '.join(means)}."
            plots.append(along_depth(data.marks, values, title, axis, spec, summary))

    def events(run: RunResult) -> float:
        return sum(row["events"] for row in layers[run.name])

    def bits(run: RunResult) -> float | None:
        rows = layers[run.name]
        known = all(row["bits"] is not None for row in rows)
        return sum(row["bits"] * row["neurons"] for row in rows) if known else None

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
    text = (
        "The entropy of what a neuron sends, its levels added up over the timesteps, is the"
        " most it can tell the next layer; neurons of a layer are taken together. Bits per"
        " event say what one event, and so its energy, buys. A neuron stands for the ReLU"
        " max(x, 0) of its mean input x: the error against it has two parts. What exceeds V_th"
        " no code of this threshold can send; the error against the clipped ReLU, min(max(x,"
        " 0), V_th), is that of the code alone."
    )
    return Section("Information", [text], plots, [table])


def versions(data: Comparison) -> Section:
    """Machine and versions of every run, and all of its settings."""
    table = table_of(
        data.every,
        "What each run was trained and measured with",
        ("run", "", lambda run: run.name),
        ("seed", "", lambda run: str(run.seed)),
        *(
            (part.name, "", lambda run, name=part.name: getattr(run.environment, name))
            for part in fields(Environment)
            if any(getattr(run.environment, part.name) is not None for run in data.runs)
        ),
    )

    def values(group: Group, key: str) -> str | None:
        own = [data.settings.get(run.name, {}).get(key) for run in group.runs]
        return ", ".join(dict.fromkeys(str(value) for value in own if value is not None)) or None

    settings = table_of(
        dict.fromkeys(key for config in data.settings.values() for key in config),
        "All settings",
        ("setting", "", lambda key: key),
        *((g.name, "", lambda key, group=g: values(group, key)) for g in data.groups),
        folded=True,
    )
    return Section("Environment", tables=[table, settings] if data.settings else [table])
