"""How long CIFAR-10 takes to load, and which share of a training step its batches are.

    python benchmarks/data.py DIR      (the folder with train.parquet and test.parquet)

Writes results/data.json: seconds of the first load and of one from the cache (both in processes
of their own, import of torch not counted), medians of batch and step in ms, their ratio.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from multispike import create_model
from multispike.datasets import load_dataset
from multispike.datasets.augment import Augmentation
from multispike.datasets.loader import BatchLoader
from multispike.environment import environment
from multispike.files import write_json

TARGET = Path(__file__).parent.parent / "results" / "data.json"
LOAD = """
import sys, time, torch
from multispike.datasets import load_dataset
since = time.perf_counter()
load_dataset("cifar10", sys.argv[1], cache_dir=sys.argv[2], progress=False)
print(time.perf_counter() - since)
"""


def load_seconds(folder: str, cache: str) -> float:
    """Seconds that a new process takes to have CIFAR-10 as tensors."""
    command = [sys.executable, "-c", LOAD, folder, cache]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def batch_and_step(folder: str, cache: str, batches: int = 20) -> tuple[list[float], list[float]]:
    """Seconds of each augmented batch of 250 and of each training step of fastnet."""
    data = load_dataset("cifar10", folder, cache_dir=cache)
    loader = BatchLoader(
        data.train, 250, mean=data.mean, std=data.std, augmentation=Augmentation(True, 2),
        shuffle=True, drop_last=True, channels_last=True,
    )  # fmt: skip
    model = create_model("fastnet", surrogate="ste").to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    batch_times, step_times = [], []
    batch = iter(loader)
    for _ in range(batches):
        since = time.perf_counter()
        inputs, targets = next(batch)
        made = time.perf_counter()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        batch_times.append(made - since)
        step_times.append(time.perf_counter() - made)
    return batch_times[2:], step_times[2:]


def main(folder: str) -> None:
    with tempfile.TemporaryDirectory() as cache:
        first = load_seconds(folder, cache)
        cached = [load_seconds(folder, cache) for _ in range(3)]
        batches, steps = batch_and_step(folder, cache)
    result = {
        "command": "python benchmarks/data.py DIR",
        "first_load_seconds": first,
        "cached_load_seconds": cached,
        "batch_ms": {"median": statistics.median(batches) * 1e3, "max": max(batches) * 1e3},
        "step_ms": {"median": statistics.median(steps) * 1e3, "max": max(steps) * 1e3},
        "n": len(batches),
        "share_of_step": statistics.median(batches) / statistics.median(steps),
        "environment": environment(),
    }
    write_json(TARGET, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main(sys.argv[1])
