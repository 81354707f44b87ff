"""C program, ONNX Runtime and OpenVINO against the integer network, and that against the float one.

    python benchmarks/deploy_exact.py RUN ... [--images 1000] [--data-dir DIR]
        [--out results/deploy_exact.json]

Each RUN, a folder or a checkpoint, is evaluated on its whole test set. The C program runs on the
first `--images` samples of it twice: as its Makefile builds it, and under the address and
undefined-behaviour sanitizers with counters, which must equal the integer network's. Both builds
use -Wall -Wextra -Werror -pedantic.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tools import version_of
from torch import Tensor

from multispike.datasets.loader import BatchLoader
from multispike.environment import environment
from multispike.export.bench import onnxruntime_session, openvino_request, torch_call
from multispike.export.c import export_c
from multispike.export.network import IntegerNetwork, count
from multispike.export.onnx import export_onnx, export_openvino
from multispike.export.quantise import as_input, quantise_run
from multispike.files import write_json
from multispike.training.data import data_of, evaluation_loader
from multispike.training.run import Run, load_run

BATCH = 100


def row(run: Run, loader: BatchLoader, images: int, folder: Path) -> dict[str, Any]:
    """All engines on the samples of `loader`, the C program on the first `images` of them."""
    network = quantise_run(run)
    samples, labels = loader.split.inputs, loader.split.labels.numpy()
    expected = np.concatenate(
        [network.forward(as_input(network, part)) for part in samples.split(BATCH)]
    )
    predicted = expected.argmax(1)
    result: dict[str, Any] = {
        "arch": network.arch,
        "data": run.data["name"],
        "timesteps": network.timesteps,
        "levels": run.network.config["levels"],
        "images": len(samples),
        "accuracy_integer": float((predicted == labels).mean()),
        "largest_bound": max(network.bounds.values()),
        "c": c_program(network, samples[:images], expected[:images], folder),
    }
    export_onnx(network, folder / "model.onnx")
    export_openvino(network, folder / "model.xml")
    calls = {
        "onnxruntime": onnxruntime_session(folder / "model.onnx", 1),
        "openvino": openvino_request(folder / "model.xml", 1),
        "float": torch_call(run.network, run.data["mean"], run.data["std"], 1),
    }
    for engine, call in calls.items():
        got = outputs(call, network, samples)
        result[engine] = {"equal_predictions": float((got.argmax(1) == predicted).mean())}
        if engine == "float":
            result["accuracy_float"] = float((got.argmax(1) == labels).mean())
            continue
        units = np.round(got / network.logit_scale).astype(np.int64)
        result[engine]["equal_logits"] = float((units == expected).all(1).mean())
        result[engine]["largest_difference"] = int(np.abs(units - expected).max())
    return result


def outputs(call: Callable[..., Any], network: IntegerNetwork, samples: Tensor) -> np.ndarray:
    """An engine's logits of all samples."""
    parts = samples.split(BATCH)
    return np.concatenate([call(as_input(network, part).contiguous().numpy()) for part in parts])


def c_program(
    network: IntegerNetwork, samples: Tensor, expected: np.ndarray, folder: Path,
    checked: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Both builds on `samples`, that with sanitizers and counters on the first `checked` of them:
    logits, counts, memory. A warning or a sanitizer's find ends it."""
    program = export_c(network, folder / "c")
    equal, counted, some = [], {}, samples[:checked]
    for target, name, part in (("model", "model", samples), ("check", "model-check", some)):
        np.save(folder / "samples.npy", part.contiguous().numpy())
        subprocess.run(["make", "-s", "-C", folder / "c", target], check=True)
        done = subprocess.run(
            [folder / "c" / name, folder / "samples.npy"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        numbers = (line.split("\t")[0] for line in done.stdout.splitlines())
        logits = np.array([line.split() for line in numbers], dtype=np.int64)
        equal.append(np.array_equal(logits, expected[: len(part)]))
        for kind, layer, *values in (line.split() for line in done.stderr.splitlines()):
            counted[kind, layer] = [*map(int, values)]
    counts = count(network, as_input(network, some))
    wanted = {name: values.tolist() for name, values in counts.items()}
    return {
        "images": len(samples),
        "equal_logits": all(equal),
        "equal_counts": counted == wanted,
        "sanitizers": "address, undefined: nothing found",
        "ram": program.ram,
        "flash": program.flash,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a trained run or its checkpoint")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--data-dir", help="folder with the data, if it has moved")
    parser.add_argument("--out", default="results/deploy_exact.json")
    arguments = parser.parse_args()
    rows = []
    for folder in arguments.runs:
        run = load_run(folder)
        loader = evaluation_loader(run, data_of(run, arguments.data_dir))
        with tempfile.TemporaryDirectory() as temporary:
            rows.append(row(run, loader, arguments.images, Path(temporary)))
        print(json.dumps(rows[-1]), flush=True)
    packages = {name: version(name) for name in ("onnx", "onnxruntime", "openvino")}
    result = {
        "command": "python benchmarks/deploy_exact.py RUN ...",
        "environment": {
            **environment(),
            **packages,
            "compiler": version_of("cc"),
        },
        "rows": rows,
    }
    write_json(arguments.out, result)


if __name__ == "__main__":
    main()
