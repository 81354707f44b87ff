"""`multispike export` and `multispike bench`: what the command line calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from multispike.config.commands import BenchConfig, ExportConfig
from multispike.export.bench import bench_run
from multispike.export.export import export_run
from multispike.export.trained import WORTH_FINETUNING
from multispike.files import console_beside, write_json


def export(settings: ExportConfig) -> None:
    """Write a run as an integer program; say what it is made of and, if asked, how good it is."""
    run = Path(settings.run)
    out = settings.out or str((run.parent if run.is_file() else run) / settings.format)
    written = export_run(
        settings.run,
        settings.format,
        out,
        settings.checkpoint,
        settings.overwrite,
        evaluate=settings.evaluate,
        finetune=settings.finetune,
        data_dir=settings.data_dir,
        limit_test=settings.limit_test,
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("file")
    table.add_column("bytes", justify="right")
    for name, size in written["files"].items():
        table.add_row(name, f"{size:,}")
    console = console_beside(settings.json)
    console.print(table)
    lines = [
        f"{written['arch']}, T = {written['timesteps']}, N = {written['levels']}, in {out}",
        f"{written['weights']:,} weights of one byte; no sum exceeds {written['largest_bound']:,},"
        " int32 holds 2,147,483,647",
        *accuracy_lines(written["accuracy"], written["finetuned"], settings.finetune),
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    if settings.json:
        write_json(settings.json, written)


def accuracy_lines(
    before: dict[str, Any] | None, after: dict[str, Any] | None, epochs: int
) -> list[str]:
    """What rounding cost, and what fine-tuning brought or could bring.

    >>> before = {"images": 1000, "float": 0.9, "integer": 0.896, "same_class": 0.99}
    >>> print(*accuracy_lines(before, None, 0), sep="\\n")
    accuracy on 1,000 test samples: float 0.9000, integer 0.8960 (-0.40 points), same class 0.9900
    rounding costs more than 0.3 points: --finetune 1 trains an epoch with rounded weights
    """
    if before is None:
        return ["accuracy of the integers: not measured, --evaluate does"]
    points = 100 * (before["integer"] - before["float"])
    lines = [
        f"accuracy on {before['images']:,} test samples: float {before['float']:.4f}, integer"
        f" {before['integer']:.4f} ({points:+.2f} points), same class {before['same_class']:.4f}"
    ]
    if after is not None:
        lines.append(f"after {epochs} epochs of fine-tuning: integer {after['integer']:.4f}")
        if after["integer"] < before["integer"]:
            lines.append("fine-tuning did not help: what is written is the network before it")
    elif before["float"] - before["integer"] > WORTH_FINETUNING:
        lines.append(
            f"rounding costs more than {100 * WORTH_FINETUNING:.1f} points:"
            " --finetune 1 trains an epoch with rounded weights"
        )
    return lines


def bench(settings: BenchConfig) -> None:
    """Time a run in every runtime and print the table."""
    result = bench_run(
        settings.run,
        settings.checkpoint,
        settings.threads,
        settings.seconds,
        data_dir=settings.data_dir,
    )
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=f"{result['arch']} on {result['data']}, {result['threads']} threads",
        caption="same class: share of the n images on which the integer network agrees",
    )
    table.add_column("engine", no_wrap=True)
    for column in ("batch", "images/s", "p50 ms", "p99 ms", "KB", "n", "same class"):
        table.add_column(column, justify="right")
    for row in result["rows"]:
        table.add_row(
            row["engine"],
            str(row["batch"]),
            f"{row['images_per_second']:,.0f}",
            f"{row['p50_ms']:.2f}",
            f"{row['p99_ms']:.2f}",
            f"{row['bytes'] / 1000:,.0f}",
            str(row["images"]),
            f"{row['agreement']:.4f}",
        )
    console_beside(settings.json).print(table)
    if settings.json:
        write_json(settings.json, result)
