"""Runs side by side: read from a compare directory, and who of them wins and loses, in words."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from multispike.energy.twins import TWINS, RunPrices
from multispike.errors import InputError
from multispike.files import read_yaml
from multispike.report.document import Column, Finding, Item, Key, Table, listed, number, percent
from multispike.report.seeds import Group, Mean, grouped
from multispike.report.style import marks
from multispike.results import RunResult, read_runs

MICRO = 1e-3
"""nJ -> µJ, the unit of a report."""


@dataclass(frozen=True)
class Comparison:
    """Runs of one comparison, in the order of results.json."""

    every: list[RunResult]
    settings: dict[str, dict[str, Any]]
    """Name -> config.yaml; without an entry where the run's folder is gone."""
    histories: dict[str, list[dict[str, float]]]
    """Name -> rows of metrics.csv, one an epoch."""

    @cached_property
    def groups(self) -> list[Group]:
        return grouped(self.every)

    @cached_property
    def runs(self) -> list[RunResult]:
        """One for each group of seeds, with their means."""
        return [group.mean for group in self.groups]

    @cached_property
    def marks(self) -> dict[str, Key]:
        return marks([run.name for run in self.runs])

    @property
    def spiking(self) -> list[RunResult]:
        return [run for run in self.runs if run.spiking]

    @property
    def priced(self) -> list[RunResult]:
        """Those of them whose result has the prices of ANNs of the same shape."""
        return [run for run in self.spiking if run.baselines and run.crossover]


def read_comparison(folder: str | Path, places: Mapping[str, Path] | None = None) -> Comparison:
    """Read DIR/results.json, and config.yaml and metrics.csv of every run whose folder is there.

    `places`: name -> folder of the run, by default DIR/NAME. Raises `InputError` if results.json is
    missing, damaged, empty or of another version.
    """
    folder = Path(folder)
    runs = read_runs(folder / "results.json")
    if not runs:
        raise InputError(f"results: got {str(folder)!r} without runs; allowed: at least one run")
    settings, histories = {}, {}
    for name in (run.name for run in runs):
        if places is None and Path(name).name != name:  # a path must not lead out of the folder
            continue
        place = folder / name if places is None else places[name]
        if (config := place / "config.yaml").is_file():
            settings[name] = read_yaml("config", config)
        if (metrics := place / "metrics.csv").is_file():
            histories[name] = _history(metrics)
    return Comparison(runs, settings, histories)


def _history(path: Path) -> list[dict[str, float]]:
    """A run's metrics.csv; "test_accuracy" is that of the validation split where there is one."""
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)]
    except (TypeError, ValueError) as error:
        raise InputError(f"metrics: got {str(path)!r}, a damaged table ({error})") from error
    for row in rows:
        if "val_accuracy" in row:
            row["test_accuracy"] = row["val_accuracy"]
        for key in ("epoch", "test_accuracy", "train_loss"):
            if key not in row:
                raise InputError(f"metrics: got {str(path)!r}, a table without {key!r}")
    return rows


MEANING = (
    "density: events per neuron and timestep, the same in every layer (measured zeros are"
    " spread unevenly, which can serve the zero-skipping ANN better or worse than the SNN);"
    " a quantised ANN has activations of ⌈log2(N·T+1)⌉ bits"
)
"""What the densities of a crossover are."""


def energy_uj(run: RunPrices) -> float:
    """Energy per inference in µJ."""
    return run.energy_nj.total * MICRO


def twins_uj(run: RunPrices) -> dict[str, float]:
    """The same of the ANNs of its shape, by the names of `TWINS`."""
    return {key: energy.total * MICRO for key, energy in (run.baselines or {}).items()}


def pareto_front(
    items: Iterable[Item], cost: Callable[[Item], float], accuracy: Callable[[Item], float]
) -> list[Item]:
    """Those that no other beats in accuracy at no more cost, by rising cost."""
    front: list[Item] = []
    for item in sorted(items, key=lambda item: (cost(item), -accuracy(item))):
        if not front or accuracy(item) > accuracy(front[-1]):
            front.append(item)
    return front


