"""`multispike stream`: what is classified, when, and what is said about the rest."""

import io
import json
import os
import queue
import re
import signal
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import FLOAT_SUM
from hypothesis import given
from hypothesis import strategies as st
from processes import Command
from rich.console import Console
from test_events_recordings import aedat2, evt2, evt3, npy, ramp

from multispike.cli import main
from multispike.commands.stream import frame_classifier
from multispike.config import TrainConfig
from multispike.config.commands import StreamConfig
from multispike.datasets.dataset import Split
from multispike.datasets.event_sets import LYING
from multispike.datasets.loader import BatchLoader
from multispike.errors import InputError
from multispike.events.frames import event_frames, slices
from multispike.events.read import EVENT, read_events
from multispike.events.stream import (
    AsRead,
    FrameClassifier,
    Prediction,
    Realtime,
    classify_stream,
)
from multispike.events.view import LiveView, half_blocks
from multispike.inference import load_run
from multispike.models import create_model
from multispike.training import fit

SIZE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run that was trained, if only for a moment, on emulated events of 16x16 pixels."""
    path = tmp_path_factory.mktemp("stream") / "run"
    fit(
        TrainConfig(
            arch="sparse_resnet20", data="digits-dvs-sim", size=SIZE, limit_train=64,
            limit_test=10, batch_size=32, epochs=1, threads=1, accelerator="cpu", out=str(path),
        )
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def run(folder):
    return load_run(folder)


@pytest.fixture(scope="module")
def classifier(run) -> FrameClassifier:
    return frame_classifier(run)


def untrained(run, arch: str = "fastnet", size: int = SIZE, **options):
    """The run with another network, whose weights are random."""
    torch.manual_seed(0)
    network = create_model(arch, in_channels=2, levels=4, **options).eval()
    return replace(run, network=network, input_shape=(2, size, size))


def noise(count: int, microseconds: int, seed: int = 0) -> np.ndarray:
    """Events anywhere on 128x128 pixels, at any time from 0."""
    rng = np.random.default_rng(seed)
    events = np.empty(count, EVENT)
    events["t"] = np.sort(rng.integers(0, microseconds, count))
    for name, values in (("x", 128), ("y", 128), ("p", 2)):
        events[name] = rng.integers(0, values, count)
    return events


def stored(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


class Collected(queue.Queue):
    """A sink that keeps what it is given."""

    def __call__(self, prediction: Prediction, dropped: int) -> None:
        self.put(prediction)


def streamed(run, classifier, source, sensor=None, **options):
    """Predictions and summary."""
    sink = Collected()
    config = StreamConfig(str(run.run.folder), str(source), **options)
    config.check()
    recording = read_events(source, sensor=sensor)
    summary = classify_stream(classifier, recording, config.realtime, [sink], **config.slicing)
    return list(sink.queue), asdict(summary)


def lines_of(text: str) -> tuple[list[dict], dict]:
    """JSON lines as predictions and summary."""
    *predictions, last = [json.loads(line) for line in text.splitlines()]
    assert list(last) == ["summary"]
    return predictions, last["summary"]


some_times = st.lists(st.integers(0, 300), min_size=1, max_size=60).map(sorted)


@given(times=some_times, window=st.integers(1, 100), size=st.integers(1, 20), data=st.data())
def test_windows_that_overlap_are_all_that_hold_an_event(times, window, size, data):
    overlap = data.draw(st.integers(0, window - 1))
    t = np.array(times)
    events = np.zeros(len(t), EVENT)
    events["t"], events["x"] = t, np.arange(len(t))
    pieces = [events[start : start + size] for start in range(0, len(events), size)]
    found = [
        (part.start_us, part.stop_us, part.events["x"].tolist())
        for part in slices(pieces, window_us=window, overlap=overlap)
    ]
    starts = range(int(t[0]), int(t[-1]) + 1, window - overlap)
    inside = [(start, np.flatnonzero((t >= start) & (t < start + window))) for start in starts]
    assert found == [(start, start + window, x.tolist()) for start, x in inside if len(x)]


@given(times=some_times, count=st.integers(1, 20), size=st.integers(1, 20), data=st.data())
def test_counts_that_overlap_end_with_what_is_left(times, count, size, data):
    overlap = data.draw(st.integers(0, count - 1))
    events = np.zeros(len(times), EVENT)
    events["t"] = times
    pieces = [events[start : start + size] for start in range(0, len(events), size)]
    found = [part.events.tolist() for part in slices(pieces, count=count, overlap=overlap)]
    starts = [0, *range(count - overlap, len(events) - overlap, count - overlap)]
    assert found == [events[start : start + count].tolist() for start in starts]


@pytest.mark.parametrize("options", [{}, {"overlap": 4000}, {"count": 700}])
def test_a_prediction_is_direct_inference_on_the_same_frames(folder, classifier, tmp_path, options):
    events = noise(5000, 100_000)
    path = stored(tmp_path / "a.raw", evt2(events))
    run = load_run(folder)
    predictions, _ = streamed(run, classifier, path, **options)
    cut = list(slices([events], **({"window_us": 10_000} | options if "count" not in options
                                   else options)))  # fmt: skip
    assert [p.t_us for p in predictions] == [part.stop_us for part in cut]
    assert [p.events for p in predictions] == [len(part.events) for part in cut]
    frames = np.stack([event_frames(part.events, (128, 128), size=SIZE) for part in cut])
    split = Split(torch.from_numpy(frames), torch.zeros(len(frames), dtype=torch.long))
    mean, std = run.mean, run.std
    for (inputs, _), prediction in zip(
        BatchLoader(split, 1, mean=mean, std=std, channels_last=True), predictions, strict=True
    ):
        with torch.no_grad():
            expected = run.network(inputs)[0].softmax(0)
        torch.testing.assert_close(
            torch.from_numpy(prediction.probabilities), expected, **FLOAT_SUM
        )
        assert prediction.name == run.classes[int(expected.argmax())]
        assert prediction.confidence == prediction.probabilities.max()


def test_timesteps_divide_the_time_of_a_slice(run, tmp_path):
    slow = untrained(run, timesteps=4)
    events = ramp()
    path = stored(tmp_path / "a.raw", evt2(events))
    (prediction,), summary = streamed(slow, frame_classifier(slow), path, window_us=2000)
    bins = (events["t"] - 1000) // 500
    expected = [event_frames(events[bins == k], (128, 128), size=SIZE)[0] for k in range(4)]
    np.testing.assert_array_equal(prediction.frames, expected)
    assert prediction.frames[3].sum() == 0  # the recording ends before the slice does
    assert summary["timesteps"] == 4
    with torch.no_grad():
        scale = torch.tensor(run.std).view(2, 1, 1) * 255
        logits = slow.network(torch.from_numpy(np.stack(expected))[:, None] / scale)
    torch.testing.assert_close(
        torch.from_numpy(prediction.probabilities), logits[0].softmax(0), **FLOAT_SUM
    )


def test_a_run_of_time_bins_streams(tmp_path, capsys):
    """K bins are channels of one timestep: `train --bins`, then `stream`."""
    out = tmp_path / "run"
    assert main([
        "train", "--arch", "fastnet", "--data", "digits-dvs-sim", "--size", "16", "--bins", "3",
        "--limit-train", "40", "--limit-test", "10", "--epochs", "1", "--threads", "1",
        "--accelerator", "cpu", "--out", str(out),
    ]) == 0  # fmt: skip
    run = load_run(out)
    assert run.input_shape == (6, SIZE, SIZE)
    assert run.network.timesteps == 1
    events = ramp(90)
    path = stored(tmp_path / "a.raw", evt2(events))
    (prediction,), _ = streamed(run, frame_classifier(run), path, window_us=900)
    expected = [event_frames(events[k : k + 30], (128, 128), size=SIZE)[0] for k in (0, 30, 60)]
    np.testing.assert_array_equal(prediction.frames, np.concatenate(expected)[None])
    capsys.readouterr()
    assert main(["stream", str(out), str(path), "--json", "-"]) == 0
    assert lines_of(capsys.readouterr().out)[1]["slices"] == 1


def test_bins_are_those_of_the_training(run):
    slow = untrained(run, timesteps=3)
    events = ramp(91)
    events["t"][60:] += 500
    content = evt2(events)
    for by, expected in (("time", [60, 10, 21]), ("count", [31, 30, 30])):
        settings = replace(run.run, config=replace(run.run.config, by=by))
        trained = replace(slow, run=settings)
        (part,) = slices(read_events(io.BytesIO(content)), window_us=1800)
        frames = frame_classifier(trained).frames(part, (128, 128))
        assert frames.sum((1, 2, 3)).tolist() == expected


def test_recordings_of_cifar10dvs_are_set_upright():
    """In the authors' format; what SpikingJelly and Tonic keep is upright."""
    for written, lies in ((aedat2, True), (evt2, False)):
        content = written(noise(500, 900))
        (plain,), (turned,) = (
            list(read_events(io.BytesIO(content), lying=lying))
            for lying in ((), LYING["cifar10dvs"])
        )
        for name, other in (("x", "y"), ("y", "x"), ("t", "t"), ("p", "p")):
            np.testing.assert_array_equal(turned[name], plain[other if lies else name])
    recording = read_events(io.BytesIO(content), sensor=(128, 60), lying=("EVT2",))
    assert recording.sensor == (60, 128)
    assert max(events["x"].max() for events in recording) == 59


