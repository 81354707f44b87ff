"""The figures of the page, each from one file of results/."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from multispike.activity.avalanche import Avalanche
from multispike.report.comparison import pareto_front
from multispike.report.document import short_name
from multispike.report.style import BASELINE_COLOURS, CATEGORIES, PARETO, marks
from page.learning import AIMS
from page.paper import blank, legend_below, paper_line
from page.rows import FIRST, PROFILES, StudyRuns, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def front(content: StudyRuns) -> Figure:
    """Accuracy against energy of `table-cifar10`, one mark a row."""
    rows = rows_of(content)
    figure = blank(7, 4.2)
    panel: Axes = figure.subplots()
    for label, mark in marks(list(rows)).items():
        group = rows[label]
        look = paper_line(mark) | {"linestyle": "none", "markersize": 8}
        spread = getattr(group.accuracy, "spread", None)
        panel.errorbar(group.energy(FIRST), group.accuracy, yerr=spread, capsize=3, **look)
    graded = rows.get("multilevel-T1-N4")
    if graded is not None:
        panel.errorbar(
            graded.baseline(FIRST, "qann_skip"), graded.accuracy, linestyle="none", marker="P",
            markersize=8, color=BASELINE_COLOURS["qann"][0], markerfacecolor="none",
            label="N4 as zero-skipping QANN",
        )  # fmt: skip
    best = pareto_front(rows.values(), lambda row: row.energy(FIRST), lambda row: row.accuracy)
    places = [(row.energy(FIRST), row.accuracy) for row in best]
    panel.plot(*zip(*places, strict=True), color=PARETO[0], linewidth=1, zorder=0)
    return _of_energy(figure, f"µJ per inference, {FIRST}, 32 bit")


def _of_energy(figure: Figure, axis: str) -> Figure:
    """A figure of accuracy over energy, with its axes named."""
    [panel] = figure.axes
    panel.set_xlabel(axis)
    panel.set_xlim(left=0)
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.set_ylabel("accuracy %")
    panel.grid(alpha=0.3)
    legend_below(figure)
    return figure


def codes(content: StudyRuns) -> Figure:
    """Accuracy against energy of `front`, a line a code from penalty to penalty."""
    rows = rows_of(content)
    figure = blank(7, 4.2)
    panel: Axes = figure.subplots()
    lines: dict[str, list[tuple[float, float, str]]] = {}
    for label, group in rows.items():
        name, _, penalty = label.partition("-penalty-")
        point = group.energy(FIRST), group.accuracy, penalty or "0"
        lines.setdefault(name, []).append(point)
    for (name, found), mark in zip(lines.items(), marks(list(lines)).values(), strict=True):
        panel.plot(*list(zip(*found, strict=True))[:2], **paper_line(mark) | {"label": name})
        for x, y, penalty in found:
            panel.annotate(penalty, (x, y), (4, 4), textcoords="offset points", fontsize=8)
    return _of_energy(figure, f"µJ per inference, {FIRST}, 32 bit; numbers: penalty")


def densities(content: StudyRuns) -> Figure:
    """Events per neuron and timestep of every layer of `table-cifar10`'s rows."""
    rows = rows_of(content)
    figure = blank(7, 4.2)
    panel: Axes = figure.subplots()
    for label, mark in marks(list(rows)).items():
        layers = rows[label].runs[0].neurons
        names = [short_name(layer.name) for layer in layers]
        panel.plot(names, [layer.density for layer in layers], **paper_line(mark))
    panel.set_ylim(bottom=0)
    panel.set_ylabel("non-zero per neuron and timestep")
    panel.tick_params(axis="x", rotation=30)
    panel.grid(alpha=0.3)
    legend_below(figure)
    return figure


def energies(content: StudyRuns) -> Figure:
    """Energy of VGG-16 by category, one panel a profile."""
    rows = rows_of(content)
    figure = blank(8, 2.8)
    for panel, profile in zip(figure.subplots(1, 2), PROFILES, strict=True):
        left = [0.0] * len(rows)
        for key, (name, _, colours) in CATEGORIES.items():
            parts = [group.energy(profile, key) / 1e3 for group in rows.values()]
            panel.barh(list(rows), parts, left=left, color=colours[0], label=name, height=0.6)
            left = [a + b for a, b in zip(left, parts, strict=True)]
        panel.invert_yaxis()
        panel.set_title(profile, fontsize=10)
        panel.set_xlabel("mJ per inference")
        panel.grid(alpha=0.3, axis="x")
    figure.axes[1].set_yticklabels([])
    legend_below(figure)
    return figure


