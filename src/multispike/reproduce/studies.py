"""The one table of studies. Torch-free, so that names can be listed and checked at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from multispike.config import TrainConfig, parse_variant
from multispike.recipes import recipe


@dataclass(frozen=True)
class Row:
    """One row of a table: a study's recipe with some settings changed.

    Attributes:
        label: its name in the table, and of its run folders.
        overrides: settings that differ from the recipe's.
        seeds: how many runs, with seeds 0, 1, ...
    """

    label: str
    overrides: Mapping[str, Any]
    seeds: int = 1


def row(variant: str, *, prefix: str = "", seeds: int = 1, **overrides: Any) -> Row:
    """A row whose label names its neuron.

    >>> row("binary-T4", prefix="sew-", arch="sew_resnet20").label
    'sew-binary-T4'
    """
    return Row(prefix + variant, {**parse_variant(variant), **overrides}, seeds)


def penalised(variant: str, weight: float) -> Row:
    """A row whose loss has the activity penalty: a point of the accuracy-energy front.

    >>> penalised("multilevel-T1-N4", 0.5).label
    'multilevel-T1-N4-penalty-0.5'
    """
    overrides = {**parse_variant(variant), "activity_penalty": weight}
    return Row(f"{variant}-penalty-{weight:g}", overrides)


@dataclass(frozen=True)
class Study:
    """A table or figure of the results page.

    Attributes:
        title: of its section.
        make: "module:function", called with the study's name and the settings; gives the exit
            code.
        recipe: what its rows share, a name of `multispike.recipes`; empty where nothing is
            trained.
        rows: in the order of the table.
        headline: label of the row that is trained first and stands for the study.
        epoch_seconds: training time of one epoch and timestep on 2 cores, roughly; for the
            estimate as long as no row is finished.
    """

    title: str
    make: str = "multispike.reproduce.training:make"
    recipe: str = ""
    rows: tuple[Row, ...] = ()
    headline: str = ""
    epoch_seconds: float = 0.0

    def settings(self, row: Row, seed: int) -> TrainConfig:
        """What a run of a row is trained with: the recipe and what the row changes of it.

        >>> study = STUDIES["table-cifar10"]
        >>> study.settings(study.rows[0], seed=1).variant
        'ann'
        """
        return replace(recipe(self.recipe), **row.overrides, name=row.label, seed=seed)

    def order(self) -> list[tuple[Row, int]]:
        """Rows and seeds as they are trained: the headline, then by timesteps, further seeds last.

        >>> [(row.label, seed) for row, seed in STUDIES["table-cifar10"].order()][::6]
        [('multilevel-T1-N4', 0), ('multilevel-T1-N4-penalty-0.5', 0), ('multilevel-T1-N4', 2)]
        """
        runs = [(row, seed) for row in self.rows for seed in range(row.seeds)]
        return sorted(
            runs,
            key=lambda run: (
                run[1],
                run[0].label != self.headline,
                run[0].overrides.get("timesteps", 1),
            ),
        )


def _families() -> tuple[Row, ...]:
    return tuple(
        row(variant, prefix=f"{family}-", arch=f"{family}_resnet20")
        for variant in ("multilevel-T1-N4", "binary-T4")
        for family in ("sparse", "sew", "spiking", "ms")
    )


STUDIES: dict[str, Study] = {
    "table-cifar10": Study(
        "CIFAR-10",
        recipe="cifar10-table",
        rows=(
            row("ann"),
            row("binary-T1"),
            row("binary-T4"),
            row("multilevel-T1-N2"),
            row("multilevel-T1-N4", seeds=3),
            row("multilevel-T1-N8"),
            row("multilevel-T2-N2"),
            *(penalised("multilevel-T1-N4", weight) for weight in (0.2, 0.5, 0.75, 1.0)),
        ),
        headline="multilevel-T1-N4",
        epoch_seconds=120,
    ),
    "table-cifar100": Study(
        "CIFAR-100",
        recipe="cifar100-fast",
        rows=(row("ann"), row("binary-T4"), row("multilevel-T1-N4")),
        headline="multilevel-T1-N4",
        epoch_seconds=120,
    ),
    "families": Study(
        "Residual families",
        recipe="cifar10-resnet20",
        rows=_families(),
        headline="sparse-multilevel-T1-N4",
        epoch_seconds=150,
    ),
    "table-vgg16": Study(
        "VGG-16",
        recipe="cifar10-vgg16",
        # At the others' peak rate of 0.05 the loss of thirteen binary layers explodes.
        rows=(row("ann"), row("multilevel-T1-N4"), row("binary-T4", lr=0.015)),
        headline="multilevel-T1-N4",
        epoch_seconds=350,
    ),
    "table-dvs": Study(
        "Event data",
        recipe="cifar10-dvs-sim",
        rows=(
            row("ann"),
            row("ann-T10"),
            row("binary-T10", lr=0.01),
            row("multilevel-T1-N4"),
            row("multilevel-T1-N8"),
        ),
        headline="multilevel-T1-N4",
        epoch_seconds=60,
    ),
    "transfer": Study("Transfer function", make="multispike.reproduce.transfer:make"),
    "avalanche": Study("Spike avalanche", make="multispike.reproduce.avalanche:make"),
}
