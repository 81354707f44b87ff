"""The report: what it says follows from the numbers, and its pages work in a real browser."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, DEADLINE, Browser
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from multispike import __version__, create_model
from multispike.commands.avalanche import avalanche
from multispike.commands.train import compare
from multispike.config import CompareConfig
from multispike.config.commands import AvalancheConfig
from multispike.energy.pricing import NetworkEnergy
from multispike.energy.twins import Crossover
from multispike.errors import InputError
from multispike.progress import progress_bar
from multispike.report.comparison import Comparison, findings, pareto_front, read_comparison
from multispike.report.document import Column, Section, Table, give, short_name, terminal_table
from multispike.report.page import GLOSSARY, SECTIONS, write_report
from multispike.report.run_sections import information
from multispike.report.style import BASELINE_COLOURS, CATEGORIES, PAGE, dark_colours, marks
from multispike.results import FORMAT, RunResult, read_runs, write_runs

SMALL = CompareConfig(
    data="digits", epochs=2, limit_train=64, limit_test=40, batch_size=32, threads=1
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real comparison of a residual network."""
    out = tmp_path_factory.mktemp("compare")
    variants = "ann,binary-T2,multilevel-T1-N2"
    assert compare(replace(SMALL, arch="sew_resnet20", variants=variants, out=str(out))) == 0
    return out


@pytest.fixture(scope="module")
def pages(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both kinds of page."""
    out = tmp_path_factory.mktemp("avalanche")
    avalanche(AvalancheConfig(arch="sew_resnet20,ms_resnet20", limit=20, out=str(out)))
    return {"report": folder / "report.html", "avalanche": out / "avalanche.html"}


@pytest.fixture
def data(folder: Path) -> Comparison:
    return read_comparison(folder)


DEMO = read_runs(Path(__file__).parent.parent / "results" / "demo.json")
"""Results of today's format, to be changed where a test asks for it."""


def priced(nj: float) -> NetworkEnergy:
    return NetworkEnergy(ops=nj, profile="lemaire2022", bits=32)


def result(
    name: str, accuracy: float, nj: float, *, events: float = 100.0, **more: Any
) -> RunResult:
    """A spiking run, but for what is given without prices of ANNs of its shape."""
    bare: dict[str, Any] = dict.fromkeys(("baselines", "crossover", "even_density"))
    changed = {
        "name": name, "levels": 4, "timesteps": 1, "accuracy": accuracy, "samples": 0,
        "energy_nj": priced(nj), "neurons": (replace(DEMO[-1].neurons[0], events=events),),
        **bare, **more,
    }  # fmt: skip
    return replace(DEMO[-1], **changed)


def ann(accuracy: float, nj: float) -> RunResult:
    return result("ann", accuracy, nj, neuron="relu", levels=0)


def said(*runs: RunResult) -> str:
    kinds = findings(Comparison(list(runs), {}, {}))
    return "\n".join(finding.text for kind in kinds for finding in kind)


def sections(data: Comparison) -> list[Section]:
    return [section for build in SECTIONS if (section := build(data))]


# --- what it says -------------------------------------------------------------------------------


def test_losses_are_named_as_losses() -> None:
    text = said(ann(0.95, 100e3), result("snn", 0.90, 250e3))
    assert "snn is 5.00 points less accurate than ann and needs 2.50 times as much energy" in text
    assert "it loses both" in text
    assert "ann leads with 95.00 %" in text
    assert "ann needs least, 100 µJ" in text


@pytest.mark.parametrize(
    ("accuracy", "nj", "verdict"),
    [
        (0.96, 50e3, "it wins both"),
        (0.90, 50e3, "it loses accuracy and wins energy"),
        (0.96, 200e3, "it wins accuracy and loses energy"),
        (0.95, 200e3, "it loses energy"),
        (0.95, 50e3, "it wins both"),
    ],
)
def test_verdict_against_the_ann(accuracy: float, nj: float, verdict: str) -> None:
    assert verdict in said(ann(0.95, 100e3), result("snn", accuracy, nj))


def test_graded_against_binary() -> None:
    binary = result("binary-T4", 0.90, 300e3, levels=1, timesteps=4)
    graded = result("multilevel-T1-N4", 0.92, 100e3, events=75.0)
    text = said(binary, graded)
    assert "against binary-T4: 3.00 times less energy, 25% fewer events, accuracy +2.00" in text


def test_a_difference_within_chance_is_no_win() -> None:
    # 100 images: a standard error of 3 points each
    close = said(result("a", 0.90, 1e3, samples=100), result("b", 0.89, 1e3, samples=100))
    far = said(result("a", 0.90, 1e3, samples=100), result("b", 0.5, 1e3, samples=100))
    assert "no proof of a difference" in close
    assert "no proof" not in far
    assert "lead together" in said(result("a", 0.9, 1e3), result("b", 0.9, 2e3))


def test_zero_skipping_ann_that_wins_is_named() -> None:
    prices = {"ann": priced(400e3), "qann": priced(200e3), "qann_skip": priced(50e3)}
    crossover = {"ann": Crossover("ann", None), "qann_skip": Crossover("qann_skip", (0.0, 0.1))}
    text = said(result("snn", 0.9, 100e3, baselines=prices, crossover=crossover, even_density=0.23))
    assert "4.00 times less than the dense ANN" in text
    assert "2.00 times as much as the zero-skipping quantised ANN (50 µJ)" in text
    assert "it loses against 1 of 3" in text
    assert "needs less than the dense ANN at no density and" in text
    assert "less than the zero-skipping quantised ANN below density 0.1; its events" in text
    assert "its events cost what density 0.230 would" in text


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(1, 1e9)), min_size=1, max_size=20))
def test_pareto_front_holds_exactly_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    runs = [result(str(index), a, e) for index, (a, e) in enumerate(points)]
    front = pareto_front(runs, lambda run: run.total_nj, lambda run: run.accuracy)

    def beats(a: RunResult, b: RunResult) -> bool:
        pairs = [(run.accuracy, -run.total_nj) for run in (a, b)]
        return pairs[0] != pairs[1] and all(x >= y for x, y in zip(*pairs, strict=True))

    assert not any(beats(a, b) for a in front for b in front)
    covered = {(run.accuracy, run.total_nj) for run in front}
    for run in runs:
        if (run.accuracy, run.total_nj) not in covered:
            assert any(beats(other, run) for other in front)


