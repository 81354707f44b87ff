"""Checkpoints that are whole or absent, and that run no code when they are read."""

from __future__ import annotations

import lzma
import os
import pickle
import re
import shutil
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from multispike.errors import InputError, RunError
from multispike.files import replacing

_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(RuntimeError, EOFError, OSError, LookupError, ValueError),
)
"""What zipfile and torch raise for a file that is not whole."""


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's way to the disk: a checkpoint replaces the last one only when it is complete."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        write_checkpoint(path, checkpoint)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(path)

    def remove_checkpoint(self, path: Any) -> None:
        os.unlink(path)


def write_checkpoint(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Replace a checkpoint, or leave the one that is there.

    Raises:
        RunError: if it can't be written.
    """
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
    """The content of a checkpoint, on the CPU; only tensors and plain values are accepted.

    Raises:
        InputError: if there is none, or it is truncated, or it holds anything that could run code.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"checkpoint: got {str(path)!r}, which does not exist; allowed: a .ckpt file"
        )
    try:
        with zipfile.ZipFile(path) as archive:
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
    except _DAMAGED as error:
        raise InputError(
            f"checkpoint: got {str(path)!r}, which is no checkpoint, or truncated or damaged"
            f" ({(str(error) or 'ends early').splitlines()[0]}); allowed: a whole .ckpt file"
        ) from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "multispike"} <= checkpoint.keys():
        raise InputError(
            f"checkpoint: got {str(path)!r}, not one of multispike's; allowed: RUN/last.ckpt"
        )
    return checkpoint
