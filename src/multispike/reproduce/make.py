"""How the studies are made: rows are trained, each result kept as soon as it is there; the neuron's
transfer function and the spike avalanche of ResNet-20 are measured."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from multispike.commands.avalanche import study
from multispike.commands.evaluate import measure_run
from multispike.commands.train import stopped, train_run
from multispike.config import TrainConfig
from multispike.config.begun import differing
from multispike.config.commands import AvalancheConfig
from multispike.conversion import convert
from multispike.datasets.loader import BatchLoader
from multispike.device import device_for, device_of
from multispike.environment import environment
from multispike.errors import invalid
from multispike.files import write_json
from multispike.neurons import MultiLevelIF
from multispike.report.terminal import avalanche_table, comparison_table
from multispike.reproduce.archive import Archive
from multispike.reproduce.studies import STUDIES, ReproduceConfig
from multispike.results import RunResult
from multispike.training import Interrupted, load_data, load_run
from multispike.training.launch import build_network
from multispike.training.run import read_checkpoint, read_settings, weights_of, write_checkpoint

FURTHER_PROFILES = ("castagnetti2025",)
"""Beside lemaire2022, which every result has."""

CHECKPOINT_BYTES = 5_000_000
"""Weights up to this size are kept beside the results."""

CODES = ((1, 4), (2, 2), (4, 1), (1, 8), (2, 4), (4, 2), (8, 1))
"""Timesteps and levels; equal products stand beside each other."""

INPUTS = [step / 64 for step in range(-8, 81)]
"""In units of V_th, from below 0 to above saturation; every level edge is one of them."""

TRAINED = "families"
"""The study whose networks the avalanche is measured in."""

IMAGES = 1000
"""That the avalanche is measured on, and that thresholds are calibrated by."""


def train_rows(
    name: str, settings: ReproduceConfig, make: Callable[..., RunResult | None] = train_run
) -> int:
    """Train, or `make` otherwise, what is missing of a study's rows; gives the exit code."""
    archive = Archive(settings.results, name)
    runs = list(settings.planned())
    for row, config in runs:
        if settings.retrain:
            archive.remove(row.label, config.seed)
            shutil.rmtree(config.folder, ignore_errors=True)
    for number, (row, config) in enumerate(runs, 1):
        title = f"{name} {number}/{len(runs)}: {row.label}, seed {config.seed}"
        if archive.finished(row.label, config):
            print(f"{title}: finished, in {archive.path}", file=sys.stderr)
            continue
        print(title, file=sys.stderr)
        config = _opened(config)
        try:
            result = make(config, FURTHER_PROFILES)
        except Interrupted:
            without = " without --retrain" if settings.retrain else ""
            return stopped(config, f"the same command{without} goes on")
        if result:
            _keep_weights(archive.checkpoint(row.label, config.seed), config)
            archive.add(row.label, config, result)
    if finished := archive.runs:
        Console().print(comparison_table(finished))
    return 0


def _opened(config: TrainConfig) -> TrainConfig:
    """The run goes on where its folder has one of the same settings, else it begins anew."""
    begun = Path(config.folder) / "config.yaml"
    if not begun.exists():
        return config
    changed = differing(read_settings(begun), config)
    if not changed:
        return replace(config, resume=True)
    name, before, now = changed[0]
    print(f"  {name} was {before!r} in {config.folder}, is {now!r}: training anew", file=sys.stderr)
    return replace(config, overwrite=True)


def _keep_weights(target: Path, config: TrainConfig) -> None:
    """Keep the weights at the end of a run, and only them, if they are small: a file for `load_run`
    whose settings leave out paths of this machine."""
    last = Path(config.folder) / "last.ckpt"
    if not last.exists():  # nothing was trained
        return
    content = read_checkpoint(last)
    size = sum(v.numel() * v.element_size() for v in content["state_dict"].values())
    if size > CHECKPOINT_BYTES:
        target.unlink(missing_ok=True)
        return
    portable = asdict(replace(config, data_dir=None, out=None, resume=False, overwrite=False))
    kept = weights_of(content) | {"multispike": {**content["multispike"], "config": portable}}
    target.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(target, kept)


def conversion(name: str, settings: ReproduceConfig) -> int:
    """Train an ANN, or take that of `settings.init`; measure it, what `convert` makes of it for
    every N, and that after an epoch of training. Nothing is chosen by a test image."""
    kept = Archive(settings.results, name).checkpoint("ann", 0)

    def make(config: TrainConfig, profiles: tuple[str, ...]) -> RunResult | None:
        if config.neuron == "relu" and not settings.init:
            return train_run(config, profiles)
        trained = kept if kept.exists() else Path(settings.work, name, "ann-s0")
        ann = load_run(settings.init or trained, device=device_for(config.accelerator))
        about, data = ann.network.config, load_data(config)
        if (about["arch"], about["neuron"]) != (config.arch, "relu"):
            raise invalid("init", settings.init, f"a run of {config.arch} with neuron relu")
        if config.neuron == "relu":
            return measure_run(ann, data, profiles=profiles)
        some = data.limited(min(IMAGES, len(data.train))).train
        images = BatchLoader(some, 250, mean=data.mean, std=data.std)
        assert config.levels is not None
        snn = convert(ann.network, images, levels=config.levels, learn_threshold=True)
        network = build_network(config, data)
        network.load_state_dict(snn.state_dict())
        if (config.name or "").startswith("tuned"):
            return train_run(config, profiles, network, data)
        made = replace(ann, network=network.to(device_of(ann.network)).eval(), config=config)
        return measure_run(made, data, profiles=profiles)

    return train_rows(name, settings, make)


def transfer(name: str, settings: ReproduceConfig) -> int:
    """Write what the output of the neuron decodes to for constant inputs, V_th = 1, `v_init` 0.

    With N·T the same, all codes have the same N·T + 1 levels, which is why one timestep is enough.
    """
    codes = []
    for timesteps, levels in CODES:
        inputs = torch.tensor(INPUTS).expand(timesteps, -1)
        outputs = MultiLevelIF(levels, timesteps=timesteps)(inputs).mean(0).tolist()
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
        accelerator=settings.accelerator,
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
