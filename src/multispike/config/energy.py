"""Settings of `multispike energy`."""

from __future__ import annotations

import re
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
from multispike.datasets import DATASETS
from multispike.energy.count import Fanout, GradedOp
from multispike.errors import invalid
from multispike.models.table import ARCHITECTURES
from multispike.plugins import check_name, check_there
from multispike.pretrained import find

OF_CODE = ("neuron", "levels", "timesteps")
"""Settings of a network that is built: its neurons, levels and timesteps."""

InputShape = Annotated[
    str,
    Where(
        "sizes from 1 to 99999, comma-separated, such as 3,32,32",
        lambda text: all(re.fullmatch(r"[1-9]\d{0,4}", n) for n in text.split(",")),
    ),
]
Density = Annotated[float, Where("events per neuron and timestep in [0, 1]", lambda x: 0 <= x <= 1)]


@dataclass(frozen=True)
class EnergyConfig(Settings):
    """Price a trained run at its measured activity, an architecture or any PyTorch network at an
    assumed one.

    Args:
        target: Folder of a run, a checkpoint by itself, name of an architecture, or any network:
            FILE.py:FUNCTION or FILE.py:CLASS, MODULE:FUNCTION.
        against: A second one of these, to be set beside it in one table.
        fanout: Synapses an event reaches: lemaire (ceil(K/S) an axis) or exact (borders, stride).
        graded_op: An event of level z: one mac a weight; repeat, z additions; unroll, z binary
            events; bits, ceil(log2(N+1)) shifted additions. All are listed side by side.
        density: Assumed events per neuron and timestep; by default measured (on data) or 0.2.
        neuron: Of what is no run; a function of your own has to take it, as levels and timesteps.
        levels: N, likewise.
        timesteps: T, likewise.
        input_shape: Sizes of one input, such as 3,32,32 (C,H,W), of what is no run.
        classes: Classes, likewise.
        data: Data set whose test samples are sent through what is no run, instead of one input of
            ones.

    Examples:
        multispike energy RUN --profile castagnetti2025
        multispike energy vgg16 --density 0.2 --levels 4 --bits 8 --json vgg16.json
        multispike energy my_net.py:build --input-shape 3,64,64 --against sparse_resnet18
    """

    target: str
    against: str | None = None
    profile: ProfileName = "lemaire2022"
    bits: Bits = 32
    fanout: Fanout = "lemaire"
    graded_op: GradedOp = "mac"
    density: Density | None = None
    neuron: Literal["relu", "binary", "multilevel"] = "multilevel"
    levels: Count | None = None
    timesteps: Count = 1
    input_shape: InputShape = "3,32,32"
    classes: Count = 10
    data: str | None = None
    data_dir: DataDir | None = None
    limit_test: TestLimit | None = None
    accelerator: Accelerator = "auto"
    json: JsonFile | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input.

        >>> EnergyConfig("vgg16").shape
        (3, 32, 32)
        """
        return tuple(map(int, self.input_shape.split(",")))

    def check(self) -> None:
        super().check()
        given = {"target": self.target, "against": self.against}
        names = {field: name for field, name in given.items() if name is not None}
        runs = [field for field, name in names.items() if find(name).exists()]
        for field, name in names.items():
            if field not in runs:
                check_name(field, name, ["a run's folder", *ARCHITECTURES])
                check_there(field, name)
        if self.data is not None:
            check_name("data", self.data, DATASETS)
        built, measured = len(runs) < len(names), bool(runs) or self.data is not None
        refused = {name: "an architecture, a run has its own" for name in OF_CODE if not built}
        if not built or self.data is not None:
            refused |= dict.fromkeys(("input_shape", "classes"), "what is no run and has no data")
        if not built:
            refused["data"] = "an architecture, a run has its own"
        if not measured:
            refused |= dict.fromkeys(("data_dir", "limit_test"), "a run or with data")
        if built and self.neuron == "relu":
            refused |= dict.fromkeys(("density", "levels"), "spiking neurons")
        for name, kind in refused.items():
            value = getattr(self, name)
            if value != getattr(EnergyConfig, name):
                raise invalid(name, value, f"only with {kind}")
