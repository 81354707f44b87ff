"""A compare directory as data: its results, each run's settings and training history."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from multispike.errors import InputError
from multispike.report.document import Key
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


def energy_uj(run: RunResult) -> float:
    """Energy per inference in µJ."""
    return run.energy_nj.total * MICRO


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
    missing = [key for key in _METRICS if any(key not in row for row in history)]
    if missing:
        raise InputError(f"metrics: got {str(path)!r}, a table without {missing[0]!r}")
    return history


_METRICS = ("epoch", "test_accuracy", "train_loss")
