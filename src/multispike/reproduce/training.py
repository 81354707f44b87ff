"""Studies that train, row after row, each result kept as soon as it is there."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from multispike.commands.train import stopped, train_run
from multispike.config import TrainConfig, differing
from multispike.report.terminal import comparison_table
from multispike.reproduce.archive import Archive
from multispike.reproduce.listing import planned
from multispike.reproduce.studies import ReproduceConfig
from multispike.training import Interrupted
from multispike.training.run import read_settings

FURTHER_PROFILES = ("castagnetti2025",)
"""Beside lemaire2022, which every result has."""


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
