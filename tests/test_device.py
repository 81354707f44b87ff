"""The pipeline on an accelerator that this machine lacks (`accelerator.py`), against the CPU's."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerator import THERE, Accelerator, There
from lightning.fabric import Fabric
from lightning.fabric.accelerators import CPUAccelerator
from lightning.fabric.strategies import SingleDeviceStrategy
from PIL import Image
from torch.utils._python_dispatch import _disable_current_modes

from multispike import create_model, load_run
from multispike.activity import record_activity
from multispike.cli import main
from multispike.config import TrainConfig
from multispike.device import ACCELERATORS
from multispike.export import graph, quantise
from multispike.training import fit, launch, loop

TINY = TrainConfig(
    data="digits", arch="fastnet", limit_train=64, limit_test=32, batch_size=32, epochs=2,
    threads=1, checkpoint_seconds=0.0, accelerator="cpu",
)  # fmt: skip


class Elsewhere(CPUAccelerator):
    """The accelerator as Lightning sees it."""

    def setup_device(self, device):
        pass


@pytest.fixture
def accelerator(monkeypatch):
    """`--accelerator gpu` is the device of `accelerator.py`."""
    monkeypatch.setitem(ACCELERATORS, "gpu", "meta")

    def fabric(accelerator, **wanted):
        if accelerator != "meta":
            return Fabric(accelerator=accelerator, **wanted)
        there = SingleDeviceStrategy(THERE, Elsewhere())
        return Fabric(strategy=there, precision=wanted["precision"], loggers=wanted["loggers"])

    monkeypatch.setattr(launch, "Fabric", fabric)
    with Accelerator() as mode:
        yield mode


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that was trained on the CPU."""
    folder = tmp_path_factory.mktemp("device") / "run"
    assert main(arguments("train", replace(TINY, out=str(folder)))) == 0
    return folder


def arguments(command, config):
    changed = {k: v for k, v in vars(config).items() if v != getattr(TrainConfig, k)}
    return [command, *(w for k, v in changed.items() for w in (f"--{k.replace('_', '-')}", str(v)))]


def test_tensors_of_two_devices_do_not_mix(accelerator):
    weight, x = torch.rand(4, 3, 3, 3), torch.rand(1, 3, 8, 8).to(THERE)
    assert isinstance(x, There)
    with pytest.raises(RuntimeError, match="two devices"):
        torch.conv2d(x, weight)
    with pytest.raises(RuntimeError, match="two devices"):
        x + torch.rand(8)
    assert torch.equal((x + torch.ones(())).cpu(), x.cpu() + 1)
    accelerator.waits = False
    with pytest.raises(RuntimeError, match="the host waits"):
        x.sum().item()


NETWORKS = (
    {"arch": "fastnet", "learn_threshold": "channel"},
    {"arch": "sew_resnet20", "levels": 2, "timesteps": 2, "learn_threshold": "layer"},
    {"arch": "vgg11", "neuron": "relu"},
    {"arch": "sew_iand_resnet20", "learn_threshold": "channel"},
    {"arch": "ms_resnet20", "neuron": "binary", "timesteps": 2, "beta": 0.9},
)


@pytest.mark.parametrize("settings", NETWORKS, ids=lambda settings: settings["arch"])
def test_activity_is_recorded_where_the_network_is(accelerator, settings):
    torch.manual_seed(0)
    model = create_model(**settings)
    batches = [(torch.rand(3, 3, 16, 16), torch.arange(3)) for _ in range(2)]
    options = {"confusion": True, "errors": True, "potentials": True}
    here = record_activity(copy.deepcopy(model), batches, **options)
    there = record_activity(model.to(THERE), batches, **options)
    assert there.to_dict() == here.to_dict()


@pytest.mark.parametrize("recipe", [{}, {"ema": 0.9, "optimizer": "muon", "mixup": 0.2}], ids=str)
def test_a_training_is_the_same_on_any_device(accelerator, run, tmp_path, recipe):
    config = replace(TINY, **recipe, learn_threshold="channel", activity_penalty=0.1)
    rows = {}
    for name in ("cpu", "gpu"):
        out = str(tmp_path / name)
        assert fit(replace(config, accelerator=name, out=out))
        rows[name] = [
            {key: value for key, value in row.items() if "second" not in key}
            for row in load_run(out).run.rows
        ]
    assert rows["gpu"] == rows["cpu"]


def test_the_host_waits_for_no_step(accelerator, tmp_path, monkeypatch):
    """Between two pauses nothing of the device is read."""
    steps = []
    make = launch.training_loader

    def counted(*args, **place):
        made = make(*args, **place)
        batches = made._make

        def one(*batch):
            steps.append(batch)
            accelerator.waits = False  # until the pause, which reads the losses
            return batches(*batch)

        made._make = one
        return made

    monkeypatch.setattr(launch, "training_loader", counted)
    reads = loop.State.add_up

    def add_up(*given):
        accelerator.waits = True
        reads(*given)

    monkeypatch.setattr(loop.State, "add_up", add_up)
    config = replace(TINY, accelerator="gpu", out=str(tmp_path / "run"), ema=0.9, mixup=0.2)
    assert fit(replace(config, activity_penalty=0.1, learn_threshold="channel"))
    assert len(steps) == 4


def told(path):
    """A result without what no two measurements share."""
    content = json.loads(path.read_text())
    for entry in content if isinstance(content, list) else [content]:
        for name in ("environment", "accelerator", "train_seconds", "images_per_second"):
            entry.pop(name, None)
    return content


def traced(model, sample):
    """The same graph from a copy on the CPU: torch.export takes no tensors like these."""
    with _disable_current_modes():
        twin = create_model(**model.config)
        for ours, theirs in zip(
            twin.state_dict().values(), model.state_dict().values(), strict=True
        ):
            ours.copy_(theirs.cpu())
        return graph.trace(twin, sample.cpu())


@pytest.mark.parametrize(
    "command",
    ["evaluate RUN --flip", "energy RUN", "energy sparse_resnet20", "predict RUN IMAGES --top 3",
     "export RUN --format c --out OUT --overwrite --finetune 1"],
    ids=lambda command: command.split(" -")[0],
)  # fmt: skip
def test_commands_compute_the_same_on_any_device(accelerator, run, tmp_path, command, monkeypatch):
    monkeypatch.setattr(quantise, "trace", traced)
    for index in range(3):
        image = np.random.default_rng(index).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    found = []
    for name in ("cpu", "gpu"):
        places = {"RUN": str(run), "IMAGES": str(tmp_path), "OUT": str(tmp_path / "c")}
        words = [places.get(word, word) for word in command.split()]
        target = tmp_path / f"{name}.json"
        assert main([*words, "--accelerator", name, "--json", str(target)]) == 0
        found.append(told(target))
    assert found[0] == found[1]
