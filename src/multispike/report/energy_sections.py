"""Sections of a report on energy: Pareto front, categories, layers, twins, and the assumptions."""

from __future__ import annotations

from multispike.energy.pricing import Energy
from multispike.energy.twins import TWINS
from multispike.report.comparison import (
    MEANING,
    MICRO,
    Comparison,
    energy_uj,
    pareto_front,
    verdict,
)
from multispike.report.document import (
    WHOLE_ROW,
    Column,
    Content,
    Key,
    Plot,
    Table,
    listed,
    number,
    row_of,
    short_name,
    table_of,
)
from multispike.report.plots import Bars, Points
from multispike.report.style import BASELINE_COLOURS, CATEGORIES
from multispike.results import RunResult

_PARTS = {f"{name}, µJ": light for name, _, (light, _) in CATEGORIES.values()}
"""Columns of a table of categories -> colours of a plot of it."""

_CATEGORY_LEGEND = [Key(name, light) for name, _, (light, _) in CATEGORIES.values()]


def accuracy_energy(data: Comparison) -> Content:
    """Accuracy against energy, one point a run, and the front of those worth having."""
    front = pareto_front(data.runs, energy_uj, lambda run: run.accuracy)
    names = [run.name for run in front]
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
    title = "Test accuracy against energy per inference"
    drawn = Points(data.marks, "energy per inference, µJ", "test accuracy, %", names)
    return Content(
        legend=[Key(mark.name, mark.colour, mark.symbol, "none") for mark in data.marks.values()],
        plots=[Plot(title, summary, table, drawn)],
        plot_width=WHOLE_ROW,
    )


def _split(energy: Energy) -> tuple[float, ...]:
    """Total and categories in µJ."""
    return tuple(MICRO * getattr(energy, key) for key in ("total", *CATEGORIES))


def _split_columns(*first: str) -> tuple[Column, ...]:
    numbers = (Column(title, ",.3f") for title in ("total, µJ", *_PARTS))
    return (*map(Column, first), *numbers)


def energy_by_category(data: Comparison) -> Content:
    """Energy of every run, stacked by category, and its operations as other work counts them."""
    table = Table(
        _split_columns("run"),
        [(run.name, *_split(run.energy_nj)) for run in data.runs],
        "Energy per inference by category",
    )
    sentences = []
    for run in data.runs:
        largest = max(CATEGORIES, key=lambda key: getattr(run.energy_nj, key))
        share = getattr(run.energy_nj, largest) / max(run.energy_nj.total, 1e-300)
        sentences.append(f"{run.name}: {CATEGORIES[largest].name} are {share:.0%}")
    synops = table_of(
        data.runs,
        "Synaptic operations per inference in NeuroBench's convention",
        ("run", "", lambda run: run.name),
        ("effective ACs", ",.0f", lambda run: run.synops.effective_acs),
        ("effective MACs", ",.0f", lambda run: run.synops.effective_macs),
        ("dense operations", ",.0f", lambda run: run.synops.dense),
    )
    plot = Plot(
        "Energy per inference by category, µJ",
        f"The largest part of each: {'; '.join(sentences)}.",
        table,
        Bars(_PARTS, "energy per inference, µJ", 110 + 46 * len(data.runs)),
    )
    return Content(legend=_CATEGORY_LEGEND, tables=[synops], plots=[plot], plot_width=WHOLE_ROW)


def energy_by_layer(data: Comparison) -> Content:
    """One plot a run: energy of every layer, stacked by category, all on one scale."""
    highest = max(layer.energy_nj.total for run in data.runs for layer in run.layers)
    return Content(
        paragraphs=["All plots have the same scale."],
        legend=_CATEGORY_LEGEND,
        plots=[_layers(run, highest * MICRO) for run in data.runs],
        plot_width=row_of(len(data.runs)),
    )


