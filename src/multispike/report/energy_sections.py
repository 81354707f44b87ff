"""Sections of a report on energy: categories, layers, twins, and the assumptions."""

from __future__ import annotations

from dataclasses import replace

from multispike.energy.count import Choices
from multispike.energy.pricing import Energy
from multispike.energy.profiles import list_profiles
from multispike.energy.twins import TWINS, price_run
from multispike.report.comparison import (
    MEANING,
    MICRO,
    Comparison,
    alternatives,
    energy_uj,
    twins_uj,
    verdict,
)
from multispike.report.document import (
    Column,
    Key,
    Plot,
    Section,
    Table,
    number,
    short_name,
    table_of,
)
from multispike.report.plots import bars, layer_bars
from multispike.report.style import BASELINE_COLOURS, CATEGORIES
from multispike.results import RunResult

_PARTS = {f"{name}, µJ": light for name, _, (light, _) in CATEGORIES.values()}
"""Columns of a table of categories -> colours of a plot of it."""
_KEYS = [Key(name, light) for name, _, (light, _) in CATEGORIES.values()]
_SPLIT = tuple(Column(title, ",.3f") for title in ("total, µJ", *_PARTS))


def _split(energy: Energy) -> tuple[float, ...]:
    return tuple(MICRO * getattr(energy, key) for key in ("total", *CATEGORIES))


def by_category(data: Comparison) -> Section:
    """Energy of every run, stacked by category, and its operations as other work counts them."""
    rows = [(run.name, *_split(run.energy_nj)) for run in data.runs]
    sentences = []
    for run in data.runs:
        largest = max(CATEGORIES, key=lambda key: getattr(run.energy_nj, key))
        share = getattr(run.energy_nj, largest) / max(run.energy_nj.total, 1e-300)
        sentences.append(f"{run.name}: {CATEGORIES[largest].name} are {share:.0%}")
    table = Table((Column("run"), *_SPLIT), rows, "Energy per inference by category")
    plot = Plot(
        "Energy per inference by category, µJ",
        f"The largest part of each: {'; '.join(sentences)}.",
        table,
        {"": bars(table, _PARTS, "energy per inference, µJ")},
        _KEYS,
    )
    synops = table_of(
        data.runs,
        "Synaptic operations per inference in NeuroBench's convention",
        ("run", "", lambda run: run.name),
        ("effective ACs", ",.0f", lambda run: run.synops.effective_acs),
        ("effective MACs", ",.0f", lambda run: run.synops.effective_macs),
        ("dense operations", ",.0f", lambda run: run.synops.dense),
    )
    return Section("Energy by category", plots=[plot], tables=[synops])


def by_layer(data: Comparison) -> Section:
    """A panel a run: energy of every layer, stacked by category, all on one scale."""
    rows, tops = [], []
    for run in data.runs:
        rows += [(run.name, one.name, one.kind, *_split(one.energy_nj)) for one in run.layers]
        top = max(run.layers, key=lambda layer: layer.energy_nj.total)
        share = top.energy_nj.total / max(run.energy_nj.total, 1e-300)
        tops.append(f"{run.name}: {short_name(top.name)}, {share:.0%}")
    title = "Energy per layer, µJ"
    columns = (*map(Column, ("run", "layer", "kind")), *_SPLIT)
    summary = f"All panels have one scale. The layer that needs most: {'; '.join(tops)}."
    table = Table(columns, rows, title)
    panels = layer_bars(table, _PARTS, "energy, µJ")
    return Section("Energy by layer", plots=[Plot(title, summary, table, panels, _KEYS)])


