"""Which barrier holds accuracy and bounds the avalanche? A short training of Sparse-ResNet-20 each.

    python benchmarks/barrier.py RECIPE.yaml --data-dir DIR --work FOLDER [--epochs 6]
                                 [--only NAME,...] [--out FILE.json]

The paper says neither whether the gradient of its barrier is masked nor what its threshold is. A
barrier takes the sum of two spikes, 0 to 2N levels, and gives 0 to N. The candidates differ in what
they give for which sum, and in which sums the gradient passes. SEW-ResNet-20, without a barrier, is
the reference. Run folders stay in FOLDER, so a killed study goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from multispike.files import write_json
from multispike.models.layers import NeuronFactory
from multispike.neurons import MultiLevelIF, barrier

ROOT = Path(__file__).parent.parent


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
BARRIERS: dict[str, Make | None] = {
    "half open: to N - 1/2": lambda n, v: Windowed(n, v, -0.5 / n, 1 - 0.5 / n),
    "masked: to N": lambda n, v: Windowed(n, v, -0.5 / n, 1 + 0.5 / n),
    "wide: to 1.5 N": lambda n, v: Windowed(n, v, -0.5 / n, 1.5 + 0.5 / n),
    "identity: all": lambda n, v: Windowed(n, v, -0.5 / n, 2 + 0.5 / n),
    "threshold 2 V_th": Halved,
    "learned threshold": Learned,
}
ROWS: dict[str, tuple[str, str, str]] = {  # name -> arch, barrier, options
    "sew": ("sew_resnet20", "", ""),
    **{f"sparse, {name}": ("sparse_resnet20", name, "") for name in BARRIERS},
    "sew, sigmoid": ("sew_resnet20", "", "--surrogate sigmoid"),
    **{
        f"sparse, sigmoid, {name}": ("sparse_resnet20", name, "--surrogate sigmoid")
        for name in ("masked: to N", "identity: all")
    },
}


def worker(name: str, arguments: list[str]) -> int:
    """`multispike ARGUMENTS` with that barrier in all networks of this process (T = 1)."""
    make = BARRIERS[name]
    assert make is not None

    def replaced(self: NeuronFactory, threshold: float | nn.Parameter) -> nn.Module:
        assert isinstance(threshold, float)
        return make(self.levels, threshold)

    NeuronFactory.barrier = replaced
    from multispike.cli import main as multispike

    return multispike(arguments)


def trained(row: str, recipe: str, data_dir: str, work: Path, epochs: int) -> dict[str, Any]:
    """The result of one row, trained unless its folder holds it."""
    arch, name, options = ROWS[row]
    out = work / "".join(c if c.isalnum() else "-" for c in row)
    arguments = [
        *("train", "--config", recipe, "--arch", arch, "--data-dir", data_dir),
        *("--epochs", str(epochs), "--out", str(out), *options.split()),
    ]
    if (out / "config.yaml").exists():
        arguments.append("--resume")
    program = [__file__, "--worker", name] if name else ["-m", "multispike.cli"]
    subprocess.run([sys.executable, *program, *arguments], check=True, stdout=subprocess.DEVNULL)
    return json.loads((out / "result.json").read_text())


def main() -> None:
    """Train every row and write its figures as soon as it is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--only", help="rows whose name contains one of these, comma-separated")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "barrier.json")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else [""]
    rows = {}
    for row in ROWS:
        if not any(part in row for part in wanted):
            continue
        result = trained(row, options.recipe, options.data_dir, options.work, options.epochs)
        rows[row] = {
            "accuracy": result["accuracy"],
            "loss": result["loss"],
            "events": result["events_per_inference"],
            "amplitude": result["amplitude_per_inference"],
            "largest": max(layer["max_level"] for layer in result["neurons"]),
        }
        print(f"{row:40}", *(f"{key} {value:.6g}" for key, value in rows[row].items()), flush=True)
        write_json(
            options.out,
            {
                "command": f"python benchmarks/barrier.py {options.recipe} --epochs"
                f" {options.epochs} --data-dir DIR --work FOLDER",
                "epochs": options.epochs,
                "seed": result["seed"],
                "rows": rows,
                "environment": result["environment"],
            },
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        sys.exit(worker(sys.argv[2], sys.argv[3:]))
    main()
