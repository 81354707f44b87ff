"""Typed results, and their files: written by one version, read or refused by another.

result.json is one run, results.json the runs of a comparison, both with the number of the format.
Their keys are the fields of `RunResult` and of its parts, so the types are the schema
(`pydantic.TypeAdapter(RunResult).json_schema()`). Counts and energies are means per inference,
energies in nJ.

    run = read_result(Path("runs/x/result.json"))     # read_runs(Path("DIR/results.json")) for all
    run.accuracy, run.energy_nj.total, run.neurons[0].density, run.layers[0].energy_nj.ops
    run.baselines["ann"].total, run.crossover["qann"].where       # None for an ANN
    run.records                # to price it again: energy.twins.price_run(run.records, "sram8k")
    write_runs(folder / "results.json", [replace(run, name="other")])
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MinLen
from pydantic import TypeAdapter, ValidationError

from multispike.energy.pricing import LayerEnergy
from multispike.energy.twins import RunPrices
from multispike.errors import InputError, invalid
from multispike.files import known_fields, parse_json, plain_fields, to_plain, write_json
from multispike.layer_record import LayerRecord

FORMAT = 1
"""Raised by one whenever a key changes its meaning."""


# --- activity -----------------------------------------------------------------------------------

Route = Literal["direct", "shortcut", "sum"]


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """What one layer sends, or one way of a residual sum carries, over all timesteps."""

    name: str
    path: Route
    """"shortcut": neurons that only feed the shortcut of a sum; "sum": a sum of spikes."""
    shape: tuple[int, ...]
    timesteps: int
    events: float
    """Elements that are not zero."""
    amplitude: float
    """Sum of their levels; 0 for a ReLU."""

    @property
    def neurons(self) -> int:
        """Outputs at one timestep."""
        return math.prod(self.shape)

    @property
    def density(self) -> float:
        """Events per neuron and timestep."""
        return self.events / (self.neurons * self.timesteps)

    def to_dict(self) -> dict[str, Any]:
        return {**plain_fields(self), "neurons": self.neurons, "density": self.density}


@dataclass(frozen=True, kw_only=True)
class SpikeLayer(Crossing):
    """Spikes: of one layer of neurons, or at one residual sum."""

    levels: int
    """Largest level by construction (for neurons of other libraries: seen); 0 for a ReLU."""
    max_level: int
    histogram: tuple[float, ...] = ()
    """Outputs at each level 0..levels, over neurons and timesteps; empty for a ReLU."""
    decoded: tuple[float, ...] = ()
    """Neurons at each level summed over time, 0..levels·timesteps; empty if not known."""
    error_relu: float | None = None
    """Root mean square of the decoded output minus the ReLU of the mean input, in V_th; None
    where it was not asked for, or the neuron is not ours."""
    error_clipped: float | None = None
    """The same against the ReLU clipped at V_th: the error of the code alone."""


@dataclass(frozen=True, kw_only=True)
class Potentials(Crossing):
    """Values that are no spikes; their levels are |v| in levels of the neuron behind the sum (as
    they are where none is)."""

    largest: float
    """Largest |v|, in the same unit."""


@dataclass(frozen=True)
class ResidualSum:
    """Both ways into a residual sum and what comes out; None for potentials, unless asked for."""

    name: str
    direct: SpikeLayer | Potentials | None
    shortcut: SpikeLayer | Potentials | None
    total: SpikeLayer | Potentials | None
    """Before a barrier brings it back to {0..N}."""
    neuron: str | None
    """Name of the neurons that follow directly, whose row is among `Activity.neurons`."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one evaluation pass found out."""

    samples: int = 0
    """Test images; 0 where an older version did not say."""
    accuracy: float | None
    """None where targets are not class indices."""
    loss: float | None = None
    """Mean cross-entropy; None likewise."""
    neurons: tuple[SpikeLayer, ...]
    """All that is sent: neuron layers (or ReLUs), and sums of spikes that no neuron follows."""
    sums: tuple[ResidualSum, ...] = ()
    """All residual sums, in order."""
    confusion: tuple[tuple[int, ...], ...] | None = None
    """[target][prediction], on request."""
    not_counted: tuple[str, ...] = ()

    @property
    def events_per_inference(self) -> float:
        return sum(layer.events for layer in self.neurons)

    @property
    def amplitude_per_inference(self) -> float:
        return sum(layer.amplitude for layer in self.neurons)

    @property
    def density(self) -> float:
        """Events per neuron and timestep, over all that is sent."""
        places = sum(layer.neurons * layer.timesteps for layer in self.neurons)
        return self.events_per_inference / places if places else 0.0

    def totals(self) -> dict[str, float]:
        """What follows from the neurons and is written beside them."""
        names = ("events_per_inference", "amplitude_per_inference", "density")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class Activity(Measured):
    """The same, and what the energy model reads."""

    records: tuple[LayerRecord, ...]
    """In order of execution."""

    @property
    def spiking(self) -> bool:
        """Whether any neuron sends levels; event frames at the input do not make an ANN spike."""
        return any(layer.levels and layer.path != "sum" for layer in self.neurons)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists."""
        plain = {key: to_plain(value) for key, value in vars(self).items() if key != "records"}
        return {**plain, **self.totals(), "layers": to_plain([r.entry() for r in self.records])}


# --- results ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, repr=False)
class Evaluation(RunPrices, Measured):
    """All that one pass over labelled data can say, and what an inference costs."""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, as in a file; what is None is left out."""
        return {**super().to_json(), **self.totals()}

    @property
    def records(self) -> tuple[LayerRecord, ...] | None:
        """The layers as `price_run` needs them; None where an older version wrote the file."""
        records = tuple(layer.record for layer in self.layers if layer.record is not None)
        return records if len(records) == len(self.layers) else None


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What a figure was measured with."""

    version: str
    """Of multispike."""
    torch: str
    python: str = "?"
    cpu: str
    threads: int
    accelerator: str | None = None
    """That the network ran on; None for the CPU."""
    accelerator_gb: float | None = None
    """Its memory."""
    driver: str | None = None
    date: str

    def to_dict(self) -> dict[str, Any]:
        """As its file has it; what is None is left out."""
        return known_fields(self)


@dataclass(frozen=True, kw_only=True, repr=False)
class RunResult(Evaluation):
    """One run: what was trained, how well it does, what it sends and what it costs."""

    name: str
    arch: str
    data: str
    classes: tuple[str, ...] = ()
    neuron: str
    levels: int
    timesteps: int
    seed: int
    epochs: int
    params: int
    train_seconds: float
    images_per_second: float
    best_accuracy: float | None = None
    accuracy: Annotated[float, Ge(0), Le(1)]
    accuracy_flip: float | None = None
    """With the mean of the logits of each image and its mirror image."""
    layers: Annotated[tuple[LayerEnergy, ...], MinLen(1)]
    environment: Environment
    settings: dict[str, Any] | None = None
    """What decided the training, in the files of `multispike reproduce`."""

    @property
    def spiking(self) -> bool:
        """Whether it has spiking neurons, not ReLUs."""
        return self.neuron != "relu"

    def __post_init__(self) -> None:
        confusion = self.confusion or ()
        if any(len(row) != len(confusion) for row in confusion):
            raise ValueError("run.confusion is not square")

    def to_dict(self) -> dict[str, Any]:
        """The run as its file has it; what is None is left out."""
        plain = self.to_json()
        return {key: plain[key] for key in (*RunResult.__annotations__, *plain) if key in plain}


# --- files --------------------------------------------------------------------------------------


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


def write_result(path: Path, run: RunResult) -> None:
    """Write one run's result.json: {"format", ...run}."""
    write_json(path, {"format": FORMAT, **run.to_dict()})


