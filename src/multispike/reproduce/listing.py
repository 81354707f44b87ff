"""`multispike reproduce` by itself: the studies, and what of them is finished. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module

from rich.console import Console
from rich.table import Table as TerminalTable

from multispike.config import TrainConfig
from multispike.progress import telling
from multispike.report.document import table_of, terminal_table
from multispike.reproduce.archive import Archive
from multispike.reproduce.studies import STUDIES, ReproduceConfig, Row, Study


def reproduce(settings: ReproduceConfig) -> int | None:
    """Make one study; without a name, list the studies."""
    if settings.study is None:
        Console().print(listing(settings))
        return None
    module, function = STUDIES[settings.study].make.split(":")
    with telling("loading"):
        make = getattr(import_module(module), function)
    return make(settings.study, settings)


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
