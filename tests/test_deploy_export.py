"""From a trained run to each format."""

import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from multispike.config import TrainConfig
from multispike.data import load_dataset
from multispike.deploy.export import FORMATS, export_run
from multispike.deploy.store import load
from multispike.errors import InputError
from multispike.training.fit import fit
from multispike.training.run import load_run

PACKAGES = {"c": (), "onnx": ("onnx",), "openvino": ("onnx", "openvino"), "nir": ("nir",)}


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


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    return trained(tmp_path_factory.mktemp("run") / "run")


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_every_format_is_written_beside_the_integer_network(run, format, tmp_path):
    if any(find_spec(package) is None for package in PACKAGES[format]):
        pytest.skip(f"needs {', '.join(PACKAGES[format])}")
    summary = export_run(run, format, tmp_path / "out")
    assert summary["files"].keys() == {path.name for path in (tmp_path / "out").iterdir()}
    assert 0 < summary["largest_bound"] < 2**31
    assert 270_000 < summary["weights"] < 280_000

    network = load(tmp_path / "out" / "network.npz")
    trained_run, digits = load_run(run), load_dataset("digits", progress=False)
    pixels = digits.test.inputs[:64]
    mean, std = trained_run.data["mean"][0], trained_run.data["std"][0]
    floats = trained_run.network((pixels.float() / 255 - mean) / std).detach().numpy()
    # int8 weights move levels here and there: the logits stay the same but for that.
    error = network.forward(pixels) * network.logit_scale - floats
    assert np.corrcoef(error.ravel() + floats.ravel(), floats.ravel())[0, 1] > 0.9


def test_full_folders_unknown_formats_and_missing_runs_are_refused(run, tmp_path):
    with pytest.raises(InputError, match=r"^format: got 'tflite', .*onnx, openvino"):
        export_run(run, "tflite", tmp_path / "out")
    with pytest.raises(InputError, match=r"^run: got"):
        export_run(tmp_path / "absent", "c", tmp_path / "out")
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(InputError, match=r"^out: got .*--overwrite"):
        export_run(run, "c", tmp_path)
    export_run(run, "c", tmp_path, overwrite=True)
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_an_ann_is_refused_with_advice_and_leaves_nothing(tmp_path):
    ann = trained(tmp_path / "run", neuron="relu")
    with pytest.raises(InputError, match=r"^neuron: got 'relu', allowed: 'binary', 'multilevel'"):
        export_run(ann, "c", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_formats_are_listed_without_torch():
    code = "import sys, multispike.deploy.export; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
