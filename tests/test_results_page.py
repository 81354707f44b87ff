"""docs/results.md: no figure without a file, every verdict computed, and the figures drawn."""

import json
import re
from pathlib import Path

import make_page
import pytest
import test_reproduce
from page import SECTIONS, contents, page
from page.figures import FIGURES
from page.learning import reached
from page.paper import save
from PIL import Image
from test_reproduce import arguments, results

from multispike.cli import main
from multispike.commands.evaluate import evaluate
from multispike.config.begun import deciding
from multispike.config.commands import EvaluateConfig
from multispike.errors import InputError
from multispike.reproduce import make
from multispike.reproduce.studies import STUDIES, row
from multispike.results import read_runs

ROOT = Path(__file__).parent.parent
MACHINE = {"version": "0.1.0", "torch": "2.9", "cpu": "made up", "threads": 2, "date": "2026-01-02"}
DEMO = read_runs(ROOT / "results" / "demo.json")
study = test_reproduce.study  # a fixture


def energies(total: float, profile: str = "lemaire2022") -> dict:
    parts = dict.fromkeys(("ops", "addressing", "potentials", "bias", "io"), total / 10)
    return {"profile": profile, "bits": 32, "total": total, "weights": total / 2, **parts}


def made_run(
    study: str, label: str, accuracy: float, total: float, *, amplitude: float = 0.0, **more
) -> dict:
    """A run of a study as its archive has it: one of today's format with figures made up."""
    (item,) = [item for item in STUDIES[study].rows if item.label == label]
    config = STUDIES[study].settings(item, seed=more.get("seed", 0))
    twins = {
        name: energies(factor * total)
        for name, factor in (("ann", 2), ("qann", 2), ("qann_skip", 1.1))
    }
    spiking = config.neuron != "relu"
    run = next(run for run in DEMO if run.spiking == spiking).to_dict()
    sent = {"events": total / 10, "amplitude": amplitude or total / 5, "max_level": 4}
    further = {"energy_nj": energies(total / 10, "castagnetti2025")}
    run |= {
        "name": label, "neuron": config.neuron, "seed": 0, "samples": 10_000,
        "accuracy": accuracy, "train_seconds": 60.0, "images_per_second": 100.0,
        "neurons": [{**run["neurons"][0], **sent}], "energy_nj": energies(total),
        "energy_nj_profiles": {"castagnetti2025": further},
        "settings": deciding(vars(config)), "environment": MACHINE,
    }  # fmt: skip
    if spiking:
        run |= {"baselines": twins, "even_density": 0.3}
        further["baselines"] = twins
    return run | more


def section(folder: Path, title: str, file: str, content: dict) -> str:
    """The text of one section, with this one file in the results."""
    (folder / file).write_text(json.dumps(content))
    return page(folder).split(f"\n## {title}\n")[1].split("\n## ")[0]


def table_section(folder: Path, study: str, *runs: dict) -> str:
    content = {"format": 1, "command": f"multispike reproduce {study}", "runs": list(runs)}
    return section(folder, STUDIES[study].title, f"{study}.json", content)


def test_the_committed_page_is_what_the_results_say():
    """After a change of results/: python benchmarks/make_page.py."""
    written = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert written == page(ROOT / "results"), "run: python benchmarks/make_page.py"
    for name in re.findall(r"\]\((figures/[^)]+)\)", written):
        with Image.open(ROOT / "docs" / name) as image:
            assert image.width > 400
    for file in re.findall(r"\]\(\.\./results/([^)]+)\)", written):
        assert (ROOT / "results" / file).is_file()


def test_what_is_missing_names_its_command(tmp_path):
    text = page(tmp_path)
    for parts in SECTIONS.values():
        for part in parts:
            assert f"`{part.command}` writes `results/{part.file}`" in text
    assert "Holds" not in text


def test_every_study_has_its_section():
    files = {part.file for parts in SECTIONS.values() for part in parts}
    assert {f"{name}.json" for name in STUDIES} <= files
    assert {study.title for study in STUDIES.values()} <= SECTIONS.keys()