def _layers(run: RunResult, highest: float) -> Plot:
    title = f"{run.name}: energy per layer"
    table = Table(
        _split_columns("layer", "kind"),
        [(layer.name, layer.kind, *_split(layer.energy_nj)) for layer in run.layers],
        title,
    )
    top = max(run.layers, key=lambda layer: layer.energy_nj.total)
    share = top.energy_nj.total / max(run.energy_nj.total, 1e-300)
    summary = (
        f"{number(energy_uj(run))} µJ in all; {short_name(top.name)} needs most,"
        f" {number(top.energy_nj.total * MICRO)} µJ ({share:.0%})."
    )
    drawn = Bars(_PARTS, "energy, µJ", 380, layers=True, highest=highest)
    return Plot(title, summary, table, drawn)


def twins(data: Comparison) -> Content:
    """Every spiking run beside ANNs of its own shape, and the densities below which it wins."""
    runs = data.priced
    if not runs:
        return Content(["No spiking run with baselines is in these results."])
    prices = {
        run.name: [run.energy_nj.total * MICRO]
        + [run.baselines[key].total * MICRO for key in TWINS if run.baselines]
        for run in runs
    }
    titles = ["SNN, µJ", *(f"{name}, µJ" for name in TWINS.values())]
    grey = [BASELINE_COLOURS[key][0] for key in TWINS]
    table = Table(
        (Column("run"), *(Column(title, ",.3f") for title in titles)),
        [(name, *row) for name, row in prices.items()],
        "Energy per inference as an SNN and as ANNs of the same shape",
    )
    crossover = Table(
        (
            Column("run"),
            Column("mean density", ".3f"),
            Column("same cost at density", ".3f"),
            *map(Column, TWINS.values()),
        ),
        [
            (run.name, run.density, run.even_density, *(run.crossover[key].where for key in TWINS))
            for run in runs
            if run.crossover
        ],
        "The SNN needs less energy than an ANN of its shape, by kind of ANN",
    )
    best = [
        f"{name} {number(own)} µJ, zero-skipping ANN {number(skipping)} µJ"
        for name, (own, *_, skipping) in prices.items()
    ]
    colours = dict(zip(titles, [[data.marks[name].colour for name in prices], *grey], strict=True))
    plot = Plot(
        "Energy as an SNN and as ANNs of the same shape, µJ",
        f"{'; '.join(best)}.",
        table,
        Bars(colours, "energy per inference, µJ", 130 + 90 * len(runs), grouped=True),
    )
    return Content(
        [
            "The energy model prices the same layers as an ANN too, evaluated once (of event data,"
            " on all events in one frame): dense at full width, dense with activations quantised"
            " to ⌈log2(N·T+1)⌉ bits, and quantised with zeros skipped, from the zeros that were"
            " measured. At T = 1 the last computes exactly what the SNN does.",
        ],
        tables=[crossover],
        points=[
            *(f"{run.name}: {verdict(run)}." for run in runs),
            f"{MEANING[0].upper()}{MEANING[1:]}.",
        ],
        legend=[
            *(Key(name, data.marks[name].colour) for name in prices),
            *(Key(name, colour) for name, colour in zip(TWINS.values(), grey, strict=True)),
        ],
        plots=[plot],
        plot_width=WHOLE_ROW,
    )


def assumptions(data: Comparison) -> Content:
    """Constants with their sources, choices, and what is left out."""
    known = [run for run in data.runs if run.assumptions]
    if not known or known[0].assumptions is None:
        return Content(["These results hold no assumptions."])
    first = known[0].assumptions
    constants = table_of(
        first.profile.constants.items(),
        f"Constants of the profile {first.profile.name}",
        ("constant", "", lambda item: item[0]),
        ("value", ".4g", lambda item: item[1].value),
        ("source", "", lambda item: item[1].source),
    )
    operations = Table(
        (Column("operation"), Column("energy, pJ", ".4g")),
        list(first.operation_pj.items()),
        f"Operations at {known[0].energy_nj.bits} bit",
    )
    priced = Table(
        tuple(map(Column, ("run", "priced as", "fan-out", "graded event"))),
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
    rest = Table(tuple(map(Column, ("kind", "assumption"))), lines, "Choices, and what is left out")
    return Content(
        [
            "Energies are computed from measured activity, not measured on a chip."
            " They compare networks under one set of assumptions; they predict no device."
        ],
        tables=[priced, operations, constants, rest],
    )
