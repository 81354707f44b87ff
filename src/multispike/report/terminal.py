"""Results as tables of the terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from multispike.energy.twins import TWINS
from multispike.report.crossover import MEANING, crossings, verdict
from multispike.report.document import short_name


def comparison_table(runs: list[dict[str, Any]]) -> Table:
    """One row a run: accuracy, activity, energy, speed. Fits 80 columns."""
    first = runs[0]
    energy = first["energy_nj"]
    archs = ", ".join(dict.fromkeys(run["arch"] for run in runs))
    samples = ", ".join(dict.fromkeys(f"{run['samples']:,}" for run in runs if "samples" in run))
    most = max(run["energy_nj"]["total"] for run in runs)
    unit, size = scale(most)
    decimals = 1 if most < 1e3 * size else 0
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title=f"{archs} on {first['data']}{f' (n = {samples})' if samples else ''},"
        f" {energy['profile']} {energy['bits']} bit",
        caption="events and energy per inference; density per neuron and timestep",
    )
    table.add_column("variant", overflow="fold")
    for column in ("accuracy", "events", "density", f"energy {unit}", "s/epoch", "images/s"):
        table.add_column(column, justify="right", no_wrap=True)
    for run in runs:
        table.add_row(
            run["name"],
            f"{run['accuracy']:.4f}",
            "-" if run["neuron"] == "relu" else f"{run['events_per_inference']:,.0f}",
            f"{run['density']:.3f}",
            f"{run['energy_nj']['total'] / size:,.{decimals}f}",
            f"{run['train_seconds'] / run['epochs']:.1f}",
            f"{run['images_per_second']:,.0f}",
        )
    return table


def scale(nj: float) -> tuple[str, float]:
    """The unit in which energies up to this many nJ are shown, and how many nJ it has.

    >>> scale(125_019e3), scale(14e9)
    (('µJ', 1000.0), ('mJ', 1000000.0))
    """
    return ("µJ", 1e3) if nj < 1e9 else ("mJ", 1e6)


def _layer_scale(nj: float) -> tuple[str, float]:
    """The same for the layers of a network: of less than 100 µJ, many need less than 0.1 µJ."""
    return ("nJ", 1.0) if nj < 1e5 else scale(nj)


CATEGORIES = {
    "ops": "ops",
    "addressing": "addr",
    "weights": "weights",
    "potentials": "potent.",
    "bias": "bias",
    "io": "io",
    "total": "total",
}
"""Key of an energy -> heading that leaves room for eight columns of numbers."""


def energy_table(priced: dict[str, Any], name: str) -> Table:
    """One row a layer, one column a category, per inference, as `RunPrices.to_json` gives it."""
    energy = priced["energy_nj"]
    unit, size = _layer_scale(energy["total"])
    decimals = 1 if energy["total"] < 1e3 * size else 0
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title=f"{name}: {unit} per inference, {energy['profile']} {energy['bits']} bit",
        show_footer=True,
    )

    def cells(parts: dict[str, float]) -> list[str]:
        return [f"{parts[key] / size:,.{decimals}f}" if parts[key] else "-" for key in CATEGORIES]

    table.add_column("layer", "total", overflow="fold")
    events = "events" if "baselines" in priced else "non-zero"
    table.add_column(events, justify="right", no_wrap=True)
    for heading, total in zip(CATEGORIES.values(), cells(energy), strict=True):
        table.add_column(heading, total, justify="right", no_wrap=True)
    for layer in priced["layers"]:
        table.add_row(
            short_name(layer["name"]), f"{layer['events_in']:,.0f}", *cells(layer["energy_nj"])
        )
    return table


def crossover_table(priced: dict[str, Any]) -> Table:
    """The same layers as ANNs: their energy, and below which density the SNN needs less."""
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title="Against the same layers run as an ANN"
    )
    table.add_column("ANN", no_wrap=True)
    unit, size = _layer_scale(max(priced["baselines"][key]["total"] for key in TWINS))
    table.add_column(unit, justify="right", no_wrap=True)
    table.add_column("times SNN", justify="right", no_wrap=True)
    table.add_column("the SNN needs less energy")
    total = priced["energy_nj"]["total"]
    for key, where in crossings(priced).items():
        nj = priced["baselines"][key]["total"]
        ratio = f"{nj / total:.2f}" if total else "-"
        table.add_row(TWINS[key], f"{nj / size:,.1f}", ratio, where)
    return table


def energy_notes(priced: dict[str, Any], name: str) -> list[str]:
    """The verdict and what it rests on, a line each; of `priced` as `multispike energy` has it."""
    assumptions, lines = priced["assumptions"], []
    if "baselines" in priced:
        if priced["assumed_density"] is None:
            source = f"measured on {priced['data']} (n = {priced['samples']:,})"
        else:
            source = f"assumed, density {priced['assumed_density']:g}"
        lines += [
            f"{name}: {verdict(priced)}",
            MEANING,
            f"events: {source}; fan-out: {assumptions['fanout']}; graded event:"
            f" {assumptions['graded_op']}",
        ]
    else:
        lines.append("a dense ANN: what it costs does not depend on its activations")
    lines.append("--json lists every count, and every constant with its source")
    return lines + [f"not counted: {line}" for line in priced["not_counted"]]
