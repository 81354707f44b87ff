"""Networks of others, from ReLU to integers: the same logits from every engine.

    sh benchmarks/own_networks.sh FOLDER DATA-DIR     (makes an environment in FOLDER)
    python benchmarks/own_networks.py DATA-DIR [NAME ...] [--out results/own_networks.json]

timm's classifiers and one of odd shapes: trained for an epoch on some CIFAR-10 images, converted,
trained for another one, and exported. The C program, ONNX Runtime and OpenVINO against the integer
network on 1,000 test images; the C program also under the address and undefined-behaviour
sanitizers, with counters. A network that is in the file already is left out unless it is named.
"""

from __future__ import annotations

import argparse
import json
import warnings
from importlib.metadata import version
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from deploy_exact import c_program, outputs
from tools import version_of
from torch import Tensor, nn
from torch.nn import functional as F

from multispike import convert, fit
from multispike.datasets import load_dataset
from multispike.datasets.dataset import Dataset
from multispike.environment import environment
from multispike.export.bench import onnxruntime_session, openvino_request
from multispike.export.network import IntegerNetwork
from multispike.export.onnx import export_onnx, export_openvino
from multispike.export.quantise import quantise
from multispike.files import write_json

LEVELS, TRAINING, CALIBRATION, IMAGES, CHECKED = 8, 1000, 256, 1000, 20


class Odd(nn.Module):
    """Uneven paddings, oblong kernels, groups, dilation, and branches that are concatenated."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()

        def conv(*sizes: Any, **options: Any) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(*sizes, **options), nn.BatchNorm2d(sizes[1]), nn.ReLU())

        self.stem = conv(3, 24, (3, 4))
        self.wide = conv(24, 16, (2, 5), stride=(1, 2), groups=4)
        self.tall = conv(24, 32, (5, 3), stride=(1, 2), dilation=(1, 2), groups=8)
        self.mixed = conv(48, 64, 3, padding="same", dilation=(2, 1), groups=2)
        self.last = conv(64, 64, (4, 3), stride=2)
        self.classifier = nn.Linear(64 * 8 * 3, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(F.pad(x, (1, 2, 0, 2)))
        x = torch.cat([self.wide(F.pad(x, (3, 0, 1, 0))), self.tall(F.pad(x, (0, 3, 3, 1)))], 1)
        x = F.max_pool2d(self.mixed(x), (2, 3), (2, 2), (1, 1))
        return self.classifier(self.last(F.pad(x, (0, 0, 0, 1))).flatten(1))


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "odd":
        return Odd(10)
    import timm

    return timm.create_model(name, num_classes=10, in_chans=3)


NAMES = ("odd", "resnet18", "mobilenetv2_100", "densenet121", "vgg11_bn")


def row(name: str, data: Dataset, folder: Path) -> dict[str, Any]:
    """One network, in every format."""
    recipe = {"epochs": 1, "lr": 0.01, "batch_size": 50}
    ann = build(name)
    fit(ann, data, recipe, out=f"{folder}/ann")
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (data.mean, data.std))
    snn = convert(ann, (data.train.inputs[:CALIBRATION] / 255 - mean) / std, levels=LEVELS)
    run = fit(snn, data, recipe, out=f"{folder}/snn")
    assert run is not None
    network = quantise(snn.eval(), data.mean, data.std, data.input_shape)
    samples, labels = data.test.inputs[:IMAGES], data.test.labels[:IMAGES].numpy()
    expected = network.forward(samples)
    with torch.inference_mode():
        parts = ((part / 255 - mean) / std for part in samples.split(100))
        floats = torch.cat([snn(part) for part in parts]).argmax(1).numpy()
    export_onnx(network, folder / "model.onnx")
    export_openvino(network, folder / "model.xml")
    c = c_program(network, samples, expected, folder, CHECKED)
    equal = {"c": c["equal_logits"] and c["equal_counts"]}
    calls = {
        "onnxruntime": onnxruntime_session(folder / "model.onnx", 1),
        "openvino": openvino_request(folder / "model.xml", 1),
    }
    for engine, call in calls.items():
        units = np.round(outputs(call, network, samples) / network.logit_scale)
        equal[engine] = bool(np.array_equal(units, expected))
    return {
        "network": name,
        "images": len(samples),
        "training_images": len(data.train),
        "layers": len(network.layers),
        "macs": macs(network),
        "weights": sum(one.weight.size for one in network.synapses if one.weight is not None),
        "different_logits": len(np.unique(expected, axis=0)),
        "largest_bound": max(network.bounds.values()),
        "accuracy_float": float((floats == labels).mean()),
        "accuracy_integer": float((expected.argmax(1) == labels).mean()),
        "ram": c["ram"],
        "flash": c["flash"],
        "sanitized_images": CHECKED,
        "sanitizers": c["sanitizers"],
        "equal": equal,
    }


def macs(network: IntegerNetwork) -> int:
    """Multiply-accumulates of one dense inference."""
    total = 0
    for one in network.synapses:
        if one.weight is not None:
            places = prod(one.sum_shape(network.outputs[one.source].shape)[1:])
            total += one.weight.size * places
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data_dir", help="folder with CIFAR-10")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--out", type=Path, default=Path("results/own_networks.json"))
    arguments = parser.parse_args()
    found = json.loads(arguments.out.read_text())["rows"] if arguments.out.exists() else []
    rows = {one["network"]: one for one in found if one["network"] not in arguments.names}
    data = load_dataset("cifar10", arguments.data_dir, limit_train=TRAINING, limit_test=IMAGES)
    versions = {name: version(name) for name in ("onnx", "onnxruntime", "openvino", "timm")}
    for name in arguments.names or NAMES:
        if name in rows:
            continue
        with TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries
            rows[name] = row(name, data, Path(folder))
        rows[name]["environment"] = {**environment(), **versions, "compiler": version_of("cc")}
        print(json.dumps(rows[name]), flush=True)
        write_json(arguments.out, {
            "command": "sh benchmarks/own_networks.sh FOLDER DATA-DIR",
            "rows": [rows[name] for name in NAMES if name in rows],
        })  # fmt: skip


if __name__ == "__main__":
    main()
