"""C program and runtimes against the integer reference on CIFAR-10 test images.

    python benchmarks/deploy_exact.py --data-dir DIR [--images 1000] [--runs RUN ...]
        [--out results/deploy_exact.json]

Four residual families and fastnet at T=1 N=4 and T=4 N=1, untrained but with the statistics of
training images, and any trained runs, these on the whole test set: equality of all logits of the C
program (on `--images` of them), and the share of equal predictions of ONNX Runtime, OpenVINO and
the float network.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multispike.data import load_dataset
from multispike.deploy.bench import torch_call
from multispike.deploy.c_export import export_c, flash_bytes
from multispike.deploy.integer import IntegerNetwork
from multispike.deploy.quantise import quantise
from multispike.deploy.runtimes import (
    export_onnx,
    export_openvino,
    onnxruntime_session,
    openvino_request,
)
from multispike.environment import environment
from multispike.files import write_json
from multispike.models import create_model
from multispike.models.network import Network
from multispike.training.run import load_run

ARCHITECTURES = (
    "fastnet", "sparse_resnet20", "sew_resnet20", "ms_resnet20", "spiking_resnet20",
)  # fmt: skip
SETTINGS = ((1, 4), (4, 1))


def untrained(arch: str, timesteps: int, levels: int, images: Tensor) -> Network:
    """A network whose batch norm has the statistics of `images` (normalised)."""
    torch.manual_seed(0)
    kind = "binary" if levels == 1 else "multilevel"
    model = create_model(arch, neuron=kind, levels=levels, timesteps=timesteps)
    with torch.no_grad():
        for part in images.split(64):
            model.train()(part)
    return model.eval()


def row(
    name: str, model: Network, network: IntegerNetwork, pixels: Tensor, labels: Tensor, exact: int,
    mean: list[float], std: list[float],
) -> dict[str, Any]:  # fmt: skip
    """All engines on `pixels`, the C program on the first `exact` of them."""
    expected = network.forward(pixels)
    predicted = expected.argmax(1)
    result: dict[str, Any] = {
        "name": name,
        "arch": network.arch,
        "timesteps": network.timesteps,
        "levels": model.config["levels"],
        "images": len(pixels),
        "accuracy_integer": float((predicted == labels.numpy()).mean()),
        "largest_bound": max(network.bounds.values()),
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        program = export_c(network, folder / "c")
        np.save(folder / "images.npy", pixels[:exact].numpy())
        subprocess.run(["make", "-s", "-C", folder / "c", "model"], check=True)
        command = [folder / "c" / "model", folder / "images.npy"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        logits = np.array([line.split() for line in done.stdout.splitlines()], dtype=np.int64)
        result["c"] = {
            "images": exact,
            "equal_logits": bool(np.array_equal(logits, expected[:exact])),
            "ram": program.ram,
            "flash": flash_bytes(network),
        }
        export_onnx(network, folder / "model.onnx")
        export_openvino(network, folder / "model.xml")
        calls = {
            "onnxruntime": onnxruntime_session(folder / "model.onnx", 1),
            "openvino": openvino_request(folder / "model.xml", 1),
            "float": torch_call(model, mean, std, 1),
        }
        for engine, call in calls.items():
            parts = [call(part.numpy()) for part in pixels.split(100)]
            got = np.concatenate(parts)
            result[engine] = {"equal_predictions": float((got.argmax(1) == predicted).mean())}
            if engine == "float":
                result["accuracy_float"] = float((got.argmax(1) == labels.numpy()).mean())
                continue
            units = np.round(got / network.logit_scale).astype(np.int64)
            result[engine]["equal_logits"] = float((units == expected).all(1).mean())
            result[engine]["largest_difference"] = int(np.abs(units - expected).max())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--runs", nargs="*", default=[])
    parser.add_argument("--out", default="results/deploy_exact.json")
    arguments = parser.parse_args()
    data = load_dataset("cifar10", arguments.data_dir, progress=False)
    pixels, labels = data.test.inputs, data.test.labels
    mean, std = [float(v) for v in data.mean], [float(v) for v in data.std]
    centre, scale = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)
    some = (data.train.inputs[:512].float() / 255 - centre) / scale
    rows = []
    for arch in ARCHITECTURES:
        for timesteps, levels in SETTINGS:
            model = untrained(arch, timesteps, levels, some)
            network = quantise(model, mean, std, (3, 32, 32))
            part = pixels[: arguments.images]
            rows.append(
                row("untrained", model, network, part, labels[: len(part)], len(part), mean, std)
            )
            print(json.dumps(rows[-1]), flush=True)
    for folder in arguments.runs:
        run = load_run(folder)
        network = quantise(run.network, run.data["mean"], run.data["std"], (3, 32, 32))
        rows.append(
            row(
                Path(folder).name, run.network, network, pixels, labels, arguments.images,
                run.data["mean"], run.data["std"],
            )
        )  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    write_json(arguments.out, {"environment": environment(), "rows": rows})


if __name__ == "__main__":
    main()
