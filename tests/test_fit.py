"""`fit`: modules and data of anyone's, and what a run of them can and can't do later."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from lightning.fabric.loggers.csv_logs import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from multispike import MultiLevelIF, convert, create_model, fit, load_run, profile
from multispike.cli import main
from multispike.config import Recipe, TrainConfig
from multispike.datasets import load_dataset
from multispike.errors import InputError
from multispike.training import Interrupted
from multispike.training.objective import Objective
from multispike.training.run import read_checkpoint, read_settings

QUICK = {"epochs": 2, "threads": 1, "accelerator": "cpu", "batch_size": 32}
DIGITS = load_dataset("digits", limit_train=160, limit_test=60)
FILES = {"config.yaml", "last.ckpt", "best.ckpt", "metrics.csv", "result.json", "tensorboard"}

NETS = """
from torch import nn
from multispike import MultiLevelIF
def build(num_classes, in_channels, levels=4):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), MultiLevelIF(levels, v_init=0.5),
                         nn.Flatten(), nn.Linear(144, num_classes))
"""


def network(dropout: float = 0.0, levels: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), MultiLevelIF(levels, v_init=0.5), nn.Flatten(), nn.Dropout(dropout),
        nn.Linear(144, 10),
    )  # fmt: skip


class Noisy(Dataset):
    """Digits with noise out of torch's generator, and classes that have names."""

    classes = tuple("abcdefghij")

    def __init__(self, split, noise: float = 0.1) -> None:
        self.split, self.noise = split, noise

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self.split.inputs[index] / 16
        return image + self.noise * torch.randn_like(image), int(self.split.labels[index])


def pair() -> tuple[Dataset, Dataset]:
    return Noisy(DIGITS.train), Noisy(DIGITS.test, 0.0)


def errors(words: list[str], capsys) -> str:
    capsys.readouterr()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.fixture
def folder(tmp_path) -> str:
    return str(tmp_path / "run")


def test_a_module_of_ones_own_leaves_a_run(folder, capsys):
    model = network()
    run = fit(model, DIGITS, QUICK, out=folder)
    line = f"{folder}: the commands can't make its network again; load_run('{folder}', model=...)"
    assert line in capsys.readouterr().err
    assert {path.name for path in Path(folder).iterdir()} == FILES
    assert run.network.module is model
    assert not model.training
    result = json.loads(Path(folder, "result.json").read_text())
    told = {"arch": "Sequential", "data": "digits", "neuron": "multilevel", "levels": 4}
    assert {key: result[key] for key in told} == told
    assert result["accuracy"] == run.run.rows[-1]["test_accuracy"]
    assert (read_settings(Path(folder, "config.yaml"))["arch"], result["name"]) == (
        ":Sequential",
        "own",
    )
    assert run.predict(DIGITS.test.inputs[0, 0].numpy())[0].name in run.classes
    assert not model[0].weight._backward_hooks


def test_what_such_a_run_takes_later(folder, tmp_path, capsys):
    run = fit(network(), DIGITS, QUICK, out=folder)
    words = ["--data-dir", folder, "--json", str(tmp_path / "x.json")]
    for line in (["evaluate", folder, *words], ["export", folder, "--format", "c"]):
        said = "arch: got 'Sequential', allowed: what can be made again; Python has it: load_run(R"
        assert said in errors(line, capsys)
    assert main(["report", folder, "--out", str(tmp_path / "report")]) == 0
    again = load_run(folder, model=network())
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(again.network(images), run.network(images))
    with pytest.raises(InputError, match="does not fit :Sequential"):
        load_run(folder, model=nn.Linear(3, 3))