@pytest.mark.parametrize("target", ["file", "-"])
def test_lines_of_json(target, folder, tmp_path, capsys):
    path = stored(tmp_path / "a.raw", evt3(noise(3000, 40_000)))
    out = tmp_path / "out.jsonl"
    name = str(out) if target == "file" else "-"
    assert main(["stream", str(folder), str(path), "--json", name]) == 0
    printed = capsys.readouterr().out
    predictions, summary = lines_of(out.read_text() if target == "file" else printed)
    assert len(predictions) == 4
    for line in predictions:
        assert list(line) == ["t_us", "class", "confidence", "events", "latency_ms"]
        assert line["class"] in list("0123456789")
        assert 0.1 <= line["confidence"] <= 1
        assert line["latency_ms"] > 0
    times = [line["t_us"] for line in predictions]
    assert np.diff(times).tolist() == [10_000] * 3
    assert sum(line["events"] for line in predictions) == 3000
    latency = summary["latency_ms"]
    worst = max(line["latency_ms"] for line in predictions)
    assert latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"]
    assert latency["max"] == pytest.approx(worst, rel=0.003, abs=0.001)
    assert (summary["slices"], summary["slices_dropped"], summary["events"]) == (4, 0, 3000)
    assert (summary["skipped"], summary["interrupted"]) == ([], False)
    assert summary["recording_seconds"] == pytest.approx(0.04, rel=0.01)
    assert (summary["format"], summary["sensor"]) == ("EVT3", [128, 128])
    assert ("4 classified, 0 dropped" in printed) is (target == "file")


