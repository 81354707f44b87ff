"""Slices of recordings, and the pictures that are made of them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_events_recordings import evt2, npy, ramp

from multispike.cli import main
from multispike.commands.stream import view as view_command
from multispike.config.commands import ViewConfig
from multispike.errors import InputError
from multispike.events.frames import slices
from multispike.events.read import EVENT
from multispike.events.view import CAPTION, View, read_view, write_view


def at(times: list[int]) -> np.ndarray:
    events = np.zeros(len(times), EVENT)
    events["t"] = sorted(times)
    return events


def pieces(events: np.ndarray, size: int) -> list[np.ndarray]:
    return [events[start : start + size] for start in range(0, len(events), size)]


some_times = st.lists(st.integers(0, 300), min_size=1, max_size=60)


@given(times=some_times, window=st.integers(1, 400), size=st.integers(1, 20))
def test_windows_hold_every_event_once(times, window, size):
    events = at(times)
    cut = list(slices(pieces(events, size), window_us=window))
    np.testing.assert_array_equal(np.concatenate([part.events for part in cut]), events)
    for part in cut:
        assert part.stop_us - part.start_us == window
        assert (part.start_us - events["t"][0]) % window == 0
        assert part.start_us <= part.events["t"][0] <= part.events["t"][-1] < part.stop_us


@given(times=some_times, count=st.integers(1, 80), size=st.integers(1, 20))
def test_counts_are_equal_but_for_what_is_left(times, count, size):
    events = at(times)
    cut = list(slices(pieces(events, size), count=count))
    *most, last = [len(part.events) for part in cut]
    assert most == [count] * len(most)
    assert last <= count
    np.testing.assert_array_equal(np.concatenate([part.events for part in cut]), events)


def test_long_silence_is_jumped_over():
    cut = list(slices([at([0, 5, 10**15])], window_us=10))
    assert [part.start_us for part in cut] == [0, 10**15]


@pytest.mark.parametrize(
    "options", [{}, {"window_us": 5, "count": 5}, {"window_us": 0}, {"count": -1}]
)
def test_slices_need_one_length(options):
    with pytest.raises(InputError, match=r"window_us|count"):
        slices([], **options)


def written(recording: Path, out: Path, limit: int = 100, **options) -> View:
    """What was written."""
    window = {} if "count" in options else {"window_us": 20_000}
    view = read_view(recording, limit=limit, **(window | options))
    write_view(view, out)
    return view


@pytest.fixture
def recording(tmp_path) -> Path:
    """120 events on a diagonal, 10 µs apart."""
    path = tmp_path / "ramp.raw"
    path.write_bytes(evt2(ramp()))
    return path


def test_a_sheet_shows_each_event_in_its_colour(recording, tmp_path):
    out = tmp_path / "new" / "ramp.png"
    view = written(recording, out, window_us=400)
    assert view.times == (0, 400, 800)
    assert (view.events, view.on_share, view.duration_us) == (120, 0.5, 1191)
    with Image.open(out) as image:
        sheet = np.asarray(image)
    columns = (sheet.shape[1] - 4) // 132
    for i, (x, y) in enumerate((i, 127 - i) for i in range(120)):
        row, column = divmod(i // 40, columns)
        pixel = sheet[4 + row * (132 + CAPTION) + y, 4 + column * 132 + x]
        assert pixel.tolist() == ([255, 0, 0] if i % 2 else [0, 0, 255])
    assert (sheet[4:132, 4:132] != 255).any(axis=2).sum() == 40


def test_both_polarities_in_a_pixel_are_black(tmp_path):
    events = np.zeros(2, EVENT)
    events["p"] = 0, 1
    (tmp_path / "a.raw").write_bytes(evt2(events))
    written(tmp_path / "a.raw", tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.getpixel((4, 4)) == (0, 0, 0)


def test_an_animation_has_its_frames(recording, tmp_path):
    out = tmp_path / "ramp.gif"
    view = written(recording, out, limit=3, count=30)
    with Image.open(out) as image:
        assert (image.n_frames, image.size) == (3, (128, 128 + CAPTION))
    assert not view.whole
    assert view.events == 90


def test_a_page_holds_everything_it_needs(recording, tmp_path):
    out = tmp_path / "ramp.html"
    written(recording, out, window_us=100)
    page = out.read_text()
    assert "120, 50.0% of them ON" in page
    frames = json.loads(re.search(r"const frames = (\[.*?\]);", page)[1])
    assert [when for when, _ in frames] == [f"{k / 10:.1f} ms" for k in range(12)]
    assert not re.search(r'(?:src|href)="(?!data:)', page)


def test_names_of_files_are_no_markup(tmp_path):
    path = tmp_path / "<b>.raw"
    path.write_bytes(evt2(ramp()))
    written(path, tmp_path / "a.html")
    assert "<b>" not in (tmp_path / "a.html").read_text()


def test_large_frames_are_made_smaller(tmp_path):
    path = tmp_path / "wide.raw"
    path.write_bytes(evt2(ramp(), header="% evt 2.0\n% geometry 1280x720\n"))
    for size, expected in ((None, (320, 180 + CAPTION)), (64, (64, 36 + CAPTION))):
        written(path, tmp_path / "a.gif", size=size)
        with Image.open(tmp_path / "a.gif") as image:
            assert image.size == expected


@pytest.mark.parametrize(("sensor", "size"), [(None, (120, 128)), ((200, 150), (200, 150))])
def test_files_that_do_not_tell_their_sensor(tmp_path, sensor, size):
    path = tmp_path / "a.npy"
    path.write_bytes(npy(ramp()))
    view = written(path, tmp_path / "a.png", sensor=sensor)
    assert view.sensor == size


def test_the_command_says_what_it_shows(recording, tmp_path, capsys):
    content = recording.read_bytes()
    recording.write_bytes(content[:-1])
    view_command(ViewConfig(str(recording), str(tmp_path / "a.png")))
    printed = capsys.readouterr().out
    assert "EVT2, 128x128 pixels" in printed
    assert "119, 49.6% of them ON" in printed
    assert "cut off within an event: 3 bytes" in printed
    assert "a.png" in printed


def test_the_command_line_checks_its_file(recording, tmp_path, capsys):
    assert main(["view", str(recording), "--out", str(tmp_path / "a.png")]) == 0
    assert main(["view", str(tmp_path / "none.raw"), "--out", str(tmp_path / "a.png")]) == 2
    assert "events: got" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("out: got 'a.jpg'", {"out": "a.jpg"}),
        ("window_us or count", {"window_us": 5, "count": 5}),
        ("frames: got 0", {"frames": 0}),
        ("sensor: got '640'", {"sensor": "640"}),
    ],
)
def test_bad_settings_are_refused(message, options):
    with pytest.raises(InputError, match=message):
        ViewConfig("a.raw", **options).check()


def test_what_can_not_be_read_leaves_no_file(tmp_path):
    (tmp_path / "a.raw").write_bytes(b"no recording at all")
    with pytest.raises(InputError, match="format of"):
        written(tmp_path / "a.raw", tmp_path / "out" / "a.png")
    assert not (tmp_path / "out").exists()
