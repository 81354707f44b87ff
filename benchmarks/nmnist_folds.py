"""Five-fold cross-validation of `reproduce table-nmnist`, since 100 test samples say little.

    python benchmarks/nmnist_folds.py DIR [--work runs/nmnist-folds]

DIR holds Train/DIGIT and Test/DIGIT. Each fold tests on another fifth of all recordings, trained on
the rest; a killed run goes on. Writes results/nmnist-folds.json: the runs of all folds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from multispike.files import write_json

TARGET = Path(__file__).parent.parent / "results" / "nmnist-folds.json"
FOLDS = 5


def make_folds(source: Path, work: Path) -> list[Path]:
    """Folders in the official layout, of links: WORK/fold0/Train/3/Test-00001.bin and so on.

    Every class is dealt out evenly, in an order drawn once.
    """
    folds = [work / f"fold{number}" for number in range(FOLDS)]
    for digit in map(str, range(10)):
        recordings = sorted(source.glob(f"T*/{digit}/*.bin"))
        order = np.random.default_rng(int(digit)).permutation(len(recordings))
        for place, index in enumerate(order):
            recording = recordings[index]
            for number, fold in enumerate(folds):
                half = "Test" if place % FOLDS == number else "Train"
                link = fold / half / digit / f"{recording.parts[-3]}-{recording.name}"
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.is_symlink():
                    link.symlink_to(recording.resolve())
    return folds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, metavar="DIR")
    parser.add_argument("--work", type=Path, default=Path("runs/nmnist-folds"))
    parser.add_argument("--rows", help="labels of the rows, comma-separated; all unless given")
    arguments = parser.parse_args()
    rows = ["--rows", arguments.rows] if arguments.rows else []
    folds = []
    for fold in make_folds(arguments.source, arguments.work):
        results, runs = fold / "results", fold / "runs"
        subprocess.run(
            [sys.executable, "-m", "multispike.cli", "reproduce", "table-nmnist", *rows,
             "--data-dir", fold, "--results", results, "--work", runs],
            check=True,
        )  # fmt: skip
        folds.append(json.loads((results / "table-nmnist.json").read_text(encoding="utf-8")))
        command = "python benchmarks/nmnist_folds.py DIR"
        write_json(TARGET, {"command": command, "folds": folds})


if __name__ == "__main__":
    main()
