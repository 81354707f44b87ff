"""Studies that train nothing: the neuron's transfer function, the spike avalanche of ResNet-20."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from multispike.commands.avalanche import study
from multispike.config.commands import AvalancheConfig
from multispike.environment import environment
from multispike.errors import invalid
from multispike.files import write_json
from multispike.neurons import MultiLevelIF
from multispike.report.terminal import avalanche_table
from multispike.reproduce.archive import Archive
from multispike.reproduce.studies import STUDIES, ReproduceConfig

CODES = ((1, 4), (2, 2), (4, 1), (1, 8), (2, 4), (4, 2), (8, 1))
"""Timesteps and levels; equal products stand beside each other."""

INPUTS = [step / 64 for step in range(-8, 81)]
"""In units of V_th, from below 0 to above saturation; every level edge is one of them."""

TRAINED = "families"
"""The study whose networks the avalanche is measured in."""

IMAGES = 1000


def transfer(name: str, settings: ReproduceConfig) -> int:
    """Write what the output of the neuron decodes to for constant inputs, V_th = 1, `v_init` 0.

    With N·T the same, all codes have the same N·T + 1 levels, which is why one timestep is enough.
    """
    codes = []
    for timesteps, levels in CODES:
        spikes = MultiLevelIF(levels, timesteps=timesteps)(
            torch.tensor(INPUTS).expand(timesteps, -1)
        )
        outputs = spikes.mean(0).tolist()
        code = {"timesteps": timesteps, "levels": levels, "distinct": len(set(outputs))}
        codes.append({**code, "outputs": outputs})
    content = {"threshold": 1.0, "v_init": 0.0, "inputs": INPUTS, "codes": codes}
    return _write(name, settings, f"multispike reproduce {name}", content)


def avalanche(name: str, settings: ReproduceConfig) -> int:
    """Write the avalanche of ResNet-20's families, untrained and as `families` trained them.

    Raises:
        InputError: if the trained networks' weights are not among the results.
    """
    archive = Archive(settings.results, TRAINED)
    rows = {row.label: archive.checkpoint(row.label, 0) for row in STUDIES[TRAINED].rows}
    if missing := [label for label, path in rows.items() if not path.exists()]:
        raise invalid(
            "results",
            settings.results,
            f"a folder with the weights of {', '.join(missing)}; first multispike reproduce"
            f" {TRAINED}",
        )
    data = archive.runs[0].data
    measured = AvalancheConfig(
        arch=",".join(dict.fromkeys(row.overrides["arch"] for row in STUDIES[TRAINED].rows)),
        data=data,
        data_dir=settings.data_dir,
        limit=IMAGES,
        runs=",".join(map(str, rows.values())),
    )
    networks = list(study(measured))
    Console().print(avalanche_table(networks))
    plain = [network.to_dict() for network in networks]
    content = {"data": data, "images": IMAGES, "seed": 0, "networks": plain}
    return _write(name, settings, f"multispike reproduce {name} --data-dir DIR", content)


def _write(name: str, settings: ReproduceConfig, command: str, content: dict[str, Any]) -> int:
    path = Path(settings.results) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"command": command, **content, "environment": environment()})
    print(f"{name}: {path}", file=sys.stderr)
    return 0
