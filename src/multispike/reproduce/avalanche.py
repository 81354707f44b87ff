"""The spike avalanche of ResNet-20's families, untrained and as `families` trained them."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from multispike.commands.avalanche import study
from multispike.config.commands import AvalancheConfig
from multispike.environment import environment
from multispike.errors import invalid
from multispike.files import write_json
from multispike.report.terminal import avalanche_table
from multispike.reproduce.archive import Archive
from multispike.reproduce.settings import ReproduceConfig
from multispike.reproduce.studies import STUDIES

TRAINED = "families"
"""The study whose networks are measured."""

IMAGES = 1000


def make(name: str, settings: ReproduceConfig) -> int:
    """Measure and write RESULTS/avalanche.json.

    Raises:
        InputError: if the trained networks' weights are not among the results.
    """
    archive = Archive(settings.results, TRAINED)
    rows = {row.label: archive.checkpoint(row.label, 0) for row in STUDIES[TRAINED].rows}
    missing = [label for label, path in rows.items() if not path.exists()]
    if missing:
        raise invalid(
            "results",
            settings.results,
            f"a folder with the weights of {', '.join(missing)}; first multispike reproduce"
            f" {TRAINED}",
        )
    architectures = dict.fromkeys(row.overrides["arch"] for row in STUDIES[TRAINED].rows)
    networks = list(
        study(
            AvalancheConfig(
                arch=",".join(architectures),
                data=archive.runs[0].data,
                data_dir=settings.data_dir,
                limit=IMAGES,
                runs=",".join(map(str, rows.values())),
            )
        )
    )
    Console().print(avalanche_table(networks))
    path = Path(settings.results) / f"{name}.json"
    write_json(
        path,
        {
            "command": f"multispike reproduce {name} --data-dir DIR",
            "data": archive.runs[0].data,
            "images": IMAGES,
            "seed": 0,
            "networks": [network.to_dict() for network in networks],
            "environment": environment(),
        },
    )
    print(f"{name}: {path}", file=sys.stderr)
    return 0
