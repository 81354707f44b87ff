"""The runs of a study by row, and what can be said of one row against another."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from multispike.config import deciding, differing
from multispike.reproduce.studies import STUDIES
from page.markdown import source, whole

FIRST = "lemaire2022"
SECOND = "castagnetti2025"
PROFILES = (FIRST, SECOND)

ACCURATE = 0.5
"""Points: what counts as the same accuracy in the aims."""

BOUNDED = 0.8
"""Sparse-ResNet's amplitude over SEW-ResNet's, at most: the paper's claim."""


@dataclass(frozen=True)
class Group:
    """The runs of one row, by seed."""

    label: str
    runs: tuple[dict[str, Any], ...]

    def values(self, read: Callable[[dict[str, Any]], float]) -> list[float]:
        """One number a run."""
        return [read(run) for run in self.runs]

    def mean(self, key: str) -> float:
        """Mean of an entry over the seeds."""
        return statistics.fmean(self.values(lambda run: run[key]))

    @property
    def first(self) -> dict[str, Any]:
        """The run of the lowest seed."""
        return self.runs[0]

    @property
    def spiking(self) -> bool:
        """False for an ANN."""
        return self.first["neuron"] != "relu"

    @property
    def accuracy(self) -> float:
        """Mean, in per cent."""
        return 100 * self.mean("accuracy")

    @property
    def deviation(self) -> float:
        """Standard deviation of the accuracy over the seeds, points; 0 for one seed."""
        values = self.values(lambda run: 100 * run["accuracy"])
        return statistics.stdev(values) if len(values) > 1 else 0.0

    @property
    def largest(self) -> int:
        """The largest level that any layer or sum sent."""
        return max(layer["max_level"] for run in self.runs for layer in run["neurons"])

    def energy(self, profile: str, part: str = "total") -> float:
        """µJ per inference, mean over the seeds."""
        return statistics.fmean(self.values(lambda r: priced(r, profile)["energy_nj"][part])) / 1e3

    def baseline(self, profile: str, twin: str) -> float:
        """µJ of an ANN or quantised twin, mean over the seeds."""
        return (
            statistics.fmean(
                self.values(lambda run: priced(run, profile)["baselines"][twin]["total"])
            )
            / 1e3
        )


def priced(run: dict[str, Any], profile: str) -> dict[str, Any]:
    """ "energy_nj" and "baselines" of a run under a profile."""
    if run["energy_nj"]["profile"] == profile:
        return run
    return run["energy_nj_profiles"][profile]


Rows = dict[str, Group]


def rows_of(study: str, content: dict[str, Any]) -> Rows:
    """The finished rows in the study's order; runs of older settings are rows of their own, with
    which nothing is compared."""
    labels = [row.label for row in STUDIES[study].rows]
    found: dict[str, list[dict[str, Any]]] = {
        name: [] for label in labels for name in (label, f"{label} (older settings)")
    }
    for run in content["runs"]:
        if run["name"] in labels:
            older = " (older settings)" if changes(run, study) else ""
            found[run["name"] + older].append(run)
    return {
        label: Group(label, tuple(sorted(runs, key=lambda run: run["seed"])))
        for label, runs in found.items()
        if runs
    }


def accuracy(group: Group) -> str:
    """Per cent, with the standard deviation where there are several seeds."""
    spread = f" ± {group.deviation:.2f}" if len(group.runs) > 1 else ""
    return f"{group.accuracy:.2f}{spread}"


Column = tuple[str, Callable[[Group], str]]

COLUMNS: dict[str, Column] = {
    "accuracy": ("accuracy %", accuracy),
    "n": ("n", lambda g: str(len(g.runs))),
    "density": ("density", lambda g: f"{g.mean('density'):.3f}"),
    "events": (
        "events",
        lambda g: whole(g.mean("events_per_inference")) if g.spiking else "-",
    ),
    "amplitude": (
        "amplitude Σz",
        lambda g: whole(g.mean("amplitude_per_inference")) if g.spiking else "-",
    ),
    "largest": ("largest z", lambda g: str(g.largest) if g.spiking else "-"),
    "energy": (f"µJ {FIRST}", lambda g: whole(g.energy(FIRST))),
    "energy2": (f"µJ {SECOND}", lambda g: whole(g.energy(SECOND))),
    "skip": (
        f"µJ zero-skipping QANN, {FIRST}",
        lambda g: whole(g.baseline(FIRST, "qann_skip")) if g.spiking else "-",
    ),
    "seconds": ("training s", lambda g: whole(g.mean("train_seconds"))),
}


def points(one: Group, other: Group) -> float:
    """How much more accurate one row is, in points."""
    return one.accuracy - other.accuracy


