"""Sections of a report on what its figures rest on: baselines, assumptions, environment."""

from __future__ import annotations

from collections.abc import Sequence

from multispike.energy.twins import TWINS
from multispike.report.axes import canvas, label
from multispike.report.comparison import MICRO, Comparison
from multispike.report.crossover import MEANING, crossings, verdict
from multispike.report.document import WHOLE_ROW, Column, Content, Json, Key, Plot, Table, number
from multispike.report.style import BASELINE_COLOURS


def baselines(data: Comparison) -> Content:
    """Every spiking run beside ANNs of its own shape, and the densities below which it wins."""
    runs = data.priced
    if not runs:
        return Content(["No spiking run with baselines is in these results."])
    figure = canvas("energy per inference, µJ", "", 130 + 90 * len(runs), bargap=0.3)
    figure.update_layout(barmode="group")
    names = [label(run["name"]) for run in runs]
    figure.add_bar(
        x=[run["energy_nj"]["total"] * MICRO for run in runs],
        y=names,
        orientation="h",
        marker_color=[data.marks[run["name"]].colour for run in runs],
        hovertemplate="%{y}<br>as an SNN: %{x:,.2f} µJ<extra></extra>",
    )
    for key, name in TWINS.items():
        figure.add_bar(
            x=[run["baselines"][key]["total"] * MICRO for run in runs],
            y=names,
            orientation="h",
            marker_color=BASELINE_COLOURS[key][0],
            hovertemplate=f"%{{y}}<br>{name}: %{{x:,.2f}} µJ<extra></extra>",
        )
    figure.update_yaxes(type="category", autorange="reversed")
    table = Table(
        (
            Column("run"),
            Column("SNN, µJ", ",.3f"),
            *(Column(f"{name}, µJ", ",.3f") for name in TWINS.values()),
        ),
        [
            (
                run["name"],
                run["energy_nj"]["total"] * MICRO,
                *(run["baselines"][key]["total"] * MICRO for key in TWINS),
            )
            for run in runs
        ],
        "Energy per inference as an SNN and as ANNs of the same shape",
    )
    best = [
        f"{run['name']} {number(run['energy_nj']['total'] * MICRO)} µJ,"
        f" zero-skipping ANN {number(run['baselines']['qann_skip']['total'] * MICRO)} µJ"
        for run in runs
    ]
    legend = [data.marks[run["name"]].key() for run in runs]
    legend = [Key(key.name, key.colour) for key in legend]
    legend += [Key(name, BASELINE_COLOURS[key][0]) for key, name in TWINS.items()]
    return Content(
        [
            "The energy model prices the same layers as an ANN too, evaluated once (of event data,"
            " on all events in one frame): dense at full width, dense with activations quantised"
            " to ⌈log2(N·T+1)⌉ bits, and quantised with zeros skipped, from the zeros that were"
            " measured. At T = 1 the last computes exactly what the SNN does.",
        ],
        tables=[_crossover(runs)],
        points=[
            *(f"{run['name']}: {verdict(run)}." for run in runs),
            f"{MEANING[0].upper()}{MEANING[1:]}.",
        ],
        legend=legend,
        plots=[
            Plot(
                "Energy as an SNN and as ANNs of the same shape, µJ",
                figure,
                f"{'; '.join(best)}.",
                table,
            )
        ],
        plot_width=WHOLE_ROW,
    )


def _crossover(runs: Sequence[Json]) -> Table:
    return Table(
        (
            Column("run"),
            Column("mean density", ".3f"),
            Column("same cost at density", ".3f"),
            *(Column(name) for name in TWINS.values()),
        ),
        [
            (
                run["name"],
                run["density"],
                run.get("even_density"),
                *(crossings(run)[key] for key in TWINS),
            )
            for run in runs
        ],
        "The SNN needs less energy than an ANN of its shape, by kind of ANN",
    )


def assumptions(data: Comparison) -> Content:
    """Constants with their sources, choices, and what is left out."""
    known = [run for run in data.runs if run.get("assumptions")]
    if not known:
        return Content(["These results hold no assumptions."])
    first = known[0]["assumptions"]
    profile = first["profile"]
    constants = Table(
        (Column("constant"), Column("value", ".4g"), Column("source")),
        [
            (name, constant["value"], constant["source"])
            for name, constant in profile["constants"].items()
        ],
        f"Constants of the profile {profile['name']}",
    )
    operations = Table(
        (Column("operation"), Column("energy, pJ", ".4g")),
        list(first["operation_pj"].items()),
        f"Operations at {known[0]['energy_nj']['bits']} bit",
    )
    settings = Table(
        (Column("run"), Column("priced as"), Column("fan-out"), Column("graded event")),
        [
            (
                run["name"],
                run["assumptions"]["network"],
                run["assumptions"]["fanout"],
                run["assumptions"]["graded_op"],
            )
            for run in known
        ],
        "How each run is priced; a graded event costs a MAC, or z additions (repeat)",
    )
    lines = [("chosen", choice) for choice in first["choices"]]
    lines += [("not modelled", gap) for gap in first["not_modelled"]]
    lines += [
        (f"not counted in {run['name']}", gap)
        for run in known
        for gap in run.get("not_counted", [])
    ]
    rest = Table((Column("kind"), Column("assumption")), lines, "Choices, and what is left out")
    return Content(
        [
            "Energies are computed from measured activity, not measured on a chip."
            " They compare networks under one set of assumptions; they predict no device."
        ],
        tables=[settings, operations, constants, rest],
    )


def environment(data: Comparison) -> Content:
    """Machine and versions of every run."""
    keys = list(dict.fromkeys(key for run in data.runs for key in run["environment"]))
    table = Table(
        (Column("run"), Column("seed"), *(Column(key) for key in keys)),
        [
            (run["name"], str(run["seed"]), *(_text(run["environment"].get(key)) for key in keys))
            for run in data.runs
        ],
        "What each run was trained and measured with",
    )
    return Content(tables=[table, _settings(data)] if data.settings else [table])


def _settings(data: Comparison) -> Table:
    """Every setting of every run, from its config.yaml."""
    keys = list(dict.fromkeys(key for config in data.settings.values() for key in config))
    return Table(
        (Column("setting"), *(Column(name) for name in data.settings)),
        [(key, *(_text(config.get(key)) for config in data.settings.values())) for key in keys],
        "All settings",
        folded=True,
    )


def _text(value: object) -> str:
    return "–" if value is None else str(value)
