"""From a trained run to each format."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import Command, wait_until

from multispike.cli import main
from multispike.commands import export
from multispike.config import TrainConfig
from multispike.config.commands import ExportConfig
from multispike.datasets import DATASETS, load_dataset
from multispike.errors import InputError
from multispike.export import c
from multispike.export.formats import FORMATS, NETWORK, description, filling, write
from multispike.export.onnx import openvino_package
from multispike.export.quantise import quantise
from multispike.export.serialize import load
from multispike.files import replacing
from multispike.models import create_model
from multispike.models.table import ARCHITECTURES, Vgg
from multispike.training.launch import fit
from multispike.training.run import load_run

PACKAGES = {"c": (), "onnx": ("onnx",), "openvino": ("onnx", "openvino"), "nir": ("nir",)}
RUNTIMES = {"onnx": ("onnxruntime",), "openvino": (), "nir": ()}


def trained(folder, **changes) -> str:
    settings = {
        "arch": "sparse_resnet20",
        "epochs": 1,
        "limit_train": 128,
        "limit_test": 32,
        "threads": 1,
        "out": str(folder),
    }
    fit(TrainConfig(**(settings | changes)))
    return str(folder)


def export_run(run, format, out, **more) -> export.Exported:
    return export.export_run(ExportConfig(str(run), format, str(out), **more))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    return trained(tmp_path_factory.mktemp("run") / "run", epochs=3, limit_train=None)


@pytest.fixture(scope="module", autouse=True)
def tiny_network() -> Iterator[None]:
    """For what does not depend on the network, a row of two convolutions in the table."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "tiny", Vgg((6, "M", 8)))
        yield