# --- how it looks -------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """WCAG 2 relative luminance of '#rrggbb'."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_colours_stand_out_from_the_page(mode: int) -> None:
    panel, page = PAGE["panel"][mode], PAGE["background"][mode]
    dark = dark_colours()
    for mark in marks([str(index) for index in range(8)]).values():
        assert contrast((mark.colour, dark[mark.colour])[mode], panel) >= 3  # WCAG 1.4.11, graphics
    for name in ("text", "muted", "accent"):
        for ground in (panel, page):
            assert contrast(PAGE[name][mode], ground) >= 4.5  # WCAG 1.4.3, text


def test_every_light_colour_has_one_partner() -> None:
    pairs = [
        *PAGE.values(),
        *(part.colours for part in CATEGORIES.values()),
        *BASELINE_COLOURS.values(),
    ]
    assert len({light for light, _ in pairs}) == len(pairs)
    assert all(dark_colours()[light] == dark for light, dark in pairs)


def test_a_run_keeps_its_mark_and_no_two_look_the_same() -> None:
    drawn = marks([str(index) for index in range(30)])
    looks = {(mark.colour, mark.symbol, mark.dash) for mark in drawn.values()}
    assert len(looks) == 30
    assert len({mark.colour for mark in list(drawn.values())[:8]}) == 8


