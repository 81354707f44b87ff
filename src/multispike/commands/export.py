"""`multispike export` and `multispike bench`: a run as an integer program, and how fast that is."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from multispike.config.commands import BenchConfig, ExportConfig
from multispike.device import device_for, device_of
from multispike.environment import environment
from multispike.errors import InputError
from multispike.export.bench import engines_of, race
from multispike.export.formats import check_free, write
from multispike.export.quantise import Accuracy, as_input, compare, finetune_run, quantise_run
from multispike.plugins import label
from multispike.report.document import give, table_of, terminal_table
from multispike.training.data import data_of, evaluation_loader
from multispike.training.run import load_run, tell_unfinished

WORTH_FINETUNING = 0.003
"""Loss of accuracy by rounding from which on a short fine-tuning is advised."""

SAMPLES = 1000
"""So many of the validation or test split tell without --evaluate what rounding costs, unless
--limit-test says how many."""

BENCH_IMAGES = 256
"""Test samples that the engines take turns through."""


@dataclass(frozen=True)
class Exported:
    """What `export_run` wrote: one-byte weights, the largest bound of a sum, the accuracy or why it
    was not measured, the same after fine-tuning, and files with their bytes."""

    arch: str
    format: str
    out: str
    timesteps: int
    levels: int
    logit_scale: float
    weights: int
    largest_bound: int
    accuracy: Accuracy | None
    not_measured: str | None
    finetuned: Accuracy | None
    files: dict[str, int]


def export_run(settings: ExportConfig) -> Exported:
    """Quantise a run's network and write it to a folder.

    Raises:
        InputError: for a folder that is not empty without `overwrite`, missing data, or a network
            that integers, or the format, can't carry; then nothing is written.
        RunError: where the loss of the fine-tuning is no longer finite; what is written then is
            the network without it.
    """
    run, format = Path(settings.run), settings.format
    folder = Path(settings.out or (run.parent if run.is_file() else run) / format)
    check_free("out", folder, settings.overwrite, "--overwrite")
    trained = load_run(run, settings.checkpoint, device_for(settings.accelerator))
    tell_unfinished(trained)
    network = quantise_run(trained)
    accuracy = not_measured = finetuned = dataset = loader = None
    split = "test"
    try:
        if settings.evaluate or settings.finetune:
            dataset = data_of(trained, settings.data_dir, settings.limit_test)
        else:
            offline = replace(trained, config=replace(trained.config, download=False))
            dataset = data_of(offline, settings.data_dir)
            split = "validation" if dataset.validation else split
            few, limit = dataset.validation or dataset.test, settings.limit_test or SAMPLES
            dataset = replace(dataset, test=few.limited("limit_test", min(limit, len(few))))
        loader = evaluation_loader(trained, dataset)
    except InputError as error:
        if settings.evaluate or settings.finetune:
            raise
        not_measured = str(error)
    files = write(network, format, folder)
    if loader is not None:
        accuracy = replace(compare(trained, network, loader), split=split)
    if settings.finetune and dataset and loader and accuracy:
        finetune_run(trained, dataset, settings.finetune)
        tuned = quantise_run(trained)
        finetuned = compare(trained, tuned, loader)
        if finetuned.integer >= accuracy.integer:
            network, files = tuned, write(tuned, format, folder)
    return Exported(
        arch=network.arch,
        format=format,
        out=str(folder),
        timesteps=network.timesteps,
        levels=trained.network.config["levels"],
        logit_scale=network.logit_scale,
        weights=sum(one.weight.size for one in network.synapses if one.weight is not None),
        largest_bound=max(network.bounds.values()),
        accuracy=accuracy,
        not_measured=not_measured,
        finetuned=finetuned,
        files=files,
    )


def export(settings: ExportConfig) -> None:
    """Write a run as an integer program; say what it is made of and, if asked, how good it is."""
    written = export_run(settings)
    name, size = ("file", "", lambda item: item[0]), ("bytes", ",d", lambda item: item[1])
    lines = [
        f"{written.arch}, T = {written.timesteps}, N = {written.levels}, in {written.out}",
        f"{written.weights:,} weights of one byte; no sum exceeds {written.largest_bound:,},"
        " int32 holds 2,147,483,647",
    ]
    if written.accuracy:
        lines += accuracy_lines(written.accuracy, written.finetuned, settings.finetune)
    else:
        lines += [f"what rounding costs was not measured: {written.not_measured}"]
    files = terminal_table(table_of(written.files.items(), "", name, size), "")
    give(settings.json, asdict(written), files, *lines)


def accuracy_lines(before: Accuracy, after: Accuracy | None, epochs: int) -> list[str]:
    """What rounding cost, and what fine-tuning brought or could bring.

    >>> before = Accuracy(images=1000, float=0.9, integer=0.896, same_class=0.99)
    >>> print(*accuracy_lines(before, None, 0), sep="\\n")
    accuracy on 1,000 test samples: float 0.9000, integer 0.8960 (-0.40 points), same class 0.9900
    rounding costs more than 0.3 points: --finetune 1 trains an epoch with rounded weights
    """
    points = 100 * (before.integer - before.float)
    lines = [
        f"accuracy on {before.images:,} {before.split} samples: float {before.float:.4f}, integer"
        f" {before.integer:.4f} ({points:+.2f} points), same class {before.same_class:.4f}"
    ]
    if after is not None:
        lines.append(f"after {epochs} epochs of fine-tuning: integer {after.integer:.4f}")
        if after.integer < before.integer:
            lines.append("fine-tuning did not help: what is written is the network before it")
    elif before.float - before.integer > WORTH_FINETUNING:
        lines.append(
            f"rounding costs more than {100 * WORTH_FINETUNING:.1f} points:"
            " --finetune 1 trains an epoch with rounded weights"
        )
    return lines


def bench(settings: BenchConfig) -> None:
    """Time a run's network in every runtime, on its own test samples, and print the table."""
    run = load_run(settings.run, settings.checkpoint, device_for(settings.accelerator))
    samples = data_of(run, settings.data_dir).test.inputs[:BENCH_IMAGES]
    network = quantise_run(run)
    pixels = as_input(network, samples).numpy()
    batches = dict.fromkeys((1, min(64, len(samples))))
    mean, std, threads = run.data["mean"], run.data["std"], settings.threads
    with TemporaryDirectory() as folder:
        engines, absent = engines_of(run.network, network, mean, std, Path(folder), threads)
        for name, why in absent.items():
            print(f"without {name}: {why}", file=sys.stderr)
        rows = race(engines, network, pixels, batches, settings.seconds)
    table = table_of(
        rows,
        "same class: share of the n images on which the integer network agrees",
        ("engine", "", lambda row: row.engine),
        ("batch", "d", lambda row: row.batch),
        ("images/s", ",.0f", lambda row: row.images_per_second),
        ("p50 ms", ".2f", lambda row: row.p50_ms),
        ("p99 ms", ".2f", lambda row: row.p99_ms),
        ("KB", ",.0f", lambda row: row.bytes / 1000),
        ("n", "d", lambda row: row.images),
        ("same class", ".4f", lambda row: row.agreement),
    )
    result = {
        "arch": network.arch,
        "data": label(run.data["name"]),
        "threads": threads,
        "environment": environment(device_of(run.network)),
        "rows": [asdict(row) for row in rows],
        "left_out": absent,
    }
    title = f"{network.arch} on {result['data']}, {threads} threads"
    give(settings.json, result, terminal_table(table, title))
