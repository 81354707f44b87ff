"""Results as tables of the terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table


def comparison_table(runs: list[dict[str, Any]]) -> Table:
    """One row a run: accuracy, activity, energy, speed. Fits 80 columns."""
    first = runs[0]
    energy = first["energy_nj"]
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
            f"{run['energy_nj']['total'] / 1e3:,.1f}",
            f"{run['train_seconds'] / run['epochs']:.1f}",
            f"{run['images_per_second']:,.0f}",
        )
    return table