def twins(data: Comparison) -> Section | None:
    """Every spiking run beside ANNs of its own shape, and what that turns on."""
    runs = data.priced
    if not runs:
        return None
    grey = [BASELINE_COLOURS[key][0] for key in TWINS]
    prices = table_of(
        runs,
        "Energy per inference as an SNN and as ANNs of the same shape",
        ("run", "", lambda run: run.name),
        ("SNN, µJ", ",.3f", energy_uj),
        *(
            (f"{name}, µJ", ",.3f", lambda run, key=key: twins_uj(run)[key])
            for key, name in TWINS.items()
        ),
    )
    best = []
    for run in runs:
        own, skipping = energy_uj(run), twins_uj(run)["qann_skip"]
        best.append(f"{run.name} {number(own)} µJ, zero-skipping ANN {number(skipping)} µJ")
    snns = [Key(run.name, data.marks[run.name].colour) for run in runs]
    titles = [column.title for column in prices.columns[1:]]
    colours = dict(zip(titles, [[key.colour for key in snns], *grey], strict=True))
    plot = Plot(
        "Energy as an SNN and as ANNs of the same shape, µJ",
        f"{'; '.join(best)}.",
        prices,
        {"": bars(prices, colours, "energy per inference, µJ", grouped=True)},
        [*snns, *map(Key, TWINS.values(), grey)],
    )
    crossover = table_of(
        runs,
        "The SNN needs less energy than an ANN of its shape, by kind of ANN",
        ("run", "", lambda run: run.name),
        ("mean density", ".3f", lambda run: run.density),
        ("same cost at density", ".3f", lambda run: run.even_density),
        *((name, "", lambda run, key=key: run.crossover[key].where) for key, name in TWINS.items()),
    )
    return Section(
        "Against ANNs",
        [
            "The energy model prices the same layers as an ANN too, evaluated once (of event data,"
            " on all events in one frame): dense at full width, dense with activations quantised"
            " to ⌈log2(N·T+1)⌉ bits, and quantised with zeros skipped, from the zeros that were"
            " measured. At T = 1 the last computes exactly what the SNN does.",
        ],
        [plot],
        [crossover, *_turning_points(data)],
        points=[
            *(f"{run.name}: {verdict(run)}." for run in runs),
            f"{MEANING[0].upper()}{MEANING[1:]}.",
        ],
    )


def _turning_points(data: Comparison) -> list[Table]:
    """How the verdict turns on profile and execution, for every run that can be priced again."""

    def priced(run: RunResult) -> Table:
        used = run.assumptions
        assert run.records is not None
        assert used is not None
        choices: Choices = {"fanout": used.fanout, "graded_op": used.graded_op}
        again = price_run(run.records, bits=run.energy_nj.bits, profiles=list_profiles(), **choices)
        return alternatives(replace(run, energy_nj_profiles=again.energy_nj_profiles))

    hardest, every = {}, []
    for group in data.groups:
        if group.mean not in data.priced or not (group.mean.records and group.mean.assumptions):
            continue
        table = group.of(priced)
        hardest[group.name] = {row[0]: row[-1] for row in table.rows}
        caption = f"{group.name} by profile and execution, and all of its ANNs in times of it"
        every.append(replace(table, caption=caption, folded=True))
    if not every:
        return []
    return [
        table_of(
            hardest.items(),
            "What the verdict turns on: the zero-skipping quantised ANN in times of the SNN (above"
            " 1 the SNN needs less), by energy profile and execution of a graded event",
            ("run", "", lambda item: item[0]),
            *(
                (way, ".2f", lambda item, way=way: item[1].get(way))
                for way in next(iter(hardest.values()))
            ),
        ),
        *every,
    ]


def assumptions(data: Comparison) -> Section | None:
    """Constants with their sources, choices, and what is left out."""
    known = [(run, run.assumptions) for run in data.runs if run.assumptions]
    if not known:
        return None
    run, first = known[0]
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
        f"Operations at {run.energy_nj.bits} bit",
    )
    priced = table_of(
        known,
        "How each run is priced; a graded event is executed as a MAC, as z additions (repeat), as z"
        " binary events (unroll) or as ⌈log2(N+1)⌉ shifted additions (bits)",
        ("run", "", lambda item: item[0].name),
        ("priced as", "", lambda item: item[1].network),
        ("fan-out", "", lambda item: item[1].fanout),
        ("graded event", "", lambda item: item[1].graded_op),
    )
    left_out = [("chosen", choice) for choice in first.choices]
    left_out += [("not modelled", gap) for gap in first.not_modelled]
    left_out += [(f"not counted in {run.name}", gap) for run, _ in known for gap in run.not_counted]
    rest = Table(
        tuple(map(Column, ("kind", "assumption"))), left_out, "Choices, and what is left out"
    )
    return Section(
        "Assumptions",
        [
            "Energies are computed from measured activity, not measured on a chip."
            " They compare networks under one set of assumptions; they predict no device."
        ],
        tables=[priced, operations, constants, rest],
    )
