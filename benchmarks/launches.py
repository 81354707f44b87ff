"""What neurons and training steps launch on an accelerator: counted, not timed.

    python benchmarks/launches.py [--out results/launches.json]

Eager: operations that compute, without views and allocations. The neurons' are those of their
reference in torch (`multispike.ops.reference`), which runs wherever no kernel of ours does.
Compiled: the kernels that Inductor makes of it; counted in its code for CPUs, so no accelerator is
needed. A training step is forward and backward of a network, counted on the device `meta`; the
compiled column replaces its layers of neurons only, as `multispike::spikes` does on CUDA.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch._inductor import metrics
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from multispike import create_model
from multispike.environment import environment
from multispike.files import write_json
from multispike.ops import reference
from multispike.ops.reference import Constants
from multispike.surrogate import WINDOWS

TARGET = Path(__file__).parent.parent / "results" / "launches.json"
STEPS = [
    (arch, neuron, timesteps, levels)
    for arch in ("fastnet", "vgg16", "sparse_resnet18")
    for neuron, timesteps, levels in (("relu", 1, 1), ("multilevel", 1, 4), ("binary", 4, 1))
]
ALLOCATIONS = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")

Pass = tuple[str, int, Constants]
"""A layer's "forward" or "backward", T and its numbers."""


class Launches(TorchDispatchMode):
    """Counts the operations on one device that compute; those of our operators apart."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.count = 0
        self.neurons: Counter[Pass] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        outs = out if isinstance(out, (tuple, list)) else (out,)
        if name in ("spikes", "_spikes_and_window"):
            self.neurons["forward", len(args[0]), Constants(*args[3:9])] += 1
        elif name == "_spikes_backward":
            self.neurons["backward", len(args[0]), Constants(*args[6:12])] += 1
        elif not (func.is_view or name in (*ALLOCATIONS, "detach", "_unsafe_view")):
            self.count += any(x is not None and x.device.type == self.device for x in outs)
        return out


def call(kind: str, timesteps: int, c: Constants) -> Callable[[], Any]:
    """The reference of a layer, as training runs it."""
    x = torch.randn(timesteps, 2, 8, 4, 4)
    threshold = torch.tensor(1.0, dtype=torch.float64)
    windowed = c.surrogate in WINDOWS
    if kind == "forward":
        return partial(reference.forward, x, None, threshold, c, windowed, False)
    window, kept = (x > 0).byte() if windowed else None, None if windowed else x
    grad = torch.ones_like(x)
    return partial(reference.backward, grad, None, window, kept, None, threshold, c, False, False)


def eager(kind: str, timesteps: int, c: Constants) -> int:
    """Operations that a layer launches one by one."""
    function = call(kind, timesteps, c)
    with Launches("cpu") as launches:
        function()
    return launches.count


def compiled(kind: str, timesteps: int, c: Constants) -> int:
    """Kernels that Inductor makes of a layer."""
    function = call(kind, timesteps, c)
    torch._dynamo.reset()
    metrics.reset()
    with torch.no_grad():
        torch.compile(function.func, fullgraph=True)(*function.args)
    return metrics.generated_kernel_count


def step(arch: str, neuron: str, timesteps: int, levels: int) -> Launches:
    """What a network's training step runs."""
    with torch.device("meta"):
        model = create_model(arch, neuron=neuron, timesteps=timesteps, levels=levels)
        images, labels = torch.randn(2, 3, 32, 32), torch.zeros(2, dtype=torch.long)
    with Launches("meta") as launches:
        F.cross_entropy(model(images), labels).backward()
    return launches


def measure() -> dict[str, Any]:
    steps = [(row, step(*row)) for row in STEPS]
    passes = dict.fromkeys(key for _, launches in steps for key in launches.neurons)
    counts = {key: (eager(*key), compiled(*key)) for key in passes}
    rows = []
    for (arch, neuron, timesteps, levels), launches in steps:
        row: dict[str, Any] = {"arch": arch, "neuron": neuron}
        row |= {"timesteps": timesteps, "levels": levels}
        for way, place in (("eager", 0), ("compiled", 1)):
            ours = sum(counts[key][place] * n for key, n in launches.neurons.items())
            row[way] = launches.count + ours
        rows.append(row | {"layers": sum(launches.neurons.values()) // 2})
    layers = [
        {"pass": kind, "timesteps": timesteps, **c._asdict(), "eager": one, "compiled": other}
        for (kind, timesteps, c), (one, other) in counts.items()
    ]
    return {
        "command": "python benchmarks/launches.py",
        "layers": layers,
        "steps": rows,
        "environment": environment(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=TARGET)
    arguments = parser.parse_args()
    write_json(arguments.out, measure())
    print(arguments.out)


if __name__ == "__main__":
    main()
