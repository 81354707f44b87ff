"""How fast are neurons, training steps, evaluation and activity on a GPU, against the ReLU network
and SpikingJelly?

    python benchmarks/gpu.py [--accelerator gpu] [--minutes 8] [--batch 256] [--out FILE]
    python benchmarks/gpu.py --accelerator cpu --quick       # the same code in a minute, no file

Cases run in one process and take turns. A time is that of as many calls, one behind the other, as
take about 5 ms, between two CUDA events (on the CPU by the clock), divided by their number; the
figures are medians over turns with quartiles, ratios those of times of one turn. Warm-up, in which
kernels are compiled and chosen, comes first and counts towards the minutes. Memory is the peak of
one call, with weights, gradients and optimiser, less what other cases hold.

Networks are in float32 and channels_last. Where SpikingJelly is installed, its neurons stand in the
ReLU network's places: Triton, else CuPy, else torch behind them, as far as they run. Activity is
`multispike.profile` of one batch.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any

import torch
from speed import ratio
from speed_cases import SHAPE, Case, network_case, neuron_case
from torch import Tensor, nn

from multispike import MultiLevelIF, create_model, profile
from multispike.device import device_for
from multispike.environment import environment, keep_freed_memory
from multispike.files import write_json

TARGET = Path(__file__).parent.parent / "results" / "gpu.json"
ARCHS = ("fastnet", "vgg16", "sparse_resnet18")
NETWORKS: dict[str, dict[str, Any]] = {
    "relu": {"neuron": "relu"},
    "T=1 N=4": {"levels": 4},
    "T=4 N=1": {"neuron": "binary", "timesteps": 4},
}
CALLS_MS = 5.0
WARM_UP = 3  # calls
LEAST_TURNS = 5
BACKENDS = ("triton", "cupy", "torch")


def our_cases(shape: tuple[int, ...], batch: int) -> dict[str, Callable[[], Case]]:
    """Name -> a function that prepares the case."""
    cases: dict[str, Callable[[], Case]] = {}
    for steps in (1, 4):
        cases[f"neuron/relu T={steps}"] = lambda t=steps: neuron_case(nn.ReLU, t, shape=shape)
        for surrogate in ("clip", "sigmoid"):
            levels = 4 // steps
            cases[f"neuron/{surrogate} T={steps} N={levels}"] = (
                lambda t=steps, n=levels, s=surrogate: neuron_case(
                    lambda: MultiLevelIF(n, surrogate=s, timesteps=t), t, shape=shape
                )
            )
    for arch in ARCHS:
        for label, options in NETWORKS.items():
            for part in ("training", "evaluation"):
                cases[f"{part}/{arch} {label}"] = lambda a=arch, o=options, p=part: network_case(
                    create_model(a, **o), p == "training", batch=batch
                )
            cases[f"activity/{arch} {label}"] = lambda a=arch, o=options: activity_case(
                create_model(a, **o), batch
            )
    return cases


def activity_case(network: nn.Module, batch: int) -> Case:
    """Activity and energy of one batch of random images."""
    network.to(memory_format=torch.channels_last).eval()  # pyright: ignore[reportCallIssue]
    images, labels = torch.randn(batch, 3, 32, 32), torch.randint(0, 10, (batch,))
    return lambda: profile(network, [(images, labels)])


class Node(nn.Module):
    """A neuron of SpikingJelly in the place of a ReLU: T and batch share the first axis."""

    def __init__(self, node: Any, timesteps: int) -> None:
        super().__init__()
        self.node, self.timesteps = node, timesteps

    def forward(self, x: Tensor) -> Tensor:
        self.node.reset()
        if x.dim() == 5:  # what drives every timestep of the first layer
            return self.node(x)
        return self.node(x.unflatten(0, (self.timesteps, -1))).flatten(0, 1)


def peer_cases(
    shape: tuple[int, ...], batch: int, device: torch.device
) -> tuple[dict[str, Callable[[], Case]], str]:
    """The same of SpikingJelly, and the backend that runs on the device."""
    from spikingjelly.activation_based import neuron  # pyright: ignore[reportMissingImports]

    def integrate(backend: str) -> Any:
        return neuron.IFNode(v_reset=None, detach_reset=True, step_mode="m", backend=backend)

    def runs(backend: str) -> bool:
        try:
            Timed(lambda: neuron_case(lambda: integrate(backend), 4, shape=(2, 8, 4, 4)), device)
        except Exception:  # whatever a missing compiler or package raises
            return False
        return True

    backend = next(filter(runs, BACKENDS))
    make = {1: lambda: neuron.ILIFNode(step_mode="m"), 4: lambda: integrate(backend)}

    def network(arch: str, steps: int) -> nn.Module:
        model = create_model(arch, neuron="relu", timesteps=steps)
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.ReLU):
                    setattr(module, name, Node(make[steps](), steps))
        return model

    def call(node: Any, x: Tensor) -> Tensor:
        node.reset()
        return node(x)

    cases: dict[str, Callable[[], Case]] = {}
    for steps, name in ((1, "I-LIF"), (4, "IF")):
        label = f"spikingjelly {name} T={steps}"
        cases[f"neuron/{label}"] = lambda t=steps: neuron_case(make[t], t, call, shape)
        for arch in ARCHS:
            for part in ("training", "evaluation"):
                cases[f"{part}/{arch} {label}"] = lambda a=arch, t=steps, p=part: network_case(
                    network(a, t), p == "training", batch=batch
                )
    return cases, backend


class Timed:
    """A prepared case: its memory in MiB (None on the CPU), and times in ms."""

    def __init__(self, prepare: Callable[[], Case], device: torch.device) -> None:
        self.cuda, self.times = device.type == "cuda", list[float]()
        before = torch.cuda.memory_allocated() if self.cuda else 0
        with device:  # not around the calls: each of torch's would pass through it
            self.case = prepare()
        self.calls = 1
        for _ in range(WARM_UP):
            self.case()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        took = self.time()
        self.mib = (torch.cuda.max_memory_allocated() - before) / 2**20 if self.cuda else None
        self.calls = max(1, round(CALLS_MS / took))

    def time(self) -> float:
        """Of a call, in ms."""
        if not self.cuda:
            start = time.perf_counter()
            for _ in range(self.calls):
                self.case()
            return (time.perf_counter() - start) * 1e3 / self.calls
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(self.calls):
            self.case()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / self.calls

    def row(self, images: int | None) -> dict[str, Any]:
        low, median, high = statistics.quantiles(self.times, n=4)
        row = {"ms": round(median, 4), "low": round(low, 4), "high": round(high, 4)}
        row |= {"n": len(self.times), "calls": self.calls}
        row |= {"images_per_second": round(images / median * 1e3)} if images else {}
        return row | ({} if self.mib is None else {"MiB": round(self.mib, 1)})


def ratios(found: dict[str, Timed]) -> list[dict[str, Any]]:
    """Of our cases over the ReLU's with as many timesteps, and over SpikingJelly's at T=4."""
    rows = []
    for name in found:
        kind, _, case = name.partition("/")
        arch, ours = ("", case) if kind == "neuron" else case.split(" ", 1)
        if ours.startswith(("relu", "spikingjelly")):
            continue
        relu = f"relu {ours.split()[1]}" if kind == "neuron" else "relu"
        for other in (relu, "spikingjelly I-LIF T=1", "spikingjelly IF T=4"):
            reference = f"{kind}/{arch} {other}".replace("/ ", "/")
            if reference in found:
                row = ratio(found[name].times, found[reference].times)
                row = {key: round(value, 3) for key, value in row.items()}
                rows.append({"case": name, "reference": reference, **row})
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--accelerator", default="gpu")
    parser.add_argument("--minutes", type=float, default=8.0, help="set-up and warm-up included")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--quick", action="store_true", help="tiny cases, a few turns")
    parser.add_argument("--out", type=Path, help=f"by default {TARGET.name}, none with --quick")
    given = parser.parse_args(arguments)
    began = time.monotonic()
    device = device_for(given.accelerator)
    batch, shape = (4, (2, 8, 4, 4)) if given.quick else (given.batch, SHAPE)
    keep_freed_memory()
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    cases, peers = our_cases(shape, batch), {}
    if util.find_spec("spikingjelly"):
        more, backend = peer_cases(shape, batch, device)
        cases |= more
        peers = {"spikingjelly": metadata.version("spikingjelly"), "backend": backend}
    found: dict[str, Timed] = {}
    for name, prepare in cases.items():
        found[name] = Timed(prepare, device)
        print(f"{time.monotonic() - began:5.0f} s  {name}", flush=True)
    turns, seconds = 0, 0.0 if given.quick else 60 * given.minutes
    while turns < LEAST_TURNS or time.monotonic() - began < seconds:
        for case in found.values():
            case.times.append(case.time())
        turns += 1
    result = {
        "command": "python benchmarks/gpu.py",
        "batch": batch,
        "cases": {
            name: case.row(None if name.startswith("neuron/") else batch)
            for name, case in found.items()
        },
        "ratios": ratios(found),
        "environment": environment(device) | {"peers": peers},
    }
    for row in result["ratios"]:
        quartiles = f"({row['low']:.2f} to {row['high']:.2f})"
        print(f"{row['median']:8.2f}  {quartiles:20}  {row['case']} over {row['reference']}")
    if given.out or not given.quick:
        write_json(given.out or TARGET, result)


if __name__ == "__main__":
    main()
