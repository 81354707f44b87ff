"""The command line as a user meets it: help, errors, exit codes, and one whole comparison."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
import yaml
from helpers import unpacked
from processes import started, wait_until
from rich.console import Console

from multispike import __version__, list_models
from multispike.cli import COMMANDS, main
from multispike.config import CompareConfig, TrainConfig, parse_variant
from multispike.errors import InputError
from multispike.models.table import ARCHITECTURES, Vgg

QUICK = ["--limit-train", "200", "--limit-test", "50", "--epochs", "2", "--threads", "1"]


def refused(capsys, *arguments: str) -> str:
    """The one line that a bad call prints; its exit code is 2."""
    try:
        code = main(list(arguments))
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.startswith("multispike: ")
    assert captured.err.count("\n") == 1, captured.err
    assert not captured.out
    return captured.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert f"multispike {command}" in text
    assert max(map(len, text.splitlines())) <= 100


LIGHT = (
    "--help", "--version", "train --help", "models", "pretrained", "reproduce", "trian",
    "evaluate nothere", "train --arch vgg12", "train --data nowhere", "train --data-dir nowhere",
    "train --config nowhere", "train --init nowhere", "train --epoks 3", "export nothere",
    "predict nothere a.png", "predict cifar10-fastnet nothere.png", "stream nothere a.raw",
    "energy vgg17", "report nothere", "view nothere.raw", "avalanche --runs nothere",
    "reproduce nothing", "train --arch nothere.py:build",
)  # fmt: skip


def test_what_needs_no_torch_does_not_wait_for_it(tmp_path):
    """Help, lists, and what is refused for a name or a path."""
    code = (
        "import sys\nfrom multispike.cli import main\n"
        f"for line in {LIGHT!r}:\n"
        "    try:\n        main(line.split())\n    except SystemExit:\n        pass\n"
        "    assert 'torch' not in sys.modules, line\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("words", [["models"], ["models", "--json", "-"]])
def test_a_reader_that_has_enough_ends_it_quietly(words):
    """As `head` does."""
    command = [sys.executable, "-m", "multispike.cli", *words]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=200
        )
    finally:
        os.close(writing)
    assert done.returncode in (0, 1)  # rich, which prints the table, ends with 1
    assert not done.stderr or words[1:]
    assert "roken" not in done.stderr


def test_a_training_starts_with_a_line(capsys, monkeypatch, tmp_path):
    """Before torch is there; on a terminal only, and gone afterwards."""
    from multispike.progress import telling

    with telling("loading"):
        assert not capsys.readouterr().err
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with telling("loading"):
        assert capsys.readouterr().err == "loading ...\r"
    assert capsys.readouterr().err == "\x1b[K"


def test_the_command_that_is_installed_is_main():
    [script] = entry_points(group="console_scripts", name="multispike")
    assert script.load() is main


def test_help_and_version(capsys):
    for arguments, expected in ((["--help"], "compare"), (["--version"], __version__)):
        assert main(arguments) == 0
        assert expected in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("train --arch vgg12", "arch: got 'vgg12', nearest: vgg16, vgg11"),
        ("train --data cifr10", "data: got 'cifr10', nearest: cifar10"),
        ("train --epoks 3", "--epoks: no such setting, nearest: --epochs"),
        ("train --levels 0", "levels: got 0, allowed: an integer >= 1"),
        ("train --neuron relu --levels 4", "levels: got 4, allowed: none with neuron=relu"),
        ("compare --variants binary-T04 --out x", "variants: got 'binary-T04', allowed: ann, "),
        ("train --threshold 0", "threshold: got 0.0, allowed: a number > 0"),
        ("train --timesteps 0", "timesteps: got 0"),
        ("train --epochs many", "epochs"),
        ("train --threads 100000", "threads: got 100000, allowed: an integer in [1, 1024]"),
        ("train --data-dir nowhere", "data_dir: got 'nowhere', allowed: a folder or archive that"),
        ("train --init nowhere", "init: got 'nowhere', allowed: a run folder or a .ckpt file"),
        ("train --lr -1", "lr: got -1.0"),
        ("train --neuron lif", "neuron"),
        ("train --resume --overwrite", "overwrite"),
        ("train --drop 0.1", "drop: got 0.1, allowed: 0 with digits, which holds no events"),
        ("train --drop 1 --data digits-dvs-sim", "drop: got 1.0, allowed: a share in [0, 1)"),
        ("train --split tet", "split: got 'tet', allowed: a split with data=cifar10dvs only"),
        ("train --split all --data cifar10dvs --data-dir /", "split: got 'all'"),
        ("train --sensor 3 --data eventfolder", "sensor: got '3', allowed: WIDTHxHEIGHT"),
        ("compare --variants ann,qnn", "variants: got 'qnn', allowed: ann, ann-T#"),
        ("compare --variants ann,ann", "variants: got 'ann,ann'"),
        ("compare --variants binary-T4-N3", "variants"),
        ("evaluate /nowhere", "run: got '/nowhere'"),
        ("evaluate /nowhere --limit-test 0", "limit_test: got 0, allowed: an integer >= 1"),
        ("evaluate /nowhere --profile lemaire", "profile: got 'lemaire', nearest: lemaire2022"),
        ("evaluate /nowhere --bits 7", "bits"),
        ("export /nowhere --limit-test 0", "limit_test: got 0, allowed: an integer >= 1"),
        ("trian", "command: got 'trian', nearest: train; allowed: avalanche, bench"),
        ("", "command: got '', allowed: avalanche, bench"),
    ],
)
def test_bad_usage_is_one_line(arguments, expected, capsys):
    assert expected in refused(capsys, *arguments.split())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"epochs": 0}, "epochs: got 0, allowed: an integer >= 1"),
        ({"epochs": "3"}, "epochs: got '3', allowed: an integer >= 1"),
        ({"epochs": True}, "epochs: got True, allowed: an integer >= 1"),
        ({"lr": float("inf")}, "lr: got inf, allowed: a number > 0"),
        ({"beta": 0}, "beta: got 0, allowed: a number in (0, 1]"),
        ({"devices": 0}, "devices: got 0, allowed: an integer >= 1"),
        ({"devices": "all"}, "devices: got 'all', allowed: an integer >= 1 or auto"),
        ({"neuron": "lif"}, "neuron: got 'lif', allowed: relu, binary, multilevel"),
        ({"arch": "vgg12"}, "arch: got 'vgg12', nearest: vgg16, vgg11"),
        ({"compile": "yes"}, "compile: got 'yes', allowed: true or false"),
        ({"sensor": "3"}, "sensor: got '3', allowed: WIDTHxHEIGHT"),
        ({"data_dir": "a\0b"}, "data_dir: got 'a\\x00b', allowed: "),
    ],
)
def test_settings_made_in_python_are_checked_by_their_annotations(settings, expected):
    with pytest.raises(InputError) as error:
        TrainConfig(**settings)
    assert str(error.value).startswith(expected)


def test_a_recipe_is_found_by_its_name(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--config", "cifar10-fast", "--epochs", "2", "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["arch"], printed["cutout"], printed["epochs"]) == ("fastnet", 8, 2)
    said = refused(capsys, "train", "--config", "cifar10-fas")
    assert "config: got 'cifar10-fas', nearest: cifar10-fast" in said


def test_compare_says_what_it_ignores_of_a_run(comparison, capsys):
    """Whose lr and batch size, which it left open, stay open."""
    path = str(comparison / "binary-T4" / "config.yaml")
    with pytest.raises(SystemExit):
        main(["compare", "--config", path, "--print_config"])
    captured = capsys.readouterr()
    ignored = "neuron, levels, timesteps, name, out"
    assert captured.err == f"compare ignores of {path}: {ignored}\n"
    printed = yaml.safe_load(captured.out)
    assert (printed["limit_train"], printed["lr"], printed["out"]) == (200, None, None)


def test_config_yaml_has_the_values_used(comparison):
    written = yaml.safe_load((comparison / "ann" / "config.yaml").read_text())
    assert (written["batch_size"], written["flip"], written["shift"]) == (32, "none", 1)
    assert written["lr"] == pytest.approx(0.2 * 32 / 250)
    assert written["automatic"] == ["batch_size", "lr", "flip", "shift"]


def test_unknown_config_key_names_the_nearest(tmp_path, capsys):
    settings = tmp_path / "settings.yaml"
    settings.write_text("arch: vgg11\nepoch: 3\n")
    assert "nearest: --epochs" in refused(capsys, "train", "--config", str(settings))


def test_missing_data_is_named(tmp_path, capsys):
    message = refused(
        capsys,
        "train",
        "--data",
        "cifar10",
        "--data-dir",
        str(tmp_path),
        "--out",
        str(tmp_path / "r"),
    )
    assert str(tmp_path) in message


def test_print_config_round_trip(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--arch", "vgg11", "--levels", "8", "--print_config"])
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["levels"] == 8
    path = tmp_path / "c.yaml"
    path.write_text(printed)
    with pytest.raises(SystemExit):
        main(["train", "--config", str(path), "--print_config"])
    assert capsys.readouterr().out == printed


def test_models(tmp_path, capsys):
    assert main(["models", "--json", str(tmp_path / "models.json")]) == 0
    printed = capsys.readouterr().out
    listed = {row["name"]: row for row in json.loads((tmp_path / "models.json").read_text())}
    assert sorted(listed) == list_models()
    assert all(name in printed for name in listed)
    assert listed["vgg16"]["macs"] == 313_201_664


@pytest.mark.parametrize("arch", list_models())
def test_sizes_from_the_table_are_those_of_the_network(arch):
    """Parameters, and multiply-accumulates of convolutions and linear layers."""
    from multispike import create_model
    from multispike.commands.models import rows

    [row] = [row for row in rows() if row["name"] == arch]
    with torch.device("meta"):
        network = create_model(arch, neuron="relu").eval()
        macs = []
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.register_forward_hook(
                    lambda m, _, out: macs.append(m.weight[0].numel() * out[0].numel())
                )
        network(torch.empty(1, 3, 32, 32))
    assert row["params"] == sum(parameter.numel() for parameter in network.parameters())
    assert row["macs"] == sum(macs)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compare") / "dir"
    assert main(["compare", "--arch", "fastnet", *QUICK, "--out", str(folder)]) == 0
    return folder


def test_finished_runs_make_one_report(comparison, tmp_path, capsys):
    runs = f"{comparison},{comparison / 'ann' / 'best.ckpt'}"
    out = tmp_path / "out"
    assert main(["report", runs, "--profile", "sram8k", "--bits", "8", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert "stopped" not in captured.err
    results = json.loads((out / "results.json").read_text())["runs"]
    assert [run["name"] for run in results] == [
        "ann (dir/ann)", "binary-T4", "multilevel-T1-N4", "ann (ann/best.ckpt)",
    ]  # fmt: skip
    assert {(r["energy_nj"]["profile"], r["energy_nj"]["bits"]) for r in results} == {("sram8k", 8)}
    before = json.loads((comparison / "results.json").read_text())["runs"]
    assert [run["accuracy"] for run in results[:3]] == [run["accuracy"] for run in before]
    page = (out / "report.html").read_text(encoding="utf-8")
    said = (
        r"4 runs of fastnet, seed 0, 2( and 1)? epochs. 50 test images. Energy by the model sram8k"
    )
    assert re.search(said, page)
    assert "test accuracy" in unpacked(page)  # of each epoch, from the runs' own folders


def test_a_report_prices_what_a_finished_run_has_stored(comparison, tmp_path, monkeypatch):
    run = str(comparison / "multilevel-T1-N4")
    model = ["--profile", "sram8k", "--bits", "8"]
    assert main(["evaluate", run, *model, "--json", str(tmp_path / "anew.json")]) == 0
    monkeypatch.setattr("multispike.commands.evaluate.load_run", None)
    assert main(["report", run, *model, "--out", str(tmp_path / "out")]) == 0
    anew = json.loads((tmp_path / "anew.json").read_text())
    [priced] = json.loads((tmp_path / "out" / "results.json").read_text())["runs"]
    assert priced.keys() == anew.keys()
    for key in priced.keys() - {"name", "environment"}:
        assert priced[key] == anew[key]


@pytest.mark.parametrize("name", ["results.json", "report.html", "config.yaml"])
@pytest.mark.parametrize("command", ["report", "compare"])
def test_what_is_no_comparison_is_left_alone(comparison, tmp_path, capsys, command, name):
    (tmp_path / name).write_text('{"format": "mine"}')
    words = ["report", str(comparison)] if command == "report" else ["compare", *QUICK]
    assert main([*words, "--out", str(tmp_path)]) == 2
    assert re.match(r"multispike: out: got .*, allowed: a folder", capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == '{"format": "mine"}'


@pytest.mark.parametrize(
    "words", [["report", "RUNS", "--bits", "8"], ["compare", *QUICK, "--variants", "ann"]],
    ids=lambda words: words[0],
)  # fmt: skip
def test_a_comparison_keeps_its_runs(comparison, capsys, words):
    before = (comparison / "results.json").read_bytes()
    words = [str(comparison) if word == "RUNS" else word for word in words]
    assert main([*words, "--out", str(comparison)]) == 2
    assert "holds no other runs, as this one does: " in capsys.readouterr().err
    assert (comparison / "results.json").read_bytes() == before


def test_an_unfinished_run_says_so(comparison, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(comparison / "multilevel-T1-N4", run)
    (run / "result.json").unlink()
    content = torch.load(run / "last.ckpt", weights_only=True)
    content["multispike"]["config"]["epochs"] = 40
    torch.save(content, run / "last.ckpt")
    for command in (
        ["evaluate", str(run)],
        ["report", str(run), "--out", str(tmp_path / "out")],
        ["energy", str(run)],
        ["export", str(run), "--format", "c"],
    ):
        assert main(command) == 0
        assert f"{run}: stopped after epoch 2 of 40" in capsys.readouterr().err


def test_compare_writes_its_contract(comparison):
    runs = json.loads((comparison / "results.json").read_text())["runs"]
    assert [run["name"] for run in runs] == ["ann", "binary-T4", "multilevel-T1-N4"]
    for run in runs:
        own = json.loads((comparison / run["name"] / "result.json").read_text())
        assert own == {"format": 1, **run}
        assert {
            "name", "arch", "data", "neuron", "levels", "timesteps", "seed", "epochs", "params",
            "accuracy", "loss", "train_seconds", "images_per_second", "events_per_inference",
            "amplitude_per_inference", "density", "energy_nj", "synops", "layers", "environment",
        } <= run.keys()  # fmt: skip
        assert 0 <= run["accuracy"] <= 1
        assert {"profile", "bits", "total", "ops", "addressing", "weights", "potentials", "bias",
                "io"} <= run["energy_nj"].keys()  # fmt: skip
        parts = sum(v for k, v in run["energy_nj"].items() if k not in ("profile", "bits", "total"))
        assert parts == pytest.approx(run["energy_nj"]["total"])
        assert {"name", "kind", "in_shape", "out_shape", "events_in", "events_out", "max_level",
                "energy_nj"} <= run["layers"][0].keys()  # fmt: skip
        assert {"version", "torch", "cpu", "threads", "date"} <= run["environment"].keys()
        for name in ("config.yaml", "last.ckpt", "best.ckpt", "metrics.csv"):
            assert (comparison / run["name"] / name).exists()
    assert (comparison / "report.html").stat().st_size > 10_000


def test_a_second_compare_trains_nothing(comparison, capsys):
    before = {path: path.stat().st_mtime_ns for path in comparison.rglob("*.ckpt")}
    assert main(["compare", "--arch", "fastnet", *QUICK, "--out", str(comparison)]) == 0
    assert {path: path.stat().st_mtime_ns for path in comparison.rglob("*.ckpt")} == before
    printed = capsys.readouterr().out
    assert "multilevel-T1-N4" in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert "fastnet on digits (n = 50), lemaire2022 32 bit" in printed


def test_compare_goes_on_after_a_kill(comparison, tmp_path):
    """Killed in its second variant, it finishes with the results of the run that was not."""
    folder = tmp_path / "dir"
    arguments = ["compare", "--arch", "fastnet", *QUICK, "--out", str(folder)]
    process = started(main, arguments)
    wait_until((folder / "binary-T4" / "config.yaml").exists, process.is_alive)
    process.kill()
    process.join()
    assert main(arguments) == 0
    one, two = (json.loads((f / "results.json").read_text())["runs"] for f in (comparison, folder))
    for first, second in zip(one, two, strict=True):
        for key in ("name", "accuracy", "loss", "events_per_inference", "energy_nj"):
            assert first[key] == second[key]


def test_a_further_process_trains_the_run_that_it_was_started_for(tmp_path, monkeypatch):
    """Lightning's begin the same command anew: `compare --overwrite` would train the first variant
    in them, while the process that started them trains the second."""
    from multispike.commands import train

    fitted = []
    monkeypatch.setattr(train, "fit", lambda config, *_: fitted.append(config.folder))
    first, second = (TrainConfig(out=str(tmp_path / name)) for name in ("first", "second"))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv(train.IN_HAND, "")
    train.train_run(second)  # in the process that starts the others
    monkeypatch.setattr(train, "STARTED_FOR", os.environ[train.IN_HAND])
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert train.train_run(first) is None
    with pytest.raises(SystemExit):
        train.train_run(second)
    assert fitted == [second.folder, second.folder]


def test_evaluate_repeats_the_result(comparison, tmp_path, capsys):
    run = comparison / "multilevel-T1-N4"
    assert main(["evaluate", str(run), "--flip", "--json", str(tmp_path / "out.json")]) == 0
    again = json.loads((tmp_path / "out.json").read_text())
    first = json.loads((run / "result.json").read_text())
    assert again["accuracy"] == first["accuracy"]
    assert 0 <= again["accuracy_flip"] <= 1
    assert "with mirror images" in capsys.readouterr().out


def test_energy_of_a_run_equals_its_result(comparison, tmp_path, capsys):
    run = comparison / "multilevel-T1-N4"
    assert main(["energy", str(run), "--json", str(tmp_path / "out.json")]) == 0
    priced = json.loads((tmp_path / "out.json").read_text())
    first = json.loads((run / "result.json").read_text())
    for key in ("energy_nj", "synops", "layers", "not_counted", "baselines"):
        assert priced[key] == first[key]
    printed = capsys.readouterr().out
    assert "events: measured on digits (n = 50); fan-out: lemaire; graded event: mac" in printed
    told = {"arch": "fastnet", "levels": 4, "timesteps": 1, "data": "digits", "samples": 50}
    assert {key: priced[key] for key in told} == told
    assert priced["crossover"]["qann_skip"]["verdict"].startswith("the SNN needs less energy than")
    for name, key in (("dense ANN", "ann"), ("zero-skipping quantised ANN", "qann_skip")):
        (line,) = [line for line in printed.splitlines() if line.startswith(f" {name} ")]
        assert line.split()[-1] == f"{priced['crossover'][key]['density']:.3g}"
    assert f"its events cost what density {priced['even_density']:.3g} would" in printed


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "RUN"], ["energy", "RUN"], ["energy", "fastnet"], ["models"],
        ["bench", "TINY", "--seconds", "0.05"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)  # fmt: skip
def test_json_on_standard_output_stands_alone(arguments, comparison, capsys, tmp_path, monkeypatch):
    places = {"RUN": str(comparison / "multilevel-T1-N4"), "TINY": str(tmp_path / "run")}
    if "TINY" in arguments:  # whose program compiles at once
        monkeypatch.setitem(ARCHITECTURES, "tiny", Vgg((6, "M", 8)))
        assert main(["train", "--arch", "tiny", *QUICK, "--out", places["TINY"]]) == 0
        capsys.readouterr()
    arguments = [places.get(argument, argument) for argument in arguments]
    assert main([*arguments, "--json", "-"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)
    assert printed.err
    assert not Path("-").exists()


def test_numbers_are_whole_in_80_columns(comparison):
    """Long names give way, and energies of large networks come in mJ."""
    from multispike.energy.pricing import Energy
    from multispike.report.terminal import comparison_table, energy_table
    from multispike.results import read_runs

    run = read_runs(comparison / "results.json")[-1]
    nj = Energy(**dict.fromkeys(("ops", "addressing", "weights", "potentials", "bias", "io"), 3e10))
    large = replace(
        run,
        name="families-sparse-multilevel-T1-N4-s0",
        neurons=(replace(run.neurons[0], events=12_345_678.0),),
        energy_nj=replace(run.energy_nj, **vars(nj)),
        train_seconds=5636.8,
        images_per_second=1234.0,
        layers=tuple(replace(layer, energy_nj=nj, events_in=2_569_000.0) for layer in run.layers),
    )
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(comparison_table([large]))
    console.print(energy_table(large, "sparse_resnet20 T1 N4"))
    printed = console.export_text()
    assert "…" not in printed
    for text in (
        "energy mJ",
        "30,000",
        "180,000",
        "12,345,678",
        "2,569,000",
        f"{run.accuracy:.4f}",
    ):
        assert text in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_energy_of_an_architecture(tmp_path, capsys):
    """The reference figures of the energy model, from the command line (DESIGN 2.7)."""
    target = tmp_path / "out.json"
    arguments = ["energy", "vgg16", "--neuron", "relu", "--json", str(target)]
    assert main([*arguments, "--profile", "castagnetti2025"]) == 0
    assert json.loads(target.read_text())["energy_nj"]["total"] == pytest.approx(12.9e6, rel=0.01)
    assert main(arguments) == 0
    assert json.loads(target.read_text())["energy_nj"]["weights"] == pytest.approx(
        117.71e6, rel=1e-4
    )
    dense = capsys.readouterr().out
    assert "a dense ANN: what it costs does not depend on its activations" in dense
    assert main(["energy", "sew_resnet34", "--neuron", "binary", "--timesteps", "4"]) == 0
    for printed in (dense, capsys.readouterr().out):
        tables = printed.split(" T4 N1: its events")[0].split("\na dense ANN:")[0]
        assert max(map(len, tables.splitlines())) <= 80
        assert "…" not in tables


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("vgg17", "target: got 'vgg17', nearest: vgg16"),
        ("runs/gone", "target: got 'runs/gone', allowed: FILE.py:FUNCTION, MODULE:FUNCTION, a"),
        ("vgg16 --limit-test 10", "limit_test: got 10, allowed: only with a run"),
        ("here --levels 8", "levels: got 8, allowed: only with an architecture, a run has its own"),
        ("vgg16 --input-shape 3,0,32", "input_shape: got '3,0,32', allowed: sizes from 1 to 99999"),
        ("vgg16 --against vgg17", "against: got 'vgg17', nearest: vgg16"),
        ("gone.py:build", "target: got 'gone.py:build', allowed: a function of a file that exists"),
        (
            "vgg16 --data digits --classes 4",
            "classes: got 4, allowed: only with what is no run",
        ),
        ("here --data digits", "data: got 'digits', allowed: only with an architecture"),
        (
            "net.py:Plain --levels 2",
            "levels: got 2, allowed: the default, since net-Plain",
        ),
        (
            "net.py:Plain --density 0.1 --input-shape 1,8,8",
            "density: got 0.1, allowed: only with spiking neurons",
        ),
        ("net.py:Plain --input-shape 1,8", "model: forward failed on batch 0, inputs [1, 1, 8]"),
        (
            "net.py:lazy",
            "model: got 'lazy layers without weights', allowed: a model that was",
        ),
        ("vgg16 --json .", "json: got '.', allowed: a file in a folder that exists"),
        ("vgg16 --json gone/out.json", "json: got 'gone/out.json'"),
        ("vgg16 --profile lemaire", "profile: got 'lemaire'"),
        ("vgg16 --density 1.5", "density: got 1.5"),
        ("vgg16 --bits 7", "bits"),
        ("vgg16 --profile broken.yaml", "broken.yaml"),
    ],
)
def test_bad_energy_requests_are_one_line(arguments, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.yaml").write_text("name: x\n")
    (tmp_path / "here").mkdir()
    (tmp_path / "net.py").write_text(NETS)
    assert expected in refused(capsys, "energy", *arguments.split())


NETS = """
from torch import nn
from multispike import MultiLevelIF