def verdict(run: RunPrices) -> str:
    """Against which twins a priced SNN wins as it is, and against which it loses."""
    own, costs = energy_uj(run), twins_uj(run)
    less = [f"the {name}" for key, name in TWINS.items() if own < costs[key]]
    more = [f"the {name}" for key, name in TWINS.items() if own >= costs[key]]
    parts = [f"less energy than {listed(less)}"] if less else []
    parts += [f"more{'' if less else ' energy'} than {listed(more)}"] if more else []
    density = run.even_density
    known = "" if density is None else f"its events cost what density {density:.3g} would; "
    return f"{known}it needs {', '.join(parts)}"


def alternatives(prices: RunPrices) -> Table:
    """A priced SNN by every execution of graded events, and by every energy profile that it was
    priced with."""
    own, used = prices.energy_nj, prices.assumptions
    rows = [
        (f"{own.profile}, {op}", energy, prices.baselines)
        for op, energy in (prices.executions or {}).items()
    ]
    rows += [
        (f"{name}, {used.graded_op if used else '?'}", one.energy_nj, one.baselines)
        for name, one in (prices.energy_nj_profiles or {}).items()
        if name != own.profile
    ]
    return Table(
        (
            Column("profile, graded event"),
            Column("SNN, µJ", ",.2f"),
            *(Column(f"{name} ×", ".2f") for name in ("ANN", "QANN", "zero-skipping")),
        ),
        [
            (
                label,
                energy.total * MICRO,
                *(twins[key].total / max(energy.total, 1e-300) for key in TWINS if twins),
            )
            for label, energy, twins in rows
        ],
        "By energy profile and execution of a graded event; dense ANN, dense and zero-skipping"
        " quantised ANN in times of the SNN: above 1 it needs less",
    )


def sampling_error(accuracy: float, images: int) -> float:
    """Standard error of an accuracy that was measured on so many images, as a share.

    >>> sampling_error(0.9, 100)
    0.03
    """
    return math.sqrt(accuracy * (1 - accuracy) / images)


def _noise(a: RunResult, b: RunResult) -> str:
    """A remark where two accuracies differ by less than chance explains, that of the seeds or that
    of the images."""
    reasons = []
    if _spread(a.accuracy, b.accuracy):
        reasons.append("within the spread of the seeds")
    if a.samples and b.samples:
        error = math.hypot(*(sampling_error(run.accuracy, run.samples) for run in (a, b)))
        if 0 < abs(a.accuracy - b.accuracy) < 2 * error:
            reasons.append(
                f"less than twice the sampling error of {a.samples:,} test images"
                f" ({100 * error:.2f} points)"
            )
    return f", {' and '.join(reasons)}: no proof of a difference" if reasons else ""


def _spread(a: float, b: float) -> str:
    """A remark where two means differ by less than their standard deviations together."""
    spreads = sum(value.spread for value in (a, b) if isinstance(value, Mean))
    return " (within the spread of the seeds)" if 0 < abs(a - b) < spreads else ""


def _points(difference: float) -> str:
    """0.0125 -> '1.25 points'."""
    return f"{100 * abs(difference):.2f} points"


def _times(own: float, other: float) -> tuple[str, str]:
    """'2.50 times as much' and 'as', or '1.25 times less' and 'than'."""
    ratio = own / max(other, 1e-300)
    if ratio < 1:
        return f"{1 / max(ratio, 1e-300):.2f} times less", "than"
    return f"{ratio:.2f} times as much", "as"


def findings(data: Comparison) -> list[list[Finding]]:
    """On accuracy, energy, SNNs against the ANN, one timestep against many, and SNNs against ANNs
    of their own shape; within each kind the run of least energy first."""
    spiking = sorted(data.spiking, key=energy_uj)
    anns = [run for run in data.runs if not run.spiking]
    codes = [
        _one_timestep(run, binary)
        for run in spiking
        for binary in spiking
        if binary.levels == 1 and run.levels > 1 and run.timesteps == 1
    ]
    return [
        [_accuracy(data.runs)],
        [_energy(data.runs)],
        [_against_ann(run, ann) for ann in anns[:1] for run in spiking],
        codes,
        [_against_twins(run) for run in sorted(data.priced, key=energy_uj)],
    ]


