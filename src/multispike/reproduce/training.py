"""Studies that train, row after row, each result kept as soon as it is there; and their list."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.table import Table as TerminalTable

from multispike.commands.train import stopped, train_run
from multispike.config import TrainConfig, differing
from multispike.report.document import table_of
from multispike.report.terminal import comparison_table, terminal_table
from multispike.reproduce.archive import Archive
from multispike.reproduce.studies import STUDIES, ReproduceConfig, Row, Study
from multispike.training import Interrupted
from multispike.training.run import read_settings

FURTHER_PROFILES = ("castagnetti2025",)
"""Beside lemaire2022, which every result has."""


def reproduce(settings: ReproduceConfig) -> int | None:
    """Make one study; without a name, list the studies."""
    if settings.study is None:
        Console().print(listing(settings))
        return None
    module, function = STUDIES[settings.study].make.split(":")
    return getattr(import_module(module), function)(settings.study, settings)


def train_rows(name: str, settings: ReproduceConfig) -> int:
    """Train what is missing of a study's rows; gives the exit code."""
    archive = Archive(settings.results, name)
    runs = list(planned(name, settings))
    for row, config in runs:
        if settings.retrain:
            archive.remove(row.label, config.seed)
            shutil.rmtree(config.folder, ignore_errors=True)
    for number, (row, config) in enumerate(runs, 1):
        title = f"{name} {number}/{len(runs)}: {row.label}, seed {config.seed}"
        if archive.finished(row.label, config):
            print(f"{title}: finished, in {archive.path}", file=sys.stderr)
            continue
        print(title, file=sys.stderr)
        config = _opened(config)
        try:
            result = train_run(config, FURTHER_PROFILES)
        except Interrupted:
            without = " without --retrain" if settings.retrain else ""
            return stopped(config, f"the same command{without} goes on")
        if result:
            archive.keep_weights(row.label, config)
            archive.add(row.label, config, result)
    if finished := archive.runs:
        Console().print(comparison_table(finished))
    return 0


def planned(name: str, settings: ReproduceConfig) -> Iterator[tuple[Row, TrainConfig]]:
    """The runs of a study that the settings ask for, in the order of training."""
    study = STUDIES[name]
    for row, seed in study.order():
        if row.label in settings.labels and (settings.seeds is None or seed < settings.seeds):
            yield (
                row,
                replace(
                    study.settings(row, seed),
                    data_dir=settings.data_dir,
                    download=settings.download,
                    out=f"{settings.work}/{name}/{row.label}-s{seed}",
                ),
            )


def _opened(config: TrainConfig) -> TrainConfig:
    """The run goes on where its folder has one of the same settings, else it begins anew."""
    begun = Path(config.folder) / "config.yaml"
    if not begun.exists():
        return config
    changed = differing(read_settings(begun), config)
    if not changed:
        return replace(config, resume=True)
    name, before, now = changed[0]
    print(f"  {name} was {before!r} in {config.folder}, is {now!r}: training anew", file=sys.stderr)
    return replace(config, overwrite=True)


def listing(settings: ReproduceConfig) -> TerminalTable:
    """One row a study: its runs, how many are finished, and how long the rest may take."""
    rows = []
    for name, study in STUDIES.items():
        archive = Archive(settings.results, name)
        runs = list(planned(name, replace(settings, study=name)))
        missing = [c for row, c in runs if not archive.finished(row.label, c)]
        steps = sum(config.epochs * config.timesteps for config in missing)
        finished = f"{len(runs) - len(missing)}/{len(runs)}" if runs else None
        left = f"{steps * epoch_seconds(study, archive) / 60:,.0f} min" if runs else "seconds"
        rows.append((name, study, finished, left))
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


def epoch_seconds(study: Study, archive: Archive) -> float:
    """Training time of one epoch and timestep: of the finished rows, or the study's rough one."""
    runs = archive.runs if study.rows else []  # other studies' files hold no runs
    if not runs:
        return study.epoch_seconds
    steps = sum(run.epochs * run.timesteps for run in runs)
    return sum(run.train_seconds for run in runs) / steps
