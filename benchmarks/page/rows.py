"""The runs of a study by row, and what can be said of one row against another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multispike.config.begun import deciding, differing
from multispike.energy.twins import Execution, FurtherPrices
from multispike.files import plain_fields
from multispike.report import document, seeds
from multispike.report.comparison import sampling_error
from multispike.reproduce.studies import STUDIES
from multispike.results import RunResult, read_json, read_runs
from page.markdown import source, whole

FIRST = "lemaire2022"
SECOND = "castagnetti2025"
PROFILES = (FIRST, SECOND)

ACCURATE = 0.5
"""Points: what counts as the same accuracy in the aims."""

BOUNDED = 0.8
"""Sparse-ResNet's amplitude over SEW-ResNet's, at most: the paper's claim."""


@dataclass(frozen=True)
class StudyRuns:
    """What the file of a trained study holds."""

    study: str
    command: str
    runs: list[RunResult]


def read_study(path: Path) -> StudyRuns:
    """RESULTS/STUDY.json.

    Raises:
        InputError: as `read_runs`.
    """
    runs = read_runs(path)
    return StudyRuns(path.stem, read_json(path)["command"], runs)


class Group(seeds.Group):
    """The runs of one row, by seed."""

    @property
    def accuracy(self) -> float:
        """In per cent."""
        return 100 * self.of(lambda run: run.accuracy)

    @property
    def largest(self) -> int:
        """The largest level that any layer or sum sent."""
        return max(layer.max_level for layer in self.mean.neurons)

    def energy(self, profile: str, part: str = "total") -> float:
        """µJ per inference."""
        return self.of(lambda run: getattr(priced(run, profile).energy_nj, part)) / 1e3

    def baseline(self, profile: str, twin: Execution) -> float:
        """µJ of an ANN or quantised twin."""
        return self.of(lambda run: (priced(run, profile).baselines or {})[twin].total) / 1e3


def priced(run: RunResult, profile: str) -> RunResult | FurtherPrices:
    """Energy and twins of a run under a profile."""
    return run if run.energy_nj.profile == profile else (run.energy_nj_profiles or {})[profile]


Rows = dict[str, Group]


def rows_of(content: StudyRuns) -> Rows:
    """The finished rows in the study's order; runs of older settings are rows of their own, with
    which nothing is compared."""
    found = {}
    for group in seeds.grouped(content.runs):
        older = " (older settings)" if changes(group.runs[0], content.study) else ""
        found[group.name + older] = Group(group.name + older, group.runs)
    labels = [row.label for row in STUDIES[content.study].rows]
    names = [name for label in labels for name in (label, f"{label} (older settings)")]
    return {name: found[name] for name in names if name in found}


def accuracy(group: Group) -> str:
    """Per cent, with the standard deviation where there are several seeds."""
    return document.Column("", ".2f").show(group.accuracy)


Column = tuple[str, Callable[[Group], str]]

COLUMNS: dict[str, Column] = {
    "accuracy": ("accuracy %", accuracy),
    "chosen": ("validation %", lambda g: f"{100 * (g.mean.best_accuracy or 0):.2f}"),
    "n": ("n", lambda g: str(len(g.runs))),
    "density": ("density", lambda g: f"{g.mean.density:.3f}"),
    "events": (
        "events",
        lambda g: whole(g.mean.events_per_inference) if g.mean.spiking else "-",
    ),
    "amplitude": (
        "amplitude Σz",
        lambda g: whole(g.mean.amplitude_per_inference) if g.mean.spiking else "-",
    ),
    "largest": ("largest z", lambda g: str(g.largest) if g.mean.spiking else "-"),
    "energy": (f"µJ {FIRST}", lambda g: whole(g.energy(FIRST))),
    "energy2": (f"µJ {SECOND}", lambda g: whole(g.energy(SECOND))),
    "skip": (
        f"µJ zero-skipping QANN, {FIRST}",
        lambda g: whole(g.baseline(FIRST, "qann_skip")) if g.mean.spiking else "-",
    ),
    "seconds": ("training s", lambda g: whole(g.mean.train_seconds)),
}


def points(one: Group, other: Group) -> float:
    """How much more accurate one row is, in points."""
    return one.accuracy - other.accuracy


def lead(one: Group, other: Group) -> str:
    """`points`, and of the seed that both have where one of them has more."""
    text = f"{points(one, other):+.2f} points"
    if len(one.runs) == len(other.runs):
        return text
    alone = 100 * (one.runs[0].accuracy - other.runs[0].accuracy)
    return f"{text} (n = {len(one.runs)} and {len(other.runs)}; the first seed alone {alone:+.2f})"


