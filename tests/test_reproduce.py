"""`multispike reproduce` on a tiny study: what is finished stays finished, also elsewhere."""

import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from processes import hold, let_go, started, wait_until

from multispike import config
from multispike.cli import main
from multispike.config import CompareConfig, TrainConfig, recipe, recipe_file
from multispike.config.parser import Parser
from multispike.reproduce.archive import Archive
from multispike.reproduce.studies import STUDIES, Study, row
from multispike.training import load_run

RECIPES = sorted(path.stem for path in config.RECIPES.glob("*.yaml"))

TINY = {"arch": "sparse_resnet20", "epochs": 2, "limit_train": 96, "limit_test": 40, "threads": 1}


def tiny() -> None:
    """Put a study into the table that trains in seconds."""
    STUDIES["tiny"] = Study(
        "Tiny", recipe="tiny", rows=(row("ann"), row("multilevel-T1-N4", seeds=2)),
        headline="multilevel-T1-N4", epoch_seconds=1,
    )  # fmt: skip


def run_held(recipes: Path, words: list[str], run: Path) -> None:
    """The command line in another process with the tiny study in its table; it waits in a run."""
    config.RECIPES = recipes
    tiny()
    hold(run, 1)
    sys.exit(main(words))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of the tiny study's recipe; the table is as before afterwards."""
    folder = tmp_path_factory.mktemp("study") / "recipes"
    shutil.copytree(config.RECIPES, folder)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "RECIPES", folder)
        patch.setitem(STUDIES, "tiny", None)
        tiny()
        recipe.cache_clear()
        yield folder
    recipe.cache_clear()


