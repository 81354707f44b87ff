"""Runs side by side: read from a compare directory, and who of them wins and loses, in words."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from multispike.energy.twins import TWINS, RunPrices
from multispike.errors import InputError
from multispike.report.document import Column, Item, Key, Table, listed, number, percent
from multispike.report.style import Mark, marks
from multispike.results import RunResult, read_results

MICRO = 1e-3
"""nJ -> µJ, the unit of a report."""


@dataclass(frozen=True)
class Comparison:
    """Runs of one comparison, in the order of results.json."""

    runs: list[RunResult]
    settings: dict[str, dict[str, Any]]
    """Name -> config.yaml; without an entry where the run's folder is gone."""
    histories: dict[str, list[dict[str, float]]]
    """Name -> rows of metrics.csv, one an epoch."""

    @cached_property
    def marks(self) -> dict[str, Mark]:
        """How each run is drawn in every plot."""
        return marks([run.name for run in self.runs])

    def legend(self, runs: Iterable[RunResult]) -> list[Key]:
        """The marks of some of the runs."""
        return [self.marks[run.name].key() for run in runs]

    @property
    def spiking(self) -> list[RunResult]:
        """The runs with spiking neurons."""
        return [run for run in self.runs if run.spiking]

    @property
    def priced(self) -> list[RunResult]:
        """Those of them whose result has the prices of ANNs of the same shape."""
        return [run for run in self.spiking if run.baselines and run.crossover]

    @property
    def anns(self) -> list[RunResult]:
        """The runs with ReLUs."""
        return [run for run in self.runs if not run.spiking]


def read_comparison(folder: str | Path, places: Mapping[str, Path] | None = None) -> Comparison:
    """Read DIR/results.json, and config.yaml and metrics.csv of every run whose folder is there.

    Args:
        folder: DIR.
        places: name -> folder of the run; by default DIR/NAME.

    Raises:
        InputError: if results.json is missing, damaged, empty or of another version.
    """
    folder = Path(folder)
    runs = read_results(folder)
    if not runs:
        raise InputError(f"results: got {str(folder)!r} without runs; allowed: at least one run")
    settings, histories = {}, {}
    for run in runs:
        name = run.name
        if places is None and Path(name).name != name:  # a path must not lead out of the folder
            continue
        place = folder / name if places is None else places[name]
        config, metrics = place / "config.yaml", place / "metrics.csv"
        if config.is_file():
            settings[name] = _mapping(config)
        if metrics.is_file():
            histories[name] = _rows(metrics)
    return Comparison(runs, settings, histories)


def _mapping(path: Path) -> dict[str, Any]:
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"config: got {str(path)!r}, not a YAML file: {reason}") from error
    if not isinstance(content, dict):
        raise InputError(f"config: got {str(path)!r}, allowed: a mapping of settings")
    return content