@pytest.mark.parametrize(
    ("graded", "energy", "expected"),
    [
        (0.930, 400.0, ["-0.40 points. **Holds.**", "0.40 times. **Holds.**"]),
        (0.928, 600.0, ["-0.60 points. **Does not hold.**", "0.60 times. **Does not hold.**"]),
    ],
)
def test_verdicts_follow_from_the_numbers(graded, energy, expected, tmp_path):
    text = table_section(
        tmp_path,
        "table-cifar10",
        made_run("table-cifar10", "binary-T4", 0.934, 1000.0),
        made_run("table-cifar10", "multilevel-T1-N4", graded, energy),
    )
    for phrase in expected:
        assert phrase in text
    assert "1.100 times the energy of multilevel-T1-N4, the SNN wins" in text


@pytest.mark.parametrize(
    ("accuracy", "verdict"),
    [(0.931, "0.30 times with -0.30 points, {}. **Holds.**"),
     (0.92, "0.30 times with -1.40 points, {}. **Does not hold.**")],
)  # fmt: skip
def test_the_activity_penalty_is_held_to_its_aim(accuracy, verdict, tmp_path):
    text = table_section(
        tmp_path,
        "table-cifar10",
        made_run("table-cifar10", "binary-T4", 0.934, 1000.0),
        made_run("table-cifar10", "multilevel-T1-N4-penalty-0.5", accuracy, 300.0),
    )
    lines = [line for line in text.splitlines() if "penalty, " in line]
    assert ["events" in line for line in lines] == [True, False, False]
    assert all(verdict.format("multilevel-T1-N4-penalty-0.5") in line for line in lines)
    assert ("No row is as accurate" in text) == ("not hold" in verdict)


def test_it_says_where_the_snn_loses(tmp_path):
    run = made_run("table-cifar10", "multilevel-T1-N4", 0.9, 1000.0)
    run["baselines"]["qann_skip"] = energies(900.0)
    text = table_section(
        tmp_path, "table-cifar10", run, made_run("table-cifar10", "ann", 0.95, 1500.0)
    )
    assert "0.900 times the energy of multilevel-T1-N4, **the SNN loses**" in text
    assert "ann is 5.00 points more accurate than multilevel-T1-N4, at 1.50 times" in text
    text = table_section(
        tmp_path, "table-cifar10", run, made_run("table-cifar10", "ann", 0.9, 1500.0)
    )
    assert "ann is as accurate as multilevel-T1-N4, at 1.50 times" in text


def test_seeds_give_a_mean_and_a_spread(tmp_path):
    runs = [
        made_run("table-cifar10", "multilevel-T1-N4", accuracy, 400.0, seed=seed)
        for seed, accuracy in enumerate((0.93, 0.94, 0.95))
    ]
    text = table_section(tmp_path, "table-cifar10", *runs)
    assert "| multilevel-T1-N4 | 94.00 ± 1.00 | 3 |" in text
    assert "multilevel-T1-N4 with seeds 0, 1, 2" in text
    assert "not finished yet: ann seed 0, binary-T1 seed 0" in text
    one = made_run("table-cifar10", "binary-T4", 0.92, 1000.0)
    text = table_section(tmp_path, "table-cifar10", *runs, one)
    assert "+2.00 points (n = 3 and 1; the first seed alone +1.00). **Holds.**" in text
    assert "made up, 2 threads; multispike 0.1.0; torch 2.9; 2026-01-02" in text


def test_rows_of_an_older_recipe_are_told(tmp_path):
    old = made_run("table-cifar10", "ann", 0.9, 1.0)
    new = made_run("table-cifar10", "binary-T4", 0.9, 1.0)
    assert "older settings" not in table_section(tmp_path, "table-cifar10", old, new)
    old["settings"]["lr"] = 0.4
    graded = made_run("table-cifar10", "multilevel-T1-N4", 0.9, 1.0)
    text = table_section(tmp_path, "table-cifar10", old, new, graded)
    assert "**trained under older settings**: ann (lr 0.4, now 0.3);" in text
    assert "| ann (older settings) | 90.00" in text
    assert "within 0.5 points of binary-T4" in text
    assert "Against the ANN" not in text
    assert "not finished yet: ann seed 0" in text


def test_rows_of_different_machines_are_told(tmp_path):
    here, there = (made_run("table-cifar10", name, 0.9, 1.0) for name in ("ann", "binary-T4"))
    told = "trained on different machines: seconds don't compare"
    assert told not in table_section(tmp_path, "table-cifar10", here, there)
    there["environment"] = {**there["environment"], "cpu": "another"}
    text = table_section(tmp_path, "table-cifar10", here, there)
    assert told in text
    assert "made up, 2 threads and another, 2 threads" in text


