"""Result files: those of before are read as they are, and new ones have all it takes to price."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

from multispike import create_model
from multispike.energy.twins import price_run
from multispike.environment import environment
from multispike.errors import InputError
from multispike.files import write_json
from multispike.profiling import evaluate_run
from multispike.results import (
    Environment,
    RunResult,
    check_folder,
    read_result,
    read_runs,
    write_result,
)

COMMITTED = [
    path
    for path in sorted((Path(__file__).parent.parent / "results").glob("*.json"))
    if '"format": 1' in path.read_text(encoding="utf-8")[:200]
]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_results_of_before_are_read_and_written_as_they_were(path):
    written = json.loads(path.read_text(encoding="utf-8"))["runs"]
    runs = read_runs(path)
    assert [run.to_dict() for run in runs] == written
    assert len(runs) >= 3
    for run, entry in zip(runs, written, strict=True):  # those without are run again to be priced
        assert (run.records is None) == any("record" not in layer for layer in entry["layers"])


@pytest.fixture(scope="module", params=["sew_resnet20", "ms_resnet20", "fastnet"])
def run(request):
    torch.manual_seed(0)
    model = create_model(request.param, in_channels=1, levels=2)
    model(torch.randn(8, 1, 8, 8))
    loader = [(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3]))]
    about = {"name": "a", "arch": request.param, "data": "digits", "neuron": "multilevel"}
    counts = {"levels": 2, "timesteps": 1, "seed": 0, "epochs": 1, "params": 9}
    return RunResult(
        **{
            **vars(evaluate_run(model, loader, profiles=("sram8k",))),
            **about,
            **counts,
            "train_seconds": 1.0,
            "images_per_second": 2.0,
            "environment": Environment(**environment()),
        }
    )


def test_a_file_gives_back_the_run(run, tmp_path):
    write_result(tmp_path / "result.json", run)
    assert read_result(tmp_path / "result.json") == run


def test_a_stored_run_is_priced_again_without_its_network(run, tmp_path):
    write_result(tmp_path / "result.json", run)
    stored = read_result(tmp_path / "result.json")
    assert stored.records
    prices = price_run(stored.records, "sram8k", spiking=stored.spiking)
    assert prices.energy_nj == run.energy_nj_profiles["sram8k"].energy_nj
    assert prices.baselines == run.energy_nj_profiles["sram8k"].baselines
    again = price_run(stored.records, not_counted=stored.not_counted, profiles=("sram8k",))
    assert vars(again) == {name: getattr(run, name) for name in vars(again)}


def test_a_stored_record_that_contradicts_itself_is_refused_in_one_line(run, tmp_path):
    content = run.to_dict()
    content["layers"][1]["record"]["input"]["events"] = 1e9
    write_json(tmp_path / "result.json", {"format": 1, **content})
    with pytest.raises(InputError, match=r"input\.events: got 1000000000\.0, allowed: at most"):
        read_result(tmp_path / "result.json")


def test_the_schema_follows_from_the_types():
    schema = TypeAdapter(RunResult).json_schema()
    assert {"name", "accuracy", "energy_nj", "layers", "environment"} <= {*schema["required"]}
    assert schema["properties"]["accuracy"] == {
        "maximum": 1, "minimum": 0, "title": "Accuracy", "type": "number",
    }  # fmt: skip
    assert "baselines" not in schema["required"]


def test_a_confusion_matrix_is_square_also_in_python(run):
    with pytest.raises(ValueError, match=r"run\.confusion is not square"):
        replace(run, confusion=((1, 0),))


@pytest.mark.parametrize(
    "text",
    [
        '{"format": ' + "1" * 5000 + "}",
        '{"format": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"format": 1, "runs": [{"name": "\\ud800"}]}',
        '{"format": 1, "runs": [{"accuracy": NaN}]}',
    ],
    ids=["thousands of digits", "deeply nested", "half a character", "NaN"],
)
def test_what_could_not_be_written_again_is_one_line(text, tmp_path):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(InputError, match=r"^results: got .*which is no JSON") as caught:
        read_runs(tmp_path / "results.json")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"a folder without a results\.json of others"):
        check_folder("out", tmp_path)
