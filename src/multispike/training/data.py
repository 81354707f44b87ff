"""The data of a run: as a recipe reads them, and in batches, for training and for measuring."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from multispike.config import OF_DATA, Recipe
from multispike.config.types import parse_sensor
from multispike.datasets import DATASETS, load_dataset, source_of
from multispike.datasets.augment import Augmentation
from multispike.datasets.dataset import Dataset
from multispike.datasets.loader import BatchLoader
from multispike.device import device_of
from multispike.errors import InputError, invalid
from multispike.training.loaders import EpochLoader, Loaders
from multispike.training.run import Run

EVALUATION_BATCH = 250


def load_data(recipe: Recipe, timesteps: int = 1) -> Dataset:
    """The data set that a recipe names, at its limits, with its share for validation."""
    source = source_of(recipe.data)
    share = source.val_share if recipe.val_share is None else recipe.val_share
    options: dict[str, Any] = {name: getattr(recipe, name) for name in OF_DATA}
    options |= {"timesteps": timesteps, "val_share": share}
    if recipe.sensor:
        options["sensor"] = parse_sensor(recipe.sensor)
    dataset = load_dataset(
        recipe.data, recipe.data_dir, limit_train=recipe.limit_train, limit_test=recipe.limit_test,
        download=recipe.download,
        **{name: value for name, value in options.items()
           if name in source.options and value is not None},
    )  # fmt: skip
    return dataset.validated(share)


def batch_size_of(recipe: Recipe, images: int) -> int:
    """`recipe.batch_size`, or a 20th of the training set, at least 32 and at most 250.

    >>> batch_size_of(Recipe(), 50_000), batch_size_of(Recipe(), 1437)
    (250, 71)
    """
    return min(recipe.batch_size or max(32, min(250, images // 20)), images)


def augmentation_of(recipe: Recipe, dataset: Dataset) -> Augmentation:
    """The recipe's augmentation; by default `Source.mirrored` sets flip, and all shift by 1/16."""
    _, height, width = dataset.input_shape
    source = DATASETS.get(dataset.name)
    flip = recipe.flip or ("random" if source is not None and source.mirrored else "none")
    shift = max(1, min(height, width) // 16) if recipe.shift is None else recipe.shift
    flips = flip if flip == "alternate" else flip == "random"
    return Augmentation(flips, shift, recipe.cutout, recipe.mixup, recipe.drop)


def training_loader(
    recipe: Recipe, dataset: Dataset, rank: int = 0, world_size: int = 1,
    device: torch.device | None = None,
) -> BatchLoader:  # fmt: skip
    """Augmented batches on a device, in the order of the recipe's seed, of one of `world_size`
    processes."""
    batch_size = batch_size_of(recipe, len(dataset.train))
    if batch_size < 2 * world_size:
        allowed = f"at least {2 * world_size}, 2 a process, for batch norm"
        raise invalid("batch_size", batch_size, allowed)
    return BatchLoader(
        dataset.train, batch_size, mean=dataset.mean, std=dataset.std,
        augmentation=augmentation_of(recipe, dataset), shuffle=True, drop_last=True,
        seed=recipe.seed, num_classes=dataset.num_classes, channels_last=recipe.channels_last,
        rank=rank, world_size=world_size, device=device,
    )  # fmt: skip


def loaders_of(
    recipe: Recipe, data: Dataset | Loaders, rank: int, world_size: int, device: torch.device
) -> tuple[BatchLoader | EpochLoader, Iterable[Any]]:
    """The batches of one of `world_size` processes: those of the training, on the device, and those
    that each epoch is judged by."""
    if isinstance(data, Loaders):
        if world_size > 1:
            allowed = "1 with loaders of torch; several processes can share a multispike Dataset"
            raise invalid("devices", world_size, allowed)
        return EpochLoader(data.loaders[0], data.batch_size, recipe.seed, device), data.loaders[1]
    judge = BatchLoader(
        data.validation or data.test, 500, mean=data.mean, std=data.std,
        channels_last=recipe.channels_last, rank=rank, world_size=world_size, device=device,
    )  # fmt: skip
    return training_loader(recipe, data, rank, world_size, device), judge


def data_of(run: Run, data_dir: str | None = None, limit_test: int | None = None) -> Dataset:
    """What a run is measured on: its own data, or those at another place or limit."""
    config = replace(
        run.config,
        data_dir=data_dir or run.config.data_dir,
        limit_test=limit_test or run.config.limit_test,
    )
    return load_data(config, config.timesteps)


def evaluation_loader(run: Run, dataset: Dataset) -> BatchLoader:
    """The test split, normalised as in training, where the network is; `InputError` for other
    shapes or classes than the run was trained on."""
    for name, given in (("input_shape", dataset.input_shape), ("classes", dataset.classes)):
        if list(given) != list(run.data[name]):
            got, allowed = (", ".join(map(str, values)) for values in (given, run.data[name]))
            raise InputError(
                f"data: got {name} {got}, allowed: {allowed}, what the run was trained on"
            )
    return BatchLoader(
        dataset.test, EVALUATION_BATCH, mean=run.data["mean"], std=run.data["std"],
        channels_last=run.config.channels_last, device=device_of(run.network),
    )  # fmt: skip
