"""VGG-16 in OpenVINO, one-timestep SNN and int8 ANN, against the float ANN in torch.

    python benchmarks/deploy_speed.py [--threads 2] [--seconds 10] [--out results/deploy_speed.json]

Random weights; batch norm takes the statistics of random images, so that activity is not trivial.
The int8 ANN is the same network with 255 levels: then a neuron is a ReLU rounded to 8 bits, and its
graph one without clips. Engines take turns call by call.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from multispike.deploy.bench import Call, race, torch_call
from multispike.deploy.quantise import quantise
from multispike.deploy.runtimes import export_onnx, onnxruntime_session, openvino_request
from multispike.environment import environment
from multispike.files import write_json
from multispike.models import create_model
from multispike.models.network import Network

MEAN, STD, SHAPE = [0.5] * 3, [0.25] * 3, (3, 32, 32)


def vgg16(**options) -> Network:
    """A VGG-16 with random weights and the statistics of random images."""
    torch.manual_seed(0)
    model = create_model("vgg16", **options)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(32, *SHAPE))
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--out", default="results/deploy_speed.json")
    arguments = parser.parse_args()
    pixels = np.random.default_rng(0).integers(0, 256, (128, *SHAPE), dtype=np.uint8)
    snn = quantise(vgg16(levels=4), MEAN, STD, SHAPE)
    ann = quantise(vgg16(levels=255), MEAN, STD, SHAPE)
    engines: dict[str, tuple[Call, int]] = {
        "torch float32 ANN": (torch_call(vgg16(neuron="relu"), MEAN, STD, arguments.threads), 0)
    }
    with tempfile.TemporaryDirectory() as temporary:
        for name, network in (("SNN T=1 N=4", snn), ("int8 ANN", ann)):
            path = Path(temporary) / f"{network.layers[0].name}{len(engines)}.onnx"
            export_onnx(network, path)
            size = path.stat().st_size
            engines[f"openvino {name}"] = (openvino_request(path, arguments.threads), size)
            engines[f"onnxruntime {name}"] = (onnxruntime_session(path, arguments.threads), size)
        rows = race(engines, snn, pixels, (1, 64), arguments.seconds)
    speed = {(row.engine, row.batch): row.images_per_second for row in rows}
    ratios = {}
    for batch in (1, 64):
        ours = speed["openvino SNN T=1 N=4", batch]
        ratios[f"batch {batch}"] = {
            "to torch float32 ANN": ours / speed["torch float32 ANN", batch],
            "to openvino int8 ANN": ours / speed["openvino int8 ANN", batch],
        }
    result = {
        "threads": arguments.threads,
        "environment": environment(),
        "rows": [asdict(row) for row in rows],
        "openvino SNN": ratios,
    }
    write_json(arguments.out, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
