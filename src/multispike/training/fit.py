"""Training a run from its settings to its last checkpoint, and going on where it stopped."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from multispike.config import Recipe, TrainConfig
from multispike.config.types import parse_sensor
from multispike.datasets import DATASETS, load_dataset
from multispike.datasets.augment import Augmentation
from multispike.datasets.dataset import Dataset
from multispike.datasets.loader import BatchLoader
from multispike.errors import InputError, invalid, unknown
from multispike.models import create_model
from multispike.models.network import Network
from multispike.training.callbacks import ProgressBar, RunFiles, write_rows
from multispike.training.checkpoint import AtomicCheckpointIO, read_checkpoint
from multispike.training.module import Classifier
from multispike.training.run import checkpoint_of, load_weights, open_run
from multispike.training.whitening import whiten_

WHITENED = 2000
"""Images whose patches whiten the stem."""


class EpochStream:
    """The training batches that follow the trainer's step, which is all that resuming needs."""

    def __init__(self, loader: BatchLoader, trainer: Trainer) -> None:
        self.loader = loader
        self.trainer = trainer

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, batch = divmod(self.trainer.global_step, len(self.loader))
        self.loader.load_state_dict({"epoch": epoch, "batch": batch})
        yield from self.loader


def load_data(recipe: Recipe, timesteps: int = 1) -> Dataset:
    """The data set that a recipe names, at its limits."""
    wanted = {
        "timesteps": timesteps, "size": recipe.size, "by": recipe.by, "split": recipe.split,
        "sensor": parse_sensor(recipe.sensor) if recipe.sensor else None,
    }  # fmt: skip
    if recipe.data not in DATASETS:
        raise unknown("data", recipe.data, DATASETS)
    options: dict[str, Any] = {
        name: value
        for name, value in wanted.items()
        if name in DATASETS[recipe.data].options and value is not None
    }
    return load_dataset(
        recipe.data,
        recipe.data_dir,
        limit_train=recipe.limit_train,
        limit_test=recipe.limit_test,
        download=recipe.download,
        **options,
    )


def build_network(config: TrainConfig, dataset: Dataset) -> Network:
    """The untrained network of a run, its weights drawn from `config.seed`."""
    torch.manual_seed(config.seed)
    return create_model(
        config.arch, num_classes=dataset.num_classes, in_channels=dataset.input_shape[0],
        neuron=config.neuron, levels=config.levels, timesteps=config.timesteps, stem=config.stem,
        classifier=config.classifier, threshold=config.threshold, surrogate=config.gradient,
        alpha=config.alpha, v_init=config.v_init, beta=config.beta,
        learn_threshold=config.learn_threshold,
    )  # fmt: skip


