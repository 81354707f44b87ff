"""Networks and data sets of others, from the command line: a file's, and an installed package's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from processes import started

from multispike.cli import main
from multispike.config import TrainConfig
from multispike.errors import InputError
from multispike.export.formats import FORMATS
from multispike.training import load_run
from multispike.training.run import read_settings

PLUGIN = Path(__file__).parent / "plugin"
QUICK = ["--epochs", "1", "--threads", "1", "--batch-size", "20"]

NETS = """
from torch import nn
def raises(num_classes, in_channels):
    raise ValueError("no such thing")
def nothing(num_classes, in_channels):
    return None
def shape(num_classes, in_channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
def misfit(num_classes, in_channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(63, num_classes))
def zero(request):
    return 1 / 0
def three(request):
    return 3
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder on the path in which pip has put the plug-in, with its entry points."""
    source = tmp_path_factory.mktemp("source") / "plugin"
    shutil.copytree(PLUGIN, source)
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    offline = ["--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run([*command, *offline, "--target", target, source], check=True, timeout=300)
    return target


def session(installed: Path, folder: Path) -> None:
    """Commands of a process that has the package on its path."""
    sys.path.insert(0, str(installed))
    os.chdir(folder)
    Image.new("L", (8, 8)).save("image.png")
    both = ["--arch", "tinynet", "--data", "stripes", *QUICK]
    for words in (
        ["models", "--json", "models.json"],
        ["train", *both, "--out", "run"],
        ["evaluate", "run", "--json", "evaluated.json"],
        ["energy", "run", "--json", "energy.json"],
        ["report", "run", "--out", "report"],
        ["predict", "run", "image.png", "--json", "predicted.json"],
        ["export", "run", "--format", "c"],
        ["compare", *both, "--variants", "ann,multilevel-T1-N2", "--out", "both"],
    ):
        assert main(words) == 0, words


def test_an_installed_package_needs_no_import(installed, tmp_path):
    process = started(session, installed, tmp_path)
    process.join()
    assert process.exitcode == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    told = {"arch": "tinynet", "data": "stripes", "neuron": "multilevel", "levels": 4}
    assert {key: result[key] for key in told} == told
    assert json.loads((tmp_path / "evaluated.json").read_text())["accuracy"] == result["accuracy"]
    energy = json.loads((tmp_path / "energy.json").read_text())
    assert energy["energy_nj"] == result["energy_nj"]
    runs = json.loads((tmp_path / "both" / "results.json").read_text())["runs"]
    assert [(run["neuron"], run["levels"]) for run in runs] == [("relu", 0), ("multilevel", 2)]
    assert (tmp_path / "report" / "report.html").is_file()
    assert "tinynet" in {row["name"] for row in json.loads((tmp_path / "models.json").read_text())}
    [predicted] = json.loads((tmp_path / "predicted.json").read_text())
    assert predicted["class"] in ("lying", "upright")
    with pytest.raises(InputError, match=r"^arch: got 'tinynet', .*allowed: .*FILE.py:FUNCTION"):
        load_run(tmp_path / "run")  # this process has no such package


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """A folder with a run of a network and data in files beside it."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copy(PLUGIN / "tinyplug" / "nets.py", folder)
    shutil.copy(PLUGIN / "tinyplug" / "data.py", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["--arch", "nets.py:build", "--data", "data.py:load", *QUICK]
        assert main(["train", *words, "--levels", "2"]) == 0
    return folder


def test_files_are_found_from_another_folder(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = load_run(own / "runs" / "data-nets-multilevel-T1-N2")
    assert run.network.module[2].levels == 2
    assert read_settings(run.folder / "config.yaml")["arch"] == f"{own}/nets.py:build"
    assert main(["evaluate", str(run.folder), "--json", "out.json"]) == 0
    assert json.loads(Path("out.json").read_text())["arch"] == "nets"


def test_an_export_has_the_name_of_the_file_alone(own, tmp_path, monkeypatch):
    """In C, ONNX, OpenVINO and NIR: no folder of this machine, nothing that C forbids."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(own / "nets.py", "my näts-v1.2.py")
    shutil.copy(own / "data.py", "dätä.py")
    Image.new("L", (8, 8), 99).save("image.png")
    words = ["--arch", "my näts-v1.2.py:build", "--data", "dätä.py:load", "--out", "run"]
    assert main(["train", *words, *QUICK]) == 0
    predicted = []
    for format in FORMATS:
        assert main(["export", "run", "--format", format, "--json", "written.json"]) == 0
        assert json.loads(Path("written.json").read_text())["arch"] == "my_n_ts-v1.2"
        assert Path("run", format, "README.md").read_text().startswith("# my_n_ts-v1.2, ")
        assert not [p for p in Path("run", format).iterdir() if bytes(tmp_path) in p.read_bytes()]
        assert main(["predict", f"run/{format}/network.npz", "image.png", "--json", "p.json"]) == 0
        predicted.append(json.loads(Path("p.json").read_text()))
    assert main(["bench", "run", "--seconds", "0.01", "--json", "bench.json"]) == 0
    bench = json.loads(Path("bench.json").read_text())
    assert (bench["arch"], bench["data"]) == ("my_n_ts-v1.2", "dätä")
    assert all(row["agreement"] == 1 for row in bench["rows"] if "torch" not in row["engine"])
    assert predicted == 4 * predicted[:1]
    assert predicted[0][0]["class"] in ("lying", "upright")


def test_the_head_starts_anew_where_the_classes_differ(own, tmp_path, capsys):
    run = own / "runs" / "data-nets-multilevel-T1-N2"
    words = ["--arch", f"{own}/nets.py:build", "--init", str(run), "--lr", "1e-9", *QUICK]
    limits = ["--limit-train", "40", "--limit-test", "10", "--out", str(tmp_path / "new")]
    assert main(["train", "--data", "digits", *words, *limits]) == 0
    said = "does not fit module.9.weight, module.9.bias: they start anew"
    assert said in capsys.readouterr().err
    before, after = load_run(run).network, load_run(tmp_path / "new").network
    assert after.module[9].weight.shape == (10, 16)
    assert before.module[0].weight.allclose(after.module[0].weight, atol=1e-5)


def test_what_is_gone_is_one_line(own, tmp_path, capsys):
    moved = tmp_path / "moved"
    shutil.copytree(own, moved)
    run = moved / "runs" / "data-nets-multilevel-T1-N2"
    content = (own / "nets.py").read_text()
    (own / "nets.py").unlink()
    try:
        assert main(["evaluate", str(run)]) == 2
    finally:
        (own / "nets.py").write_text(content)
    line = f"arch: got '{own}/nets.py:build', allowed: a function of a file that exists"
    assert capsys.readouterr().err == f"multispike: {line}\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--arch FILE:raises", "can't be built: ValueError in FILE, line 4: no such thing"),
        ("--arch FILE:nothing", "allowed: a function that returns an nn.Module, not None"),
        ("--arch FILE:shape", "whose network gives [2, 3], allowed: logits [2, 10]"),
        ("--arch FILE:misfit", "can't be run on digits of shape [1, 8, 8]: RuntimeError in"),
        ("--arch FILE:absent", "allowed: a function that FILE has"),
        ("--arch gone.py:build", "gone.py:build', allowed: a function of a file that exists"),
        ("--arch nomodule:build", "can't be imported: ModuleNotFoundError"),
        ("--arch FILE:shape --levels 8", "levels: got 8, allowed: the default, since "),
        ("--arch FILE:shape --neuron relu", "neuron: got 'relu', allowed: the default, since "),
        ("--data FILE:zero", "can't be loaded: ZeroDivisionError in FILE, line 12: division by"),
        ("--data FILE:three", "allowed: a function that returns a multispike Dataset, not int"),
        ("--data gone.py:load", "gone.py:load', allowed: a function of a file that exists"),
        ("--data nowhere", "MODULE:FUNCTION, cifar10, cifar10-dvs-sim"),
    ],
)
def test_bad_functions_are_one_line(arguments, expected, tmp_path, capsys):
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    words = arguments.replace("FILE", str(path)).split()
    assert main(["train", *words, *QUICK, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert expected.replace("FILE", str(path)) in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_settings_keep_where_a_function_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(arch="my_net.py:build", data="sets.mine:load")
    assert (config.arch, config.data) == (f"{tmp_path}/my_net.py:build", "sets.mine:load")
    assert config.folder == "runs/sets.mine-my_net-own"
    with pytest.raises(InputError, match=r"^arch: got .*my_net.py:build', allowed: a function of"):
        config.check()
