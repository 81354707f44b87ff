"""`multispike sweep`: a run a trial, several at a time, in processes of Ray Tune."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from multispike.commands.train import train_run
from multispike.config import TrainConfig
from multispike.config.begun import differing
from multispike.config.sweep import SweepConfig
from multispike.environment import cores, keep_freed_memory
from multispike.errors import InputError, RunError, invalid
from multispike.report.comparison import energy_uj
from multispike.report.page import write_report
from multispike.report.terminal import comparison_table
from multispike.results import RunResult, check_folder, read_result, write_runs
from multispike.training import RESULT, load_run
from multispike.training.launch import check_machine
from multispike.training.run import judged_accuracy, read_settings

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
"""Ray tells nobody that it is used, and Tune leaves files, the terminal and Ctrl-C to us."""

OBJECTS = 80 * 2**20
"""Bytes of Ray's store for what processes share, which here is next to nothing."""


def sweep(settings: SweepConfig) -> int:
    """Train every trial that is not finished; then results.json, report.html and the table."""
    folder, runs = Path(settings.out), settings.runs()
    check_folder("out", folder, [run.variant for run in runs])
    for run in runs:
        check_begun(run)
        if not settings.address:
            check_machine(run)
    finished = {run.variant: Path(run.folder, RESULT) for run in runs}
    results = {name: read_result(path) for name, path in finished.items() if path.exists()}
    failed: list[str] = []
    known, started = {*results}, time.monotonic()

    def ended(name: str, why: str | None) -> None:
        """A trial has ended: is finished, has failed, or was stopped by the scheduler."""
        if name in known:
            return
        known.add(name)
        if finished[name].exists():
            results[name] = result = read_result(finished[name])
            _write(folder, runs, results)
            why = f"accuracy {result.accuracy:.4f}  {energy_uj(result):,.2f} µJ"
        elif why is None:
            why = f"stopped by {settings.scheduler}"
        else:
            failed.append(name)
        done = len(known) - before
        left = round((time.monotonic() - started) / done * (len(runs) - len(known)))
        line = f"{len(known)}/{len(runs)}  {name}  {why}  {left // 60}:{left % 60:02d} left"
        print(line, file=sys.stderr, flush=True)

    before = len(known)
    if before < len(runs):
        if before:
            print(f"{before} of {len(runs)} trials are finished", file=sys.stderr)
        waiting = [run for run in runs if settings.scheduler == "asha" or run.variant not in known]
        try:
            train_trials(settings, waiting, ended)
        except KeyboardInterrupt:
            print("multispike: stopped; the same command goes on", file=sys.stderr)
            return 130
    if results:
        ordered = _write(folder, runs, results)
        report = write_report(folder)
        Console().print(comparison_table(ordered))
        print(f"report: {report}", file=sys.stderr)
    return 1 if failed else 0


def check_begun(run: TrainConfig) -> None:
    """Raise `InputError` where a trial has begun under other settings."""
    settings = Path(run.folder, "config.yaml")
    for name, before, now in differing(read_settings(settings), run) if settings.exists() else ():
        allowed = f"{before!r}, with which {run.folder} began, or another --out"
        raise invalid(name, now, allowed)


def _write(
    folder: Path, runs: Sequence[TrainConfig], results: dict[str, RunResult]
) -> list[RunResult]:
    """Write results.json, its runs in the order of the trials."""
    ordered = [results[run.variant] for run in runs if run.variant in results]
    write_runs(folder / "results.json", ordered)
    return ordered


def train_trials(
    settings: SweepConfig, runs: Sequence[TrainConfig], ended: Callable[[str, str | None], None]
) -> None:
    """Train runs in processes of Ray. `ended` is told the name of each that has ended, and why if
    it failed."""
    with _ray(settings.address) as ray:
        tune = import_module("ray.tune")
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus = sum(node.get("CPU", 0.0) for node in nodes)
        gpus = sum(node.get("GPU", 0.0) for node in nodes)
        if runs[0].accelerator not in ("auto", "gpu"):
            gpus = 0.0
        workers = settings.workers or int(gpus) or int(cpus) // (runs[0].threads or 1)
        workers = max(1, min(workers, len(runs)))
        share = min(cpus / workers, max(node.get("CPU", 0.0) for node in nodes))
        needs = {"cpu": int(share) if share >= 1 else share, "gpu": min(1.0, gpus / workers)}
        threads = max(1, int(share))

        class Ended(tune.Callback):
            def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
                ended(trial.config["run"]["name"], trial.last_result.get("failed"))

            def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
                error = str(trial.get_error()).strip().splitlines()
                ended(trial.config["run"]["name"], f"failed: {error[-1]}")

        scheduler = None
        if settings.scheduler == "asha":
            epochs = max(run.epochs for run in runs)
            scheduler = tune.schedulers.ASHAScheduler(
                time_attr="epoch", max_t=epochs, stop_last_trials=False
            )
        plain = [asdict(replace(run, threads=run.threads or threads)) for run in runs]
        tuner = tune.Tuner(
            tune.with_resources(train_trial, needs),
            param_space={"run": tune.grid_search(plain), "home": os.getcwd()},
            tune_config=tune.TuneConfig(
                metric="accuracy",
                mode="max",
                scheduler=scheduler,
                max_concurrent_trials=workers,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="ray",
                storage_path=str(Path(settings.out).resolve() / ".ray"),
                verbose=0,
                callbacks=[Ended()],
            ),
        )
        try:
            tuner.fit()
        finally:
            shutil.rmtree(Path(settings.out) / ".ray", ignore_errors=True)


def _silent(address: str | None, error: Exception) -> InputError:
    why = str(error).strip().splitlines()[0]
    return invalid("address", address, f"a Ray cluster that answers ({why})")


@contextmanager
def _ray(address: str | None) -> Iterator[Any]:
    """Ray, connected to a cluster, or with processes of its own on this machine."""
    if address and address != "auto":
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except (OSError, OverflowError) as error:
            raise _silent(address, error) from error
    os.environ.update(QUIET)
    try:
        import_module("ray.tune")
    except ImportError as error:
        allowed = "pip install 'multispike[ray]'"
        raise InputError(f"ray: not installed, allowed: {allowed} ({error})") from error
    ray = import_module("ray")
    options: dict[str, Any] = {"num_cpus": cores(), "object_store_memory": OBJECTS}
    options |= {"address": "local", "include_dashboard": False}
    if address:
        options = {"address": address}
    try:
        ray.init(**options, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:  # OSError: "auto" finds none
        raise _silent(address, error) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def train_trial(given: dict[str, Any]) -> None:
    """Train the run of a trial, in a process of Ray; its scheduler hears of every epoch but the
    last, after which nothing is saved by an end, those of an earlier session first."""
    tune = import_module("ray.tune")
    os.chdir(given["home"])
    keep_freed_memory()
    config = TrainConfig(**given["run"])
    folder = Path(config.folder)

    def tell(row: dict[str, float], network: nn.Module | None = None) -> None:
        if row["epoch"] < config.epochs:
            tune.report({"epoch": int(row["epoch"]), "accuracy": judged_accuracy(row)})

    try:
        for row in load_run(folder).rows if (folder / "last.ckpt").exists() else ():
            tell(row)
        begun = (folder / "config.yaml").exists()
        result = train_run(replace(config, resume=begun), callbacks=[tell])
        assert result is not None
        tune.report({"epoch": config.epochs, "accuracy": result.accuracy})
    except (InputError, RunError, OSError) as error:
        tune.report({"epoch": 0, "accuracy": 0.0, "failed": str(error)})
