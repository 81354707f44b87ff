"""Event data sets: small made files in each set's own format go the whole way to frames."""

import json
import shutil
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from test_events_recordings import FILES, aedat2, bin5, evt2, npz, ramp

from multispike.cli import main
from multispike.datasets import DATASETS, event_sets, load_dataset
from multispike.datasets.event_sets import CIFAR10 as CLASSES
from multispike.datasets.event_sets import CIFAR10DVS_SPLITS as SPLITS
from multispike.datasets.event_sets import numbers_of_test
from multispike.errors import InputError
from multispike.events.emulator import emulate_events, emulate_frames
from multispike.events.frames import event_frames
from multispike.events.read import EVENT, read_events


def recording(seed: int, count: int = 400, side: int = 128) -> np.ndarray:
    rng = np.random.default_rng(seed)
    events = np.empty(count, EVENT)
    events["t"] = np.sort(rng.integers(0, 10_000, count))
    events["x"], events["y"] = rng.integers(0, side, (2, count))
    events["p"] = rng.integers(0, 2, count)
    return events


NUMBERS = (0, 5, 9, 91, 500, 909, 950)
"""Of the recordings that are made: every split has some of them on either side."""


@pytest.fixture(scope="module")
def cifar10dvs(tmp_path_factory):
    """A small CIFAR10-DVS in its authors' format; their camera lay on its side."""
    folder = tmp_path_factory.mktemp("cifar10dvs")
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir()
        for number in NUMBERS:
            events = recording(1000 * label + number)
            lying = events.copy()
            lying["x"], lying["y"] = events["y"], events["x"]
            (folder / name / f"cifar10_{name}_{number}.aedat").write_bytes(aedat2(lying))
    return folder


@pytest.mark.parametrize("split", SPLITS)
def test_cifar10dvs_from_its_own_files_to_frames(cifar10dvs, split):
    data = load_dataset("cifar10dvs", cifar10dvs, timesteps=4, size=32, split=split)
    assert data.classes == CLASSES
    assert (data.input_shape, data.timesteps) == ((2, 32, 32), 4)
    rows = {"train": 0, "test": 0}
    for label, name in enumerate(CLASSES):
        for number in NUMBERS:
            half = "test" if number in numbers_of_test(split, name) else "train"
            expected = event_frames(
                recording(1000 * label + number), (128, 128), timesteps=4, size=32
            )
            part = getattr(data, half)
            assert part.labels[rows[half]] == label
            np.testing.assert_array_equal(part.inputs[rows[half]].numpy(), expected)
            rows[half] += 1
    assert rows == {"train": len(data.train), "test": len(data.test)}
    counts = data.train.inputs.float()
    assert data.std[0] * 255 == pytest.approx(float((counts**2).mean().sqrt()))


@pytest.mark.parametrize("suffix", [".aedat4", ".npz"])
def test_cifar10dvs_as_tonic_and_spikingjelly_keep_it(tmp_path, suffix):
    """Their recordings are taken as they are; Tonic's lie in a folder of the set's name."""
    content = FILES["aedat4 lz4"][1] if suffix == ".aedat4" else npz(ramp())
    for number in (100, 50):
        for name in ("cat", "dog"):
            folder = tmp_path / "CIFAR10DVS" / name
            folder.mkdir(exist_ok=True, parents=True)
            (folder / f"cifar10_{name}_{number}{suffix}").write_bytes(content)
    data = load_dataset("cifar10dvs", tmp_path, split="tebn", timesteps=1)
    np.testing.assert_array_equal(data.test.inputs[0], event_frames(ramp(), (128, 128)))
    assert data.test.labels.tolist() == data.train.labels.tolist() == [3, 5]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", CLASSES)
def test_splits_of_cifar10dvs_are_balanced(split, name):
    numbers = numbers_of_test(split, name)
    assert len(numbers) == 100
    assert numbers <= set(range(1000))


