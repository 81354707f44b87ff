"""Where time, samples and features are among the axes of one batch's tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from multispike.errors import InputError

Shape = tuple[int, ...]


@dataclass
class Axes:
    """Axes of the tensors of one batch.

    batch: samples.
    time: where stacked timesteps are: "first" [T, B, ...], "second" [B, T, ...], or "unknown",
        none having been seen: then the axis of the samples is looked for by its size.
    steps: timesteps of inputs that have an axis for them.
    """

    batch: int
    time: Literal["first", "second", "unknown"] = "unknown"
    steps: int = 1

    @classmethod
    def of(cls, inputs: Tensor, samples: int) -> Axes:
        """Those of [B, ...], or of event frames [T, B, ...] or [B, T, C, H, W].

        Raises `InputError` where no axis fits the number of targets.
        """
        shape = inputs.shape
        second = inputs.dim() >= 3 and shape[1] == samples
        if second and (inputs.dim() in (3, 5) or shape[0] != samples):
            return cls(samples, "first", shape[0])
        if not inputs.dim() or shape[0] != samples:
            raise InputError(
                f"loader: got inputs {list(shape)} for {samples} targets, allowed: inputs [B, ...]"
                " or event frames [T, B, ...] with a target for each of the B samples"
            )
        return cls(samples, "second", shape[1]) if inputs.dim() == 5 else cls(samples)

    def follow(self, x: Tensor, out: Tensor) -> None:
        """Take note of where `out`, made of copies or parts of x, has its time axis."""
        if out.dim() < 3 or 1 in out.shape[:2]:
            return
        first, second = out.shape[:2]
        if self.time != "unknown":
            if first != second and tuple(x.shape[:2]) == (second, first):  # transposed
                if (first, second) == (self.steps, self.batch):
                    self.time = "first"
                elif (first, second) == (self.batch, self.steps):
                    self.time = "second"
        elif second == self.batch and out.numel() == first * x.numel():
            self.time, self.steps = "first", first
        elif first == self.batch and out.numel() == second * x.numel():
            stacked = out.dim() == x.dim() + 1 and x.shape[0] == first
            if stacked or out.dim() == 5:
                self.time, self.steps = "second", second

    def time_axis(self, shape: Shape) -> int:
        """Where a stacked tensor of this shape has time: 0 or 1."""
        return int(self.time == "second" and tuple(shape[:2]) == (self.batch, self.steps))

    def row(self, shape: Shape) -> Shape:
        """The axes behind time and samples.

        >>> axes = Axes(32)
        >>> axes.row((32, 10)), axes.row((128, 10)), axes.row((4, 32, 10)), axes.row((32, 32, 10))
        ((10,), (10,), (10,), (32, 10))
        >>> Axes(4, "first").row((4, 4, 10)), Axes(4, "second", 3).row((4, 3, 10))
        ((10,), (10,))
        """
        if len(shape) > 2 and (self.time_axis(shape) or self._time_and_samples(shape[0], shape[1])):
            return shape[2:]
        return shape[1:]

    def _time_and_samples(self, first: int, second: int) -> bool:
        return second == self.batch and (self.time == "first" or first != self.batch)

    def row_like(self, x: Tensor, shape: Shape) -> Shape:
        """The same for x; as `shape` where x is rows of it (a 1-d layer's [C, L] as [C, 1, L])."""
        if shape and x.shape[-1] == shape[-1] and x.numel() % math.prod(shape) == 0:
            return shape
        return self.row(tuple(x.shape))

    def timesteps(self, x: Tensor, shape: Shape) -> int:
        """How many timesteps x [..., *shape] holds, at least 1."""
        return max(1, x.numel() // math.prod(shape) // self.batch)

    def check_sequence(self, name: str, spikes: Tensor) -> None:
        """Raise `InputError` if a neuron of ours, whose input is [T, B, ...], had samples first."""
        shape = tuple(spikes.shape)
        second = shape[1:2] == (self.batch,) and not self.time_axis(shape)
        if shape[:1] == (self.batch,) and not second and self.batch > 1:
            raise InputError(
                f"model: MultiLevelIF at {name} got {list(shape)}, allowed: [T, B, ...] with"
                f" B = {self.batch}; for one timestep of [B, ...] call neuron(x[None])[0]"
            )

    def time_first(self, x: Tensor, timesteps: int) -> Tensor:
        """x [T, B, ...] or [T * B, ...] as it is; with the samples first as [T, B, ...]."""
        if self.time != "second" or timesteps == 1:
            return x
        if x.shape[0] == self.batch * timesteps:
            x = x.unflatten(0, (self.batch, timesteps))
        return x.transpose(0, 1) if self.time_axis(tuple(x.shape)) else x
