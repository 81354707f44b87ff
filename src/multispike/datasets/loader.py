"""Batches of a split held in memory, in an order that only seed, epoch and batch number decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
from torch import Tensor

from multispike.datasets.augment import Augmentation
from multispike.datasets.dataset import Split
from multispike.device import fits, moved
from multispike.errors import invalid
from multispike.models.normalisation import scale_and_offset

ORDER, FLIP, BATCH, LOSS = range(4)
"""Purposes of random numbers; part of every seed, so that no two purposes share a stream."""


@dataclass(eq=False)
class BatchLoader:
    """An iterable of normalised, augmented batches; whole batches at a time, no worker processes.

    Gives `(inputs, targets)`: inputs float32 `[B, C, H, W]`, or `[T, B, C, H, W]` for event
    splits, normalised as `(x / 255 - mean) / std`; targets int64 `[B]`, or float
    `[B, num_classes]` under mixup.

    Batch b of epoch e is a pure function of (seed, e, b), whatever was drawn before and whatever
    the global generators are, so a run resumed at a batch sees exactly the rest.

    batch_size: the global batch, over all ranks.
    shuffle: a new order every epoch (`set_epoch`); without it, the order of the split.
    drop_last: leave out a last batch that isn't full.
    rank, world_size: this process's place among those that share the batches. With `shuffle` or
        `drop_last` (training), every rank gets an equal share of every global batch, augmented
        (mixup's partners apart) as in one process; a last batch that can't be shared out is filled
        up from the start of the epoch. Otherwise (evaluation), all ranks together see each sample
        exactly once, in equally many batches; the last may be one sample longer.
    channels_last: memory format of the images; num_classes: needed for mixup.
    device: where batches are made, by default where the split is. The split goes there as well, if
        it fits (`multispike.device.fits`); else the uint8 samples of each batch do.

    >>> split = Split(torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1), torch.arange(5))
    >>> loader = BatchLoader(split, 2, mean=[0.0], std=[1 / 255])
    >>> [targets.tolist() for inputs, targets in loader]
    [[0, 1], [2, 3], [4]]
    """

    split: Split
    batch_size: int
    _: KW_ONLY
    mean: Sequence[float]
    std: Sequence[float]
    augmentation: Augmentation | None = None
    shuffle: bool = False
    seed: int = 0
    drop_last: bool = False
    rank: int = 0
    world_size: int = 1
    channels_last: bool = False
    num_classes: int | None = None
    device: torch.device | None = None

    def __post_init__(self) -> None:
        channels, height, width = self.split.inputs.shape[-3:]
        size, total, ranks = self.batch_size, len(self.split), self.world_size
        self._augmentation = self.augmentation or Augmentation()
        self._augmentation.check(height, width)
        self._training = self.shuffle or self.drop_last
        of_channels = f"{channels} values, one per channel"
        for name, holds, allowed in (
            ("num_classes", self.num_classes or not self._augmentation.mixup,
             "the number of classes, which mixup needs"),
            ("mean", len(self.mean) == channels, of_channels),
            ("std", len(self.std) == channels, of_channels),
            ("std", min(self.std) > 0, "values > 0"),
            ("rank", 0 <= self.rank < ranks, f"from 0 to {ranks - 1}, below world_size"),
            ("seed", self.seed >= 0, "an integer >= 0"),
            ("batch_size", size >= 1, "an integer >= 1"),
            ("batch_size", not self._training or size % ranks == 0,
             f"a multiple of the {ranks} processes"),
            ("batch_size", not self.drop_last or total >= size,
             f"at most the {total} training samples"),
            ("world_size", total >= ranks, f"at most the {total} samples"),
        ):  # fmt: skip
            if not holds:
                raise invalid(name, getattr(self, name), allowed)
        self._device = self.device or self.split.inputs.device
        if fits(self._device, self.split.inputs.nbytes):
            self.split = self.split.to(self._device)
        scale, offset = scale_and_offset(self.mean, self.std)
        self._scale, self._offset = scale.to(self._device), offset.to(self._device)
        self._first_flips = self._random(FLIP).random(total) < 0.5
        self._rank_batch_size = -(-size // ranks)
        self._epoch = self._start = 0

    def __len__(self) -> int:
        """Batches of an epoch, the same on every rank."""
        if not self._training:
            return -(-(len(self.split) // self.world_size) // self._rank_batch_size)
        whole, rest = divmod(len(self.split), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the epoch that `set_epoch` has said when the first one is asked for."""
        epoch, start = self._epoch, self._start
        self._start = 0
        order = self._random(ORDER, epoch).permutation(len(self.split)) if self.shuffle else None
        for batch in range(start, len(self)):
            yield self._make(order, epoch, batch)

    def set_epoch(self, epoch: int, batch: int = 0) -> None:
        """Let the next iteration give that epoch, from that batch on."""
        if epoch < 0:
            raise invalid("epoch", epoch, "an integer >= 0")
        if not 0 <= batch <= len(self):
            raise invalid("batch", batch, f"from 0 to the {len(self)} of an epoch")
        self._epoch, self._start = epoch, batch

    def _random(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *purpose])

    def _make(self, order: np.ndarray | None, epoch: int, batch: int) -> tuple[Tensor, Tensor]:
        indices, share = self._indices(order, batch)
        # Drawn for the global batch, then shared out, so that augmentation does not depend on
        # how many processes there are. A batch of an evaluation may be one sample longer.
        flips = self._first_flips[indices] ^ bool(epoch % 2)
        random = self._random(BATCH, epoch, batch)
        draws = self._augmentation.draw(
            random, self.batch_size + 1, flips, *self.split.inputs.shape[-2:]
        ).share(share)
        mine = indices[share]
        # A generator for every sample, so that its events are lost alike on every rank.
        losses = (self._random(LOSS, epoch, index) for index in mine.tolist())
        part = self.split.take(moved(torch.from_numpy(mine), self.split.inputs.device))
        inputs = moved(self._augmentation.lose(part.inputs, losses), self._device)
        inputs = self._augmentation.warp(inputs, draws)
        timed = inputs.ndim == 5
        if timed:
            inputs = inputs.transpose(0, 1).flatten(0, 1)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        pixels = inputs.to(torch.float32, memory_format=layout)
        # One pass in place: a second batch-sized buffer would cost more than the arithmetic.
        torch.addcmul(self._offset, pixels, self._scale, out=pixels)
        if timed:
            pixels = pixels.unflatten(0, (-1, len(mine)))
        labels = moved(part.labels, self._device)
        return self._augmentation.finish(pixels, labels, draws, self.num_classes)

    def _indices(self, order: np.ndarray | None, batch: int) -> tuple[np.ndarray, slice]:
        """Samples of a global batch, and the part of them that belongs to this rank."""
        total = len(self.split)
        if not self._training:
            start = self.rank + batch * self._rank_batch_size * self.world_size
            last = batch == len(self) - 1
            stop = total if last else start + self._rank_batch_size * self.world_size
            return np.arange(start, stop, self.world_size), slice(None)
        start = batch * self.batch_size
        stop = min(start + self.batch_size, total)
        stop += -(stop - start) % self.world_size  # equal shares
        positions = np.arange(start, stop) % total
        indices = positions if order is None else order[positions]
        return indices, slice(self.rank, None, self.world_size)
