"""Several seeds of one setting: how they are told, grouped, averaged and shown."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from processes import started, wait_until
from test_cli import QUICK, refused

from multispike.cli import main
from multispike.report.comparison import Comparison, findings, read_comparison
from multispike.report.document import Mean
from multispike.report.page import SECTIONS
from multispike.report.seeds import count, grouped, summary
from multispike.results import RunResult, read_runs

DEMO = read_runs(Path(__file__).parent.parent / "results" / "demo.json")
ANN, _, GRADED = DEMO


def made(run: RunResult, accuracy: float, seed: int, **more: Any) -> RunResult:
    """A run with another accuracy, and with as many more events as its seed says."""
    rows = tuple(
        replace(row, events=row.events + seed, max_level=row.max_level + seed)
        for row in run.neurons
    )
    settings = {"neuron": run.neuron, "timesteps": run.timesteps, "seed": seed}
    changed = {"name": f"{run.name}-s{seed}", "accuracy": accuracy, "neurons": rows}
    return replace(run, **{**changed, "seed": seed, "settings": settings, **more})


SEEDS = [made(GRADED, accuracy, seed) for seed, accuracy in enumerate((0.97, 0.98, 0.96))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of two seeds, killed in its third run and gone on with."""
    out = tmp_path_factory.mktemp("seeds") / "dir"
    words = ["compare", "--variants", "ann,multilevel-T1-N4", *QUICK, "--seeds", "0,1"]
    words += ["--out", str(out)]
    process = started(main, words)
    wait_until((out / "ann-s1" / "config.yaml").exists, process.is_alive)
    process.kill()
    process.join()
    before = (out / "ann-s0" / "last.ckpt").stat().st_mtime_ns
    assert main(words) == 0
    assert (out / "ann-s0" / "last.ckpt").stat().st_mtime_ns == before
    return out


@pytest.mark.parametrize(
    "seeds", ["", ",", "0,0", "1,01", "0,,1", "0,x", "1.5", "-1", "4294967296"]
)
@pytest.mark.parametrize("command", ["train", "compare"])
def test_seeds_that_are_none_are_refused(command: str, seeds: str, capsys: Any) -> None:
    line = refused(capsys, command, f"--seeds={seeds}")
    expected = f"seeds: got {seeds!r}, allowed: different integers in [0, 2^32), comma-separated\n"
    assert line == f"multispike: {expected}"


@pytest.mark.parametrize("words", [["--seed", "0", "--seeds", "0,1"], ["--seeds=0,1", "--seed=3"]])
def test_seed_and_seeds_are_not_taken_together(words: list[str], capsys: Any) -> None:
    for command in ("train", "compare"):
        line = refused(capsys, command, *words)
        assert "seeds: got '0,1', allowed: one of --seed and --seeds, not both" in line


def test_a_group_has_the_mean_and_the_sample_standard_deviation() -> None:
    other = made(ANN, 0.99, 0)
    group, alone = grouped([SEEDS[2], other, *SEEDS[:2]])
    assert (group.name, group.seeds, alone.name) == ("multilevel-T1-N4", [0, 1, 2], "ann")
    accuracy = group.of(lambda run: run.accuracy)
    assert isinstance(accuracy, Mean)
    assert accuracy == pytest.approx(0.97)
    assert accuracy.spread == pytest.approx(0.01)
    events = group.of(lambda run: run.events_per_inference)
    each = [run.events_per_inference for run in SEEDS]
    assert (events, events.spread) == (fmean(each), stdev(each))  # pyright: ignore[reportAttributeAccessIssue]
    assert group.mean.events_per_inference == pytest.approx(fmean(each))
    assert group.mean.name == "multilevel-T1-N4"
    assert group.mean.neurons[0].max_level == SEEDS[2].neurons[0].max_level  # the largest
    assert group.mean.crossover == GRADED.crossover
    assert alone.mean == replace(other, name="ann")
    assert not isinstance(alone.of(lambda run: run.accuracy), Mean)


def test_what_differs_in_more_than_the_seed_is_no_group() -> None:
    first, second, third = SEEDS
    settings = {**(second.settings or {}), "lr": 0.1}
    for strange in (
        replace(second, settings=settings),
        replace(second, settings=None),  # of a version that did not say
        replace(second, name="other-s1"),
        replace(second, name=f"{GRADED.name}-s0", seed=0),  # measured twice
    ):
        assert [len(group.runs) for group in grouped([first, strange, third])] == [2, 1]


def test_results_say_mean_and_spread_beside_the_runs(folder: Path) -> None:
    content = json.loads((folder / "results.json").read_text())
    names = ["ann-s0", "multilevel-T1-N4-s0", "ann-s1", "multilevel-T1-N4-s1"]
    assert [run["name"] for run in content["runs"]] == names
    assert [run["seed"] for run in content["runs"]] == [0, 0, 1, 1]
    for name in names:
        own = json.loads((folder / name / "result.json").read_text())
        assert own in [{"format": 1, **run} for run in content["runs"]]
    assert [group["name"] for group in content["groups"]] == ["ann", "multilevel-T1-N4"]
    for group in content["groups"]:
        assert group["seeds"] == [0, 1]
        runs = [run for run in content["runs"] if run["name"].startswith(group["name"])]
        for name in ("accuracy", "events_per_inference", "train_seconds"):
            values = [run[name] for run in runs]
            expected = {"mean": fmean(values), "spread": stdev(values)}
            assert group[name] == pytest.approx(expected)
    assert summary(DEMO) == {}


