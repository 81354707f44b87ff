"""A run from its settings: data, network and its first weights, processes; then the loop."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers.logger import Logger
from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from multispike.config import Recipe, TrainConfig
from multispike.datasets.dataset import Dataset
from multispike.datasets.loader import BatchLoader
from multispike.device import device_for
from multispike.environment import cores
from multispike.errors import InputError, invalid
from multispike.models import create_model
from multispike.models.network import Network
from multispike.models.own import check_taken
from multispike.models.table import ARCHITECTURES
from multispike.plugins import failed, label
from multispike.training.data import augmentation_of, batch_size_of, load_data, loaders_of
from multispike.training.loaders import Loaders
from multispike.training.loop import Callback, train
from multispike.training.optim import peak_lr
from multispike.training.run import checkpoint_of, load_weights, open_run, read_checkpoint

WHITENED = 2000
"""Images whose patches whiten the stem."""

EPSILON = 5e-4
"""Added to the eigenvalues (inputs of unit variance), so that no noise is blown up."""


def fit(
    config: TrainConfig, network: Network | None = None, data: Dataset | Loaders | None = None,
    callbacks: Sequence[Callback] = (), loggers: Sequence[Logger] = (),
) -> bool:  # fmt: skip
    """Train `config`'s run, or go on with it; leaves last.ckpt, best.ckpt and metrics.csv.

    Args:
        config: says what the network and the data are, unless they are given; a network that is
            given starts from the weights it has.
        callbacks: as for `multispike.training.loop.train`.
        loggers: Lightning's, in place of the one that `config` names.

    Returns:
        Whether this process is the one that reports (rank 0).

    Raises:
        InputError: for settings, data or a folder that won't do; nothing is overwritten.
        RunError: if the loss is not finite, or the disk is full; last.ckpt stays valid.
        Interrupted: after Ctrl-C or SIGTERM, with last.ckpt written.
    """
    config = config.resolved()
    folder = Path(config.folder)
    check_machine(config)
    dataset = load_data(config, config.timesteps) if data is None else data
    if len(dataset.train) < 2:
        raise invalid("limit_train", len(dataset.train), "at least 2 images, for batch norm")
    if network is None:
        assert isinstance(dataset, Dataset)
        network = _started(config, dataset)
    else:
        check_fit(network, dataset)
    fabric = make_fabric(config, loggers or make_loggers(config))
    with _launched(fabric):
        if config.threads or "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(config.threads or cores())
        torch.backends.cudnn.benchmark = fabric.device.type == "cuda"
        place: dict[str, Any] = {"rank": fabric.global_rank, "world_size": fabric.world_size}
        place["device"] = fabric.device
        loader, judge = loaders_of(config, dataset, **place)
        # All settings have proved good: now a run that is to be overwritten may be deleted.
        start = _of_rank_0(fabric, lambda: open_run(config, automatic(config, dataset)))
        about = {
            "model": network.config,
            "config": dataclasses.asdict(config),
            "data": {
                "name": dataset.name,
                "mean": list(dataset.mean),
                "std": list(dataset.std),
                "classes": list(dataset.classes),
                "input_shape": list(dataset.input_shape),
                "images": len(dataset.train),
                **({"validation": len(dataset.validation)} if dataset.validation else {}),
                "events": dataset.timesteps is not None,
            },
        }
        train(fabric, network, loader, judge, config, folder, about, start, callbacks)
        for logger in fabric.loggers:
            logger.finalize("success")
            if hasattr(logger, "use_artifact"):  # else the next goes on
                logger.experiment.finish()  # pyright: ignore[reportAttributeAccessIssue]
    return fabric.is_global_zero


def check_machine(recipe: Recipe) -> None:
    """Raise `InputError`, before any work, for an accelerator or precision that this machine has
    not, and where SLURM has several tasks of which srun started none: they would wait for ever."""
    device = device_for(recipe.accelerator)
    if recipe.precision == "16-mixed" and device.type == "cpu":
        raise invalid("precision", recipe.precision, "32-true or bf16-mixed on the CPU")
    tasks, started = os.environ.get("SLURM_NTASKS", "1"), {"SLURM_STEP_ID", "TORCHELASTIC_RUN_ID"}
    by_hand = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    if tasks != "1" and not by_hand and started.isdisjoint(os.environ):
        raise invalid("SLURM_NTASKS", tasks, "1, or srun in front of the command")


def _started(config: TrainConfig, dataset: Dataset) -> Network:
    """The network of a run that is to begin, or to be gone on with."""
    network = build_network(config, dataset)
    goes_on = config.resume and Path(config.folder, "last.ckpt").exists()
    if config.init and not goes_on:
        init = checkpoint_of(config.init, "init")
        for line in load_weights(network, read_checkpoint(init), init, new_head=True):
            print(line, file=sys.stderr)
    check_fit(network, dataset)
    if config.whiten and not config.init and not goes_on:
        whiten_stem(network, dataset)
    return network


def make_loggers(config: TrainConfig) -> list[Logger]:
    """Lightning's logger of a run's setting; metrics.csv is written without."""
    folder, project = config.folder, os.environ.get("WANDB_PROJECT", "multispike")
    if config.logger == "csv":
        return []
    if config.logger == "tensorboard":
        return [TensorBoardLogger(folder, name="", version="tensorboard")]
    from lightning.pytorch import loggers  # which takes its time

    if config.logger == "wandb":
        return [loggers.WandbLogger(config.variant, folder, project=project)]
    return [loggers.MLFlowLogger("multispike", config.variant)]  # ./mlruns, of all runs


def make_fabric(recipe: Recipe, loggers: Sequence[Logger] = ()) -> Fabric:
    """Devices, processes and precision of a recipe; what this machine lacks is an `InputError`."""
    for name in ("lightning", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    names = ("devices", "strategy", "num_nodes", "precision")
    wanted: dict[str, Any] = {name: getattr(recipe, name) for name in names}
    wanted["accelerator"] = device_for(recipe.accelerator).type
    try:
        return Fabric(**wanted, loggers=list(loggers))
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        got = ", ".join(f"{name} {value!r}" for name, value in wanted.items())
        raise InputError(
            f"accelerator: got {got}; allowed: what Lightning finds here"
            f" ({str(error).strip().splitlines()[0]})"
        ) from error


@contextmanager
def _launched(fabric: Fabric) -> Iterator[None]:
    """All processes of a training, and the environment as it was afterwards: else the next training
    in this process would wait for processes that somebody else started."""
    before = dict(os.environ)
    try:
        fabric.launch()
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _of_rank_0(fabric: Fabric, function: Callable[[], Any]) -> Any:
    """What a function gives in rank 0, in all processes; where rank 0 refuses, the others end."""
    outcome: Any = None
    if fabric.is_global_zero:
        try:
            outcome = function()
        except InputError as error:
            outcome = error
    outcome = fabric.broadcast(outcome)
    if isinstance(outcome, InputError):
        raise outcome if fabric.is_global_zero else SystemExit(0)
    return outcome


OF_NETWORK = (
    "alpha", "beta", "classifier", "learn_threshold", "levels", "neuron", "stem", "surrogate",
    "threshold", "timesteps", "v_init",
)  # fmt: skip
"""Settings that networks of the table take."""


def build_network(config: TrainConfig, dataset: Dataset | Loaders) -> Network:
    """The untrained network of a run, its weights drawn from `config.seed`; `InputError` for a
    setting that a network of one's own does not take."""
    config = config.resolved()
    settings = {name: getattr(config, name) for name in OF_NETWORK}
    if config.arch not in ARCHITECTURES:
        timesteps = 1 if dataset.timesteps is None else config.timesteps
        default = TrainConfig(surrogate="clip", timesteps=timesteps)
        changed = {n: v for n, v in settings.items() if v != getattr(default, n)}
        check_taken(config.arch, changed)
    torch.manual_seed(config.seed)
    return create_model(
        config.arch,
        num_classes=dataset.num_classes,
        in_channels=dataset.input_shape[0],
        **settings,
    )


