"""What memory that glibc keeps saves: the same work with `keep_freed_memory` and without.

    python benchmarks/allocator.py

Each repetition is a process of its own, with and without in turns. Writes results/allocator.json:
seconds, page faults and peak memory of `WORK`, and the ratios with over without, pair by pair.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tools import resident_mb, spread
from torch import nn

from multispike import create_model
from multispike.environment import environment, keep_freed_memory
from multispike.files import write_json

TARGET = Path(__file__).parent.parent / "results" / "allocator.json"
REPEATS = 5
STEPS = 5
WORK: dict[str, tuple[str, dict[str, Any], bool, int]] = {
    "training, vgg11 T=1 N=4": ("vgg11", {"levels": 4}, True, 64),
    "training, vgg11 T=4 N=1": ("vgg11", {"levels": 1, "timesteps": 4}, True, 32),
    "evaluation, sparse_resnet20 T=1 N=4": ("sparse_resnet20", {"levels": 4}, False, 250),
    "evaluation, sparse_resnet20 T=4 N=1": (
        "sparse_resnet20", {"levels": 1, "timesteps": 4}, False, 250,
    ),
}  # fmt: skip
"""Architecture, its options, whether it is trained, batch size."""
FIGURES = ("seconds", "page_faults", "peak_mb")


def work(name: str) -> dict[str, float]:
    """What `STEPS` batches take in this process, once it is warm; seconds are those of one."""
    arch, options, trained, batch = WORK[name]
    torch.manual_seed(0)
    network = create_model(arch, **options).train(trained)
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    images = torch.rand(batch, 3, 32, 32).to(memory_format=torch.channels_last)
    targets = torch.randint(10, (batch,))

    def step() -> None:
        with torch.set_grad_enabled(trained):
            logits = network(images)
            if trained:
                network.zero_grad()
                nn.functional.cross_entropy(logits, targets).backward()

    for _ in range(2):
        step()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    since = time.perf_counter()
    for _ in range(STEPS):
        step()
    seconds = (time.perf_counter() - since) / STEPS
    faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / STEPS
    return dict(zip(FIGURES, (seconds, faults, resident_mb("VmHWM")), strict=True))


def apart(name: str, setting: str) -> dict[str, float]:
    """`work` in a process of its own, `setting` "kept" or "default"."""
    command = [sys.executable, __file__, name, setting]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measured(name: str) -> dict[str, Any]:
    """Medians of both settings, and the ratio of every figure but page faults."""
    pairs = [(apart(name, "default"), apart(name, "kept")) for _ in range(REPEATS)]
    row: dict[str, Any] = {
        setting: {key: statistics.median(pair[side][key] for pair in pairs) for key in FIGURES}
        for side, setting in enumerate(("default", "kept"))
    }
    for key in ("seconds", "peak_mb"):
        row[f"{key}_ratio"] = spread([kept[key] / default[key] for default, kept in pairs])
    print(f"{name}: {row['seconds_ratio']['median']:.3f} times", file=sys.stderr)
    return row


def main() -> None:
    result = {
        "command": "python benchmarks/allocator.py",
        "n": REPEATS,
        "work": {name: measured(name) for name in WORK},
        "environment": environment(),
    }
    write_json(TARGET, result)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        if sys.argv[2] == "kept":
            keep_freed_memory()
        print(json.dumps(work(sys.argv[1])))
    else:
        main()
