"""The pages: report.html of a comparison, avalanche.html of a study of residual networks.

Each is one file that needs no network: styles, scripts and data are inside."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from multispike import __version__
from multispike.activity.avalanche import Avalanche
from multispike.config.commands import AvalancheConfig
from multispike.environment import environment
from multispike.files import write_json, write_text
from multispike.report import energy_sections, run_sections
from multispike.report.avalanche import avalanche, study_sections
from multispike.report.comparison import Comparison, read_comparison
from multispike.report.document import Section, listed
from multispike.report.style import DASHES, PAGE, SYMBOLS, dark_colours

SECTIONS: tuple[Callable[[Comparison], Section | None], ...] = (
    run_sections.overview,
    energy_sections.by_category,
    energy_sections.by_layer,
    energy_sections.twins,
    run_sections.density,
    avalanche,
    run_sections.information,
    run_sections.training,
    run_sections.confusion,
    energy_sections.assumptions,
    run_sections.versions,
)
"""The report of a comparison, from top to bottom; None for what its results don't hold."""

GLOSSARY = {
    "avalanche": "activity that grows from block to block, as levels add up along a shortcut",
    "density": "share of neurons that send something, per neuron and timestep",
    "event": "one spike that is not zero, whatever its level",
    "level": "the integer z that a spike carries, 0 to N",
    "N": "the largest level of a spike; with N = 1 spikes are binary",
    "Pareto front": "the runs that no other one beats in accuracy for no more energy",
    "payload": "the bits of an event that tell its level",
    "QANN": "an ANN whose activations are quantised to few bits",
    "quantised ANN": "an ANN whose activations are quantised to few bits",
    "T": "timesteps that a network takes for one input",
    "V_th": "threshold: the input that a neuron needs to send its largest level at once",
    "zero-skipping": "leaving out multiplications by zero and the reads of their weights",
}
"""Terms that the page explains where they stand first in a section."""


def write_report(folder: str | Path, places: Mapping[str, Path] | None = None) -> Path:
    """Write DIR/report.html; arguments and errors as of `read_comparison`."""
    data = read_comparison(folder, places)
    runs, first = data.every, data.every[0]

    def all_of(key: str) -> str:
        return listed(list(dict.fromkeys(str(getattr(run, key)) for run in runs)))

    several = len({run.seed for run in runs}) > 1
    means = " Mean ± sample standard deviation over seeds." if len(data.runs) < len(runs) else ""
    tested = f" {first.samples:,} test images." if first.samples else ""
    lead = (
        f"{len(runs)} run{'s' if len(runs) > 1 else ''} of {all_of('arch')},"
        f" seed{'s' if several else ''} {all_of('seed')}, {all_of('epochs')} epochs.{means}{tested}"
        f" Energy by the model {first.energy_nj.profile} at {first.energy_nj.bits} bit."
    )
    sections = [section for build in SECTIONS if (section := build(data))]
    footer = f"Measured with multispike {first.environment.version}, {first.environment.date}."
    archs = {run.arch for run in runs}
    networks = all_of("arch") if len(archs) < 3 else f"{len(archs)} architectures"
    path = Path(folder) / "report.html"
    write_text(path, render(f"{networks} on {first.data}", lead, sections, footer))
    return path


def write_avalanche(folder: Path, studies: Sequence[Avalanche], settings: AvalancheConfig) -> Path:
    """Write avalanche.json and avalanche.html; gives the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    made = environment()
    content = {
        "data": settings.data,
        "seed": settings.seed,
        "networks": [study.to_dict() for study in studies],
        "environment": made,
    }
    write_json(folder / "avalanche.json", content)
    lead = (
        f"Untrained networks on {settings.data} (random weights, seed {settings.seed}; batch"
        " normalisation with the statistics of real batches), and trained runs on their own data;"
        f" means over at most {settings.limit:,} test samples."
    )
    footer = ", ".join(f"{key} {value}" for key, value in made.items())
    title, path = "The spike avalanche along depth", folder / "avalanche.html"
    write_text(path, render(title, lead, study_sections(studies), footer))
    return path


def render(title: str, lead: str, sections: Sequence[Section], footer: str) -> str:
    """The page as a string. All text is escaped; a content security policy forbids any request."""
    licence, plotly = _plotly()
    templates = Environment(
        loader=PackageLoader("multispike", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    table = vars(templates.get_template("table.html.j2").module)["data_table"]
    figures, tables = {}, {}
    for section in sections:
        for i, plot in enumerate(section.plots, 1):
            tables[f"{section.key}-{i}-table"] = table(plot.table)
            for j, figure in enumerate(plot.panels.values(), 1):
                figures[f"{section.key}-{i}-{j}"] = figure.to_dict()
    data = json.dumps({"figures": figures, "tables": tables}, separators=(",", ":"))
    return templates.get_template("page.html.j2").render(
        title=title,
        lead=lead,
        sections=sections,
        footer=footer,
        version=__version__,
        page=PAGE,
        dark=dark_colours(),
        symbols=SYMBOLS,
        dashes=DASHES,
        glossary=GLOSSARY,
        licence=licence,
        plotly=plotly,
        data=_packed(data),
        explained=_explained,
    )


def _explained(section: Section) -> Callable[[str], Markup]:
    """Marks the terms of the glossary in texts of a section, each where it stands first."""
    left = dict(GLOSSARY)

    def marked(match: re.Match[str]) -> str:
        meaning = left.pop(match[0], None)
        if meaning is None:
            return match[0]
        return f'<dfn tabindex="0" data-meaning="{escape(meaning)}">{match[0]}</dfn>'

    terms = sorted(GLOSSARY, key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w·{{-])({'|'.join(map(re.escape, terms))})(?![\w·-])")
    return lambda text: Markup(pattern.sub(marked, str(escape(text))))


@cache
def _plotly() -> tuple[Markup, Markup]:
    """plotly.js: the notice of its licence, and all of it compressed."""
    from plotly.offline import get_plotlyjs

    source = get_plotlyjs()
    return Markup(source[: source.index("*/") + 2]), _packed(source)


def _packed(text: str) -> Markup:
    """Text compressed, for a script element: page.js unpacks it.

    The bytes become characters of seven bits, which UTF-8 keeps at one byte each (base64 has six);
    those that HTML would change, NUL, CR and <, have an eighth.
    """
    bits = np.unpackbits(np.frombuffer(gzip.compress(text.encode(), mtime=0), np.uint8))
    sevens = np.packbits(np.pad(bits, (0, -len(bits) % 7)).reshape(-1, 7), axis=1) >> 1
    codes = {code: code + 128 for code in b"\0\r<"}
    return Markup(sevens.tobytes().decode("ascii").translate(codes))
