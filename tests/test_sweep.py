"""`multispike sweep`: what it is told, and whole sweeps, killed and gone on with."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from multispike.cli import main
from multispike.config import TrainConfig
from multispike.config.sweep import SweepConfig
from multispike.errors import InputError
from multispike.training import fit, load_run

TINY = {
    "arch": "fastnet", "data": "digits", "limit_train": 64, "limit_test": 32, "epochs": 2,
    "batch_size": 32, "threads": 1, "logger": "csv",
}  # fmt: skip

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs multispike[ray]")


def written(folder: Path, **content) -> str:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, "search: got None, allowed: one setting or more"),
        ({"serch": {"levels": [2]}}, "serch: no such setting, nearest: --search, "),
        ({"search": {"activity_penality": [0.1]}},
         "search: got 'activity_penality', nearest: activity_penalty; allowed: settings of `multi"),
        ({"train": {"epoch": 3}, "search": {"levels": [2]}}, "train: got 'epoch', nearest: epochs"),
        ({"train": {"out": "x"}, "search": {"levels": [2]}}, "train: got 'out'"),
        ({"search": {"levels": 2}}, "search.levels: got 2, allowed: [A, B], {choice: [A, B]}, "),
        ({"search": {"levels": []}}, "search.levels: got [], allowed: [A, B]"),
        ({"search": {"lr": {"uniform": [0.2, 0.1]}}}, "search.lr: got {'uniform': [0.2, 0.1]}"),
        ({"search": {"lr": {"loguniform": [0, 1]}}}, "search.lr: got {'loguniform': [0, 1]}"),
        ({"search": {"lr": {"normal": [0, 1]}}}, "search.lr: got {'normal': [0, 1]}, allowed: "),
        ({"search": {"levels": [2, 0]}}, "levels: got 0, allowed: an integer >= 1"),
        ({"search": {"levels": [2, "few"]}}, "levels: got 'few', allowed: an integer >= 1"),
        ({"train": {"arch": "vgg12"}, "search": {"levels": [2]}}, "arch: got 'vgg12', nearest: v"),
        ({"train": {"neuron": "relu"}, "search": {"levels": [2]}}, "levels: got 2, allowed: none"),
        ({"train": {"levels": 2}, "search": {"levels": [2]}}, "search: got 'levels', allowed: s"),
        ({"search": {"levels": [2]}, "trials": 3}, "trials: got 3, allowed: 1, as nothing is"),
        ({"search": {"levels": [2]}, "trials": 0}, "trials: got 0, allowed: an integer >= 1"),
        ({"search": {"levels": [2]}, "scheduler": "pbt"}, "scheduler: got 'pbt', allowed: none"),
        ({"search": {"levels": [2]}, "address": "here"}, "address: got 'here', allowed: auto or"),
        ({"search": [1]}, "search: got '[1]', allowed: settings of `multispike train`"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_settings_are_checked_before_any_work(content, expected, tmp_path, capsys):
    out = tmp_path / "sweep"
    assert main(["sweep", "--config", written(tmp_path, **content), "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"multispike: {expected}")
    assert captured.err.count("\n") == 1
    assert not out.exists()


def test_trials_are_the_same_each_time():
    lists = {"levels": [2, 4], "seed": [0, 1]}
    drawn = {"batch_size": {"loguniform": [16, 64]}, "lr": {"uniform": [0.1, 0.2]}}
    drawn["surrogate"] = {"choice": ["ste", "clip"]}
    sweep = SweepConfig(train={"epochs": 3}, search={**drawn, **lists}, trials=9, out="there")
    runs = sweep.runs()
    assert runs == sweep.runs()
    assert len(runs) == 4 * 9
    assert {(run.levels, run.seed) for run in runs} == {(2, 0), (2, 1), (4, 0), (4, 1)}
    draws = {(run.batch_size, run.lr, run.surrogate) for run in runs}  # the same for all of a draw
    assert len(draws) == 9
    for batch_size, lr, surrogate in draws:
        assert isinstance(batch_size, int)
        assert 16 <= batch_size <= 64
        assert 0.1 <= lr <= 0.2
        assert surrogate in ("ste", "clip")
    for run in runs:
        name, _, seed = run.variant.rpartition("-s")
        values = dict(part.split("=") for part in name.split("+"))
        assert (float(values["lr"]), int(seed)) == (run.lr, run.seed)
        assert run.folder == f"there/{run.variant}"
        assert run.epochs == 3
    other = SweepConfig(search={**drawn, **lists}, trials=9, seed=1)
    assert draws.isdisjoint((run.batch_size, run.lr, run.surrogate) for run in other.runs())
    with pytest.raises(InputError, match=r"^mixup: got -1"):
        SweepConfig(search={"mixup": {"choice": [-1]}}).check()


def test_seeds_alone_are_a_sweep():
    names = [run.variant for run in SweepConfig(search={"seed": [0, 1]}).runs()]
    assert names == ["multilevel-T1-N4-s0", "multilevel-T1-N4-s1"]


def test_numbers_of_any_size_have_names_of_their_own():
    names = [run.variant for run in SweepConfig(search={"lr": [1e-30, 1e30]}).runs()]
    assert names == ["lr=1e-30", "lr=1e+30"]


def test_what_is_drawn_twice_is_trained_once():
    runs = SweepConfig(search={"levels": {"choice": [2, 4]}}, trials=20).runs()
    assert sorted(run.variant for run in runs) == ["levels=2", "levels=4"]


def test_ray_that_is_not_installed_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.tune", None)
    path = written(tmp_path, train=TINY, search={"levels": [2]})
    assert main(["sweep", "--config", path, "--out", str(tmp_path / "sweep")]) == 2
    told = "multispike: ray: not installed, allowed: pip install 'multispike[ray]'"
    assert capsys.readouterr().err.startswith(told)
    assert not (tmp_path / "sweep").exists()


def test_a_cluster_that_does_not_answer_is_told(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    path = written(tmp_path, train=TINY, search={"levels": [2]})
    since = time.monotonic()
    assert main(["sweep", "--config", path, "--address", f"127.0.0.1:{port}"]) == 2
    assert time.monotonic() - since < 10
    told = f"multispike: address: got '127.0.0.1:{port}', allowed: a Ray cluster that answers ("
    assert capsys.readouterr().err.startswith(told)


def test_an_address_of_something_else_than_ray_is_told(tmp_path, capsys):
    """As of Ray's dashboard; Ray itself would try for minutes."""
    path = written(tmp_path, train=TINY, search={"levels": [2]})
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        port = server.getsockname()[1]
        assert main(["sweep", "--config", path, "--address", f"127.0.0.1:{port}"]) == 2
        thread.join()
    told = "allowed: a Ray cluster that answers (something else than Ray does)\n"
    assert capsys.readouterr().err.endswith(told)


