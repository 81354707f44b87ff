"""What one change of a recipe does to its accuracy: a short training of each, same seed.

    python benchmarks/ablation.py RECIPE.yaml --data-dir DIR --work FOLDER [--epochs 3]
                                  [--only NAME,...] [--out FILE.json]

Each row is `multispike train --config RECIPE.yaml` with the options of `CHANGES` added. Run folders
stay in FOLDER, so a killed study goes on where it was; rows of another study in FILE stay.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from multispike.files import write_json

ROOT = Path(__file__).parent.parent

CHANGES = {
    "recipe": "",
    "lr 0.1": "--lr 0.1",
    "lr 0.4": "--lr 0.4",
    "whiten": "--whiten",
    "flip alternate": "--flip alternate",
    "bias_lr 8": "--bias-lr 8",
    "label_smoothing 0": "--label-smoothing 0",
    "label_smoothing 0.2": "--label-smoothing 0.2",
    "ema 0.99": "--ema 0.99",
    "cosine": "--schedule cosine",
    "weight_decay 1e-3": "--weight-decay 1e-3",
    "sigmoid": "--surrogate sigmoid",
    "v_init 0": "--v-init 0",
    "learn_threshold layer": "--learn-threshold layer",
    "learn_threshold channel": "--learn-threshold channel",
    "threshold 2": "--threshold 2",
}


def trained(recipe: str, data_dir: str, change: str, out: Path, epochs: int) -> dict:
    """The result of one row, trained unless its folder holds it."""
    command = [
        *(sys.executable, "-m", "multispike.cli", "train", "--config", recipe),
        *("--data-dir", data_dir, "--epochs", str(epochs), "--out", str(out)),
        *change.split(),
    ]
    if (out / "config.yaml").exists():
        command.append("--resume")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads((out / "result.json").read_text())


def main() -> None:
    """Train every row and write its figures as soon as it is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--only")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "ablation.json")
    options = parser.parse_args()
    rows = {}
    for name in options.only.split(",") if options.only else CHANGES:
        folder = options.work / f"{Path(options.recipe).stem}-{name.replace(' ', '-')}"
        result = trained(options.recipe, options.data_dir, CHANGES[name], folder, options.epochs)
        rows[name] = {
            key: result[key]
            for key in ("accuracy", "loss", "density", "events_per_inference", "train_seconds")
        } | {"options": CHANGES[name]}
        print(f"{name:26} {result['accuracy']:.4f}  density {result['density']:.3f}", flush=True)
        write_json(
            options.out,
            {
                "command": f"python benchmarks/ablation.py {options.recipe} --epochs"
                f" {options.epochs} --data-dir DIR --work FOLDER",
                "epochs": options.epochs,
                "seed": result["seed"],
                "rows": rows,
                "environment": result["environment"],
            },
        )


if __name__ == "__main__":
    main()
