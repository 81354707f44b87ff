"""report.html of a compare directory: a table of sections, one row a subject."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from multispike.files import write_text
from multispike.report.activity_sections import avalanche, density, information
from multispike.report.comparison import Comparison, read_comparison
from multispike.report.document import Content, Section
from multispike.report.energy_sections import (
    accuracy_energy,
    energy_by_category,
    energy_by_layer,
    twins,
)
from multispike.report.page import render
from multispike.report.run_sections import (
    assumptions,
    confusion,
    environment,
    neurons,
    overview,
    training,
)
from multispike.results import RunResult


@dataclass(frozen=True)
class Row:
    """A section: its anchor, its heading, and what fills it."""

    key: str
    title: str
    build: Callable[[Comparison], Content]


SECTIONS = (
    Row("results", "Results", overview),
    Row("front", "Accuracy and energy", accuracy_energy),
    Row("categories", "Energy by category", energy_by_category),
    Row("layers", "Energy by layer", energy_by_layer),
    Row("baselines", "Against ANNs", twins),
    Row("density", "Density", density),
    Row("avalanche", "Avalanche", avalanche),
    Row("information", "Information", information),
    Row("neurons", "Neurons", neurons),
    Row("training", "Training", training),
    Row("confusion", "Confusion", confusion),
    Row("assumptions", "Assumptions", assumptions),
    Row("environment", "Environment", environment),
)
"""The report, from top to bottom; a new section is a new row."""


def write_report(folder: str | Path, places: Mapping[str, Path] | None = None) -> Path:
    """Write DIR/report.html from DIR/results.json and the runs' folders.

    One file that needs no network: styles, scripts and data are inside.

    Args:
        folder: DIR.
        places: name -> folder of the run; by default DIR/NAME.

    Raises:
        InputError: if results.json is missing, damaged, empty or of another version.
    """
    data = read_comparison(folder, places)
    first = data.runs[0]
    sections = [Section(row.key, row.title, row.build(data)) for row in SECTIONS]
    tested = f" {first.samples:,} test images." if first.samples else ""
    lead = (
        f"{_shared(data.runs)}.{tested} Energy by the model {first.energy_nj.profile} at"
        f" {first.energy_nj.bits} bit."
    )
    made = first.environment
    footer = f"Measured with multispike {made.version}, {made.date}."
    archs = ", ".join(dict.fromkeys(run.arch for run in data.runs))
    path = Path(folder) / "report.html"
    write_text(path, render(f"{archs} on {first.data}", lead, sections, footer))
    return path


def _shared(runs: Sequence[RunResult]) -> str:
    """How many runs there are, and what they have in common."""

    def all_of(key: str) -> str:
        return " and ".join(dict.fromkeys(str(getattr(run, key)) for run in runs))

    count = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
    return f"{count} of {all_of('arch')}, seed {all_of('seed')}, {all_of('epochs')} epochs"