def test_trials_are_ordinary_runs(tmp_path, capsys):
    """A sweep takes over what `train` has trained; with nothing left it needs no Ray. What has
    begun under other settings is refused."""
    out = tmp_path / "sweep"
    sweep = SweepConfig(train=TINY, search={"levels": [2, 4]}, out=str(out))
    for run in sweep.runs():
        changed = {k: v for k, v in vars(run).items() if v != getattr(TrainConfig, k)}
        words = (w for k, v in changed.items() for w in (f"--{k.replace('_', '-')}", str(v)))
        assert main(["train", *words]) == 0
    path = written(tmp_path, train=TINY, search=sweep.search)
    assert main(["sweep", "--config", path, "--out", str(out)]) == 0
    results = json.loads((out / "results.json").read_text())
    assert [run["name"] for run in results["runs"]] == ["levels=2", "levels=4"]
    assert "levels=4" in (out / "report.html").read_text()
    path = written(tmp_path, train={**TINY, "epochs": 3}, search=sweep.search)
    capsys.readouterr()
    assert main(["sweep", "--config", path, "--out", str(out)]) == 2
    told = f"multispike: epochs: got 3, allowed: 2, with which {out}/levels=2 began, or another"
    assert capsys.readouterr().err.startswith(told)


def test_a_training_may_run_in_a_thread(tmp_path):
    """As Ray's trials do: only the main thread hears of signals."""
    out = str(tmp_path / "run")
    thread = threading.Thread(target=fit, args=[TrainConfig(**TINY, out=out)])
    thread.start()
    thread.join()
    assert len(load_run(out).rows) == 2


def started(path: str, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "multispike.cli", "sweep", "--config", path, "--out", str(out)]
    return subprocess.Popen(
        [*command, "--workers", "2"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )


@needs_ray
def test_a_killed_sweep_goes_on(tmp_path):
    out = tmp_path / "sweep"
    train = {**TINY, "checkpoint_seconds": 0.0, "limit_train": 640, "epochs": 4}
    search = {"levels": [2, 4], "activity_penalty": [0.0, 0.1]}
    path = written(tmp_path, train=train, search=search)
    process = started(path, out)
    assert process.stderr is not None
    told = process.stderr.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert told.startswith("1/4  levels="), told
    assert told.endswith(" left\n")
    finished = {p: p.stat().st_mtime_ns for p in out.glob("*/result.json")}
    assert 1 <= len(finished) < 4
    process = started(path, out)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert told.startswith(f"{len(finished)} of 4 trials are finished\n")
    assert told.count("accuracy") == 4 - len(finished)
    assert {p: p.stat().st_mtime_ns for p in finished} == finished
    names = [run["name"] for run in json.loads((out / "results.json").read_text())["runs"]]
    assert names == [f"levels={n}+activity_penalty={p}" for n in (2, 4) for p in (0.0, 0.1)]
    assert sorted(p.name for p in out.iterdir()) == sorted([*names, "report.html", "results.json"])


@needs_ray
def test_a_scheduler_stops_trials_and_failed_ones_are_told(tmp_path):
    out = tmp_path / "sweep"
    search = {"lr": [0.2, 1e-5, 2e-5, 1e30]}
    train = {**TINY, "limit_train": 640, "epochs": 4}
    path = written(tmp_path, train=train, search=search, scheduler="asha")
    process = started(path, out)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 1
    lines = {line.split()[1]: line for line in told.splitlines() if " left" in line}
    assert " accuracy " in lines["lr=0.2"]
    assert "; try a lower --lr" in lines["lr=1e+30"]
    stopped = [name for name, line in lines.items() if "stopped by asha" in line]
    assert stopped
    assert not any((out / name / "result.json").exists() for name in stopped)
    assert "lr=0.2" in {
        run["name"] for run in json.loads((out / "results.json").read_text())["runs"]
    }
