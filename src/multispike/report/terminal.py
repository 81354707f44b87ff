"""Results as tables of the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from multispike.energy.pricing import Energy
from multispike.energy.twins import TWINS, RunPrices
from multispike.report.document import short_name
from multispike.report.wording import MEANING, verdict
from multispike.results import RunResult


def comparison_table(runs: Sequence[RunResult]) -> Table:
    """One row a run: accuracy, activity, energy, speed. Fits 80 columns."""
    first = runs[0]
    energy = first.energy_nj
    archs = ", ".join(dict.fromkeys(run.arch for run in runs))
    samples = ", ".join(dict.fromkeys(f"{run.samples:,}" for run in runs if run.samples))
    most = max(run.energy_nj.total for run in runs)
    unit, size = scale(most)
    decimals = 1 if most < 1e3 * size else 0
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title=f"{archs} on {first.data}{f' (n = {samples})' if samples else ''},"
        f" {energy.profile} {energy.bits} bit",
        caption="events and energy per inference; density per neuron and timestep",
    )
    table.add_column("variant", overflow="fold")
    for column in ("accuracy", "events", "density", f"energy {unit}", "s/epoch", "images/s"):
        table.add_column(column, justify="right", no_wrap=True)
    for run in runs:
        table.add_row(
            run.name,
            f"{run.accuracy:.4f}",
            f"{run.events_per_inference:,.0f}" if run.spiking else "-",
            f"{run.density:.3f}",
            f"{run.energy_nj.total / size:,.{decimals}f}",
            f"{run.train_seconds / run.epochs:.1f}",
            f"{run.images_per_second:,.0f}",
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
"""Attribute of an energy -> heading that leaves room for eight columns of numbers."""


def energy_table(prices: RunPrices, name: str) -> Table:
    """One row a layer, one column a category, per inference."""
    energy = prices.energy_nj
    unit, size = _layer_scale(energy.total)
    decimals = 1 if energy.total < 1e3 * size else 0
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title=f"{name}: {unit} per inference, {energy.profile} {energy.bits} bit",
        show_footer=True,
    )

    def cells(parts: Energy) -> list[str]:
        values = (getattr(parts, key) for key in CATEGORIES)
        return [f"{value / size:,.{decimals}f}" if value else "-" for value in values]

    table.add_column("layer", "total", overflow="fold")
    events = "events" if prices.baselines else "non-zero"
    table.add_column(events, justify="right", no_wrap=True)
    for heading, total in zip(CATEGORIES.values(), cells(energy), strict=True):
        table.add_column(heading, total, justify="right", no_wrap=True)
    for layer in prices.layers:
        table.add_row(short_name(layer.name), f"{layer.events_in:,.0f}", *cells(layer.energy_nj))
    return table


def twins_table(prices: RunPrices) -> Table:
    """The same layers as ANNs: their energy, and below which density the SNN needs less."""
    assert prices.baselines is not None
    assert prices.crossover is not None
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title="Against the same layers run as an ANN"
    )
    unit, size = _layer_scale(max(twin.total for twin in prices.baselines.values()))
    table.add_column("ANN", no_wrap=True)
    table.add_column(unit, justify="right", no_wrap=True)
    table.add_column("times SNN", justify="right", no_wrap=True)
    table.add_column("the SNN needs less energy")
    total = prices.total_nj
    for key, crossover in prices.crossover.items():
        nj = prices.baselines[key].total
        ratio = f"{nj / total:.2f}" if total else "-"
        table.add_row(TWINS[key], f"{nj / size:,.1f}", ratio, crossover.where)
    return table


def energy_notes(prices: RunPrices, name: str, events: str) -> list[str]:
    """The verdict and what it rests on, a line each; `events`: where the events come from."""
    lines = ["a dense ANN: what it costs does not depend on its activations"]
    if prices.baselines and (own := prices.assumptions):
        lines = [
            f"{name}: {verdict(prices)}",
            MEANING,
            f"events: {events}; fan-out: {own.fanout}; graded event: {own.graded_op}",
        ]
    lines.append("--json lists every count, and every constant with its source")
    return lines + [f"not counted: {line}" for line in prices.not_counted]
