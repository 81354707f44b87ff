"""Settings of the commands that measure: evaluate, report, energy, avalanche."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from multispike.config.names import distinct_names
from multispike.datasets import DATASETS
from multispike.energy import get_profile
from multispike.errors import invalid, require_counts, unknown
from multispike.models.table import ARCHITECTURES, ResNet


@dataclass(frozen=True)
class EvaluateConfig:
    """What to measure of a trained run.

    Args:
        run: Folder of the run, or a checkpoint by itself.
        checkpoint: last.ckpt (the end of the training) or best.ckpt.
        data_dir: Folder with the data, if it has moved since the training.
        limit_test: Use this many test samples only.
        flip: Report the accuracy over each image and its mirror image as well.
        profile: Energy profile: castagnetti2025, lemaire2022, sram8k, or a YAML file.
        bits: Width of weights, potentials and operations: 8, 16 or 32.
        json: Write the result to this file.
    """

    run: str
    checkpoint: Literal["last.ckpt", "best.ckpt"] = "last.ckpt"
    data_dir: str | None = None
    limit_test: int | None = None
    flip: bool = False
    profile: str = "lemaire2022"
    bits: Literal[8, 16, 32] = 32
    json: str | None = None

    def check(self) -> None:
        """Raise `InputError` for the first value that is not allowed."""
        get_profile(self.profile)
        require_counts(self, "limit_test")


@dataclass(frozen=True)
class ReportConfig:
    """Which trained runs to put into one report, and by which energy model.

    Args:
        runs: Folders of runs, of comparisons, or checkpoints, comma-separated.
        profile: Energy profile: castagnetti2025, lemaire2022, sram8k, or a YAML file.
        bits: Width of weights, potentials and operations: 8, 16 or 32.
        data_dir: Folder with the runs' data, if it has moved since the training.
        limit_test: Use this many test samples only.
        out: Folder for report.html and results.json.
    """

    runs: str
    profile: str = "lemaire2022"
    bits: Literal[8, 16, 32] = 32
    data_dir: str | None = None
    limit_test: int | None = None
    out: str = "runs/report"

    @property
    def folders(self) -> list[str]:
        """The entries of `runs`."""
        return distinct_names(self.runs)

    def check(self) -> None:
        """Raise `InputError` for the first value that is not allowed."""
        get_profile(self.profile)
        if not self.folders:
            raise invalid("runs", self.runs, "folders of runs, comma-separated")
        for folder in self.folders:
            if not Path(folder).exists():
                raise invalid("runs", folder, "folders of runs, of comparisons, or checkpoints")
        require_counts(self, "limit_test")
        if Path(self.out).is_file():
            raise invalid("out", self.out, "a folder, new or not")


@dataclass(frozen=True)
class EnergyConfig:
    """What to price: a trained run at its measured activity, or an architecture at an assumed one.

    Args:
        target: Folder of a run, a checkpoint by itself, or name of an architecture.
        profile: Energy profile: castagnetti2025, lemaire2022, sram8k, or a YAML file.
        bits: Width of weights, potentials and operations: 8, 16 or 32.
        fanout: Synapses an event reaches: lemaire (ceil(K/S) an axis) or exact (borders, stride).
        graded_op: A graded event meets a weight by one mac, or by repeat: z additions.
        density: Assumed events per neuron and timestep; by default measured (run) or 0.2.
        neuron: Of the architecture.
        levels: N, of the architecture.
        timesteps: T, of the architecture.
        size: Side of the architecture's input image.
        channels: Channels of the architecture's input.
        classes: Classes of the architecture.
        data_dir: Folder with the run's data, if it has moved since the training.
        limit_test: Use this many test samples of the run only.
        json: Write the result to this file.
    """

    target: str
    profile: str = "lemaire2022"
    bits: Literal[8, 16, 32] = 32
    fanout: Literal["lemaire", "exact"] = "lemaire"
    graded_op: Literal["mac", "repeat"] = "mac"
    density: float | None = None
    neuron: Literal["relu", "binary", "multilevel"] = "multilevel"
    levels: int | None = None
    timesteps: int = 1
    size: int = 32
    channels: int = 3
    classes: int = 10
    data_dir: str | None = None
    limit_test: int | None = None
    json: str | None = None

    def check(self) -> None:
        """Raise `InputError` for the first value that is not allowed."""
        get_profile(self.profile)
        if self.density is not None and not 0 <= self.density <= 1:
            raise invalid("density", self.density, "events per neuron and timestep in [0, 1]")
        require_counts(self, "limit_test")
        if not 1 <= self.size <= _LARGEST:
            raise invalid("size", self.size, f"an integer in [1, {_LARGEST}]")
        known = Path(self.target).exists()
        if not known and self.target not in ARCHITECTURES:
            raise unknown("target", self.target, ["a run's folder", *ARCHITECTURES])
        for name in ("density", "levels"):
            if not known and self.neuron == "relu" and getattr(self, name) is not None:
                raise invalid(name, getattr(self, name), "only with spiking neurons")
        for name in _OF_ARCHITECTURE if known else _OF_RUN:
            value = getattr(self, name)
            if value != getattr(EnergyConfig, name):
                kind = "an architecture, a run has its own" if known else "a run"
                raise invalid(name, value, f"only with {kind}")


_OF_ARCHITECTURE = ("neuron", "levels", "timesteps", "size", "channels", "classes")
_OF_RUN = ("data_dir", "limit_test")
_LARGEST = 4096
"""Side of an image that one pass can be expected to hold in memory."""


@dataclass(frozen=True)
class AvalancheConfig:
    """What to measure along the depth of residual networks.

    Args:
        arch: Residual architectures, comma-separated.
        levels: N of the graded network, at T = 1.
        timesteps: T of its binary twin, at N = 1.
        data: Data set whose test images are sent through.
        data_dir: Folder with the data, also of runs trained on it; not needed for digits.
        limit: Use this many test samples only.
        batch_size: Samples at a time.
        seed: Of the untrained weights.
        runs: Trained runs (folders or checkpoints), comma-separated, measured on their own data.
        out: Folder for avalanche.json, avalanche.png and avalanche.html.
    """

    arch: str = "spiking_resnet18,sew_resnet18,ms_resnet18,sparse_resnet18"
    levels: int = 4
    timesteps: int = 4
    data: str = "digits"
    data_dir: str | None = None
    limit: int = 256
    batch_size: int = 64
    seed: int = 0
    runs: str | None = None
    out: str = "runs/avalanche"

    @property
    def architectures(self) -> list[str]:
        """The names in `arch`."""
        return distinct_names(self.arch)

    @property
    def run_folders(self) -> list[str]:
        """The folders in `runs`."""
        return distinct_names(self.runs or "")

    def check(self) -> None:
        """Raise `InputError` for the first value that is not allowed."""
        residual = [name for name, row in ARCHITECTURES.items() if isinstance(row, ResNet)]
        for name in self.architectures:
            if name not in residual:
                raise unknown("arch", name, residual)
        if not self.architectures and not self.run_folders:
            raise invalid("arch", self.arch, "one or more residual architectures, or --runs")
        if Path(self.out).is_file():
            raise invalid("out", self.out, "a folder, new or not")
        if self.data not in DATASETS:
            raise unknown("data", self.data, DATASETS)
        require_counts(self, "levels", "timesteps", "limit")
        if self.batch_size < 2:
            raise invalid("batch_size", self.batch_size, "an integer >= 2")
        if not 0 <= self.seed < 2**32:
            raise invalid("seed", self.seed, "an integer in [0, 2^32)")
