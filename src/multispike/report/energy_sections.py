"""Sections of a report on energy: Pareto front, categories, layers, baselines, assumptions."""

from __future__ import annotations

from collections.abc import Sequence

from multispike.report.axes import canvas, label, layer_axis
from multispike.report.comparison import MICRO, Comparison, energy_uj
from multispike.report.document import (
    WHOLE_ROW,
    Column,
    Content,
    Json,
    Key,
    Plot,
    Table,
    listed,
    number,
    row_of,
    short_name,
)
from multispike.report.style import CATEGORIES, PARETO

_SHARED = tuple(Key(name, light) for name, (light, _) in CATEGORIES.values())
_CATEGORY_COLUMNS = tuple(Column(f"{name}, µJ", ",.3f") for name, _ in CATEGORIES.values())


def pareto_front(runs: Sequence[Json]) -> list[Json]:
    """Runs that no other run beats in accuracy at no more energy, by rising energy.

    >>> runs = [{"accuracy": a, "energy_nj": {"total": e}} for a, e in ((.9, 3), (.8, 1), (.7, 2))]
    >>> [run["accuracy"] for run in pareto_front(runs)]
    [0.8, 0.9]
    """
    front: list[Json] = []
    for run in sorted(runs, key=lambda run: (energy_uj(run), -run["accuracy"])):
        if not front or run["accuracy"] > front[-1]["accuracy"]:
            front.append(run)
    return front


def accuracy_energy(data: Comparison) -> Content:
    """Accuracy against energy, one point a run, and the front of those worth having."""
    front = pareto_front(data.runs)
    energies = [energy_uj(run) for run in data.runs]
    wide = max(energies) > 8 * min(energies)
    figure = canvas(
        f"energy per inference, µJ{' (logarithmic)' if wide else ''}", "test accuracy, %", 400
    )
    figure.add_scatter(
        x=[energy_uj(run) for run in front],
        y=[100 * run["accuracy"] for run in front],
        mode="lines",
        line={"color": PARETO[0], "dash": "dot", "width": 1.5, "shape": "hv"},
        hoverinfo="skip",
    )
    for run in data.runs:
        mark = data.marks[run["name"]]
        figure.add_scatter(
            x=[energy_uj(run)],
            y=[100 * run["accuracy"]],
            mode="markers+text",
            text=[label(run["name"])],
            textposition=f"top {_side(energy_uj(run), energies)}",
            cliponaxis=False,
            marker={"color": mark.colour, "symbol": mark.symbol, "size": 13},
            hovertemplate=f"{label(run['name'])}<br>%{{x:,.2f}} µJ<br>%{{y:.2f}} %<extra></extra>",
        )
    low, high = min(energies), max(energies)
    figure.update_xaxes(**_padded(low, high, wide))
    accuracies = [100 * run["accuracy"] for run in data.runs]
    room = max((max(accuracies) - min(accuracies)) * 0.25, 0.5)
    figure.update_yaxes(range=[min(accuracies) - room, max(accuracies) + room])
    names = [run["name"] for run in front]
    table = Table(
        (
            Column("run"),
            Column("accuracy", ".2%"),
            Column("energy, µJ", ",.2f"),
            Column("on the Pareto front"),
        ),
        [
            (run["name"], run["accuracy"], energy_uj(run), "yes" if run["name"] in names else "no")
            for run in data.runs
        ],
        "Accuracy and energy per inference",
    )
    summary = (
        f"On the Pareto front (dotted): {listed(names)}."
        " For every other run there is one that is at least as accurate for no more energy."
    )
    if len(names) == len(data.runs):
        summary = (
            f"All on the Pareto front (dotted): more accuracy costs more energy, {listed(names)}."
        )
    return Content(
        legend=[Key(mark.name, mark.colour, mark.symbol, "none") for mark in data.marks.values()],
        plots=[Plot("Test accuracy against energy per inference", figure, summary, table)],
        plot_width=WHOLE_ROW,
    )


def _side(energy: float, energies: Sequence[float]) -> str:
    """Where a label has room: beside points at the edges, it stays inside the plot."""
    low, high = min(energies), max(energies)
    place = (energy - low) / max(high - low, 1e-300)
    return "right" if place < 1 / 3 else "left" if place > 2 / 3 else "center"


