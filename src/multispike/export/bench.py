"""Speed, latency and size of one trained network in torch, ONNX Runtime, OpenVINO and C.

All engines take turns, so that whatever else the machine does slows them alike: their ratios hold
where single figures may not. A turn is many calls, as when an engine is in use; were it one, each
would find the others' weights in the caches, and their threads still spinning.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from multispike.device import device_of, moved
from multispike.errors import Missing, RunError, invalid
from multispike.export.c import export_c
from multispike.export.network import IntegerNetwork
from multispike.export.onnx import check_installed, export_onnx, export_openvino, openvino_package
from multispike.models.network import Network
from multispike.progress import progress_bar

Call = Callable[[NDArray[np.uint8]], NDArray[Any]]
"""uint8 images [B, C, H, W], or event frames [T, B, C, H, W] -> logits [B, classes]."""

TURN = 0.25
"""Seconds that an engine has before it is another's turn."""

COMPILE = ["cc", "-std=c99", "-O3", "-march=native", "-fPIC", "-shared", "-o", "model.so"]


@dataclass(frozen=True)
class Speed:
    """One engine at one batch size.

    Attributes:
        images_per_second: images over the time spent in calls.
        p50_ms, p99_ms: percentiles of the time of one call.
        bytes: of the engine's files (torch: parameters and buffers; C: weights and tables).
        images: test samples that it was given, each of them once or more.
        agreement: share of these whose predicted class is the integer reference's.
    """

    engine: str
    batch: int
    images_per_second: float
    p50_ms: float
    p99_ms: float
    bytes: int
    images: int
    agreement: float


def engines_of(
    model: Network, network: IntegerNetwork, mean: list[float], std: list[float], folder: Path,
    threads: int,
) -> tuple[dict[str, tuple[Call, int]], dict[str, str]]:  # fmt: skip
    """Call and size in bytes of every engine that is installed, and why the others are left out;
    files go to `folder`.

    Raises:
        InputError: for a network that a format can't carry.
        RunError: where the C compiler fails.
    """

    def in_torch() -> tuple[Call, int]:
        tensors = (*model.parameters(), *model.buffers())
        return torch_call(model, mean, std, threads), sum(tensor.nbytes for tensor in tensors)

    def in_onnxruntime() -> tuple[Call, int]:
        check_installed("onnxruntime")
        export_onnx(network, path := folder / "model.onnx")
        return onnxruntime_session(path, threads), path.stat().st_size

    def in_openvino() -> tuple[Call, int]:
        check_installed("openvino")
        export_openvino(network, xml := folder / "model.xml")
        size = xml.stat().st_size + xml.with_suffix(".bin").stat().st_size
        return openvino_request(xml, threads), size

    makers: dict[str, Callable[[], tuple[Call, int]]] = {
        "torch float32": in_torch,
        "onnxruntime int8": in_onnxruntime,
        "openvino int8": in_openvino,
        "c event-driven": lambda: c_call(network, folder / "c"),
    }
    engines, absent = {}, {}
    for name, make in makers.items():
        try:
            engines[name] = make()
        except Missing as error:
            absent[name] = str(error)
    return engines, absent


def onnxruntime_session(path: str | os.PathLike[str], threads: int) -> Call:
    """An ONNX file in ONNX Runtime on `threads` threads."""
    check_installed("onnxruntime")
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
) -> Call:
    """An OpenVINO IR or ONNX file in OpenVINO on `threads` threads, one request at a time.

    Where the CPU has bfloat16, OpenVINO computes in it by default (`precision` None) what is not
    int8. Its 8 bits of mantissa can't hold potentials, so float32 is asked for.
    """
    openvino = openvino_package()
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(threads)}
    if precision is not None:
        options["INFERENCE_PRECISION_HINT"] = precision
    compiled = openvino.Core().compile_model(os.fspath(path), "CPU", options)
    request = compiled.create_infer_request()
    return lambda images: request.infer({0: np.ascontiguousarray(images)})[0].copy()


