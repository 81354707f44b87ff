"""The one table of studies, and the settings of `multispike reproduce`. Torch-free, so that names
can be listed and checked at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from multispike.config import TrainConfig, parse_variant, recipe
from multispike.config.types import Accelerator, Count, Settings, split_names
from multispike.errors import invalid, unknown
from multispike.pretrained import find


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
    """A row whose label names its neuron, and the activity penalty in its loss, if there is one.

    >>> row("binary-T4", prefix="sew-", arch="sew_resnet20").label
    'sew-binary-T4'
    >>> row("multilevel-T1-N4", activity_penalty=0.5).label
    'multilevel-T1-N4-penalty-0.5'
    """
    penalty = overrides.get("activity_penalty")
    suffix = f"-penalty-{penalty:g}" if penalty else ""
    return Row(prefix + variant + suffix, {**parse_variant(variant), **overrides}, seeds)


@dataclass(frozen=True)
class Study:
    """A table or figure of the results page.

    Attributes:
        title: of its section.
        make: function of `multispike.reproduce.make` that makes it.
        recipe: of `multispike.config.recipe`, what its rows share; empty where nothing is trained.
        rows: in the order of the table.
        headline: label of the row that is trained first.
        epoch_seconds: rough training time of one epoch and timestep on 2 cores.
    """

    title: str
    make: str = "train_rows"
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

        def place(run: tuple[Row, int]) -> tuple[int, bool, int]:
            row, seed = run
            return seed, row.label != self.headline, row.overrides.get("timesteps", 1)

        return sorted(((row, seed) for row in self.rows for seed in range(row.seeds)), key=place)


_CONVERTED = (
    row("ann"),
    *(
        row(
            f"multilevel-T1-N{levels}",
            prefix=prefix,
            learn_threshold="layer",
            whiten=False,
            epochs=1,
            lr=0.03,
        )
        for levels in (2, 4, 8, 16)
        for prefix in ("converted-", "tuned-")
    ),
)
"""An ANN, what `convert` makes of it, and that after an epoch of training."""


STUDIES: dict[str, Study] = {
    "table-cifar10": Study(
        "CIFAR-10",
        recipe="cifar10-table",
        rows=(
            *map(row, ("ann", "binary-T1", "binary-T4", "multilevel-T1-N2")),
            row("multilevel-T1-N4", seeds=3),
            *map(row, ("multilevel-T1-N8", "multilevel-T2-N2")),
            *(row("multilevel-T1-N4", activity_penalty=p) for p in (0.2, 0.5, 0.75, 1.0)),
        ),
        headline="multilevel-T1-N4",
        epoch_seconds=120,
    ),
    "front": Study(
        "Fronts",
        recipe="cifar10-table",
        rows=tuple(
            row(variant, activity_penalty=penalty, val_share=0.1)
            for variant in ("multilevel-T1-N4", "binary-T4")
            for penalty in (0.0, 0.2, 0.5, 1.0)
        ),
        headline="multilevel-T1-N4",
        epoch_seconds=110,
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
        rows=tuple(
            row(variant, prefix=f"{family}-", arch=f"{family}_resnet20")
            for variant in ("multilevel-T1-N4", "binary-T4")
            for family in ("sparse", "sew", "spiking", "ms")
        ),
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
            *map(row, ("multilevel-T1-N4", "multilevel-T1-N8")),
        ),
        headline="multilevel-T1-N4",
        epoch_seconds=60,
    ),
    "table-nmnist": Study(
        "Recorded events",
        recipe="nmnist",
        rows=(
            row("ann"),
            row("binary-T10", lr=0.02),
            *map(row, ("multilevel-T1-N4", "multilevel-T1-N8")),
            row("multilevel-T1-N4", prefix="bins10-", bins=10),
        ),
        headline="multilevel-T1-N4",
        epoch_seconds=25,
    ),
    "conversion": Study(
        "Conversion",
        make="conversion",
        recipe="cifar10-table",
        rows=_CONVERTED,
        headline="ann",
        epoch_seconds=240,
    ),
    "conversion-digits": Study(
        "Conversion",
        make="conversion",
        recipe="digits",
        rows=_CONVERTED,
        headline="ann",
        epoch_seconds=1,
    ),
    "transfer": Study("Transfer function", make="transfer"),
    "avalanche": Study("Spike avalanche", make="avalanche"),
}


@dataclass(frozen=True)
class ReproduceConfig(Settings):
    """Measure a study of docs/results.md, training what is missing.

    Args:
        study: Name of a study; without one they are listed.
        data_dir: Folder with the study's data set.
        download: Fetch the official archive into data_dir if it is not there.
        results: Folder of STUDY.json; rows that it has under the same settings are not trained.
        work: Folder of the runs, WORK/STUDY/LABEL-sSEED; a run begun there goes on.
        rows: Labels of the rows to make, comma-separated; by default all.
        seeds: At most this many seeds a row.
        init: Of conversion: the run whose ANN is converted, in place of one that is trained.
        retrain: Forget what is there of these rows first.

    Examples:
        multispike reproduce
        multispike reproduce table-cifar10 --data-dir DIR
        multispike reproduce table-cifar10 --data-dir DIR --rows ann,binary-T4 --seeds 1
    """

    positional = {"study": "?"}  # noqa: RUF012  of the class

    study: str | None = None
    data_dir: str | None = None
    download: bool = False
    results: str = "results"
    work: str = "runs/reproduce"
    rows: str | None = None
    seeds: Count | None = None
    init: str | None = None
    retrain: bool = False
    accelerator: Accelerator = "auto"

    @property
    def labels(self) -> list[str]:
        """The labels in `rows`; of all rows where there are none given."""
        every = [row.label for row in STUDIES[self.study].rows] if self.study in STUDIES else []
        return split_names(self.rows) if self.rows else every

    def planned(self) -> Iterator[tuple[Row, TrainConfig]]:
        """The runs that are asked for, in the order of training."""
        study = STUDIES[self.study or ""]
        for row, seed in study.order():
            if row.label in self.labels and (self.seeds is None or seed < self.seeds):
                out = f"{self.work}/{self.study}/{row.label}-s{seed}"
                config = study.settings(row, seed)
                places = {"data_dir": self.data_dir, "accelerator": self.accelerator, "out": out}
                yield row, replace(config, **places, download=self.download, init=self.init)

    def check(self) -> None:
        if self.study is None:
            return
        if self.study not in STUDIES:
            raise unknown("study", self.study, STUDIES)
        known = [row.label for row in STUDIES[self.study].rows]
        for label in self.labels:
            if label not in known:
                raise unknown("rows", label, known)
        if known and not self.labels:
            raise invalid("rows", self.rows, f"some of {', '.join(known)}")
        if self.init and (self.study != "conversion" or not find(self.init).exists()):
            raise invalid("init", self.init, "a run folder or a .ckpt file, with conversion only")
