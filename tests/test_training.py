"""Runs that are killed, interrupted, spread over processes, fed with bad values."""

import csv
import os
import pickle
import runpy
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from processes import Command, let_go, started, train, wait_until

from multispike.config import TrainConfig
from multispike.datasets.loader import BatchLoader
from multispike.errors import InputError, RunError
from multispike.neurons import MultiLevelIF
from multispike.progress import progress_bar
from multispike.results import read_runs
from multispike.training import Interrupted, fit, launch, load_data, load_run, loop
from multispike.training.data import evaluation_loader, training_loader
from multispike.training.launch import whiten_
from multispike.training.loop import evaluate
from multispike.training.objective import Objective
from multispike.training.optim import Muon, make_optimizer, make_schedule, orthogonal, peak_lr
from multispike.training.run import open_run, read_checkpoint, read_settings, write_checkpoint

TINY = TrainConfig(
    arch="sparse_resnet20", data="digits", limit_train=160, limit_test=40, batch_size=32,
    epochs=3, threads=1, accelerator="cpu",
)  # fmt: skip


def state(folder: Path) -> dict[str, torch.Tensor]:
    """All that a run has become: weights, buffers, momenta."""
    content = read_checkpoint(folder / "last.ckpt")
    tensors = dict(content["state_dict"])
    for index, slot in content["optimizer_states"][0]["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in slot.items()
                    if isinstance(value, torch.Tensor)}  # fmt: skip
    return tensors


def assert_same(first: Path, second: Path) -> None:
    one, two = state(first), state(second)
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.equal(value, two[key]), key