def likely_error(accuracies: Iterable[float], samples: int) -> float:
    """Half of the 95 % interval of an accuracy, points, from the number of test images alone: the
    largest of several.

    >>> round(likely_error([0.9, 0.99], 10_000), 2)
    0.59
    """
    return 100 * 1.96 * max(sampling_error(accuracy, samples) for accuracy in accuracies)


def study_source(content: StudyRuns, rows: Rows) -> str:
    """The line below a study's table: command, settings, seeds, what is missing, versions."""
    study = content.study
    runs = [run for group in rows.values() for run in group.runs]
    several = [
        f"{g.name} with seeds {', '.join(map(str, g.seeds))}"
        for g in rows.values()
        if len(g.runs) > 1
    ]
    error = max(likely_error([run.accuracy], run.samples) for run in runs)
    settings = [(run.name, run.settings or {}) for run in runs]
    remarks = [
        f"recipe `recipes/{STUDIES[study].recipe}.yaml`: {shared_settings(settings)}",
        f"n = 1 run a row, seed 0{', but ' + '; '.join(several) if several else ''}",
        f"{runs[0].samples:,} test images, sampling error of an accuracy about"
        f" ±{error:.1f} points (95 %)",
        *_assumed(runs),
        *_machines(runs),
        *older_settings(runs, study),
        *unfinished(study, rows),
    ]
    environments = [plain_fields(run.environment) for run in runs]
    known = [{k: value for k, value in one.items() if value != "?"} for one in environments]
    return source(f"{study}.json", content.command, remarks, *known)


def _assumed(runs: Sequence[RunResult]) -> list[str]:
    """What the energy model leaves open, as it was chosen for the spiking networks."""
    chosen = {
        f"energy: fan-out {own.fanout}, a graded event meets a weight by {own.graded_op}"
        for run in runs
        if run.spiking and (own := run.assumptions)
    }
    return sorted(chosen)


def _machines(runs: Sequence[RunResult]) -> list[str]:
    """A warning where rows were trained on different machines, or with different threads."""
    machines = {run.environment.cpu for run in runs}
    threads = {run.environment.threads for run in runs}
    if len(machines) > 1:
        return ["trained on different machines: seconds don't compare"]
    counts = " and ".join(map(str, sorted(threads)))
    return [f"trained with {counts} threads: seconds don't compare"] if len(threads) > 1 else []


def unfinished(study: str, rows: Rows) -> list[str]:
    """Rows and seeds of the study that are not there yet."""
    missing = [
        f"{row.label} seed {seed}"
        for row, seed in STUDIES[study].order()
        if row.label not in rows or seed not in rows[row.label].seeds
    ]
    return [f"not finished yet: {', '.join(missing)}"] if missing else []


Named = tuple[str, Mapping[str, Any]]
"""A row's label, and the settings of one of its runs."""


def shared_settings(runs: Sequence[Named]) -> str:
    """What all runs share and what is not a default of `multispike train`; rates and gradients."""
    usual = deciding({})
    shared = [
        f"{name} {value}"
        for name, value in runs[0][1].items()
        if value != usual.get(name, value) or name in ("epochs", "arch")
        if all(settings.get(name) == value for _, settings in runs)
        if name not in ("lr", "surrogate")
    ]
    spiking = [run for run in runs if run[1]["neuron"] != "relu"]
    return ", ".join([*shared, *_by_row(runs, "lr"), *_by_row(spiking, "surrogate")])


def shown_settings(settings: dict[str, Any]) -> str:
    """What of one training's settings is not a default of `multispike train`."""
    return shared_settings([("", settings)])


def _by_row(runs: Sequence[Named], name: str) -> list[str]:
    """A setting, once for every value that it has, with the rows where they differ."""
    values = {label: settings[name] for label, settings in runs}
    kinds = dict.fromkeys(values.values())
    shown = []
    for kind in kinds:
        rows = ", ".join(label for label, value in values.items() if value == kind)
        value = "by default" if kind is None else kind
        shown.append(f"{name} {value}" + (f" ({rows})" if len(kinds) > 1 else ""))
    return shown


def older_settings(runs: Sequence[RunResult], study: str) -> list[str]:
    """Rows trained under other settings than the study now has, and what differs."""
    found = [
        f"{run.name} ({'; '.join(changed)})" for run in runs if (changed := changes(run, study))
    ]
    return [f"**trained under older settings**: {', '.join(found)}"] if found else []


def changes(run: RunResult, study: str) -> list[str]:
    """What the study has changed in a run's settings since it was trained."""
    rows = {row.label: row for row in STUDIES[study].rows}
    planned = STUDIES[study].settings(rows[run.name], run.seed)
    return [
        f"{name} {before}, now {now}"
        for name, before, now in differing(run.settings or {}, planned)
    ]