def test_the_table_has_mean_and_spread(folder: Path, capsys: Any) -> None:
    words = ["--variants", "ann,multilevel-T1-N4", *QUICK, "--seeds", "0,1", "--out", str(folder)]
    assert main(["compare", *words]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    rows = re.findall(r"(ann|multilevel-T1-N4) +(\d) +(0\.\d{4})±(0\.\d{4}) ", printed)
    ann, graded = grouped(read_runs(folder / "results.json"))
    assert rows == [
        (group.name, "2", f"{mean:.4f}", f"{mean.spread:.4f}")
        for group in (ann, graded)
        if isinstance(mean := group.of(lambda run: run.accuracy), Mean)
    ]


def said(*runs: RunResult) -> str:
    kinds = findings(Comparison(list(runs), {}, {}))
    return "\n".join(finding.text for kind in kinds for finding in kind)


def test_findings_are_of_the_means_and_name_what_is_within_the_spread() -> None:
    anns = [made(ANN, accuracy, seed) for seed, accuracy in enumerate((0.98, 0.99, 0.97))]
    close = said(*anns, *SEEDS)
    leads = "ann leads with 98.00 ± 1.00 %, 1.00 points above multilevel-T1-N4"
    assert f"{leads}, within the spread of the seeds and less than twice the sampling" in close
    assert "multilevel-T1-N4 is 1.00 points less accurate than ann" in close
    assert close.count("no proof of a difference") == 2
    far = [replace(run, accuracy=run.accuracy - 0.05) for run in SEEDS]
    assert "within the spread" not in said(*anns, *far)
    assert "within the spread" not in said(anns[0], SEEDS[0])  # one seed has none
    costly = replace(ANN.energy_nj, ops=ANN.energy_nj.ops + 1e3)
    other = [replace(run, name=f"other-s{run.seed}", energy_nj=costly) for run in anns]
    other[0] = replace(other[0], energy_nj=replace(costly, ops=costly.ops + 1e4))
    assert "against other (within the spread of the seeds)" in said(*anns, *other)


def test_the_report_shows_means_with_error_bars(folder: Path) -> None:
    data = read_comparison(folder)
    assert [(run.name, count(run)) for run in data.runs] == [("ann", 2), ("multilevel-T1-N4", 2)]
    sections = {section.title: section for build in SECTIONS if (section := build(data))}
    [table] = sections["Results"].tables
    cells = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    shown = [{column.title: column.show(v) for column, v in row.items()} for row in cells]
    for row in shown:
        assert row["n"] == "2"
        assert re.fullmatch(r"\d+\.\d\d ± \d+\.\d\d%", row["accuracy"])
    assert [" ± " in row["energy, µJ"] for row in shown] == [False, True]  # an ANN's is always one
    for title in ("Results", "Energy by category", "Energy by layer", "Against ANNs", "Density",
                  "Information", "Training"):  # fmt: skip
        panels = [one for plot in sections[title].plots for one in plot.panels.values()]
        assert any('"error_' in str(one.to_json()) for one in panels), title
    environment, settings = sections["Environment"].tables
    assert [row[1] for row in environment.rows] == ["0", "0", "1", "1"]
    assert ("seed", "0, 1", "0, 1") in settings.rows
    assert "all seeds" in sections["Confusion"].paragraphs[0]


def test_train_with_seeds_leaves_what_report_reads(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "dir"
    words = ["train", "--neuron", "relu", *QUICK, "--seeds", "3,5", "--out", str(out)]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert re.search(r"ann +2 +0\.\d{4}±0\.\d{4} ", captured.out)
    assert f"report: {out / 'report.html'}" in captured.err
    assert "allowed: another folder, or --resume, or --overwrite" in refused(capsys, *words)
    assert main([*words, "--resume"]) == 0
    again = ["report", f"{out / 'ann-s3'},{out / 'ann-s5'}", "--out", str(tmp_path / "again")]
    for words in (["report", str(out), "--out", str(tmp_path / "whole")], again):
        capsys.readouterr()
        assert main(words) == 0
        assert re.search(r"ann +2 +0\.\d{4}±0\.\d{4} ", capsys.readouterr().out)
        runs = read_runs(Path(words[-1]) / "results.json")
        assert [(run.name, run.seed) for run in runs] == [("ann-s3", 3), ("ann-s5", 5)]
        assert "seeds 3 and 5" in (Path(words[-1]) / "report.html").read_text(encoding="utf-8")


def test_a_single_seed_is_a_run_as_ever(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(["train", "--neuron", "relu", *QUICK, "--seeds", "7", "--out", str(out)]) == 0
    content = json.loads((out / "result.json").read_text())
    assert (content["name"], content["seed"]) == ("ann", 7)
    # Trained one by one and put together: seeds of one setting, also without names that say so.
    other = tmp_path / "other"
    assert main(["train", "--neuron", "relu", *QUICK, "--seed", "8", "--out", str(other)]) == 0
    report = tmp_path / "report"
    assert main(["report", f"{out},{other}", "--out", str(report)]) == 0
    assert [group.seeds for group in grouped(read_runs(report / "results.json"))] == [[7, 8]]