def _accuracy(runs: Sequence[RunResult]) -> Finding:
    best, *others = sorted(runs, key=lambda run: -run.accuracy)
    figure, names = percent(best.accuracy), [r.name for r in runs if r.accuracy == best.accuracy]
    caption = f"of the test images right: {listed(names)}"
    text = f"{best.name} gets {figure} of the test images right."
    if len(names) > 1:
        text = f"Accuracy: {listed(names)} lead together with {figure}."
    elif others:
        text = (
            f"Accuracy: {best.name} leads with {figure},"
            f" {_points(best.accuracy - others[0].accuracy)} above {others[0].name}"
            f"{_noise(best, others[0])}."
        )
    return Finding(figure, caption, text)


def _energy(runs: Sequence[RunResult]) -> Finding:
    least, *others = sorted(runs, key=energy_uj)
    figure = f"{number(energy_uj(least))} µJ"
    ratios = [
        f"{energy_uj(run) / max(energy_uj(least), 1e-300):.2f} against {run.name}"
        f"{_spread(energy_uj(run), energy_uj(least))}"
        for run in others
    ]
    text = f"It needs {figure} per inference."
    if others:
        text = (
            f"Energy: {least.name} needs least, {figure} per inference; less by a factor of"
            f" {listed(ratios)}."
        )
    return Finding(figure, f"an inference, the least: {least.name}", text)


def _against_ann(run: RunResult, ann: RunResult) -> Finding:
    """Accuracy and energy, and plainly which of the two the spiking run loses."""
    gap, less = run.accuracy - ann.accuracy, energy_uj(run) < energy_uj(ann)
    energy, link = _times(energy_uj(run), energy_uj(ann))
    accuracy = f"is {_points(gap)} {'more' if gap > 0 else 'less'} accurate than"
    if (gap >= 0) == less:
        outcome = f"it {'wins' if less else 'loses'} both"
    elif less:
        outcome = "it loses accuracy and wins energy"
    else:
        outcome = "it wins accuracy and loses energy" if gap else "it loses energy"
    return Finding(
        energy,
        f"energy {link} {ann.name}, {100 * gap:+.2f} points{_spread(run.accuracy, ann.accuracy)}:"
        f" {run.name}, {outcome}",
        f"{run.name} {accuracy if gap else 'is as accurate as'} {ann.name} and needs {energy}"
        f" energy{_spread(energy_uj(run), energy_uj(ann))}: {outcome}{_noise(run, ann)}.",
    )


def _one_timestep(run: RunResult, binary: RunResult) -> Finding:
    """Graded spikes in one timestep against the binary network: the paper's two claims."""
    ratio = energy_uj(binary) / max(energy_uj(run), 1e-300)
    figure = f"{ratio:.2f} times less" if ratio >= 1 else f"{1 / ratio:.2f} times more"
    events = 1 - run.events_per_inference / max(binary.events_per_inference, 1e-300)
    accuracy = f"{100 * (run.accuracy - binary.accuracy):+.2f} points"
    return Finding(
        figure,
        f"energy than {binary.name}, {accuracy}{_spread(run.accuracy, binary.accuracy)}:"
        f" {run.name}, in one timestep",
        f"{run.name} against {binary.name}: {figure} energy"
        f"{_spread(energy_uj(run), energy_uj(binary))}, {abs(events):.0%}"
        f" {'fewer' if events >= 0 else 'more'} events, accuracy {accuracy}{_noise(run, binary)}.",
    )


def _against_twins(run: RunResult) -> Finding:
    """Against ANNs of the same shape, by the energy model alone."""
    own, costs, won, lost = energy_uj(run), twins_uj(run), [], []
    for key, name in TWINS.items():
        text = f"{' '.join(_times(own, costs[key]))} the {name} ({number(costs[key])} µJ)"
        (won if own < costs[key] else lost).append(text)
    outcome = "wins against all of them"
    if lost:
        outcome = f"loses against {f'{len(lost)} of {len(TWINS)}' if won else 'all of them'}"
    crossover = run.crossover or {}
    wins = [f"less than the {TWINS[key]} {one.where}" for key, one in crossover.items()]
    even = run.even_density
    density = "" if even is None else f"; its events cost what density {even:.3f} would"
    hardest = " ".join(_times(own, costs["qann_skip"]))
    return Finding(
        f"{len(won)} of {len(TWINS)}",
        f"ANNs of its shape need more energy than {run.name}, which needs {hardest} the"
        f" {TWINS['qann_skip']}",
        f"Same layers as an ANN: {run.name} needs {listed(won + lost)}; it {outcome}."
        f" An SNN of this shape needs {listed(wins)}{density}.",
    )
