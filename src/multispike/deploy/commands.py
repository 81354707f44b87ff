"""`multispike export` and `multispike bench`: what the command line calls."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from multispike.config import BenchConfig, ExportConfig
from multispike.deploy.bench import bench_run
from multispike.deploy.export import export_run
from multispike.files import write_json


def export(settings: ExportConfig) -> None:
    """Write a run as an integer program and say what it is made of."""
    out = settings.out or str(Path(settings.run) / settings.format)
    written = export_run(
        settings.run, settings.format, out, settings.checkpoint, settings.overwrite
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"{written['arch']} in {out}")
    table.add_column("file")
    table.add_column("bytes", justify="right")
    for name, size in written["files"].items():
        table.add_row(name, f"{size:,}")
    console = Console()
    console.print(table)
    console.print(
        f"{written['weights']:,} weights of one byte; every sum stays below"
        f" {written['largest_bound']:,} (2^31 is {2**31:,})",
        highlight=False,
    )
    if settings.json:
        write_json(settings.json, written)


def bench(settings: BenchConfig) -> None:
    """Time a run in every runtime and print the table."""
    result = bench_run(settings.run, settings.checkpoint, settings.threads, settings.seconds)
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=f"{result['arch']} on {result['data']}, {result['threads']} threads",
        caption="same class: share of images on which the engine agrees with the integer network",
    )
    table.add_column("engine", no_wrap=True)
    for column in ("batch", "images/s", "p50 ms", "p99 ms", "bytes", "same class"):
        table.add_column(column, justify="right")
    for row in result["rows"]:
        table.add_row(
            row["engine"],
            str(row["batch"]),
            f"{row['images_per_second']:,.0f}",
            f"{row['p50_ms']:.2f}",
            f"{row['p99_ms']:.2f}",
            f"{row['bytes']:,}",
            f"{row['agreement']:.4f}",
        )
    Console().print(table)
    if settings.json:
        write_json(settings.json, result)
