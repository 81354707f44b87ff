"""The pages: report.html of a comparison, avalanche.html of a study of residual networks.

Each is one file that needs no network: styles, scripts and data are inside.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from multispike import __version__
from multispike.activity.avalanche import Avalanche
from multispike.config.commands import AvalancheConfig
from multispike.environment import environment
from multispike.files import write_json, write_text
from multispike.report.avalanche import avalanche, density, study_png, study_sections
from multispike.report.comparison import Comparison, read_comparison
from multispike.report.document import Content, Section
from multispike.report.energy_sections import (
    accuracy_energy,
    assumptions,
    energy_by_category,
    energy_by_layer,
    twins,
)
from multispike.report.run_sections import (
    confusion,
    information,
    neurons,
    overview,
    training,
    versions,
)
from multispike.report.style import DASHES, PAGE, SYMBOLS, dark_colours

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Row(NamedTuple):
    """A section of a comparison: its anchor, its heading, and what fills it."""

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
    Row("environment", "Environment", versions),
)
"""The report of a comparison, from top to bottom; a new section is a new row."""


def write_report(folder: str | Path, places: Mapping[str, Path] | None = None) -> Path:
    """Write DIR/report.html from DIR/results.json and the runs' folders.

    Args:
        folder: DIR.
        places: name -> folder of the run; by default DIR/NAME.

    Raises:
        InputError: if results.json is missing, damaged, empty or of another version.
    """
    data = read_comparison(folder, places)
    runs, first = data.runs, data.runs[0]

    def all_of(key: str, separator: str = " and ") -> str:
        return separator.join(dict.fromkeys(str(getattr(run, key)) for run in runs))

    tested = f" {first.samples:,} test images." if first.samples else ""
    lead = (
        f"{len(runs)} run{'s' if len(runs) > 1 else ''} of {all_of('arch')}, seed {all_of('seed')},"
        f" {all_of('epochs')} epochs.{tested} Energy by the model {first.energy_nj.profile} at"
        f" {first.energy_nj.bits} bit."
    )
    sections = [Section(row.key, row.title, row.build(data)) for row in SECTIONS]
    made = first.environment
    footer = f"Measured with multispike {made.version}, {made.date}."
    path = Path(folder) / "report.html"
    write_text(path, render(f"{all_of('arch', ', ')} on {first.data}", lead, sections, footer))
    return path


def write_avalanche(folder: Path, studies: Sequence[Avalanche], settings: AvalancheConfig) -> Path:
    """Write avalanche.json, avalanche.png and avalanche.html; gives the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    made = environment()
    content = {
        "data": settings.data,
        "seed": settings.seed,
        "networks": [study.to_dict() for study in studies],
        "environment": made,
    }
    write_json(folder / "avalanche.json", content)
    study_png(folder / "avalanche.png", studies)
    lead = (
        f"Untrained networks on {settings.data} (random weights, seed {settings.seed}; batch"
        " normalisation with the statistics of real batches), and trained runs on their own data;"
        f" means over at most {settings.limit:,} test samples."
    )
    footer = ", ".join(f"{key} {value}" for key, value in made.items())
    path = folder / "avalanche.html"
    title = "The spike avalanche along depth"
    write_text(path, render(title, lead, study_sections(studies), footer))
    return path


def render(title: str, lead: str, sections: Sequence[Section], footer: str) -> str:
    """The page as a string. All text is escaped; a content security policy forbids any request."""
    from plotly.offline import get_plotlyjs

    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            lead=lead,
            sections=sections,
            footer=footer,
            version=__version__,
            page=PAGE,
            dark=dark_colours(),
            symbols=SYMBOLS,
            dashes=DASHES,
            plotly=Markup(get_plotlyjs()),
            theme=_script(json.dumps({"dark": dark_colours()}, separators=(",", ":"))),
            figure_json=_figure_json,
        )
    )


def _figure_json(figure: go.Figure) -> Markup:
    return _script(figure.to_json() or "{}")


def _script(text: str) -> Markup:
    """JSON that cannot end the script element it stands in."""
    return Markup(text.replace("<", r"\u003c"))


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("multispike", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
