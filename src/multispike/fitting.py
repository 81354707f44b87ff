"""`fit`: a module of anyone's, trained on data of anyone's, as a run of `multispike train`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from lightning.fabric.loggers.logger import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from multispike.commands.train import train_run
from multispike.config import Recipe, TrainConfig
from multispike.datasets.dataset import Dataset
from multispike.errors import InputError, invalid, unknown
from multispike.inference import Trained, load_run
from multispike.models import create_model
from multispike.models.network import Network
from multispike.models.own import wrapped
from multispike.models.table import ARCHITECTURES
from multispike.neurons import MultiLevelIF
from multispike.plugins import failed, label
from multispike.training.data import EVALUATION_BATCH, batch_size_of
from multispike.training.launch import OF_NETWORK, build_network
from multispike.training.loaders import Loaders
from multispike.training.loop import Callback

OF_IMAGES = (
    "limit_train", "limit_test", "val_share", "flip", "shift", "cutout", "mixup", "drop",
)  # fmt: skip
"""Settings that a `Dataset` needs."""


def fit(
    model: nn.Module,
    data: Dataset | Sequence[Any],
    recipe: Recipe | Mapping[str, Any] | None = None,
    *,
    out: str | None = None,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
) -> Trained | None:
    """Train a module in place, from the weights it has, and measure it; leaves a run folder.

    What networks of `create_model` are made of is known, and that of `recipe["arch"]`, a function
    as of `multispike train --arch`. A run of any other module can't make it again: the commands
    refuse it with one line, and `load_run(out, model=...)` takes a module like it.

    Args:
        model: images [B, C, H, W] -> logits [B, classes]; event frames [T, B, C, H, W] reach it as
            [T*B, C, H, W].
        data: a `multispike.datasets.dataset.Dataset`; or a training and a test set of torch's, two
            `DataLoader`s, or two `Dataset`s, which get loaders. Their samples are (image, label),
            the image as the model takes it; they augment by themselves.
        recipe: settings of `multispike train`, by name: `{"epochs": 3, "lr": 0.1}`. Those of the
            network, of its start and, with a `Dataset`, of where it is from are not looked at.
        out: folder of the run; by default runs/DATA-ARCH-NAME.
        callbacks: called after each epoch with its row of metrics.csv and the network, once it is
            saved; the training ends when one returns True.
        loggers: Lightning's, in place of the recipe's.

    Returns:
        The trained network, as `load_run` gives it; None in a process of several that has nothing
        to report.

    Raises:
        InputError: naming the argument, for what can't be trained; nothing is overwritten then.
        RunError: if the loss is not finite.
        multispike.training.Interrupted: after Ctrl-C; `{"resume": True}` goes on.

    >>> import tempfile
    >>> from multispike.datasets import load_dataset
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), MultiLevelIF(), nn.Linear(32, 10))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = fit(network, load_dataset("digits"), {"epochs": 2}, out=f"{folder}/run")
    >>> run.run.rows[-1]["epoch"], run.network.module is network
    (2, True)
    """
    given: dict[str, Any] = dict(vars(recipe) if isinstance(recipe, Recipe) else recipe or {})
    names = [field.name for field in fields(TrainConfig)]
    for name in given:
        if name not in names:
            raise unknown("recipe", name, names)
    given["out"] = out or given.get("out")
    config = TrainConfig(**given)
    config.check()
    if not isinstance(model, nn.Module):
        raise invalid("model", type(model).__name__, "a torch.nn.Module")
    model = getattr(model, "_orig_mod", model).cpu()
    if isinstance(data, Dataset):
        limited = data.limited(config.limit_train, config.limit_test)
        samples = limited.validated(config.val_share or 0.0)
        place = data.name if data.name == config.data else f":{data.name}"
    else:
        samples = _loaders(data, model, config)
        place = f":{samples.name}"
        config = replace(config, batch_size=samples.batch_size)
    network, settings = _network(model, samples, config)
    config = replace(config, **settings, data=place, whiten=False, init=None)
    places = {"network": config.arch, "data": config.data}
    if lost := [name for name, place in places.items() if place.startswith(":")]:
        python = f"load_run({config.folder!r}{', model=...' if 'network' in lost else ''})"
        line = f"the commands can't make its {' and '.join(lost)} again; {python} reads it"
        print(f"{config.folder}: {line}", file=sys.stderr)
    if train_run(config, (), network, samples, callbacks, loggers) is None:
        return None
    return load_run(config.folder, model=network)


def _loaders(data: Any, model: nn.Module, config: TrainConfig) -> Loaders:
    """Two sets or loaders of torch's, looked at by their first batches."""
    if not isinstance(data, Sequence) or len(data) != 2:
        allowed = "a multispike Dataset, or (train, test): Datasets or DataLoaders of torch"
        raise invalid("data", type(data).__name__, allowed)
    for name in OF_IMAGES:
        if (value := getattr(config, name)) != getattr(Recipe, name):
            raise invalid(name, value, "the default, since sets of torch see to that themselves")
    for part in data:
        if not hasattr(part, "__len__"):
            raise invalid("data", type(part).__name__, "sets with a length")
    train, test = (
        part if isinstance(part, DataLoader)
        else DataLoader(part, size, shuffle=training, drop_last=training)
        for part, training, size in (
            (data[0], True, batch_size_of(config, len(data[0]))),
            (data[1], False, EVALUATION_BATCH),
        )
    )  # fmt: skip
    _, images = _first(test), _first(train)
    if config.batch_size not in (None, len(images)):
        raise invalid("batch_size", config.batch_size, f"{len(images)}, which the loader has")
    try:
        with torch.no_grad():
            width = model.eval()(images[:2]).shape[1]
    except Exception as error:  # whatever the code of others raises
        shape = f"run on images {list(images.shape)}"
        raise failed("model", type(model).__name__, shape, error) from error
    classes = getattr(train.dataset, "classes", ())
    classes = classes if len(classes) == width else range(width)
    _, channels, rows, columns = images.shape
    return Loaders(
        name=type(train.dataset).__name__,
        loaders=(train, test),
        batch_size=len(images),
        classes=tuple(map(str, classes)),
        input_shape=(channels, rows, columns),
    )