def test_lines_for_a_reader(folder, tmp_path, capsys):
    path = stored(tmp_path / "a.raw", evt2(noise(3000, 40_000)))
    assert main(["stream", str(folder), str(path), "--count", "1000"]) == 0
    captured = capsys.readouterr()
    line = r" +0\.\d{6} s  \d +\d+\.\d%  +1,000 events  +\d+\.\d\d ms"
    first, second, third, *summary = captured.out.splitlines()
    assert all(re.fullmatch(line, text) for text in (first, second, third))
    assert "3 classified, 0 dropped" in "".join(summary)
    assert "\x1b" not in captured.out
    assert not captured.err


def test_many_timesteps_are_announced(folder, tmp_path, capsys):
    content = torch.load(folder / "last.ckpt", weights_only=True)
    content["multispike"]["model"]["timesteps"] = 3
    (tmp_path / "run").mkdir()
    torch.save(content, tmp_path / "run" / "last.ckpt")
    path = stored(tmp_path / "a.raw", evt2(ramp()))
    assert main(["stream", str(tmp_path / "run"), str(path)]) == 0
    assert "T = 3" in capsys.readouterr().err


def test_what_is_whole_is_classified_and_the_rest_is_told(folder, tmp_path, capsys):
    events = noise(400, 40_000)
    events["x"][[307, 309]] = 500  # beside the sensor
    events["t"][200:] -= 15_000  # the clock goes back
    path = stored(tmp_path / "a.raw", evt2(events)[:-3])
    assert main(["stream", str(folder), str(path), "--json", "-"]) == 0
    captured = capsys.readouterr()
    predictions, summary = lines_of(captured.out)
    assert sum(line["events"] for line in predictions) == summary["events"] == 397
    skipped = {skip["reason"]: skip for skip in summary["skipped"]}
    assert skipped["outside the sensor"]["count"] == 2
    assert skipped["outside the sensor"]["first_at"] == {"unit": "event", "position": 307}
    assert skipped["clock went back"]["first_at"] == {"unit": "event", "position": 200}
    assert skipped["cut off within an event"]["unit"] == "bytes"
    assert re.match(r"multispike: skipped: .*2 events \(first at event 307\)", captured.err)