def automatic(recipe: Recipe, dataset: Dataset | Loaders) -> dict[str, Any]:
    """The values used of settings that a recipe leaves open."""
    batch_size = batch_size_of(recipe, len(dataset.train))
    used = {"batch_size": batch_size, "lr": peak_lr(recipe, batch_size * recipe.accumulate)}
    if isinstance(dataset, Dataset):
        augmentation = augmentation_of(recipe, dataset)
        used |= {
            "flip": "random" if augmentation.flip else "none",
            "shift": augmentation.shift,
        }
    return {name: value for name, value in used.items() if getattr(recipe, name) is None}


def check_fit(network: Network, dataset: Dataset | Loaders) -> None:
    """Run two samples through a network: `InputError` if the data do not fit it."""
    shape = list(dataset.input_shape)
    sample = torch.zeros(2, *shape)
    if dataset.timesteps:
        sample = sample.expand(dataset.timesteps, *sample.shape)
    try:
        with torch.no_grad():
            network.eval()(sample)
    except InputError:
        raise
    except Exception as error:  # torch's, or what the code of others raises
        arch, given = network.config["arch"], f"{label(dataset.name)} of shape {shape}"
        if arch not in ARCHITECTURES:
            raise failed("arch", arch, f"run on {given}", error) from error
        raise invalid("data", given, f"a shape that fits {arch}") from error
    network.train()


def whiten_stem(network: Network, dataset: Dataset) -> None:
    """`whiten_` a network's first convolution by training images, the same in every process."""
    some = dataset.limited(limit_train=min(WHITENED, len(dataset.train))).train
    plain = BatchLoader(some, 50, mean=dataset.mean, std=dataset.std)
    convolution = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    if convolution is None:
        raise invalid("whiten", True, "a network with a convolution")
    whiten_(convolution, (images for images, _ in plain))


def whiten_(conv: nn.Conv2d, batches: Iterable[Tensor]) -> None:
    """Set the filters of `conv` to the leading whitened eigenvectors of patches of images.

    Half of the filters are the components, the other half their negatives, since neurons pass one
    sign only; filters beyond twice the patch size keep their values (after cifar10-airbench,
    Jordan 2024, arXiv 2404.00498, section 3.2).

    Args:
        conv: the stem's convolution, C_in x k x k -> C_out.
        batches: normalised images [B, C_in, H, W], or event frames [T, B, C_in, H, W].
    """
    height, width = conv.weight.shape[2:]
    size = conv.weight[0].numel()
    moments, summed = torch.zeros(size, size, dtype=torch.float64), 0
    for batch in batches:
        for image in batch.flatten(0, -4):  # one by one: an image has as many patches as pixels
            patches = image.unfold(1, height, 1).unfold(2, width, 1)
            patches = patches.permute(1, 2, 0, 3, 4).reshape(-1, size).double()
            moments += patches.T @ patches
            summed += len(patches)
    values, vectors = torch.linalg.eigh(moments / summed)
    count = min(conv.out_channels // 2, len(values))
    leading = (vectors / torch.sqrt(values + EPSILON)).T.flip(0)[:count]
    filters = leading.reshape(count, *conv.weight.shape[1:]).to(conv.weight.dtype)
    with torch.no_grad():
        conv.weight[: 2 * count] = torch.cat((filters, -filters))
