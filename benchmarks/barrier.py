"""Which barrier holds accuracy and bounds the avalanche? A short training of Sparse-ResNet-20 each.

    python benchmarks/barrier.py RECIPE.yaml --data-dir DIR --work FOLDER [--epochs 6]
                                 [--only NAME,...] [--out FILE.json]

The paper says neither whether the gradient of its barrier is masked nor what its threshold is. A
barrier takes the sum of two spikes, 0 to 2N levels, and gives 0 to N. The candidates differ in what
they give for which sum, and in which sums the gradient passes. SEW-ResNet-20, without a barrier, is
the reference. Run folders stay in FOLDER, so a killed study goes on where it was.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from short_runs import MULTISPIKE, arguments, study, trained
from torch import Tensor, nn

from multispike.models.layers import NeuronFactory
from multispike.neurons import MultiLevelIF, barrier


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
    """A barrier whose gradient is 1 where low <= x <= high, in units of V_th."""

    def __init__(self, levels: int, threshold: float, low: float, high: float) -> None:
        super().__init__()
        self.neuron = barrier(levels, threshold)
        self.low, self.high = low * threshold, high * threshold

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            given = self.neuron(x[None])[0]
        return _Passing.apply(x, given, (x >= self.low) & (x <= self.high))  # pyright: ignore[reportReturnType]


class Halved(nn.Module):
    """Threshold 2 V_th, given out in levels of V_th/N: half of the sum, rounded."""

    def __init__(self, levels: int, threshold: float) -> None:
        super().__init__()
        self.neuron = MultiLevelIF(levels, 2 * threshold, surrogate="ste", v_init=0.5)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            given = self.neuron(x[None])[0]
        return _Passing.apply(x, given, torch.ones_like(x, dtype=torch.bool)) / 2  # pyright: ignore[reportOperatorIssue]


class Learned(nn.Module):
    """A learned threshold, given out in levels of V_th/N."""

    def __init__(self, levels: int, threshold: float) -> None:
        super().__init__()
        self.v_th = threshold
        self.neuron = MultiLevelIF(
            levels, threshold, surrogate="ste", v_init=0.5, learn_threshold=True
        )

    def forward(self, x: Tensor) -> Tensor:
        own = self.neuron.threshold
        assert isinstance(own, Tensor)
        return self.neuron(x[None])[0] * (self.v_th / own.detach())


Make = Callable[[int, float], nn.Module]
BARRIERS: dict[str, Make] = {
    "half-open": lambda n, v: Windowed(n, v, -0.5 / n, 1 - 0.5 / n),  # a sum of N is shut out
    "masked": lambda n, v: Windowed(n, v, -0.5 / n, 1 + 0.5 / n),
    "wide": lambda n, v: Windowed(n, v, -0.5 / n, 1.5 + 0.5 / n),
    "identity": lambda n, v: Windowed(n, v, -0.5 / n, 2 + 0.5 / n),
    "twice": Halved,
    "learned": Learned,
}
ROWS: dict[str, tuple[str, str, str]] = {  # name -> arch, barrier, options
    "sew": ("sew_resnet20", "", ""),
    **{f"sparse {name}": ("sparse_resnet20", name, "") for name in BARRIERS},
    "sew sigmoid": ("sew_resnet20", "", "--surrogate sigmoid"),
    "sparse sigmoid masked": ("sparse_resnet20", "masked", "--surrogate sigmoid"),
    **{
        f"{row} V_th {value}": (arch, name, f"--threshold {value}")
        for value in (1, 3)
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
        return BARRIERS[name](self.levels, threshold)

    NeuronFactory.barrier = replaced
    from multispike.cli import main as multispike

    return multispike(arguments)


def main() -> None:
    """Train every row and write its figures as soon as they are there."""
    options = arguments(__doc__, "barrier", 6)

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
