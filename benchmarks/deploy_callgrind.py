"""Instructions of the event-driven C convolution against the dense build, under callgrind.

    python benchmarks/deploy_callgrind.py [RUN] [--images 2] [--data-dir DIR]
        [--out results/deploy_callgrind.json]

Two measurements, both exact counts that no other load on the machine disturbs:

layers   all body convolutions of fastnet on 32x32 images, fed random levels 1..4 at densities of
         5 to 100 %: instructions in `conv_events` only
network  with RUN, a trained network: instructions of the whole inference, and where its own
         density lies in the first table

Compiled twice: scalar, as a microcontroller without vector unit runs it, and -O3 for this machine's
baseline instruction set.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tools import version_of

from multispike.environment import environment
from multispike.export.c import export_c
from multispike.export.network import IntegerNetwork, count, fan_out
from multispike.export.quantise import as_input, quantise, quantise_run
from multispike.export.validate import identifier
from multispike.files import write_json
from multispike.models import create_model
from multispike.training.data import data_of
from multispike.training.run import load_run

DENSITIES = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
FLAGS = {"scalar": ["-O2", "-fno-tree-vectorize"], "vector": ["-O3"]}
BUILDS = {"event": [], "dense": ["-DDENSE"]}

DRIVER = """\
#include "model.c"
#include <stdlib.h>
static uint8_t z[1 << 20];
static int32_t v[1 << 20];
static uint32_t state = 1;
static uint32_t draw(void) { state = state * 1664525u + 1013904223u; return state >> 8; }
static void layer(const conv_t *conv, uint32_t density)
{
    for (int i = 0; i < shape_size(conv->in); ++i)
        z[i] = draw() % 1000 < density ? (uint8_t)(1 + draw() % 4) : 0;
    conv_events(v, conv, z);
}
int main(int argc, char **argv)
{
    const uint32_t density = argc > 1 ? (uint32_t)atoi(argv[1]) : 0;
    LAYERS
    return 0;
}
"""


def instructions(program: Path, *arguments: str, inside: str | None = None) -> int:
    """Instructions that a program executes, all or within one function, by callgrind."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    if inside is not None:
        command += [f"--toggle-collect={inside}"]
    done = subprocess.run([*command, program, *arguments], capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        raise SystemExit(f"callgrind failed: {done.stderr[-500:]}")
    return int(found[1])


def compiled(folder: Path, main: str, flags: list[str], name: str) -> Path:
    """Build the exported program in `folder` with another main file."""
    sources = ["kernels.c", main] + ([] if main == "driver.c" else ["model.c"])
    weights = sorted(str(path) for path in folder.glob("weights*.o"))
    command = ["cc", "-std=c99", *flags, "-o", folder / name, *sources, *weights]
    subprocess.run(command, cwd=folder, check=True)
    return folder / name


def exported(network: IntegerNetwork, folder: Path) -> None:
    """Export, with the weights compiled once."""
    export_c(network, folder)
    for source in folder.glob("weights*.c"):
        command = ["cc", "-std=c99", "-c", source.name, "-o", source.with_suffix(".o").name]
        subprocess.run(command, cwd=folder, check=True)


def layers_table(folder: Path) -> dict[str, Any]:
    """Instructions of fastnet's body convolutions by density, event-driven and dense."""
    model = create_model("fastnet").eval()
    network = quantise(model, [0.5] * 3, [0.25] * 3, (3, 32, 32))
    exported(network, folder)
    names = [
        identifier(one.name)
        for layer in network.layers
        for one in getattr(layer, "synapses", ())
        if one.name.startswith("body.conv")
    ]
    calls = "\n    ".join(f"layer(&{name}, density);" for name in names)
    (folder / "driver.c").write_text(DRIVER.replace("LAYERS", calls))
    table = {}
    for kind, flags in FLAGS.items():
        rows = []
        programs = {
            build: compiled(folder, "driver.c", [*flags, *define], f"driver-{kind}-{build}")
            for build, define in BUILDS.items()
        }
        dense = instructions(programs["dense"], "200", inside="conv_events")
        for density in DENSITIES:
            permille = str(round(1000 * density))
            event = instructions(programs["event"], permille, inside="conv_events")
            rows.append(
                {"density": density, "event": event, "dense": dense, "ratio": event / dense}
            )
        table[kind] = {"rows": rows, "crossover_density": crossover(rows)}
    return table


def crossover(rows: list[dict[str, float]]) -> float | None:
    """Density at which the event-driven build needs as many instructions as the dense one.

    The counts are linear in the density (scan + events), so a straight line is exact up to the
    draw of the events. None: it needs fewer at any density.
    """
    slope, start = np.polyfit([row["density"] for row in rows], [row["ratio"] for row in rows], 1)
    at = (1 - start) / slope
    return float(at) if at <= 1 else None


def network_row(run_folder: str, data_dir: str | None, images: int, folder: Path) -> dict[str, Any]:
    """Instructions an image of a trained network, both builds, and its density."""
    run = load_run(run_folder)
    network = quantise_run(run)
    samples = data_of(run, data_dir).test.inputs[:images]
    pixels = as_input(network, samples)
    exported(network, folder)
    np.save(folder / "images.npy", samples.contiguous().numpy())
    reference = network.forward(pixels)
    row: dict[str, Any] = {"arch": network.arch, "timesteps": network.timesteps, "images": images}
    for kind, flags in FLAGS.items():
        for build, define in BUILDS.items():
            program = compiled(folder, "main.c", [*flags, *define], f"model-{kind}-{build}")
            path = str(folder / "images.npy")
            done = subprocess.run([program, path], capture_output=True, text=True, check=True)
            numbers = (line.split("\t")[0] for line in done.stdout.splitlines())
            got = np.array([line.split() for line in numbers], dtype=np.int64)
            if not np.array_equal(got, reference):
                raise SystemExit(f"{program.name}: logits differ from the reference")
            counted = instructions(program, path, inside="model_run")
            row.setdefault(kind, {})[build] = counted // images
    for kind in FLAGS:
        row[kind]["ratio"] = row[kind]["event"] / row[kind]["dense"]
    row["density"], row["synops_share"] = densities(network, pixels, images)
    return row


def densities(network: IntegerNetwork, pixels: Any, images: int) -> tuple[float, float]:
    """Share of neurons that fire, and share of spiking synapses that are used."""
    counts = count(network, pixels)
    fired = [values for (kind, _), values in counts.items() if kind == "neurons"]
    events, _, neurons = (int(each) for each in sum(fired))
    used = possible = 0
    for layer in network.layers:
        for one in getattr(layer, "synapses", ()):
            if one.weight is None or one.source in ("image", "pool"):
                continue
            shape = network.outputs[one.source].shape
            used += int(counts["synapses", one.name][2])
            possible += int(fan_out(one, shape).sum()) * shape[0] * network.timesteps * images
    return events / neurons, used / possible


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", help="folder of a trained run")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--data-dir", help="folder with the data, if it has moved")
    parser.add_argument("--out", default="results/deploy_callgrind.json")
    arguments = parser.parse_args()
    if not (shutil.which("valgrind") and shutil.which("cc")):
        raise SystemExit("needs valgrind and a C compiler")
    result: dict[str, Any] = {
        "command": "python benchmarks/deploy_callgrind.py RUN",
        "environment": {
            **environment(),
            "compiler": version_of("cc"),
            "valgrind": version_of("valgrind"),
            "machine": platform.machine(),
            "flags": FLAGS,
        },
    }
    with tempfile.TemporaryDirectory() as temporary:
        result["layers"] = layers_table(Path(temporary) / "layers")
        if arguments.run:
            result["network"] = network_row(
                arguments.run, arguments.data_dir, arguments.images, Path(temporary) / "network"
            )
    write_json(arguments.out, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