def write_runs(path: Path, runs: Sequence[RunResult], **about: Any) -> None:
    """Write {"format", ...about, "runs": [...]}: a comparison's results.json, or a study's file."""
    write_json(path, {"format": FORMAT, **about, "runs": [run.to_dict() for run in runs]})


def read_runs(path: Path) -> list[RunResult]:
    """The runs of a file that `write_runs` wrote; raises `InputError` if it is missing, damaged, or
    of a format that this version does not know."""
    runs = _of_this_format(path).get("runs", [])
    if not isinstance(runs, list):
        raise InputError(f"results: got {str(path)!r} with runs {runs!r:.40}, allowed: a list")
    return [_typed(run, path) for run in runs]


def read_result(path: Path) -> RunResult:
    """One run's result.json; raises as `read_runs`."""
    return _typed(_of_this_format(path), path)


def read_json(path: Path) -> dict[str, Any]:
    """A file of results as it is; raises `InputError` if it is missing, or no JSON object."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"results: got {str(path)!r}, which does not exist") from None
    except ValueError as error:  # no JSON, no UTF-8, a number of thousands of digits
        raise InputError(f"results: got {str(path)!r}, which is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"results: got {str(path)!r}, allowed: a JSON object")
    return content


def _of_this_format(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise InputError(
            f"results: got {str(path)!r} of format {content.get('format')!r} (multispike"
            f" {_version(content)}), allowed: format {FORMAT}"
        )
    return content


@cache
def _run_type() -> TypeAdapter[RunResult]:
    return TypeAdapter(RunResult)


def _typed(run: Any, path: Path) -> RunResult:
    try:
        return _run_type().validate_json(json.dumps(run), strict=True)
    except ValidationError as error:
        raise InputError(
            f"results: got {str(path)!r} of multispike {_version(run)}, in which"
            f" {_misfit(error)}; allowed: a result of this version"
        ) from error


def _version(content: Any) -> str:
    """The first version that a damaged or foreign result names; "?" if none."""
    found = re.search(r'"version": "(.*?)"', json.dumps(content))
    return found[1] if found else "?"


def _misfit(error: ValidationError) -> str:
    """The first place at which a result does not fit its type, and what stands there."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "value_error":  # from the check of a part, which says where
        return str(first.get("ctx", {})["error"])
    places = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in first["loc"])
    where, reason = f"run{''.join(places)}", first["msg"].removeprefix("Input ")
    if first["type"] == "missing":
        return f"{where} is missing"
    return f"{where}: {first['input']!r:.40} {reason}"
