"""What recording costs: a pass of `record_activity` against a plain evaluation, in turns.

    python benchmarks/energy_overhead.py DIR
    python benchmarks/energy_overhead.py one-image

DIR is the folder with CIFAR-10. Writes results/energy_overhead.json: for each of `NETWORKS`, not
trained but with batch norms that have seen a batch, the seconds of both over the 10,000 test images
and their ratio pair by pair; the peak memory of passes of the first over 1,000 and 10,000 images,
in processes of their own; and `one_image`: for each of `SINGLE` (those of timm where it is
installed), CPU seconds and memory beyond the network's own of one forward and of `profile` on a
batch of one, on one thread. The second form measures that alone, and leaves the rest of the file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tools import resident_mb, spread
from torch import Tensor

from multispike import create_model, profile
from multispike.activity import record_activity
from multispike.datasets import load_dataset
from multispike.datasets.loader import BatchLoader
from multispike.environment import environment, keep_freed_memory
from multispike.files import write_json

TARGET = Path(__file__).parent.parent / "results" / "energy_overhead.json"
PAIRS = 5
NETWORKS = {
    "fastnet, T=1, N=4": ("fastnet", {"levels": 4}),
    "fastnet, ReLU": ("fastnet", {"neuron": "relu"}),
    "vgg11, T=1, N=4": ("vgg11", {"levels": 4}),
    "sparse_resnet20, T=1, N=4": ("sparse_resnet20", {"levels": 4}),
    "sparse_resnet20, T=4, N=1": ("sparse_resnet20", {"neuron": "binary", "timesteps": 4}),
}
SINGLE = {
    "ResNet-18 (ReLU), 224x224": ("spiking_resnet18", {"neuron": "relu", "stem": "imagenet"}, 224),
    "ResNet-18, N=4, 224x224": ("spiking_resnet18", {"levels": 4, "stem": "imagenet"}, 224),
    "fastnet, N=4, 32x32": ("fastnet", {"levels": 4}, 32),
    **{
        f"timm {name}, 224x224": (name, None, 224)
        for name in (
            "mobilenetv3_large_100", "efficientnet_b0", "densenet121", "convnext_tiny",
            "vit_small_patch16_224", "swin_tiny_patch4_window7_224",
        )
        if find_spec("timm")
    },
}  # fmt: skip
"""Architecture, options (None: timm's), height and width of one image."""
SINGLE_PAIRS = 9


def prepared(folder: str, name: str, images: int | None = None):
    """The network in evaluation mode and a loader over the test images."""
    data = load_dataset("cifar10", folder, limit_test=images)
    torch.manual_seed(0)
    arch, options = NETWORKS[name]
    network = create_model(arch, **options)
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    train = BatchLoader(data.train, 500, mean=data.mean, std=data.std)
    with torch.no_grad():
        network(next(iter(train))[0])
    loader = BatchLoader(data.test, 250, mean=data.mean, std=data.std, channels_last=True)
    return network.eval(), loader


@torch.no_grad()
def evaluate(network, loader) -> float:
    """Seconds of a plain evaluation."""
    since = time.perf_counter()
    correct = 0
    for inputs, targets in loader:
        correct += int((network(inputs).argmax(1) == targets).sum())
    assert correct
    return time.perf_counter() - since


def record(network, loader) -> float:
    """Seconds of the pass that records activity."""
    since = time.perf_counter()
    record_activity(network, loader)
    return time.perf_counter() - since


def peak_mb(folder: str, images: int) -> float:
    """Peak memory of a pass over so many images, in a process of its own."""
    command = [sys.executable, __file__, folder, str(images)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measured(folder: str, name: str) -> dict[str, Any]:
    """Seconds of both passes in turns, and their ratios."""
    network, loader = prepared(folder, name)
    evaluate(network, loader)
    pairs = [(evaluate(network, loader), record(network, loader)) for _ in range(PAIRS)]
    ratio = spread([recorded / plain for plain, recorded in pairs])
    print(f"{name}: {ratio['median']:.2f} times", file=sys.stderr)
    return {
        "evaluate_seconds": [plain for plain, _ in pairs],
        "record_seconds": [recorded for _, recorded in pairs],
        "ratio": ratio,
    }


def single(name: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """One forward of one image, and `profile` on it."""
    arch, options, size = SINGLE[name]
    torch.manual_seed(0)
    if options is None:
        network = import_module("timm").create_model(arch, pretrained=False)
    else:
        network = create_model(arch, **options)
        with torch.no_grad():
            network(torch.randn(2, 3, 32, 32))  # statistics of batch norms
    network.eval()
    image, label = torch.randn(1, 3, size, size), torch.zeros(1, dtype=torch.long)
    profile(torch.nn.Linear(4, 2), [(torch.ones(1, 4), label)])  # what is loaded once
    loader = [(image, label)]

    def forward() -> Tensor:
        with torch.no_grad():
            return network(image)

    return forward, lambda: profile(network, loader)


def added_mb(name: str) -> list[float]:
    """Peak memory of a forward, then of `profile`, beyond what the process had before."""
    command = [sys.executable, __file__, "one-image", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(line) for line in done.stdout.splitlines()]


def one_image(name: str) -> dict[str, Any]:
    """CPU seconds of both in turns, the ratio pair by pair, and the memory of each."""
    torch.set_num_threads(1)
    runs = single(name)
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(SINGLE_PAIRS + 1):
        for run, times in zip(runs, seconds, strict=True):
            since = time.process_time()
            run()
            if number:  # the first of each warms up
                times.append(time.process_time() - since)
    ratio = spread([counted / plain for plain, counted in zip(*seconds, strict=True)])
    memory = added_mb(name)
    print(f"{name}: {ratio['median']:.2f} times, {memory[1] / memory[0]:.2f} times the memory",
          file=sys.stderr)  # fmt: skip
    return {
        "forward_seconds": seconds[0],
        "profile_seconds": seconds[1],
        "ratio": ratio,
        "forward_mb": memory[0],
        "profile_mb": memory[1],
    }


def main(folder: str) -> None:
    peaks = {str(images): peak_mb(folder, images) for images in (1_000, 10_000)}
    result = {
        "command": "python benchmarks/energy_overhead.py DIR",
        "images": 10_000,
        "n": PAIRS,
        "networks": {name: measured(folder, name) for name in NETWORKS},
        "peak_mb": peaks,
        "environment": environment(),
    }
    write_json(TARGET, result)
    write_one_image()


def write_one_image() -> None:
    result = json.loads(TARGET.read_text(encoding="utf-8"))
    result["one_image"] = {name: one_image(name) for name in SINGLE}
    libraries = {"timm": version("timm")} if find_spec("timm") else {}
    result["one_image_environment"] = {**environment(), **libraries}
    write_json(TARGET, result)


if __name__ == "__main__":
    keep_freed_memory()  # as the command line does
    folder, images, *_ = [*sys.argv[1:], ""]
    if folder == "one-image" and images:
        runs, before = single(images), resident_mb("VmRSS")
        for run in runs:
            run()
            print(resident_mb("VmHWM") - before)
    elif folder == "one-image":
        write_one_image()
    elif images:
        record(*prepared(folder, next(iter(NETWORKS)), int(images)))
        print(resident_mb("VmHWM"))
    else:
        main(folder)
