"""What piles up along depth: the avalanche of compared runs, and the page of the study of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from multispike.activity.avalanche import BRANCHES, TITLES, Avalanche, Site, growth, piles_up
from multispike.models.table import FAMILIES
from multispike.report.comparison import Comparison
from multispike.report.document import Column, Key, Plot, Section, Table, number
from multispike.report.plots import ByPlace, along_depth
from multispike.report.style import marks
from multispike.results import SpikeLayer

Carried = tuple[float, float | None, float | None]
"""Density, Σz per neuron and inference, largest z; None for the levels of potentials."""

Branches = Mapping[str, Mapping[str, Carried]]
"""Branch of the residual sums -> place of the sum, in the network's order -> what it carries."""

_QUANTITIES = (
    ("Density", "share of elements not zero", ".4f"),
    ("Amplitude", "Σz per neuron and inference", ",.3f"),
    ("Largest level", "largest z", ",.1f"),
)
"""Name, axis and format of what is in `Carried`."""


def avalanche(data: Comparison) -> Section | None:
    """Density, amplitude and largest level on both ways into every residual sum of every run."""
    ways = {"direct": "direct path", "shortcut": "shortcut", "total": "sum"}
    networks: dict[str, Branches] = {}
    for run in data.spiking:
        branches = {
            title: {
                total.name.removesuffix(".merge"): (
                    row.density,
                    row.amplitude / row.neurons,
                    row.max_level,
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
    return Section("Avalanche", [text], _quantity_plots(networks, {}))


def _quantity_plots(
    networks: Mapping[str, Branches], limits: Mapping[str, Mapping[str, int]]
) -> list[Plot]:
    """A plot a quantity, in it a panel a network with a line a branch; what the largest level
    cannot exceed by construction is dotted."""
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
            if name == "Largest level" and (own := limits.get(title)):
                law = f"{title}: {'(k+1)·N' if len({*own.values()}) > 1 else 'N'}"
                values[law] = own
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
    networks = {
        study.title: {
            TITLES[branch]: {site.place: _carried(site) for site in study.along(branch)}
            for branch in BRANCHES
        }
        for study in studies
    }
    limits = {
        study.title: {s.place: s.bound for s in study.along("out") if s.bound is not None}
        for study in studies
    }
    return [Section("Along depth", plots=_quantity_plots(networks, limits)), _laws(studies)]


def _carried(site: Site) -> Carried:
    if not site.spikes:
        return site.density, None, None
    return site.density, site.per_neuron, site.largest


def _laws(studies: Sequence[Avalanche]) -> Section:
    """The bounds by construction against what was measured."""
    points, rows = [], []
    for study in studies:
        peak, ends = max(study.along("out"), key=lambda site: site.largest), growth(study)
        unit = "" if peak.spikes else ", in levels of a potential"
        piles = piles_up(FAMILIES[study.family])
        bounded = [site for site in study.along("out") if site.bound is not None]
        law = "potentials cross the shortcut, without a bound"
        if bounded:
            held = all(site.largest <= (site.bound or 0) for site in bounded)
            law = "bound (k+1)·N" if piles else f"bound N = {study.levels}"
            law += f" {'held' if held else 'BROKEN'} in every block"
        points.append(
            f"{study.title}: largest value {number(peak.largest)}{unit} ({peak.block}); {law};"
            f" amplitude grows at most {max(factor for _, factor in ends):.2f} times within a"
            " stage."
        )
        for site, factor in ends:
            even = (site.index + 1) / 2 if piles else None
            sent = (site.largest, site.bound, site.per_neuron)
            rows.append((study.title, site.stage, site.index, *sent, factor, even))
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
        rows,
        "Output of the last block of each stage, the k-th; growth: its Σz per neuron against"
        " that of the stage's first block",
    )
    text = (
        "A SEW block with ADD sends what it received plus up to N, so after k blocks of a stage a"
        " value can reach (k+1)·N; if all paths carry the same amplitude, Σz is then (k+1)/2 times"
        " that of the first block. A Sparse block ends in a barrier: never more than N. Where"
        " potentials cross instead of spikes there is no level z; the table gives |v|/(V_th/N)."
    )
    return Section("Growth and bounds", [text], tables=[table], points=points)
