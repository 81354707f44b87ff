"""`multispike export` and `multispike bench`: a run as an integer program, and how fast that is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from multispike.config.commands import BenchConfig, ExportConfig
from multispike.export.bench import bench_run
from multispike.export.formats import check_free, write
from multispike.export.quantise import Accuracy, compare, finetune_run, quantise_run
from multispike.report.document import give, table_of, terminal_table
from multispike.training.data import data_of, evaluation_loader
from multispike.training.run import load_run, tell_unfinished

WORTH_FINETUNING = 0.003
"""Loss of accuracy by rounding from which on a short fine-tuning is advised."""


@dataclass(frozen=True)
class Exported:
    """What `export_run` wrote.

    Attributes:
        weights: of one byte each. largest_bound: proven for every sum, below 2^31.
        accuracy: None unless it was asked for. finetuned: the same after fine-tuning.
        files: name -> bytes.
    """

    arch: str
    format: str
    out: str
    timesteps: int
    levels: int
    logit_scale: float
    weights: int
    largest_bound: int
    accuracy: Accuracy | None
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
    trained = load_run(run, settings.checkpoint)
    tell_unfinished(trained)
    network = quantise_run(trained)
    dataset = None
    if settings.evaluate or settings.finetune:
        dataset = data_of(trained, settings.data_dir, settings.limit_test)
    loader = evaluation_loader(trained, dataset) if dataset else None
    written = write(network, format, folder)
    accuracy = compare(trained, network, loader) if loader else None
    finetuned = None
    if dataset and loader and accuracy and settings.finetune:
        finetune_run(trained, dataset, settings.finetune)
        tuned = quantise_run(trained)
        finetuned = compare(trained, tuned, loader)
        if finetuned.integer >= accuracy.integer:
            network = tuned
            written = write(network, format, folder)
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
        finetuned=finetuned,
        files=written,
    )


def export(settings: ExportConfig) -> None:
    """Write a run as an integer program; say what it is made of and, if asked, how good it is."""
    written = export_run(settings)
    files = table_of(
        written.files.items(),
        "",
        ("file", "", lambda item: item[0]),
        ("bytes", ",d", lambda item: item[1]),
    )
    lines = [
        f"{written.arch}, T = {written.timesteps}, N = {written.levels}, in {written.out}",
        f"{written.weights:,} weights of one byte; no sum exceeds {written.largest_bound:,},"
        " int32 holds 2,147,483,647",
        *accuracy_lines(written.accuracy, written.finetuned, settings.finetune),
    ]
    give(settings.json, asdict(written), terminal_table(files, ""), *lines)


def accuracy_lines(before: Accuracy | None, after: Accuracy | None, epochs: int) -> list[str]:
    """What rounding cost, and what fine-tuning brought or could bring.

    >>> before = Accuracy(images=1000, float=0.9, integer=0.896, same_class=0.99)
    >>> print(*accuracy_lines(before, None, 0), sep="\\n")
    accuracy on 1,000 test samples: float 0.9000, integer 0.8960 (-0.40 points), same class 0.9900
    rounding costs more than 0.3 points: --finetune 1 trains an epoch with rounded weights
    """
    if before is None:
        return ["accuracy of the integers: not measured, --evaluate does"]
    points = 100 * (before.integer - before.float)
    lines = [
        f"accuracy on {before.images:,} test samples: float {before.float:.4f}, integer"
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
    """Time a run in every runtime and print the table."""
    run = load_run(settings.run, settings.checkpoint)
    data = data_of(run, settings.data_dir)
    result = bench_run(run, data, settings.threads, settings.seconds)
    table = table_of(
        result.rows,
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
    title = f"{result.arch} on {result.data}, {result.threads} threads"
    give(settings.json, asdict(result), terminal_table(table, title))
