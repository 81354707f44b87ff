"""Which barrier holds accuracy and bounds the avalanche? A short training of Sparse-ResNet-20 each.

    python benchmarks/barrier.py RECIPE.yaml --data-dir DIR --work FOLDER [--epochs 4]
                                 [--only NAME,...] [--out FILE.json]

The paper says neither whether the gradient of its barrier is masked nor what its threshold is. A
barrier takes the sum of two spikes and gives 0 to N levels. The candidates differ in what they give
for which sum, and in which sums the gradient passes; those with a ceiling give up to 1.5 N or 2N
levels of the same size. SEW-ResNet-20, without a barrier, is the reference. Run folders stay in
FOLDER, so a killed study goes on where it was.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from short_runs import MULTISPIKE, arguments, study, trained
from torch import Tensor, nn

from multispike.models.blocks import NeuronFactory
from multispike.neurons import barrier


class _Passing(torch.autograd.Function):
    """`given` forward, the gradient to `x` where `mask` is 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, given: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return given.view_as(given)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad * ctx.saved_tensors[0], None, None


class Windowed(nn.Module):
    """A barrier whose gradient is 1 from half a level below 0 up to `high` levels."""

    def __init__(self, levels: int, threshold: float, high: float) -> None:
        super().__init__()
        self.neuron = barrier(levels, threshold)
        level = threshold / levels
        self.low, self.high = -0.5 * level, high * level

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            given = self.neuron(x)
        return _Passing.apply(x, given, (x >= self.low) & (x <= self.high))  # pyright: ignore[reportReturnType]


class Halved(Windowed):
    """A barrier that gives out half of its levels."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


Make = Callable[[int, float], nn.Module]
CEILINGS = {"ceiling 1.5": 1.5, "ceiling 2": 2}
"""Barriers with so many times as many levels."""


def raised(factor: float) -> Make:
    """A barrier with `factor` times the levels, of the same size."""
    return lambda n, v: Windowed(int(factor * n), factor * v, factor * n + 0.5)


BARRIERS: dict[str, Make] = {
    "half-open": lambda n, v: Windowed(n, v, n - 0.5),  # a sum of N is shut out
    "masked": lambda n, v: Windowed(n, v, n + 0.5),
    "wide": lambda n, v: Windowed(n, v, 1.5 * n + 0.5),
    "identity": lambda n, v: Windowed(n, v, 2 * n + 0.5),
    **{name: raised(factor) for name, factor in CEILINGS.items()},
    "twice": lambda n, v: Halved(n, 2 * v, n + 0.5),  # half of the sum, rounded
}


class Row(NamedTuple):
    """A network, and what its settings change of the recipe."""

    arch: str
    barrier: str = ""
    """A name in BARRIERS; empty for the usual one, or where there is none."""
    surrogate: str | None = None
    threshold: float | None = None
    learn_threshold: str | None = None

    def options(self) -> list[str]:
        """For the command line of `multispike train`."""
        changed = {
            "--surrogate": self.surrogate,
            "--threshold": self.threshold,
            "--learn-threshold": self.learn_threshold,
        }
        return [str(part) for option in changed.items() if option[1] for part in option]


ROWS: dict[str, Row] = {
    "sew": Row("sew_resnet20"),
    **{f"sparse {name}": Row("sparse_resnet20", name) for name in BARRIERS},
    "sparse learned": Row("sparse_resnet20", learn_threshold="layer"),
    "sew sigmoid": Row("sew_resnet20", surrogate="sigmoid"),
    "sparse sigmoid masked": Row("sparse_resnet20", "masked", surrogate="sigmoid"),
    "sew V_th 3": Row("sew_resnet20", threshold=3),
    "sparse masked V_th 3": Row("sparse_resnet20", "masked", threshold=3),
    "sew V_th 4": Row("sew_resnet20", threshold=4),
    "sparse masked V_th 4": Row("sparse_resnet20", "masked", threshold=4),
}


def worker(name: str, arguments: list[str]) -> int:
    """`multispike ARGUMENTS` with that barrier in all networks of this process (T = 1)."""

    def replaced(self: NeuronFactory, threshold: float | nn.Parameter) -> nn.Module:
        assert isinstance(threshold, float)
        return BARRIERS[name](self.config.levels, threshold)

    NeuronFactory.barrier = replaced
    from multispike.cli import main as multispike

    return multispike(arguments)


def main() -> None:
    """Train every row and write its figures as soon as they are there."""
    options = arguments(__doc__, "barrier", 4)

    def run(row: str) -> tuple[dict[str, Any], dict[str, Any]]:
        own = ROWS[row]
        program = (__file__, "--worker", own.barrier) if own.barrier else MULTISPIKE
        result = trained(options, row, ["--arch", own.arch, *own.options()], program)
        return result, {
            "accuracy": result["accuracy"],
            "loss": result["loss"],
            "events": result["events_per_inference"],
            "amplitude": result["amplitude_per_inference"],
            "largest": max(layer["max_level"] for layer in result["neurons"]),
        }

    study(options, "barrier.py", ROWS, run)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        sys.exit(worker(sys.argv[2], sys.argv[3:]))
    main()
