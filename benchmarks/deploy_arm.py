"""A trained network on an emulated Arm Cortex-M4 (mps2-an386): same logits, and its memory.

    python benchmarks/deploy_arm.py RUN ... [--images 100] [--out results/deploy_arm.json]

Needs arm-none-eabi-gcc, make and qemu-system-arm (`deploy_arm.sh` installs them). The linker gives
the program 64 KB of RAM; one that needs more doesn't link.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tools import version_of

from multispike.environment import environment
from multispike.export.c import export_c
from multispike.export.quantise import as_input, quantise_run
from multispike.files import write_json
from multispike.training.data import data_of
from multispike.training.run import Run, load_run

QEMU = ["qemu-system-arm", "-M", "mps2-an386", "-nographic", "-kernel", "model-mps2.elf"]
SEMIHOSTING = "enable=on,target=native,arg=model,arg=images.npy"


def row(run: Run, images: int, folder: Path) -> dict[str, Any]:
    """Logits of a run's first test samples on the emulator, and what the program takes."""
    network = quantise_run(run)
    test = data_of(run).test
    samples, labels = test.inputs[:images], test.labels[:images].numpy()
    program = export_c(network, folder)
    np.save(folder / "images.npy", samples.contiguous().numpy())
    subprocess.run(["make", "-s", "mps2"], cwd=folder, check=True)
    done = subprocess.run(
        [*QEMU, "-semihosting-config", SEMIHOSTING],
        cwd=folder, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    sizes = subprocess.run(
        ["arm-none-eabi-size", "model-mps2.elf"],
        cwd=folder, check=True, capture_output=True, text=True,
    )  # fmt: skip
    numbers = (line.split("\t")[0] for line in done.stdout.splitlines())
    logits = np.array([line.split() for line in numbers], dtype=np.int64)
    text, data, bss = map(int, sizes.stdout.splitlines()[1].split()[:3])
    return {
        "arch": network.arch,
        "data": run.data["name"],
        "timesteps": network.timesteps,
        "levels": run.network.config["levels"],
        "images": len(samples),
        "equal_logits": bool(np.array_equal(logits, network.forward(as_input(network, samples)))),
        "accuracy": float((logits.argmax(1) == labels).mean()),
        "ram_buffers": program.ram,
        "ram_program": data + bss,
        "flash_weights_and_tables": program.flash,
        "flash_program": text + data,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a trained run")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--out", default="results/deploy_arm.json")
    arguments = parser.parse_args()
    tools = [version_of(tool) for tool in ("arm-none-eabi-gcc", "qemu-system-arm")]
    rows = []
    for folder in arguments.runs:
        with tempfile.TemporaryDirectory() as temporary:
            rows.append(row(load_run(folder), arguments.images, Path(temporary)))
        print(json.dumps(rows[-1]), flush=True)
    result = {
        "command": f"python benchmarks/deploy_arm.py RUN ... --images {arguments.images}",
        "environment": {**environment(), "compiler": tools[0], "emulator": tools[1]},
        "rows": rows,
    }
    write_json(arguments.out, result)
    if not all(row["equal_logits"] for row in rows):
        raise SystemExit("logits differ from the integer reference")


if __name__ == "__main__":
    main()
