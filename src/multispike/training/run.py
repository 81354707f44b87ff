"""The run folder: config.yaml, metrics.csv, result.json; last.ckpt and best.ckpt, each whole or
absent, and read without running code."""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
import shutil
import sys
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt, MaxLen, MinLen
from pydantic import (
    AliasChoices,
    BaseModel,
    Field,
    FiniteFloat,
    ValidationError,
    model_validator,
)
from torch import nn

from multispike.config import TrainConfig
from multispike.config.begun import as_given, same_run
from multispike.errors import InputError, RunError, check_sample, invalid
from multispike.files import check_stored, read_yaml, replacing, write_text, yaml_text
from multispike.models import create_model
from multispike.models.network import Network
from multispike.models.own import wrapped
from multispike.pretrained import find

RESULT = "result.json"
"""Written last: its presence means that the run is finished."""

_FILES = ("config.yaml", "last.ckpt", "next.ckpt", "best.ckpt", "metrics.csv", RESULT)
"""What a run may hold; next.ckpt was a part of saving in versions that trained by the Trainer."""

_FOLDERS = ("tensorboard", "wandb", "c", "nir", "onnx", "openvino")
"""The log of the training, and where exports go unless told otherwise."""


@dataclass(frozen=True)
class Run:
    """A trained network, in evaluation mode, and what it was trained with: settings;
    name, mean, std, classes, input_shape and images of the data; metrics of each finished epoch."""

    folder: Path
    network: Network
    config: TrainConfig
    data: dict[str, Any]
    rows: list[dict[str, float]]
    train_seconds: float


class _Data(BaseModel):
    name: str
    mean: list[FiniteFloat]
    std: list[Annotated[FiniteFloat, Gt(0)]]
    classes: list[str | int]
    input_shape: Annotated[list[Annotated[int, Ge(1)]], MinLen(3), MaxLen(3)]
    events: bool = True


class _Row(BaseModel):
    epoch: FiniteFloat
    step: FiniteFloat
    train_seconds: FiniteFloat
    judged: FiniteFloat = Field(validation_alias=AliasChoices("val_accuracy", "test_accuracy"))


class _Saved(BaseModel):
    """What a checkpoint says of its run, checked before anything is made of it."""

    config: dict[str, str | int | float | bool | None]
    model: dict[str, str | int | float | bool | None]
    data: _Data
    rows: list[_Row]
    train_seconds: FiniteFloat

    @model_validator(mode="after")
    def agree(self) -> _Saved:
        """Model and data have the same classes and channels, and samples fit in memory."""
        data, model, channels = self.data, self.model, self.data.input_shape[0]
        sizes = (model.get("num_classes"), model.get("in_channels"))
        scale = (len(data.mean), len(data.std))
        scaled = scale in ((channels, channels), (0, 0))  # (0, 0) with loaders of torch
        if sizes != (len(data.classes), channels) or not scaled:
            raise ValueError("its data are not those of its model")
        steps = model.get("timesteps")
        frames = steps if data.events and isinstance(steps, int) else 1
        check_sample("input_shape", (frames, *data.input_shape))
        return self


def load_run(
    folder: str | Path,
    checkpoint: str = "last.ckpt",
    device: torch.device | None = None,
    model: nn.Module | None = None,
) -> Run:
    """Read a run back.

    Args:
        folder: RUN, with config.yaml and checkpoints in it; or a checkpoint by itself.
        checkpoint: "last.ckpt" or "best.ckpt"; of no meaning where `folder` is a file.
        device: where the network goes; by default it stays on the CPU.
        model: one like the run's, which gets its weights, where the run can't make it again.

    Raises:
        InputError: if there is no run, or the checkpoint is damaged or of another architecture.
    """
    path = checkpoint_of(folder, "run", checkpoint)
    content = read_checkpoint(path)
    saved = content["multispike"]
    try:
        _Saved.model_validate(saved, strict=True)
        about = saved["model"]
        network = create_model(**about) if model is None else wrapped(about, model)
        run = Run(
            folder=path.parent,
            config=TrainConfig(**saved["config"]),
            network=network.cpu().eval(),
            data=saved["data"],
            rows=saved["rows"],
            train_seconds=saved["train_seconds"],
        )
    except (TypeError, ValidationError) as error:
        why = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise InputError(
            f"checkpoint: got {str(path)!r}, which does not describe its run as this version does"
            f" ({why}); allowed: a checkpoint of this version"
        ) from error
    load_weights(run.network, content, path)
    run.network.to(device)
    return run


def checkpoint_of(run: str | Path, argument: str, checkpoint: str = "last.ckpt") -> Path:
    """The checkpoint of a run's folder, of a name of `multispike pretrained`, or the file itself;
    `argument` is what the caller calls it."""
    path = find(str(run))
    if path.is_dir():
        return path / checkpoint
    if path.is_file() and path.suffix != ".npz":
        return path
    why = "an integer network, which `multispike predict` takes"
    why = why if path.is_file() else "which does not exist"
    raise InputError(f"{argument}: got {str(run)!r}, {why}; allowed: a run folder or a .ckpt file")