def test_loaders_of_torch(folder):
    train = DataLoader(Noisy(DIGITS.train), batch_size=40, shuffle=True)
    test = DataLoader(Noisy(DIGITS.test, 0.0), batch_size=30)
    run = fit(network(), (train, test), {**QUICK, "batch_size": None, "epochs": 4}, out=folder)
    assert run.classes == tuple("abcdefghij")
    assert [int(row["step"]) for row in run.run.rows] == [4, 8, 12, 16]
    correct = [(run.network(x).argmax(1) == y).float() for x, y in test]
    assert run.run.rows[-1]["test_accuracy"] == pytest.approx(torch.cat(correct).mean().item())
    result = json.loads(Path(folder, "result.json").read_text())
    assert (result["samples"], result["data"]) == (60, "Noisy")
    assert result["images_per_second"] * result["train_seconds"] == pytest.approx(4 * 160)
    assert profile(run.network, test).total_nj == pytest.approx(result["energy_nj"]["total"])
    with pytest.raises(InputError, match="how loaders made inputs of images is not known"):
        run.predict(DIGITS.test.inputs[0, 0].numpy())


def state(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(folder / "last.ckpt")["state_dict"]


@pytest.mark.parametrize("workers", [0, 1])
def test_loaders_of_torch_go_on_bit_exactly(tmp_path, monkeypatch, workers):
    """Order, noise of the samples and dropout, from the middle of an epoch."""
    trained, left = Objective.__call__, iter(range(6))

    def interrupted(self, *arguments):
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGINT)
        return trained(self, *arguments)

    def started(name: str, **more):
        loader = DataLoader(Noisy(DIGITS.train), 32, shuffle=True, num_workers=workers)
        recipe = QUICK | {"checkpoint_seconds": 0.0, "clip_norm": 1.0} | more
        return fit(network(0.5), (loader, pair()[1]), recipe, out=str(tmp_path / name))

    started("whole")
    with monkeypatch.context() as patch:
        patch.setattr(Objective, "__call__", interrupted)
        with pytest.raises(Interrupted):
            started("broken")
    assert read_checkpoint(tmp_path / "broken" / "last.ckpt")["global_step"] == 7
    torch.manual_seed(99)
    started("broken", resume=True)
    whole = state(tmp_path / "whole")
    assert all(torch.equal(value, whole[k]) for k, value in state(tmp_path / "broken").items())


def test_networks_of_the_table_and_of_files_are_made_again(tmp_path, folder, capsys):
    (tmp_path / "nets.py").write_text(NETS)
    place = f"{tmp_path}/nets.py:build"
    ann = create_model("fastnet", in_channels=1, neuron="relu")
    for number, (model, recipe) in enumerate((
        (ann, {}),
        (create_model(place, in_channels=1, levels=8), {}),
        (network(levels=8)[:3].append(nn.Linear(144, 10)), {"arch": place, "levels": 8}),
    )):  # fmt: skip
        out = f"{folder}{number}"
        run = fit(model, DIGITS, QUICK | recipe, out=out)
        assert "can't make" not in capsys.readouterr().err
        images = torch.rand(4, 1, 8, 8)
        assert torch.equal(load_run(out).network(images), run.network(images))
        assert main(["evaluate", out, "--json", f"{out}.json"]) == 0
    assert json.loads(Path(f"{out}.json").read_text())["levels"] == 8
    with pytest.raises(InputError, match="allowed: a function that builds the model that is given"):
        fit(network(levels=8), DIGITS, QUICK | {"arch": place}, out=f"{folder}9")
    images = (DIGITS.train.inputs / 255 - DIGITS.mean[0]) / DIGITS.std[0]
    ann = create_model("fastnet", in_channels=1, neuron="relu")
    snn = convert(ann, images, levels=8)  # its own settings still say ReLU
    run = fit(snn, DIGITS, QUICK, out=folder)
    assert "can't make its network again" in capsys.readouterr().err
    result = json.loads(Path(folder, "result.json").read_text())
    assert (result["arch"], result["neuron"], result["levels"]) == ("fastnet", "multilevel", 8)
    again = load_run(folder, model=convert(ann, images, levels=8))
    assert again.network.state_dict().keys() == run.network.state_dict().keys()


