"""The avalanche study as a terminal table, a figure for a paper and a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table as TerminalTable

from multispike.activity.avalanche import BRANCHES, Avalanche, Branch, Site, growth
from multispike.config.commands import AvalancheConfig
from multispike.environment import environment
from multispike.files import write_json, write_text
from multispike.models.table import FAMILIES
from multispike.report.activity_sections import along_depth as draw
from multispike.report.document import Column, Content, Section, Table, number
from multispike.report.matplotlib_style import blank, legend_below, line, save
from multispike.report.page import render
from multispike.report.style import Mark, marks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TITLES: dict[Branch, str] = {
    "direct": "direct path",
    "shortcut": "shortcut",
    "out": "block output",
}
_QUANTITIES = (
    ("density", "density", "share of elements not zero", "density", ".3f"),
    ("per_neuron", "amplitude", "Σz per neuron and inference", "Σz per neuron", ",.3f"),
    ("largest", "largest level", "largest z", "max z", ",.1f"),
)
"""Attribute of a site, name, axis, column, format."""


def terminal_table(studies: Sequence[Avalanche]) -> TerminalTable:
    """By network and stage, what meets in the stage's last block, and what that sends on."""
    table = TerminalTable(
        title="Spike avalanche: the last block of each stage",
        caption="growth: Σz per neuron, last block against first block of the stage; potentials"
        " count as |v|/(V_th/N), marked ~",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("network, stage, path", overflow="fold")
    for column in ("density", "Σz/neuron", "max z", "bound", "growth"):
        table.add_column(column, justify="right")
    for study in studies:
        table.add_row(f"[bold]{title(study)}[/]")
        for last, factor in growth(study):
            for branch in BRANCHES:
                [site] = [s for s in study.along(branch) if s.block == last.block]
                near = "" if site.spikes else "~"
                table.add_row(
                    f"  {last.stage if branch == BRANCHES[0] else ' '} {_TITLES[branch]}",
                    f"{site.density:.3f}",
                    f"{near}{site.per_neuron:.3f}",
                    f"{near}{site.largest:.4g}",
                    "-" if site.bound is None else str(site.bound),
                    f"{factor:.2f}" if branch == "out" else "",
                )
        table.add_section()
    return table


def title(study: Avalanche) -> str:
    """The network's name, whether it is trained, and by which of several runs."""
    parts = (study.name, "trained" if study.trained else "", study.run)
    return " ".join(part for part in parts if part)


def write_files(folder: Path, studies: Sequence[Avalanche], settings: AvalancheConfig) -> Path:
    """Write avalanche.json, avalanche.png and avalanche.html; gives the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    surroundings = environment()
    write_json(
        folder / "avalanche.json",
        {
            "data": settings.data,
            "seed": settings.seed,
            "networks": [study.to_dict() for study in studies],
            "environment": surroundings,
        },
    )
    write_png(folder / "avalanche.png", studies)
    page = folder / "avalanche.html"
    lead = (
        f"Untrained networks on {settings.data} (random weights, seed {settings.seed}; batch"
        " normalisation with the statistics of real batches), and trained runs on their own data;"
        f" means over at most {settings.limit:,} test samples."
    )
    footer = ", ".join(f"{key} {value}" for key, value in surroundings.items())
    write_text(page, render("The spike avalanche along depth", lead, sections(studies), footer))
    return page


def sections(studies: Sequence[Avalanche]) -> list[Section]:
    """What was found, then every quantity and branch along depth, then all numbers."""
    drawn = drawn_as(studies)
    return [
        Section("laws", "Growth and bounds", _laws(studies)),
        *(
            Section(
                name.replace(" ", "-"),
                f"{name.capitalize()} along depth",
                along_depth(studies, drawn, attribute, name, axis, spec),
            )
            for attribute, name, axis, _, spec in _QUANTITIES
        ),
        Section("numbers", "All numbers", Content(tables=[_numbers(study) for study in studies])),
    ]


def along_depth(
    studies: Sequence[Avalanche],
    drawn: dict[str, Mark],
    attribute: str,
    name: str,
    axis: str,
    spec: str,
) -> Content:
    """One quantity along depth, one plot a branch."""
    plots = []
    for branch in BRANCHES:
        values = {
            title(study): {_place(site): value(site, attribute) for site in study.along(branch)}
            for study in studies
        }
        bounds = _bounds(studies, branch) if attribute == "largest" else {}
        last = {n: end for n, own in values.items() if (end := list(own.values())[-1]) is not None}
        summary = "No network sends spikes here."
        if last:
            low, high = min(last, key=last.__getitem__), max(last, key=last.__getitem__)
            least, most = format(last[low], spec), format(last[high], spec)
            summary = f"In the last block: least {least} ({low}), most {most} ({high})."
        plots.append(
            draw(
                drawn,
                values,
                f"{name.capitalize()}, {_TITLES[branch]}",
                axis,
                spec,
                summary,
                {
                    text: {_place(site): site.bound for site in sites}
                    for text, sites in bounds.items()
                },
            )
        )
    return Content(legend=[mark.key() for mark in drawn.values()], plots=plots, plot_width=340)


def _bounds(studies: Sequence[Avalanche], branch: Branch) -> dict[str, list[Site]]:
    """The bounds of z along depth that there are, by what they say, each once."""
    found: dict[str, list[Site]] = {}
    for study in studies:
        sites = [site for site in study.along(branch) if site.bound is not None]
        law = {"out": "(k+1)·N, "}.get(branch, "k·N, ") if _piles(sites) else ""
        if sites:
            found.setdefault(f"{law}N = {study.levels}", sites)
    return found


def _piles(sites: Sequence[Site]) -> bool:
    """Whether the bound rises with the block."""
    return len({site.bound for site in sites}) > 1


def value(site: Site, attribute: str) -> float | None:
    """What is drawn: potentials have a density, but no level."""
    return getattr(site, attribute) if site.spikes or attribute == "density" else None


def _place(site: Site) -> str:
    """Stage and block as one label."""
    return f"{site.stage}.{site.index}"


def _laws(studies: Sequence[Avalanche]) -> Content:
    """The bounds by construction against what was measured."""
    points = []
    for study in studies:
        outs = study.along("out")
        bounded = [site for site in outs if site.bound is not None]
        held = all(site.largest <= (site.bound or 0) for site in bounded)
        peak = max(outs, key=lambda site: site.largest)
        strongest = max(factor for _, factor in growth(study))
        unit = "" if peak.spikes else ", in levels of a potential"
        points.append(
            f"{title(study)}: largest value {number(peak.largest)}{unit} ({peak.block});"
            f" {_law(study, held)}; amplitude grows at most {strongest:.2f} times within a stage."
        )
    table = Table(
        (
            Column("network"),
            Column("stage", "d"),
            Column("k", "d"),
            Column("max z", ",.1f"),
            Column("bound", ",d"),
            Column("Σz per neuron", ",.3f"),
            Column("growth in the stage", ".2f"),
            Column("(k+1)/2", ".2f"),
        ),
        [row for study in studies for row in _growth_rows(study)],
        "Output of the last block of each stage, the k-th; growth: its Σz per neuron against"
        " that of the stage's first block",
    )
    text = (
        "A SEW block with ADD sends what it received plus up to N, so after k blocks of a stage a"
        " value can reach (k+1)·N; if all paths carry the same amplitude, Σz is then (k+1)/2 times"
        " that of the first block. A Sparse block ends in a barrier: never more than N. Where"
        " potentials cross instead of spikes there is no level z; the tables give |v|/(V_th/N)."
    )
    return Content([text], points=points, tables=[table])


def _law(study: Avalanche, held: bool) -> str:
    """The bound of a family in words, and whether it held."""
    family = FAMILIES[study.family]
    if not family.fires_before_sum and not family.after_sum:
        return "potentials cross the shortcut, without a bound"
    text = "bound (k+1)·N" if _adds_up(study) else f"bound N = {study.levels}"
    return f"{text} {'held' if held else 'BROKEN'} in every block"


def _adds_up(study: Avalanche) -> bool:
    """Whether levels pile up along the shortcut: SEW with ADD."""
    family = FAMILIES[study.family]
    return family.fires_before_sum and family.merge == "add" and family.after_sum is None


def _growth_rows(study: Avalanche) -> list[tuple[str | float | int | None, ...]]:
    """One row a stage: its last block."""
    return [
        (
            title(study),
            last.stage,
            last.index,
            last.largest,
            last.bound,
            last.per_neuron,
            factor,
            (last.index + 1) / 2 if _adds_up(study) else None,
        )
        for last, factor in growth(study)
    ]


def _numbers(study: Avalanche) -> Table:
    rows = [
        (
            site.block,
            _TITLES[site.branch],
            "spikes" if site.spikes else "potentials",
            site.density,
            site.amplitude,
            site.per_neuron,
            site.largest,
            site.bound,
        )
        for site in study.sites
    ]
    columns = (
        Column("block"),
        Column("branch"),
        Column("carries"),
        Column("density", ".4f"),
        Column("Σz per inference", ",.1f"),
        Column("Σz per neuron", ",.4f"),
        Column("max z", ",.2f"),
        Column("bound", ",d"),
    )
    return Table(columns, rows, title(study), folded=True)


def drawn_as(studies: Sequence[Avalanche]) -> dict[str, Mark]:
    """A mark for every network: colour by architecture, symbol and dash by code and training."""
    architectures = list(dict.fromkeys(study.arch for study in studies))
    colours = {name: mark.colour for name, mark in marks(architectures).items()}
    return {
        title(study): Mark(
            title(study), colours[study.arch], *_LOOK[study.trained, study.levels > 1]
        )
        for study in studies
    }


_LOOK = {
    (False, False): ("circle", "dot"),
    (False, True): ("square", "dash"),
    (True, False): ("diamond", "longdash"),
    (True, True): ("triangle-up", "solid"),
}
"""By whether a network is trained and graded: its symbol and dash."""


def write_png(path: Path, studies: Sequence[Avalanche]) -> None:
    """A grid for a paper: quantities down, branches across, one line a network."""
    drawn = drawn_as(studies)
    figure = blank(11, 8.5)
    grid = figure.subplots(len(_QUANTITIES), len(BRANCHES), sharex=True, sharey="row")
    for row, (attribute, _, axis, _, _) in enumerate(_QUANTITIES):
        for column, branch in enumerate(BRANCHES):
            panel: Axes = grid[row, column]
            for study in studies:
                _draw(panel, drawn[title(study)], study.along(branch), attribute)
            for text, sites in _bounds(studies, branch).items() if attribute == "largest" else ():
                places = [_place(site) for site in sites]
                bounds = [site.bound or 0 for site in sites]
                panel.step(places, bounds, where="mid", color="0.4", linestyle=":", linewidth=1)
                side, end = ("right", -1) if _piles(sites) else ("left", 0)
                panel.annotate(text, (places[end], bounds[end]), ha=side, va="bottom", size=7)
            panel.grid(alpha=0.3)
            if row == 0:
                panel.set_title(_TITLES[branch])
            if row == len(_QUANTITIES) - 1:
                panel.set_xlabel("block (stage.number)")
                panel.tick_params(axis="x", rotation=90)
            if column == 0:
                panel.set_ylabel(axis)
        grid[row, 0].set_ylim(bottom=0)  # of the whole row, once all of it is drawn
    legend_below(figure)
    save(figure, path, dpi=150)


def _draw(panel: Axes, mark: Mark, sites: Sequence[Site], attribute: str) -> None:
    panel.plot(
        [_place(site) for site in sites],
        [math.nan if (z := value(site, attribute)) is None else z for site in sites],
        **line(mark),
    )