def test_the_fixed_split_is_what_it_says():
    """Chosen by the names alone, so nobody could have picked the easy ones."""
    import hashlib

    file = resources.files("multispike.datasets").joinpath("splits/cifar10dvs.json")
    listed = json.loads(file.read_text())["test"]
    for name in CLASSES:
        stems = [f"cifar10_{name}_{number}" for number in range(1000)]
        stems.sort(key=lambda stem: hashlib.sha256(stem.encode()).hexdigest())
        assert listed[name] == sorted(int(stem.rpartition("_")[2]) for stem in stems[:100])


def test_the_named_splits_are_those_of_the_papers():
    assert numbers_of_test("tebn", "cat") == set(range(100))
    assert numbers_of_test("tet", "cat") == set(range(900, 1000))
    names = sorted(f"cifar10_cat_{number}.npz" for number in range(1000))  # a folder's order
    last = {int(name.rpartition("_")[2].removesuffix(".npz")) for name in names[900:]}
    assert numbers_of_test("sew", "cat") == last


def test_nmnist(tmp_path):
    for half in ("Train", "Test"):
        for digit in range(10):
            folder = tmp_path / "NMNIST" / half / str(digit)
            folder.mkdir(parents=True)
            (folder / "00001.bin").write_bytes(bin5(recording(digit, side=34)))
    data = load_dataset("nmnist", tmp_path, timesteps=2, by="count")
    assert data.train.inputs.shape == (10, 2, 2, 34, 34)
    expected = event_frames(recording(7, side=34), (34, 34), timesteps=2, by="count")
    np.testing.assert_array_equal(data.test.inputs[7], expected)


@pytest.fixture(scope="module")
def real_nmnist(shared_data):
    """1,000 + 100 recordings of the official split, in its layout."""
    folder = shared_data / "nmnist"
    if not folder.is_dir():
        pytest.skip(f"no N-MNIST at {folder}")
    return folder


def test_real_nmnist_is_what_its_bytes_say(real_nmnist):
    for path in sorted(real_nmnist.glob("Test/*/*.bin"))[::20]:
        records = np.fromfile(path, np.uint8).reshape(-1, 5).astype(int)
        x, y, high, middle, low = records.T
        recording = read_events(path)
        events = np.concatenate(list(recording))
        assert (recording.format, recording.sensor, len(events)) == ("N-MNIST", (34, 34), len(x))
        assert not recording.skipped
        for name, values in (("x", x), ("y", y), ("p", high >> 7)):
            np.testing.assert_array_equal(events[name], values)
        t = (high & 127) << 16 | middle << 8 | low
        np.testing.assert_array_equal(events["t"], np.maximum.accumulate(t))


