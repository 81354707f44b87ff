"""The comparison of the neuromorphic data set, from the authors' files to report and stream."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from test_events_recordings import aedat2

from multispike.cli import main
from multispike.datasets.event_sets import CIFAR10 as CLASSES
from multispike.datasets.event_sets import numbers_of_test
from multispike.events.read import EVENT
from multispike.models.table import ARCHITECTURES, Vgg

VARIANTS = ("ann-T2", "binary-T2", "multilevel-T1-N4", "multilevel-T1-N8")


def moving_spot(label: int, seed: int) -> np.ndarray:
    """An upright sample: a spot whose place on a ring is its class, and noise around it."""
    rng = np.random.default_rng(seed)
    events = np.empty(1500, EVENT)
    events["t"] = np.sort(rng.integers(0, 300_000, len(events)))
    angle = 2 * np.pi * label / len(CLASSES)
    centre = 64 + 40 * np.array([np.cos(angle), np.sin(angle)])
    place = np.rint(rng.normal(centre, 8, (len(events), 2)))
    anywhere = rng.random(len(events)) < 0.3
    place[anywhere] = rng.integers(0, 128, (int(anywhere.sum()), 2))
    events["x"], events["y"] = place.clip(0, 127).T
    events["p"] = rng.integers(0, 2, len(events))
    return events


@pytest.fixture(scope="module")
def cifar10dvs(tmp_path_factory) -> Path:
    """A small CIFAR10-DVS in its authors' format, whose camera lay on its side."""
    folder = tmp_path_factory.mktemp("cifar10dvs")
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir()
        test = numbers_of_test("fixed", name)
        numbers = sorted(test)[:4] + [n for n in range(1000) if n not in test][:12]
        for number in numbers:
            events = moving_spot(label, 1000 * label + number)
            events["x"], events["y"] = events["y"], events["x"].copy()
            (folder / name / f"cifar10_{name}_{number}.aedat").write_bytes(aedat2(events))
    return folder


@pytest.fixture(scope="module", autouse=True)
def small_network() -> Iterator[None]:
    """A row of the table that learns in seconds, wired as fastnet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "small", Vgg((16, 32, "P", 48, "P", 64), dirac=True))
        yield


@pytest.fixture(scope="module")
def arguments(cifar10dvs, tmp_path_factory) -> list[str]:
    """The command that is run on the real set, with a small network."""
    return [
        "compare", "--arch", "small", "--data", "cifar10dvs", "--data-dir", str(cifar10dvs),
        "--variants", ",".join(VARIANTS), "--size", "16", "--epochs", "20", "--batch-size", "20",
        "--flip", "none", "--drop", "0.1", "--precision", "32-true", "--threads", "1",
        "--surrogate", "ste", "--threshold", "1",
        "--out", str(tmp_path_factory.mktemp("compare") / "dir"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def runs(arguments) -> dict[str, dict]:
    assert main(arguments) == 0
    content = json.loads((Path(arguments[-1]) / "results.json").read_text())
    return {run["name"]: run for run in content["runs"]}


def test_every_variant_is_trained_on_the_events(runs):
    assert tuple(runs) == VARIANTS
    for name, run in runs.items():
        assert (run["arch"], run["data"], run["samples"]) == ("small", "cifar10dvs", 40)
        assert run["timesteps"] == (2 if "T2" in name else 1)
        assert run["accuracy"] >= 0.5, f"{name}: chance is 0.1"


def test_the_events_of_the_input_are_priced_alike(runs):
    stems = {name: run["layers"][0] for name, run in runs.items()}
    for name, stem in stems.items():
        assert stem["name"] == "stem.conv0"
        assert stem["events_in"] == stems["ann-T2" if "T2" in name else VARIANTS[-1]]["events_in"]
        if not name.startswith("ann"):
            assert stem["counts"]["mac"] == pytest.approx(
                stem["events_in"] * stem["out_shape"][0] * 9
            )
    # Events of a pixel that lie in two bins make two counts of T = 2, and one of T = 1.
    assert stems["binary-T2"]["events_in"] > stems["multilevel-T1-N4"]["events_in"]
    ann = runs["ann-T2"]
    assert ann["assumptions"]["network"] == "ann_stepwise"
    twin = runs["multilevel-T1-N4"]["baselines"]["ann"]["total"]
    assert ann["energy_nj"]["total"] == pytest.approx(2 * twin)
    assert runs["multilevel-T1-N4"]["energy_nj"]["total"] < runs["binary-T2"]["energy_nj"]["total"]


def test_the_report_says_what_it_compares(runs, arguments):
    page = (Path(arguments[-1]) / "report.html").read_text()
    assert all(name in page for name in VARIANTS)
    assert "cifar10dvs" in page
    assert "event frames are read as graded events" in page


def test_the_same_command_has_nothing_left_to_do(runs, arguments, capsys):
    before = {path: path.stat().st_mtime_ns for path in Path(arguments[-1]).rglob("*.ckpt")}
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "multilevel-T1-N8" in capsys.readouterr().out


def test_a_file_of_the_set_is_classified_as_it_streams(runs, arguments, cifar10dvs, capsys):
    """One slice with the whole sample is what the network was trained on: the same accuracy."""
    run = Path(arguments[-1]) / "multilevel-T1-N4"
    right = 0
    for name in CLASSES:
        for number in sorted(numbers_of_test("fixed", name))[:4]:
            path = cifar10dvs / name / f"cifar10_{name}_{number}.aedat"
            assert (
                main(["stream", str(run), str(path), "--window-us", "300000", "--json", "-"]) == 0
            )
            first, summary = map(json.loads, capsys.readouterr().out.splitlines())
            assert summary["summary"]["format"] == "AEDAT2"
            assert first["events"] == 1500
            right += first["class"] == name
    assert right / 40 == pytest.approx(runs["multilevel-T1-N4"]["accuracy"], abs=0.026)
