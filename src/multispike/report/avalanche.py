"""What piles up along depth: density and avalanche of compared runs, and of the avalanche study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from multispike.activity.avalanche import (
    BRANCHES,
    TITLES,
    Avalanche,
    Branch,
    Site,
    growth,
    piles_up,
)
from multispike.models.table import FAMILIES
from multispike.report.comparison import Comparison
from multispike.report.document import Content, Plot, Section, Table, number, table_of
from multispike.report.plots import ByPlace, Lines, along_depth
from multispike.report.style import Mark, blank, legend_below, marks, save
from multispike.results import RunResult, SpikeLayer

# --- compared runs ------------------------------------------------------------------------------


def density(data: Comparison) -> Content:
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
    return Content(legend=data.legend(data.runs), plots=[plot])


_BRANCHES = {"direct": "direct path", "shortcut": "shortcut", "total": "sum"}
"""Attribute of a residual sum, in the order they are drawn."""

_AMOUNTS: tuple[tuple[str, str, str, Callable[[SpikeLayer], float]], ...] = (
    ("Density", "events per neuron and timestep", ".4f", lambda row: row.density),
    ("Amplitude", "Σz per neuron and inference", ",.3f", lambda row: row.amplitude / row.neurons),
    ("Largest level", "largest z", ",d", lambda row: row.max_level),
)
"""Name, axis, format, and how spikes at a sum give it."""


def avalanche(data: Comparison) -> Content:
    """Density, amplitude and largest level on both ways into every residual sum."""
    if not any(run.sums for run in data.runs):
        text = (
            "This architecture has no residual sum, so nothing can pile up along a shortcut and"
            " there is no avalanche to show. “multispike avalanche” studies residual networks."
        )
        return Content([text])
    runs = [run for run in data.spiking if any(_spikes(run, branch) for branch in _BRANCHES)]
    if not runs:
        text = (
            "Full-precision potentials meet at this architecture's residual sums, not spikes:"
            " there is no level z that could grow."
        )
        return Content([text])
    plots = []
    for branch, where in _BRANCHES.items():
        for name, axis, spec, amount in _AMOUNTS:
            values: dict[str, ByPlace] = {
                run.name: {place: amount(row) for place, row in _spikes(run, branch).items()}
                for run in runs
            }
            ends = [
                f"{run} {next(iter(own.values())):{spec}} to {list(own.values())[-1]:{spec}}"
                for run, own in values.items()
                if own
            ]
            if ends:
                summary = f"First to last sum: {'; '.join(ends)}."
                title = f"{name}, {where}"
                plots.append(along_depth(data.marks, values, title, axis, spec, summary))
    return Content(
        [
            "At every residual sum: what the block computed (direct path), what bypassed it"
            " (shortcut), and their sum before a barrier, where there is one. Only spikes have a"
            " level; ways that carry potentials are left out."
        ],
        data.legend(runs),
        plots,
        plot_width=340,
    )


def _spikes(run: RunResult, branch: str) -> dict[str, SpikeLayer]:
    """What a branch carries at every residual sum of a run, as far as it is spikes."""
    at = {total.name.removesuffix(".merge"): getattr(total, branch) for total in run.sums}
    return {place: row for place, row in at.items() if isinstance(row, SpikeLayer)}


# --- the study ----------------------------------------------------------------------------------

_QUANTITIES = (
    ("density", "density", "share of elements not zero", ".3f"),
    ("per_neuron", "amplitude", "Σz per neuron and inference", ",.3f"),
    ("largest", "largest level", "largest z", ",.1f"),
)
"""Attribute of a site, name, axis, format."""


def study_sections(studies: Sequence[Avalanche]) -> list[Section]:
    """What was found, then every quantity and branch along depth, then all numbers."""
    legend = [mark.key() for mark in drawn_as(studies).values()]
    return [
        Section("laws", "Growth and bounds", _laws(studies)),
        *(
            Section(
                name.replace(" ", "-"),
                f"{name.capitalize()} along depth",
                Content(legend=legend, plots=by_branch(studies, attribute), plot_width=340),
            )
            for attribute, name, *_ in _QUANTITIES
        ),
        Section("numbers", "All numbers", Content(tables=[_numbers(study) for study in studies])),
    ]


def study_png(path: Path, studies: Sequence[Avalanche]) -> None:
    """The same plots as a grid for a paper: quantities down, branches across."""
    figure = blank(11, 8.5)
    grid = figure.subplots(len(_QUANTITIES), len(BRANCHES), sharex=True, sharey="row")
    for panels, (attribute, _, axis, _) in zip(grid, _QUANTITIES, strict=True):
        for panel, plot in zip(panels, by_branch(studies, attribute), strict=True):
            assert isinstance(plot.drawn, Lines)
            plot.drawn.panel(panel, plot.table)
        panels[0].set_ylabel(axis)
        panels[0].set_ylim(bottom=0)  # of the whole row, once all of it is drawn
    for first, last, branch in zip(grid[0], grid[-1], BRANCHES, strict=True):
        first.set_title(TITLES[branch])
        last.set_xlabel("block (stage.number)")
        last.tick_params(axis="x", rotation=90)
    legend_below(figure)
    save(figure, path, dpi=150)


def by_branch(studies: Sequence[Avalanche], attribute: str) -> list[Plot]:
    """One quantity along depth, one plot a branch."""
    [(name, axis, spec)] = [rest for key, *rest in _QUANTITIES if key == attribute]
    drawn, plots = drawn_as(studies), []
    for branch in BRANCHES:
        values = {
            study.title: {site.place: _value(site, attribute) for site in study.along(branch)}
            for study in studies
        }
        last = {n: end for n, own in values.items() if (end := list(own.values())[-1]) is not None}
        summary = "No network sends spikes here."
        if last:
            low, high = min(last, key=last.__getitem__), max(last, key=last.__getitem__)
            least, most = format(last[low], spec), format(last[high], spec)
            summary = f"In the last block: least {least} ({low}), most {most} ({high})."
        title = f"{name.capitalize()}, {TITLES[branch]}"
        bounds = _bounds(studies, branch) if attribute == "largest" else {}
        plots.append(along_depth(drawn, values, title, axis, spec, summary, bounds))
    return plots


def _value(site: Site, attribute: str) -> float | None:
    """What is drawn: potentials have a density, but no level."""
    return getattr(site, attribute) if site.spikes or attribute == "density" else None


def _bounds(studies: Sequence[Avalanche], branch: Branch) -> dict[str, ByPlace]:
    """The bounds of z along depth that there are, by what they say, each once."""
    found: dict[str, ByPlace] = {}
    for study in studies:
        bounds: ByPlace = {s.place: s.bound for s in study.along(branch) if s.bound is not None}
        law = "(k+1)·N, " if branch == "out" else "k·N, "
        if bounds:
            rises = len({*bounds.values()}) > 1
            found.setdefault(f"{law if rises else ''}N = {study.levels}", bounds)
    return found


def _laws(studies: Sequence[Avalanche]) -> Content:
    """The bounds by construction against what was measured."""
    points = []
    for study in studies:
        peak = max(study.along("out"), key=lambda site: site.largest)
        strongest = max(factor for _, factor in growth(study))
        unit = "" if peak.spikes else ", in levels of a potential"
        points.append(
            f"{study.title}: largest value {number(peak.largest)}{unit} ({peak.block});"
            f" {_law(study)}; amplitude grows at most {strongest:.2f} times within a stage."
        )

    def even(row: tuple[Avalanche, Site, float]) -> float | None:
        return (row[1].index + 1) / 2 if piles_up(FAMILIES[row[0].family]) else None

    table = table_of(
        [(study, last, factor) for study in studies for last, factor in growth(study)],
        "Output of the last block of each stage, the k-th; growth: its Σz per neuron against"
        " that of the stage's first block",
        ("network", "", lambda row: row[0].title),
        ("stage", "d", lambda row: row[1].stage),
        ("k", "d", lambda row: row[1].index),
        ("max z", ",.1f", lambda row: row[1].largest),
        ("bound", ",d", lambda row: row[1].bound),
        ("Σz per neuron", ",.3f", lambda row: row[1].per_neuron),
        ("growth in the stage", ".2f", lambda row: row[2]),
        (
            "(k+1)/2",
            ".2f",
            even,
        ),
    )
    text = (
        "A SEW block with ADD sends what it received plus up to N, so after k blocks of a stage a"
        " value can reach (k+1)·N; if all paths carry the same amplitude, Σz is then (k+1)/2 times"
        " that of the first block. A Sparse block ends in a barrier: never more than N. Where"
        " potentials cross instead of spikes there is no level z; the tables give |v|/(V_th/N)."
    )
    return Content([text], points=points, tables=[table])


def _law(study: Avalanche) -> str:
    """The bound of a family in words, and whether it held."""
    bounded = [site for site in study.along("out") if site.bound is not None]
    if not bounded:
        return "potentials cross the shortcut, without a bound"
    text = "bound (k+1)·N" if piles_up(FAMILIES[study.family]) else f"bound N = {study.levels}"
    held = all(site.largest <= (site.bound or 0) for site in bounded)
    return f"{text} {'held' if held else 'BROKEN'} in every block"


def _numbers(study: Avalanche) -> Table:
    return table_of(
        study.sites,
        study.title,
        ("block", "", lambda site: site.block),
        ("branch", "", lambda site: TITLES[site.branch]),
        ("carries", "", lambda site: "spikes" if site.spikes else "potentials"),
        ("density", ".4f", lambda site: site.density),
        ("Σz per inference", ",.1f", lambda site: site.amplitude),
        ("Σz per neuron", ",.4f", lambda site: site.per_neuron),
        ("max z", ",.2f", lambda site: site.largest),
        ("bound", ",d", lambda site: site.bound),
        folded=True,
    )


_LOOK = {
    (False, False): ("circle", "dot"),
    (False, True): ("square", "dash"),
    (True, False): ("diamond", "longdash"),
    (True, True): ("triangle-up", "solid"),
}
"""By whether a network is trained and graded: its symbol and dash."""


def drawn_as(studies: Sequence[Avalanche]) -> dict[str, Mark]:
    """A mark for every network: colour by architecture, symbol and dash by code and training."""
    colours = marks(list(dict.fromkeys(study.arch for study in studies)))
    return {
        study.title: Mark(
            study.title, colours[study.arch].colour, *_LOOK[study.trained, study.levels > 1]
        )
        for study in studies
    }
