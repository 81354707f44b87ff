"""The pipeline on an accelerator that this machine lacks (`accelerator.py`), against the CPU's."""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerator import THERE, Accelerator, There
from lightning.fabric import Fabric
from lightning.fabric.accelerators import CPUAccelerator
from lightning.fabric.plugins import MixedPrecision
from lightning.fabric.strategies import SingleDeviceStrategy
from PIL import Image
from test_deploy_integer import THIN
from torch.utils._python_dispatch import _disable_current_modes

from multispike import create_model, load_run
from multispike.activity import record_activity
from multispike.cli import main
from multispike.commands.avalanche import study
from multispike.config import TrainConfig
from multispike.config.commands import AvalancheConfig
from multispike.datasets import loader as loader_module
from multispike.datasets.augment import Augmentation
from multispike.datasets.dataset import Split
from multispike.datasets.loader import BatchLoader
from multispike.device import ACCELERATORS, device_for
from multispike.environment import driver
from multispike.errors import InputError
from multispike.export import graph, quantise
from multispike.export.bench import torch_call
from multispike.inference import Trained
from multispike.models.table import ARCHITECTURES
from multispike.reproduce import studies
from multispike.training import fit, launch, loop
from multispike.training.run import read_checkpoint

TINY = TrainConfig(
    data="digits", arch="fastnet", limit_train=64, limit_test=32, batch_size=32, epochs=2,
    threads=1, checkpoint_seconds=0.0, accelerator="cpu",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def small_network() -> Iterator[None]:
    """Fastnet in few channels: devices are compared, and CPUs are slow at float16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "fastnet", THIN["fastnet"])
        yield


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
def run(small_network, tmp_path_factory):
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
    steps, make = [], BatchLoader._make

    def made(loader, *batch):
        if loader.shuffle:
            steps.append(batch)
            accelerator.waits = False  # until the pause, which reads the losses
        return make(loader, *batch)

    monkeypatch.setattr(BatchLoader, "_make", made)
    reads = loop.State.add_up

    def add_up(*given):
        accelerator.waits = True
        reads(*given)

    monkeypatch.setattr(loop.State, "add_up", add_up)
    config = replace(TINY, accelerator="gpu", out=str(tmp_path / "run"), ema=0.9, mixup=0.2)
    assert fit(replace(config, activity_penalty=0.1, learn_threshold="channel"))
    assert len(steps) == 4


def told(path):
    """A result, or those of a file, without what no two measurements share."""
    content = json.loads(path.read_text())
    content = content.get("runs", content) if isinstance(content, dict) else content
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


@pytest.mark.parametrize(
    ("command", "results"),
    [("compare --variants ann,binary-T2,multilevel-T1-N4 --data digits --limit-train 64 --out OUT"
      " --limit-test 32 --batch-size 32 --epochs 1 --threads 1", "results.json"),
     ("report RUN --out OUT --limit-test 16", "results.json"),
     ("reproduce conversion --results OUT --work OUT/work --rows"
      " ann,converted-multilevel-T1-N4,tuned-multilevel-T1-N4", "conversion.json")],
    ids=("compare", "report", "reproduce"),
)  # fmt: skip
def test_commands_of_many_runs_compute_the_same_on_any_device(
    accelerator, run, tmp_path, command, results, monkeypatch
):
    """Whatever is trained, measured, converted and calibrated on the way."""
    few = vars(replace(TINY, epochs=1, accelerator="auto"))
    monkeypatch.setattr(studies, "recipe", lambda name: TrainConfig(**few))
    found = []
    for name in ("cpu", "gpu"):
        out = str(tmp_path / name)
        words = command.replace("RUN", str(run)).replace("OUT", out).split()
        assert main([*words, "--accelerator", name]) == 0
        found.append(told(tmp_path / name / results))
        epochs = TINY.epochs if "report" in command else 1
        for entry in found[-1]:
            assert entry.pop("settings", {"epochs": epochs})["epochs"] == epochs
    assert found[0] == found[1]
    assert len(found[0]) == (1 if "report" in command else 3)


@pytest.mark.parametrize("timesteps", [None, 3])
def test_a_set_that_the_device_can_not_hold_is_moved_by_batches(
    accelerator, monkeypatch, timesteps
):
    pixels = torch.randint(0, 9, (8, *[timesteps] * bool(timesteps), 2, 6, 6), dtype=torch.uint8)
    split = Split(pixels, torch.arange(8) % 3)
    options = {
        "mean": [0.1, 0.2], "std": [1.0, 2.0], "shuffle": True, "num_classes": 3,
        "augmentation": Augmentation(True, 1, 2, 0.3, 0.2 if timesteps else 0.0),
    }  # fmt: skip
    expected = list(BatchLoader(split, 4, **options))
    for fits in (True, False):
        monkeypatch.setattr(loader_module, "fits", lambda device, size, fits=fits: fits)
        made = BatchLoader(split, 4, **options, device=THERE)
        assert isinstance(made.split.inputs, There) is fits
        for batch, same in zip(made, expected, strict=True):
            assert all(isinstance(x, There) for x in batch)
            assert all(torch.equal(x.cpu(), y) for x, y in zip(batch, same, strict=True))


@pytest.mark.parametrize("command", ["train", "evaluate RUN", "predict RUN FILE", "energy vgg16",
                                     "avalanche", "report RUN", "bench RUN", "export RUN",
                                     "stream RUN FILE", "reproduce table-cifar10"])  # fmt: skip
def test_an_absent_accelerator_is_told_before_any_work(run, tmp_path, command, capsys, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    monkeypatch.chdir(tmp_path)
    image = tmp_path / "image.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(image)
    words = [{"RUN": str(run), "FILE": str(image)}.get(word, word) for word in command.split()]
    assert main([*words, "--accelerator", "gpu"]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    allowed = "allowed: auto or cpu, as this machine has it"
    assert told[-1] == f"multispike: accelerator: got 'gpu', {allowed}"
    assert [path.name for path in tmp_path.iterdir()] == ["image.png"]


def test_devices_by_torchs_names():
    assert device_for("auto").type in ("cpu", "cuda", "mps")
    assert device_for("meta") == device_for(torch.device("meta")) == THERE
    with pytest.raises(InputError, match=r"^device: got 'abacus', allowed: auto or "):
        load_run("cifar10-fastnet", device="abacus")


def test_frames_are_classified_where_the_network_is(accelerator):
    network = create_model("fastnet", in_channels=2, timesteps=2).eval()
    frames = np.random.default_rng(0).integers(0, 3, (2, 2, 8, 8), np.uint8)
    described = tuple(map(str, range(10))), (2, 8, 8), (0.0, 0.0), (0.1, 0.2), True
    here = Trained(copy.deepcopy(network), *described).probabilities(frames)
    assert (Trained(network.to(THERE), *described).probabilities(frames) == here).all()


def test_bench_times_torch_where_the_network_is(accelerator):
    network = create_model("fastnet", in_channels=1).eval()
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), np.uint8)
    here = torch_call(copy.deepcopy(network), [0.3], [0.2], 1)(images)
    assert (torch_call(network.to(THERE), [0.3], [0.2], 1)(images) == here).all()


def test_avalanche_is_the_same_on_any_device(accelerator):
    settings = AvalancheConfig(arch="sparse_resnet20", limit=4, timesteps=2, batch_size=2)
    here = list(study(replace(settings, accelerator="cpu")))
    assert list(study(replace(settings, accelerator="gpu"))) == here


def test_the_driver_is_what_linux_tells(tmp_path):
    file = tmp_path / "version"
    assert driver(file) is None
    for kind in ("UNIX x86_64 Kernel Module", "UNIX Open Kernel Module for x86_64"):
        file.write_text(f"NVRM version: NVIDIA {kind}  550.54.15  Tue\nGCC version: gcc 12.2.0")
        assert driver(file) == "550.54.15"


def test_half_precision_is_scaled_and_goes_on_bit_for_bit(tmp_path, monkeypatch):
    """16-mixed, on the CPU for once: the scale is a part of last.ckpt, and bounds of gradients of
    thresholds know it."""

    def fabric(**wanted):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
        wanted["plugins"] = MixedPrecision("16-mixed", "cpu", scaler)
        return Fabric(**{k: v for k, v in wanted.items() if k != "precision"})

    monkeypatch.setattr(launch, "Fabric", fabric)
    config = replace(TINY, learn_threshold="layer")
    assert fit(replace(config, out=str(tmp_path / "whole")))
    halves = replace(config, out=str(tmp_path / "halves"))
    with monkeypatch.context() as stopped:
        saved = loop._save

        def save_and_stop(fabric, state, *args):
            saved(fabric, state, *args)
            if state.step == 2:
                raise loop.Interrupted

        stopped.setattr(loop, "_save", save_and_stop)
        with pytest.raises(loop.Interrupted):
            fit(halves)
    assert fit(replace(halves, resume=True))
    whole, parts = (read_checkpoint(tmp_path / name / "last.ckpt") for name in ("whole", "halves"))
    assert whole["scaler"] == parts["scaler"]
    assert whole["scaler"]["scale"] == 2048.0
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, parts["state_dict"][name])


def test_half_precision_needs_an_accelerator():
    with pytest.raises(InputError, match=r"^precision: got '16-mixed', allowed: 32-true or bf16"):
        fit(replace(TINY, precision="16-mixed"))


def test_bounds_of_gradients_are_scaled_with_them():
    network = torch.nn.Module()
    network.threshold = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    loop.Objective(network, TINY, scaler)
    (network.threshold * torch.tensor([100.0, 4.0])).sum().backward()
    assert network.threshold.grad.tolist() == [8.0, 4.0]


@pytest.mark.parametrize("more", [{}, {"NTASKS_PER_NODE": "2"}], ids=str)
def test_tasks_that_srun_did_not_start_are_told_in_one_line(monkeypatch, capsys, more, tmp_path):
    for name, value in {"NTASKS": "2", "JOB_NAME": "job", **more}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert main(arguments("train", replace(TINY, out=str(tmp_path / "run")))) == 2
    told = "multispike: SLURM_NTASKS: got '2', allowed: 1, or srun in front of the command"
    assert capsys.readouterr().err.splitlines() == [told]


def test_what_lightning_refuses_of_slurm_is_one_line(monkeypatch, tmp_path):
    for name, value in {"NTASKS": "2", "JOB_NAME": "job", "STEP_ID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    with pytest.raises(InputError, match=r"^accelerator: got .*--ntasks-per-node=2"):
        fit(replace(TINY, out=str(tmp_path / "run")))