@pytest.fixture(scope="module")
def whole(study, tmp_path_factory):
    """The folder of a study that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(arguments(folder)) == 0
    return folder


def arguments(folder, *more: str) -> list[str]:
    return [
        *("reproduce", "tiny", "--results", str(folder / "results")),
        *("--work", str(folder / "work"), *more),
    ]


def results(folder) -> list[dict]:
    return json.loads((folder / "results" / "tiny.json").read_text())["runs"]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_pass_the_command_line(name, capsys):
    """`multispike train --config NAME` reads every recipe, all of its settings."""
    path = recipe_file(name)
    assert f"multispike train --config {name} " in path.read_text()
    with pytest.raises(SystemExit) as stop:
        main(["train", "--config", name, "--print_config"])
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    written = yaml.safe_load(path.read_text())
    assert {key: printed[key] for key in written} == pytest.approx(written)
    config = Parser("train", TrainConfig).read(["--config", str(path)])
    config.check()
    assert config == recipe(name)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_leaves_the_neuron_to_the_command(name):
    """So `multispike compare` takes it too."""
    runs = Parser("compare", CompareConfig).read(["--config", name]).runs()
    assert [run.variant for run in runs] == ["ann", "binary-T4", "multilevel-T1-N4"]
    assert recipe(name).resolved().levels == 4
    assert replace(runs[2], name=None, out=None).resolved() == recipe(name).resolved()


@pytest.mark.parametrize(
    ("name", "differing"),
    [("cifar10-table", {"epochs", "cutout"}), ("cifar10-long", {"epochs", "cutout", "v_init"})],
)
def test_recipes_of_cifar10_are_the_fast_one_with_other_epochs_and_what_suits_them(name, differing):
    fast, other = vars(recipe("cifar10-fast")), vars(recipe(name))
    assert {setting for setting in fast if fast[setting] != other[setting]} == differing


@pytest.mark.parametrize("name", STUDIES)
def test_studies_are_consistent(name):
    """Every row makes a run that would pass `train`, under a name that says what it is."""
    entry = STUDIES[name]
    labels = [row.label for row in entry.rows]
    assert len(set(labels)) == len(labels)
    if entry.recipe:
        assert entry.headline in labels
    for item in entry.rows:
        config = TrainConfig(**{**vars(recipe(entry.recipe)), **item.overrides})
        config.check()
        penalty = f"-penalty-{config.activity_penalty:g}" if config.activity_penalty else ""
        assert item.label.endswith(config.variant + penalty)


def test_order_is_headline_then_cheap_then_seeds():
    order = [(row.label, seed) for row, seed in STUDIES["table-cifar10"].order()]
    assert order[0] == ("multilevel-T1-N4", 0)
    assert order[-2:] == [("multilevel-T1-N4", 1), ("multilevel-T1-N4", 2)]
    assert order[-3] == ("binary-T4", 0)


def test_bad_names_are_one_line(capsys):
    for given, expected in (
        (["table-cifar"], "study: got 'table-cifar', nearest: table-cifar10"),
        (["families", "--rows", "ann"], "rows: got 'ann'"),
        (["families", "--rows", ","], "rows: got ','"),
        (["families", "--seeds", "0"], "seeds: got 0"),
    ):
        assert main(["reproduce", *given]) == 2
        error = capsys.readouterr().err
        assert expected in error
        assert error.count("\n") == 1


def test_results_say_what_made_them(whole):
    runs = results(whole)
    assert [(run["name"], run["seed"]) for run in runs] == [
        ("ann", 0), ("multilevel-T1-N4", 0), ("multilevel-T1-N4", 1),
    ]  # fmt: skip
    for run in runs:
        assert run["settings"]["epochs"] == 2
        assert not {"data_dir", "out", "threads"} & run["settings"].keys()
        assert run["energy_nj"]["profile"] == "lemaire2022"
        further = run["energy_nj_profiles"]["castagnetti2025"]
        assert further["energy_nj"]["profile"] == "castagnetti2025"
        assert 0 < further["energy_nj"]["total"] != run["energy_nj"]["total"]
        assert ("qann_skip" in further.get("baselines", {})) == (run["neuron"] != "relu")


def test_results_serve_a_fresh_clone(study, whole, tmp_path, capsys):
    """A second machine that has only results/ trains nothing; changed settings train again."""
    shutil.copytree(whole / "results", tmp_path / "results")
    assert main(arguments(tmp_path)) == 0
    assert not (tmp_path / "work").exists()
    assert results(tmp_path) == results(whole)

    changed = {**TINY, "lr": 0.05}
    shutil.copytree(whole / "work", tmp_path / "work")
    (study / "tiny.yaml").write_text(yaml.safe_dump(changed))
    recipe.cache_clear()
    try:
        assert main(arguments(tmp_path, "--rows", "ann")) == 0
    finally:
        (study / "tiny.yaml").write_text(yaml.safe_dump(TINY))
        recipe.cache_clear()
    again = results(tmp_path)
    assert [run["settings"]["lr"] for run in again] == [0.05, None, None]
    assert again[1:] == results(whole)[1:]
    assert "lr was None" in capsys.readouterr().err


def test_weights_are_kept_without_paths_of_this_machine(whole):
    kept = whole / "results" / "checkpoints" / "tiny-multilevel-T1-N4-s0.ckpt"
    last = whole / "work" / "tiny" / "multilevel-T1-N4-s0" / "last.ckpt"
    assert kept.stat().st_size < 0.6 * last.stat().st_size
    assert str(whole).encode() in last.read_bytes()
    assert str(whole).encode() not in kept.read_bytes()
    one, two = load_run(kept), load_run(last.parent)
    assert one.config.out is None
    for key, value in one.network.state_dict().items():
        assert torch.equal(value, two.network.state_dict()[key])


def test_retrain_forgets_what_is_there(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    checkpoint = tmp_path / "work" / "tiny" / "ann-s0" / "last.ckpt"
    before = checkpoint.stat().st_mtime_ns
    assert main(arguments(tmp_path, "--rows", "ann")) == 0
    assert checkpoint.stat().st_mtime_ns == before
    assert main(arguments(tmp_path, "--rows", "ann", "--retrain")) == 0
    assert checkpoint.stat().st_mtime_ns > before
    for old, new in zip(results(whole), results(tmp_path), strict=True):
        assert old["accuracy"] == new["accuracy"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_goes_on_after_a_kill(study, whole, tmp_path, number):
    """Stopped in its second row, the same command ends with what it would have had."""
    run = tmp_path / "work/tiny/ann-s0"
    process = started(run_held, study, arguments(tmp_path), run)
    wait_until((run / "last.ckpt").exists, process.is_alive)
    os.kill(process.pid, number)
    let_go(run)
    process.join()
    assert process.exitcode == (130 if number == signal.SIGINT else -number)
    assert [(run["name"], run["seed"]) for run in results(tmp_path)] == [("multilevel-T1-N4", 0)]
    assert main(arguments(tmp_path)) == 0
    for one, two in zip(results(tmp_path), results(whole), strict=True):
        for key in ("name", "seed", "accuracy", "loss", "events_per_inference", "energy_nj"):
            assert one[key] == two[key]


def test_runs_that_arrive_during_a_training_stay(study, whole, tmp_path):
    """Another machine's rows, pulled in while this one trains, are not lost."""
    archive = Archive(tmp_path, "tiny")
    config = recipe("tiny")
    result = Archive(whole / "results", "tiny").runs[0]
    assert not archive.finished("ann", config)
    Archive(tmp_path, "tiny").add("binary-T4", config, result)
    archive.add("ann", config, result)
    assert [run.name for run in archive.runs] == ["ann", "binary-T4"]
    assert archive.finished("ann", config)
    assert not archive.finished("ann", replace(config, lr=0.3))