def transfer(content: dict[str, Any]) -> Figure:
    """Decoded output against constant input, one panel a product N·T.

    All codes of a panel coincide: one timestep is the line, the others are marks on it.
    """
    codes = content["codes"]
    products = sorted({code["timesteps"] * code["levels"] for code in codes})
    figure = blank(8, 3.6)
    for panel, product in zip(
        figure.subplots(1, len(products), sharey=True), products, strict=True
    ):
        own = [code for code in codes if code["timesteps"] * code["levels"] == product]
        names = [f"T={code['timesteps']} N={code['levels']}" for code in own]
        for place, (code, mark) in enumerate(zip(own, marks(names).values(), strict=True)):
            look = paper_line(mark) | {"linestyle": "none", "markevery": (2 * place, 2 * len(own))}
            if code["timesteps"] == 1:
                look |= {"marker": None, "linestyle": "-", "drawstyle": "steps-post"}
            panel.plot(content["inputs"], code["outputs"], **look)
        panel.set_title(f"N·T = {product}: {product + 1} levels", fontsize=10)
        panel.set_xlabel("constant input / V_th")
        panel.grid(alpha=0.3)
        panel.legend(frameon=False, fontsize=9, loc="upper left")
    figure.axes[0].set_ylabel("decoded output / V_th")
    return figure


_AVALANCHE = (
    ("per_neuron", "Σz per neuron and inference"),
    ("largest", "largest z"),
)


def avalanche(content: dict[str, Any]) -> Figure:
    """What leaves each block of the trained networks: amplitude above, largest level below."""
    trained = [Avalanche.from_dict(n) for n in content["networks"] if n["trained"]]
    networks = [n for n in trained if all(site.spikes for site in n.along("out"))]
    colours = marks(list(dict.fromkeys(network.arch for network in networks)))
    look = marks([network.name for network in networks])
    figure = blank(8, 5.2)
    for panel, (attribute, axis) in zip(
        figure.subplots(2, 1, sharex=True), _AVALANCHE, strict=True
    ):
        for network in networks:
            outs = network.along("out")
            blocks = [site.place for site in outs]
            values = [getattr(site, attribute) for site in outs]
            line = paper_line(look[network.name]) | {"color": colours[network.arch].colour}
            panel.plot(blocks, values, **line)
        panel.set_ylim(bottom=0)
        panel.set_ylabel(axis)
        panel.grid(alpha=0.3)
    figure.axes[-1].set_xlabel("block (stage.number)")
    legend_below(figure)
    return figure


def time_to_accuracy(content: dict[str, Any]) -> Figure:
    """Test accuracy against training time, one line a seed, with the aims."""
    figure = blank(7, 3.6)
    panel: Axes = figure.subplots()
    runs = content["runs"]
    look = marks([f"seed {run['seed']}" for run in runs])
    for run, mark in zip(runs, look.values(), strict=True):
        minutes, values = zip(*((s / 60, 100 * v) for s, v in run["curve"]), strict=True)
        panel.plot(minutes, values, **paper_line(mark))
    for accuracy, minutes in AIMS:
        panel.plot(
            minutes, 100 * accuracy, marker="*", markersize=12, linestyle="none",
            color="black", label=f"aim: {accuracy:.0%} in {minutes} min",
        )  # fmt: skip
    panel.set_xlabel("minutes of training")
    panel.set_ylabel("test accuracy %")
    panel.set_ylim(bottom=min(70, panel.get_ylim()[1] - 10))
    panel.grid(alpha=0.3)
    panel.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


FIGURES: dict[str, tuple[str, Callable[[Any], Figure]]] = {
    "cifar10-front": ("table-cifar10.json", front),
    "cifar10-densities": ("table-cifar10.json", densities),
    "front": ("front.json", codes),
    "vgg16-energy": ("table-vgg16.json", energies),
    "transfer": ("transfer.json", transfer),
    "avalanche": ("avalanche.json", avalanche),
    "time_to_accuracy": ("time_to_accuracy.json", time_to_accuracy),
    "time_to_accuracy-long": ("time_to_accuracy-long.json", time_to_accuracy),
}
"""Name -> file of results/ and how its content is drawn."""
