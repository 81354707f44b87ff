"""ONNX and OpenVINO files of an integer network, and how they are run.

Both runtimes are optional (`pip install multispike[deploy]`).
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multispike.errors import InputError, invalid
from multispike.export.network import IntegerNetwork
from multispike.export.onnx import build
from multispike.files import replacing

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""uint8 images [B, C, H, W] (event frames: [T, B, ...]) -> logits float32 [B, classes]."""


def export_onnx(network: IntegerNetwork, path: str | os.PathLike[str]) -> None:
    """Write `network` as ONNX (QDQ, standard operators, free batch), checked by onnx's checker."""
    _need("onnx")
    _need_suffix(path, ".onnx")
    model = build(network)
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


def export_openvino(network: IntegerNetwork, path: str | os.PathLike[str]) -> None:
    """Write `network` as OpenVINO IR: `path` (.xml) and, beside it, its weights (.bin)."""
    _need("onnx")
    _need_suffix(path, ".xml")
    openvino = openvino_package()
    model = openvino.Core().read_model(build(network).SerializeToString())
    with TemporaryDirectory() as folder:
        # OpenVINO insists on the suffix; the weights come first, so that no .xml lacks its .bin.
        made = Path(folder) / "model.xml"
        openvino.serialize(model, str(made), str(made.with_suffix(".bin")))
        for suffix in (".bin", ".xml"):
            with replacing(Path(path).with_suffix(suffix)) as temporary:
                shutil.copyfile(made.with_suffix(suffix), temporary)


def onnxruntime_session(path: str | os.PathLike[str], threads: int) -> Predict:
    """An ONNX file in ONNX Runtime on `threads` threads."""
    _need("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session: Any = onnxruntime.InferenceSession(
        os.fspath(path), options, providers=["CPUExecutionProvider"]
    )
    return lambda images: session.run(["logits"], {"image": np.ascontiguousarray(images)})[0]


def openvino_request(
    path: str | os.PathLike[str], threads: int, precision: str | None = "f32"
) -> Predict:
    """An OpenVINO IR or ONNX file in OpenVINO on `threads` threads, one request at a time.

    Where the CPU has bfloat16, OpenVINO computes in it by default (`precision` None) what is not
    int8. Its 8 bits of mantissa can't hold potentials, so float32 is asked for.
    """
    openvino = openvino_package()
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": str(threads),
    }
    if precision is not None:
        options["INFERENCE_PRECISION_HINT"] = precision
    compiled = openvino.Core().compile_model(os.fspath(path), "CPU", options)
    request = compiled.create_infer_request()
    return lambda images: request.infer({0: np.ascontiguousarray(images)})[0].copy()


def openvino_package() -> Any:
    """The openvino package, its telemetry off.

    Importing it writes an identifier to the home folder and calls a statistics server, unless
    its telemetry package can't be imported; then it takes a stub.
    """
    _need("openvino")
    hidden = "openvino_telemetry"
    if hidden in sys.modules or "openvino" in sys.modules:
        return import_module("openvino")
    sys.modules[hidden] = None  # pyright: ignore[reportArgumentType]
    try:
        return import_module("openvino")
    finally:
        del sys.modules[hidden]


def _need(module: str) -> None:
    """Raise `InputError` where an optional package is missing."""
    if find_spec(module) is None:
        raise InputError(f"{module}: not installed, allowed: pip install 'multispike[deploy]'")


def _need_suffix(path: str | os.PathLike[str], suffix: str) -> None:
    if Path(path).suffix != suffix:
        raise invalid("path", str(path), f"a file name that ends in {suffix}")