def _rows(path: Path) -> list[dict[str, float]]:
    with open(path, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    try:
        history = [{key: float(value) for key, value in row.items()} for row in rows]
    except (TypeError, ValueError) as error:
        raise InputError(f"metrics: got {str(path)!r}, a damaged table ({error})") from error
    for row in history:
        if "val_accuracy" in row:
            row["test_accuracy"] = row["val_accuracy"]
    for key in ("epoch", "test_accuracy", "train_loss"):
        if any(key not in row for row in history):
            raise InputError(f"metrics: got {str(path)!r}, a table without {key!r}")
    return history


# --- what follows from the numbers ---------------------------------------------------------------

MEANING = (
    "density: events per neuron and timestep, the same in every layer (measured zeros are"
    " spread unevenly, which can serve the zero-skipping ANN better or worse than the SNN);"
    " a quantised ANN has activations of ⌈log2(N·T+1)⌉ bits"
)
"""What the densities of a crossover are."""


def energy_uj(run: RunResult) -> float:
    """Energy per inference in µJ."""
    return run.energy_nj.total * MICRO


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
    assert run.baselines is not None
    own, prices = run.energy_nj.total, run.baselines
    less = [f"the {name}" for key, name in TWINS.items() if own < prices[key].total]
    more = [f"the {name}" for key, name in TWINS.items() if own >= prices[key].total]
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
        (f"{own.profile}, {op}", e, prices.baselines) for op, e in (prices.executions or {}).items()
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


def points(difference: float) -> str:
    """A difference of shares in percentage points: 0.0125 -> '1.25 points'."""
    return f"{100 * abs(difference):.2f} points"


def sampling_error(accuracy: float, images: int) -> float:
    """Standard error of an accuracy that was measured on so many images, as a share.

    >>> sampling_error(0.9, 100)
    0.03
    """
    return math.sqrt(accuracy * (1 - accuracy) / images)


def _noise(a: RunResult, b: RunResult) -> str:
    """A remark where two accuracies differ by less than chance explains."""
    if not (a.samples and b.samples):
        return ""
    error = math.hypot(*(sampling_error(run.accuracy, run.samples) for run in (a, b)))
    if abs(a.accuracy - b.accuracy) >= 2 * error:
        return ""
    return (
        f", less than twice the sampling error of {a.samples:,} test images"
        f" ({100 * error:.2f} points): no proof of a difference"
    )


def findings(data: Comparison) -> list[str]:
    """Sentences on accuracy, energy, ANN against SNN, one timestep against many, and twins."""
    found = [_accuracy(data.runs), _energy(data.runs)]
    found += [_against_ann(run, ann) for ann in data.anns[:1] for run in data.spiking]
    found += [
        _one_timestep(run, binary)
        for binary in data.spiking
        for run in data.spiking
        if binary.levels == 1 and run.levels > 1 and run.timesteps == 1
    ]
    return [*found, *(_against_twins(run) for run in data.priced)]


def _accuracy(runs: Sequence[RunResult]) -> str:
    best, *others = sorted(runs, key=lambda run: -run.accuracy)
    if not others:
        return f"{best.name} gets {percent(best.accuracy)} of the test images right."
    second = others[0]
    if second.accuracy == best.accuracy:
        names = [run.name for run in runs if run.accuracy == best.accuracy]
        return f"Accuracy: {listed(names)} lead together with {percent(best.accuracy)}."
    return (
        f"Accuracy: {best.name} leads with {percent(best.accuracy)},"
        f" {points(best.accuracy - second.accuracy)} above {second.name}{_noise(best, second)}."
    )


def _energy(runs: Sequence[RunResult]) -> str:
    least, *others = sorted(runs, key=energy_uj)
    if not others:
        return f"It needs {number(energy_uj(least))} µJ per inference."
    ratios = [f"{_ratio(run, least):.2f} against {run.name}" for run in others]
    return (
        f"Energy: {least.name} needs least, {number(energy_uj(least))} µJ per inference; less by"
        f" a factor of {listed(ratios)}."
    )


def _ratio(run: RunResult, other: RunResult) -> float:
    """Energy of a run by that of another one."""
    return energy_uj(run) / max(energy_uj(other), 1e-300)


def _against_ann(run: RunResult, ann: RunResult) -> str:
    """A spiking run against the ANN: accuracy and energy, and plainly which of the two it loses."""
    gap, ratio = run.accuracy - ann.accuracy, _ratio(run, ann)
    accuracy = f"is {points(gap)} {'more' if gap > 0 else 'less'} accurate than"
    price = f"{1 / ratio:.2f} times less" if ratio < 1 else f"{ratio:.2f} times as much"
    if gap >= 0 and ratio < 1:
        outcome = "it wins both"
    elif gap < 0 and ratio >= 1:
        outcome = "it loses both"
    elif ratio < 1:
        outcome = "it loses accuracy and wins energy"
    else:
        outcome = "it wins accuracy and loses energy" if gap else "it loses energy"
    return (
        f"{run.name} {accuracy if gap else 'is as accurate as'} {ann.name} and needs {price}"
        f" energy: {outcome}{_noise(run, ann) if gap else ''}."
    )


def _one_timestep(run: RunResult, binary: RunResult) -> str:
    """Graded spikes in one timestep against the binary network: the paper's two claims."""
    energy = _ratio(binary, run)
    factor = f"{energy:.2f} times less" if energy >= 1 else f"{1 / energy:.2f} times more"
    events = 1 - run.events_per_inference / max(binary.events_per_inference, 1e-300)
    return (
        f"{run.name} against {binary.name}: {factor} energy, {abs(events):.0%}"
        f" {'fewer' if events >= 0 else 'more'} events, accuracy"
        f" {100 * (run.accuracy - binary.accuracy):+.2f} points{_noise(run, binary)}."
    )


def _against_twins(run: RunResult) -> str:
    """Against ANNs of the same shape, by the energy model alone."""
    assert run.baselines is not None
    assert run.crossover is not None
    own = run.energy_nj.total
    won, lost = [], []
    for key, name in TWINS.items():
        twin = run.baselines[key].total
        ratio = own / max(twin, 1e-300)
        cost = f"{name} ({number(twin * MICRO)} µJ)"
        if ratio < 1:
            won.append(f"{1 / ratio:.2f} times less than the {cost}")
        else:
            lost.append(f"{ratio:.2f} times as much as the {cost}")
    outcome = "wins against all of them"
    if lost:
        outcome = f"loses against {f'{len(lost)} of {len(TWINS)}' if won else 'all of them'}"
    wins = [f"less than the {TWINS[key]} {one.where}" for key, one in run.crossover.items()]
    even = run.even_density
    costs = "" if even is None else f"; its events cost what density {even:.3f} would"
    return (
        f"Same layers as an ANN: {run.name} needs {listed(won + lost)}; it {outcome}."
        f" An SNN of this shape needs {listed(wins)}{costs}."
    )
