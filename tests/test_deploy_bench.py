"""The comparison of engines: every engine runs, agrees, and is measured; no absolute times."""

import shutil
import sys
from importlib.util import find_spec

import pytest
from test_deploy_integer import MEAN, SHAPE, STD, images, realistic

from multispike.cli import main
from multispike.errors import InputError
from multispike.export.bench import engines_of, race
from multispike.export.quantise import quantise

NEEDED = [name for name in ("onnx", "onnxruntime", "openvino") if find_spec(name) is None]
if shutil.which("cc") is None:
    NEEDED.append("cc")
pytestmark = pytest.mark.skipif(bool(NEEDED), reason=f"needs {', '.join(NEEDED)}")


def test_all_engines_run_and_agree(tmp_path):
    model = realistic("sparse_resnet")
    network = quantise(model, MEAN, STD, SHAPE)
    engines, absent = engines_of(model, network, MEAN, STD, tmp_path, threads=1)
    assert not absent
    rows = race(engines, network, images(16).numpy(), (1, 8), seconds=0.02)
    assert [(row.engine, row.batch) for row in rows] == [
        (name, batch) for batch in (1, 8) for name in engines
    ]
    for row in rows:
        assert row.bytes > 0
        assert row.images_per_second > 0
        assert 0 < row.p50_ms <= row.p99_ms
        # Untrained logits lie close together, hence the float network's may rank otherwise.
        assert row.agreement == 1 or row.engine.startswith("torch")


def test_what_is_not_installed_is_left_out_and_named(tmp_path, monkeypatch):
    model = realistic("fastnet")
    network = quantise(model, MEAN, STD, SHAPE)
    for name in ("onnx", "onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    engines, absent = engines_of(model, network, MEAN, STD, tmp_path, threads=1)
    assert list(engines) == ["torch float32"]
    assert absent == {
        "onnxruntime int8": "onnxruntime: not installed, allowed: pip install 'multispike[deploy]'",
        "openvino int8": "openvino: not installed, allowed: pip install 'multispike[deploy]'",
        "c event-driven": "c: got no C compiler (cc) in PATH, allowed: gcc or clang",
    }


def test_batches_beyond_the_images_are_refused(tmp_path):
    model = realistic("fastnet")
    network = quantise(model, MEAN, STD, SHAPE)
    engines, _ = engines_of(model, network, MEAN, STD, tmp_path, threads=1)
    with pytest.raises(InputError, match=r"^batches: got 9, allowed: 1 to 8"):
        race(engines, network, images(8).numpy(), (9,), seconds=0.01)


def test_no_run_and_no_time_are_refused(tmp_path, capsys):
    assert main(["bench", str(tmp_path / "absent")]) == 2
    assert "run: got" in capsys.readouterr().err
    assert main(["bench", str(tmp_path), "--seconds", "0"]) == 2
    assert "seconds: got 0" in capsys.readouterr().err