class Plain(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.linear = nn.Linear(width * 64, 7)

    def forward(self, x):
        return self.linear(self.conv(x).relu().flatten(1)), "whatever"

def build(num_classes, in_channels):
    conv = nn.Conv2d(in_channels, 8, 3, padding=1)
    return nn.Sequential(conv, MultiLevelIF(3), nn.Flatten(), nn.Linear(8 * 64, num_classes))

def lazy():
    return nn.LazyLinear(3)
"""


def test_energy_of_any_network(tmp_path, capsys, monkeypatch):
    """A class with defaults of its own, and outputs that are no logits; against a spiking one."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NETS)
    json_file = ["--json", "out.json"]
    assert main(["energy", "net.py:Plain", "--input-shape", "1,8,8", *json_file]) == 0
    alone = json.loads(Path("out.json").read_text())
    assert [layer["name"] for layer in alone["layers"]] == ["conv", "linear"]
    assert alone["layers"][1]["record"]["geometry"]["out_shape"] == [7]
    assert alone["assumed_density"] is None
    capsys.readouterr()
    words = ["net.py:build", "--against", "net.py:Plain", "--input-shape", "1,8,8"]
    assert main(["energy", *words, "--density", "0.1"]) == 2
    assert main(["energy", *words, *json_file]) == 0
    both = json.loads(Path("out.json").read_text())
    assert both["assumed_density"] == 0.2
    assert both["against"]["energy_nj"] == alone["energy_nj"]
    rows = capsys.readouterr().out.splitlines()
    [mine] = [row.split() for row in rows if row.split()[:3] == ["net", "T1", "N3"]]
    [other] = [row.split() for row in rows if row.split()[:2] == ["net-Plain", "ANN"]]
    assert mine[-1] == "1.00"
    assert float(other[-1]) == pytest.approx(
        alone["energy_nj"]["total"] / both["energy_nj"]["total"], abs=0.005
    )


def test_energy_of_any_network_on_data(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NETS)
    words = ["net.py:build", "--data", "digits", "--limit-test", "20", "--json", "-"]
    assert main(["energy", *words]) == 0
    priced = json.loads(capsys.readouterr().out)
    assert (priced["data"], priced["samples"]) == ("digits", 20)
    assert priced["neuron"] == "multilevel"


def test_train_refuses_a_used_folder(comparison, capsys):
    folder = str(comparison / "ann")
    assert "allowed: another folder, or --resume, or --overwrite" in refused(
        capsys, "train", "--arch", "fastnet", "--neuron", "relu", *QUICK, "--out", folder
    )


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ("train", "is saved; the same command with --resume goes on\n"),
        (
            "train --overwrite",
            "is saved; the same command with --resume instead of --overwrite goes on\n",
        ),
        ("compare", "is saved; the same command goes on\n"),
        ("compare --overwrite", "is saved; the same command without --overwrite goes on\n"),
    ],
)
def test_who_stops_a_training_is_told_how_it_goes_on(
    arguments, advice, capsys, tmp_path, monkeypatch
):
    from multispike.commands import train

    def stop(config):
        raise train.Interrupted

    monkeypatch.setattr(train, "train_run", stop)
    assert main([*arguments.split(), "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err.endswith(advice)


@pytest.mark.parametrize("size", [8_192, 16_384])
def test_too_little_memory_is_one_line(size, capsys):
    """For the image, or for what a layer makes of it; torch calls neither a MemoryError."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, before[1]))
    try:
        assert main(["energy", "fastnet", "--input-shape", f"1,{size},{size}"]) in (1, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "t allocate memory" in said


def test_a_resume_without_a_checkpoint_says_that_it_starts(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("multispike.commands.train.train_run", lambda config: None)
    assert main(["train", "--resume", "--out", str(tmp_path / "new")]) == 0
    assert "new holds no last.ckpt: the training starts anew\n" in capsys.readouterr().err


def test_digits_do_not_fit_an_rgb_run(comparison, tmp_path):
    from multispike.training import load_data, load_run
    from multispike.training.data import evaluation_loader

    run = load_run(comparison / "ann")
    run.data["input_shape"] = [3, 32, 32]
    with pytest.raises(InputError, match="what the run was trained on"):
        evaluation_loader(run, load_data(run.config))


@pytest.mark.parametrize(
    ("name", "neuron", "timesteps", "levels"),
    [("ann", "relu", 1, None), ("ann-T10", "relu", 10, None), ("binary-T4", "binary", 4, None),
     ("multilevel-T2-N8", "multilevel", 2, 8), ("multilevel", "multilevel", 1, None)],
)  # fmt: skip
def test_variant_names(name, neuron, timesteps, levels):
    assert parse_variant(name) == {"neuron": neuron, "timesteps": timesteps, "levels": levels}
    if name != "multilevel":
        assert TrainConfig(**parse_variant(name)).variant == name


def test_compare_shares_one_recipe():
    runs = CompareConfig(lr=0.3, seed=5, out="x", variants="ann, multilevel-T1-N2").runs()
    assert [(run.lr, run.seed, run.out) for run in runs] == [
        (0.3, 5, "x/ann"), (0.3, 5, "x/multilevel-T1-N2"),
    ]  # fmt: skip
