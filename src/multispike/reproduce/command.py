"""`multispike reproduce`: make a study, or list the studies."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

from rich import box
from rich.console import Console
from rich.table import Table

from multispike.reproduce.archive import Archive
from multispike.reproduce.settings import ReproduceConfig
from multispike.reproduce.studies import STUDIES, Study


def reproduce(settings: ReproduceConfig) -> int | None:
    """Make one study; without a name, list the studies."""
    if settings.study is None:
        Console().print(listing(settings))
        return None
    module, function = STUDIES[settings.study].make.split(":")
    return getattr(import_module(module), function)(settings.study, settings)


def listing(settings: ReproduceConfig) -> Table:
    """One row a study: its runs, how many are finished, and how long the rest may take."""
    from multispike.reproduce.training import planned

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="multispike reproduce NAME")
    for column in ("name", "what", "recipe"):
        table.add_column(column, no_wrap=True)
    for column in ("finished", "left, about"):
        table.add_column(column, justify="right")
    for name, study in STUDIES.items():
        archive = Archive(settings.results, name)
        runs = list(planned(name, replace(settings, study=name)))
        missing = [c for row, c in runs if not archive.finished(row.label, c)]
        steps = sum(config.epochs * config.timesteps for config in missing)
        minutes = steps * epoch_seconds(study, archive) / 60
        table.add_row(
            name,
            study.title,
            study.recipe,
            f"{len(runs) - len(missing)}/{len(runs)}" if runs else "-",
            f"{minutes:,.0f} min" if runs else "seconds",
        )
    return table


def epoch_seconds(study: Study, archive: Archive) -> float:
    """Training time of one epoch and timestep: of the finished rows, or the study's rough one."""
    runs = archive.runs if study.rows else []  # other studies' files hold no runs
    if not runs:
        return study.epoch_seconds
    steps = sum(run.epochs * run.timesteps for run in runs)
    return sum(run.train_seconds for run in runs) / steps
