"""VGG-16 in OpenVINO, one-timestep SNN and int8 ANN, against the float ANN in torch.

    python benchmarks/deploy_speed.py --nncf FOLDER [--threads 2] [--seconds 10]
        [--out results/deploy_speed.json]

Random weights, which do for timing; batch norm takes the statistics of random images, so that
activity is not trivial. The int8 ANN is OpenVINO's own: the float ANN, without the SNN's axis of
time, quantised by NNCF in the environment that nncf.sh made in FOLDER; what is not int8 in it may
be bfloat16, OpenVINO's default, where the SNN asks for float32. All engines take uint8 pixels and
turns of a quarter of a second; ratios are those of the median times of a call.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from multispike.environment import environment
from multispike.export.bench import Call, onnxruntime_session, openvino_request, race, torch_call
from multispike.export.c import export_c
from multispike.export.onnx import export_onnx, openvino_package
from multispike.export.quantise import quantise
from multispike.files import write_json
from multispike.models import create_model
from multispike.models.network import Network

MEAN, STD, SHAPE = [0.5] * 3, [0.25] * 3, (3, 32, 32)

QUANTISE = """\
import sys, nncf, numpy, openvino
source, target = sys.argv[1:]
generator = numpy.random.default_rng(0)
images = [generator.integers(0, 256, (32, 3, 32, 32), dtype=numpy.uint8) for _ in range(8)]
model = openvino.Core().read_model(source)
quantised = nncf.quantize(model, nncf.Dataset(images), subset_size=len(images))
openvino.save_model(quantised, target, compress_to_fp16=False)
print(nncf.__version__)
"""


class PlainAnn(nn.Module):
    """A ReLU network for raw pixels, as its owner would write it: no axis of time."""

    def __init__(self, model: Network) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            model.stem, model.encoder, model.body, model.pool, nn.Flatten(), model.classifier
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers((pixels.float() / 255 - MEAN[0]) / STD[0])


def vgg16(**options) -> Network:
    """A VGG-16 with random weights and the statistics of random images."""
    torch.manual_seed(0)
    model = create_model("vgg16", **options)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(32, *SHAPE))
    return model.eval()


def int8_ann(folder: Path, nncf: Path) -> tuple[Path, str]:
    """OpenVINO's own int8 model of the ANN, and NNCF's version."""
    openvino = openvino_package()
    pixels = torch.zeros(2, *SHAPE, dtype=torch.uint8)
    model = openvino.convert_model(PlainAnn(vgg16(neuron="relu")).eval(), example_input=pixels)
    model.reshape([-1, *SHAPE])
    source, target = folder / "float.xml", folder / "int8.xml"
    openvino.save_model(model, source, compress_to_fp16=False)
    command = [nncf / "bin" / "python", "-c", QUANTISE, source, target]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"NNCF failed: {done.stderr[-500:]}")
    return target, done.stdout.split()[-1]


def export_cost(folder: Path) -> dict[str, float]:
    """Seconds of quantising and writing VGG-16 as C and ONNX; peak memory of this process."""
    model = vgg16(levels=4)
    began = time.perf_counter()
    network = quantise(model, MEAN, STD, SHAPE)
    export_c(network, folder / "c")
    export_onnx(network, folder / "cost.onnx")
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds_c_and_onnx": seconds, "peak_gib": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nncf", required=True, type=Path, help="environment made by nncf.sh")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--out", default="results/deploy_speed.json")
    arguments = parser.parse_args()
    threads = arguments.threads
    pixels = np.random.default_rng(0).integers(0, 256, (128, *SHAPE), dtype=np.uint8)
    network = quantise(vgg16(levels=4), MEAN, STD, SHAPE)
    ann = vgg16(neuron="relu")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cost = export_cost(folder)
        snn = folder / "snn.onnx"
        export_onnx(network, snn)
        int8, nncf = int8_ann(folder, arguments.nncf)
        weights = int8.with_suffix(".bin").stat().st_size
        floats = sum(tensor.nbytes for tensor in [*ann.parameters(), *ann.buffers()])
        engines: dict[str, tuple[Call, int]] = {
            "torch float32 ANN": (torch_call(ann, MEAN, STD, threads), floats),
            "openvino SNN T=1 N=4": (openvino_request(snn, threads), snn.stat().st_size),
            "openvino int8 ANN": (openvino_request(int8, threads, None), weights),
            "onnxruntime SNN T=1 N=4": (onnxruntime_session(snn, threads), snn.stat().st_size),
        }
        rows = race(engines, network, pixels, (1, 64), arguments.seconds)
    result: dict[str, Any] = {
        "command": "python benchmarks/deploy_speed.py --nncf FOLDER",
        "threads": threads,
        "environment": {
            **environment(),
            "threads": threads,
            "nncf": nncf,
            **{name: version(name) for name in ("onnxruntime", "openvino")},
        },
        "export": cost,
        "rows": [
            {k: v for k, v in asdict(row).items() if k != "agreement" or "SNN" in row.engine}
            for row in rows
        ],
        "openvino SNN": ratios({(row.engine, row.batch): row.p50_ms for row in rows}),
    }
    write_json(arguments.out, result)
    print(json.dumps(result, indent=2))


def ratios(p50: dict[tuple[str, int], float]) -> dict[str, dict[str, float]]:
    """How many times as fast OpenVINO's SNN is, by median times of a call."""
    return {
        f"batch {batch}": {
            f"to {other}": p50[other, batch] / p50["openvino SNN T=1 N=4", batch]
            for other in ("torch float32 ANN", "openvino int8 ANN")
        }
        for batch in (1, 64)
    }


if __name__ == "__main__":
    main()
