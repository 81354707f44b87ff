"""`multispike avalanche`: how activity grows along the depth of residual networks."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from multispike.activity.avalanche import Avalanche, calibrate, record_avalanche, residual_row
from multispike.config import TrainConfig
from multispike.config.commands import AvalancheConfig
from multispike.config.types import split_names
from multispike.datasets.dataset import Dataset
from multispike.datasets.loader import BatchLoader
from multispike.device import device_for
from multispike.errors import invalid
from multispike.progress import progress_bar
from multispike.report.page import write_avalanche
from multispike.report.terminal import avalanche_table
from multispike.training.data import data_of, load_data
from multispike.training.launch import build_network
from multispike.training.run import Run, load_run


def avalanche(settings: AvalancheConfig) -> None:
    """Measure, print the table, write avalanche.json and avalanche.html."""
    with progress_bar(True) as bar:
        total = 2 * len(split_names(settings.arch)) + len(split_names(settings.runs))
        studies = list(bar.track(study(settings), total, description="networks"))
    Console().print(avalanche_table(studies))
    page = write_avalanche(Path(settings.out), studies, settings)
    print(f"report: {page}", file=sys.stderr)


def study(settings: AvalancheConfig) -> Iterator[Avalanche]:
    """Every architecture, binary and graded, untrained; then every given run.

    Raises:
        InputError: for a run without residual sums or without spikes, or unreadable data.
    """
    device = device_for(settings.accelerator)
    trained = [load_run(folder, device=device) for folder in split_names(settings.runs)]
    for item in trained:
        if residual_row(item.config.arch, item.config.neuron) is None:
            raise invalid(
                "runs", str(item.folder), "runs of residual networks with spiking neurons"
            )
    names = _told_apart(split_names(settings.runs), trained)
    graded = TrainConfig(
        data=settings.data, data_dir=settings.data_dir, seed=settings.seed, levels=settings.levels
    )
    binary = replace(graded, neuron="binary", levels=1, timesteps=settings.timesteps)
    for name in split_names(settings.arch):
        for config in (replace(binary, arch=name), replace(graded, arch=name)):
            dataset = load_data(config, config.timesteps)
            network = build_network(config, dataset).to(device)
            calibrate(network, _loader(dataset, settings, "train"))
            yield record_avalanche(network, _loader(dataset, settings, "test"))
    for item, name in zip(trained, names, strict=True):
        moved = settings.data_dir if item.config.data == settings.data else None
        found = record_avalanche(item.network, _loader(data_of(item, moved), settings, "test"))
        yield replace(found, trained=True, run=name)


def _told_apart(given: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """For each run nothing, or its name as given where another has its architecture and code."""
    kinds = [(run.config.arch, run.config.timesteps, run.config.levels) for run in runs]
    names = []
    for path, kind in zip(given, kinds, strict=True):
        alike = [p for p, its in zip(given, kinds, strict=True) if its == kind]
        short = len({Path(p).name for p in alike}) == len(alike)
        names.append("" if len(alike) == 1 else Path(path).name if short else path)
    return names


def _loader(dataset: Dataset, settings: AvalancheConfig, split: str) -> BatchLoader:
    """Normalised samples of a split, at most `settings.limit` of them."""
    size = min(settings.limit, len(getattr(dataset, split)))
    limited = dataset.limited(**{f"limit_{split}": size})
    return BatchLoader(
        getattr(limited, split), settings.batch_size, mean=dataset.mean, std=dataset.std,
        device=device_for(settings.accelerator),
    )  # fmt: skip