def _padded(low: float, high: float, logarithmic: bool) -> Json:
    """An axis with room at both ends for the labels of the points."""
    if logarithmic:
        return {"type": "log", "dtick": "D2", "tickformat": ",.4~g"}
    room = max((high - low) * 0.25, 0.05 * high)
    return {"range": [max(low - room, 0), high + room]}


def energy_by_category(data: Comparison) -> Content:
    """Energy of every run, stacked by category; then layer by layer."""
    total = canvas("energy per inference, µJ", "", 110 + 46 * len(data.runs), bargap=0.35)
    for key, (name, (colour, _)) in CATEGORIES.items():
        total.add_bar(
            x=[run["energy_nj"][key] * MICRO for run in data.runs],
            y=[label(run["name"]) for run in data.runs],
            orientation="h",
            marker_color=colour,
            hovertemplate=f"%{{y}}<br>{name}: %{{x:,.2f}} µJ<extra></extra>",
        )
    total.update_yaxes(autorange="reversed", type="category")
    rows = [
        (run["name"], energy_uj(run), *(run["energy_nj"][key] * MICRO for key in CATEGORIES))
        for run in data.runs
    ]
    table = Table(
        (Column("run"), Column("total, µJ", ",.3f"), *_CATEGORY_COLUMNS),
        rows,
        "Energy per inference by category",
    )
    sentences = []
    for run in data.runs:
        largest = max(CATEGORIES, key=lambda key: run["energy_nj"][key])
        share = run["energy_nj"][largest] / max(run["energy_nj"]["total"], 1e-300)
        sentences.append(f"{run['name']}: {CATEGORIES[largest][0]} are {share:.0%}")
    summary = f"The largest part of each: {'; '.join(sentences)}."
    return Content(
        legend=_SHARED,
        tables=[_synops(data)],
        plots=[Plot("Energy per inference by category, µJ", total, summary, table)],
        plot_width=WHOLE_ROW,
    )


def _synops(data: Comparison) -> Table:
    """Operations as other work counts them."""
    keys = {
        "effective_acs": "effective ACs",
        "effective_macs": "effective MACs",
        "dense": "dense operations",
    }
    return Table(
        (Column("run"), *(Column(title, ",.0f") for title in keys.values())),
        [(run["name"], *(run["synops"][key] for key in keys)) for run in data.runs],
        "Synaptic operations per inference in NeuroBench's convention",
    )


def energy_by_layer(data: Comparison) -> Content:
    """One plot a run: energy of every layer, stacked by category, all on one scale."""
    highest = max(layer["energy_nj"]["total"] for run in data.runs for layer in run["layers"])
    return Content(
        paragraphs=["All plots have the same scale."],
        legend=_SHARED,
        plots=[_layers(run, highest * MICRO) for run in data.runs],
        plot_width=row_of(len(data.runs)),
    )


def _layers(run: Json, highest: float) -> Plot:
    layers = run["layers"]
    figure = canvas("", "energy, µJ", 380)
    names = [layer["name"] for layer in layers]
    for key, (name, (colour, _)) in CATEGORIES.items():
        figure.add_bar(
            x=[label(short_name(text)) for text in names],
            y=[layer["energy_nj"][key] * MICRO for layer in layers],
            marker_color=colour,
            hovertemplate=f"%{{x}}<br>{name}: %{{y:,.3f}} µJ<extra></extra>",
        )
    layer_axis(figure, names)
    figure.update_yaxes(range=[0, 1.05 * highest])
    table = Table(
        (Column("layer"), Column("kind"), Column("total, µJ", ",.3f"), *_CATEGORY_COLUMNS),
        [
            (
                layer["name"],
                layer["kind"],
                layer["energy_nj"]["total"] * MICRO,
                *(layer["energy_nj"][key] * MICRO for key in CATEGORIES),
            )
            for layer in layers
        ],
        f"{run['name']}: energy per layer",
    )
    top = max(layers, key=lambda layer: layer["energy_nj"]["total"])
    share = top["energy_nj"]["total"] / max(run["energy_nj"]["total"], 1e-300)
    summary = (
        f"{number(energy_uj(run))} µJ in all; {short_name(top['name'])} needs most,"
        f" {number(top['energy_nj']['total'] * MICRO)} µJ ({share:.0%})."
    )
    return Plot(f"{run['name']}: energy per layer", figure, summary, table)