@pytest.fixture(scope="module")
def tiny(tiny_network, tmp_path_factory) -> str:
    return trained(tmp_path_factory.mktemp("tiny") / "run", arch="tiny")


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_every_format_is_written_beside_the_integer_network(run, format, tmp_path):
    if any(find_spec(package) is None for package in PACKAGES[format]):
        pytest.skip(f"needs {', '.join(PACKAGES[format])}")
    summary = export_run(run, format, tmp_path / "out")
    assert summary.files.keys() == {path.name for path in (tmp_path / "out").iterdir()}
    main, parts = FORMATS[format].main, FORMATS[format].others
    assert main in summary.files
    assert all(re.fullmatch(f"{main}|{NETWORK}|{parts}", name) for name in summary.files)
    assert 0 < summary.largest_bound < 2**31
    assert 270_000 < summary.weights < 280_000

    network = load(tmp_path / "out" / "network.npz")
    trained_run, digits = load_run(run), load_dataset("digits", progress=False)
    pixels = digits.test.inputs[:64]
    mean, std = trained_run.data["mean"][0], trained_run.data["std"][0]
    floats = trained_run.network((pixels.float() / 255 - mean) / std).detach().numpy()
    # int8 weights move levels here and there: the logits stay the same but for that.
    error = network.forward(pixels) * network.logit_scale - floats
    assert np.corrcoef(error.ravel() + floats.ravel(), floats.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("format", ["nir", "onnx", "openvino"])
def test_a_graph_says_what_it_takes_and_the_readme_runs_it(run, format, tmp_path, monkeypatch):
    if any(find_spec(package) is None for package in (*PACKAGES[format], *RUNTIMES[format])):
        pytest.skip(f"needs {format}'s packages")
    export_run(run, format, tmp_path)
    readme = (tmp_path / "README.md").read_text()
    network = load(tmp_path / "network.npz")
    assert network.classes == tuple("0123456789")
    facts = description(network)
    assert facts["channels"] == "grey"
    assert facts["resize"] == "images are scaled (bicubic) to cover 8 x 8 and cut at the centre"
    assert f"mean {list(network.mean)}, std {list(network.std)}" in facts["normalisation"]
    assert all(f"- {name}: {fact}\n" in readme for name, fact in facts.items())
    if format == "onnx":
        import onnx

        held = onnx.load(tmp_path / "model.onnx").metadata_props
        assert {entry.key: entry.value for entry in held} == facts
    elif format == "openvino":
        model = openvino_package().Core().read_model(tmp_path / "model.xml")
        held = {name: model.get_rt_info(["multispike", name]).value for name in facts}
        assert {name: str(value) for name, value in held.items()} == facts
    else:
        held = import_module("nir").read(tmp_path / "model.nir").metadata
        assert {name: held[name] for name in facts} == facts

    monkeypatch.chdir(tmp_path)
    found: dict = {}
    exec(re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[0], found)
    expected = network.forward(np.zeros((1, 1, 8, 8), np.uint8))
    scale = 1 if format == "nir" else network.logit_scale
    assert np.array_equal(np.round(np.asarray(found["logits"]) / scale), expected)


@pytest.mark.skipif(not (shutil.which("cc") and shutil.which("make")), reason="needs a C compiler")
def test_a_picture_goes_into_the_c_program_by_predict(run, tmp_path, capsys):
    digits = load_dataset("digits", progress=False).test.inputs[:3, 0].numpy()
    for index, pixels in enumerate(digits):
        large = Image.fromarray(pixels).resize((32, 24))
        large.save(tmp_path / f"{index}.{'jpg' if index else 'png'}")
    paths = sorted(map(str, tmp_path.iterdir()))
    export_run(run, "c", tmp_path / "c")
    network = str(tmp_path / "c" / "network.npz")
    for source in (run, network):
        assert main(["predict", source, *paths, "--as-input", str(tmp_path / "in.bin")]) == 0
        raw = (tmp_path / "in.bin").read_bytes()
        assert len(raw) == 3 * 64
    subprocess.run(["make", "-s", "-C", tmp_path / "c", "CFLAGS=-O0"], check=True)
    done = subprocess.run([tmp_path / "c" / "model", tmp_path / "in.bin"], capture_output=True)
    names = [line.split("\t")[1] for line in done.stdout.decode().splitlines()]
    assert names == [line.split()[1] for line in capsys.readouterr().out.splitlines()][3:]
    assert main(["predict", run, *paths, "--as-input", str(tmp_path / "absent" / "x")]) == 2
    assert "as_input: got" in capsys.readouterr().err


def test_evaluation_counts_what_both_networks_get_right(tiny, tmp_path):
    summary = export_run(tiny, "c", tmp_path / "out", evaluate=True)
    trained_run = load_run(tiny)
    test = load_dataset("digits", progress=False, limit_test=32).test
    mean, std = trained_run.data["mean"][0], trained_run.data["std"][0]
    with torch.no_grad():
        floats = trained_run.network((test.inputs.float() / 255 - mean) / std).argmax(1)
    integers = load(tmp_path / "out" / "network.npz").forward(test.inputs).argmax(1)
    assert asdict(summary.accuracy) == {
        "images": 32,
        "float": (floats == test.labels).float().mean().item(),
        "integer": (integers == test.labels.numpy()).mean(),
        "same_class": (integers == floats.numpy()).mean(),
        "split": "test",
    }
    assert summary.finetuned is None


def test_fine_tuning_from_the_command_line(tiny, tmp_path, capsys):
    assert main(["export", tiny, "--out", str(tmp_path / "plain")]) == 0
    assert "accuracy on 32 test samples: float 0." in capsys.readouterr().out
    options = ["--finetune", "2", "--limit-test", "20", "--json", str(tmp_path / "tuned.json")]
    assert main(["export", tiny, "--out", str(tmp_path / "tuned"), *options]) == 0
    out = capsys.readouterr().out
    summary = json.loads((tmp_path / "tuned.json").read_text())
    before, after = summary["accuracy"], summary["finetuned"]
    assert before["images"] == after["images"] == 20
    assert f"float {before['float']:.4f}, integer {before['integer']:.4f}" in out
    assert f"after 2 epochs of fine-tuning: integer {after['integer']:.4f}" in out
    plain, tuned = (load(tmp_path / name / "network.npz") for name in ("plain", "tuned"))
    pixels = load_dataset("digits", progress=False).test.inputs[:8]
    assert not np.array_equal(plain.forward(pixels), tuned.forward(pixels))
    # The run itself stays as it was trained.
    assert main(["export", tiny, "--out", str(tmp_path / "again")]) == 0
    again = load(tmp_path / "again" / "network.npz")
    assert np.array_equal(plain.forward(pixels), again.forward(pixels))


@pytest.mark.parametrize("helps", [False, True])
def test_a_fine_tuning_that_makes_it_worse_is_not_written(tiny, helps, tmp_path, monkeypatch):
    """Worse: all weights of the classifier are turned. As good: nothing is changed."""

    def tune(trained, dataset, epochs):
        with torch.no_grad():
            trained.network.get_submodule("classifier.linear").weight.mul_(1 if helps else -1)

    monkeypatch.setattr("multispike.commands.export.finetune_run", tune)
    summary = export_run(tiny, "c", tmp_path / "tuned", finetune=1)
    export_run(tiny, "c", tmp_path / "plain")
    assert (summary.finetuned.integer == summary.accuracy.integer) == helps
    for path in (tmp_path / "plain").iterdir():
        assert (tmp_path / "tuned" / path.name).read_bytes() == path.read_bytes()


def test_missing_data_are_named_before_anything_is_written(tmp_path, capsys):
    for split, count in (("train", 32), ("test", 4)):
        for name in ("a", "b"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                noise = np.random.default_rng(index).integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(noise).save(folder / f"{index}.png")
    data = {"data": "imagefolder", "data_dir": str(tmp_path / "images"), "size": 8}
    settings = {"arch": "tiny", "limit_train": None, "limit_test": None, "batch_size": 16}
    run = trained(tmp_path / "run", **settings, **data)
    (tmp_path / "images").rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"^data_dir: got"):
        export_run(run, "c", tmp_path / "out", evaluate=True)
    assert not (tmp_path / "out").exists()
    moved = str(tmp_path / "moved")
    summary = export_run(run, "c", tmp_path / "out", evaluate=True, data_dir=moved)
    assert summary.accuracy.images == 8
    assert main(["export", run, "--out", str(tmp_path / "out2")]) == 0  # nothing needs them
    lines = capsys.readouterr().out.splitlines()
    [told] = [line for line in lines if line.startswith("what rounding costs was not measured: ")]
    assert f"data_dir: got '{tmp_path / 'images'}', allowed: a folder with train/CLASS" in told
    unasked = export_run(run, "c", tmp_path / "out3", data_dir=moved).accuracy
    assert unasked.split == "validation"
    assert 0 < unasked.images < 64
    few = export_run(run, "c", tmp_path / "out4", data_dir=moved, limit_test=3).accuracy
    assert (few.images, few.split) == (3, "validation")


def test_a_data_set_that_is_no_longer_in_the_table_is_needed_for_evaluation_only(
    tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setitem(DATASETS, "mine", DATASETS["digits"])
        run = trained(tmp_path / "run", arch="tiny", data="mine")
    assert export_run(run, "c", tmp_path / "out").arch == "tiny"
    with pytest.raises(InputError, match=r"^data: got 'mine', .*digits"):
        export_run(run, "c", tmp_path / "out2", evaluate=True)
    assert not (tmp_path / "out2").exists()


def test_a_place_that_cannot_be_written_is_one_line(tiny, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["export", tiny, "--out", str(tmp_path / "file" / "x")]) == 1
    assert capsys.readouterr().err == f"multispike: {tmp_path / 'file' / 'x'}: Not a directory\n"


def test_a_format_that_fails_leaves_no_folder(tiny, tmp_path, monkeypatch):
    def fails(network, main):
        main.with_name("half.c").write_text("int")
        raise OSError("no space left on device")

    monkeypatch.setattr("multispike.export.c.write_c", fails)
    with pytest.raises(OSError, match="no space left"):
        export_run(tiny, "c", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_names_the_file_that_was_to_be_written(tmp_path):
    def fill() -> None:
        with filling(tmp_path / "out") as temporary, replacing(temporary / "model.c"):
            Path("/dev/full").write_text("int")

    with pytest.raises(OSError, match="No space left") as caught:
        fill()
    assert caught.value.filename == str(tmp_path / "out" / "model.c")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_a_full_disk_names_the_file_in_every_format(format, tmp_path):
    """A real full file system; HDF5's own writing would end the process there."""
    if any(find_spec(package) is None for package in PACKAGES[format]):
        pytest.skip(f"needs {', '.join(PACKAGES[format])}")
    network = quantise(create_model("sparse_resnet20", in_channels=1), [0.5], [0.3], (1, 8, 8))
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a tmpfs here")
    try:
        with pytest.raises(OSError, match=r"No space left|could not be written") as caught:
            write(network, format, disk / "out")
        written = Path(caught.value.filename)
        assert written.parent == disk / "out"
        assert written.name in (FORMATS[format].main, "weights0.c")
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def stand_still() -> None:
    """Exports to C write half a file from now on, and wait."""

    def write_c(network, main):
        main.write_text("int")
        time.sleep(1000)

    c.write_c = write_c


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_export_that_is_stopped_leaves_nothing(run, number, tmp_path):
    with Command("export", run, "--out", str(tmp_path / "out"), before=stand_still) as export:
        wait_until(lambda: [*tmp_path.glob("out/.*.tmp/model.c")], export.process.is_alive)
        export.send(number)
        code, _, errors = export.ended()
    assert (code, errors) == (130, "multispike: interrupted\n")
    assert not list(tmp_path.iterdir())


def filled(folder, format: str, *names: str, content: str = "new") -> None:
    """An export of that format, with one file of it that is not the main one."""
    with filling(folder) as temporary:
        for name in (FORMATS[format].main, NETWORK, *names):
            (temporary / name).write_text(content)


def contents(folder) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize(("owner", "call"), [(Path, "unlink"), (os, "replace")])
@pytest.mark.parametrize("steps", range(4))
def test_an_interrupted_overwrite_leaves_nothing_mixed_that_builds(
    owner, call, steps, tmp_path, monkeypatch
):
    filled(tmp_path, "c", "weights0.c", "weights1.c", content="old")
    original, left = getattr(owner, call), iter(range(steps))

    def interrupted(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, call, interrupted)
        with pytest.raises(KeyboardInterrupt):
            filled(tmp_path, "c", "weights0.c", "weights1.c")
    found = contents(tmp_path)
    if "model.c" in found:
        assert found.keys() >= {"weights0.c", "weights1.c"}
        assert len(set(found.values())) == 1


def test_another_format_replaces_the_earlier_one(tmp_path):
    own = {"note.txt": "mine", "weights_mine.c": "mine"}
    for name, text in own.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "build").mkdir()
    filled(tmp_path, "openvino", "model.bin")
    filled(tmp_path, "onnx")
    (tmp_path / "build").rmdir()
    assert contents(tmp_path) == {"model.onnx": "new", NETWORK: "new", **own}
    filled(tmp_path, "c", "weights0.c", "weights1.c", "README.md")
    filled(tmp_path, "c", "weights0.c", "README.md", content="newer")
    assert set(contents(tmp_path)) == {"model.c", "weights0.c", "README.md", NETWORK, *own}
    filled(tmp_path, "nir")
    assert contents(tmp_path) == {"model.nir": "new", NETWORK: "new", **own}


def test_files_that_no_export_wrote_stay(tmp_path):
    (tmp_path / "weights9.c").write_text("mine")
    filled(tmp_path, "c", "weights0.c")
    assert contents(tmp_path)["weights9.c"] == "mine"


def test_full_folders_unknown_formats_and_missing_runs_are_refused(tiny, tmp_path):
    with pytest.raises(InputError, match=r"^format: got 'tflite', .*onnx, openvino"):
        export_run(tiny, "tflite", tmp_path / "out")
    with pytest.raises(InputError, match=r"^run: got"):
        export_run(tmp_path / "absent", "c", tmp_path / "out")
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(InputError, match=r"^out: got .*--overwrite"):
        export_run(tiny, "c", tmp_path)
    summary = export_run(tiny, "c", tmp_path, overwrite=True)
    assert (tmp_path / "note.txt").read_text() == "mine"
    assert "note.txt" not in summary.files


def test_an_ann_is_refused_with_advice_and_leaves_nothing(tmp_path):
    ann = trained(tmp_path / "run", neuron="relu")
    with pytest.raises(InputError, match=r"^neuron: got 'relu', allowed: 'binary', 'multilevel'"):
        export_run(ann, "c", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_formats_are_listed_without_torch():
    code = "import sys, multispike.export.formats; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
