"""What waiting briefly saves: the same work by the command line's setting and by libgomp's own.

    python benchmarks/waiting.py

Two threads of this machine, alone and beside as many processes that keep the cores busy. Each
repetition is a process of its own, with and without in turns. Writes results/waiting.json: seconds
of a step, and the ratios with over without, pair by pair.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools import spread

from multispike.environment import environment, wait_briefly
from multispike.files import write_json

TARGET = Path(__file__).parent.parent / "results" / "waiting.json"
REPEATS, SECONDS, THREADS = 5, 3, 2
BUSY = [sys.executable, "-c", "while True: pass"]


def training() -> Callable[[], Any]:
    import torch
    from torch import nn

    from multispike import create_model

    network, images = create_model("fastnet", levels=4), torch.rand(64, 3, 32, 32)
    targets = torch.randint(10, (64,))
    return lambda: nn.functional.cross_entropy(network(images), targets).backward()


def slices() -> Callable[[], Any]:
    import numpy as np

    from multispike import load_run

    network = load_run("nmnist-fastnet").network
    frames = (np.random.default_rng(0).random((1, 1, *network.input_shape)) < 0.02).astype(np.uint8)
    return lambda: network.forward(frames)


WORK = {
    "training step of fastnet, 64 images": training,
    "one slice of events, nmnist-fastnet": slices,
}


def work(name: str) -> float:
    """Mean seconds of a step in this process, once it is warm."""
    import torch

    torch.set_num_threads(THREADS)
    step = WORK[name]()
    for _ in range(2):
        step()
    times = [time.perf_counter()]
    while times[-1] - times[0] < SECONDS:
        step()
        times.append(time.perf_counter())
    return (times[-1] - times[0]) / (len(times) - 1)


def apart(name: str, setting: str) -> float:
    """`work` in a process of its own, `setting` "default" or "briefly"."""
    command = [sys.executable, __file__, name, setting]
    clean = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=clean)
    return json.loads(done.stdout)


def measured(name: str, busy: int) -> dict[str, Any]:
    """Medians of both settings, and their ratio, beside `busy` other processes."""
    others = [subprocess.Popen(BUSY) for _ in range(busy)]
    try:
        pairs = [(apart(name, "default"), apart(name, "briefly")) for _ in range(REPEATS)]
    finally:
        for process in others:
            process.kill()
    default, briefly = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = spread([one[1] / one[0] for one in pairs])
    print(f"{name}, {busy} others: {ratio['median']:.3f} times", file=sys.stderr)
    return {"work": name, "busy": busy, "default": default, "briefly": briefly, "ratio": ratio}


def main() -> None:
    result = {
        "command": "python benchmarks/waiting.py",
        "n": REPEATS,
        "rows": [measured(name, busy) for name in WORK for busy in (0, THREADS)],
        "environment": environment(),
    }
    write_json(TARGET, result)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        if sys.argv[2] == "briefly":
            wait_briefly()
        print(json.dumps(work(sys.argv[1])))
    else:
        main()
