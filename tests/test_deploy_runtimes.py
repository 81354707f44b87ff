"""ONNX Runtime and OpenVINO against the integer reference."""

import os
from importlib.util import find_spec

import numpy as np
import pytest
from processes import started
from test_deploy_integer import CASES, MEAN, NAMES, SHAPE, STD, images, integer, realistic

from multispike.errors import InputError
from multispike.export import onnx as onnx_export
from multispike.export.bench import onnxruntime_session, openvino_request
from multispike.export.onnx import build, export_onnx, export_openvino, openvino_package
from multispike.export.quantise import quantise

onnx = pytest.importorskip("onnx")


def needs_openvino() -> None:
    """Skip where it is absent; not `importorskip`, which would import it with its telemetry."""
    if find_spec("openvino") is None:
        pytest.skip("needs openvino")


def units(logits: np.ndarray, network) -> np.ndarray:
    """Float logits as the integers that they stand for."""
    return np.round(logits / network.logit_scale).astype(np.int64)


@pytest.mark.parametrize(("timesteps", "levels"), [(1, 4), (3, 1)])
@pytest.mark.parametrize(("arch", "options"), CASES, ids=NAMES)
def test_onnx_runtime_gives_the_reference_logits(arch, options, timesteps, levels, tmp_path):
    pytest.importorskip("onnxruntime")
    network = integer(arch, timesteps, levels, **options)
    export_onnx(network, tmp_path / "model.onnx")
    run = onnxruntime_session(tmp_path / "model.onnx", threads=1)
    for batch in (1, 32):
        pixels = images(batch, seed=7).numpy()
        assert np.array_equal(units(run(pixels), network), network.forward(pixels))


@pytest.mark.parametrize(("timesteps", "levels"), [(1, 4), (3, 1)])
@pytest.mark.parametrize(("arch", "options"), CASES, ids=NAMES)
def test_openvino_gives_the_reference_logits(arch, options, timesteps, levels, tmp_path):
    needs_openvino()
    network = integer(arch, timesteps, levels, **options)
    export_openvino(network, tmp_path / "model.xml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    run = openvino_request(tmp_path / "model.xml", threads=1)
    for batch in (1, 32):
        pixels = images(batch, seed=7).numpy()
        assert np.array_equal(units(run(pixels), network), network.forward(pixels))


@pytest.mark.parametrize("levels", [1, 4])
@pytest.mark.parametrize(("arch", "options"), CASES, ids=NAMES)
def test_openvino_is_exact_on_several_streams(arch, options, levels, tmp_path):
    """It mixes up int8 weights that meet float inputs there. Without a hint on one, too, unless it
    computes in bfloat16 then; with a free and a fixed batch, and two requests at once.
    """
    needs_openvino()
    network = integer(arch, 1, levels, **options)
    export_openvino(network, tmp_path / "model.xml")
    pixels = images(8, seed=7).numpy()
    core = openvino_package().Core()
    rounds = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    exact = {"INFERENCE_PRECISION_HINT": "f32"} if rounds else {}
    hints = [{"PERFORMANCE_HINT": hint} for hint in ("THROUGHPUT", "LATENCY")]
    for option in ({}, *hints, {"NUM_STREAMS": "2"}):
        model = core.read_model(tmp_path / "model.xml")
        if option in hints:
            model.reshape(pixels.shape)
        settings = {"INFERENCE_NUM_THREADS": "2", **exact, **option}
        compiled = core.compile_model(model, "CPU", settings)
        requests = [compiled.create_infer_request() for _ in range(2)]
        for request in requests:
            request.start_async({0: pixels})
        for request in requests:
            request.wait()
            logits = request.get_output_tensor(0).data
            assert np.array_equal(units(logits, network), network.forward(pixels))


def test_event_frames(tmp_path):
    pytest.importorskip("onnxruntime")
    model = realistic("sparse_resnet", timesteps=3, levels=2)
    network = quantise(model, MEAN, STD, SHAPE, events=True)
    export_onnx(network, tmp_path / "model.onnx")
    frames = images(5, frames=3).numpy()
    logits = onnxruntime_session(tmp_path / "model.onnx", threads=1)(frames)
    assert np.array_equal(units(logits, network), network.forward(frames))


def test_weights_stay_8_bit_and_the_batch_is_free():
    network = integer("sew_resnet")
    model = build(network)
    kinds = {node.op_type for node in model.graph.node}
    assert {"Conv", "QuantizeLinear", "DequantizeLinear", "Clip"} <= kinds
    assert all(node.domain == "" for node in model.graph.node)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    every = [one for layer in network.layers for one in getattr(layer, "synapses", ())]
    weights = sum(one.weight.size for one in every if one.weight is not None)
    assert weights < model.ByteSize() < weights + 60_000


@pytest.mark.parametrize(("levels", "wide"), [(4, {"stem"}), (129, {"stem"}), (130, None)])
def test_weights_that_16_bits_could_not_pair_are_float32(levels, wide):
    """Pixels, and levels from 130 on: 2 * 127 * 130 > 2^15 - 1 (x86 before VNNI)."""
    network = integer("vgg", levels=levels)
    kinds = {
        initializer.name: initializer.data_type
        for initializer in build(network).graph.initializer
        if initializer.name.endswith(("/weight", "/int8"))
    }
    floats = {name.split(".")[0] for name, kind in kinds.items() if kind == onnx.TensorProto.FLOAT}
    assert len(kinds) == 5
    if wide is None:
        assert set(kinds.values()) == {onnx.TensorProto.FLOAT}
    else:
        assert floats == {*wide, "classifier"}


def test_openvino_leaves_no_identifier_in_the_home_folder(tmp_path):
    needs_openvino()
    process = started(import_openvino, tmp_path)
    process.join()
    assert process.exitcode == 0
    assert not list(tmp_path.iterdir())


def import_openvino(home):
    os.environ["HOME"] = str(home)
    openvino_package()


def test_wrong_names_and_missing_packages_are_named(tmp_path, monkeypatch):
    network = integer("fastnet")
    with pytest.raises(InputError, match=r"^path: got .*model.bin.*\.onnx"):
        export_onnx(network, tmp_path / "model.bin")
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^onnx: not installed.*multispike\[deploy\]"):
        export_onnx(network, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