def test_real_nmnist_tells_its_digits(real_nmnist, tmp_path, caplog):
    """A linear classifier on the counts does as well as published plain baselines: about 0.9."""
    from sklearn.linear_model import RidgeClassifier

    data = load_dataset("nmnist", real_nmnist, timesteps=1, cache_dir=tmp_path)
    assert "1000 + 100 recordings, not the 60000 + 10000 that were published" in caplog.text
    assert (data.input_shape, data.timesteps) == ((2, 34, 34), 1)
    assert data.train.labels.bincount().tolist() == [97, 116, 99, 93, 105, 92, 94, 117, 87, 100]
    assert data.test.labels.bincount().tolist() == [8, 14, 8, 11, 14, 7, 10, 15, 2, 11]
    counted = int(data.train.inputs.sum()) + int(data.test.inputs.sum())
    written = sum(path.stat().st_size // 5 for path in real_nmnist.rglob("*.bin"))
    assert counted == written == pytest.approx(4.5e6, rel=0.02)
    train, test = (split.inputs.flatten(1).numpy() for split in (data.train, data.test))
    ridge = RidgeClassifier(1000.0).fit(train**0.5, data.train.labels)
    assert ridge.score(test**0.5, data.test.labels) > 0.8


def test_real_nmnist_is_trained_on_and_streamed(real_nmnist, tmp_path, capsys):
    out = tmp_path / "run"
    assert main([
        "train", "--data", "nmnist", "--data-dir", str(real_nmnist), "--bins", "2",
        "--limit-train", "200", "--limit-test", "20", "--epochs", "1", "--threads", "1",
        "--accelerator", "cpu", "--out", str(out),
    ]) == 0  # fmt: skip
    path = next(real_nmnist.glob("Test/3/*.bin"))
    capsys.readouterr()
    assert main(["stream", str(out), str(path), "--window-us", "400000", "--json", "-"]) == 0
    first, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["class"] in list("0123456789")
    assert first["events"] == summary["summary"]["events"] == path.stat().st_size // 5


def test_dvsgesture(tmp_path):
    for half in ("Train", "Test"):
        folder = tmp_path / "DVSGesture" / f"ibmGesture{half}" / "user01_led"
        folder.mkdir(parents=True)
        for label in range(11):
            events = recording(label)
            events["t"] //= 1000  # Tonic's are in ms
            np.save(folder / f"{label}.npy", np.stack([events[c] for c in "xypt"], 1).astype(float))
    data = load_dataset("dvsgesture", tmp_path, timesteps=5, size=(32, 64))
    events = recording(10)
    events["t"] = events["t"] // 1000 * 1000
    expected = event_frames(events, (128, 128), timesteps=5, size=(32, 64))
    last = data.test.labels.tolist().index(10)
    np.testing.assert_array_equal(data.test.inputs[last], expected)
    assert sorted(data.test.labels.tolist()) == list(range(11))
    assert data.classes[10] == "other gestures"


class TonicNMNIST:
    """Stands for Tonic's class, which checks what is there: a set of 20 + 10 recordings.

    breaks: the download breaks off within the test recordings.
    """

    breaks = False
    calls = 0

    def __init__(self, save_to, train):
        type(self).calls += 1
        half = "Train" if train else "Test"
        for digit in range(10):
            if digit == 3 and self.breaks and not train:
                raise KeyboardInterrupt
            folder = Path(save_to, "NMNIST", half, str(digit))
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(2 if train else 1):
                (folder / f"{number:05}.bin").write_bytes(bin5(recording(number, 20, side=34)))


@pytest.fixture
def tonic_nmnist(monkeypatch):
    monkeypatch.setattr("tonic.datasets.NMNIST", TonicNMNIST)
    monkeypatch.setattr(TonicNMNIST, "breaks", False)
    monkeypatch.setattr(TonicNMNIST, "calls", 0)
    published = replace(event_sets.PUBLISHED["nmnist"], whole=(20, 10))
    monkeypatch.setitem(event_sets.PUBLISHED, "nmnist", published)
    return TonicNMNIST


def test_a_download_that_broke_off_goes_on(tonic_nmnist, tmp_path, monkeypatch, caplog):
    options = {"timesteps": 1, "cache_dir": tmp_path / "cache"}
    monkeypatch.setattr(tonic_nmnist, "breaks", True)
    with pytest.raises(KeyboardInterrupt):
        load_dataset("nmnist", tmp_path, download=True, **options)
    monkeypatch.setattr(tonic_nmnist, "breaks", False)
    part = load_dataset("nmnist", tmp_path, **options)
    assert part.test.labels.tolist() == [0, 1, 2]
    line = (
        f"nmnist: {tmp_path / 'NMNIST'} has 20 + 3 recordings, not the 20 + 10 that were published"
    )
    assert [record.getMessage() for record in caplog.records] == [line]
    caplog.clear()
    load_dataset("nmnist", tmp_path, limit_test=2, **options)  # a part was asked for
    whole = load_dataset("nmnist", tmp_path, download=True, **options)
    assert whole.test.labels.tolist() == list(range(10))
    calls = tonic_nmnist.calls
    load_dataset("nmnist", tmp_path, download=True, **options)
    assert tonic_nmnist.calls == calls, "what is whole is not asked for again"
    assert not caplog.records


def test_a_set_of_ones_own_is_not_downloaded_over(tonic_nmnist, tmp_path, caplog):
    for half in ("Train", "Test"):
        (tmp_path / half / "4").mkdir(parents=True)
        (tmp_path / half / "4" / "00001.bin").write_bytes(bin5(recording(0, 20, side=34)))
    data = load_dataset("nmnist", tmp_path, download=True, timesteps=1)
    assert (len(data.train), tonic_nmnist.calls) == (1, 0)
    assert "has 1 + 1 recordings, not the 20 + 10" in caplog.text


def test_without_a_folder_a_download_goes_to_the_cache(tonic_nmnist, tmp_path):
    data = load_dataset("nmnist", download=True, timesteps=1, cache_dir=tmp_path)
    assert (len(data.train), len(data.test)) == (20, 10)
    assert (tmp_path / "downloads" / "NMNIST" / "Train" / "9" / "00001.bin").is_file()
    assert len(load_dataset("nmnist", timesteps=1, cache_dir=tmp_path).train) == 20


def test_a_part_of_cifar10dvs_is_told(cifar10dvs, caplog):
    load_dataset("cifar10dvs", cifar10dvs, timesteps=1, size=8)
    assert "recordings, not the 9000 + 1000 that were published" in caplog.text


def gesture(folder, rows):
    """DVS Gesture whose every recording has these rows of x, y, p and ms, at one timestep."""
    for half in ("Train", "Test"):
        user = folder / f"ibmGesture{half}" / "user01_led"
        user.mkdir(parents=True)
        np.save(user / "0.npy", np.array(rows, float).reshape(-1, 4))
    return load_dataset("dvsgesture", folder, timesteps=2).train.inputs[0].numpy()


def test_gestures_are_checked_as_all_recordings_are(tmp_path, caplog):
    """What is no number is no event."""
    nan = float("nan")
    rows = [
        [5, 5, 1, 1],
        [7, 5, -1, 2],
        [nan, 5, 1, 3],
        [9, 5, 1, nan],
        [8, 5, 1, 4],
    ]
    off, on = gesture(tmp_path, rows).transpose(1, 0, 2, 3)
    assert np.argwhere(on).tolist() == [[0, 5, 5], [1, 5, 8]]
    assert np.argwhere(off).tolist() == [[0, 5, 7]]
    for reason in ("without a time: 1", "outside the sensor: 1"):
        assert reason in caplog.text


def test_gestures_keep_parts_of_a_millisecond(tmp_path):
    frames = gesture(tmp_path, [[1, 0, 1, 0.1], [2, 0, 1, 0.3], [3, 0, 1, 0.7], [4, 0, 1, 0.9]])
    assert np.argwhere(frames[:, 1]).tolist() == [[0, 0, 1], [0, 0, 2], [1, 0, 3], [1, 0, 4]]


def test_a_gesture_that_announces_more_than_it_holds_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least one event"):
        gesture(tmp_path, [])
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 4), }"
    path = tmp_path / "ibmGestureTrain" / "user01_led" / "0.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(InputError, match="an array of rows x, y, p, t"):
        load_dataset("dvsgesture", tmp_path, timesteps=2)