def torch_call(model: Network, mean: list[float], std: list[float], threads: int) -> Call:
    """The float network where it is, normalisation included, channels last as oneDNN likes it."""
    device = device_of(model)
    centre, scale = (torch.tensor(x).view(-1, 1, 1).to(device) for x in (mean, std))
    layout = torch.channels_last
    model = model.eval().to(memory_format=layout)  # pyright: ignore[reportCallIssue]

    def call(images: NDArray[np.uint8]) -> NDArray[Any]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with torch.inference_mode():
                inputs = (moved(torch.from_numpy(images), device).float() / 255 - centre) / scale
                if inputs.dim() == 4:
                    inputs = inputs.contiguous(memory_format=layout)
                return model(inputs).cpu().numpy()
        finally:
            torch.set_num_threads(before)

    return call


def c_call(network: IntegerNetwork, folder: Path) -> tuple[Call, int]:
    """The exported C program as a shared library, images one after the other; bytes of weights and
    tables."""
    if shutil.which("cc") is None:
        raise Missing("c: got no C compiler (cc) in PATH, allowed: gcc or clang")
    program = export_c(network, folder)
    sources = sorted(path.name for path in folder.glob("weights*.c"))
    command = [*COMPILE, "kernels.c", "model.c", *sources]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"c: the compiler failed: {done.stderr.strip().splitlines()[-1]}")
    run = ctypes.CDLL(str(folder / "model.so")).model_run
    run.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t]
    classes = network.readout.shape[0]

    def call(images: NDArray[np.uint8]) -> NDArray[Any]:
        samples = np.ascontiguousarray(images.swapaxes(0, 1) if network.events else images)
        logits = np.empty((len(samples), classes), np.int32)
        for image, row in zip(samples, logits, strict=True):
            if run(image.ctypes.data, image.nbytes, row.ctypes.data, classes):
                raise RunError("c: model_run refused its input")
        return logits

    return call, program.flash


def race(
    engines: dict[str, tuple[Call, int]], network: IntegerNetwork, pixels: NDArray[np.uint8],
    batches: Iterable[int], seconds: float,
) -> list[Speed]:  # fmt: skip
    """Time all engines in turns, until each has had `seconds` of calls at each batch size."""
    expected = network.forward(pixels).argmax(1)
    total = len(expected)
    rows = []
    for batch in batches:
        if not 1 <= batch <= total:
            raise invalid("batches", batch, f"1 to {total}, the samples at hand")
        spent: dict[str, list[float]] = {name: [] for name in engines}
        matches: dict[str, list[float]] = {name: [] for name in engines}
        slices = [slice(at, at + batch) for at in range(0, total - batch + 1, batch)]
        parts = {name: cycle(slices) for name in engines}
        with progress_bar(True) as bar:
            task = bar.add_task(f"timing batch {batch}", total=seconds * len(engines))
            while min(map(sum, spent.values())) < seconds:
                for name, (call, _) in engines.items():
                    if sum(spent[name]) >= seconds:
                        continue
                    call(pixels[..., :batch, :, :, :])  # others' weights leave the caches
                    until = time.perf_counter() + min(TURN, seconds)
                    while (began := time.perf_counter()) < until or not spent[name]:
                        part = next(parts[name])
                        logits = call(pixels[..., part, :, :, :])
                        spent[name].append(time.perf_counter() - began)
                        matches[name].append(float((logits.argmax(1) == expected[part]).mean()))
                    done = sum(min(sum(times), seconds) for times in spent.values())
                    bar.update(task, completed=done)
        for name, (_, size) in engines.items():
            times = np.array(spent[name])
            per_second = float(batch * len(times) / times.sum())
            p50, p99 = (float(ms) for ms in 1000 * np.percentile(times, [50, 99]))
            images = batch * min(len(times), len(slices))
            agreement = float(np.mean(matches[name]))
            rows.append(Speed(name, batch, per_second, p50, p99, size, images, agreement))
    return rows
