"""How long does a recipe train to an accuracy? Full trainings by the command line, one a seed.

    python benchmarks/time_to_accuracy.py --data-dir DIR --work FOLDER [--recipe RECIPE.yaml]
                                          [--seeds 0,1,2] [--out FILE.json]

A run stays in FOLDER under its seed: a killed study goes on where it was, a finished one is only
read, and one of other settings is refused. Seconds are those of training steps, without evaluation
and saving; every epoch's accuracy is that of the network on the test set. Nothing else should run
on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from short_runs import MULTISPIKE, ROOT, train

from multispike.config.begun import deciding
from multispike.files import write_json
from multispike.training.run import read_settings

RECIPES = ROOT / "src" / "multispike" / "recipes"
AIMS = (0.90, 0.92, 0.93, 0.94)


def trained(recipe: Path, data_dir: str, folder: Path, seed: int) -> dict[str, Any]:
    """One run to its end: its figures, its curve, and result.json."""
    train(recipe, data_dir, folder, ["--seed", str(seed)])
    mirrored = folder / "mirrored.json"
    if not mirrored.exists():
        evaluate = ("evaluate", str(folder), "--data-dir", data_dir, "--flip")
        command = [sys.executable, *MULTISPIKE, *evaluate, "--json", str(mirrored)]
        subprocess.run(command, check=True, stdout=sys.stderr)
    result = json.loads((folder / "result.json").read_text())
    with (folder / "metrics.csv").open(newline="") as file:
        curve = [
            [float(row["train_seconds"]), float(row["test_accuracy"])]
            for row in csv.DictReader(file)
        ]
    run = {key: result[key] for key in ("seed", "accuracy", "train_seconds", "epochs")}
    run |= {"accuracy_flip": json.loads(mirrored.read_text())["accuracy_flip"], "curve": curve}
    run["settings"] = deciding(read_settings(folder / "config.yaml"))
    return {"run": run, "environment": result["environment"]}


def show(runs: list[dict[str, Any]]) -> None:
    """Seconds of training to each aim."""
    table = Table(title="Seconds of training to an accuracy on the test set")
    columns = ("seed", "end", "mirrored", "seconds", *(f"to {aim}" for aim in AIMS))
    for column in columns:
        table.add_column(column, justify="right")
    for run in runs:
        reached = [next((s for s, value in run["curve"] if value >= aim), None) for aim in AIMS]
        table.add_row(
            str(run["seed"]), f"{run['accuracy']:.4f}", f"{run['accuracy_flip']:.4f}",
            f"{run['train_seconds']:.0f}", *("-" if s is None else f"{s:.0f}" for s in reached),
        )  # fmt: skip
    Console().print(table)


def main() -> None:
    """Train what is missing, write FILE after every run, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", type=Path, default=RECIPES / "cifar10-fast.yaml")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, required=True, help="where run folders stay")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "time_to_accuracy.json")
    options = parser.parse_args()
    if not all(seed.isdecimal() for seed in options.seeds.split(",")):
        parser.error(f"seeds: got {options.seeds!r}, allowed: integers >= 0, comma-separated")
    if not options.recipe.is_file():
        parser.error(f"recipe: got {str(options.recipe)!r}, allowed: a YAML file")
    runs = []
    for seed in map(int, options.seeds.split(",")):
        folder = options.work / f"{options.recipe.stem}-s{seed}"
        done = trained(options.recipe, options.data_dir, folder, seed)
        runs.append(done["run"])
        command = f"python benchmarks/time_to_accuracy.py --seeds {options.seeds}"
        if options.recipe.stem != "cifar10-fast":
            command += f" --recipe recipes/{options.recipe.name} --out results/{options.out.name}"
        content = {
            "command": f"{command} --data-dir DIR --work FOLDER",
            "recipe": options.recipe.stem,
            "runs": runs,
            "environment": done["environment"],
        }
        write_json(options.out, content)
    show(runs)


if __name__ == "__main__":
    main()
