"""What piles up along depth: the avalanche of compared runs, and the page of the study of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from multispike.activity.avalanche import BRANCHES, TITLES, Avalanche, Site, growth, piles_up
from multispike.models.table import FAMILIES
from multispike.report.comparison import Comparison
from multispike.report.document import Key, Plot, Section, number, table_of
from multispike.report.plots import ByPlace, along_depth
from multispike.report.style import marks
from multispike.results import SpikeLayer


class Carried(NamedTuple):
    """What one branch of one residual sum carries."""

    density: float
    amplitude: float | None = None
    """Σz per neuron and inference; None for potentials, as the largest z is."""
    largest: float | None = None
    bound: float | None = None
    """What z cannot exceed by construction."""


Branches = Mapping[str, Mapping[str, Carried]]
"""Branch of the residual sums -> place of the sum, in the network's order -> what it carries."""

_QUANTITIES = (
    ("Density", "share of elements not zero", ".4f"),
    ("Amplitude", "Σz per neuron and inference", ",.3f"),
    ("Largest level", "largest z", ",.1f"),
)
"""Name, axis and format of the fields of `Carried`."""


def avalanche(data: Comparison) -> Section | None:
    """Density, amplitude and largest level on both ways into every residual sum of every run."""
    ways = {"direct": "direct path", "shortcut": "shortcut", "total": "sum"}
    networks: dict[str, Branches] = {}
    for run in data.spiking:
        branches = {
            title: {
                total.name.removesuffix(".merge"): Carried(
                    row.density, row.amplitude / row.neurons, row.max_level
                )
                for total in run.sums
                if isinstance(row := getattr(total, way), SpikeLayer)
            }
            for way, title in ways.items()
        }
        if any(branches.values()):
            networks[run.name] = branches
    if not networks:
        return None
    text = (
        "At every residual sum: what the block computed (direct path), what bypassed it"
        " (shortcut), and their sum before a barrier, where there is one. Only spikes have a"
        " level; ways that carry potentials are left out."
    )
    return Section("Avalanche", [text], quantity_plots(networks))


def quantity_plots(networks: Mapping[str, Branches]) -> list[Plot]:
    """A plot a quantity, in it a panel a network with a line a branch; the bounds of what its last
    branch carries are dotted."""
    plots = []
    for index, (name, axis, spec) in enumerate(_QUANTITIES):
        values: dict[str, ByPlace] = {}
        looks: dict[str, Key] = {}
        panels: dict[str, tuple[list[str], list[str]]] = {}
        bounds, ends = [], []
        for title, branches in networks.items():
            drawn = []
            for (branch, places), mark in zip(
                branches.items(), marks(list(branches)).values(), strict=True
            ):
                found = {place: carried[index] for place, carried in places.items()}
                if any(value is not None for value in found.values()):
                    line = f"{title}, {branch}"
                    values[line], looks[line] = found, mark
                    drawn.append(line)
            if not drawn:
                continue
            first, *_, last = [v for v in values[drawn[-1]].values() if v is not None] * 2
            ends.append(f"{drawn[-1]} {first:{spec}} to {last:{spec}}")
            limits = {place: one.bound for place, one in places.items() if one.bound is not None}
            if name == "Largest level" and limits:
                law = f"{title}: {'(k+1)·N' if len({*limits.values()}) > 1 else 'N'}"
                values[law] = limits
                bounds.append(law)
                drawn.append(law)
            panels[title] = (drawn, [])
        if values:
            summary = f"First to last sum: {'; '.join(ends)}."
            more = {"panels": panels, "bounds": bounds}
            plots.append(
                along_depth(looks, values, f"{name} along depth", axis, spec, summary, **more)
            )
    return plots


def study_sections(studies: Sequence[Avalanche]) -> list[Section]:
    """Every quantity along depth, then what was found."""
    networks = {study.title: _branches(study) for study in studies}
    return [Section("Along depth", plots=quantity_plots(networks)), _laws(studies)]


def _branches(study: Avalanche) -> Branches:
    """Potentials have a density, but no level."""
    return {
        TITLES[branch]: {
            site.place: Carried(site.density, site.per_neuron, site.largest, site.bound)
            if site.spikes
            else Carried(site.density)
            for site in study.along(branch)
        }
        for branch in BRANCHES
    }


def _laws(studies: Sequence[Avalanche]) -> Section:
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
        ("(k+1)/2", ".2f", even),
    )
    text = (
        "A SEW block with ADD sends what it received plus up to N, so after k blocks of a stage a"
        " value can reach (k+1)·N; if all paths carry the same amplitude, Σz is then (k+1)/2 times"
        " that of the first block. A Sparse block ends in a barrier: never more than N. Where"
        " potentials cross instead of spikes there is no level z; the table gives |v|/(V_th/N)."
    )
    return Section("Growth and bounds", [text], tables=[table], points=points)


def _law(study: Avalanche) -> str:
    """The bound of a family in words, and whether it held."""
    bounded = [site for site in study.along("out") if site.bound is not None]
    if not bounded:
        return "potentials cross the shortcut, without a bound"
    text = "bound (k+1)·N" if piles_up(FAMILIES[study.family]) else f"bound N = {study.levels}"
    held = all(site.largest <= (site.bound or 0) for site in bounded)
    return f"{text} {'held' if held else 'BROKEN'} in every block"
