"""`load_run` and `multispike predict`: images and recordings, by runs and by what is shipped."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from multispike import create_model, load_run
from multispike.cli import main
from multispike.datasets import load_dataset
from multispike.datasets.dataset import Split
from multispike.datasets.loader import BatchLoader
from multispike.errors import InputError
from multispike.events.frames import event_frames
from multispike.events.read import EVENT
from multispike.inference import Prediction, Trained
from multispike.pretrained import PRETRAINED

RESULTS = Path(__file__).parent.parent / "results"


def photo(seed: int, height: int = 32, width: int = 32) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("name", PRETRAINED)
def test_what_is_shipped_is_known_and_small(name):
    """Its figures are those of the results, whose weights it is."""
    row = PRETRAINED[name]
    assert row.path.stat().st_size < 5_000_000
    file, label = {
        "cifar10-fastnet": ("table-cifar10", "multilevel-T1-N4"),
        "cifar10-sparse-resnet20": ("families", "sparse-multilevel-T1-N4"),
        "cifar10-sew-resnet20": ("families", "sew-multilevel-T1-N4"),
        "nmnist-fastnet": ("table-nmnist", "bins10-multilevel-T1-N4"),
    }[name]
    runs = json.loads((RESULTS / f"{file}.json").read_text())["runs"]
    [kept] = [run for run in runs if (run["name"], run["seed"]) == (label, 0)]
    exact = json.loads((RESULTS / "deploy_exact.json").read_text())["rows"]
    accuracy = exact[0]["accuracy_integer"] if name == "cifar10-fastnet" else kept["accuracy"]
    assert (row.arch, row.data, row.accuracy) == (kept["arch"], kept["data"], accuracy)
    assert row.energy_nj == pytest.approx(kept["energy_nj"]["total"], rel=1e-6)
    assert row.path == (RESULTS / "checkpoints" / f"{file}-{label}-s0{row.path.suffix}").resolve()


@pytest.mark.parametrize("name", PRETRAINED)
def test_what_is_shipped_classifies(name, shared_data, tmp_path):
    """300 test images: within four standard deviations of the accuracy on all; 100 recordings, all
    that there are: just that accuracy."""
    row = PRETRAINED[name]
    of_events = row.data == "nmnist"
    words = [
        "--data-dir",
        str(shared_data / row.data),
        "--limit-test",
        "100" if of_events else "300",
    ]
    assert main(["evaluate", name, *words, "--json", str(tmp_path / "out.json")]) == 0
    accuracy = json.loads((tmp_path / "out.json").read_text())["accuracy"]
    if of_events:
        assert accuracy == row.accuracy
        files = sorted((shared_data / "nmnist" / "Test").glob("*/*.bin"))
        found = load_run(name).predict(files)
        assert np.mean([p.name == f.parent.name for p, f in zip(found, files, strict=True)]) == 0.98
        return
    assert abs(accuracy - row.accuracy) < 4 * (row.accuracy * (1 - row.accuracy) / 300) ** 0.5
    test = load_dataset("cifar10", shared_data / "cifar10", limit_test=300).test
    found = load_run(name).predict(image.permute(1, 2, 0).numpy() for image in test.inputs)
    names = [row.classes.split()[label] for label in test.labels]
    right = sum(p.name == name for p, name in zip(found, names, strict=True))
    # Sums in another order may fall on the other side of a level's edge.
    assert abs(right - accuracy * 300) < 2.5


def test_samples_are_those_of_the_training():
    run = load_run("cifar10-sparse-resnet20")
    images = [photo(seed) for seed in range(3)]
    pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])
    split = Split(pixels.contiguous(), torch.zeros(3, dtype=torch.long))
    [(expected, _)] = BatchLoader(split, 3, mean=run.mean, std=run.std)
    assert torch.equal(torch.stack([run.preprocess(image) for image in images]), expected)
    found = run.predict(images, top=3)
    logits = run.network(expected)
    assert [p.name for p in found] == [run.classes[i] for i in logits.argmax(1)]
    assert [p.confidence for p in found] == pytest.approx(logits.softmax(1).amax(1).tolist())
    assert all(len(p.top) == 3 for p in found)


def test_any_image_will_do(tmp_path):
    """Large or grey ones, by path, by content, as arrays; all give what the image itself gives."""
    run = load_run("cifar10-sparse-resnet20")
    image = photo(1, 80, 120)
    image.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), content, np.array(image)):
        assert torch.equal(run.preprocess(source), run.preprocess(image))
    assert run.preprocess(image.convert("L")).shape == (3, 32, 32)
    with pytest.raises(InputError, match=r"^image: got 'an array float32 \[8, 8\]'"):
        run.preprocess(np.zeros((8, 8), np.float32))
    with pytest.raises(InputError, match=r"^image: got 'bytes', allowed: a whole"):
        run.preprocess(content[:200])
    with pytest.raises(InputError, match=r"^image: got 'an array uint8 \[0, 8\]'"):
        run.preprocess(np.zeros((0, 8), np.uint8))


@pytest.mark.parametrize("mode", ["I;16", "RGBA", "LA", "P"])
def test_an_image_of_pillow_is_what_its_file_is(mode, tmp_path):
    """Deep ones are scaled, clear ones stand before white, as in training."""
    run = load_run("cifar10-sparse-resnet20")
    image = photo(2)
    if mode == "I;16":
        image = Image.fromarray((np.arange(1024) * 64).astype(np.uint16).reshape(32, 32))
    elif mode != "P":
        image.putalpha(photo(3).convert("L"))
    image = image.convert(mode)
    image.save(tmp_path / "a.png")
    assert torch.equal(run.preprocess(image), run.preprocess(tmp_path / "a.png"))
    with pytest.raises(InputError, match="at most 16 bits per channel, not Pillow's mode F"):
        run.preprocess(photo(1).convert("F"))


def test_a_grey_network_takes_colours():
    network = create_model("fastnet", in_channels=1).eval()
    run = Trained(network, ("a",) * 10, (1, 8, 8), (0.0,), (1 / 255,), events=False)
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert torch.equal(run.preprocess(grey), torch.from_numpy(grey)[None].float())
    assert torch.equal(run.preprocess(np.dstack([grey] * 3)), torch.from_numpy(grey)[None].float())


@pytest.mark.parametrize("timesteps", [1, 2])
def test_a_recording_is_one_sample(tmp_path, timesteps):
    events = np.zeros(50, EVENT)
    events["t"], events["x"], events["y"] = np.arange(50), np.arange(50) % 16, 3
    events["p"] = np.arange(50) % 2
    np.savez(tmp_path / "a.npz", **{name: events[name] for name in "txyp"})
    network = create_model("fastnet", in_channels=2, timesteps=timesteps).eval()
    run = Trained(network, tuple("abcdefghij"), (2, 8, 8), (0.0,) * 2, (1 / 255,) * 2, events=True)
    sample = run.preprocess(tmp_path / "a.npz", sensor="16x16")
    frames = event_frames(events, (16, 16), timesteps=timesteps, size=8)
    assert torch.equal(sample, torch.from_numpy(frames).float())
    [found] = run.classify([sample])
    assert found.name == run.classes[int(network(sample[:, None]).argmax())]
    assert run.predict(frames) == [found]
    with pytest.raises(InputError, match=r"^sensor: got None, allowed: WIDTHxHEIGHT"):
        run.preprocess(tmp_path / "a.npz")


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for seed, name in enumerate(("b.png", "a.png", "more/c.jpg")):
        photo(seed).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_predict_names_classes(photos, capsys):
    assert main(["predict", "cifar10-fastnet", str(photos), "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line.split("  ")[0]).name for line in lines] == ["a.png", "b.png", "c.jpg"]
    [found] = load_run("cifar10-fastnet").predict(photos / "a.png", top=2)
    assert lines[0].split("  ")[1:] == [f"{name} {p:.4f}" for name, p in found.top]


def test_predict_writes_json_and_goes_on_after_what_it_can_not_read(photos, capsys, monkeypatch):
    content = io.BytesIO((photos / "a.png").read_bytes())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(content))
    words = [str(photos / "notes.txt"), str(photos / "a.png"), "-"]
    assert main(["predict", "cifar10-fastnet", *words, "--json", "-"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"multispike: image: got '{photos}/notes.txt', allowed: a whole")
    first, second = json.loads(captured.out)
    assert (first["file"], second["file"]) == (str(photos / "a.png"), "-")
    assert first["top"] == second["top"]
    assert first["class"] == Prediction(((first["class"], first["probability"]),)).name


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("cifar10-fastnet gone.png", "files: got 'gone.png', allowed: files or folders that exist"),
        ("cifar10-fast a.png", "run: got 'cifar10-fast', nearest: cifar10-fastnet"),
        ("cifar10-fastnet .", "files: got '.', allowed: a folder with png/"),
    ],
)
def test_bad_requests_are_one_line(arguments, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", *arguments.split()]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert said.count("\n") == 1


def test_names_that_are_no_text_are_printed(photos):
    odd = os.fsencode(photos) + b"/caf\xe9.png"
    os.rename(photos / "a.png", odd)
    command = [sys.executable, "-m", "multispike.cli", "predict", "cifar10-fastnet", odd]
    done = subprocess.run(
        command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "utf-8"}
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"/caf\udce9.png  " in done.stdout


def test_an_integer_network_is_no_run(capsys):
    path = str(PRETRAINED["cifar10-fastnet"].path)
    for words in (["evaluate", path], ["train", "--init", path, "--epochs", "1"]):
        assert main(words) == 2
        assert "an integer network, which `multispike predict` takes" in capsys.readouterr().err


def test_a_network_that_gives_no_numbers_is_refused():
    network = create_model("fastnet", in_channels=1).eval()
    torch.nn.init.constant_(next(network.parameters()), float("nan"))
    run = Trained(network, ("a",) * 10, (1, 8, 8), (0.0,), (1 / 255,), events=False)
    with pytest.raises(InputError, match="allowed: one that gives finite numbers"):
        run.predict(np.zeros((8, 8), np.uint8))