def test_a_gesture_without_events_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"recording: got .*0\.npy', allowed: at least one event"):
        gesture(tmp_path, [])


@pytest.fixture
def eventfolder(tmp_path):
    for half in ("train", "val"):
        for name in ("left", "right"):
            folder = tmp_path / half / name
            folder.mkdir(parents=True)
            (folder / "a.raw").write_bytes(evt2(ramp()))
            (folder / "b.aedat4").write_bytes(FILES["aedat4 zstd"][1])
            (folder / "notes.txt").write_text("not a recording")
    return tmp_path


def test_eventfolder_takes_every_format(eventfolder):
    data = load_dataset("eventfolder", eventfolder, timesteps=3)
    assert data.train.inputs.shape == (4, 3, 2, 128, 128)
    assert data.classes == ("left", "right")
    expected = event_frames(ramp(), (128, 128), timesteps=3)
    for inputs in data.train.inputs:
        np.testing.assert_array_equal(inputs, expected)


def test_eventfolder_needs_one_sensor_or_a_size(eventfolder):
    wide = evt2(ramp(), header="% evt 2.0\n% geometry 200x128\n")
    (eventfolder / "train" / "left" / "c.raw").write_bytes(wide)
    with pytest.raises(InputError, match="another sensor"):
        load_dataset("eventfolder", eventfolder)
    assert load_dataset("eventfolder", eventfolder, size=64).input_shape == (2, 64, 64)


