"""From settings to results: train, evaluate, compare. What the command line calls."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from multispike.activity import record_activity
from multispike.config import CompareConfig, TrainConfig, same_run
from multispike.config.commands import EnergyConfig, EvaluateConfig, ReportConfig
from multispike.datasets.dataset import Dataset
from multispike.energy.twins import price_run
from multispike.environment import environment
from multispike.errors import invalid
from multispike.files import console_beside, write_json
from multispike.layer_record import with_density
from multispike.models import create_model
from multispike.profiling import evaluate_run
from multispike.progress import progress_bar
from multispike.report.terminal import (
    comparison_table,
    crossover_table,
    energy_notes,
    energy_table,
)
from multispike.results import (
    Environment,
    RunResult,
    check_folder,
    read_result,
    read_results,
    write_result,
    write_results,
)
from multispike.training import RESULT, Interrupted, Run, fit, load_data, load_run
from multispike.training.evaluation import data_of, evaluation_loader, tell_unfinished
from multispike.training.fit import batch_size_of
from multispike.training.run import read_settings


def train(config: TrainConfig) -> int:
    """Train one run, measure it and print its row."""
    if config.resume and not (Path(config.folder) / "last.ckpt").exists():
        print(f"{config.folder} holds no last.ckpt: the training starts anew", file=sys.stderr)
    try:
        result = train_run(config)
    except Interrupted:
        instead = " instead of --overwrite" if config.overwrite else ""
        return stopped(config, f"the same command with --resume{instead} goes on")
    if result:
        Console().print(comparison_table([result.to_dict()]))
        print(f"run: {config.folder}", file=sys.stderr)
    return 0


def compare(config: CompareConfig) -> int:
    """Train every variant that is not finished; then results.json, report.html and the table."""
    folder = Path(config.folder)
    check_folder("out", folder, [run.variant for run in config.runs()])
    results = []
    for run in config.runs():
        begun = (Path(run.folder) / "config.yaml").exists()
        run = replace(run, resume=begun and not config.overwrite, overwrite=config.overwrite)
        try:
            result = train_run(run)
        except Interrupted:
            without = " without --overwrite" if config.overwrite else ""
            return stopped(run, f"the same command{without} goes on")
        if result:
            results.append(result)
            write_results(folder, results)
    if not results:  # a process that has nothing to report
        return 0
    from multispike.report.compare_report import write_report

    report = write_report(folder)
    Console().print(comparison_table([result.to_dict() for result in results]))
    print(f"report: {report}", file=sys.stderr)
    return 0


def evaluate(settings: EvaluateConfig) -> None:
    """Measure a run again: accuracy, activity and energy on the test set."""
    run = load_run(settings.run, settings.checkpoint)
    tell_unfinished(run)
    dataset = data_of(run, settings.data_dir, settings.limit_test)
    result = summarise(run, dataset, settings.profile, settings.bits)
    if settings.flip:
        result = replace(result, accuracy_flip=mirrored_accuracy(run, dataset))
    console = console_beside(settings.json)
    console.print(comparison_table([result.to_dict()]))
    if settings.flip:
        console.print(f"with mirror images: accuracy {result.accuracy_flip:.4f}", highlight=False)
    if settings.json:
        write_json(settings.json, result.to_dict())


def report(settings: ReportConfig) -> None:
    """Measure finished runs under one energy profile; then results.json, report.html, a table."""
    folder = Path(settings.out)
    check_folder("out", folder)
    folder.mkdir(parents=True, exist_ok=True)
    places: list[Path] = []
    runs: list[Run] = []
    results: list[RunResult] = []
    for place in (run for folder in settings.folders for run in _runs_in(Path(folder))):
        run = load_run(place)
        tell_unfinished(run)
        places.append(place)
        runs.append(run)
        data, known = run.data["name"], runs[0].data["name"]
        if data != known:
            raise invalid("runs", f"{place} on {data}", f"runs on {known}, as the first")
        dataset = data_of(run, settings.data_dir, settings.limit_test)
        results.append(summarise(run, dataset, settings.profile, settings.bits))
    names = told_apart(results, places)
    results = [replace(result, name=name) for result, name in zip(results, names, strict=True)]
    write_results(folder, results)
    from multispike.report.compare_report import write_report

    path = write_report(folder, dict(zip(names, (run.folder for run in runs), strict=True)))
    Console().print(comparison_table([result.to_dict() for result in results]))
    print(f"report: {path}", file=sys.stderr)


def told_apart(results: Sequence[Any], places: Sequence[Path]) -> list[str]:
    """Names of runs in one table: with the architecture if there are several, with the place if
    that is not enough.

    >>> from types import SimpleNamespace
    >>> runs = [SimpleNamespace(name="ann", arch=arch) for arch in ("vgg11", "vgg16", "vgg16")]
    >>> told_apart(runs, [Path("a"), Path("b"), Path("c/best.ckpt")])
    ['vgg11 ann', 'vgg16 ann (b)', 'vgg16 ann (c/best.ckpt)']
    """
    several = len({result.arch for result in results}) > 1
    names = [f"{r.arch} {r.name}" if several else r.name for r in results]
    return [
        f"{name} ({'/'.join(place.parts[-2:])})" if names.count(name) > 1 else name
        for name, place in zip(names, places, strict=True)
    ]


def _runs_in(folder: Path) -> list[Path]:
    """A run itself, or the runs of a comparison."""
    if folder.is_file() or not (folder / "results.json").is_file():
        return [folder]
    return [folder / result.name for result in read_results(folder)]


def energy(settings: EnergyConfig) -> None:
    """Price a run or an architecture, layer by layer, beside its ANN and quantised twins."""
    if Path(settings.target).exists():
        run = load_run(settings.target)
        tell_unfinished(run)
        network = run.network
        dataset = data_of(run, settings.data_dir, settings.limit_test)
        loader = evaluation_loader(run, dataset)
        data, density = run.data["name"], settings.density
        with progress_bar(True) as bar:
            task = bar.add_task("activity", total=len(dataset.test))
            activity = record_activity(
                network,
                loader,
                progress=lambda batches, samples: bar.update(task, completed=samples),
            )
    else:
        network = create_model(
            settings.target,
            num_classes=settings.classes,
            in_channels=settings.channels,
            neuron=settings.neuron,
            levels=settings.levels,
            timesteps=settings.timesteps,
        )
        image = torch.ones(1, settings.channels, settings.size, settings.size)
        activity = record_activity(network, [(image, torch.zeros(1, dtype=torch.long))])
        data, density = None, 0.2 if settings.density is None else settings.density
        if settings.neuron == "relu":
            density = None
    if density is not None:
        activity = replace(activity, records=with_density(activity.records, density))
    config = network.config
    priced = {
        **{key: config[key] for key in ("arch", "neuron", "levels", "timesteps")},
        "data": data,
        "samples": activity.samples if data else None,
        "assumed_density": density,
        **price_run(
            activity.records,
            settings.profile,
            settings.bits,
            spiking=activity.spiking,
            fanout=settings.fanout,
            graded_op=settings.graded_op,
            not_counted=activity.not_counted,
        ).to_json(),
    }
    console = console_beside(settings.json)
    code = "ANN" if config["neuron"] == "relu" else f"T{config['timesteps']} N{config['levels']}"
    name = f"{config['arch']} {code}"
    console.print(energy_table(priced, name))
    if "crossover" in priced:
        console.print(crossover_table(priced))
    for line in energy_notes(priced, name):
        console.print(line, highlight=False, soft_wrap=not console.is_terminal)
    if settings.json:
        write_json(settings.json, priced)


def stopped(config: TrainConfig, advice: str) -> int:
    """Say that a training was interrupted and what to do; the exit code for that."""
    last = Path(config.folder) / "last.ckpt"
    print(f"multispike: stopped, {last} is saved; {advice}", file=sys.stderr)
    return 130


def train_run(config: TrainConfig, profiles: Sequence[str] = ()) -> RunResult | None:
    """Train a run to its end and measure it; one that is finished is only read.

    Args:
        config: with `resume`, the run in its folder goes on.
        profiles: energy profiles to price besides, see `summarise`.

    Returns:
        Its result; None in a process that has nothing to report.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, with last.ckpt written.
        InputError, RunError: as `fit`.
    """
    folder = Path(config.folder)
    finished = folder / RESULT
    if config.resume and finished.exists():
        same_run(read_settings(folder / "config.yaml"), config)
        result = read_result(finished)
        if {*profiles} <= {*(result.energy_nj_profiles or ())}:
            return result
    reports = fit(config)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if not reports:
        if "LOCAL_RANK" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ:
            raise SystemExit(0)  # Lightning starts new processes for the next run
        return None
    run = load_run(folder)
    result = summarise(run, load_data(config, config.timesteps), profiles=profiles)
    write_result(finished, result)
    return result


def summarise(
    run: Run,
    dataset: Dataset,
    profile: str = "lemaire2022",
    bits: int = 32,
    profiles: Sequence[str] = (),
) -> RunResult:
    """The result of a run: accuracy, activity and energy on the whole test split.

    Each of `profiles` adds its prices under "energy_nj_profiles".
    """
    if not run.rows:
        raise invalid("run", str(run.folder), "one with a finished epoch: `train` goes on with it")
    loader = evaluation_loader(run, dataset)
    last = run.rows[-1]
    config = run.network.config
    seconds = run.train_seconds
    images = batch_size_of(run.config, len(dataset.train)) * int(last["step"])
    with progress_bar(True) as bar:
        task = bar.add_task(f"measuring {run.config.variant}", total=len(dataset.test))
        measured = evaluate_run(
            run.network,
            loader,
            profile,
            bits,
            profiles=profiles,
            progress=lambda batches, samples: bar.update(task, completed=samples),
        )
    about = {
        "name": run.config.variant,
        "arch": config["arch"],
        "data": run.data["name"],
        "classes": tuple(run.data["classes"]),
        "neuron": config["neuron"],
        "levels": config["levels"],
        "timesteps": config["timesteps"],
        "seed": run.config.seed,
        "epochs": int(last["epoch"]),
        "params": sum(parameter.numel() for parameter in run.network.parameters()),
        "train_seconds": seconds,
        "images_per_second": images / max(last["train_seconds"], 1e-9),
        "best_accuracy": max(row["test_accuracy"] for row in run.rows),
        "environment": Environment(**environment()),
    }
    return RunResult(**{**vars(measured), **about})


@torch.no_grad()
def mirrored_accuracy(run: Run, dataset: Dataset) -> float:
    """Accuracy of the mean of the logits of each image and its mirror image."""
    correct = total = 0
    for inputs, targets in evaluation_loader(run, dataset):
        logits: Tensor = run.network(inputs) + run.network(inputs.flip(-1))
        correct += int((logits.argmax(1) == targets).sum())
        total += len(targets)
    return correct / total