def batch_size_of(recipe: Recipe, images: int) -> int:
    """`recipe.batch_size`, or a 20th of the training set, at least 32 and at most 250.

    >>> batch_size_of(Recipe(), 50_000), batch_size_of(Recipe(), 1437)
    (250, 71)
    """
    return min(recipe.batch_size or max(32, min(250, images // 20)), images)


def augmentation_of(recipe: Recipe, dataset: Dataset) -> Augmentation:
    """The recipe's augmentation; by default `Source.mirrored` sets flip, and all shift by 1/16."""
    _, height, width = dataset.input_shape
    flip = recipe.flip or ("random" if DATASETS[dataset.name].mirrored else "none")
    shift = max(1, min(height, width) // 16) if recipe.shift is None else recipe.shift
    flips: dict[str, Any] = {"none": False, "random": True, "alternate": "alternate"}
    return Augmentation(flips[flip], shift, recipe.cutout, recipe.mixup, recipe.drop)


def fit(config: TrainConfig) -> bool:
    """Train `config`'s run, or go on with it; leaves last.ckpt, best.ckpt and metrics.csv.

    Returns:
        Whether this process is the one that reports (rank 0).

    Raises:
        InputError: for settings, data or a folder that won't do; nothing is overwritten.
        RunError: if the loss is not finite, or the disk is full; last.ckpt stays valid.
        callbacks.Interrupted: after Ctrl-C or SIGTERM, with last.ckpt written.
    """
    config.check()
    config = config.resolved()
    folder = Path(config.folder)
    first = _is_first()
    goes_on = config.resume and (folder / "last.ckpt").exists()
    if not first:  # started by rank 0, torchrun or SLURM: the folder is rank 0's business
        config = replace(config, resume=True, overwrite=False)
    dataset = load_data(config, config.timesteps)
    if len(dataset.train) < 2:
        raise invalid("limit_train", len(dataset.train), "at least 2 images, for batch norm")
    network = build_network(config, dataset)
    start = checkpoint_of(config.init, "init") if config.init and not goes_on else None
    if start is not None:  # refused here, before anything is made or deleted
        load_weights(network, read_checkpoint(start), start)
    _check_fit(network, dataset)
    _quiet()
    trainer = _trainer(config, folder)
    if config.threads or "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(config.threads or max(1, _cores() // trainer.num_devices))
    batch_size = batch_size_of(config, len(dataset.train))
    common: dict[str, Any] = dict(
        mean=dataset.mean, std=dataset.std, channels_last=config.channels_last,
        rank=trainer.global_rank, world_size=trainer.world_size,
    )  # fmt: skip
    train = BatchLoader(
        dataset.train, batch_size, augmentation=augmentation_of(config, dataset), shuffle=True,
        drop_last=True, seed=config.seed, num_classes=dataset.num_classes, **common,
    )  # fmt: skip
    test = BatchLoader(dataset.test, 500, **common)
    module = Classifier(network, config, dataset, batch_size, steps=config.epochs * len(train))
    # Only now, when all settings have proved good: it may delete a run that is to be overwritten.
    checkpoint = _agreed(trainer, folder, open_run(config) if first else None, first)
    if checkpoint is not None:
        content = read_checkpoint(checkpoint)
        _check_data(module.description["data"], content["multispike"]["data"], checkpoint)
        load_weights(network, content, checkpoint)
    elif config.whiten and start is None:
        some = dataset.limited(limit_train=min(WHITENED, len(dataset.train))).train
        plain = BatchLoader(some, 50, mean=dataset.mean, std=dataset.std)
        whiten_(network.stem[0], (images for images, _ in plain))  # pyright: ignore[reportIndexIssue, reportArgumentType]
    if config.channels_last:
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if config.compile:
        network.compile()
    with _own_environment():
        stream = EpochStream(train, trainer)
        trainer.fit(module, stream, test, ckpt_path=checkpoint, weights_only=True)
    if trainer.is_global_zero:  # again: a kill may have come between last.ckpt and this file
        write_rows(folder / "metrics.csv", module.rows)
    return trainer.is_global_zero


def _is_first() -> bool:
    """Whether this is the process of rank 0, before there is a process group to ask.

    torchrun tells the rank; SLURM tells it too, but Lightning may start further processes on every
    node, which know their node (NODE_RANK) and their place on it (LOCAL_RANK).
    """
    names = ("RANK",) if "RANK" in os.environ else ("SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")
    return all(int(os.environ.get(name, "0")) == 0 for name in names)


def _agreed(trainer: Trainer, folder: Path, checkpoint: Path | None, first: bool) -> Path | None:
    """Rank 0's checkpoint, in all processes.

    Those that Lightning starts itself come when rank 0 has made its choice, and find it on the
    disk; there is no process group yet. Others run beside rank 0, and wait for it.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if environment is None or isinstance(environment, LightningEnvironment):
        last = folder / "last.ckpt"
        return checkpoint if first else last if last.exists() else None
    trainer.strategy.setup_environment()
    return trainer.strategy.broadcast(checkpoint)


@contextmanager
def _own_environment() -> Iterator[None]:
    """Without the variables that Lightning sets when it starts processes: the next training in this
    one would wait for some that somebody else started."""
    names = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _check_data(data: dict[str, Any], before: dict[str, Any], checkpoint: Path) -> None:
    """Raise `InputError` where a run is to go on with other data than it began with."""
    for name, value in data.items():
        same = before.get(name, value) == value
        if name in ("mean", "std"):
            same = np.allclose(before[name], value, rtol=1e-6)  # as other machines add them up
        if not same:
            raise InputError(
                f"data: got {name} {value}, but the run of {checkpoint} began with {before[name]};"
                " allowed: the same data, or another --out"
            )


def _trainer(config: TrainConfig, folder: Path) -> Trainer:
    """Lightning's Trainer; what this machine can't do is an `InputError`."""
    try:
        return Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            strategy=config.strategy,
            num_nodes=config.num_nodes,
            precision=config.precision,
            max_epochs=config.epochs,
            callbacks=[
                RunFiles(folder, config.checkpoint_seconds),
                ProgressBar(config.variant),
                *([EMAWeightAveraging(decay=config.ema)] if config.ema else []),
            ],
            logger=TensorBoardLogger(folder, name="", version="tensorboard"),
            plugins=[AtomicCheckpointIO(), *_scheduler()],
            default_root_dir=folder,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError) as error:
        names = ("accelerator", "devices", "strategy", "num_nodes", "precision")
        got = ", ".join(f"{name} {getattr(config, name)!r}" for name in names)
        raise InputError(
            f"accelerator: got {got}; allowed: what Lightning finds here"
            f" ({str(error).strip().splitlines()[0]})"
        ) from error


def _scheduler() -> list[SLURMEnvironment]:
    """SLURM without Lightning's own checkpoints for a requeue: last.ckpt and --resume do that."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def _check_fit(network: Network, dataset: Dataset) -> None:
    """Run two samples through the network, so that a misfit shows before the training."""
    network.eval()
    shape = dataset.input_shape
    sample = torch.zeros(2, *shape)
    if dataset.timesteps:
        sample = sample.expand(dataset.timesteps, *sample.shape)
    try:
        with torch.no_grad():
            network(sample)
    except InputError:
        raise
    except RuntimeError as error:
        raise invalid(
            "data",
            f"{dataset.name} of shape {list(shape)}",
            f"a shape that fits {network.config['arch']}",
        ) from error
    network.train()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quiet() -> None:
    """Lightning's advice is for people who write Trainer code; here it is noise."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*your dataloader is not resumable.*",  # EpochStream follows the step
        ".*smaller than the logging interval.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*GPU available but not used.*",
        ".*lr_scheduler.step.*before.*optimizer.step.*",
    ):
        warnings.filterwarnings("ignore", message=message)
