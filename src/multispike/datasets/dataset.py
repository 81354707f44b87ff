"""What a data set is in memory, and the way there: files found, decoded once, then cached."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multispike.datasets.cache import Allocate, Cache
from multispike.errors import InputError, invalid, is_count
from multispike.progress import progress_bar

log = logging.getLogger(__name__)

PIECE = 16
"""Samples that a thread decodes at a time."""


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
        return Split(self.inputs.index_select(0, indices), self.labels.index_select(0, indices))


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
class Contents:
    """What a source holds, not yet decoded.

    labels: int64 `[n]` of both halves, "train" and "test"; shape: of one sample.
    decode: uint8 `[k, *shape]` of a half and a slice of its samples; runs in several threads.
    damaged: recordings that are used in part; filled by `decode`.
    """

    labels: Mapping[str, Sequence[int] | np.ndarray]
    shape: tuple[int, ...]
    decode: Callable[[str, slice], np.ndarray]
    classes: Sequence[str]
    damaged: list[str] = field(default_factory=list)

    def decode_into(self, allocate: Allocate, title: str, progress: bool) -> dict[str, Any]:
        """Fill the arrays of the cache; returns what `Dataset` has beside them."""
        mean = std = ()
        for half in ("train", "test"):
            count = len(self.labels[half])
            inputs = allocate(f"{half}_inputs", (count, *self.shape), np.uint8)
            allocate(f"{half}_labels", (count,), np.int64)[:] = self.labels[half]

            def work(part: slice, half=half, inputs=inputs) -> None:
                inputs[part] = self.decode(half, part)

            in_threads(work, count, f"{title}, {half}", progress)
            if half == "train":
                mean, std = statistics(inputs)
        if self.damaged:
            count, first = len(self.damaged), min(self.damaged)
            log.warning("%d recordings are not whole, the first is %s", count, first)
        return {"classes": list(self.classes), "mean": mean, "std": std}


def in_threads(work: Callable[[slice], None], count: int, title: str, progress: bool) -> None:
    """Call `work` for consecutive slices of `range(count)`, one thread per core, under a bar.

    The first failure in the order of the slices is raised; slices not begun are dropped.
    """
    pieces = [slice(start, min(start + PIECE, count)) for start in range(0, count, PIECE)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with progress_bar(progress) as bar, ThreadPoolExecutor(cores) as pool:
        task = bar.add_task(title, total=count)
        futures = [pool.submit(work, part) for part in pieces]
        try:
            for future, part in zip(futures, pieces, strict=True):
                future.result()
                bar.advance(task, part.stop - part.start)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def statistics(inputs: np.ndarray) -> tuple[list[float], list[float]]:
    """What `Dataset` holds as mean and std, exactly, from how often each value occurs.

    inputs: uint8 images `[n, C, H, W]`: mean and deviation of each channel in units of 255; the
    deviation of a channel that never varies is 1. Frames `[n, T, C, H, W]`: the mean is 0 and the
    deviation the root mean square of all counts (1 if there are none), in units of 255.

    >>> statistics(np.array([[[[0, 255]], [[51, 51]]]], np.uint8))
    ([0.5, 0.2], [0.5, 1.0])
    """
    channels = inputs.shape[-3]
    histogram = np.zeros((channels, 256), dtype=np.int64)
    for start in range(0, len(inputs), 256):  # in pieces: the set may not fit in memory
        for channel, counts in enumerate(histogram):
            values = inputs[start : start + 256, ..., channel, :, :]
            counts += np.bincount(values.ravel(), minlength=256)
    if inputs.ndim == 5:
        total = histogram.sum(0)
        scale = float(total @ np.arange(256.0) ** 2 / max(1, total.sum())) ** 0.5 or 1.0
        return [0.0] * channels, [scale / 255] * channels
    values = np.arange(256) / 255
    mean = histogram @ values / histogram[0].sum()
    squares = (values - mean[:, None]) ** 2
    deviation = np.sqrt((histogram * squares).sum(1) / histogram[0].sum())
    return mean.tolist(), np.where(deviation > 0, deviation, 1.0).tolist()


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

    @property
    def home(self) -> Path:
        """Where sources are looked for and downloaded to: `data_dir`, or else in the cache."""
        return self.data_dir or self.cache.folder / "downloads"

    def missing(self, allowed: str) -> InputError:
        """That `data_dir` isn't what is allowed."""
        return invalid("data_dir", str(self.data_dir) if self.data_dir else None, allowed)

    def class_files(
        self, content: str, suffixes: Sequence[str]
    ) -> tuple[dict[str, list[tuple[Path, int]]], list[str]]:
        """Files and labels in `train/CLASS` and `test/CLASS` (or `val/CLASS`), and the classes.

        content: what the files are, for messages; suffixes: in lower case. Classes are the
        folders in `train`, sorted by name; hidden files and folders are left alone.
        """
        allowed = f"a folder with train/CLASS and test/CLASS (or val/CLASS) folders of {content}"
        if self.data_dir is None:
            raise self.missing(allowed)
        train, test = self.data_dir / "train", self.data_dir / "test"
        if not test.is_dir():
            test = self.data_dir / "val"
        for folder in (self.data_dir, train, test):
            if not folder.is_dir():
                raise self.missing(f"{allowed}; {folder} is missing")
        classes, in_test = (
            sorted(each.name for each in folder.iterdir() if each.is_dir() and each.name[0] != ".")
            for folder in (train, test)
        )
        if not classes:
            raise self.missing(f"{allowed}; {train} has no class folders")
        for strange in sorted(set(in_test) - set(classes)):
            raise invalid("data_dir", str(test / strange), f"only classes that {train} has too")
        files = {
            half: [
                (path, label)
                for label, name in enumerate(classes)
                for path in sorted((folder / name).glob("*"))
                if path.suffix.lower() in suffixes and path.name[0] != "." and path.is_file()
            ]
            for half, folder in (("train", train), ("test", test))
        }
        for half, folder in (("train", train), ("test", test)):
            if not files[half]:
                kinds = "/".join(suffix[1:] for suffix in suffixes)
                raise invalid("data_dir", str(folder), f"class folders with {kinds} files")
        return files, classes

    def cached(
        self,
        sources: Sequence[Path],
        read: Callable[[], Contents],
        *,
        version: int,
        options: Mapping[str, Any] | None = None,
    ) -> Dataset:
        """The data set that is in `sources`, from the cache where it is there.

        sources: every file whose content matters; the key holds their content, not their age.
        read: what they contain; called only if it isn't in the cache.
        version: raise it by one whenever something is decoded differently.
        options: all else that the result depends on (JSON values), such as timesteps or size.
        """
        arrays, meta = self.cache.fetch(
            self.name,
            sources,
            lambda allocate: read().decode_into(allocate, self.name, self.progress),
            version=version,
            options=options or {},
        )
        train, test = (
            Split(
                torch.from_numpy(arrays[f"{half}_inputs"]),
                torch.from_numpy(arrays[f"{half}_labels"]),
            )
            for half in ("train", "test")
        )
        return Dataset(
            self.name, train, test, tuple(meta["classes"]), tuple(meta["mean"]), tuple(meta["std"])
        )
