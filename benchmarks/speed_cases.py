"""The cases of speed.py, and the process that runs them on demand.

    PYTHON benchmarks/speed_cases.py ours|peers --threads N [--tune]

It runs in the environment of the libraries that it measures, and there needs nothing else.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SHAPE = (128, 64, 16, 16)  # of one timestep of a neuron layer
BATCH = 64  # images of 3x32x32 in a training step
VGG11 = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")

IN_MIB = ("memory", "tensors")
PARTS = ("neuron", "training", "inference", *IN_MIB)

Case = Callable[[], Any]


def neuron_case(
    make: Callable[[], Any], timesteps: int, call: Any = None, shape: tuple[int, ...] = SHAPE
) -> Case:
    """Forward and backward of one layer with a given output gradient."""
    import torch

    neuron = make()
    x = torch.randn(timesteps, *shape, requires_grad=True)
    grad = torch.randn(timesteps, *shape)
    return lambda: torch.autograd.grad(call(neuron, x) if call else neuron(x), x, grad)


def network_case(network: Any, training: bool, logits: Any = None, batch: int = BATCH) -> Case:
    """A step of SGD, or a forward pass, on one batch of random images."""
    import torch
    from torch.nn.functional import cross_entropy

    network.to(memory_format=torch.channels_last).train(training)
    images = torch.randn(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,))
    optimiser = torch.optim.SGD(network.parameters(), 0.01, 0.9)
    logits = logits or network

    def step():
        optimiser.zero_grad()
        cross_entropy(logits(images), labels).backward()
        optimiser.step()

    def infer():
        with torch.no_grad():
            logits(images)

    return step if training else infer


def our_cases() -> dict[str, Callable[[], Case]]:
    """Name -> a function that prepares the case."""
    import torch

    from multispike import MultiLevelIF, create_model

    cases: dict[str, Callable[[], Case]] = {}
    for steps in (1, 4):
        cases[f"neuron/relu T={steps}"] = lambda t=steps: neuron_case(torch.nn.ReLU, t)
    for steps, levels in ((1, 4), (4, 1)):
        for surrogate in ("ste", "sigmoid"):
            for learn in (False, True):
                name = f"neuron/{surrogate} T={steps} N={levels}{' learned' if learn else ''}"
                cases[name] = lambda t=steps, n=levels, s=surrogate, k=learn: neuron_case(
                    lambda: MultiLevelIF(n, surrogate=s, learn_threshold=k, timesteps=t), t
                )
    networks = {
        "relu": {"neuron": "relu"},
        "T=1 N=4": {"levels": 4},
        "T=1 N=4 ste": {"levels": 4, "surrogate": "ste"},
        "T=4 N=1": {"neuron": "binary", "timesteps": 4},
    }
    for arch in ("vgg11", "vgg16", "sparse_resnet18"):
        for label, options in networks.items():
            if arch != "vgg11" and label not in ("relu", "T=1 N=4"):
                continue
            for part in ("training", "inference", *IN_MIB):
                if part == "memory" and arch == "vgg16":
                    continue
                cases[f"{part}/{arch} {label}"] = lambda a=arch, o=options, p=part: network_case(
                    create_model(a, **o), p != "inference"
                )
    return cases


def peer_cases() -> dict[str, Callable[[], Case]]:
    """SpikingJelly 2 and snnTorch, each as its documentation uses it (soft reset as ours)."""
    import snntorch  # pyright: ignore[reportMissingImports]
    import torch
    from spikingjelly.activation_based import (  # pyright: ignore[reportMissingImports]
        functional,
        layer,
        neuron,
    )

    def spikingjelly(node, x):
        functional.reset_net(node)
        return node(x if node.step_mode == "m" else x[0]).view_as(x)

    def leaky(node, x):
        membrane, spikes = node.init_leaky(), []
        for x_t in x:
            spike, membrane = node(x_t, membrane)
            spikes.append(spike)
        return torch.stack(spikes)

    def integrate(mode):
        return neuron.IFNode(v_reset=None, detach_reset=True, step_mode=mode)

    def network(part, timesteps):
        layers, channels = [], 3
        for width in VGG11:
            if width == "M":
                layers.append(layer.MaxPool2d(2, ceil_mode=True, step_mode="m"))
                continue
            layers.append(layer.Conv2d(channels, width, 3, padding=1, bias=False, step_mode="m"))
            layers.append(layer.BatchNorm2d(width, step_mode="m"))
            layers.append(integrate("m"))
            channels = width
        layers.append(layer.AdaptiveAvgPool2d(1, step_mode="m"))
        model = torch.nn.Sequential(*layers, torch.nn.Flatten(2), torch.nn.Linear(channels, 10))

        def logits(images):
            functional.reset_net(model)
            return model(images.expand(timesteps, *images.shape)).mean(0)

        return network_case(model, part != "inference", logits)

    cases: dict[str, Callable[[], Case]] = {
        "neuron/spikingjelly I-LIF T=1": lambda: neuron_case(
            lambda: neuron.ILIFNode(step_mode="m"), 1, spikingjelly
        ),
        "neuron/spikingjelly I-LIF single step": lambda: neuron_case(
            lambda: neuron.ILIFNode(step_mode="s"), 1, spikingjelly
        ),
        "neuron/spikingjelly IF T=1": lambda: neuron_case(lambda: integrate("s"), 1, spikingjelly),
        "neuron/spikingjelly IF T=4": lambda: neuron_case(lambda: integrate("m"), 4, spikingjelly),
    }
    for steps in (1, 4):
        cases[f"neuron/snntorch Leaky T={steps}"] = lambda t=steps: neuron_case(
            lambda: snntorch.Leaky(beta=0.9), t, leaky
        )
    for part in ("training", "inference", *IN_MIB):
        for steps in (1, 4):
            name = f"{part}/spikingjelly vgg11 T={steps}"
            cases[name] = lambda p=part, t=steps: network(p, t)
    return cases


def tune() -> None:
    """`keep_freed_memory` of a file that needs nothing else of this package."""
    where = ROOT / "src" / "multispike" / "environment.py"
    spec = importlib.util.spec_from_file_location("environment", where)
    assert spec is not None
    assert spec.loader is not None
    environment = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(environment)
    environment.keep_freed_memory()


def tensors(case: Case) -> float:
    """The most that tensors made in one step need at once, in MiB."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        case()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]
        most = max(most, now)
    return most / 2**20


def work(kind: str, threads: int, tuned: bool) -> None:
    """Answer lines from standard input: "list", "versions", "prepare NAME", "run NAME", "peak",
    "tensors NAME"."""
    if kind == "ours" or tuned:
        tune()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints must not become an answer

    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    table = our_cases() if kind == "ours" else peer_cases()
    ready: dict[str, Case] = {}
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for line in sys.stdin:
        command, _, name = line.strip().partition(" ")
        answer: Any = None
        if command == "list":
            answer = list(table)
        elif command == "versions":
            packages = ("torch", "multispike", "spikingjelly", "snntorch")
            answer = {
                name: importlib.metadata.version(name) for name in packages if name in sys.modules
            }
        elif command == "prepare":
            ready[name] = table[name]()
            ready[name]()
        elif command == "run":
            start = time.perf_counter()
            ready[name]()
            answer = time.perf_counter() - start
        elif command == "peak":
            answer = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024
        elif command == "tensors":
            answer = tensors(ready.pop(name))
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=("ours", "peers"))
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--tune", action="store_true", help="keep freed memory, as ours does")
    options = parser.parse_args()
    work(options.kind, options.threads, options.tune)
