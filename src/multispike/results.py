"""results.json and result.json: written by one version, read or refused by another.

result.json is one run, results.json the runs of a comparison, both with the number of the format:
what was trained (name, arch, data, neuron, levels, timesteps, seed, epochs), how well it does
(accuracy, confusion), what it sends (events_per_inference, density, and layer by layer "neurons"
and "sums") and what it costs (energy_nj, synops, baselines, crossover, and layer by layer
"layers", with the assumptions). `_RUN` below has every key with its type; counts and energies are
means per inference, energies in nJ.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from multispike.energy import BASELINES
from multispike.errors import InputError, invalid
from multispike.files import write_json
from multispike.report.style import CATEGORIES

FORMAT = 1
"""Raised by one whenever a key changes its meaning."""

Schema = dict[str, Any]
"""A JSON Schema, in its keywords `type`, `properties`, `required`, `items`."""

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _object(needed: Mapping[str, Schema], spare: Mapping[str, Schema] | None = None) -> Schema:
    """An object with all keys of `needed`; those of `spare` need not be there."""
    properties = {**needed, **(spare or {})}
    return {"type": "object", "properties": properties, "required": [*needed]}


def _each(keys: Iterable[str], schema: Schema) -> dict[str, Schema]:
    return dict.fromkeys(keys, schema)


def _or_null(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


_ENERGY = _each(("total", *CATEGORIES), NUMBER)
_CHARGED = _object({"profile": TEXT, "bits": WHOLE, **_ENERGY})
_SENT = _object(
    _each(("name", "path"), TEXT)
    | _each(("timesteps", "levels", "max_level", "neurons"), WHOLE)
    | _each(("events", "amplitude", "density"), NUMBER)
    | {"shape": _list(WHOLE), "histogram": _list(NUMBER), "decoded": _list(NUMBER)}
)
_LAYER = _object({"name": TEXT, "kind": TEXT, "energy_nj": _object(_ENERGY)})
_SUM = _object({"name": TEXT, **_each(("direct", "shortcut", "total"), _or_null(_SENT))})
_SYNOPS = _object(_each(("effective_acs", "effective_macs", "dense"), NUMBER))
_CONSTANTS: Schema = {
    "type": "object",
    "additionalProperties": _object({"value": NUMBER, "source": TEXT}),
}
_OPERATIONS: Schema = {"type": "object", "additionalProperties": NUMBER}
_ASSUMPTIONS = _object(
    _each(("network", "fanout", "graded_op"), TEXT)
    | _each(("choices", "not_modelled"), _list(TEXT))
    | {"profile": _object({"name": TEXT, "constants": _CONSTANTS}), "operation_pj": _OPERATIONS}
)
_RUN = _object(
    _each(("name", "arch", "data", "neuron"), TEXT)
    | _each(("levels", "timesteps", "seed", "epochs", "params"), WHOLE)
    | {"accuracy": {**NUMBER, "minimum": 0, "maximum": 1}}
    | _each(("train_seconds", "images_per_second"), NUMBER)
    | _each(("events_per_inference", "density"), NUMBER)
    | {"energy_nj": _CHARGED, "synops": _SYNOPS, "neurons": _list(_SENT)}
    | {"layers": {**_list(_LAYER), "minItems": 1}, "environment": _object({})},
    spare={
        "samples": WHOLE,
        "even_density": NUMBER,
        "confusion": _or_null(_list(_list(WHOLE))),
        "sums": _list(_SUM),
        "baselines": _object(_each(BASELINES, _CHARGED)),
        "crossover": _object(_each(BASELINES, _object({"wins": _or_null(_list(NUMBER))}))),
        "assumptions": _ASSUMPTIONS,
        **_each(("classes", "not_counted"), _list(TEXT)),
    },
)

_RESULT = Draft202012Validator(_RUN)


def check_folder(argument: str, folder: Path, runs: Sequence[str] = ()) -> None:
    """Raise `InputError` where results.json and report.html would be written over other things: a
    run, files of others, or a comparison that has trained more than `runs`."""
    path = folder / "results.json"
    if (folder / "config.yaml").exists():
        raise invalid(argument, str(folder), "a folder that is not itself a run")
    content: dict[str, Any] = {}
    with suppress(InputError, OSError):
        content = read_json(path)
    if "format" in content and isinstance(known := content.get("runs"), list):
        names = [str(run.get("name")) for run in known if isinstance(run, dict)]
        trained = [name for name in names if (folder / name / "config.yaml").exists()]
        if others := [name for name in trained if name not in runs]:
            held = f"a folder that holds no other runs, as this one does: {', '.join(others)}"
            raise invalid(argument, str(folder), held)
        return
    for other in (path, folder / "report.html"):
        if other.exists():
            raise invalid(argument, str(folder), f"a folder without a {other.name} of others")


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
    content = _of_this_format(path)
    runs = content.get("runs", [])
    if not isinstance(runs, list):
        raise InputError(f"results: got {str(path)!r} with runs {runs!r:.40}, allowed: a list")
    return [_checked(run, path) for run in runs]


def write_result(path: Path, run: dict[str, Any]) -> None:
    """Write one run's result.json: {"format", ...run}."""
    write_json(path, {"format": FORMAT, **run})


def read_result(path: Path) -> dict[str, Any]:
    """One run's result.json.

    Raises:
        InputError: as `read_results`.
    """
    run = _of_this_format(path)
    del run["format"]
    return _checked(run, path)


def _of_this_format(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise InputError(
            f"results: got {str(path)!r} of format {content.get('format')!r} (multispike"
            f" {_version(content)}), allowed: format {FORMAT}"
        )
    return content


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
    if misfit := _misfit(run):
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


def _misfit(run: Any) -> str | None:
    """The first place at which a result does not fit its schema, and what stands there.

    >>> _misfit({"name": 4}), _misfit([])
    ('run.name is 4, not of type string', 'run is [], not of type object')
    """
    for error in _RESULT.iter_errors(run):
        where = "run" + error.json_path.removeprefix("$")
        if error.validator == "type":
            return f"{where} is {error.instance!r:.40}, not of type {error.validator_value}"
        return f"{where}: {error.message}"
    confusion = run.get("confusion") or ()
    if any(len(row) != len(confusion) for row in confusion):
        return "run.confusion is not square"
    return None