@pytest.mark.parametrize("arch", ["fastnet", "vgg16", "sparse_resnet18", "ms_resnet20"])
def test_short_names_stay_different(arch: str) -> None:
    names = [
        name for name, module in create_model(arch).named_modules() if not list(module.children())
    ]
    names = [name for name in names if re.search(r"conv|linear|pool|merge", name)]
    assert len({short_name(name) for name in names}) == len(names)


# --- what is in the page ------------------------------------------------------------------------


def test_every_plot_has_a_title_units_and_a_text_equivalent(data: Comparison) -> None:
    known = dark_colours()
    plots = [plot for section in sections(data) for plot in section.plots]
    assert len(plots) > 12
    assert sum(len(plot.panels) for plot in plots) > 20
    for plot in plots:
        assert plot.title
        assert len(plot.summary) > 20
        assert plot.table.rows
        assert len(plot.panels) == 1 or all(plot.panels)  # each has a heading
        for drawn in plot.panels.values():
            figure = json.loads(drawn.to_json())
            layout = figure["layout"]
            assert any(layout[axis].get("title", {}).get("text") for axis in ("xaxis", "yaxis"))
            assert layout["height"] >= 200
            for colour in re.findall(r"#[0-9a-f]{6}", json.dumps(figure)):
                assert colour in known


def test_each_run_has_one_colour_in_all_plots(data: Comparison) -> None:
    for section in sections(data):
        for plot in section.plots:
            for trace in (trace for figure in plot.panels.values() for trace in figure.data):
                if trace.name in data.marks:
                    assert trace.line.color == data.marks[trace.name].colour


def many(data: Comparison, count: int) -> Comparison:
    """That many runs, made of one."""
    one = data.spiking[-1]
    runs = [replace(one, name=f"run {index}") for index in range(count)]
    config, rows = data.settings[one.name], data.histories[one.name]
    return Comparison(runs, {run.name: config for run in runs}, {run.name: rows for run in runs})


def test_many_runs_have_a_panel_each_and_few_share_one(data: Comparison) -> None:
    few, lots = ({s.title: s for s in sections(many(data, count))} for count in (4, 8))
    for title in ("Density", "Training"):
        for plot in few[title].plots:
            [figure] = plot.panels.values()
            assert len(figure.data) == 4
        for plot in lots[title].plots:
            assert list(plot.panels) == [f"run {index}" for index in range(8)]
            for name, figure in plot.panels.items():
                assert [trace.name for trace in figure.data if trace.name] == [name]
                assert len(figure.data) == 8  # the others in grey
    assert len(lots["Results"].cards) <= 5


def test_layers_stand_in_the_order_of_their_own_network(data: Comparison) -> None:
    """Of networks with different layers, each has its panel."""
    mixed = many(data, 2)
    first = mixed.runs[0]
    turned = replace(first, name="turned", neurons=first.neurons[::-1])
    mixed = replace(mixed, every=[*mixed.runs, turned])
    [plot] = next(s for s in sections(mixed) if s.title == "Density").plots
    orders = {name: list(figure.layout.xaxis.categoryarray) for name, figure in plot.panels.items()}
    names = [short_name(row.name) for row in first.neurons]
    assert orders == {"run 0, run 1": names, "turned": names[::-1]}


def test_terms_are_explained_where_they_stand_first(pages: dict[str, Path]) -> None:
    html = pages["report"].read_text(encoding="utf-8")
    parts = html.split("<section")[1:]
    marked = [re.findall(r"<dfn [^>]*>(.*?)</dfn>", part) for part in parts]
    assert any(marked)
    for terms in marked:
        assert len(set(terms)) == len(terms)
        assert set(terms) <= GLOSSARY.keys()
    assert all(f"<dt>{term}</dt>" in html for term in GLOSSARY)


