"""results.json and result.json: written by one version, read or refused by another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from multispike.energy import BASELINES
from multispike.errors import InputError
from multispike.files import write_json
from multispike.report.style import CATEGORIES

FORMAT = 1
"""Raised by one whenever a key changes its meaning."""

Shape = Any
"""What a value must be: a type (float takes whole numbers too), {key: shape}, {str: shape} for any
keys, [shape of every item], or (shape, None) where it may be null."""

_ENERGY: Shape = {"total": float, **dict.fromkeys(CATEGORIES, float)}
_CHARGED: Shape = {"profile": str, "bits": int, **_ENERGY}
_SENT: Shape = {
    "name": str,
    "path": str,
    "shape": [int],
    "timesteps": int,
    "levels": int,
    "events": float,
    "amplitude": float,
    "max_level": int,
    "histogram": [float],
    "decoded": [float],
    "neurons": int,
    "density": float,
}
_RUN: Shape = {
    "name": str,
    "arch": str,
    "data": str,
    "neuron": str,
    "levels": int,
    "timesteps": int,
    "seed": int,
    "epochs": int,
    "params": int,
    "accuracy": float,
    "train_seconds": float,
    "images_per_second": float,
    "events_per_inference": float,
    "density": float,
    "energy_nj": _CHARGED,
    "synops": dict.fromkeys(("effective_acs", "effective_macs", "dense"), float),
    "neurons": [_SENT],
    "layers": [{"name": str, "kind": str, "energy_nj": _ENERGY}],
    "environment": {},
}
_FURTHER: Shape = {
    "samples": int,
    "classes": [str],
    "confusion": ([[int]], None),
    "sums": [{"name": str, **dict.fromkeys(("direct", "shortcut", "total"), (_SENT, None))}],
    "not_counted": [str],
    "baselines": dict.fromkeys(BASELINES, _CHARGED),
    "crossover": {key: {"wins": ([float], None)} for key in BASELINES},
    "even_density": float,
    "assumptions": {
        "profile": {"name": str, "constants": {str: {"value": float, "source": str}}},
        "network": str,
        "fanout": str,
        "graded_op": str,
        "operation_pj": {str: float},
        "choices": [str],
        "not_modelled": [str],
    },
}
"""What need not be there, but must be this where it is."""


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
        raise InputError(
            f"results: got {str(path)!r} of format {content.get('format')!r} (multispike"
            f" {_version(content)}), allowed: format {FORMAT}"
        )
    runs = content.get("runs", [])
    if not isinstance(runs, list):
        raise InputError(f"results: got {str(path)!r} with runs {runs!r:.40}, allowed: a list")
    return [_checked(run, path) for run in runs]


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


def _checked(run: Any, path: Path) -> dict[str, Any]:
    misfit = _misfit(run, _RUN, "run") or _misfit(run, _FURTHER, "run", optional=True)
    if misfit:
        raise InputError(
            f"results: got {str(path)!r} of multispike {_version(run)}, in which {misfit};"
            " allowed: a result of this version"
        )
    return run


def _version(content: Any) -> str:
    """The first version that a damaged or foreign result names; "?" if none."""
    if isinstance(content, dict):
        if isinstance(version := content.get("version"), str):
            return version
        content = [*content.values()]
    if not isinstance(content, list):
        return "?"
    found = (_version(part) for part in content if isinstance(part, (dict, list)))
    return next((version for version in found if version != "?"), "?")


def _misfit(value: Any, shape: Shape, where: str, optional: bool = False) -> str | None:
    """The first place at which a value has not its shape, and what stands there.

    >>> _misfit({"a": [1, "x"]}, {"a": [int]}, "run")
    "run.a[1] is 'x', not int"
    >>> _misfit({}, {"a": float}, "run"), _misfit({}, {"a": float}, "run", optional=True)
    ("run has no 'a'", None)
    """
    if isinstance(shape, tuple):
        return None if value is None else _misfit(value, shape[0], where)
    if isinstance(shape, type):
        kinds = (int, float) if shape is float else shape
        right = isinstance(value, kinds) and not isinstance(value, bool)
        return None if right else f"{where} is {value!r:.40}, not {shape.__name__}"
    if not isinstance(value, type(shape)):
        return f"{where} is {value!r:.40}, not a {type(shape).__name__}"
    if isinstance(shape, list):
        parts = ((item, shape[0], f"{where}[{index}]") for index, item in enumerate(value))
    elif str in shape:
        parts = ((item, shape[str], f"{where}.{key}") for key, item in value.items())
    else:
        missing = [key for key in shape if key not in value]
        if missing and not optional:
            return f"{where} has no {missing[0]!r}"
        parts = ((value[key], shape[key], f"{where}.{key}") for key in shape if key in value)
    found = (_misfit(*part) for part in parts)
    return next((line for line in found if line), None)
