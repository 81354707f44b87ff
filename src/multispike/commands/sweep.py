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
from multispike.progress import time_left
from multispike.report.comparison import energy_uj
from multispike.report.page import write_report
from multispike.report.seeds import summary
from multispike.report.terminal import comparison_table
from multispike.results import check_folder, read_result, write_runs
from multispike.training import RESULT, load_run
from multispike.training.launch import check_machine
from multispike.training.run import judged_accuracy, read_settings

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_CHDIR_TO_TRIAL_DIR": "0", "RAY_AIR_NEW_OUTPUT": "0",
         "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1",
         "RAY_worker_niceness": "0"}  # fmt: skip
"""Ray tells nobody that it is used, trainings are no background work, and Tune leaves files, the
terminal and Ctrl-C to us."""

SETTINGS = b"\4"
"""Type of the frame with which an HTTP/2 server, as Ray has, begins."""


def sweep(settings: SweepConfig) -> int:
    """Train every trial that is not finished; then results.json, report.html and the table."""
    folder, runs = Path(settings.out), settings.runs()
    check_folder("out", folder, [run.variant for run in runs])
    for run in runs:
        begun = Path(run.folder, "config.yaml")
        for name, old, new in differing(read_settings(begun), run) if begun.exists() else ():
            raise invalid(name, new, f"{old!r}, with which {run.folder} began, or another --out")
        if not settings.address:
            check_machine(run)
    finished = {run.variant: Path(run.folder, RESULT) for run in runs}
    results = {name: read_result(path) for name, path in finished.items() if path.exists()}
    others: dict[str, str | None] = {}
    before, since = len(results), time.monotonic()

    def written() -> Any:
        """The results so far, in the order of the trials, which results.json has now."""
        ordered = [results[name] for name in finished if name in results]
        write_runs(folder / "results.json", ordered, **summary(ordered))
        return ordered

    def ended(name: str, failure: str | None) -> None:
        if name in results:  # before; only its epochs were told
            return
        if finished[name].exists():
            results[name] = result = read_result(finished[name])
            written()
            told = f"accuracy {result.accuracy:.4f}  {energy_uj(result):,.2f} µJ"
        else:
            others[name] = failure
            told = failure or f"stopped by {settings.scheduler}"
        done = len(results) + len(others)
        left = time_left(since, before, done, len(runs))
        line = f"{done}/{len(runs)}  {name}  {told}  {left}"
        print(line, file=sys.stderr, flush=True)

    if before < len(runs):
        if before:
            print(f"{before} of {len(runs)} trials are finished", file=sys.stderr)
        asha = settings.scheduler == "asha"
        try:
            train_trials(settings, [r for r in runs if asha or r.variant not in results], ended)
        except KeyboardInterrupt:
            print("multispike: stopped; the same command goes on", file=sys.stderr)
            return 130
    if results:
        Console().print(comparison_table(written()))
        print(f"report: {write_report(folder)}", file=sys.stderr)
    return 1 if any(others.values()) else 0


def train_trials(
    settings: SweepConfig, runs: Sequence[TrainConfig], ended: Callable[[str, str | None], None]
) -> None:
    """Train runs in processes of Ray; `ended` is told the name of each that has ended, and why if
    it failed."""
    with _ray(settings.address) as ray:
        tune, have = import_module("ray.tune"), ray.cluster_resources()
        cpus = have["CPU"]
        gpus = have.get("GPU", 0.0) if runs[0].accelerator in ("auto", "gpu") else 0.0
        workers = settings.workers or int(gpus) or int(cpus) // (runs[0].threads or 1)
        workers = max(1, min(workers, len(runs)))
        share = min(cpus / workers, max(node["Resources"].get("CPU", 0.0) for node in ray.nodes()))
        needs = {"cpu": int(share) if share >= 1 else share, "gpu": min(1.0, gpus / workers)}
        asha = import_module("ray.tune.schedulers").ASHAScheduler(
            time_attr="epoch", max_t=max(run.epochs for run in runs), stop_last_trials=False
        )

        class Ended(tune.Callback):
            def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
                ended(trial.config["run"]["name"], trial.last_result.get("failed"))

            def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
                ended(trial.config["run"]["name"], str(trial.get_error()).strip().splitlines()[-1])

        threads = max(1, int(share))
        plain = [asdict(replace(run, threads=run.threads or threads)) for run in runs]
        place = Path(settings.out).resolve() / ".ray"
        try:
            tune.Tuner(
                tune.with_resources(train_trial, needs),
                param_space={"run": tune.grid_search(plain), "home": os.getcwd()},
                tune_config=tune.TuneConfig(
                    metric="accuracy", mode="max", max_concurrent_trials=workers, reuse_actors=True,
                    scheduler=asha if settings.scheduler == "asha" else None,
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=tune.RunConfig(
                    name="tune", storage_path=str(place), verbose=0, callbacks=[Ended()]
                ),
            ).fit()  # fmt: skip
        finally:
            shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _ray(address: str | None) -> Iterator[Any]:
    """Ray, connected to a cluster, or with processes of its own on this machine."""
    options: dict[str, Any] = {"address": address or "local"}
    if address is None:
        options |= {"num_cpus": cores(), "include_dashboard": False, "object_store_memory": 2**27}
    os.environ.update(QUIET)
    try:
        if address and address != "auto":  # Ray would wait for minutes
            host, _, port = address.rpartition(":")
            with socket.create_connection((host, int(port)), timeout=5) as there:
                if not os.environ.get("RAY_USE_TLS") and there.recv(4)[3:] != SETTINGS:
                    raise OSError("something else than Ray does")
        import_module("ray.tune")
        ray = import_module("ray")
        ray.init(**options, logging_level=logging.ERROR, log_to_driver=False)
    except ImportError as error:
        allowed = "pip install 'multispike[ray]'"
        raise InputError(f"ray: not installed, allowed: {allowed} ({error})") from error
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        why = str(error).strip().splitlines()[0]
        raise invalid("address", address, f"a Ray cluster that answers ({why})") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def train_trial(given: dict[str, Any]) -> None:
    """Train the run of a trial, in a process of Ray. Tune hears of its epochs, first of those of an
    earlier session; but of the last only after the result is written, since it may end a trial."""
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
