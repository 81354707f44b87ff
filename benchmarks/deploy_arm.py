"""A trained network on an emulated Arm Cortex-M4 (mps2-an386): same logits, and its memory.

    python benchmarks/deploy_arm.py RUN [--images 100] [--out results/deploy_arm.json]

Needs arm-none-eabi-gcc, make and qemu-system-arm (`deploy_arm.sh` installs them). The linker gives
the program 64 KB of RAM; one that needs more doesn't link.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from multispike.data import load_dataset
from multispike.deploy.c_export import export_c, flash_bytes
from multispike.deploy.quantise import quantise
from multispike.files import write_json
from multispike.training.run import load_run

QEMU = ["qemu-system-arm", "-M", "mps2-an386", "-nographic", "-kernel", "model-mps2.elf"]
SEMIHOSTING = "enable=on,target=native,arg=model,arg=images.npy"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder of a trained run")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--out", default="results/deploy_arm.json")
    arguments = parser.parse_args()
    run = load_run(arguments.run)
    test = load_dataset(run.data["name"], run.config.data_dir, progress=False).test
    pixels = test.inputs[: arguments.images]
    shape = tuple(run.data["input_shape"])
    network = quantise(run.network, run.data["mean"], run.data["std"], shape)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        program = export_c(network, folder)
        np.save(folder / "images.npy", pixels.numpy())
        subprocess.run(["make", "-s", "mps2"], cwd=folder, check=True)
        command = [*QEMU, "-semihosting-config", SEMIHOSTING]
        done = subprocess.run(
            command,
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        sizes = subprocess.run(
            ["arm-none-eabi-size", "model-mps2.elf"],
            cwd=folder, check=True, capture_output=True, text=True,
        )  # fmt: skip
    logits = np.array([line.split() for line in done.stdout.splitlines()], dtype=np.int64)
    text, data, bss = map(int, sizes.stdout.splitlines()[1].split()[:3])
    result = {
        "arch": network.arch,
        "data": run.data["name"],
        "images": len(pixels),
        "equal_logits": bool(np.array_equal(logits, network.forward(pixels))),
        "accuracy": float((logits.argmax(1) == test.labels[: len(pixels)].numpy()).mean()),
        "ram_buffers": program.ram,
        "ram_program": data + bss,
        "flash_weights_and_tables": flash_bytes(network),
        "flash_program": text + data,
    }
    write_json(arguments.out, result)
    print(json.dumps(result, indent=2))
    if not result["equal_logits"]:
        raise SystemExit("logits differ from the integer reference")


if __name__ == "__main__":
    main()