def lead(one: Group, other: Group) -> str:
    """`points`, and of the seed that both have where one of them has more."""
    text = f"{points(one, other):+.2f} points"
    if len(one.runs) == len(other.runs):
        return text
    alone = 100 * (one.first["accuracy"] - other.first["accuracy"])
    return f"{text} (n = {len(one.runs)} and {len(other.runs)}; the first seed alone {alone:+.2f})"


def sampling_error(accuracy: float, samples: int) -> float:
    """Half of the 95 % interval of an accuracy, points, from the number of test images alone.

    >>> round(sampling_error(0.9, 10_000), 2)
    0.59
    """
    return 100 * 1.96 * math.sqrt(accuracy * (1 - accuracy) / samples)


def study_source(study: str, content: dict[str, Any], rows: Rows) -> str:
    """The line below a study's table: command, settings, seeds, what is missing, versions."""
    runs = [run for group in rows.values() for run in group.runs]
    several = [
        f"{g.label} with seeds {', '.join(str(run['seed']) for run in g.runs)}"
        for g in rows.values()
        if len(g.runs) > 1
    ]
    error = max(sampling_error(run["accuracy"], run["samples"]) for run in runs)
    remarks = [
        f"recipe `recipes/{STUDIES[study].recipe}.yaml`: {shared_settings(runs)}",
        f"n = 1 run a row, seed 0{', but ' + '; '.join(several) if several else ''}",
        f"{runs[0]['samples']:,} test images, sampling error of an accuracy about"
        f" ±{error:.1f} points (95 %)",
        *_assumed(runs),
        *_machines(runs),
        *older_settings(runs, study),
        *unfinished(study, rows),
    ]
    return source(
        f"{study}.json", content["command"], remarks, *(run["environment"] for run in runs)
    )


def _assumed(runs: Sequence[dict[str, Any]]) -> list[str]:
    """What the energy model leaves open, as it was chosen for the spiking networks."""
    chosen = {
        f"energy: fan-out {run['assumptions']['fanout']}, a graded event meets a weight by"
        f" {run['assumptions']['graded_op']}"
        for run in runs
        if run["neuron"] != "relu"
    }
    return sorted(chosen)


def _machines(runs: Sequence[dict[str, Any]]) -> list[str]:
    """A warning where rows were trained on different machines, or with different threads."""
    machines = {run["environment"]["cpu"] for run in runs}
    threads = {run["environment"]["threads"] for run in runs}
    if len(machines) > 1:
        return ["trained on different machines: seconds don't compare"]
    counts = " and ".join(map(str, sorted(threads)))
    return [f"trained with {counts} threads: seconds don't compare"] if len(threads) > 1 else []


def unfinished(study: str, rows: Rows) -> list[str]:
    """Rows and seeds of the study that are not there yet."""
    missing = [
        f"{row.label} seed {seed}"
        for row, seed in STUDIES[study].order()
        if row.label not in rows or seed not in [run["seed"] for run in rows[row.label].runs]
    ]
    return [f"not finished yet: {', '.join(missing)}"] if missing else []


def shared_settings(runs: Sequence[dict[str, Any]]) -> str:
    """What all runs share and what is not a default of `multispike train`; rates and gradients."""
    usual = deciding({})
    shared = [
        f"{name} {value}"
        for name, value in runs[0]["settings"].items()
        if value != usual.get(name, value) or name in ("epochs", "arch")
        if all(run["settings"].get(name) == value for run in runs)
        if name not in ("lr", "surrogate")
    ]
    spiking = [run for run in runs if run["settings"]["neuron"] != "relu"]
    return ", ".join([*shared, *_by_row(runs, "lr"), *_by_row(spiking, "surrogate")])


def shown_settings(settings: dict[str, Any]) -> str:
    """What of one training's settings is not a default of `multispike train`."""
    return shared_settings([{"name": "", "settings": settings}])


def _by_row(runs: Sequence[dict[str, Any]], name: str) -> list[str]:
    """A setting, once for every value that it has, with the rows where they differ."""
    values = {run["name"]: run["settings"][name] for run in runs}
    kinds = dict.fromkeys(values.values())
    shown = []
    for kind in kinds:
        rows = ", ".join(label for label, value in values.items() if value == kind)
        shown.append(f"{name} {kind}" + (f" ({rows})" if len(kinds) > 1 else ""))
    return shown


def older_settings(runs: Sequence[dict[str, Any]], study: str) -> list[str]:
    """Rows trained under other settings than the study now has, and what differs."""
    found = [
        f"{run['name']} ({'; '.join(changed)})" for run in runs if (changed := changes(run, study))
    ]
    return [f"**trained under older settings**: {', '.join(found)}"] if found else []


def changes(run: dict[str, Any], study: str) -> list[str]:
    """What the study has changed in a run's settings since it was trained."""
    rows = {row.label: row for row in STUDIES[study].rows}
    planned = STUDIES[study].settings(rows[run["name"]], run["seed"])
    return [
        f"{name} {before}, now {now}" for name, before, now in differing(run["settings"], planned)
    ]
