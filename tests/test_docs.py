"""README.md and docs/: Python blocks run, commands parse, links lead somewhere, results are those
of the page that is generated.

A block that is not to be run is written indented, without ```python.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from jsonargparse import ActionYesNo

from multispike.cli import COMMANDS, main
from multispike.config.parser import Parser

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIALS = [p for p in PAGES if p.parent.name == "tutorials" or p.stem == "own-network"]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
WORDS = r"(?:.*\\\n)*.*"
COMMAND = re.compile(
    rf"^ {{4}}(multispike {WORDS})$"
    rf"|^(multispike (?:{'|'.join(COMMANDS)}) {WORDS})$"
    r"|`(multispike [^`]+)`",
    re.MULTILINE,
)


def found(pattern: re.Pattern[str], pages: list[Path] = PAGES) -> list:
    """Every match on the pages, with its page and line as the test's name."""
    return [
        pytest.param(
            match, id=f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}"
        )
        for page in pages
        for text in [page.read_text(encoding="utf-8")]
        for match in pattern.finditer(text)
    ]


@pytest.mark.parametrize("match", found(BLOCK, [p for p in PAGES if p not in TUTORIALS]))
def test_python_blocks_run(match, tmp_path, monkeypatch):
    """Each by itself, in a folder with nothing but the project's results."""
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(tmp_path)
    code = compile(match[1], "<documentation>", "exec")
    exec(code, {"__name__": "documentation"})


STEP = re.compile(r"^```(python|bash)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_tutorials_run(page, tmp_path, monkeypatch):
    """All blocks of a page in one folder, in order; those of Python share their names. Commands run
    in this process, which has loaded torch."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "tutorial"}
    for language, text in STEP.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            exec(compile(text, page.name, "exec"), names)
        else:
            for line in text.replace("\\\n", " ").splitlines():
                program, *words = shlex.split(line)
                if program == "multispike":
                    assert main(words) == 0, line
                else:
                    subprocess.run([program, *words], check=True)


def test_the_site_builds_without_a_warning(tmp_path):
    mkdocs = pytest.importorskip("mkdocs.__main__", reason="needs multispike[docs]")
    command = [sys.executable, "-m", mkdocs.__package__, "build", "--strict", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ">multispike train" in (tmp_path / "reference/cli/index.html").read_text("utf-8")


@pytest.mark.parametrize("match", found(COMMAND))
def test_commands_parse(match):
    """Every option that is shown exists, and what stands alone has a place; values may be
    placeholders."""
    command = next(filter(None, match.groups()))
    words = shlex.split(command.replace("\\\n", " "), comments=True)[1:]
    if words[0] in ("--help", "COMMAND"):
        return
    assert words[0] in COMMANDS
    parser = Parser(words[0], COMMANDS[words[0]][1])
    options = {name: action for action in parser._actions for name in action.option_strings}
    alone, rest = [], iter(words[1:])
    for word in rest:
        if not word.startswith("--"):
            alone.append(word)
        elif not isinstance(options[word], ActionYesNo) and options[word].nargs != 0:
            next(rest, None)
    assert len(alone) <= sum(not action.option_strings for action in parser._actions)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        ours = re.fullmatch(
            r"https://(?:raw\.|)github\S+?/multispike/multispike/(?:blob/)?main/(.+)", target
        )
        if ours:
            assert (ROOT / ours[1]).exists(), target
        if "://" not in target and target != "reference/cli.md":  # which the site generates
            assert (page.parent / target).exists(), target


def test_results_in_the_readme_are_those_of_the_results_page():
    """A row's figures stand together in one row of the generated table."""

    def rows(page: str, title: str) -> list[set[str]]:
        text = (ROOT / page).read_text(encoding="utf-8")
        lines = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0].splitlines()
        return [{cell.strip() for cell in line.split("|")} for line in lines if line[:1] == "|"]

    generated = rows("docs/results.md", "CIFAR-10")
    table = rows("README.md", "Results")[2:]
    shown = [{cell for cell in row if cell[:1].isdigit()} for row in table]
    assert len(shown) == 4
    assert all(any(figures <= row for row in generated) for figures in shown)
    energy = (ROOT / "docs" / "energy.md").read_text(encoding="utf-8")
    told = {f"{number}" for number in re.findall(r"(\d+,\d{3}) µJ", energy)}
    assert len(told) == 3
    assert told <= set().union(*generated)


