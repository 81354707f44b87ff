"""What a data set is in memory, and how a deterministic part of it is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from multispike.errors import invalid, is_count

if TYPE_CHECKING:
    from multispike.datasets.cache import Allocate, Cache


@dataclass(frozen=True)
class Split:
    """One half of a data set.

    inputs: uint8, `[n, C, H, W]` for images, `[n, T, C, H, W]` for event frames (counts).
        May be memory-mapped: index it, don't copy it whole.
    labels: int64, `[n]`, class indices from 0.
    """

    inputs: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.inputs.dtype != torch.uint8 or self.inputs.ndim not in (4, 5):
            raise invalid(
                "inputs",
                f"{self.inputs.dtype} {list(self.inputs.shape)}",
                "uint8 [n, C, H, W] or [n, T, C, H, W]",
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.inputs.shape[:1]:
            raise invalid(
                "labels",
                f"{self.labels.dtype} {list(self.labels.shape)}",
                f"int64 [{len(self.inputs)}], one label per input",
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, indices: Tensor) -> Split:
        """The samples at `indices` (int64), copied, in that order."""
        return Split(self.inputs[indices], self.labels[indices])


@dataclass(frozen=True)
class Dataset:
    """A training and a test split, and what is needed to normalise and name their content.

    mean, std: one float per channel; the loader gives `(inputs / 255 - mean) / std`. Image sets
        carry the mean and deviation of their whole training split. Event sets have mean 0 and
        `std = scale / 255`, so that `scale` counts become 1.0 and no event stays exactly 0.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.train.inputs.shape[1:] != self.test.inputs.shape[1:]:
            raise invalid(
                "test inputs",
                list(self.test.inputs.shape[1:]),
                f"the shape of the training inputs, {list(self.train.inputs.shape[1:])}",
            )
        for split_name, split in (("train", self.train), ("test", self.test)):
            if not len(split):
                raise invalid(f"{split_name} split of {self.name}", 0, "at least one sample")
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= len(self.classes):
                raise invalid(
                    f"labels of the {split_name} split of {self.name}",
                    low if low < 0 else high,
                    f"class indices from 0 to {len(self.classes) - 1}",
                )
        channels = self.input_shape[0]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels:
                raise invalid(name, values, f"{channels} values, one per channel")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of one image, or of one timestep of an event sample."""
        channels, height, width = self.train.inputs.shape[-3:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def timesteps(self) -> int | None:
        """T of an event set; None for images, which have no time axis."""
        return self.train.inputs.shape[1] if self.train.inputs.ndim == 5 else None

    def limited(self, limit_train: int | None = None, limit_test: int | None = None) -> Dataset:
        """A class-balanced part, see `balanced_indices`; mean and std stay those of the whole."""
        return replace(
            self,
            train=_limited(self.train, "limit_train", limit_train),
            test=_limited(self.test, "limit_test", limit_test),
        )


def _limited(split: Split, argument: str, limit: int | None) -> Split:
    if limit is None:
        return split
    if not is_count(limit) or limit > len(split):
        raise invalid(argument, limit, f"an integer from 1 to {len(split)}, the size of the split")
    if limit == len(split):
        return split
    return split.take(balanced_indices(split.labels, limit))


def balanced_indices(labels: Tensor, count: int) -> Tensor:
    """`count` ascending indices with the classes as equally often as the labels permit.

    Always the same for the same labels. The samples are shuffled once by a fixed seed, then one
    of every class is taken in turn until `count` is reached, so two classes differ by at most
    one as long as both last, and a smaller part is contained in every larger one.

    labels: int64 `[n]`; count: 1 to n. Returns int64 `[count]`.

    >>> labels = torch.tensor([0, 0, 0, 0, 0, 0, 1, 2])
    >>> labels[balanced_indices(labels, 5)].bincount().tolist()
    [3, 1, 1]
    """
    shuffled = np.random.default_rng(0).permutation(len(labels))
    classes = labels.numpy()[shuffled]
    by_class = np.argsort(classes, kind="stable")
    first_of_class = np.searchsorted(classes[by_class], classes[by_class])
    turn = np.empty(len(labels), dtype=np.int64)
    turn[by_class] = np.arange(len(labels)) - first_of_class
    chosen = shuffled[np.argsort(turn, kind="stable")[:count]]
    return torch.from_numpy(np.sort(chosen))


@dataclass(frozen=True)
class Request:
    """What the function behind a row of `multispike.datasets.DATASETS` is given.

    data_dir: where the user says the source is; None means the function's default places.
    download: whether the source may be fetched; progress: whether a bar may be shown.
    limit_train, limit_test: how many samples will be taken by `Dataset.limited`, for sets that
        are costly to make; None means all. A function may disregard them.
    """

    name: str
    data_dir: Path | None
    cache: Cache
    download: bool = False
    progress: bool = True
    limit_train: int | None = None
    limit_test: int | None = None

    def cached(
        self,
        sources: Sequence[Path],
        build: Callable[[Allocate], Mapping[str, Any]],
        *,
        version: int,
        options: Mapping[str, Any] | None = None,
    ) -> Dataset:
        """The data set that `build` decodes from `sources`, from the cache where it is there.

        sources: every file whose content matters; the key holds their content, not their age.
        build(allocate): decodes into `allocate(name, shape, dtype)` arrays named
            `train_inputs`, `train_labels`, `test_inputs`, `test_labels` (uint8 and int64), and
            returns `{"classes": [...], "mean": [...], "std": [...]}`. Called only on a miss.
        version: raise it by one whenever `build` decodes differently.
        options: all else that the result depends on (JSON values), such as timesteps or size.
        """
        arrays, meta = self.cache.fetch(
            self.name, sources, build, version=version, options=options or {}
        )
        splits = {
            half: Split(
                torch.from_numpy(arrays[f"{half}_inputs"]),
                torch.from_numpy(arrays[f"{half}_labels"]),
            )
            for half in ("train", "test")
        }
        return Dataset(
            name=self.name,
            train=splits["train"],
            test=splits["test"],
            classes=tuple(meta["classes"]),
            mean=tuple(meta["mean"]),
            std=tuple(meta["std"]),
        )
