"""Results as tables of the terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table


def comparison_table(runs: list[dict[str, Any]]) -> Table:
    """One row a run: accuracy, activity, energy, speed. Fits 80 columns."""
    first = runs[0]
    energy = first["energy_nj"]
    decimals = 1 if max(run["energy_nj"]["total"] for run in runs) < 1e6 else 0
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=f"{first['arch']} on {first['data']}, {energy['profile']} {energy['bits']} bit",
        caption="events, density and energy per inference; density is per neuron and timestep",
    )
    table.add_column("variant", no_wrap=True)
    for column in ("accuracy", "events", "density", "energy µJ", "s/epoch", "images/s"):
        table.add_column(column, justify="right")
    for run in runs:
        table.add_row(
            run["name"],
            f"{run['accuracy']:.4f}",
            "-" if run["neuron"] == "relu" else f"{run['events_per_inference']:,.0f}",
            f"{run['density']:.3f}",
            f"{run['energy_nj']['total'] / 1e3:,.{decimals}f}",
            f"{run['train_seconds'] / run['epochs']:.1f}",
            f"{run['images_per_second']:,.0f}",
        )
    return table


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


def energy_table(priced: dict[str, Any]) -> Table:
    """One row a layer, one column a category, µJ per inference, as `profiling.prices` gives it."""
    energy = priced["energy_nj"]
    decimals = 1 if energy["total"] < 1e6 else 0
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=f"µJ per inference, {energy['profile']}, {energy['bits']} bit",
        show_footer=True,
    )
    table.add_column("layer", "total", no_wrap=True)
    table.add_column("events", justify="right")
    for category, heading in CATEGORIES.items():
        table.add_column(heading, f"{energy[category] / 1e3:,.{decimals}f}", justify="right")
    for layer in priced["layers"]:
        parts = layer["energy_nj"]
        table.add_row(
            short_name(layer["name"]),
            f"{layer['events_in']:,.0f}",
            *(f"{parts[category] / 1e3:,.{decimals}f}" for category in CATEGORIES),
        )
    return table


def short_name(layer: str) -> str:
    """A layer's name without what every name repeats.

    >>> short_name("body.stage2_block1.path.conv1"), short_name("body.conv3")
    ('s2b1.conv1', 'conv3')
    """
    for long, short in _SHORT.items():
        layer = layer.replace(long, short)
    return layer


_SHORT = {
    "body.": "",
    "classifier.": "",
    ".path.": ".",
    ".shortcut.conv0": ".down",
    "stage": "s",
    "_block": "b",
}


def energy_notes(priced: dict[str, Any], density: float | None) -> list[str]:
    """Baselines, crossings and assumptions, a line each."""
    assumptions, total = priced["assumptions"], priced["energy_nj"]["total"]
    names = {
        "ann": "the dense ANN",
        "qann": "the quantised ANN",
        "qann_skip": "the zero-skipping quantised ANN",
    }
    lines = []
    for key, twin in priced.get("baselines", {}).items():
        lines.append(
            f"{names[key]}: {twin['total'] / 1e3:,.1f} µJ, {twin['total'] / total:.2f} times the"
            f" SNN; {priced['crossover'][key]['verdict']}"
        )
    source = "measured" if density is None else f"assumed, {density:g} per neuron and timestep"
    lines.append(
        f"events: {source}; fan-out: {assumptions['fanout']}; graded event:"
        f" {assumptions['graded_op']}; --json lists every constant with its source"
    )
    lines += [f"not counted: {line}" for line in priced["not_counted"]]
    return lines
