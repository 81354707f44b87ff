"""Random transforms of whole batches: what is drawn is kept apart from what is done with it.

`Augmentation.draw` makes the random numbers, `lose` takes events away and `warp` moves pixels
(uint8, before normalisation), `finish` erases and mixes (float, after it). All timesteps of a
sample are treated alike, but for events, which are lost one by one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from multispike.device import moved
from multispike.errors import invalid


@dataclass(frozen=True)
class Augmentation:
    """Which random transforms a training batch goes through.

    flip: mirror left and right; True with probability 1/2, `"alternate"` every second epoch,
        each image starting at random (Jordan 2024, arXiv 2404.00498, section 3.6).
    shift: move by up to that many pixels in each direction, reflecting at the border.
    cutout: blank a square of that side, centred anywhere in the image and clipped by its border
        (DeVries & Taylor 2017, arXiv 1708.04552); blank is the mean colour, or no event.
    mixup: blend each sample with another of its batch, with one weight per batch drawn from
        Beta(mixup, mixup) (Zhang et al. 2018, arXiv 1710.09412); 0 is off.
    drop: share of the events that is lost, each independently of the others; 0 is off.
    """

    flip: bool | Literal["alternate"] = False
    shift: int = 0
    cutout: int = 0
    mixup: float = 0.0
    drop: float = 0.0

    def __post_init__(self) -> None:
        if self.flip not in (True, False, "alternate"):
            raise invalid("flip", self.flip, "true, false or 'alternate'")
        for name in ("shift", "cutout"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise invalid(name, value, "an integer >= 0, in pixels")
        if not 0 <= self.mixup < float("inf"):
            raise invalid("mixup", self.mixup, "a number >= 0")
        if not 0 <= self.drop < 1:
            raise invalid("drop", self.drop, "a share in [0, 1)")

    def check(self, height: int, width: int) -> None:
        """Raise `InputError` if images of that size are too small for the transforms."""
        if self.shift >= min(height, width):
            allowed = f"less than the image side for reflection, {height}x{width}"
            raise invalid("shift", self.shift, allowed)
        if self.cutout > min(height, width):
            raise invalid("cutout", self.cutout, f"at most the image side, {height}x{width}")

    def draw(
        self, rng: np.random.Generator, full: int, flips: np.ndarray, height: int, width: int
    ) -> Draws:
        """All random numbers of a batch of B samples but those of lost events.

        full: size of a full batch. A shorter one gets the first of the numbers that it would get.
        flips: bool `[B]`, for `"alternate"` which samples are mirrored in this epoch.
        """
        coins = rng.random(full) < 0.5
        shifts = rng.integers(-self.shift, self.shift, size=(2, full), endpoint=True)
        centres = rng.integers(0, [[height], [width]], size=(2, full))
        weight = rng.beta(self.mixup, self.mixup) if self.mixup else 1.0
        count = len(flips)
        if self.flip != "alternate":
            flips = coins[:count] & self.flip
        return Draws(flips, shifts[:, :count], centres[:, :count], float(weight))

    def lose(self, inputs: Tensor, random: Iterable[np.random.Generator]) -> Tensor:
        """Lose events. inputs: counts `[B, T, C, H, W]`, uint8; random: a generator a sample."""
        if not self.drop:
            return inputs
        kept = inputs.cpu().numpy().copy()
        for sample, rng in zip(kept, random, strict=True):
            counts = sample.reshape(-1)
            some = np.flatnonzero(counts)
            counts[some] = rng.binomial(counts[some], 1 - self.drop)
        return moved(torch.from_numpy(kept), inputs.device)

    def warp(self, inputs: Tensor, draws: Draws) -> Tensor:
        """Flip and shift. inputs: `[B, ..., H, W]`, any dtype; returns the same shape.

        >>> draws = Draws(np.array([False]), np.array([[0], [1]]), np.zeros((2, 1), int), 1.0)
        >>> Augmentation(shift=1).warp(torch.tensor([[[[1, 2, 3]]]]), draws).tolist()
        [[[[2, 3, 2]]]]
        """
        if not (self.flip or self.shift):
            return inputs
        height, width = inputs.shape[-2:]
        rows = _reflect(np.arange(height) + draws.shifts[0][:, None], height)
        columns = _reflect(np.arange(width) + draws.shifts[1][:, None], width)
        columns = np.where(draws.flipped[:, None], width - 1 - columns, columns)
        # One gather with one flat index per pixel, shared by channels and timesteps, is fastest.
        places = torch.from_numpy(rows[:, :, None] * width + columns[:, None, :])
        source = moved(places, inputs.device)
        planes = inputs.reshape(len(inputs), -1, height * width)
        index = source.view(len(inputs), 1, -1).expand(planes.shape)
        return planes.gather(2, index).view(inputs.shape)

    def finish(self, inputs: Tensor, targets: Tensor, draws: Draws, num_classes: int | None):
        """Cutout and mixup, in place.

        inputs: normalised float `[B, C, H, W]` or `[T, B, C, H, W]`; targets: int64 `[B]`.
        Returns inputs and targets, the latter float `[B, num_classes]` under mixup.
        """
        if self.cutout:
            first = draws.centres - self.cutout // 2
            rows, columns = (
                (np.arange(side) >= low[:, None]) & (np.arange(side) < low[:, None] + self.cutout)
                for low, side in zip(first, inputs.shape[-2:], strict=True)
            )
            inside = torch.from_numpy(rows[:, None, :, None] & columns[:, None, None, :])
            inputs.masked_fill_(moved(inside, inputs.device), 0.0)
        if self.mixup:
            # A batch is shuffled already, so its neighbour is a random partner.
            inputs.lerp_(inputs.roll(1, dims=inputs.ndim - 4), 1.0 - draws.weight)
            one_hot = torch.nn.functional.one_hot(targets, num_classes or -1).float()
            targets = one_hot.lerp(one_hot.roll(1, dims=0), 1.0 - draws.weight)
        return inputs, targets


@dataclass(frozen=True)
class Draws:
    """The random numbers of one batch.

    flipped: bool `[B]`; shifts, and centres of the cutout: `[2, B]`, rows and columns in pixels;
    weight: the sample's own share under mixup.
    """

    flipped: np.ndarray
    shifts: np.ndarray
    centres: np.ndarray
    weight: float

    def share(self, part: slice) -> Draws:
        return Draws(self.flipped[part], self.shifts[:, part], self.centres[:, part], self.weight)


def _reflect(index: np.ndarray, size: int) -> np.ndarray:
    """Indices beyond the border mirrored at the outermost pixel, which isn't repeated."""
    return size - 1 - np.abs(size - 1 - np.abs(index))
