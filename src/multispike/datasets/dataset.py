"""What a data set is in memory, and the way there: files found, decoded once, then cached."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multispike.datasets.cache import Allocate, Cache
from multispike.environment import cores
from multispike.errors import InputError, check_sample, invalid, is_count
from multispike.progress import progress_bar

log = logging.getLogger(__name__)

PIECE = 16
"""Samples that a thread decodes at a time."""


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    inputs: uint8, `[n, C, H, W]` for images, `[n, T, C, H, W]` for event frames (counts).
        May be memory-mapped: index it, don't copy it whole.
    labels: int64, `[n]`, class indices from 0.
    """

    inputs: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        given = f"{self.inputs.dtype} {list(self.inputs.shape)}"
        if self.inputs.dtype != torch.uint8 or self.inputs.ndim not in (4, 5):
            raise invalid("inputs", given, "uint8 [n, C, H, W] or [n, T, C, H, W]")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.inputs.shape[:1]:
            given = f"{self.labels.dtype} {list(self.labels.shape)}"
            raise invalid("labels", given, f"int64 [{len(self.inputs)}], one label per input")

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device) -> Split:
        """The same samples on a device."""
        return Split(self.inputs.to(device), self.labels.to(device))

    def take(self, indices: Tensor) -> Split:
        """The samples at `indices` (int64), copied, in that order."""
        return Split(self.inputs.index_select(0, indices), self.labels.index_select(0, indices))

    def limited(self, argument: str, limit: int | None) -> Split:
        """A class-balanced part, see `balanced_indices`; `argument` names the limit in errors."""
        if limit is None or limit == len(self):
            return self
        if not is_count(limit) or limit > len(self):
            raise invalid(argument, limit, f"an integer from 1 to {len(self)}, as the split has")
        return self.take(balanced_indices(self.labels, limit))


@dataclass(frozen=True)
class Dataset:
    """A training and a test split, and what is needed to normalise and name their content.

    mean, std: one float per channel; the loader gives `(inputs / 255 - mean) / std`. Image sets
        carry the mean and deviation of their whole training split. Event sets have mean 0 and
        `std = scale / 255`, so that `scale` counts become 1.0 and no event stays exactly 0.
    validation: a split that chooses between epochs, so that the test is for the result alone.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    validation: Split | None = None

    def __post_init__(self) -> None:
        shape = self.train.inputs.shape[1:]
        check_sample("train inputs", shape)
        for part, split in self.splits.items():
            if split.inputs.shape[1:] != shape:
                allowed = f"the shape of the training inputs, {list(shape)}"
                raise invalid(f"{part} inputs", list(split.inputs.shape[1:]), allowed)
            if not len(split):
                raise invalid(f"{part} split of {self.name}", 0, "at least one sample")
            for label in map(int, split.labels.aminmax()):
                if not 0 <= label < len(self.classes):
                    allowed = f"class indices from 0 to {len(self.classes) - 1}"
                    raise invalid(f"labels of the {part} split of {self.name}", label, allowed)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.input_shape[0]:
                raise invalid(name, values, f"{self.input_shape[0]} values, one per channel")

    @property
    def splits(self) -> dict[str, Split]:
        both = {"train": self.train, "test": self.test}
        return both if self.validation is None else {**both, "validation": self.validation}

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
        train = self.train.limited("limit_train", limit_train)
        return replace(self, train=train, test=self.test.limited("limit_test", limit_test))

    def validated(self, share: float) -> Dataset:
        """With that share of each class's training samples kept for validation (`share_indices`);
        as it is if it has a validation split, or the share is none."""
        chosen = share_indices(self.train.labels, share)
        if not share or not len(chosen) or self.validation is not None:
            return self
        train, validation = without(self.train, chosen)
        return replace(self, train=train, validation=validation)


def balanced_indices(labels: Tensor, count: int) -> Tensor:
    """`count` ascending indices, int64, with the classes as equally often as the labels permit.

    Always the same for the same labels. The samples are shuffled once by a fixed seed, then one
    of every class is taken in turn until `count` (1 to n) is reached, so two classes differ by at
    most one as long as both last, and a smaller part is contained in every larger one.

    >>> labels = torch.tensor([0, 0, 0, 0, 0, 0, 1, 2])
    >>> labels[balanced_indices(labels, 5)].bincount().tolist()
    [3, 1, 1]
    """
    shuffled, turn = _turns(labels)
    return torch.from_numpy(np.sort(shuffled[np.argsort(turn, kind="stable")[:count]]))


def share_indices(labels: Tensor, share: float) -> Tensor:
    """Ascending indices of a share of each class, rounded, but at least one of it and not all.

    Always the same for the same labels.

    >>> labels = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 2])
    >>> labels[share_indices(labels, 0.4)].tolist()
    [0, 0, 1]
    """
    shuffled, turn = _turns(labels)
    count = labels.bincount().numpy()
    wanted = np.rint(share * count).clip(1, np.maximum(count - 1, 1)) * (count > 1)
    return torch.from_numpy(np.sort(shuffled[turn < wanted[labels.numpy()[shuffled]]]))


def _turns(labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The samples, shuffled by a fixed seed, and for each how many of its class are before it."""
    shuffled = np.random.default_rng(0).permutation(len(labels))
    classes = labels.numpy()[shuffled]
    by_class = np.argsort(classes, kind="stable")
    turn = np.empty(len(labels), dtype=np.int64)
    turn[by_class] = np.arange(len(labels)) - np.searchsorted(classes[by_class], classes[by_class])
    return shuffled, turn