def test_tables_show_what_is_missing_as_a_dash(data: Comparison) -> None:
    tables: list[Table] = []
    for section in sections(data):
        tables += [*section.tables, *(plot.table for plot in section.plots)]
    for table in tables:
        for cells in table.cells():
            assert len(cells) == len(table.columns)
            assert not any(text in ("None", "nan") for text, _ in cells)


def test_names_are_no_markup(capsys) -> None:
    """Of networks, folders and classes; a tag that is closed only would end the command."""
    name = "[/b] [red]x"
    table = Table((Column("run"), Column("n", "d")), [(name, 1), (name,)], name)
    give(None, None, terminal_table(table, name), f"in {name}")
    assert capsys.readouterr().out.count(name) == 5
    bar = progress_bar(False)
    bar.add_task(name, total=1)
    Console(width=100).print(bar.get_renderable())
    assert name in capsys.readouterr().out


def test_page_is_one_file_that_asks_for_nothing(pages: dict[str, Path]) -> None:
    for page in pages.values():
        html = page.read_text(encoding="utf-8")
        assert len(html.encode()) < 2_000_000
        assert html.count("* plotly.js v") == 1
        assert "default-src 'none'" in html
        markup = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
        assert not re.search(r"(src|href)\s*=\s*[\"'](?!#)", markup)
        assert "url(" not in markup
        assert "@import" not in markup
        levels = [int(level) for level in re.findall(r"<h(\d)", markup)]
        assert levels[0] == 1
        assert set(levels[1:]) == {2}


def test_architecture_without_sums_has_no_avalanche(tmp_path: Path) -> None:
    settings = replace(
        SMALL, arch="fastnet", variants="multilevel-T1-N2", out=str(tmp_path), epochs=1
    )
    compare(settings)
    titles = [section.title for section in sections(read_comparison(tmp_path))]
    assert "Avalanche" not in titles
    assert "Density" in titles


def test_results_without_their_run_folders_still_make_a_report(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "results.json").write_bytes((folder / "results.json").read_bytes())
    page = write_report(tmp_path).read_text(encoding="utf-8")
    titles = re.findall(r"<h2 [^>]*>(.*?)</h2>", page)
    assert "Results" in titles
    assert "Training" not in titles  # what is not known is left out


# --- bad input ----------------------------------------------------------------------------------


