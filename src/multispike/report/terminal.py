"""Results as tables of the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table as TerminalTable

from multispike.activity.avalanche import BRANCHES, TITLES, Avalanche, growth
from multispike.energy.pricing import Energy
from multispike.energy.twins import TWINS, RunPrices
from multispike.report.comparison import MEANING, verdict
from multispike.report.document import Cell, Column, Table, short_name, table_of, terminal_table
from multispike.report.seeds import count, grouped
from multispike.report.style import CATEGORIES
from multispike.results import RunResult


def scale(nj: float, *, layers: bool = False) -> tuple[str, float, str]:
    """The unit for energies up to this many nJ, how many nJ it has, and the format of numbers.

    With `layers` small ones come in nJ: of a network of less than 100 µJ, many layers need less
    than 0.1 µJ.

    >>> scale(125_019e3), scale(14e9), scale(9e4, layers=True)
    (('µJ', 1000.0, ',.0f'), ('mJ', 1000000.0, ',.0f'), ('nJ', 1.0, ',.0f'))
    """
    unit, size = ("µJ", 1e3) if nj < 1e9 else ("mJ", 1e6)
    if layers and nj < 1e5:
        unit, size = "nJ", 1.0
    return unit, size, ",.1f" if nj < 1e3 * size else ",.0f"


def comparison_table(runs: Sequence[RunResult]) -> TerminalTable:
    """One row a run: accuracy, activity, energy, speed; or one a group of seeds, without speed.
    Fits 80 columns."""
    means, energy = [group.mean for group in grouped(runs)], runs[0].energy_nj
    several = len(means) < len(runs)
    archs = ", ".join(dict.fromkeys(run.arch for run in runs))
    samples = ", ".join(dict.fromkeys(f"{run.samples:,}" for run in runs if run.samples))
    tested = f" (n = {samples})" if samples else ""
    unit, size, spec = scale(max(run.energy_nj.total for run in runs))
    meaning = "events and energy per inference; density per neuron and timestep"
    speed = (
        ("s/epoch", ".1f", lambda run: run.train_seconds / run.epochs),
        ("images/s", ",.0f", lambda run: run.images_per_second),
    )
    table = table_of(
        means,
        f"{meaning}; mean±sample standard deviation of n seeds" if several else meaning,
        ("variant", "", lambda run: run.name),
        *([("n", "d", count)] if several else []),
        ("accuracy", ".4f", lambda run: run.accuracy),
        ("events", ",.0f", lambda run: run.events_per_inference if run.spiking else None),
        ("density", ".3f", lambda run: run.density),
        (f"energy {unit}", spec, lambda run: run.energy_nj.total / size),
        *(() if several else speed),
    )
    title = f"{archs} on {runs[0].data}{tested}, {energy.profile} {energy.bits} bit"
    return terminal_table(table, title, narrow=True)


def energy_table(prices: RunPrices, name: str) -> TerminalTable:
    """One row a layer, one column a category, per inference."""
    energy = prices.energy_nj
    unit, size, spec = scale(energy.total, layers=True)

    def parts(own: Energy) -> list[Cell]:
        return [getattr(own, key) / size or None for key in (*CATEGORIES, "total")]

    headings = [*(category.heading for category in CATEGORIES.values()), "total"]
    columns = [Column("layer"), Column("events" if prices.baselines else "non-zero", ",.0f")]
    columns += [Column(heading, spec) for heading in headings]
    rows = [(short_name(one.name), one.events_in, *parts(one.energy_nj)) for one in prices.layers]
    table = Table(tuple(columns), rows, "")
    title = f"{name}: {unit} per inference, {energy.profile} {energy.bits} bit"
    return terminal_table(table, title, footer=["total", "", *parts(energy)], narrow=True)


def networks_table(networks: Sequence[tuple[str, RunPrices]]) -> TerminalTable:
    """Networks side by side, one row each, and how many times the first one's energy it needs."""
    own = networks[0][1].energy_nj
    unit, size, spec = scale(max(prices.total_nj for _, prices in networks), layers=True)
    parts = [(key, category.heading) for key, category in CATEGORIES.items()]
    table = table_of(
        networks,
        "",
        ("network", "", lambda item: item[0]),
        *(
            (heading, spec, lambda item, key=key: getattr(item[1].energy_nj, key) / size or None)
            for key, heading in (*parts, ("total", "total"))
        ),
        ("times", ".2f", lambda item: item[1].total_nj / own.total if own.total else None),
    )
    title = f"{unit} per inference, {own.profile} {own.bits} bit"
    return terminal_table(table, title, narrow=True)


def twins_table(prices: RunPrices) -> TerminalTable:
    """The same layers as ANNs: their energy, and below which density the SNN needs less."""
    assert prices.baselines is not None
    assert prices.crossover is not None
    twins, own = prices.baselines, prices.total_nj
    unit, size, _ = scale(max(twin.total for twin in twins.values()), layers=True)
    table = table_of(
        prices.crossover.items(),
        "",
        ("ANN", "", lambda item: TWINS[item[0]]),
        (unit, ",.1f", lambda item: twins[item[0]].total / size),
        ("times SNN", ".2f", lambda item: twins[item[0]].total / own if own else None),
        ("the SNN needs less energy", "", lambda item: item[1].where),
    )
    return terminal_table(table, "Against the same layers run as an ANN")


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


def avalanche_table(studies: Sequence[Avalanche]) -> TerminalTable:
    """By network and stage, what meets in the stage's last block, and what that sends on."""
    rows: list[Sequence[Cell]] = []
    for study in studies:
        rows.append([study.title])
        for last, factor in growth(study):
            for branch in BRANCHES:
                [site] = [site for site in study.along(branch) if site.block == last.block]
                near = "" if site.spikes else "~"
                path = f"  {last.stage if branch == 'direct' else ' '} {TITLES[branch]}"
                sent = (f"{near}{site.per_neuron:.3f}", f"{near}{site.largest:.4g}", site.bound)
                rows.append((path, site.density, *sent, factor if branch == "out" else ""))
    table = Table(
        (
            Column("network, stage, path"),
            Column("density", ".3f"),
            Column("Σz/neuron", ".3f"),
            Column("max z", ".4g"),
            Column("bound", "d"),
            Column("growth", ".2f"),
        ),
        rows,
        "growth: Σz per neuron, last block against first block of the stage; potentials count as"
        " |v|/(V_th/N), marked ~",
    )
    return terminal_table(table, "Spike avalanche: the last block of each stage")