@pytest.mark.parametrize(
    ("accuracy", "amplitude", "holds"),
    [(0.90, 80.0, True), (0.894, 80.0, False), (0.95, 81.0, False)],
)
def test_families_compare_amplitude_at_equal_accuracy(accuracy, amplitude, holds, tmp_path):
    label = "multilevel-T1-N4"
    text = table_section(
        tmp_path,
        "families",
        made_run("families", f"sew-{label}", 0.90, 500.0),
        made_run("families", f"sparse-{label}", accuracy, 500.0, amplitude=amplitude),
    )
    assert ("**Holds.**" in text) == holds
    assert "1.00 times the events of SEW" in text


def test_vgg16_gives_parts_and_ratios(tmp_path):
    text = table_section(
        tmp_path,
        "table-vgg16",
        made_run("table-vgg16", "multilevel-T1-N4", 0.9, 1000e3),
        made_run("table-vgg16", "binary-T4", 0.9, 1900e3),
    )
    assert "| binary-T4, lemaire2022 | 1,900 | 190 | 190 | 950 | 190 | 190 | 190 |" in text
    assert "1.90 times (castagnetti2025)" in text
    assert "**Does not hold.**" in text
    assert "lr 0.05 (multilevel-T1-N4), lr 0.015 (binary-T4)" in text
    assert "surrogate clip (multilevel-T1-N4), surrogate sigmoid (binary-T4)" in text


def test_event_data_is_called_emulated(tmp_path):
    text = table_section(
        tmp_path, "table-dvs", made_run("table-dvs", "multilevel-T1-N4", 0.6, 1000.0)
    )
    assert "emulated events, not recordings" in text
    assert "report runs/real,runs/real-binary" in text


RECIPE = deciding({"epochs": 3, "bias_lr": 8.0})


def test_time_to_accuracy(tmp_path):
    curve = [[600.0, 0.5], [1200.0, 0.93], [1800.0, 0.925]]
    runs = [{"seed": 0, "accuracy": 0.925, "accuracy_flip": 0.93, "train_seconds": 1800.0,
             "epochs": 3, "curve": curve, "settings": RECIPE}]  # fmt: skip
    assert reached(runs[0], 0.92) == 1200.0
    assert reached(runs[0], 0.94) is None
    content = {"command": "x", "recipe": "cifar10-fast", "runs": runs, "environment": MACHINE}
    text = section(tmp_path, "Time to accuracy", "time_to_accuracy.json", content)
    assert "92% within 45 minutes of training, every seed. Measured: minutes by seed: 20.0" in text
    assert text.count("**Holds.**") == text.count("**Does not hold.**") == 1
    assert "| 0 | 92.50 | 93.00 | 3 | 30.0 | 20.0 | - |" in text
    text = section(
        tmp_path, "Time to accuracy", "time_to_accuracy-long.json",
        {**content, "recipe": "cifar10-long"},
    )  # fmt: skip
    assert "94% within 60 minutes of training, every seed. Measured: minutes by seed: -." in text
    assert "figures/time_to_accuracy-long.png" in text
    assert "recipe `recipes/cifar10-long.yaml`: arch " in text


SHORT = {"command": "x", "recipe": RECIPE, "seed": 0, "samples": 10_000, "environment": MACHINE}


def test_recipe_studies(tmp_path):
    row = {"accuracy": 0.8, "loss": 0.5, "density": 0.3, "events_per_inference": 1e4,
           "options": ""}  # fmt: skip
    rows = {"recipe": row, "lr 0.4": {**row, "accuracy": 0.81, "options": "--lr 0.4"}}
    content = {**SHORT, "rows": rows, "planned": list(rows)}
    text = section(tmp_path, "Ablation", "ablation-x.json", content)
    assert "| lr 0.4 | `--lr 0.4` | 81.00 | +1.00 |" in text
    assert "epochs 3, bias_lr 8.0, " in text
    assert "10,000 test images: two rows may differ by 1.1 points from their sampling" in text