def without(split: Split, indices: Tensor) -> tuple[Split, Split]:
    """A split without the samples at `indices`, in its order, and these samples."""
    rest = torch.ones(len(split), dtype=torch.bool)
    rest[indices] = False
    return split.take(rest.nonzero().squeeze(1)), split.take(indices)


@dataclass(frozen=True)
class Contents:
    """What a source holds, not yet decoded.

    labels: int64 `[n]` of its parts: "train", "test" and, if it has one, "validation".
    decode: a part and a slice of its samples as uint8 `[k, *shape]`; called from several threads,
    raises `InputError` for a sample that can't be used.
    told: of files that were used in part, what is missing; filled by `decode`.
    """

    labels: Mapping[str, Sequence[int] | np.ndarray]
    shape: tuple[int, ...]
    decode: Callable[[str, slice], np.ndarray]
    classes: Sequence[str]
    told: Mapping[Path, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_sample("size", self.shape)

    def decode_into(
        self, allocate: Allocate, title: str, progress: bool, skip_damaged: bool | None
    ) -> dict[str, Any]:
        """Fill the arrays of the cache; returns what `Dataset` has beside them.

        `InputError` names all samples that can't be used. With `skip_damaged` they are left out:
        the first `counts` samples of each array are used.
        """
        damaged: list[str] = []
        counts, arrays = {}, {}
        for part, labels in self.labels.items():
            if 0 in (shape := [len(labels), *self.shape]):
                raise invalid(f"{part} split of {title}", shape, "at least one sample and pixel")
            inputs = arrays[part] = allocate(f"{part}_inputs", tuple(shape), np.uint8)
            numbers = allocate(f"{part}_labels", (len(labels),), np.int64)
            failed = self._decode_part(part, inputs, f"{title}, {part}", progress)
            damaged += [failed[index] for index in sorted(failed)]
            kept = np.delete(np.arange(len(labels)), list(failed))
            for place, index in enumerate(kept if failed else ()):
                inputs[place] = inputs[index]
            numbers[: len(kept)] = np.asarray(labels)[kept]
            counts[part] = len(kept)
        if damaged and not (skip_damaged and all(counts.values())):
            several = f"{len(damaged)} damaged files: " if len(damaged) > 1 else ""
            hint = "; --skip-damaged leaves such files out" if skip_damaged is False else ""
            raise InputError(several + "; ".join(damaged) + hint)
        told = [f"{len(damaged)} damaged files skipped: {'; '.join(damaged)}"] if damaged else []
        if self.told:
            count, first = len(self.told), min(self.told.values())
            told.append(f"{count} recordings are not whole or not in order, the first is {first}")
        mean, std = statistics(arrays["train"][: counts["train"]])
        return {
            "classes": list(self.classes), "mean": mean, "std": std, "counts": counts, "told": told,
        }  # fmt: skip

    def _decode_part(
        self, part: str, inputs: np.ndarray, title: str, progress: bool
    ) -> dict[int, str]:
        """Fill the inputs of a part; the samples that can't be used, and why."""
        failed: dict[int, str] = {}

        def work(piece: slice) -> None:
            try:
                inputs[piece] = self.decode(part, piece)
            except InputError as error:
                if piece.stop - piece.start > 1:
                    for index in range(piece.start, piece.stop):
                        work(slice(index, index + 1))
                else:
                    failed[piece.start] = str(error)

        in_threads(work, len(inputs), title, progress)
        return failed


def in_threads(work: Callable[[slice], None], count: int, title: str, progress: bool) -> None:
    """Call `work` for consecutive slices of `range(count)`, one thread per core, under a bar.

    The first failure in the order of the slices is raised; slices not begun are dropped.
    """
    pieces = [slice(start, min(start + PIECE, count)) for start in range(0, count, PIECE)]
    with progress_bar(progress) as bar, ThreadPoolExecutor(cores()) as pool:
        task = bar.add_task(title, total=count)
        for piece, _ in zip(pieces, pool.map(work, pieces), strict=True):
            bar.advance(task, piece.stop - piece.start)


def statistics(inputs: np.ndarray) -> tuple[list[float], list[float]]:
    """What `Dataset` holds as mean and std, in units of 255, from how often each value occurs.

    Of uint8 images `[n, C, H, W]` mean and deviation of each channel, 1 if it never varies. Of
    frames `[n, T, C, H, W]` 0 and the root mean square of all counts, 1 if there are none.

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
    varies = (histogram > 0).sum(1) > 1  # the deviation of one value is not 0 but a rounding error
    return mean.tolist(), np.where(varies, deviation, 1.0).tolist()


@dataclass(frozen=True)
class Request:
    """What the function behind a row of `multispike.datasets.DATASETS` is given.

    data_dir: where the user says the source is; None means the function's default places.
    download: whether the source may be fetched; progress: whether a bar may be shown.
    limit_train, limit_test: how many samples `Dataset.limited` will take, for sets that are costly
        to make; None means all.
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

    def cached(
        self,
        sources: Sequence[Path],
        read: Callable[[], Contents],
        *,
        version: int,
        options: Mapping[str, Any] | None = None,
        skip_damaged: bool | None = None,
    ) -> Dataset:
        """The data set that is in `sources`, from the cache where it is there.

        sources: every file whose content matters; read: what they contain, if it isn't cached.
        version: raise it by one whenever something is decoded differently.
        options: all else that the result depends on (JSON values), such as timesteps or size.
        skip_damaged: leave out what can't be used, and say so, instead of refusing the set; None
            for sets that don't offer that.
        """
        arrays, meta = self.cache.fetch(
            self.name,
            sources,
            lambda allocate: read().decode_into(allocate, self.name, self.progress, skip_damaged),
            version=version,
            options={**(options or {}), "skip_damaged": skip_damaged, "layout": 2},
        )
        for line in meta["told"]:
            log.warning("%s: %s", self.name, line)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        splits = {
            part: Split(tensors[f"{part}_inputs"][:count], tensors[f"{part}_labels"][:count])
            for part, count in meta["counts"].items()
        }
        classes, mean, std = (tuple(meta[name]) for name in ("classes", "mean", "std"))
        return Dataset(self.name, classes=classes, mean=mean, std=std, **splits)
