"""The transfer function: what a neuron's output decodes to for a constant input.

Measured by running the neuron. With N·T the same, all codes have the same N·T + 1 levels, which is
why one timestep is enough.
"""

from __future__ import annotations

import sys
from pathlib import Path

from multispike.files import write_json
from multispike.reproduce.settings import ReproduceConfig

CODES = ((1, 4), (2, 2), (4, 1), (1, 8), (2, 4), (4, 2), (8, 1))
"""Timesteps and levels; equal products stand beside each other."""

INPUTS = [step / 64 for step in range(-8, 81)]
"""In units of V_th, from below 0 to above saturation; every level edge is one of them."""


def make(name: str, settings: ReproduceConfig) -> int:
    """Measure all codes and write RESULTS/transfer.json."""
    from multispike.environment import environment

    path = Path(settings.results) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    codes = []
    for timesteps, levels in CODES:
        outputs = decoded(timesteps, levels)
        codes.append(
            {
                "timesteps": timesteps,
                "levels": levels,
                "distinct": len(set(outputs)),
                "outputs": outputs,
            }
        )
    write_json(
        path,
        {
            "command": f"multispike reproduce {name}",
            "threshold": 1.0,
            "v_init": 0.0,
            "inputs": INPUTS,
            "codes": codes,
            "environment": environment(),
        },
    )
    print(f"{name}: {path}", file=sys.stderr)
    return 0


def decoded(timesteps: int, levels: int) -> list[float]:
    """y(x) for every x of `INPUTS`, threshold 1, `v_init` 0.

    >>> sorted(set(decoded(2, 2)))
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    import torch

    from multispike import MultiLevelIF

    x = torch.tensor(INPUTS).expand(timesteps, -1)
    return MultiLevelIF(levels)(x).mean(0).tolist()
