"""results/STUDY.json, the finished runs of a study with the settings that made them; and the list
of studies. Torch-free.

A row found in a file is finished on every machine. It is written after each run, so two machines
that train different rows merge by adding lists.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.table import Table as TerminalTable

from multispike.config import TrainConfig
from multispike.config.begun import deciding, differing
from multispike.progress import telling
from multispike.report.document import table_of, terminal_table
from multispike.reproduce.studies import STUDIES, ReproduceConfig
from multispike.results import RunResult, read_runs, write_runs


class Archive:
    """The runs of one study in `path`, RESULTS/STUDY.json; read anew whenever asked for, since
    others may bring in their runs during a training."""

    def __init__(self, results: str | Path, study: str) -> None:
        self.study = study
        self.path = Path(results) / f"{study}.json"

    @property
    def runs(self) -> list[RunResult]:
        """Results with "settings"; "name" is the row's label."""
        return read_runs(self.path) if self.path.exists() else []

    def finished(self, label: str, config: TrainConfig) -> bool:
        """Whether the row's run is here and was made under the same settings."""
        found = [run for run in self.runs if (run.name, run.seed) == (label, config.seed)]
        return bool(found) and not differing(found[0].settings or {}, config)

    def remove(self, label: str, seed: int) -> None:
        if self.path.exists():
            self._write(label, seed)

    def add(self, label: str, config: TrainConfig, result: RunResult) -> None:
        """Put a finished run in the place of an older one, and write the file."""
        entry = replace(result, name=label, settings=deciding(asdict(config)))
        self._write(label, config.seed, entry)

    def _write(self, label: str, seed: int, *instead: RunResult) -> None:
        others = [run for run in self.runs if (run.name, run.seed) != (label, seed)]
        runs = sorted([*others, *instead], key=lambda run: (run.name, run.seed))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        folder = "" if runs and runs[0].data == "digits" else " --data-dir DIR"
        command = f"multispike reproduce {self.study}{folder}"
        write_runs(self.path, runs, study=self.study, command=command)

    def checkpoint(self, label: str, seed: int) -> Path:
        """Where the weights of a run are kept, if they are small."""
        return self.path.parent / "checkpoints" / f"{self.study}-{label}-s{seed}.ckpt"


def reproduce(settings: ReproduceConfig) -> int | None:
    """Make one study; without a name, list the studies."""
    if settings.study is None:
        Console().print(_listing(settings))
        return None
    with telling("loading"):
        makers = import_module("multispike.reproduce.make")
    return getattr(makers, STUDIES[settings.study].make)(settings.study, settings)


def _listing(settings: ReproduceConfig) -> TerminalTable:
    """One row a study: its runs, how many are finished, and how long the rest may take."""
    rows = []
    for name, study in STUDIES.items():
        archive = Archive(settings.results, name)
        runs = list(replace(settings, study=name).planned())
        missing = [c for row, c in runs if not archive.finished(row.label, c)]
        seconds = study.epoch_seconds * sum(c.epochs * c.timesteps for c in missing)
        finished = f"{len(runs) - len(missing)}/{len(runs)}" if runs else None
        rows.append((name, study, finished, f"{seconds / 60:,.0f} min" if runs else "seconds"))
    table = table_of(
        rows,
        "",
        ("name", "", lambda row: row[0]),
        ("what", "", lambda row: row[1].title),
        ("recipe", "", lambda row: row[1].recipe),
        ("finished", "s", lambda row: row[2]),
        ("left, about", "s", lambda row: row[3]),
    )
    return terminal_table(table, "multispike reproduce NAME")
