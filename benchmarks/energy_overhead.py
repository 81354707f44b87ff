"""What recording costs: a pass of `record_activity` against a plain evaluation, in turns.

    python benchmarks/energy_overhead.py DIR [RUN]

DIR is the folder with CIFAR-10; RUN a trained run on it, by default an untrained fastnet. Writes
results/energy_overhead.json: seconds of both over the 10,000 test images, their ratio pair by
pair, and the peak memory of passes over 1,000 and 10,000 images in processes of their own.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from multispike import create_model
from multispike.activity import record_activity
from multispike.data import load_dataset
from multispike.data.loader import BatchLoader
from multispike.environment import environment
from multispike.files import write_json
from multispike.training import load_run

TARGET = Path(__file__).parent.parent / "results" / "energy_overhead.json"
PAIRS = 5


def prepared(folder: str, run: str | None, images: int | None = None):
    """The network in evaluation mode and a loader over the test images."""
    data = load_dataset("cifar10", folder, limit_test=images)
    if run:
        network = load_run(run).network
    else:
        torch.manual_seed(0)
        network = create_model("fastnet", surrogate="ste", v_init=0.5)
        train = BatchLoader(data.train, 500, mean=data.mean, std=data.std)
        with torch.no_grad():
            network(next(iter(train))[0])
    loader = BatchLoader(data.test, 250, mean=data.mean, std=data.std, channels_last=True)
    return network.eval(), loader


@torch.no_grad()
def evaluate(network, loader) -> tuple[float, int]:
    """Seconds of a plain evaluation, and how many images it got right."""
    since = time.perf_counter()
    correct = 0
    for inputs, targets in loader:
        correct += int((network(inputs).argmax(1) == targets).sum())
    return time.perf_counter() - since, correct


def record(network, loader) -> float:
    """Seconds of the pass that records activity."""
    since = time.perf_counter()
    record_activity(network, loader)
    return time.perf_counter() - since


def peak_mb(folder: str, run: str | None, images: int) -> float:
    """Peak memory of a pass over so many images, in a process of its own."""
    command = [sys.executable, __file__, folder, run or "", str(images)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(folder: str, run: str | None) -> None:
    network, loader = prepared(folder, run)
    _, correct = evaluate(network, loader)
    pairs = [(evaluate(network, loader)[0], record(network, loader)) for _ in range(PAIRS)]
    ratios = [recorded / plain for plain, recorded in pairs]
    result = {
        "command": "python benchmarks/energy_overhead.py DIR [RUN]",
        "network": network.config,
        "trained": run is not None,
        "images": 10_000,
        "accuracy": correct / 10_000,
        "n": PAIRS,
        "evaluate_seconds": [plain for plain, _ in pairs],
        "record_seconds": [recorded for _, recorded in pairs],
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "peak_mb": {str(images): peak_mb(folder, run, images) for images in (1_000, 10_000)},
        "environment": environment(),
    }
    write_json(TARGET, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    folder, run, images = [*sys.argv[1:], "", ""][:3]
    if images:
        record(*prepared(folder, run or None, int(images)))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    else:
        main(folder, run or None)
