"""Settings of `multispike energy`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from multispike.config.types import (
    Accelerator,
    Bits,
    Count,
    DataDir,
    JsonFile,
    ProfileName,
    Settings,
    TestLimit,
    Where,
)
from multispike.energy.count import Fanout, GradedOp
from multispike.errors import invalid, unknown
from multispike.models.table import ARCHITECTURES
from multispike.pretrained import find

Density = Annotated[float, Where("events per neuron and timestep in [0, 1]", lambda x: 0 <= x <= 1)]


@dataclass(frozen=True)
class EnergyConfig(Settings):
    """Price a trained run at its measured activity, or an architecture at an assumed one.

    Args:
        target: Folder of a run, a checkpoint by itself, or name of an architecture.
        fanout: Synapses an event reaches: lemaire (ceil(K/S) an axis) or exact (borders, stride).
        graded_op: An event of level z: one mac a weight; repeat, z additions; unroll, z binary
            events; bits, ceil(log2(N+1)) shifted additions. All are listed side by side.
        density: Assumed events per neuron and timestep; by default measured (run) or 0.2.
        neuron: Of the architecture.
        levels: N, of the architecture.
        timesteps: T, of the architecture.
        size: Side of the architecture's input image.
        channels: Channels of the architecture's input.
        classes: Classes of the architecture.

    Examples:
        multispike energy RUN --profile castagnetti2025
        multispike energy vgg16 --density 0.2 --levels 4 --bits 8 --json vgg16.json
    """

    target: str
    profile: ProfileName = "lemaire2022"
    bits: Bits = 32
    fanout: Fanout = "lemaire"
    graded_op: GradedOp = "mac"
    density: Density | None = None
    neuron: Literal["relu", "binary", "multilevel"] = "multilevel"
    levels: Count | None = None
    timesteps: Count = 1
    size: Annotated[int, Where("an integer in [1, 4096]", lambda n: 1 <= n <= 4096)] = 32
    channels: Count = 3
    classes: Count = 10
    data_dir: DataDir | None = None
    limit_test: TestLimit | None = None
    accelerator: Accelerator = "auto"
    json: JsonFile | None = None

    def check(self) -> None:
        super().check()
        known = find(self.target).exists()
        if not known and self.target not in ARCHITECTURES:
            raise unknown("target", self.target, ["a run's folder", *ARCHITECTURES])
        for name in ("density", "levels"):
            if not known and self.neuron == "relu" and getattr(self, name) is not None:
                raise invalid(name, getattr(self, name), "only with spiking neurons")
        architecture = ("neuron", "levels", "timesteps", "size", "channels", "classes")
        for name in architecture if known else ("data_dir", "limit_test"):
            value = getattr(self, name)
            if value != getattr(EnergyConfig, name):
                kind = "an architecture, a run has its own" if known else "a run"
                raise invalid(name, value, f"only with {kind}")
