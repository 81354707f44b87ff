"""The run folder: config.yaml, last.ckpt, best.ckpt, metrics.csv, result.json."""

from __future__ import annotations

import dataclasses
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from multispike.config import TrainConfig, same_run
from multispike.errors import InputError, RunError, invalid
from multispike.files import write_text
from multispike.models import create_model
from multispike.models.network import Network
from multispike.training.checkpoint import read_checkpoint

RESULT = "result.json"
"""Written last: its presence means that the run is finished."""

NEXT = "next.ckpt"
"""An epoch's checkpoint, until best.ckpt is written and it becomes last.ckpt."""

_FILES = ("config.yaml", "last.ckpt", NEXT, "best.ckpt", "metrics.csv", RESULT)

_FOLDERS = ("tensorboard", "c", "nir", "onnx", "openvino")
"""The log of the training, and where exports go unless told otherwise."""


@dataclass(frozen=True)
class Run:
    """A trained network and what it was trained with.

    Attributes:
        folder: of the run.
        network: in evaluation mode, on the CPU.
        config: as of `config.yaml`.
        data: name, mean, std, classes and input_shape of the data set, and its training images.
        rows: metrics of each finished epoch.
        train_seconds: time spent in training steps.
    """

    folder: Path
    network: Network
    config: TrainConfig
    data: dict[str, Any]
    rows: list[dict[str, float]]
    train_seconds: float


def load_run(folder: str | Path, checkpoint: str = "last.ckpt") -> Run:
    """Read a run back.

    Args:
        folder: RUN, with config.yaml and checkpoints in it; or a checkpoint by itself.
        checkpoint: "last.ckpt" or "best.ckpt"; of no meaning where `folder` is a file.

    Raises:
        InputError: if there is no run, or the checkpoint is damaged or of another architecture.
    """
    path = checkpoint_of(folder, "run", checkpoint)
    content = read_checkpoint(path)
    saved = content["multispike"]
    try:
        run = Run(
            folder=path.parent,
            network=create_model(**saved["model"]).eval(),
            config=TrainConfig(**saved["config"]),
            data=saved["data"],
            rows=saved["rows"],
            train_seconds=saved["train_seconds"],
        )
    except (KeyError, TypeError) as error:
        raise InputError(
            f"checkpoint: got {str(path)!r}, which does not describe its run as this version does"
            f" ({error}); allowed: a checkpoint of this version"
        ) from error
    load_weights(run.network, content, path)
    return run


def checkpoint_of(run: str | Path, argument: str, checkpoint: str = "last.ckpt") -> Path:
    """The checkpoint of a run's folder, or the file itself; `argument` is what the caller calls it.

    Raises:
        InputError: if there is neither.
    """
    run = Path(run)
    if run.is_dir():
        return run / checkpoint
    if not run.is_file():
        raise InputError(
            f"{argument}: got {str(run)!r}, which does not exist; allowed: a run folder or a .ckpt"
            " file"
        )
    return run


def load_weights(network: Network, checkpoint: dict[str, Any], path: Path) -> None:
    """Put a checkpoint's weights into a network, refusing those of another architecture."""
    weights = {
        key.removeprefix("network."): value
        for key, value in checkpoint["state_dict"].items()
        if key.startswith("network.")
    }
    own = network.state_dict()
    differing = [
        key for key in {*own, *weights}
        if key not in own or key not in weights or own[key].shape != weights[key].shape
    ]  # fmt: skip
    if differing:
        raise InputError(
            f"checkpoint: got {str(path)!r} of {checkpoint['multispike']['model']['arch']}, whose"
            f" {min(differing)} does not fit {network.config['arch']};"
            " allowed: the same architecture"
        )
    network.load_state_dict(weights)


def open_run(config: TrainConfig) -> Path | None:
    """Make or reopen the run folder; the checkpoint to go on from, or None for a fresh start.

    Raises:
        InputError: if the folder holds another run, or anything that is of no run.
    """
    folder = Path(config.folder)
    settings = folder / "config.yaml"
    if folder.exists() and not folder.is_dir():
        raise invalid("out", str(folder), "a folder, new or of a run")
    begun = settings.exists() and _is_of_a_run(read_settings(settings))
    if begun and config.overwrite:
        _clear(folder)
    elif begun:
        if not config.resume:
            raise InputError(
                f"out: got {str(folder)!r}, which holds a run;"
                " allowed: another folder, or --resume, or --overwrite"
            )
        same_run(read_settings(settings), config)
    elif folder.exists() and any(folder.iterdir()):
        raise InputError(
            f"out: got {str(folder)!r}, which holds files that are no run; allowed: a new folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise invalid(
            "out", str(folder), f"a folder that can be made ({error.strerror})"
        ) from error
    write_settings(settings, config)
    last = folder / "last.ckpt"
    return last if last.exists() else None


def _is_of_a_run(settings: dict[str, Any]) -> bool:
    """Whether a config.yaml is one that `write_settings` wrote, and not that of another program."""
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    return {"arch", "data", "neuron"} <= settings.keys() <= names


def _clear(folder: Path) -> None:
    """Delete a run but for its config.yaml, or nothing where there is anything else.

    Raises:
        InputError: naming what is not of a run.
    """
    paths = sorted(folder.iterdir(), key=lambda path: path.name != RESULT)  # unfinished at once
    for path in paths:
        name = re.sub(r"^\.(.+)\.\d+\.tmp$", r"\1", path.name)  # what a kill leaves of a file
        if name not in (_FOLDERS if path.is_dir() else _FILES):
            raise InputError(
                f"out: got {str(folder)!r}, where {path.name!r} is of no run and would be lost;"
                " allowed: a folder that holds a run alone, or a new one"
            )
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != "config.yaml":
            path.unlink()


def diverged(what: str, folder: Path) -> RunError:
    """The error for numbers that are not finite: what is left of the run, and what may help."""
    last = folder / "last.ckpt"
    kept = f" {last} still holds the last good state;" if last.exists() else ""
    return RunError(f"{what};{kept} try a lower --lr, with another --out or --overwrite")


def write_settings(path: Path, config: TrainConfig) -> None:
    """config.yaml: what `--config` takes to repeat the run."""
    settings = dataclasses.asdict(config)
    for momentary in ("resume", "overwrite"):
        del settings[momentary]
    write_text(path, yaml.safe_dump(settings, sort_keys=False))


def read_settings(path: Path) -> dict[str, Any]:
    """The content of a config.yaml."""
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise InputError(
            f"config: got {str(path)!r}, unreadable: {error}".splitlines()[0]
        ) from error
    if not isinstance(settings, dict):
        raise InputError(f"config: got {str(path)!r}, allowed: a mapping of settings")
    return settings
