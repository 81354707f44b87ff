"""Where time, samples and features are among the axes of one batch's tensors.

Sizes tell, unless a batch has as many samples as something else has elements, or only one. So a few
samples of an uncommon number go ahead, and what is answered about them holds for all: `Layout`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from multispike.errors import InputError

Shape = tuple[int, ...]
Moved = Literal["first", "second"] | None
A = TypeVar("A")


class Layout:
    """Answers about the axes of one batch, by place and order, and of those after it.

    Args:
        place: tells where in the network we are; None outside of it, where nothing is kept.
        told: answers of the samples that went ahead; None: to learn them.
    """

    def __init__(
        self, place: Callable[[], Hashable], told: dict[Hashable, list[Any]] | None = None
    ) -> None:
        self._place = place
        self._learning = told is None
        self.told: dict[Hashable, list[Any]] = {} if told is None else told
        self._asked: Counter[Hashable] = Counter()

    def start(self) -> None:
        """Begin a batch."""
        self._asked.clear()

    def ask(self, question: str, shape: Shape, answer: A) -> A:
        """What was answered before, here, about such a shape; else `answer`, which sizes gave."""
        place = self._place()
        key = (question, place, len(shape), shape[2:])
        if place is None or (not self._learning and key not in self.told):
            return answer
        if self._learning:
            self.told.setdefault(key, []).append(answer)
            return answer
        answers = self.told[key]
        index = min(self._asked[key], len(answers) - 1)
        self._asked[key] += 1
        return answers[index]


def uncommon(inputs: Tensor, samples: int, sizes: set[int]) -> tuple[Tensor, int]:
    """Inputs like these of a number of samples that is not among `sizes`; and that number.

    >>> inputs, samples = uncommon(torch.arange(26.0).view(2, 13), 2, {17})
    >>> samples, inputs[:, 0].tolist()[:4]
    (19, [0.0, 13.0, 0.0, 13.0])
    """
    sizes = sizes | set(inputs.shape)
    number = next(prime for prime in (13, 17, 19, 23, 29, 31, 37) if prime not in sizes)
    axis = int(Axes.of(inputs, samples).time == "first")
    which = torch.arange(number, device=inputs.device) % samples
    return inputs.index_select(axis, which), number


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
    layout: Layout | None = None

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
        if out.dim() < 3:
            return
        moved = self._moved(x, out)
        time: Moved = self._ask("moved", out.shape, moved)
        if time is not None:
            self.time, self.steps = time, out.shape[int(time == "second")]

    def _moved(self, x: Tensor, out: Tensor) -> Moved:
        """Where time is from now on; None: where it was."""
        first, second = out.shape[:2]
        if 1 in (first, second):
            return None
        if self.time != "unknown":
            if first != second and tuple(x.shape[:2]) == (second, first):  # transposed
                if (first, second) == (self.steps, self.batch):
                    return "first"
                if (first, second) == (self.batch, self.steps):
                    return "second"
        elif second == self.batch and out.numel() == first * x.numel():
            return "first"
        elif first == self.batch and out.numel() == second * x.numel():
            stacked = out.dim() == x.dim() + 1 and x.shape[0] == first
            if stacked or out.dim() == 5:
                return "second"
        return None

    def _ask(self, question: str, shape: Shape, answer: A) -> A:
        return answer if self.layout is None else self.layout.ask(question, tuple(shape), answer)

    def time_axis(self, shape: Shape) -> int:
        """Where a stacked tensor of this shape has time: 0 or 1."""
        return self._ask("time", shape, int(self._second(shape)))

    def _second(self, shape: Shape) -> bool:
        return self.time == "second" and tuple(shape[:2]) == (self.batch, self.steps)

    def row(self, shape: Shape) -> Shape:
        """The axes behind time and samples.

        >>> axes = Axes(32)
        >>> axes.row((32, 10)), axes.row((128, 10)), axes.row((4, 32, 10)), axes.row((32, 32, 10))
        ((10,), (10,), (10,), (32, 10))
        >>> Axes(4, "first").row((4, 4, 10)), Axes(4, "second", 3).row((4, 3, 10))
        ((10,), (10,))
        """
        if len(shape) < 3:
            return shape[1:]
        stacked = self._second(shape) or self._time_and_samples(shape[0], shape[1])
        return shape[2:] if self._ask("stacked", shape, stacked) else shape[1:]

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
        second = shape[1:2] == (self.batch,) and not self._second(shape)
        wrong = shape[:1] == (self.batch,) and not second and self.batch > 1
        if self._ask("samples first", shape, wrong):
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