def test_arrays_need_to_be_told_their_sensor(tmp_path):
    for half in ("train", "test"):
        folder = tmp_path / half / "only"
        folder.mkdir(parents=True)
        np.save(folder / "a.npy", ramp())
    with pytest.raises(InputError, match="sensor: got None"):
        load_dataset("eventfolder", tmp_path)
    assert load_dataset("eventfolder", tmp_path, sensor=(128, 130)).input_shape == (2, 130, 128)


def test_damaged_recordings_are_used_and_told(eventfolder, caplog):
    path = eventfolder / "train" / "right" / "a.raw"
    path.write_bytes(path.read_bytes()[:-3])
    data = load_dataset("eventfolder", eventfolder, timesteps=1)
    assert data.train.inputs.sum((1, 2, 3, 4)).tolist() == [120, 120, 119, 120]
    assert "1 recordings are not whole" in caplog.text
    assert "cut off within an event: 1 bytes" in caplog.text
    path.write_bytes(b"% evt 2.0\n")
    with pytest.raises(InputError, match="at least one event"):
        load_dataset("eventfolder", eventfolder, timesteps=1)


def test_frames_come_from_the_cache_until_content_or_options_change(eventfolder, tmp_path):
    cache = tmp_path / "cache"

    def entries(**options) -> int:
        load_dataset("eventfolder", eventfolder, cache_dir=cache, **options)
        return len(list(cache.glob("eventfolder-*")))

    assert entries(timesteps=2) == 1
    assert entries(timesteps=2) == 1
    assert entries(timesteps=3) == 2
    assert entries(timesteps=3, size=32) == 3
    assert entries(timesteps=3, size=32, by="count") == 4
    (eventfolder / "train" / "left" / "a.raw").write_bytes(evt2(ramp(50)))
    assert entries(timesteps=2) == 5


def test_a_class_without_recordings_is_a_class_in_the_cache_too(eventfolder, tmp_path):
    for expected in (("left", "right"), ("left", "right", "upwards")):
        for half in ("train", "val"):
            (eventfolder / half / expected[-1]).mkdir(exist_ok=True)
        data = load_dataset("eventfolder", eventfolder, timesteps=1, cache_dir=tmp_path / "cache")
        assert data.classes == expected


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar10dvs", {"split": "random"}, "split: got 'random'"),
        ("cifar10dvs", {"by": "size"}, "by: got 'size'"),
        ("cifar10dvs", {"timesteps": 0}, "timesteps: got 0"),
        ("cifar10dvs", {"size": 129}, "at most the sensor's 128x128"),
        ("cifar10dvs", {"timesteps": 10**6}, r"frames: got \[1000000, .*at most 67,108,864 values"),
        ("cifar10-dvs-sim", {"timesteps": 10**5}, r"frames: got \[100000, .*at most 67,108,864"),
        ("cifar10-dvs-sim", {"size": 200}, "size: got 200"),
        ("cifar10-dvs-sim", {"timesteps": 0}, "timesteps: got 0"),
    ],
)
def test_bad_options_are_refused(cifar10dvs, name, options, message):
    with pytest.raises(InputError, match=message):
        load_dataset(name, cifar10dvs, **options)


@pytest.mark.parametrize("name", ["cifar10dvs", "dvsgesture", "nmnist", "eventfolder"])
@pytest.mark.parametrize("folder", [None, "empty"])
def test_absent_sets_say_what_is_missing(name, folder, tmp_path):
    with pytest.raises(InputError, match=r"^data_dir: got .*a folder with"):
        load_dataset(name, None if folder is None else tmp_path)


def test_a_split_without_recordings_says_so(cifar10dvs, tmp_path):
    shutil.copytree(cifar10dvs, tmp_path / "part", ignore=lambda _, names: [
        name for name in names if name.endswith(("_950.aedat", "_909.aedat"))
    ])  # fmt: skip
    with pytest.raises(InputError, match="recordings of the test split 'tet'"):
        load_dataset("cifar10dvs", tmp_path / "part", split="tet")