def test_other_formats_damage_and_emptiness_are_refused(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for change, message in (
        ({**content, "format": 0}, "of format 0"),
        ({**content, "runs": []}, "without runs"),
        ([], "a JSON object"),
    ):
        (tmp_path / "results.json").write_text(json.dumps(change), encoding="utf-8")
        with pytest.raises(InputError, match=message):
            write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
    with pytest.raises(InputError, match="does not exist"):
        write_report(tmp_path / "nowhere")


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a result; of a list, its first item."""
    parts = value.items() if isinstance(value, dict) else enumerate(value[:1])
    for key, part in parts:
        yield (*at, key)
        if isinstance(part, (dict, list)):
            yield from places(part, (*at, key))


@pytest.fixture(scope="module")
def one_run(folder: Path) -> dict[str, Any]:
    """The last run of the comparison, as it stands in its file, with the first of its layers."""
    run = json.loads((folder / "results.json").read_text(encoding="utf-8"))["runs"][-1]
    return {**run, **{key: run[key][:1] for key in ("layers", "neurons", "sums")}}


def write_raw(folder: Path, run: dict[str, Any]) -> None:
    """A file of results with this run, whatever is in it."""
    content = {"format": FORMAT, "runs": [run]}
    (folder / "results.json").write_text(json.dumps(content), encoding="utf-8")


def complaint(folder: Path, run: dict[str, Any]) -> str:
    """Why results with this run are refused; empty where they are read."""
    write_raw(folder, run)
    try:
        read_comparison(folder)
    except InputError as error:
        return str(error)
    return ""


def test_a_result_with_anything_missing_or_odd_is_read_or_refused(
    one_run: dict[str, Any], tmp_path: Path
) -> None:
    """Every key taken away and every value replaced: read, or one line that names the version."""
    refused = 0
    for *where, last in places(one_run):
        for odd in ("gone", None, "odd", True):
            changed = deepcopy(one_run)
            inner: Any = changed
            for key in where:
                inner = inner[key]
            if odd == "gone":
                del inner[last]
            else:
                inner[last] = odd
            said = complaint(tmp_path, changed)
            refused += bool(said)
            assert "\n" not in said
            if said and "environment" not in (*where, last):
                assert f"multispike {__version__}" in said
    assert refused > 300


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layers": []}, r"run\.layers: \[\] "),
        ({"accuracy": 94.0}, r"run\.accuracy: 94\.0 should be less than or equal to 1"),
        ({"confusion": [[1, 0], [1]]}, r"run\.confusion is not square"),
    ],
)
def test_values_of_the_right_type_that_make_no_sense_are_refused(
    change: dict[str, Any], said: str, one_run: dict[str, Any], tmp_path: Path
) -> None:
    assert re.search(said, complaint(tmp_path, {**one_run, **change}))


def test_a_run_whose_decoded_levels_are_not_known_still_shows_the_rest(
    folder: Path, tmp_path: Path
) -> None:
    """Timesteps that came one by one: no bits, but events, levels in use and errors."""
    runs = read_runs(folder / "results.json")
    spiking = next(run for run in runs if run.neurons and run.spiking)
    rows = tuple(replace(row, decoded=()) for row in spiking.neurons)
    write_runs(tmp_path / "results.json", [replace(spiking, neurons=rows)])
    content = information(read_comparison(tmp_path))
    assert content is not None
    [row] = content.tables[0].rows
    assert row[-3] is None
    assert row[-1] is None
    assert row[-2] == pytest.approx(sum(row.events for row in spiking.neurons if row.path != "sum"))
    titles = [plot.title for plot in content.plots]
    assert "Levels in use" in titles
    assert "Error against the ReLU" in titles
    assert "Entropy per neuron" not in titles


def test_a_run_shows_how_its_verdict_turns_on_profile_and_execution(data: Comparison) -> None:
    [section] = [section for section in sections(data) if section.title == "Against ANNs"]
    [turns] = [table for table in section.tables if table.caption.startswith("What the verdict")]
    titles = [column.title for column in turns.columns]
    assert titles[:5] == [
        "run",
        *(f"lemaire2022, {op}" for op in ("mac", "repeat", "unroll", "bits")),
    ]
    assert titles[5:] == [
        f"{p}, mac" for p in ("castagnetti2025", "qualia", "spikingjelly", "sram8k")
    ]
    assert [row[0] for row in turns.rows] == [run.name for run in data.priced]
    graded = turns.rows[-1]
    assert graded[3] < graded[1]  # unrolled events cost more, so the ANN less in times of them


def test_a_report_can_do_without_what_need_not_be_there(
    one_run: dict[str, Any], tmp_path: Path
) -> None:
    needed = [key for key in one_run if complaint(tmp_path, {**one_run, key: {"no": "such"}})]
    spare = [key for key in one_run if not complaint(tmp_path, without(one_run, key))]
    assert {"baselines", "crossover", "assumptions", "confusion", "sums", "classes"} <= {*spare}
    assert {*spare} & {*needed}  # not there, or right
    for gone in [spare, *([key] for key in spare)]:
        write_raw(tmp_path, without(one_run, *gone))
        sections(read_comparison(tmp_path))


def without(run: dict[str, Any], *gone: str) -> dict[str, Any]:
    return {key: value for key, value in run.items() if key not in gone}


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("metrics.csv", "epoch,train_loss\n1,0.5\n", "without 'test_accuracy'"),
        ("metrics.csv", "epoch,test_accuracy\n1,high\n", "damaged table"),
        ("metrics.csv", "epoch,test_accuracy\n1\n", "damaged table"),
        ("config.yaml", "a: [", "not a YAML file"),
        ("config.yaml", "- 1", "a mapping of settings"),
    ],
)
def test_damaged_run_files_are_named(
    folder: Path, tmp_path: Path, file: str, text: str, message: str
) -> None:
    (tmp_path / "results.json").write_bytes((folder / "results.json").read_bytes())
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / file).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=f"{file}.*{message}"):
        write_report(tmp_path)


def test_a_name_that_is_a_path_does_not_leave_the_folder(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    content["runs"][0]["name"] = f"../{folder.name}/ann"
    inside = tmp_path.parent / folder.name / "here"
    inside.mkdir(parents=True, exist_ok=True)
    (inside / "results.json").write_text(json.dumps(content), encoding="utf-8")
    assert content["runs"][0]["name"] not in read_comparison(inside).settings


# --- in the browser -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    opened = Browser(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


SHAPES = [(1280, "light"), (390, "dark")]

FACTS = """({
    plots: document.querySelectorAll(".plot").length,
    drawn: [...document.querySelectorAll(".plot")].filter(
        plot => plot.querySelector(".overplot path, .overplot image")).length,
    overflow: document.documentElement.scrollWidth - innerWidth,
    outside: [...document.querySelectorAll("main *, header *")].filter(
        part => !part.closest(".scroll") && !part.closest("nav")
            && part.getBoundingClientRect().right > innerWidth + 1).length,
    first: document.querySelector(".plot").getBoundingClientRect().top + scrollY,
    background: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.querySelector(".plot .xtick text, .plot .ytick text")).fill,
    figures: document.querySelectorAll("figure").length,
    tables: [...document.querySelectorAll("figure table")].filter(
        table => table.tBodies[0].rows.length > 0).length,
})"""


@pytest.mark.parametrize(("width", "scheme"), SHAPES)
@pytest.mark.parametrize("kind", ["report", "avalanche"])
def test_page_is_drawn_without_errors_requests_or_overflow(
    browser: Browser, pages: dict[str, Path], kind: str, width: int, scheme: str
) -> None:
    browser.open(pages[kind], width, scheme)
    assert browser.problems() == []
    facts = browser.evaluate(FACTS)
    assert facts["plots"] == facts["drawn"] > 7
    assert facts["tables"] == facts["figures"] > 2
    assert facts["overflow"] == facts["outside"] == 0
    if kind == "report":
        assert facts["first"] < 900  # one screen before the first picture
    light = facts["background"] == "rgb(255, 255, 255)"
    assert light == (scheme == "light")
    assert facts["ink"] == ("rgb(87, 96, 108)" if light else "rgb(163, 172, 184)")


def test_colours_follow_the_system_while_the_page_is_open(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.open(pages["report"])
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.call("Emulation.setEmulatedMedia", features=features)
    wanted = "rgb(163, 172, 184)"
    end = time.monotonic() + DEADLINE
    while browser.evaluate(FACTS)["ink"] != wanted:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_names_from_a_file_are_text_not_code(
    browser: Browser, folder: Path, tmp_path: Path
) -> None:
    nasty = "</script><img src=x onerror=document.title='owned'>"
    content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for run in content["runs"]:
        run["name"] += nasty
        run["classes"] = [f"{index}{nasty}" for index in range(10)]
        run["arch"] = run["data"] = nasty
        run["environment"]["cpu"] = nasty
        run["layers"][0]["name"] = nasty
    (tmp_path / "results.json").write_text(json.dumps(content), encoding="utf-8")
    browser.open(write_report(tmp_path))
    assert browser.problems() == []
    facts = browser.evaluate(FACTS)
    assert facts["plots"] == facts["drawn"] > 5
    assert nasty in browser.evaluate("document.title")
    assert browser.evaluate("document.images.length") == 0
    assert nasty in browser.evaluate("document.querySelector('.plot .xtick text, h1').textContent")