@pytest.mark.parametrize(("accuracy", "verdict"), [(0.797, "Holds"), (0.794, "Does not hold")])
def test_barriers_are_held_to_the_claim(accuracy, verdict, tmp_path):
    sew = {"accuracy": 0.8, "loss": 0.5, "events": 1e4, "amplitude": 2e4, "largest": 16}
    rows = {
        "sew": sew,
        "sparse masked": {**sew, "accuracy": accuracy, "amplitude": 1.6e4, "largest": 4},
        "sparse ceiling 2": {**sew, "amplitude": 1.7e4, "largest": 8},
        "sew V_th 3": {**sew, "accuracy": 0.79, "amplitude": 1e4},
        "sew sigmoid": {**sew, "amplitude": 1.7e4},
        "sparse sigmoid masked": {**sew, "amplitude": 1.5e4, "largest": 4},
    }
    planned = [*rows, "sparse wide"]
    content = {**SHORT, "rows": rows, "planned": planned}
    text = section(tmp_path, "Ablation", "barrier.json", content)
    assert "| sparse sigmoid masked | 80.00 | +0.00 | 10,000 | 15,000 | 0.88 | 4 |" in text
    assert "not finished yet: sparse wide" in text
    points = 100 * (accuracy - 0.8)
    assert f"is sparse masked, 0.80 times at {points:+.2f} points. **{verdict}.**" in text
    assert "With 2 times as many levels, sparse ceiling 2: 0.85 times at +0.00 points." in text
    assert "Without a barrier, sew V_th 3: 0.50 times at -1.00 points." in text
    for name in ("sparse masked", "sparse sigmoid masked"):
        rows[name]["amplitude"] = 1.8e4
    text = section(tmp_path, "Ablation", "barrier.json", content)
    assert "the one of the lowest amplitude is sparse ceiling 2, 0.85 times at" in text
    assert text.count("**Does not hold.**") == 1


@pytest.mark.parametrize(
    "content", ['{"runs": []}', '{"command": "x"}', "[]", '{"runs": [{"name": "ann"}]}', "{"]
)
def test_a_damaged_file_is_one_line(content, tmp_path, capsys):
    (tmp_path / "table-cifar10.json").write_text(content)
    assert make_page.main([str(tmp_path), str(tmp_path / "docs")]) == 2
    error = capsys.readouterr().err
    assert "results: got" in error
    assert "table-cifar10.json" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "docs" / "results.md").exists()


@pytest.mark.parametrize(
    ("dear", "expected"), [(450.0, "0.45 times, multilevel-T1-N4 against binary-T4-penalty-0.2;"
    " on the test images -1.00 points. **Holds.**"), (600.0, "0.60 times")]
)  # fmt: skip
def test_fronts_are_read_off_at_equal_validation_accuracy(dear, expected, tmp_path):
    """The test images, by which another pair would be taken, choose nothing."""
    rows = [
        ("multilevel-T1-N4", 0.89, dear, 0.91),
        ("multilevel-T1-N4-penalty-0.2", 0.92, 100.0, 0.89),
        ("binary-T4", 0.91, 2000.0, 0.89),
        ("binary-T4-penalty-0.2", 0.90, 1000.0, 0.90),
    ]
    runs = [made_run("front", *row, best_accuracy=chosen) for *row, chosen in rows]
    text = table_section(tmp_path, "front", *runs)
    assert expected in text
    runs[0]["best_accuracy"] = 0.895
    unequal = "no row is as accurate as binary-T4-penalty-0.2. **Does not hold.**"
    assert unequal in table_section(tmp_path, "front", *runs)


@pytest.mark.parametrize("name", [name for name in FIGURES if not name.startswith("cifar10")])
def test_committed_results_can_be_drawn(name, tmp_path):
    file, draw = FIGURES[name]
    found = list(contents(ROOT / "results", file))
    if not found:
        pytest.skip(f"results/{file} is not there yet")
    save(draw(found[0][1]), tmp_path / "a.png", dpi=50)
    save(draw(found[0][1]), tmp_path / "b.png", dpi=50)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("name", "study", "labels"),
    [
        ("cifar10-front", "table-cifar10", ("ann", "binary-T4", "multilevel-T1-N4")),
        ("cifar10-densities", "table-cifar10", ("ann", "multilevel-T1-N4")),
        ("vgg16-energy", "table-vgg16", ("ann", "binary-T4")),
        ("front", "front", ("binary-T4", "multilevel-T1-N4")),
    ],
)
def test_figures_of_tables(name, study, labels, tmp_path):
    """Drawn from whatever rows are finished, the legend names them."""
    runs = [made_run(study, label, 0.9, 1000.0) for label in labels]
    content = {"format": 1, "command": "x", "runs": runs}
    (tmp_path / f"{study}.json").write_text(json.dumps(content))
    [(_, read)] = contents(tmp_path, f"{study}.json")
    figure = FIGURES[name][1](read)
    save(figure, tmp_path / "x.png", dpi=50)
    with Image.open(tmp_path / "x.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 5
    axes = figure.axes[0]
    drawn = [text.get_text() for text in axes.get_yticklabels()]
    drawn += axes.get_legend_handles_labels()[1]
    assert set(labels) <= set(drawn)


def committed(name: str) -> dict:
    return json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))


