"""What benchmarks that train share: a run by the command line, and studies of short ones."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from multispike.config import TrainConfig
from multispike.config.begun import deciding, differing
from multispike.files import write_json
from multispike.training.run import read_settings

ROOT = Path(__file__).parent.parent
MULTISPIKE = ("-m", "multispike.cli")


def arguments(
    description: str | None, name: str, epochs: int, numbers: Mapping[str, int] | None = None
) -> argparse.Namespace:
    """The command line of a study: RECIPE, --data-dir, --work, --epochs, --only, --out.

    `numbers` are further options, by their defaults.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", help="YAML file with the settings of `multispike train`")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, required=True, help="where run folders stay")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--only", help="rows, comma-separated")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / f"{name}.json")
    for option, usual in (numbers or {}).items():
        parser.add_argument(option, type=int, default=usual)
    options = parser.parse_args()
    options.numbers = {
        option: getattr(options, option.strip("-").replace("-", "_")) for option in numbers or {}
    }
    return options


def train(
    recipe: str | Path,
    data_dir: str,
    out: Path,
    extra: Sequence[str],
    program: Sequence[str] = MULTISPIKE,
    stdout: Any = sys.stderr,
) -> None:
    """`multispike train` of a recipe with `extra` settings; it goes on where it was killed."""
    command = [
        *(sys.executable, *program, "train", "--config", str(recipe)),
        *("--data-dir", data_dir, "--out", str(out), *extra),
    ]
    if (out / "config.yaml").exists():
        command.append("--resume")
    subprocess.run(command, check=True, stdout=stdout)


def trained(
    options: argparse.Namespace, row: str, extra: Sequence[str], program: Sequence[str] = MULTISPIKE
) -> dict[str, Any]:
    """The result of a row's training with `extra` settings."""
    out = options.work / "".join(c if c.isalnum() or c in ".-" else "-" for c in row)
    extra = ["--epochs", str(options.epochs), *extra]
    train(options.recipe, options.data_dir, out, extra, program, stdout=subprocess.DEVNULL)
    return json.loads((out / "result.json").read_text())


def _kept_rows(out: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """The rows of a study's file, none where there is no file.

    Raises:
        SystemExit: for a file of another recipe or number of epochs.
    """
    if not out.exists():
        return {}
    before = json.loads(out.read_text())
    for setting, old, new in differing(before["recipe"], TrainConfig(**recipe)):
        raise SystemExit(f"out: {out} holds runs of {setting} {old}, not {new}")
    return before["rows"]


def study(
    options: argparse.Namespace,
    script: str,
    names: Iterable[str],
    run: Callable[[str], tuple[dict[str, Any], dict[str, Any]]],
) -> None:
    """Call `run` (name -> result.json, figures) for every row; keep all figures in one file.

    Rows that the file holds by then stay, so a study may be made in parts (--only), one after the
    other or at the same time.

    Raises:
        SystemExit: for a row that does not exist, or a file of another recipe or number of epochs.
    """
    recipe = read_settings(Path(options.recipe)) | {"epochs": options.epochs}
    known = list(names)
    wanted = options.only.split(",") if options.only else known
    for name in wanted:
        if name not in known:
            raise SystemExit(f"only: got {name!r}, allowed: {', '.join(known)}")
    _kept_rows(options.out, recipe)
    for name in wanted:
        result, row = run(name)
        rows = _kept_rows(options.out, recipe) | {name: row}
        planned = [name for name in known if name in wanted or name in rows]
        figures = "  ".join(
            f"{key} {value:.5g}" for key, value in row.items() if isinstance(value, float)
        )
        print(f"{name:40} {figures}", flush=True)
        given = {"--epochs": options.epochs, **options.numbers}
        shown = " ".join(f"{option} {value}" for option, value in given.items())
        command = f"python benchmarks/{script} {options.recipe} {shown}"
        if planned != known:
            command += f' --only "{",".join(planned)}"'
        content = {
            "command": f"{command} --data-dir DIR --work FOLDER",
            "recipe": deciding(recipe),
            "epochs": options.epochs,
            "seed": result["seed"],
            "samples": result["samples"],
            "planned": planned,
            "rows": {key: rows[key] for key in planned if key in rows},
            "environment": result["environment"],
        }
        write_json(options.out, content)


def ablate(
    description: str | None,
    name: str,
    changes: dict[str, str],
    epochs: int,
    shared: str = "",
    numbers: Mapping[str, int] | None = None,
) -> None:
    """A study of a recipe's `changes` (row's name -> options).

    `shared` options, and `numbers` as the command line has them, go to all rows.
    """
    options = arguments(description, name, epochs, numbers)
    everywhere = shared.split()
    for option, value in options.numbers.items():
        everywhere += [option, str(value)]

    def run(row: str) -> tuple[dict[str, Any], dict[str, Any]]:
        result = trained(options, row, [*everywhere, *changes[row].split()])
        figures = ("accuracy", "loss", "density", "events_per_inference")
        return result, {key: result[key] for key in figures} | {"options": changes[row]}

    study(options, f"{name}.py", changes, run)