PEERS = (
    ("neuron/sigmoid T=4 N=1", "neuron/spikingjelly IF T=4"),
    ("neuron/sigmoid T=4 N=1", "neuron/snntorch Leaky T=4"),
    ("training/vgg11 T=4 N=1", "training/spikingjelly vgg11 T=4"),
    ("training/vgg11 T=1 N=4", "training/spikingjelly vgg11 T=4"),
    ("memory/vgg11 T=4 N=1", "memory/spikingjelly vgg11 T=4"),
)


def test_ratios_in_the_readme_are_those_of_their_file():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = text.partition("\n## Beside other libraries\n")[2].partition("\n## ")[0].splitlines()
    shown = [line.split("|")[3].strip() for line in lines if line[:1] == "|"][2:]
    speed = json.loads((ROOT / "results" / "speed.json").read_text())
    found = {(row["case"], row["reference"]): row["median"] for row in speed["ratios"]}
    assert shown == [f"{found[pair]:.3f}" for pair in PEERS]
    runs = json.loads((ROOT / "results" / "table-cifar10.json").read_text())["runs"]
    priced = [
        run["energy_nj_profiles"]["castagnetti2025"]
        for run in runs
        if run["name"] == "multilevel-T1-N4"
    ]
    skipping = sum(each["baselines"]["qann_skip"]["total"] for each in priced)
    ratio = skipping / sum(each["energy_nj"]["total"] for each in priced)
    assert f"({ratio:.2f} times as much under castagnetti2025)" in text


def test_the_demo_in_the_readme_is_that_of_its_file():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    runs = json.loads((ROOT / "results" / "demo.json").read_text())["runs"]
    for run in runs:
        cells = [
            f"{run['accuracy']:.4f}",
            "-" if run["neuron"] == "relu" else f"{run['events_per_inference']:,.0f}",
            f"{run['density']:.3f}", f"{run['energy_nj']['total'] / 1e3:,.0f}",
            f"{run['train_seconds'] / run['epochs']:.1f}", f"{run['images_per_second']:,.0f}",
        ]  # fmt: skip
        assert re.search(rf"{run['name']} +{' +'.join(cells)}\n", text)
    assert f"{sum(run['train_seconds'] for run in runs):.0f} s of training" in text
    seeds = json.loads((ROOT / "results" / "demo-seeds.json").read_text())
    _, binary, graded = seeds["groups"]
    shares = ["{mean:.4f} ± {spread:.4f}".format(**one["accuracy"]) for one in seeds["groups"]]
    nj = {
        one["name"]: f"{one['total_nj']['mean'] / 1e3:,.0f} ± {one['total_nj']['spread'] / 1e3:.0f}"
        for one in (binary, graded)
    }
    text = text.replace("\n", " ")
    assert f"{shares[0]}, {shares[1]} and {shares[2]}" in text
    assert f"{nj[graded['name']]} µJ in one timestep where four take {nj[binary['name']]}" in text


def test_the_emulated_events_in_the_docs_are_those_of_their_file():
    text = (ROOT / "docs" / "events.md").read_text(encoding="utf-8").replace("\n", " ")
    found = json.loads((ROOT / "results" / "stream.json").read_text())["emulator"]["measured"]
    events = found["events_at_128"]
    assert (
        f"{events['images']} images of CIFAR-10 give {events['mean']:,.0f} events each (standard"
        f" deviation {events['deviation']:,.0f}), {100 * events['on_share']:.1f} %"
    ) in text


def test_launches_are_those_of_the_file():
    content = json.loads((ROOT / "results/launches.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs/speed.md").read_text(encoding="utf-8")
    relu = {row["arch"]: row["eager"] for row in content["steps"] if row["neuron"] == "relu"}
    for row in content["steps"]:
        if row["neuron"] != "relu":
            columns = ("timesteps", "levels", "eager", "compiled")
            t, n, eager, compiled = (f"{row[column]:,}" for column in columns)
            figures = (row["arch"], t, n, f"{relu[row['arch']]:,}", eager, compiled)
            assert f"| {' | '.join(figures)} |" in page