UNUSABLE = [
    ("a.raw", b"", [], "an empty file"),
    ("a.raw", b"no recording at all", [], "format of"),
    ("a.raw", evt2(ramp(0)), [], "at least one event"),
    ("a.raw", evt2(ramp())[:41], [], "at least one event"),
    ("a.npy", npy(ramp()), [], "sensor: got None"),
    ("a.npy", npy(ramp()), ["--sensor", "12x128"], "size: got (16, 16)"),
    ("a.raw", evt2(ramp()), ["--view"], "view: got True"),
    ("a.raw", evt2(ramp()), ["--json", "/nowhere/a.json"], "json: got '/nowhere/a.json'"),
    ("a.raw", evt2(ramp()), ["--overlap", "10000"], "overlap: got 10000"),
    ("a.raw", evt2(ramp()), ["--count", "5", "--window-us", "5"], "window_us or count"),
    ("a.raw", evt2(ramp()), ["--view", "--json", "-"], "json: got '-'"),
    (None, b"", [], "a readable file"),
]


@pytest.mark.parametrize(
    ("name", "content", "options", "message"), UNUSABLE, ids=[row[-1] for row in UNUSABLE]
)
@pytest.mark.parametrize("pace", [[], ["--realtime"]])
def test_what_can_not_be_streamed(name, content, options, message, pace, folder, tmp_path, capsys):
    path = stored(tmp_path / name, content) if name else tmp_path / "missing.raw"
    out = ["--json", str(tmp_path / "out.jsonl")] if "--json" not in options else []
    assert main(["stream", str(folder), str(path), *out, *options, *pace]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("multispike: ")
    assert captured.err.count("\n") == 1
    assert not captured.out
    assert not (tmp_path / "out.jsonl").exists()


def test_runs_of_images_are_refused(run):
    of_images = replace(run.run, data={**run.run.data, "name": "cifar10"})
    with pytest.raises(InputError, match="trained on cifar10 with 3 channels"):
        frame_classifier(replace(run, run=of_images, events=False, input_shape=(3, 32, 32)))


def test_unknown_runs_are_refused(capsys):
    assert main(["stream", "/nowhere", "a.raw"]) == 2
    assert "run: got '/nowhere'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.raw", "./a.raw", "link.raw", "hard.raw", "folder/../a.raw"])
def test_the_recording_is_not_written_over(name, tmp_path, monkeypatch, capsys):
    """By no other name of it either."""
    path = stored(tmp_path / "a.raw", evt2(ramp()))
    (tmp_path / "run").mkdir()
    (tmp_path / "link.raw").symlink_to(path)
    (tmp_path / "hard.raw").hardlink_to(path)
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"json: got .*, allowed: another file than the recording"):
        StreamConfig("run", "a.raw", json=name).check()
    assert main(["stream", "run", "a.raw", "--json", name]) == 2
    assert "another file than the recording" in capsys.readouterr().err
    StreamConfig("run", "a.raw", json="b.jsonl").check()
    StreamConfig("run", "a.raw", json="-").check()


def test_the_recording_on_standard_input_is_not_written_over(tmp_path):
    path = stored(tmp_path / "a.raw", evt2(ramp()))
    before = os.dup(0)
    try:
        with open(path, "rb") as source:
            os.dup2(source.fileno(), 0)
            with pytest.raises(InputError, match="another file than the recording"):
                StreamConfig("run", "-", json=str(path)).check()
            run = str(tmp_path)
            StreamConfig(run, "-", json=str(tmp_path / "b.jsonl")).check()
            StreamConfig(run, "-", json="-").check()
    finally:
        os.dup2(before, 0)
        os.close(before)


