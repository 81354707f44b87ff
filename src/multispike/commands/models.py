"""`multispike models` and `pretrained`: what there is by name, from the tables alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from multispike.config.commands import ModelsConfig, PretrainedConfig
from multispike.models.table import ARCHITECTURES, ResNet, Vgg
from multispike.plugins import installed
from multispike.pretrained import PRETRAINED
from multispike.report.document import give, table_of, terminal_table

CROSSING = {"ms": "potentials", "sew": "spikes, growing"}
"""What crosses the shortcut of a family; of the others spikes, at most N."""

CLASSES = 10


def convolutions(row: Vgg | ResNet, side: int = 32) -> Iterator[tuple[int, int, int, int]]:
    """Every convolution for RGB images of `side` pixels: channels in and out, kernel, output side.

    >>> list(convolutions(Vgg((8, "M", 16))))
    [(3, 8, 3, 32), (8, 16, 3, 16)]
    """
    channels = 3
    if isinstance(row, Vgg):
        for item in row.layout:
            if isinstance(item, int):
                yield channels, item, 3, side
                channels = item
            elif item == "R":
                yield from [(channels, channels, 3, side)] * 2
            else:
                side = -(-side // 2)
        return
    yield channels, row.widths[0], 3, side
    channels = row.widths[0]
    for stage, (width, depth) in enumerate(zip(row.widths, row.depths, strict=True)):
        for block in range(depth):
            stride = 2 if stage and not block else 1
            side = -(-side // stride)
            yield channels, width, 3, side
            yield width, width, 3, side
            if stride > 1 or channels != width:
                yield channels, width, 1, side
            channels = width


def rows() -> list[dict[str, str | int | None]]:
    """One dict an architecture: name, what crosses the shortcut, params, macs at 32x32. Of those
    that installed packages add, the name alone."""
    table: list[dict[str, str | int | None]] = []
    for name, row in sorted(ARCHITECTURES.items()):
        crossing = ""
        if isinstance(row, ResNet) or "R" in row.layout:
            crossing = CROSSING.get(name.rpartition("_")[0], "spikes, at most N")
        params = macs = width = 0
        for channels, width, kernel, side in convolutions(row):
            params += channels * width * kernel**2 + 2 * width  # batch norm's weight and bias
            macs += channels * width * kernel**2 * side**2
        params += (width + 1) * CLASSES
        macs += width * CLASSES
        table.append({"name": name, "shortcut": crossing, "params": params, "macs": macs})
    for name in sorted(installed("arch")):
        table.append({"name": name, "shortcut": "", "params": None, "macs": None})
    return table


def models(settings: ModelsConfig) -> None:
    """Print the table; write it as JSON if asked for."""
    listed = rows()
    table = table_of(
        listed,
        "3x32x32 input, 10 classes, one timestep",
        ("name", "", lambda row: row["name"]),
        ("across the shortcut", "", lambda row: row["shortcut"]),
        ("parameters", ",d", lambda row: row["params"]),
        ("MACs", ",d", lambda row: row["macs"]),
    )
    give(settings.json, listed, terminal_table(table, "Architectures"))


def pretrained(settings: PretrainedConfig) -> None:
    """Print the table; write it as JSON if asked for."""
    table = table_of(
        PRETRAINED.items(),
        "µJ an inference, lemaire2022 32 bit; multispike evaluate NAME measures the accuracy again",
        ("name", "", lambda row: row[0]),
        ("data", "", lambda row: row[1].data),
        ("accuracy", ".4f", lambda row: row[1].accuracy),
        ("energy µJ", ",.0f", lambda row: row[1].energy_nj / 1e3),
        ("MB", ".1f", lambda row: row[1].path.stat().st_size / 1e6),
        ("licence", "", lambda row: row[1].licence),
    )
    listed = [{"name": name, **asdict(row)} for name, row in PRETRAINED.items()]
    give(settings.json, listed, terminal_table(table, "Trained networks"))