def test_listing_counts_what_is_finished(whole, tmp_path, capsys):
    project = Path(__file__).parent.parent  # its results are no runs only
    for folder, expected in ((tmp_path, "0/3"), (whole, "3/3"), (project, "/3")):
        assert main(["reproduce", "--results", str(folder / "results")]) == 0
        printed = capsys.readouterr().out
        assert expected in printed
        assert max(map(len, printed.splitlines())) <= 80


def test_conversion_of_an_ann(study, tmp_path, monkeypatch, capsys):
    """Rows before and after an epoch of training, from an ANN of its own or from a run's."""
    small = {**TINY, "arch": "fastnet", "limit_train": 320, "lr": 0.02, "epochs": 3}
    (study / "small.yaml").write_text(yaml.safe_dump(small))
    entry = STUDIES["conversion"]
    monkeypatch.setitem(STUDIES, "conversion", replace(entry, recipe="small"))
    words = ["reproduce", "conversion", "--work", str(tmp_path / "work"), "--results"]
    rows = "ann,converted-multilevel-T1-N16,tuned-multilevel-T1-N16"
    assert main([*words, str(tmp_path / "results"), "--rows", rows]) == 0
    runs = json.loads((tmp_path / "results" / "conversion.json").read_text())["runs"]
    assert [(run["name"], run["levels"]) for run in runs] == [
        ("ann", 0), ("converted-multilevel-T1-N16", 16), ("tuned-multilevel-T1-N16", 16),
    ]  # fmt: skip
    ann, converted, tuned = (run["accuracy"] for run in runs)
    assert ann > 0.5
    assert abs(converted - ann) < 0.15
    assert tuned > ann - 0.15
    assert load_run(tmp_path / "work/conversion/tuned-multilevel-T1-N16-s0").config.epochs == 1
    given = ["--init", str(tmp_path / "work/conversion/ann-s0"), "--rows", rows.rpartition(",")[0]]
    assert main([*words, str(tmp_path / "given"), *given]) == 0
    again = json.loads((tmp_path / "given" / "conversion.json").read_text())["runs"]
    assert [run["accuracy"] for run in again] == [ann, converted]
    assert main(["reproduce", "families", *given[:2]]) == 2
    assert "init: got" in capsys.readouterr().err