def missed(folder: Path, file: str, content: dict) -> int:
    return section(folder, "Deployment", file, content).count("**Does not hold.**")


def test_missed_aims_of_deployment_are_told(tmp_path):
    content = committed("deploy_speed.json")
    before = missed(tmp_path, "deploy_speed.json", content)
    content["openvino SNN"]["batch 64"]["to torch float32 ANN"] = 3.9
    content["export"]["peak_gib"] = 3.8
    assert missed(tmp_path, "deploy_speed.json", content) == before + 2
    (tmp_path / "deploy_speed.json").unlink()
    content = committed("deploy_exact.json")
    content["rows"][0]["accuracy_integer"] -= 0.01
    content["rows"][-1]["c"]["equal_logits"] = False
    assert missed(tmp_path, "deploy_exact.json", content) == 2
    (tmp_path / "deploy_exact.json").unlink()
    content = committed("deploy_callgrind.json")
    content["layers"]["vector"]["crossover_density"] = None
    text = section(tmp_path, "Deployment", "deploy_callgrind.json", content)
    assert "vector: the event-driven program needs fewer instructions at any density." in text


def test_transfer_study(tmp_path):
    assert main(["reproduce", "transfer", "--results", str(tmp_path)]) == 0
    assert make_page.main([str(tmp_path), str(tmp_path / "docs")]) == 0
    text = (tmp_path / "docs" / "results.md").read_text()
    assert "| T=8 N=1 | 8 | 9 | 0 |" in text
    assert "same function for all codes of one N·T. Measured: see the table. **Holds.**" in text
    assert (tmp_path / "docs" / "figures" / "transfer.png").stat().st_size > 5000


def test_avalanche_study_takes_the_kept_weights(study, tmp_path, monkeypatch, capsys):
    """Trained elsewhere, its networks are measured from results/ alone; each alone can be used."""
    labels = ("sew-multilevel-T1-N4", "sparse-multilevel-T1-N4")
    rows = tuple(
        row("multilevel-T1-N4", prefix=f"{family}-", arch=f"{family}_resnet20")
        for family in ("sew", "sparse")
    )
    monkeypatch.setitem(
        STUDIES, "tiny", test_reproduce.Study("Tiny", recipe="tiny", rows=rows, headline=labels[0])
    )
    monkeypatch.setattr(make, "TRAINED", "tiny")
    folders = ["--results", str(tmp_path / "results")]
    assert main(["reproduce", "avalanche", *folders]) == 2
    assert "first multispike reproduce tiny" in capsys.readouterr().err
    assert main(arguments(tmp_path)) == 0
    assert main(["reproduce", "avalanche", *folders]) == 0
    measured = json.loads((tmp_path / "results" / "avalanche.json").read_text())
    assert [(n["arch"], n["levels"], n["trained"]) for n in measured["networks"]] == [
        ("sew_resnet20", 1, False), ("sew_resnet20", 4, False), ("sparse_resnet20", 1, False),
        ("sparse_resnet20", 4, False), ("sew_resnet20", 4, True), ("sparse_resnet20", 4, True),
    ]  # fmt: skip
    assert make_page.main([str(tmp_path / "results"), str(tmp_path / "docs")]) == 0
    text = (tmp_path / "docs" / "results.md").read_text()
    assert "SEW-ADD sends at most (k+1)·N" in text
    assert text.count("of the bound in any block. **Holds.**") == 2
    assert (tmp_path / "docs" / "figures" / "avalanche.png").exists()

    kept = tmp_path / "results" / "checkpoints" / "tiny-sparse-multilevel-T1-N4-s0.ckpt"
    evaluate(EvaluateConfig(str(kept), json=str(tmp_path / "out.json")))
    again = json.loads((tmp_path / "out.json").read_text())
    (first,) = [run for run in results(tmp_path) if run["name"] == labels[1]]
    assert again["accuracy"] == first["accuracy"]


def test_the_page_refuses_what_it_cannot_read(tmp_path):
    (tmp_path / "speed.json").write_text("{}")
    with pytest.raises(InputError, match=r"speed\.json"):
        page(tmp_path)