@pytest.mark.parametrize("realtime", [False, True])
def test_a_pipe_is_classified_while_it_is_open(realtime, classifier):
    events = noise(400, 40_000)
    content = evt2(events)
    # Up to 15 ms: one window of 10 ms is whole, and no other can drop it, however long it waits.
    first_part = len(content) - 8 * int((events["t"] > 15_000).sum())
    reading, writing = os.pipe()
    sink, summaries = Collected(), []
    with os.fdopen(reading, "rb", buffering=0) as source, os.fdopen(writing, "wb") as pipe:
        pipe.write(content[:first_part])
        pipe.flush()
        recording = read_events(source)
        arguments = (classifier, recording, realtime, [sink])
        thread = threading.Thread(
            target=lambda: summaries.append(classify_stream(*arguments, window_us=10_000))
        )
        thread.start()
        first = sink.get(timeout=60)
        assert thread.is_alive()
        pipe.write(content[first_part:-3])
        pipe.close()
        thread.join(timeout=60)
    (summary,) = summaries
    assert first.t_us == 10_000 + int(events["t"][0])
    assert summary.slices + summary.slices_dropped == 4
    assert summary.events == 399
    (skip,) = summary.skipped
    assert (skip["count"], skip["unit"]) == (1, "bytes")  # the time word before it is whole
    assert skip["first_at"]["position"] == len(content) - 4


def test_of_the_slices_that_wait_the_newest_is_kept():
    reading, writing = os.pipe()
    events = ramp(50)
    with os.fdopen(reading, "rb", buffering=0) as source, os.fdopen(writing, "wb") as pipe:
        pipe.write(evt2(events))
        pipe.flush()
        arrivals = Realtime(read_events(source), count=10)
        deadline = time.monotonic() + 60
        while arrivals.dropped < 4 and time.monotonic() < deadline:
            time.sleep(0.001)
        pipe.close()
        ((kept, _),) = arrivals
        arrivals.close()
    assert arrivals.dropped == 4
    np.testing.assert_array_equal(kept.events, events[40:])


def test_real_time_drops_whole_slices_and_counts_them(run, tmp_path):
    """A VGG-16 takes longer than the millisecond that a slice takes."""
    slow = untrained(run, "vgg16", size=32)
    events = noise(3000, 300_000)
    path = stored(tmp_path / "a.raw", evt2(events))
    predictions, summary = streamed(
        slow, frame_classifier(slow), path, window_us=1000, realtime=True
    )
    cut = {part.stop_us: len(part.events) for part in slices([events], window_us=1000)}
    assert summary["slices"] == len(predictions)
    assert summary["slices_dropped"] > 0
    assert summary["slices"] + summary["slices_dropped"] == len(cut)
    assert summary["events"] == 3000
    times = [prediction.t_us for prediction in predictions]
    assert times == sorted(set(times))
    assert [prediction.events for prediction in predictions] == [cut[t] for t in times]
    assert times[-1] == max(cut)
    assert summary["wall_seconds"] >= summary["recording_seconds"]


def test_without_real_time_a_slice_does_not_wait_for_the_one_before():
    """Its latency is that of framing and inference, however many slices a piece holds."""
    recording = read_events(io.BytesIO(evt2(noise(400, 40_000))))
    asked, there = [time.perf_counter()], []
    for _, available in AsRead(recording, window_us=10_000):
        there.append(available)
        asked.append(time.perf_counter())
    assert len(there) == 4
    assert all(when >= before for before, when in zip(asked, there, strict=False))