def metrics(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def processed(rows: list[dict[str, str]]) -> list[float]:
    """Images of every epoch, as its speed and time say."""
    seconds = [0.0, *(float(row["train_seconds"]) for row in rows)]
    speeds = [float(row["images_per_second"]) for row in rows]
    return [speed * (b - a) for speed, a, b in zip(speeds, seconds, seconds[1:], strict=False)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """The run that was never interrupted."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert fit(replace(TINY, out=str(folder)))
    return folder


def wait_for_step(folder: Path, alive: Callable[[], bool], step: int) -> None:
    """Until last.ckpt has reached `step`; it is replaced whole, so it can be read at any time."""
    last, seen = folder / "last.ckpt", 0

    def reached() -> bool:
        nonlocal seen
        before, seen = seen, last.stat().st_mtime_ns if last.exists() else 0
        return seen != before and read_checkpoint(last)["global_step"] >= step

    wait_until(reached, alive)


def killed(config: TrainConfig, step: int) -> None:
    """The run as a process of its own, killed soon after that step."""
    process = started(train, config, step + 1)
    wait_for_step(Path(config.folder), process.is_alive, step)
    process.kill()
    process.join()


@pytest.mark.parametrize("steps", [(2,), (7, 11)], ids=["mid-epoch 1", "mid-epochs 2 and 3"])
def test_kill_9_and_resume_is_bit_exact(straight, tmp_path, steps):
    folder = tmp_path / "run"
    config = replace(TINY, out=str(folder), checkpoint_seconds=0.0)
    for count, step in enumerate(steps):
        killed(replace(config, resume=count > 0), step)
        assert read_checkpoint(folder / "last.ckpt")["global_step"] < 15
    assert fit(replace(config, resume=True))
    assert_same(straight, folder)
    rows, expected = metrics(folder), metrics(straight)
    timeless = [key for key in rows[0] if key not in ("train_seconds", "images_per_second")]
    assert [[r[k] for k in timeless] for r in rows] == [[r[k] for k in timeless] for r in expected]


def test_ctrl_c_saves_and_resumes(straight, tmp_path):
    folder = tmp_path / "run"
    config = replace(TINY, out=str(folder), checkpoint_seconds=0.0)
    process = started(train, config, 2)
    wait_for_step(folder, process.is_alive, 1)
    os.kill(process.pid, signal.SIGINT)
    let_go(folder)
    process.join()
    assert process.exitcode == 130
    assert read_checkpoint(folder / "last.ckpt")["global_step"] < 15
    assert fit(replace(config, resume=True))
    assert_same(straight, folder)


@pytest.mark.parametrize("step", [5, 15], ids=["of the first epoch", "of the training"])
def test_ctrl_c_in_the_last_step(straight, tmp_path, monkeypatch, step):
    """The epoch is evaluated first: a run that went on from there would lack its row."""

    config = replace(TINY, out=str(tmp_path / "run"))
    trained, left = Objective.__call__, iter(range(step - 1))

    def interrupted(self, *arguments):
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGINT)
        return trained(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "__call__", interrupted)
        with pytest.raises(Interrupted):
            fit(config)
    assert len(load_run(tmp_path / "run").rows) == step // 5
    assert fit(replace(config, resume=True))
    assert_same(straight, tmp_path / "run")
    assert [row["train_loss"] for row in metrics(tmp_path / "run")] == [
        row["train_loss"] for row in metrics(straight)
    ]


def test_ctrl_c_while_the_last_epoch_is_evaluated(tmp_path, monkeypatch):
    """The training is over then, but whoever asked for an end gets one; the run is whole."""

    config = replace(TINY, out=str(tmp_path / "run"), epochs=1)

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return evaluate(*arguments)

    monkeypatch.setattr(loop, "evaluate", interrupted)
    with pytest.raises(Interrupted):
        fit(config)
    assert len(load_run(tmp_path / "run").rows) == 1
    (tmp_path / "run" / "metrics.csv").unlink()  # as if killed before it was written
    assert fit(replace(config, resume=True))
    assert len(metrics(tmp_path / "run")) == 1


def test_a_run_without_a_finished_epoch_is_named(straight, tmp_path, capsys):
    """What a Ctrl-C in the first epoch leaves."""
    from multispike.cli import main

    content = read_checkpoint(straight / "last.ckpt")
    content["multispike"]["rows"] = []
    (tmp_path / "run").mkdir()
    torch.save(content, tmp_path / "run" / "last.ckpt")
    for words in (["evaluate"], ["report", "--out", str(tmp_path / "out")]):
        assert main([words[0], str(tmp_path / "run"), *words[1:]]) == 2
        told = f"multispike: run: got {str(tmp_path / 'run')!r}, allowed: one with a finished epoch"
        said = capsys.readouterr().err
        assert (said.startswith(told), said.count("\n")) == (True, 1)


def test_flipped_bits_are_found(straight, tmp_path):
    content = bytearray((straight / "last.ckpt").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(255 - byte for byte in content[middle : middle + 64])
    (tmp_path / "bad.ckpt").write_bytes(content)
    with pytest.raises(InputError, match="truncated or damaged"):
        read_checkpoint(tmp_path / "bad.ckpt")


@pytest.mark.parametrize("flipped", [0xFF, 0x08], ids=hex)
def test_a_damaged_index_is_found(tmp_path, flipped):
    """The archive's central directory, byte by byte: an error of one line, or the same content."""
    path, weights = tmp_path / "bad.ckpt", torch.arange(3.0)
    torch.save({"state_dict": {"w": weights}, "multispike": {}}, path)
    whole = path.read_bytes()
    refused = 0
    for place in range(whole.index(b"PK\x01\x02"), len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= flipped
        path.write_bytes(damaged)
        try:
            content = read_checkpoint(path)
        except InputError:
            refused += 1
        else:
            assert torch.equal(content["state_dict"]["w"], weights)
    assert refused > 100


@pytest.mark.parametrize("out", ["file", "file/run"])
def test_an_impossible_folder_is_named(tmp_path, out):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^out: got"):
        fit(replace(TINY, out=str(tmp_path / out)))


def test_best_checkpoint_of_averaged_weights_measures_as_its_row_says(tmp_path):
    config = replace(TINY, out=str(tmp_path / "run"), ema=0.9)
    fit(config)
    run = load_run(tmp_path / "run", "best.ckpt")
    data = load_data(config)
    loader = BatchLoader(data.test, 500, mean=data.mean, std=data.std)
    with torch.no_grad():
        correct = [(run.network(x).argmax(1) == y).float() for x, y in loader]
    assert run.rows[-1]["test_accuracy"] == pytest.approx(torch.cat(correct).mean().item())
    assert "optimizer_states" not in read_checkpoint(tmp_path / "run" / "best.ckpt")


@pytest.mark.parametrize(
    "changes",
    [{"accelerator": "abacus"}, {"strategy": "none such"}, {"limit_train": 1}],
    ids=str,
)
def test_overwriting_waits_until_all_settings_have_proved_good(tmp_path, changes):
    config = replace(TINY, out=str(tmp_path / "run"), epochs=1)
    fit(config)
    before = state(tmp_path / "run")
    with pytest.raises(InputError, match=f"^{next(iter(changes))}|^accelerator"):
        fit(replace(config, overwrite=True, **changes))
    after = state(tmp_path / "run")
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize(
    "changes",
    [
        {"ema": 0.9}, {"precision": "bf16-mixed"}, {"optimizer": "muon"},
        {"accumulate": 2, "clip_norm": 0.5, "ema": 0.9},
    ],
    ids=str,
)  # fmt: skip
def test_variants_resume_bit_exactly(tmp_path, changes):
    config = replace(TINY, **changes, epochs=2, checkpoint_seconds=0.0)
    fit(replace(config, out=str(tmp_path / "a")))
    interrupted = replace(config, out=str(tmp_path / "b"))
    killed(interrupted, 3)
    fit(replace(interrupted, resume=True))
    assert_same(tmp_path / "a", tmp_path / "b")


def tiny_network() -> torch.nn.Module:
    """Without batch norm, whose statistics depend on how many images are in a batch."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))


def trained(folder: Path, batch_size: int, **changes) -> tuple[torch.nn.Module, Path]:
    """That network after the loop, on 150 digits in their order."""
    config = replace(TINY, epochs=2, batch_size=batch_size, warmup=0.0, **changes)
    data = load_data(config).limited(limit_train=150)
    split = {"mean": data.mean, "std": data.std}
    network, folder = tiny_network(), folder / f"{batch_size}"
    folder.mkdir()
    fabric = launch.make_fabric(config)
    loop.train(
        fabric, network, BatchLoader(data.train, batch_size, **split),
        BatchLoader(data.test, 40, **split), config, folder, {"data": {}}, None,
    )  # fmt: skip
    return network, folder


def test_accumulated_batches_are_one_large_one(tmp_path):
    """Weights and learning rates, also where the last group of an epoch has one batch less."""
    (whole, first), (parts, second) = trained(tmp_path, 60), trained(tmp_path, 30, accumulate=2)
    for one, two in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, two)
    ends = [metrics(folder)[-1] for folder in (first, second)]
    assert float(ends[0]["lr"]) == pytest.approx(float(ends[1]["lr"]))
    assert [row["step"] for row in ends] == ["6", "10"]


def test_gradients_are_clipped_to_a_norm(tmp_path):
    """Of a step of plain SGD: its length is at most the learning rate times the norm."""
    before = tiny_network()
    after, _ = trained(
        tmp_path, 150, momentum=0.0, weight_decay=0.0, lr=0.5, clip_norm=1e-3, schedule="cosine"
    )
    pairs = zip(after.parameters(), before.parameters(), strict=True)
    moved = torch.cat([(a - b).flatten() for a, b in pairs])
    assert 0 < moved.norm() <= 2 * 0.5 * 1e-3 * 1.001


def test_early_stopping_and_going_on(tmp_path, capsys):
    """Nothing is learned, so no epoch is better than the first; a run going on stops there too."""
    config = replace(TINY, lr=1e-12, epochs=9, val_share=0.2, out=str(tmp_path / "run"))
    config = replace(config, weight_decay=0.0, arch="fastnet", patience=2)
    rows = loop._stalled([{"test_accuracy": a} for a in (0.5, 0.6, 0.6, 0.5)], 2)
    assert rows == "no better test accuracy than the 0.6000 of epoch 2"
    assert not loop._stalled([{"test_accuracy": a} for a in (0.5, 0.6, 0.6)], 2)
    fit(config)
    finished = len(metrics(tmp_path / "run"))
    assert 3 <= finished < 9
    said = f"run  stopped after epoch {finished} of 9: no better validation accuracy than the"
    assert said in capsys.readouterr().err
    fit(replace(config, resume=True))
    assert len(metrics(tmp_path / "run")) == finished
    assert said in capsys.readouterr().err


def test_a_network_that_is_not_finite_is_found_behind_a_finite_average(tmp_path):
    network, average = tiny_network(), tiny_network()
    torch.nn.init.constant_(network[1].weight, torch.inf)
    optimizer = torch.optim.SGD(network.parameters())
    schedule = make_schedule(optimizer, TINY, 10)
    state = loop.State(network, average, optimizer, schedule, {})
    with pytest.raises(RunError, match=r"^network\.1\.weight is not finite after step 0"):
        loop._save(launch.make_fabric(TINY), state, 0, tmp_path)


@pytest.mark.parametrize("logger", ["tensorboard", "csv"])
def test_loggers(tmp_path, logger):
    fit(replace(TINY, arch="fastnet", epochs=1, logger=logger, out=str(tmp_path / "run")))
    assert (tmp_path / "run" / "tensorboard").exists() is (logger == "tensorboard")
    assert len(metrics(tmp_path / "run")) == 1


@pytest.mark.parametrize("logger", ["wandb", "mlflow"])
def test_loggers_of_other_packages(tmp_path, monkeypatch, logger):
    """Written into the run, which stays one that can be overwritten."""
    config = replace(TINY, arch="fastnet", epochs=1, logger=logger, out=str(tmp_path / "run"))
    if find_spec(logger) is None:
        line = f"^logger: got '{logger}', allowed: one that is here: pip install {logger}$"
        with pytest.raises(InputError, match=line):
            config.check()
        return
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    fit(config)
    assert any((tmp_path / ("run/wandb" if logger == "wandb" else "mlruns")).iterdir())
    fit(replace(config, overwrite=True))


def test_mixed_precision_reports_float32_accuracy(tmp_path):
    """The last row of metrics.csv is what the reloaded network gives outside of autocast."""
    # 37 images make test accuracies and losses that bfloat16 logits would hardly hit by chance.
    config = replace(TINY, precision="bf16-mixed", epochs=1, limit_test=37, out=str(tmp_path / "r"))
    fit(config)
    run = load_run(config.out)
    assert all(value.dtype != torch.bfloat16 for value in run.network.state_dict().values())
    dataset = load_data(config)
    inputs, targets = next(iter(BatchLoader(dataset.test, 37, mean=dataset.mean, std=dataset.std,
                                            channels_last=True)))  # fmt: skip
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(run.network(inputs), targets).item()
        with torch.autocast("cpu", torch.bfloat16):
            rounded = torch.nn.functional.cross_entropy(run.network(inputs).float(), targets).item()
    assert run.rows[-1]["test_loss"] == pytest.approx(loss, rel=1e-6)
    assert rounded != pytest.approx(loss, rel=1e-5), "else this test could not fail"


def test_run_folder_and_reload(straight):
    run = load_run(straight)
    assert run.network.config["arch"] == "sparse_resnet20"
    assert not run.network.training
    assert len(run.rows) == 3
    assert run.train_seconds > 0
    settings = yaml.safe_load((straight / "config.yaml").read_text())
    assert settings["arch"] == "sparse_resnet20"
    assert (straight / "best.ckpt").exists()
    best = load_run(straight, "best.ckpt")
    accuracies = [row["test_accuracy"] for row in run.rows]
    assert len(best.rows) == accuracies.index(max(accuracies)) + 1
    assert not list(straight.glob(".*tmp"))


JOB = """\
import os, sys
from pathlib import Path
sys.path.append({tests!r})
from multispike.config import TrainConfig
from multispike.training import fit
from processes import hold
Path({folder!r}, f"{{os.getpid()}}.pid").touch()
hold(Path({config.out!r}), 4)
fit({config!r})
"""


def by_lightning(script: Path) -> None:
    """Run a script, which Lightning is to find and to run in a process more."""
    sys.argv = [str(script)]
    sys.modules["__main__"].__spec__ = None
    runpy.run_path(str(script))


def by_torchrun(config: TrainConfig) -> None:
    """`fit` in two processes of torchrun's agent, forked; rank 0 reports."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    settings = LaunchConfig(
        1, 1, 2, run_id="run", rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0,
        start_method="fork",
    )  # fmt: skip
    assert elastic_launch(settings, fit)(config) == {0: True, 1: False}


def test_two_processes_train_one_network_and_go_on(tmp_path):
    """DDP over gloo, started by Lightning and killed in its first epoch; torchrun's go on to the
    end, and only rank 0 writes."""
    folder = tmp_path / "run"
    config = replace(
        TINY, out=str(folder), devices=2, strategy="ddp", epochs=2, checkpoint_seconds=0.0
    )
    script, tests = tmp_path / "job.py", str(Path(__file__).parent)
    script.write_text(JOB.format(tests=tests, folder=str(tmp_path), config=config))
    process = started(by_lightning, script)
    wait_for_step(folder, process.is_alive, 3)
    process.kill()
    process.join()
    for path in tmp_path.glob("*.pid"):
        with suppress(ProcessLookupError):
            os.kill(int(path.stem), signal.SIGKILL)
    process = started(by_torchrun, replace(config, resume=True), daemon=False)
    process.join()
    assert process.exitcode == 0
    assert [int(row["step"]) for row in load_run(folder).rows] == [5, 10]
    assert processed(metrics(folder)) == pytest.approx([160, 160]), "of both processes"
    assert len(list((folder / "tensorboard").glob("events*"))) == 1


def test_two_processes_compare(tmp_path):
    """Started by Lightning; the second variant starts processes of its own, and one reports."""
    given = f"--devices 2 --strategy ddp --epochs 1 --threads 1 --out {tmp_path / 'both'}"
    data = "--arch fastnet --data digits --limit-train 160 --limit-test 40 --accelerator cpu"
    names = ["ann", "multilevel-T1-N4"]
    words = ["compare", "--variants", ",".join(names), *data.split(), *given.split()]
    with Command(*words) as both:
        code, printed, errors = both.ended()
    assert code == 0, errors
    assert [result.name for result in read_runs(tmp_path / "both" / "results.json")] == names
    for name in names:
        assert printed.count(name) == 1
        rows = metrics(tmp_path / "both" / name)
        assert processed(rows) == pytest.approx([160]), "of both processes"


def test_other_settings_are_refused_on_resume(straight):
    before = state(straight)
    with pytest.raises(InputError, match=r"lr: got 0\.5, but the run in"):
        fit(replace(TINY, out=str(straight), resume=True, lr=0.5))
    with pytest.raises(InputError, match="which holds a run; allowed: another folder, or --resume"):
        fit(replace(TINY, out=str(straight)))
    after = state(straight)
    assert after.keys() == before.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize("momentary", ["resume", "overwrite"])
@pytest.mark.parametrize(
    "settings", [None, "database: mine\n", "lr: 0.1\nepochs: 3\n", ""], ids=str
)
def test_foreign_folder_is_left_alone(tmp_path, settings, momentary):
    """Other programs, too, have a config.yaml, and settings of the same names."""
    files = {"thesis.tex": "years of work"}
    if settings is not None:
        files["config.yaml"] = settings
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=r"holds files that are no run|allowed: a mapping"):
        open_run(replace(TINY, out=str(tmp_path), **{momentary: True}))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_overwriting_deletes_what_a_run_wrote_and_nothing_else(straight, tmp_path):
    """Results, exports and a file that a kill left half are the run's; notes are not."""
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    for name in ("result.json", "c/model.c", "onnx/model.onnx", ".last.ckpt.4711.tmp", "notes/1"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("")
    (run / "nir").symlink_to(tmp_path)
    before = contents(run)
    config = replace(TINY, out=str(run), overwrite=True, epochs=7)
    with pytest.raises(InputError, match=r"^out: got .*'notes' is of no run .*allowed: ") as caught:
        open_run(config)
    assert "\n" not in str(caught.value)
    assert contents(run) == before
    shutil.rmtree(run / "notes")
    assert open_run(config) is None
    assert [path.name for path in run.iterdir()] == ["config.yaml"]
    assert yaml.safe_load((run / "config.yaml").read_text())["epochs"] == 7


@pytest.mark.parametrize(("seconds", "kept"), [(0.0, True), (60.0, False)])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(tmp_path, seconds, kept):
    """Where there is one: the message promises no file that was never written."""
    config = replace(TINY, out=str(tmp_path / "run"), lr=1e30, warmup=0.0)
    config = replace(config, checkpoint_seconds=seconds)
    reason = r"^(the loss is nan at|network\.\S+ is not finite after) step 2\b"
    with pytest.raises(RunError, match=reason) as caught:
        fit(config)
    last = tmp_path / "run" / "last.ckpt"
    assert last.exists() is kept
    assert (f"{last} still holds the last good state" in str(caught.value)) is kept
    assert "try a lower --lr, with another --out or --overwrite" in str(caught.value)
    if kept:
        weights = read_checkpoint(last)["state_dict"].values()
        assert all(torch.isfinite(w).all() for w in weights if w.is_floating_point())


def test_a_checkpoint_of_the_trainer_goes_on_bit_exactly(straight, tmp_path):
    """Versions before trained by Lightning's Trainer, whose checkpoints name no version of ours."""
    shutil.copytree(straight, tmp_path / "run")
    config = replace(TINY, out=str(tmp_path / "run"), checkpoint_seconds=0.0, overwrite=True)
    killed(config, 7)
    content = read_checkpoint(tmp_path / "run" / "last.ckpt")
    del content["rng_states"], content["multispike"]["version"]
    content |= {"loops": {"fit_loop": {}}, "callbacks": {"RunFiles": {}}}
    torch.save(content, tmp_path / "run" / "last.ckpt")
    assert fit(replace(config, overwrite=False, resume=True))
    assert_same(straight, tmp_path / "run")


@pytest.mark.parametrize("version", ["0.0.7", None])
def test_what_can_not_be_gone_on_from_is_refused_with_its_version(straight, tmp_path, version):
    shutil.copytree(straight, tmp_path / "run")
    content = read_checkpoint(straight / "best.ckpt")
    content["multispike"]["version"] = version
    if version is None:
        del content["multispike"]["version"]
    torch.save(content, tmp_path / "run" / "last.ckpt")
    with pytest.raises(
        InputError, match=rf"^resume: got .* {version or 'before'}\b.*allowed: "
    ) as e:
        fit(replace(TINY, out=str(tmp_path / "run"), resume=True))
    assert "\n" not in str(e.value)


def test_the_host_does_not_wait_for_the_device_in_every_step(tmp_path, monkeypatch):
    """A step reads no scalar from the device; losses are read at the first step and at the end."""
    from torch.utils._python_dispatch import TorchDispatchMode

    read = []

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten._local_scalar_dense.default:
                read.append(func)
            return func(*args, **(kwargs or {}))

    added = []
    add_up = loop.State.add_up
    monkeypatch.setattr(
        loop.State, "add_up", lambda self, *rest: (added.append(self.step), add_up(self, *rest))
    )
    monkeypatch.setattr(loop, "PAUSE_SECONDS", 1e9)
    config = replace(TINY, arch="fastnet", epochs=2, ema=0.9, out=str(tmp_path / "run"))
    with Reads():
        fit(replace(config, checkpoint_seconds=1e9))
    assert added == [1, 5, 6, 10]
    assert len(read) < 10, "a scalar a step"


def test_full_disk_keeps_the_last_checkpoint(tmp_path):
    """A real full file system: a tiny tmpfs, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True
    )
    if mount.returncode:
        pytest.skip("may not mount a tmpfs here")
    try:
        good = {"state_dict": {"w": torch.ones(10)}, "multispike": {}}
        write_checkpoint(disk / "last.ckpt", good)
        with pytest.raises(RunError, match=r"could not write .*the file before it is unchanged"):
            write_checkpoint(disk / "last.ckpt", {**good, "state_dict": {"w": torch.ones(10**6)}})
        assert torch.equal(read_checkpoint(disk / "last.ckpt")["state_dict"]["w"], torch.ones(10))
        assert [path.name for path in disk.iterdir()] == ["last.ckpt"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


class Malice:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_bad_checkpoints_are_refused(straight, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in {
        "malicious.ckpt": pickle.dumps(Malice()),
        "empty.ckpt": b"",
        "noise.ckpt": bytes(range(256)) * 10,
        "config.yaml": (straight / "config.yaml").read_bytes(),
        "result.json": b'{"accuracy": 0.5}',
        "truncated.ckpt": (straight / "last.ckpt").read_bytes()[:-1000],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=r"checkpoint: got .*allowed") as caught:
            read_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert "weights_only" not in str(caught.value)
    torch.save({"state_dict": {}, "multispike": Malice()}, tmp_path / "inside.ckpt")
    with pytest.raises(InputError, match="refused"):
        read_checkpoint(tmp_path / "inside.ckpt")
    assert not (tmp_path / "pwned").exists()
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(InputError, match="not one of multispike's"):
        read_checkpoint(tmp_path / "foreign.ckpt")
    for odd in (
        {"state_dict": [1]},
        {"state_dict": {"w": None}},
        {"state_dict": {5: torch.ones(1)}},
    ):
        torch.save({"multispike": {}, **odd}, tmp_path / "odd.ckpt")
        with pytest.raises(InputError, match="not one of multispike's"):
            read_checkpoint(tmp_path / "odd.ckpt")
    with pytest.raises(InputError, match="does not exist"):
        read_checkpoint(tmp_path / "missing.ckpt")


def test_a_checkpoint_of_another_architecture_is_refused(straight, tmp_path):
    content = torch.load(straight / "last.ckpt", weights_only=True)
    content["multispike"]["model"]["arch"] = "sew_resnet34"
    (tmp_path / "run").mkdir()
    torch.save(content, tmp_path / "run" / "last.ckpt")
    with pytest.raises(
        InputError, match="does not fit sew_resnet34; allowed: the same architecture"
    ):
        load_run(tmp_path / "run")


@pytest.mark.parametrize(
    "change",
    [
        lambda saved: saved["config"].update(unheard_of=1),
        lambda saved: saved["model"].update(unheard_of=1),
        lambda saved: saved.clear(),
    ],
    ids=["config", "model", "empty"],
)
def test_checkpoints_of_another_version_are_refused(straight, tmp_path, change):
    content = read_checkpoint(straight / "best.ckpt")
    change(content["multispike"])
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(InputError, match=r"^checkpoint: got .*allowed: .* this version$") as caught:
        load_run(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda saved: saved["model"].update(arch=1.5),
        lambda saved: saved["model"].update(levels="4"),
        lambda saved: saved["model"].update(num_classes=10**12),
        lambda saved: saved["model"].update(in_channels=10**12),
        lambda saved: saved["model"].update(timesteps=10**9),
        lambda saved: saved["model"].update(neuron=None),
        lambda saved: saved["model"].update(stem=[1]),
        lambda saved: saved["model"].update(beta="1"),
        lambda saved: saved["config"].update(levels="4"),
        lambda saved: saved["config"].update(arch=7),
        lambda saved: saved["data"].update(mean=0.5),
        lambda saved: saved["data"].update(std=[0.0]),
        lambda saved: saved["data"].update(input_shape=[1, 8]),
        lambda saved: saved["data"].update(input_shape=[1, 65_536, 65_536]),
        lambda saved: (saved["data"].update(events=True), saved["model"].update(timesteps=2**21)),
        lambda saved: saved["data"].update(classes=None),
        lambda saved: saved["data"].update(classes=["a", "b"]),
        lambda saved: saved["data"].update(input_shape=[3, 8, 8]),
        lambda saved: saved["data"].update(mean=[0.5] * 3),
        lambda saved: saved["data"].update(std=[]),
        lambda saved: saved["data"].pop("name"),
        lambda saved: saved.update(rows=[{"epoch": "1"}]),
        lambda saved: saved.update(rows=None),
        lambda saved: saved["rows"][0].update(epoch=float("nan")),
        lambda saved: saved["rows"][0].pop("train_seconds"),
        lambda saved: saved["rows"][0].pop("test_accuracy"),
        lambda saved: saved.update(train_seconds=float("nan")),
        lambda saved: saved.update(data=[]),
    ],
)  # fmt: skip
def test_a_checkpoint_with_wrong_metadata_is_one_line(straight, tmp_path, change):
    content = read_checkpoint(straight / "best.ckpt")
    change(content["multispike"])
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(InputError) as caught:
        load_run(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_compressed_checkpoint_is_refused_before_it_is_read(straight, tmp_path):
    """Torch's are stored as they are; a compressed one could announce gigabytes."""
    with zipfile.ZipFile(straight / "best.ckpt") as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(tmp_path / "last.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
        archive.writestr("archive/data/9999", bytes(1 << 24))
    with pytest.raises(InputError, match=r"^checkpoint: got .*announces 1[67],.* bytes"):
        load_run(tmp_path)


def test_a_batch_of_one_a_process_is_refused():
    """Torch's own error is about values per channel."""
    digits = load_data(TINY)
    with pytest.raises(InputError, match=r"^batch_size: got 2, allowed: at least 4, 2 a process"):
        training_loader(replace(TINY, batch_size=2), digits, rank=0, world_size=2)


def test_a_kill_at_the_first_file_is_no_obstacle(tmp_path):
    """It leaves config.yaml's temporary name alone in the folder."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".config.yaml.1234.tmp").write_text("arch: fas")
    assert open_run(replace(TINY, out=str(folder), resume=True)) is None
    assert read_settings(folder / "config.yaml")["arch"] == TINY.arch
    (folder / "config.yaml").unlink()
    (folder / ".notes.1234.tmp").write_text("mine")
    with pytest.raises(InputError, match="which holds files that are no run"):
        open_run(replace(TINY, out=str(folder), resume=True))


def test_images_of_a_last_batch_that_is_left_out_are_not_counted(tmp_path):
    from multispike.commands.evaluate import measure_run

    config = replace(TINY, arch="fastnet", limit_train=50, epochs=2, out=str(tmp_path / "run"))
    fit(config)
    result = measure_run(load_run(config.out), load_data(config))
    assert result.images_per_second * result.train_seconds == pytest.approx(2 * 32)
    assert processed(metrics(tmp_path / "run")) == pytest.approx([32, 32])


def test_label_smoothing_spreads_the_target():
    """(1 - e) of the loss of the label, e of the mean over all classes."""

    from multispike import create_model

    config = replace(TINY, arch="fastnet", label_smoothing=0.3)
    network = create_model("fastnet", in_channels=1)
    objective = Objective(network, config)
    images, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 3, 9, 3])
    surprise = -network(images).log_softmax(1)
    expected = 0.7 * surprise[range(4), labels] + 0.3 * surprise.mean(1)
    torch.testing.assert_close(objective(network(images), labels)[0], expected.mean())


def test_adamw_decays_weights_only():
    """Without gradients a step is the decay alone, decoupled: 1 - lr * weight_decay."""
    from multispike import create_model

    config = replace(TINY, optimizer="adamw", weight_decay=0.1)
    assert peak_lr(config, 250) == 0.002
    model = create_model("fastnet", learn_threshold="layer")
    optimizer = make_optimizer(model, config, 250)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, value in model.named_parameters():
        decayed = name.endswith("weight") and ("conv" in name or "linear" in name)
        torch.testing.assert_close(value, before[name] * (1 - 0.0002 if decayed else 1))


def test_a_step_of_muon_in_closed_form():
    """Of a diagonal update, each singular value goes through the quintic three times."""
    weight = torch.nn.Parameter(torch.tensor([[3.0, 0.0], [0.0, 4.0]]).view(2, 2, 1, 1))
    group = {"params": [weight], "lr": 0.1, "weight_decay": 0.0, "orthogonal": True}
    optimizer = Muon([group], momentum=0.9)
    weight.grad = torch.tensor([[2.0, 0.0], [0.0, -1.0]]).view(2, 2, 1, 1)
    optimizer.step()
    values = torch.tensor([2.0, 1.0]) / 5**0.5
    for _ in range(3):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    values = values * torch.tensor([1.0, -1.0])
    expected = torch.tensor([0.6, 0.8]) * 2**0.5 - 0.1 * values  # scaled to norm sqrt(2) first
    torch.testing.assert_close(weight.detach().view(2, 2), expected.diag())
    assert torch.equal(optimizer.state[weight]["momentum_buffer"], weight.grad)


@pytest.mark.parametrize("shape", [(16, 8, 3, 3), (64, 4, 3, 3)], ids=["wide", "tall"])
def test_updates_of_muon_are_orthogonal(shape):
    """Three iterations bring every singular value that is not tiny to 0.6 to 1.3."""
    generator = torch.Generator().manual_seed(0)
    updates = [torch.randn(shape, generator=generator), torch.randn(2, 1, 1, 1)]
    update, _ = orthogonal(updates)
    u, _, vh = torch.linalg.svd(updates[0].flatten(1), full_matrices=False)
    values = torch.linalg.diagonal(u.mT @ update.flatten(1) @ vh.mT)
    torch.testing.assert_close(u * values @ vh, update.flatten(1), rtol=0, atol=1e-4)
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3


def test_muon_is_sgd_for_all_but_convolutions():
    """The stem, the classifier, BN and biases take the same step under both optimisers."""
    from multispike import create_model

    models = [create_model("fastnet", in_channels=1) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    config = replace(TINY, bias_lr=3.0)
    optimizers = [
        make_optimizer(models[0], config, 125),
        make_optimizer(models[1], replace(config, optimizer="muon", lr=0.03), 125),
    ]
    assert [group["lr"] for group in optimizers[0].param_groups] == pytest.approx([0.1, 0.3, 0.1])
    lr = [group["lr"] for group in optimizers[1].param_groups]
    assert lr == pytest.approx([0.03, 0.1, 0.3, 0.1])
    for seed in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            generator = torch.Generator().manual_seed(seed)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
    for (name, one), two in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        is_muons = name.startswith("body.conv")
        assert torch.allclose(one, two) is not is_muons, name


@pytest.mark.parametrize("learn", ["layer", "channel"])
def test_learned_thresholds_stay_in_bounds(tmp_path, learn):
    """Unbounded, the first batch's gradient (7,900) sends the encoder's threshold to 5,000."""
    config = replace(
        TINY, arch="fastnet", lr=0.2, learn_threshold=learn, epochs=1, out=str(tmp_path)
    )
    assert fit(config)
    state = load_run(tmp_path).network.state_dict()
    thresholds = [state[name].flatten() for name in state if name.endswith("threshold")]
    moved = torch.cat(thresholds) / config.threshold
    assert (moved != 1).any()
    assert 0.2 < float(moved.min()) <= float(moved.max()) < 5


def test_only_weights_decay_and_shared_thresholds_count_once():
    from multispike import create_model

    model = create_model("sparse_resnet20", learn_threshold="layer")
    config = replace(TINY, weight_decay=0.1, bias_lr=3.0)
    groups = make_optimizer(model, config, 125).param_groups
    decayed = {id(p) for g in groups if g["weight_decay"] for p in g["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    assert all("conv" in name or "linear" in name for name in names)
    assert not any("bias" in name for name in names)
    every = [id(p) for g in groups for p in g["params"]]
    assert len(every) == len(set(every)) == len(list(model.parameters()))


@pytest.mark.parametrize("schedule", ["onecycle", "cosine"])
def test_schedules_rise_and_fall(schedule):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.2)
    config = replace(TINY, schedule=schedule, warmup=0.25)
    scheduler = make_schedule(optimizer, config, 40)
    rates = []
    for _ in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.2, rel=0.05)
    assert 8 <= peak <= 11
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 0 < rates[-1] < 0.02


def test_whitened_filters_decorrelate():
    """Responses of the leading half to the patches have unit variance and no correlation."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, 3, 12, 12, generator=generator)
    images = images + images.roll(1, 3) + 0.5 * images.roll(1, 2)
    conv = torch.nn.Conv2d(3, 24, 3, bias=False)
    whiten_(conv, images.split(10))
    response = conv(images).transpose(0, 1).flatten(1)[:12].double()
    covariance = response @ response.T / response.shape[1]
    torch.testing.assert_close(covariance, torch.eye(12).double(), rtol=0, atol=2e-2)
    assert torch.equal(conv.weight[:12], -conv.weight[12:])


def test_activity_penalty_counts_events_and_lowers_them():
    """Its value is events per neuron, whatever their level; following its gradient drops events."""

    from multispike import create_model

    config = replace(TINY, arch="fastnet", activity_penalty=1.0)
    torch.manual_seed(0)
    network = create_model("fastnet", in_channels=1, surrogate="ste", v_init=0.5)
    objective = Objective(network, config)
    images = torch.randn(8, 1, 8, 8)
    counts = []
    for neuron in network.modules():
        if isinstance(neuron, MultiLevelIF):
            neuron.register_forward_hook(lambda m, a, out: counts.append((out > 0).float()))
    optimizer = torch.optim.SGD(network.parameters(), lr=3.0)
    values = []
    for _ in range(10):
        counts.clear()
        network(images)
        penalty = objective.penalty()
        expected = torch.cat([c.flatten() for c in counts]).mean()
        torch.testing.assert_close(penalty, expected)
        values.append(penalty.item())
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
    assert values[-1] < 0.8 * values[0]


@pytest.mark.parametrize(("levels", "threshold"), [(3, 2.5), (15, 3.0), (15, 1.5), (4, 2.0)])
def test_activity_penalty_reaches_level_1_whatever_its_rounding(levels, threshold):
    """Events a neuron, N/V_th a spike at level 1, nothing above; a threshold a channel as well."""

    from multispike import create_model

    config = replace(TINY, arch="fastnet", activity_penalty=1.0)
    network = create_model("fastnet", in_channels=1)
    objective = Objective(network, config)
    neuron = MultiLevelIF(levels, torch.tensor([threshold, 0.7]))
    z = torch.tensor([[0, 0], [1, 1], [2, levels]]).float()  # [B, C]
    spikes = (z / levels * neuron.threshold).requires_grad_()
    objective._keep_spikes(neuron, None, spikes)
    penalty = objective.penalty()
    torch.testing.assert_close(penalty, torch.tensor(4 / 6))
    penalty.backward()
    expected = (z < 2) * levels / neuron.threshold / 6
    torch.testing.assert_close(spikes.grad, expected)


def test_starts_from_the_weights_of_another_run(straight, tmp_path):
    """Of another neuron and T: only weights are taken over, training begins anew."""
    config = replace(TINY, out=str(tmp_path / "run"), epochs=1, lr=1e-9, weight_decay=0.0)
    assert fit(replace(config, init=str(straight), neuron="binary", timesteps=2))
    before, after = load_run(straight).network, load_run(tmp_path / "run").network
    assert (after.config["neuron"], after.config["timesteps"]) == ("binary", 2)
    for name, weight in before.named_parameters():
        assert torch.allclose(weight, after.get_parameter(name), atol=1e-5), name
    assert [row["epoch"] for row in metrics(tmp_path / "run")] == ["1"]


def test_a_run_goes_on_without_the_weights_it_started_from(straight, tmp_path):
    first = tmp_path / "first"
    shutil.copytree(straight, first)
    config = replace(TINY, out=str(tmp_path / "run"), epochs=1, init=str(first))
    assert fit(config)
    shutil.rmtree(first)
    assert fit(replace(config, resume=True))


def test_other_data_are_refused_on_resume(tmp_path, monkeypatch):
    config = replace(TINY, out=str(tmp_path / "run"), epochs=1)
    assert fit(config)
    digits = load_data(config)
    other = replace(digits, mean=(2 * digits.mean[0],))
    monkeypatch.setattr(launch, "load_data", lambda *_: other)
    with pytest.raises(InputError, match=r"^data: got mean .*began with"):
        fit(replace(config, resume=True))
    fewer = digits.limited(limit_train=100)
    monkeypatch.setattr(launch, "load_data", lambda *_: fewer)
    with pytest.raises(InputError, match=r"^data: got images 100, .*began with 160"):
        fit(replace(config, resume=True))


def test_a_run_is_measured_on_its_own_classes(straight):
    run = load_run(straight)
    digits = load_data(run.config)
    with pytest.raises(InputError, match=r"^data: got classes 9, .*, allowed: 0, 1, "):
        evaluation_loader(run, replace(digits, classes=digits.classes[::-1]))


def test_a_new_run_takes_no_state_that_slurm_left(tmp_path, monkeypatch):
    """Lightning would answer a requeue by a checkpoint in the working directory, for any run."""
    slurm = {"NTASKS": "1", "NTASKS_PER_NODE": "1", "JOB_NAME": "job", "JOB_ID": "7", "PROCID": "0"}
    slurm |= {"LOCALID": "0", "NODEID": "0", "NODELIST": "localhost", "NNODES": "1"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hpc_ckpt_1.ckpt").write_text("of another run")
    before = signal.getsignal(signal.SIGUSR1)
    assert fit(replace(TINY, out=str(tmp_path / "run"), epochs=1))
    assert signal.getsignal(signal.SIGUSR1) == before
    assert len(load_run(tmp_path / "run").rows) == 1


@pytest.mark.parametrize("start", ["gone", "other"])
def test_what_can_not_be_started_from_deletes_nothing(start, straight, tmp_path):
    if start == "other":
        assert fit(replace(TINY, arch="fastnet", epochs=1, out=str(tmp_path / "other")))
    mine = tmp_path / "mine"
    shutil.copytree(straight, mine)
    config = replace(TINY, out=str(mine), init=str(tmp_path / start), overwrite=True)
    with pytest.raises(InputError, match=start):
        fit(config)
    assert_same(straight, mine)


@pytest.mark.parametrize(("neuron", "timesteps"), [("binary", 4), ("multilevel", 1)])
def test_no_channel_of_one_value_blows_up_the_first_gradients(neuron, timesteps):
    """On digits, fastnet's stem once had a gradient of 1e5: batch norms without variance."""
    torch.manual_seed(0)
    config = TrainConfig(arch="fastnet", data="digits", neuron=neuron, timesteps=timesteps)
    dataset = load_data(config, timesteps)
    network = launch.build_network(config.resolved(), dataset)
    launch.whiten_stem(network, dataset)
    network.train()
    deviations = []
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_pre_hook(
                lambda _, inputs: deviations.append(inputs[0].detach().std((0, 2, 3)).min())
            )
    images, labels = next(iter(training_loader(config.resolved(), dataset)))
    torch.nn.functional.cross_entropy(network(images), labels).backward()
    assert min(deviations) > 0.01
    gradients = [p.grad.norm() for p in network.parameters() if p.grad is not None and p.dim() == 4]
    assert max(gradients) < 20


def test_the_time_left_is_known_where_a_step_takes_a_minute():
    now = [0.0]
    bar = progress_bar(show=False)
    bar.get_time = lambda: now[0]
    task = bar.add_task("training", total=10)
    for step in range(1, 4):
        now[0] += 60
        bar.update(task, completed=step)
    assert bar.tasks[0].time_remaining == 7 * 60


def test_the_time_left_is_that_of_this_session(monkeypatch, capsys):
    """Also behind the first epoch, in which the bar may have moved once only."""
    clock = iter([1000.0, 1060.0, 1180.0])
    monkeypatch.setattr("multispike.training.loop.time.monotonic", lambda: next(clock))
    display = loop.Display("run", epochs=10, batches=5, step=23, show=True)
    row = {"train_loss": 1.0, "test_accuracy": 0.5}
    display.end_epoch({**row, "epoch": 5, "step": 25})  # 30 s a step
    display.end_epoch({**row, "epoch": 6, "step": 30})  # 180 s / 7
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition("  ")[2] for line in lines] == ["12:30 left", "8:34 left"]