def load_weights(
    network: Network, checkpoint: dict[str, Any], path: Path, new_head: bool = False
) -> list[str]:
    """Put a checkpoint's weights, of the same architecture, into a network.

    With `new_head` the last layer keeps its own where the classes differ, and thresholds where only
    one of the networks learns them; the lines returned say which.
    """
    weights = {
        key.removeprefix("network."): value for key, value in checkpoint["state_dict"].items()
    }
    anew: list[str] = []
    if new_head:
        own, modules = network.state_dict(), dict(network.named_modules())
        head = [name for name, m in modules.items() if isinstance(m, (nn.Conv2d, nn.Linear))][-1]
        for key in (f"{head}.weight", f"{head}.bias"):
            if key in own and key in weights and own[key].shape != weights[key].shape:
                del weights[key]
                anew.append(key)
    try:
        missing, strange = network.load_state_dict(weights, strict=False)
        misfits = {*missing, *strange} - {*anew}
        if new_head:
            misfits = {key for key in misfits if not key.endswith("threshold")}
        if misfits:
            raise RuntimeError(f"{min(misfits)} is not in both")
    except RuntimeError as error:  # names or shapes of weights
        raise InputError(
            f"checkpoint: got {str(path)!r} of {checkpoint['multispike']['model']['arch']}, which"
            f" does not fit {network.config['arch']}; allowed: the same architecture"
        ) from error
    return [f"{path} does not fit {', '.join(anew)}: they start anew"] if anew else []


def open_run(config: TrainConfig, used: dict[str, Any] | None = None) -> Path | None:
    """Make or reopen the run folder; the checkpoint to go on from, or None for a fresh start.

    `used` are the values of settings that `config` leaves open, for config.yaml. A folder with
    another run, or with anything that is of no run, is refused.
    """
    folder = Path(config.folder)
    settings = folder / "config.yaml"
    before = read_settings(settings) if settings.exists() else {}
    begun = {"arch", "data", "neuron"} <= before.keys() <= dataclasses.asdict(config).keys()
    if begun and config.overwrite:
        _clear(folder)
    elif begun and config.resume:
        same_run(before, config)
    elif begun:
        raise InputError(
            f"out: got {str(folder)!r}, which holds a run;"
            " allowed: another folder, or --resume, or --overwrite"
        )
    elif {*folder.glob("*")} - {*folder.glob(".config.yaml.*.tmp")}:  # which a kill leaves
        raise InputError(
            f"out: got {str(folder)!r}, which holds files that are no run; allowed: a new folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        allowed = f"a folder that can be made ({error.strerror})"
        raise invalid("out", str(folder), allowed) from error
    values = dataclasses.asdict(config)
    del values["resume"], values["overwrite"]
    if used:
        values |= used | {"automatic": list(used)}
    write_text(settings, yaml_text(values))
    last = folder / "last.ckpt"
    return last if last.exists() else None


def _clear(folder: Path) -> None:
    """Delete a run but for its config.yaml, or nothing where there is anything else."""
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


def check_same_data(data: dict[str, Any], before: dict[str, Any], checkpoint: Path) -> None:
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


def diverged(what: str, folder: Path) -> RunError:
    """The error for numbers that are not finite: what is left of the run, and what may help."""
    last = folder / "last.ckpt"
    kept = f" {last} still holds the last good state;" if last.exists() else ""
    return RunError(f"{what};{kept} try a lower --lr, with another --out or --overwrite")


def judged_accuracy(row: dict[str, float]) -> float:
    """What an epoch was judged by: its accuracy on the validation split, or else on the test."""
    return row["val_accuracy"] if "val_accuracy" in row else row["test_accuracy"]


def write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    """Replace metrics.csv by these rows."""
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    write_text(path, "\n".join(lines) + "\n")


def tell_unfinished(run: Run) -> None:
    """One line where a run's training was stopped before its last epoch."""
    done = int(run.rows[-1]["epoch"]) if run.rows else 0
    if done < run.config.epochs and not (run.folder / RESULT).exists():
        print(f"{run.folder}: stopped after epoch {done} of {run.config.epochs}", file=sys.stderr)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings of a config.yaml, as the run was given them."""
    return as_given(read_yaml("config", path))


def write_checkpoint(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Replace a checkpoint; where it can't be written (`RunError`), the one that is there stays."""
    try:
        with replacing(path) as temporary:
            torch.save(content, temporary)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        reason = str(error).splitlines()[0]
        left = shutil.disk_usage(Path(path).parent).free / 1e6
        raise RunError(
            f"could not write {path}: {reason} ({left:.0f} MB of the disk are free); the file"
            " before it is unchanged"
        ) from error


def weights_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What `load_run` needs of a checkpoint: no optimiser, nothing to go on with."""
    kept = ("epoch", "global_step", "pytorch-lightning_version", "state_dict", "multispike")
    return {key: checkpoint[key] for key in kept if key in checkpoint}


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU; only tensors and plain values are accepted."""
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"checkpoint: got {str(path)!r}, which does not exist; allowed: a .ckpt file"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            check_stored(archive, path)
            if bad := archive.testzip():
                raise OSError(f"checksum of {bad}")
            # torch reads nothing of what is marked as a folder, and says nothing.
            if any(member.external_attr & 0x10 for member in archive.infolist()):
                raise OSError("a folder instead of values")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about foreign pickles, which are refused below
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Further on, torch advises to run it.
        reason = re.split(r" \(1\)| Re-running", str(error).splitlines()[0])[0]
        raise InputError(
            f"checkpoint: got {str(path)!r}, refused since it holds more than tensors and plain"
            f" values, or is damaged ({reason}); allowed: a checkpoint of multispike"
        ) from error
    except Exception as error:  # zipfile and torch raise one of many, as the damage is
        raise InputError(
            f"checkpoint: got {str(path)!r}, which is no checkpoint, or truncated or damaged"
            f" ({(str(error) or 'ends early').splitlines()[0]}); allowed: a whole .ckpt file"
        ) from error
    parts = checkpoint if isinstance(checkpoint, dict) else {}
    weights, about = parts.get("state_dict"), parts.get("multispike")
    named = isinstance(weights, dict) and all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in weights.items()
    )
    if not named or not isinstance(about, dict):
        raise InputError(
            f"checkpoint: got {str(path)!r}, not one of multispike's; allowed: RUN/last.ckpt"
        )
    return checkpoint