def test_without_real_time_nothing_is_dropped(run, classifier, tmp_path):
    path = stored(tmp_path / "a.raw", evt2(noise(500, 50_000)))
    predictions, summary = streamed(run, classifier, path, window_us=1000)
    assert (len(predictions), summary["slices_dropped"]) == (50, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_with_the_summary(folder, number):
    with Command("stream", str(folder), "-", "--json", "-", "--realtime") as piped:
        piped.stdin.write(evt2(noise(400, 40_000)))
        piped.stdin.flush()
        first = piped.stdout.readline().decode()
        piped.send(number)
        code, rest, errors = piped.ended()  # while its source stays open
    predictions, summary = lines_of(first + rest)
    assert code == 130
    assert summary["interrupted"]
    assert summary["slices"] == len(predictions) >= 1
    assert errors == "multispike: interrupted\n"


@pytest.mark.parametrize("options", [[], ["--json", "-"]])
def test_a_reader_that_goes_away_ends_it_quietly(options, folder, tmp_path, capfd, monkeypatch):
    path = stored(tmp_path / "a.raw", evt2(noise(500, 50_000)))
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["stream", str(folder), str(path), *options]) == 0
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of 80x24 to write to, and a function that closes it and returns what it got."""
    controller, terminal = os.openpty()
    for name, value in (("TERM", "xterm-256color"), ("COLUMNS", "80"), ("LINES", "24")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    received = bytearray()

    def read() -> None:
        while True:
            try:
                received.extend(os.read(controller, 1 << 16))
            except OSError:  # how Linux tells that nobody holds the terminal any more
                return

    thread = threading.Thread(target=read)
    thread.start()
    output = os.fdopen(terminal, "w")

    def text() -> str:
        output.close()
        thread.join(timeout=60)
        return received.decode()

    yield output, text
    output.close()
    thread.join(timeout=60)
    os.close(controller)


def test_the_live_view_takes_the_terminal_and_gives_it_back(
    folder, tmp_path, terminal, capfd, monkeypatch
):
    output, text = terminal
    path = stored(tmp_path / "a.raw", evt2(noise(2000, 50_000)))
    with monkeypatch.context() as patched:  # pytest has its own until the test begins
        patched.setattr(sys, "stdout", output)
        assert main(["stream", str(folder), str(path), "--view"]) == 0
    _, screen, after = re.split(r"\x1b\[\?1049[hl]", text())
    assert "▀" in screen
    assert "latency" in screen
    assert "5 classified, 0 dropped" in after
    assert not capfd.readouterr().err


@pytest.mark.parametrize("size", [(80, 24), (200, 60), (40, 10)])
@pytest.mark.parametrize(("classes", "side"), [(2, 8), (10, 64), (100, 128)])
def test_the_live_view_fits_the_terminal(size, classes, side):
    names = [f"class {k} of a long name" for k in range(classes)]
    probabilities = np.linspace(1, 2, classes, dtype=np.float32)
    probabilities /= probabilities.sum()
    frames = event_frames(noise(5000, 1000), (128, 128), size=side)
    console = Console(width=size[0], height=size[1], color_system="truecolor", force_terminal=True)
    view = LiveView(console, "runs/of/a/long/name/that/does/not/fit", names)
    view.show(Prediction(1_234_567, names[-1], 0.5, 1234, 3.2, probabilities, frames), dropped=7)
    view.close()
    lines = console.render_lines(view, pad=False)
    text = ["".join(segment.text for segment in line) for line in lines]
    assert len(lines) <= size[1]
    assert max(map(len, text)) <= size[0]
    if size[1] >= 24:
        assert any("7 dropped" in line for line in text)
        assert any(f"class {classes - 1}" in line for line in text)


def test_every_event_is_seen_in_half_blocks():
    counts = np.zeros((2, 64, 48), int)
    counts[1, 13, 5] = counts[0, 40, 47] = 1
    for columns, rows in ((48, 32), (10, 6), (96, 64), (3, 1)):
        text = half_blocks(counts, columns, rows)
        drawn = text.plain.split("\n")
        assert len(drawn) <= rows
        assert {len(line) for line in drawn} == {len(drawn[0])}
        assert len(drawn[0]) <= columns
        colours = {
            tuple(colour.triplet)
            for span in text.spans
            for colour in (span.style.color, span.style.bgcolor)
        }
        assert colours >= {(255, 0, 0), (0, 0, 255)}


def test_a_terminal_is_no_source(folder, capsys):
    controller, terminal = os.openpty()
    before = os.dup(0)
    try:
        os.dup2(terminal, 0)
        assert main(["stream", str(folder), "-"]) == 2
    finally:
        os.dup2(before, 0)
        for descriptor in (before, controller, terminal):
            os.close(descriptor)
    assert "not a terminal" in capsys.readouterr().err
