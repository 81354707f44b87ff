"""`multispike train` and `multispike compare`: run folders, from settings to results."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lightning.fabric.loggers.logger import Logger
from rich.console import Console

from multispike.commands.evaluate import measure_run
from multispike.config import CompareConfig, TrainConfig
from multispike.config.begun import same_run
from multispike.config.commands import TrainRuns
from multispike.datasets.dataset import Dataset
from multispike.device import device_for
from multispike.models.network import Network
from multispike.report.page import write_report
from multispike.report.seeds import summary
from multispike.report.terminal import comparison_table
from multispike.results import RunResult, check_folder, read_result, write_result, write_runs
from multispike.training import RESULT, Interrupted, fit, load_data, load_run
from multispike.training.loaders import Loaders
from multispike.training.loop import Callback
from multispike.training.run import read_settings

IN_HAND = "MULTISPIKE_RUN"
"""Environment variable: the run that a process trains, for those that Lightning starts to help it,
which begin the same command anew."""

STARTED_FOR = os.environ.get(IN_HAND)


def train(config: TrainRuns) -> int:
    """Train one run, or one from each seed, measure and print them."""
    runs = config.runs()
    if config.resume and not any((Path(run.folder) / "last.ckpt").exists() for run in runs):
        print(f"{config.folder} holds no last.ckpt: the training starts anew", file=sys.stderr)
    instead = " instead of --overwrite" if config.overwrite else ""
    folder = Path(config.folder) if len(runs) > 1 else None
    return train_all(runs, folder, f"the same command with --resume{instead} goes on")


def compare(config: CompareConfig) -> int:
    """Train every run that is not finished; then results.json, report.html and the table."""
    runs = [
        replace(
            run,
            resume=(Path(run.folder) / "config.yaml").exists() and not config.overwrite,
            overwrite=config.overwrite,
        )
        for run in config.runs()
    ]
    without = " without --overwrite" if config.overwrite else ""
    return train_all(runs, Path(config.folder), f"the same command{without} goes on")


def train_all(runs: Sequence[TrainConfig], folder: Path | None, advice: str) -> int:
    """Train runs one after the other and print their table; their results.json, written after each,
    and report.html go to `folder`. `advice`: how to go on if they are stopped."""
    if folder:
        check_folder("out", folder, [run.variant for run in runs])
    results = []
    for run in runs:
        try:
            result = train_run(run)
        except Interrupted:
            return stopped(run, advice)
        if result:
            results.append(result)
            if folder:
                write_runs(folder / "results.json", results, **summary(results))
    if results:  # none in a process that has nothing to report
        made = f"report: {write_report(folder)}" if folder else f"run: {runs[0].folder}"
        Console().print(comparison_table(results))
        print(made, file=sys.stderr)
    return 0


def stopped(config: TrainConfig, advice: str) -> int:
    """Say that a training was interrupted and what to do; the exit code for that."""
    last = Path(config.folder) / "last.ckpt"
    print(f"multispike: stopped, {last} is saved; {advice}", file=sys.stderr)
    return 130


def train_run(
    config: TrainConfig, profiles: Sequence[str] = (), network: Network | None = None,
    data: Dataset | Loaders | None = None, callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
) -> RunResult | None:  # fmt: skip
    """Train a run to its end and measure it, also under further energy `profiles`; one that is
    finished is only read. None in a process that has nothing to report. `fit` says what further
    arguments are.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, with last.ckpt written.
        InputError, RunError: as `fit`.
    """
    folder = Path(config.folder)
    started = "LOCAL_RANK" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ
    if started and STARTED_FOR not in (None, config.folder):
        return None  # the process that started this one has that run behind it, or before it
    os.environ[IN_HAND] = config.folder
    finished = folder / RESULT
    if config.resume and finished.exists():
        same_run(read_settings(folder / "config.yaml"), config)
        result = read_result(finished)
        if {*profiles} <= {*(result.energy_nj_profiles or ())}:
            return result
    reports = fit(config, network, data, callbacks, loggers)
    if not reports:
        if started:
            raise SystemExit(0)  # Lightning starts new processes for the next run
        return None
    data = load_data(config, config.timesteps) if data is None else data
    run = load_run(folder, device=device_for(config.accelerator), model=network)
    result = measure_run(run, data, profiles=profiles)
    write_result(finished, result)
    return result
