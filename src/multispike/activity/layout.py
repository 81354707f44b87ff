"""Shapes: where time, samples and features are among a tensor's axes; how windows meet inputs.

The shape of one row of the layer that computed a tensor tells, where it is known, else sizes, and
where they leave it open the number of timesteps, if it is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from multispike.errors import InputError
from multispike.layer_record import Geometry, positions_read

Shape = tuple[int, ...]
Time = Literal["first", "second", "unknown"]


@dataclass(frozen=True)
class Window(Geometry):
    """The geometry of a layer during the pass; `adaptive` windows divide the input."""

    adaptive: bool = False

    def taps(self, counted: float, at: Tensor | None = None) -> float:
        """Kernel positions reached by so many values, `at` positions [H, W], or else as many at
        each; the same number, for a layer without kernel."""
        places = self.in_shape[1:]
        once = self.kernel_size == max(self.stride) == 1 and places == self.out_shape[1:]
        if once or len(places) < 2 or not counted:
            return counted
        axes = reversed(range(len(places)))
        if at is None:
            every = math.prod(float(reads(self, axis).sum()) for axis in axes)
            return counted / math.prod(places) * every
        for axis in axes:
            at = at @ reads(self, axis)
        return float(at)


@cache
def reads(window: Window, axis: int) -> Tensor:
    """How many (output, kernel position) pairs read each place along one axis; float64."""
    sizes = window.in_shape[axis + 1], window.out_shape[axis + 1]
    counts = adaptive_reads(*sizes) if window.adaptive else positions_read(window, axis)
    return torch.tensor(counts, dtype=torch.float64, device="cpu")


def adaptive_reads(size: int, out: int) -> Shape:
    """How many of the `out` windows that divide an axis hold each place."""
    windows = [(place * size // out, -(-(place + 1) * size // out)) for place in range(out)]
    return tuple(sum(start <= place < end for start, end in windows) for place in range(size))


@dataclass
class Layout:
    """Axes of the tensors of one batch, of as many samples.

    timesteps: T, where it is given.
    time: where stacked timesteps are: "first" [T, B, ...], "second" [B, T, ...], or "unknown",
        none having been seen: then the axis of the samples is looked for by its size.
    steps: timesteps of the last tensor that had an axis for them.
    assumed: what shapes were taken for where they could be read in two ways; in order.
    """

    batch: int
    timesteps: int | None = None
    time: Time = "unknown"
    steps: int = 1
    assumed: dict[str, None] = field(default_factory=dict)

    @classmethod
    def of(cls, inputs: Tensor, samples: int, timesteps: int | None = None) -> Layout:
        """Those of [B, ...], or of event frames [T, B, ...] or [B, T, C, H, W]; raises `InputError`
        where no axis fits the number of targets."""
        shape = inputs.shape
        samples_first = inputs.dim() > 0 and shape[0] == samples
        samples_second = inputs.dim() >= 3 and shape[1] == samples
        frames = inputs.dim() == 5 if timesteps is None else timesteps == shape[0]
        either = samples_first and inputs.dim() in (3, 5) and frames
        found = cls(samples, timesteps)
        if samples_second and (either or not samples_first):
            found = cls(samples, timesteps, "first", shape[0])
        if samples_second and samples_first and timesteps is None and inputs.dim() in (3, 5):
            found._assume("inputs", shape, "[T, B, ...]" if frames else "[B, ...]")
        if found.time == "first":
            return found
        if not samples_first:
            raise InputError(
                f"loader: got inputs {list(shape)} for {samples} targets, allowed: inputs [B, ...]"
                " or event frames [T, B, ...] with a target for each of the B samples"
            )
        if inputs.dim() == 5:
            return cls(samples, timesteps, "second", shape[1])
        return found

    def follow(self, x: Tensor, out: Tensor) -> None:
        """Take note of where `out`, made of copies or parts of x, has its time axis."""
        if out.dim() < 3 or 1 in out.shape[:2]:
            return
        first, second = out.shape[:2]
        if self.time != "unknown":
            swapped = tuple(x.shape[:2]) == (second, first) and (
                first != second or out.stride()[:2] == x.stride()[1::-1] != x.stride()[:2]
            )
            if swapped and {first, second} == {self.steps, self.batch}:
                to_first = second == self.batch if first != second else self.time == "second"
                self.time = "first" if to_first else "second"
            return
        grown = out.dim() > x.dim() or x.shape[0] != first
        copies = out.numel() == first * x.numel()
        if second == self.batch and copies and grown and self.timesteps in (None, first):
            self.time, self.steps = "first", first
        elif first == self.batch and out.numel() == second * x.numel():
            stacked = out.dim() == x.dim() + 1 and x.shape[0] == first
            if (stacked or out.dim() == 5) and self.timesteps in (None, second):
                self.time, self.steps = "second", second

    def time_axis(self, shape: Shape) -> int:
        """Where a stacked tensor of this shape has time: 0 or 1."""
        return int(self.time == "second" and tuple(shape[:2]) == (self.batch, self.steps))

    def row(self, shape: Shape, known: Shape = (), name: str = "") -> Shape:
        """The axes behind time and samples, of a tensor at `name`; `known` were those of the layer
        that computed it.

        >>> layout = Layout(32)
        >>> layout.row((32, 10)), layout.row((128, 10)), layout.row((4, 32, 10))
        ((10,), (10,), (10,))
        >>> layout.row((32, 32, 10)), layout.row((32, 32, 10), known=(4, 8, 10))
        ((32, 10), (32, 10))
        >>> Layout(4, time="first").row((4, 4, 10))
        (10,)
        """
        if 0 < len(known) < len(shape) and shape[len(shape) - len(known) :] == known:
            return known
        if len(shape) < 3:
            return shape[1:]
        if known and math.prod(shape) % (math.prod(known) * self.batch) == 0:
            leading, two = math.prod(shape) // math.prod(known), shape[0] * shape[1]
            if leading == shape[0] and not shape[1] == self.batch == 1:
                return shape[1:]
            if leading == two:
                return shape[2:]
        return shape[2:] if self.time_axis(shape) or self._stacked(shape, name) else shape[1:]

    def _stacked(self, shape: Shape, name: str) -> bool:
        """Whether sizes look like [T, B, ...], rather than [B, ...] or [T * B, ...]."""
        first, second = shape[:2]
        if second != self.batch:
            return False
        if self.batch == 1 or (first == self.batch and self.time == "first"):
            return True
        timesteps = self.steps if self.time == "first" else self.timesteps
        stacked = first not in (self.batch, (timesteps or 1) * self.batch)
        if name and timesteps is None and first % self.batch == 0:
            self._assume(name, shape, "[T, B, ...]" if stacked else "[B, ...]")
        return stacked

    def _assume(self, name: str, shape: Shape, taken: str) -> None:
        self.assumed[f"{name}: {list(shape)} were taken for {taken}"] = None

    def row_like(self, x: Tensor, shape: Shape, name: str = "") -> Shape:
        """As `shape` where x is rows of it (a 1-d layer's [C, L] as [C, 1, L]), else `row`."""
        if shape and x.shape[-1] == shape[-1] and x.numel() % math.prod(shape) == 0:
            return shape
        return self.row(tuple(x.shape), shape, name)

    def steps_of(self, x: Tensor, shape: Shape) -> int:
        """How many timesteps x [..., *shape] holds, at least 1."""
        return max(1, x.numel() // math.prod(shape) // self.batch)

    def over_time(self, x: Tensor, steps: int) -> Tensor | None:
        """x as [T, ...], also of merged axes or with the samples first; as it is for one step; None
        of other layouts."""
        if steps == 1:
            return x
        if self.time == "second":
            if x.shape[0] == self.batch * steps:
                x = x.unflatten(0, (self.batch, steps))
            x = x.transpose(0, 1) if self.time_axis(tuple(x.shape)) else x
        if x.shape[0] % steps:
            return None
        return x if x.shape[0] == steps else x.unflatten(0, (steps, -1))