@pytest.mark.parametrize("timesteps", [1, 2])
def test_bins_are_channels_in_every_event_set(eventfolder, timesteps):
    options = {"size": 16, "limit_train": 4, "limit_test": 2}
    for name, place in (("eventfolder", eventfolder), ("digits-dvs-sim", None)):
        plain = load_dataset(name, place, timesteps=3 * timesteps, **options)
        binned = load_dataset(name, place, timesteps=timesteps, bins=3, **options)
        assert (binned.input_shape, binned.timesteps) == ((6, 16, 16), timesteps)
        assert torch.equal(binned.train.inputs, plain.train.inputs.view(4, timesteps, 6, 16, 16))
        with pytest.raises(InputError, match="bins: got 0"):
            load_dataset(name, place, bins=0)


def test_a_damaged_recording_is_skipped_if_wanted(eventfolder, caplog):
    (eventfolder / "train" / "left" / "a.raw").write_bytes(b"% evt 2.0\n")
    (eventfolder / "val" / "right" / "a.raw").write_bytes(b"no recording")
    with pytest.raises(InputError, match=r"^2 damaged files: .*at least one event.*no recording"):
        load_dataset("eventfolder", eventfolder)
    data = load_dataset("eventfolder", eventfolder, skip_damaged=True)
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 1, 1], [0, 0, 1])
    assert "2 damaged files skipped" in caplog.text


def test_a_sample_of_too_many_events_is_refused(eventfolder, monkeypatch):
    monkeypatch.setattr("multispike.events.read.MOST_EVENTS", 119)
    with pytest.raises(InputError, match="at most 119 events a sample"):
        load_dataset("eventfolder", eventfolder)


def test_every_image_set_has_an_emulated_one():
    images = {name for name, source in DATASETS.items() if not source.events}
    emulated = {name for name in DATASETS if name.endswith("-dvs-sim")}
    assert emulated == {f"{name}-dvs-sim" for name in images}
    assert all(DATASETS[name].events for name in emulated)


def test_emulated_digits_are_the_emulators_frames():
    digits = load_dataset("digits")
    data = load_dataset("digits-dvs-sim", size=16, timesteps=2, limit_train=30, limit_test=20)
    assert data.train.inputs.shape == (30, 2, 2, 16, 16)
    assert data.classes == digits.classes
    chosen = digits.limited(30, 20)
    torch.testing.assert_close(data.train.labels, chosen.train.labels)
    for half, first in (("train", 0), ("test", len(digits.train))):
        images = getattr(digits, half).inputs.numpy()
        picked = getattr(chosen, half).inputs[7].numpy()
        index = next(i for i, image in enumerate(images) if (image == picked).all())
        expected = emulate_frames(picked[None], [first + index], size=16, timesteps=2)[0]
        np.testing.assert_array_equal(getattr(data, half).inputs[7].numpy(), expected)
        events = emulate_events(picked, first + index, size=16, timesteps=2)
        assert len(events) == expected.sum(dtype=int)


def test_limits_choose_samples_but_do_not_change_them():
    options = {"size": 16, "timesteps": 1, "limit_test": 10}
    few = load_dataset("digits-dvs-sim", limit_train=20, **options)
    more = load_dataset("digits-dvs-sim", limit_train=60, **options)
    every = {frames.tobytes() for frames in more.train.inputs.numpy()}
    assert {frames.tobytes() for frames in few.train.inputs.numpy()} <= every
    torch.testing.assert_close(few.test.inputs, more.test.inputs)
    with pytest.raises(InputError, match="limit_train: got 5000"):
        load_dataset("digits-dvs-sim", limit_train=5000, **options)


def test_cifar10_dvs_sim_on_real_images(shared_data):
    data = load_dataset(
        "cifar10-dvs-sim", shared_data / "cifar10", limit_train=20, limit_test=10, timesteps=10
    )
    assert data.train.inputs.shape == (20, 10, 2, 64, 64)
    assert data.train.labels.bincount().tolist() == [2] * 10
    per_pixel = data.train.inputs.float().sum((1, 2)).mean()
    assert 1 < per_pixel < 20  # CIFAR10-DVS has about 12 in six loops