def test_data_that_can_not_be_read_again(folder, capsys):
    """The network is of the table, so `predict` and `export` would do; `evaluate` has no images."""
    model = create_model("fastnet", in_channels=1)
    fit(model, pair(), Recipe(**QUICK), out=folder)
    assert f"can't make its data again; load_run('{folder}') reads it" in capsys.readouterr().err
    assert "data: got 'Noisy', allowed: what can be read again" in errors(
        ["evaluate", folder], capsys
    )


def test_callbacks_and_loggers(tmp_path, folder, capsys):
    seen = []

    def stop(row, network):
        seen.append((row["epoch"], network(torch.rand(2, 1, 8, 8)).shape))
        return row["epoch"] == 2

    logger = CSVLogger(tmp_path / "log", flush_logs_every_n_steps=1)
    run = fit(
        network(), DIGITS, QUICK | {"epochs": 5}, out=folder, callbacks=[stop], loggers=[logger]
    )
    assert seen == [(1, (2, 10)), (2, (2, 10))]
    assert len(run.run.rows) == 2
    assert "stopped after epoch 2 of 5 by a callback" in capsys.readouterr().err
    assert "test_accuracy" in Path(logger.log_dir, "metrics.csv").read_text()
    assert not Path(folder, "tensorboard").exists()


def test_thresholds_a_channel_that_are_not_learned(folder):
    """They are parameters without a gradient; one weight stands at two places."""
    ann = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    ann.insert(3, nn.Linear(64, 64))
    ann[3].weight = ann[1].weight
    snn = convert(ann, torch.rand(64, 1, 8, 8), per="channel")
    before = snn[2].threshold.clone()
    fit(snn, DIGITS, QUICK | {"activity_penalty": 0.1, "momentum": 0.0}, out=folder)
    assert torch.equal(snn[2].threshold, before)
    assert not snn[2]._forward_hooks


class Endless(IterableDataset):
    def __iter__(self):
        yield torch.rand(1, 8, 8), 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model": 3}, "model: got 'int', allowed: a torch.nn.Module"),
        ({"data": 3}, "data: got 'int', allowed: a multispike Dataset, or (train, test)"),
        ({"data": (DIGITS, DIGITS)}, "data: got 'Dataset', allowed: sets with a length"),
        ({"data": (Endless(), Endless())}, "data: got 'Endless', allowed: sets with a length"),
        ({"data": (TensorDataset(torch.zeros(99, 1, 8, 8)),) * 2}, "allowed: batches (images"),
        (
            {"data": (TensorDataset(DIGITS.train.inputs, DIGITS.train.labels),) * 2},
            "data: got ['torch.uint8 [160, 1, 8, 8]'",
        ),
        ({"data": pair(), "recipe": {"cutout": 3}}, "cutout: got 3, allowed: the default, since"),
        ({"recipe": {"epoch": 3}}, "recipe: got 'epoch', nearest: epochs"),
        ({"recipe": {"epochs": 0}}, "epochs: got 0, allowed: an integer >= 1"),
        ({"model": nn.Linear(3, 3)}, "arch: got ':Linear', which can't be run on digits of shape"),
        ({"model": nn.Linear(3, 3), "data": pair()}, "model: got 'Linear', which can't be run on"),
        ({"model": create_model("fastnet")}, "inputs: got shape [2, 1, 8, 8]"),
        ({"recipe": {"limit_train": 999}}, "limit_train: got 999, allowed: an integer from 1"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_input_is_one_line(change, expected, folder):
    arguments = {"model": network(), "data": DIGITS, "recipe": {}} | change
    recipe = QUICK | arguments.pop("recipe")
    with pytest.raises(InputError) as caught:
        fit(**arguments, recipe=recipe, out=folder)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path(folder).exists()


def test_another_loader_than_the_recipe_says(folder):
    train = DataLoader(pair()[0], 16)
    with pytest.raises(InputError, match=r"^batch_size: got 32, allowed: 16, which the loader has"):
        fit(network(), (train, pair()[1]), QUICK, out=folder)
    with pytest.raises(InputError, match=r"^model: got"):
        fit(lambda x: x, DIGITS, TrainConfig(), out=folder)