def _first(loader: DataLoader[Any]) -> Tensor:
    """The images of a loader's first batch; `InputError` for batches of another form."""
    batch = next(iter(loader), ())
    told = [f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else str(type(x)) for x in batch]
    if len(batch) == 2 and all(isinstance(part, Tensor) for part in batch):
        images, labels = batch
        if images.dim() == 4 and images.is_floating_point() and labels.dtype == torch.int64:
            return images
    raise invalid("data", told, "batches (images float [B, C, H, W], labels int64 [B])")


def _network(
    model: nn.Module, data: Dataset | Loaders, config: TrainConfig
) -> tuple[Network, dict[str, Any]]:
    """A module as a network, and the settings that say what it is."""
    name = type(model).__name__
    if isinstance(model, Network):
        about = model.config
        name = label(about["arch"])
        if _same(lambda: create_model(**about), model, data):
            settings = {key: about[key] for key in ("arch", *OF_NETWORK)}
            return model, settings | {"levels": about["levels"] or None}
    elif config.arch not in ARCHITECTURES:
        about = build_network(config, data).config
        network = wrapped(about, model)
        if not _same(lambda: build_network(config, data), network, data):
            raise invalid("arch", config.arch, "a function that builds the model that is given")
        return network, {}
    steps = [m.timesteps for m in model.modules() if isinstance(m, MultiLevelIF)]
    default = TrainConfig()
    settings = {key: getattr(default, key) for key in OF_NETWORK}
    settings |= {"arch": f":{name}", "timesteps": data.timesteps or max(steps, default=1)}
    about = {
        **settings, "neuron": "multilevel", "levels": 4, "num_classes": data.num_classes,
        "in_channels": data.input_shape[0],
    }  # fmt: skip
    return wrapped(about, model), settings


def _same(build: Callable[[], Network], network: Network, data: Dataset | Loaders) -> bool:
    """Whether what is built computes the same from the same weights."""
    steps = (data.timesteps,) if data.timesteps else ()
    sample = torch.rand(*steps, 2, *data.input_shape)
    try:
        twin = build()
        twin.load_state_dict(network.state_dict())
        with torch.no_grad():
            return torch.equal(twin.eval()(sample), network.eval()(sample))
    except (InputError, RuntimeError):
        return False
