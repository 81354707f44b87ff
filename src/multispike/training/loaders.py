"""Loaders of torch where a `Dataset` stands, in an order that goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from multispike.device import moved


@dataclass(frozen=True)
class Loaders:
    """What a `Dataset` says, of a training and a test loader of torch.

    Attributes:
        loaders: both give batches (images float [B, C, H, W], labels int64 [B]).
        batch_size: of the first batch of the training.
        mean, std: none, since what becomes of pixels is the loaders' own affair.
    """

    name: str
    loaders: tuple[DataLoader[Any], DataLoader[Any]]
    batch_size: int
    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    validation: None = None
    timesteps: None = None

    @property
    def train(self) -> Any:
        return self.loaders[0].dataset

    @property
    def test(self) -> Any:
        return self.loaders[1].dataset

    @property
    def num_classes(self) -> int:
        return len(self.classes)


class EpochLoader:
    """A loader of torch whose epochs are functions of seed and epoch: their order, and what they
    draw from torch's generator, such as augmentation. A run that goes on within an epoch reads its
    batches from the first on, and finds the generator as the checkpoint has it."""

    def __init__(
        self, loader: DataLoader[Any], batch_size: int, seed: int, device: torch.device
    ) -> None:
        self.loader, self.batch_size, self.seed, self.device = loader, batch_size, seed, device
        self._epoch = self._start = 0

    def __len__(self) -> int:
        return len(self.loader)

    def set_epoch(self, epoch: int, batch: int = 0) -> None:
        """Let the next iteration give that epoch, from that batch on."""
        self._epoch, self._start = epoch, batch

    def __iter__(self) -> Iterator[Any]:
        saved, start = torch.get_rng_state(), self._start
        seed = int(np.random.default_rng([self.seed, self._epoch]).integers(2**62))
        for generator in (torch.default_generator, self.loader.generator):
            if generator is not None:
                generator.manual_seed(seed)
        batches = iter(self.loader)
        for _ in range(start):
            next(batches)
        if start:
            torch.set_rng_state(saved)
        for images, labels in batches:
            yield moved(images, self.device), moved(labels, self.device)
