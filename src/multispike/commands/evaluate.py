"""`multispike evaluate`, `report` and `energy`: what runs and architectures do and cost."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from multispike.config.begun import deciding
from multispike.config.commands import EvaluateConfig, ReportConfig
from multispike.config.types import split_names
from multispike.datasets import load_dataset
from multispike.datasets.dataset import Dataset
from multispike.device import device_for, device_of
from multispike.energy.twins import price_run
from multispike.environment import environment
from multispike.errors import invalid
from multispike.export.serialize import load as load_integer
from multispike.models.own import code_of
from multispike.plugins import label
from multispike.pretrained import PRETRAINED, find
from multispike.profiling import evaluate_run
from multispike.progress import progress_bar
from multispike.report.document import give
from multispike.report.page import write_report
from multispike.report.seeds import grouped, summary
from multispike.report.terminal import comparison_table
from multispike.results import (
    Environment,
    RunResult,
    check_folder,
    read_result,
    read_runs,
    write_runs,
)
from multispike.training import RESULT, Run, load_run
from multispike.training.data import (
    EVALUATION_BATCH,
    batch_size_of,
    data_of,
    evaluation_loader,
)
from multispike.training.loaders import Loaders
from multispike.training.run import judged_accuracy, tell_unfinished


def evaluate(settings: EvaluateConfig) -> None:
    """Measure a run again: accuracy, activity and energy on the test set."""
    if settings.run in PRETRAINED and find(settings.run).suffix == ".npz":
        return evaluate_integer(settings)
    run = load_run(settings.run, settings.checkpoint, device_for(settings.accelerator))
    _check_begun(run)
    dataset = data_of(run, settings.data_dir, settings.limit_test)
    result = measure_run(run, dataset, settings.profile, settings.bits)
    shown = []
    if settings.flip:
        result = replace(result, accuracy_flip=mirrored_accuracy(run, dataset))
        shown = [f"with mirror images: accuracy {result.accuracy_flip:.4f}"]
    give(settings.json, result.to_dict(), comparison_table([result]), *shown)


def evaluate_integer(settings: EvaluateConfig) -> None:
    """Print the accuracy of an integer network that travels with the package."""
    row, network = PRETRAINED[settings.run], load_integer(find(settings.run))
    channels, size, _ = network.input_shape
    framing: dict[str, Any] = {"timesteps": network.timesteps, "bins": channels // 2, "size": size}
    options = framing if network.events else {}
    data = load_dataset(row.data, settings.data_dir, limit_test=settings.limit_test, **options)
    correct, total = 0, len(data.test)
    with samples_bar(f"measuring {settings.run}", data) as progress:
        for start in range(0, total, EVALUATION_BATCH):
            part = slice(start, start + EVALUATION_BATCH)
            inputs = data.test.inputs[part].numpy()
            answers = network.forward(inputs.swapaxes(0, 1) if network.events else inputs).argmax(1)
            correct += int((answers == data.test.labels[part].numpy()).sum())
            progress(0, start + len(answers))
    accuracy = correct / total
    line = f"{settings.run}: accuracy {accuracy:.4f} on {row.data} (n = {total:,})"
    result = {"name": settings.run, "accuracy": accuracy, "samples": total}
    give(settings.json, result, line)


def measure_run(
    run: Run,
    dataset: Dataset | Loaders,
    profile: str = "lemaire2022",
    bits: int = 32,
    profiles: Sequence[str] = (),
) -> RunResult:
    """The result of a run: accuracy, activity and energy on the whole test split.

    Each of `profiles` adds its prices under "energy_nj_profiles".
    """
    given = isinstance(dataset, Loaders)
    loader = dataset.loaders[1] if given else evaluation_loader(run, dataset)
    last = run.rows[-1]
    images = batch_size_of(run.config, len(dataset.train)) * int(last["step"])
    with samples_bar(f"measuring {run.config.variant}", dataset) as progress:
        measured = evaluate_run(
            run.network, loader, profile, bits, profiles=profiles, progress=progress
        )
    return RunResult(
        name=run.config.variant,
        data=label(run.data["name"]),
        classes=tuple(run.data["classes"]),
        **code_of(run.network),
        seed=run.config.seed,
        epochs=int(last["epoch"]),
        params=sum(parameter.numel() for parameter in run.network.parameters()),
        train_seconds=run.train_seconds,
        images_per_second=images / max(last["train_seconds"], 1e-9),
        best_accuracy=max(map(judged_accuracy, run.rows)),
        settings=deciding(asdict(run.config)),
        environment=Environment(**environment(device_of(run.network))),
        **vars(measured),
    )


@torch.no_grad()
def mirrored_accuracy(run: Run, dataset: Dataset) -> float:
    """Accuracy of the mean of the logits of each image and its mirror image."""
    correct = total = 0
    for inputs, targets in evaluation_loader(run, dataset):
        logits = run.network(inputs) + run.network(inputs.flip(-1))
        correct += int((logits.argmax(1) == targets).sum())
        total += len(targets)
    return correct / total


def report(settings: ReportConfig) -> None:
    """Finished runs under one energy profile; then results.json, report.html, a table."""
    folder = Path(settings.out)
    check_folder("out", folder)
    device_for(settings.accelerator)
    folder.mkdir(parents=True, exist_ok=True)
    places = [run for given in split_names(settings.runs) for run in _runs_in(find(given))]
    results: list[RunResult] = []
    for place in places:
        results.append(_priced(place, settings))
        data, known = results[-1].data, results[0].data
        if data != known:
            raise invalid("runs", f"{place} on {data}", f"runs on {known}, as the first")
    names = told_apart(results, places)
    results = [replace(result, name=name) for result, name in zip(results, names, strict=True)]
    write_runs(folder / "results.json", results, **summary(results))
    folders = (place if place.is_dir() else place.parent for place in places)
    path = write_report(folder, dict(zip(names, folders, strict=True)))
    Console().print(comparison_table(results))
    print(f"report: {path}", file=sys.stderr)


def _runs_in(folder: Path) -> list[Path]:
    """A run itself, or the runs of a comparison."""
    if folder.is_file() or not (folder / "results.json").is_file():
        return [folder]
    return [folder / result.name for result in read_runs(folder / "results.json")]


def _priced(place: Path, settings: ReportConfig) -> RunResult:
    """A run's result under the profile: of a finished one, by what was recorded then; of others,
    or on other test samples, or where an older version kept no whole records, measured anew."""
    finished = place / RESULT
    if finished.is_file() and settings.limit_test is None:
        stored = read_result(finished)
        if stored.records is not None:
            prices = price_run(
                stored.records,
                settings.profile,
                settings.bits,
                spiking=stored.spiking,
                not_counted=stored.not_counted,
            )
            return replace(stored, **vars(prices))
    run = load_run(place, device=device_for(settings.accelerator))
    _check_begun(run)
    dataset = data_of(run, settings.data_dir, settings.limit_test)
    return measure_run(run, dataset, settings.profile, settings.bits)


def _check_begun(run: Run) -> None:
    """Refuse a run without a finished epoch, and tell of one that lacks some."""
    if not run.rows:
        raise invalid("run", str(run.folder), "one with a finished epoch: `train` goes on with it")
    tell_unfinished(run)


def told_apart(results: Sequence[Any], places: Sequence[Path]) -> list[str]:
    """Names of runs in one table: with the architecture if there are several, with the place if
    that is not enough, and with the seed where nothing else differs.

    >>> from types import SimpleNamespace as Run
    >>> runs = [Run(name="ann", arch=arch, seed=0, settings={"arch": arch})
    ...         for arch in ("vgg11", "vgg16", "vgg16")]
    >>> told_apart(runs, [Path("a"), Path("b"), Path("c/best.ckpt")])
    ['vgg11 ann', 'vgg16 ann (b)', 'vgg16 ann (c/best.ckpt)']
    """
    place_of = {id(result): place for result, place in zip(results, places, strict=True)}
    several, groups = len({result.arch for result in results}) > 1, grouped(results)
    names = [f"{g.runs[0].arch} {g.name}" if several else g.name for g in groups]
    found = {}
    for group, name in zip(groups, names, strict=True):
        if names.count(name) > 1:
            name = f"{name} ({'/'.join(place_of[id(group.runs[0])].parts[-2:])})"
        for run in group.runs:
            found[id(run)] = f"{name}-s{run.seed}" if len(group.runs) > 1 else name
    return [found[id(result)] for result in results]


@contextmanager
def samples_bar(what: str, dataset: Dataset | Loaders) -> Iterator[Callable[[int, int], None]]:
    """A progress bar over the test split, and what `record_activity` moves it with."""
    with progress_bar(True) as bar:
        task = bar.add_task(what, total=len(dataset.test))
        yield lambda batches, samples: bar.update(task, completed=samples)
