"""Image sets seen by the emulated event camera, `NAME-dvs-sim` for each image set NAME."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
from torch import Tensor

from multispike.datasets.cache import Allocate
from multispike.datasets.dataset import Dataset, Request, Split, balanced_indices
from multispike.datasets.decode import in_threads
from multispike.datasets.event_sets import frame_meta, root_mean_square
from multispike.events.emulator import emulate_frames

SUFFIX = "-dvs-sim"

SEED = 0
"""Of the camera and its noise. One for all: a data set is the same in every run."""

VERSION = 1
"""Of the frames in the cache: raise it whenever the emulator counts differently."""


def load_emulated(request: Request, *, timesteps: int = 10, size: int = 64) -> Dataset:
    """Frames of the events that a camera of `size` x `size` pixels sends before each image.

    The parameters of camera and motion are the defaults of `multispike.events.emulator`; `data_dir`
    and `download` are those of the image set, and so are its splits and classes. The frames of an
    image are the same whatever limits are set, which save the work for all other images.

    timesteps: T bins of equal time; size: from 8 to 128 pixels.
    """
    from multispike.datasets import DATASETS

    # An image of nothing tries the options, before work is put into the real ones.
    emulate_frames(np.zeros((1, 1, 8, 8), np.uint8), [0], size=size, timesteps=timesteps)
    base = request.name.removesuffix(SUFFIX)
    module, function = DATASETS[base].load.split(":")
    options = {"size": size} if "size" in DATASETS[base].options else {}
    images: Dataset = getattr(import_module(module), function)(
        replace(request, name=base), **options
    )
    limits = {"train": request.limit_train, "test": request.limit_test}
    limited = images.limited(limits["train"], limits["test"])
    splits = {"train": limited.train, "test": limited.test}
    # Each image keeps the number that it has in the whole set; those of the test come behind.
    indices = {
        "train": _chosen(images.train, limits["train"]),
        "test": _chosen(images.test, limits["test"]) + len(images.train),
    }

    def build(allocate: Allocate) -> Mapping[str, Any]:
        scale = 1.0
        for half, split in splits.items():
            shape = (len(split), timesteps, 2, size, size)
            inputs = allocate(f"{half}_inputs", shape, np.uint8)
            allocate(f"{half}_labels", (len(split),), np.int64)[:] = split.labels.numpy()

            def emulate(part: slice, split=split, numbers=indices[half], inputs=inputs) -> None:
                inputs[part] = emulate_frames(
                    split.inputs[part].numpy(),
                    numbers[part].tolist(),
                    size=size,
                    timesteps=timesteps,
                    seed=SEED,
                )

            in_threads(
                emulate, len(split), piece=16, title=f"emulating, {half}", progress=request.progress
            )
            if half == "train":
                scale = root_mean_square(inputs)
        return frame_meta(images.classes, scale)

    content = hashlib.sha256()
    for half, split in splits.items():
        for array in (split.inputs.numpy(), split.labels.numpy(), indices[half].numpy()):
            content.update(np.ascontiguousarray(array).data)
    key = {
        "images": content.hexdigest(),
        "classes": list(images.classes),
        "timesteps": timesteps,
        "size": size,
        "seed": SEED,
    }
    return request.cached([], build, version=VERSION, options=key)


def _chosen(split: Split, limit: int | None) -> Tensor:
    """The indices of the samples that `Dataset.limited` takes, int64."""
    return balanced_indices(split.labels, limit or len(split))
