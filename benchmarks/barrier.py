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
from typing import Any

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
            given = self.neuron(x[None])[0]
        return _Passing.apply(x, given, (x >= self.low) & (x <= self.high))  # pyright: ignore[reportReturnType]


class Halved(Windowed):
    """A barrier that gives out half of its levels."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


Make = Callable[[int, float], nn.Module]
BARRIERS: dict[str, Make] = {
    "half-open": lambda n, v: Windowed(n, v, n - 0.5),  # a sum of N is shut out
    "masked": lambda n, v: Windowed(n, v, n + 0.5),
    "wide": lambda n, v: Windowed(n, v, 1.5 * n + 0.5),
    "identity": lambda n, v: Windowed(n, v, 2 * n + 0.5),
    "ceiling 1.5": lambda n, v: Windowed(3 * n // 2, 1.5 * v, 1.5 * n + 0.5),
    "ceiling 2": lambda n, v: Windowed(2 * n, 2 * v, 2 * n + 0.5),
    "twice": lambda n, v: Halved(n, 2 * v, n + 0.5),  # half of the sum, rounded
}
ROWS: dict[str, tuple[str, str, str]] = {  # name -> arch, barrier, options
    "sew": ("sew_resnet20", "", ""),
    **{f"sparse {name}": ("sparse_resnet20", name, "") for name in BARRIERS},
    "sparse learned": ("sparse_resnet20", "", "--learn-threshold layer"),
    "sew sigmoid": ("sew_resnet20", "", "--surrogate sigmoid"),
    "sparse sigmoid masked": ("sparse_resnet20", "masked", "--surrogate sigmoid"),
    **{
        f"{row} V_th {value}": (arch, name, f"--threshold {value}")
        for value in (3, 4)
        for row, arch, name in (
            ("sew", "sew_resnet20", ""),
            ("sparse masked", "sparse_resnet20", "masked"),
        )
    },
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
        arch, name, extra = ROWS[row]
        program = (__file__, "--worker", name) if name else MULTISPIKE
        result = trained(options, row, ["--arch", arch, *extra.split()], program)
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
