"""results.json and result.json: written by one version, read or refused by another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from multispike.errors import InputError
from multispike.files import write_json

FORMAT = 1
"""Raised by one whenever a key changes its meaning."""

KEYS = {
    "name",
    "arch",
    "data",
    "neuron",
    "levels",
    "timesteps",
    "accuracy",
    "layers",
    "environment",
}
"""What every run has at least."""


def write_results(folder: Path, runs: list[dict[str, Any]]) -> Path:
    """Write DIR/results.json: {"format", "runs": [...]}."""
    path = folder / "results.json"
    write_runs(path, runs)
    return path


def write_runs(path: Path, runs: list[dict[str, Any]], **about: Any) -> None:
    """Write {"format", ...about, "runs": [...]}."""
    write_json(path, {"format": FORMAT, **about, "runs": runs})


def read_results(folder: str | Path) -> list[dict[str, Any]]:
    """The runs of DIR/results.json.

    Raises:
        InputError: if it is missing, damaged, or of a format that this version does not know.
    """
    return read_runs(Path(folder) / "results.json")


def read_runs(path: Path) -> list[dict[str, Any]]:
    """The runs of a file that `write_runs` wrote.

    Raises:
        InputError: as `read_results`.
    """
    content = read_json(path)
    if content.get("format") != FORMAT:
        versions = {
            run.get("environment", {}).get("version", "?") for run in content.get("runs", [])
        }
        raise InputError(
            f"results: got {str(path)!r} of format {content.get('format')!r} (multispike"
            f" {', '.join(sorted(versions)) or '?'}), allowed: format {FORMAT}"
        )
    return [_checked(run, path) for run in content.get("runs", [])]


def read_result(path: str | Path) -> dict[str, Any]:
    """One run's result.json.

    Raises:
        InputError: as `read_results`.
    """
    return _checked(read_json(Path(path)), Path(path))


def read_json(path: Path) -> dict[str, Any]:
    """A file of results as it is.

    Raises:
        InputError: if it is missing, or no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"results: got {str(path)!r}, which does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"results: got {str(path)!r}, which is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"results: got {str(path)!r}, allowed: a JSON object")
    return content


def _checked(run: dict[str, Any], path: Path) -> dict[str, Any]:
    missing = KEYS - run.keys()
    if missing:
        version = run.get("environment", {}).get("version", "an unknown version")
        raise InputError(
            f"results: got {str(path)!r} of multispike {version} without {min(missing)!r};"
            " allowed: a result of this version"
        )
    return run
