"""Readers of event recordings against hand-assembled bytes, real files, and damage."""

import gc
import io
import os
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tonic.io import read_mnist_file

from multispike.errors import InputError
from multispike.events.read import EVENT, read_events

RAMPS = Path(__file__).parent / "data"
"""120 events with t = 1000 + 10 i, x = i, y = 127 - i, p = i mod 2, written by faery 0.7.1."""


def ramp(count: int = 120) -> np.ndarray:
    i = np.arange(count)
    events = np.empty(count, EVENT)
    events["t"], events["x"], events["y"], events["p"] = 1000 + 10 * i, i, 127 - i, i % 2
    return events


def evt2(events: np.ndarray, header: str = "% evt 2.0\n% geometry 128x128\n% end\n") -> bytes:
    """One time word before every event."""
    words = np.empty((len(events), 2), "<u4")
    words[:, 0] = 8 << 28 | events["t"] >> 6
    words[:, 1] = (
        events["p"].astype(np.uint32) << 28
        | (events["t"] & 63).astype(np.uint32) << 22
        | events["x"].astype(np.uint32) << 11
        | events["y"].astype(np.uint32)
    )
    return header.encode() + words.tobytes()


def evt3(events: np.ndarray) -> bytes:
    """Four words an event: time above and below 12 bits, row, column with polarity."""
    words = np.empty((len(events), 4), "<u2")
    words[:, 0] = 0x8000 | events["t"] >> 12 & 0xFFF
    words[:, 1] = 0x6000 | events["t"] & 0xFFF
    words[:, 2] = events["y"]
    words[:, 3] = 0x2000 | events["p"].astype(int) << 11 | events["x"]
    return b"% evt 3.0\n% format EVT3;height=128;width=128\n% end\n" + words.tobytes()


def aedat2(events: np.ndarray) -> bytes:
    """As jAER writes a DVS128: x from the right, y from below, polarity inverted."""
    records = np.empty((len(events), 2), ">u4")
    x, y = 127 - events["x"].astype(int), 127 - events["y"].astype(int)
    records[:, 0] = y << 8 | x << 1 | 1 - events["p"]
    records[:, 1] = events["t"]
    return b"#!AER-DAT2.0\r\n# This is a raw AE data file\r\n" + records.tobytes()


def npy(events: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, events)
    return file.getvalue()


def npz(events: np.ndarray, save=np.savez) -> bytes:
    file = io.BytesIO()
    save(file, **{name: events[name] for name in "txyp"})
    return file.getvalue()


def hdf5(events: np.ndarray, place: str = "events", **storage) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        group = root.require_group(place)
        for name in "txyp":
            group.create_dataset(name, data=events[name], **storage)
    return file.getvalue()


def hdf5_table(events: np.ndarray) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        root["CD/events"] = events
    return file.getvalue()


DAT_HEADER = b"% Data file containing CD events.\n% Version 2\n% Width 128\n% Height 128\n"


def dat(events: np.ndarray, header: bytes = DAT_HEADER, kind: bytes = b"\x0c\x08") -> bytes:
    """Prophesee's DAT 2: 32 bits of time; 14, 14 and 4 bits of x, y and polarity."""
    records = np.empty((len(events), 2), "<u4")
    records[:, 0] = events["t"]
    records[:, 1] = (
        events["p"].astype(np.uint32) << 28
        | events["y"].astype(np.uint32) << 14
        | events["x"].astype(np.uint32)
    )
    return header + kind + records.tobytes()


def bin5(events: np.ndarray) -> bytes:
    """N-MNIST's records: x, y, polarity with 23 bits of time."""
    records = np.empty((len(events), 5), np.uint8)
    t = events["t"]
    records.T[:] = events["x"], events["y"], events["p"] << 7 | t >> 16, t >> 8 & 255, t & 255
    return records.tobytes()


FILES = {
    "evt2": (".raw", evt2(ramp())),
    "evt3": (".raw", evt3(ramp())),
    "dat": (".dat", dat(ramp())),
    "aedat2": (".aedat", aedat2(ramp())),
    "aedat4": (".aedat4", (RAMPS / "ramp_plain.aedat4").read_bytes()),
    "aedat4 lz4": (".aedat4", (RAMPS / "ramp_lz4.aedat4").read_bytes()),
    "aedat4 zstd": (".aedat4", (RAMPS / "ramp_zstd.aedat4").read_bytes()),
    "npy": (".npy", npy(ramp())),
    "npz": (".npz", npz(ramp())),
    "npz compressed": (".npz", npz(ramp(), np.savez_compressed)),
    "hdf5": (".h5", hdf5(ramp())),
    "hdf5 compressed": (".h5", hdf5(ramp(), "/", chunks=(32,), compression="gzip")),
    "hdf5 table": (".hdf5", hdf5_table(ramp())),
}
STREAMED = [name for name in FILES if not name.startswith(("npz", "hdf5"))]


def read_all(source, **options) -> tuple[np.ndarray, object]:
    recording = read_events(source, **options)
    return np.concatenate(list(recording)), recording


def skipped(recording, unit: str) -> int:
    """How many of `unit` in all."""
    return sum(skip.count for skip in recording.skipped.values() if skip.unit == unit)


def stored(folder: Path, name: str, content: bytes | None = None) -> Path:
    suffix, whole = FILES[name]
    path = folder / f"recording{suffix}"
    path.write_bytes(whole if content is None else content)
    return path


@pytest.mark.parametrize("chunk", [1, 7, 1 << 16])
@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_events(name, chunk, tmp_path):
    recording = read_events(stored(tmp_path, name), chunk=chunk)
    pieces = list(recording)
    assert max(map(len, pieces)) <= chunk
    events = np.concatenate(pieces)
    assert events.dtype == EVENT
    np.testing.assert_array_equal(events, ramp())
    assert recording.events == 120
    assert not recording.skipped
    assert recording.sensor == (None if name.startswith(("np", "hdf5")) else (128, 128))


@pytest.mark.parametrize("name", STREAMED)
def test_streams_give_what_files_give(name):
    events, _ = read_all(io.BytesIO(FILES[name][1]))
    np.testing.assert_array_equal(events, ramp())


def test_nmnist_records(tmp_path):
    expected = ramp(30)
    expected["y"] = expected["x"]
    (tmp_path / "00001.bin").write_bytes(bin5(expected))
    events, recording = read_all(tmp_path / "00001.bin")
    np.testing.assert_array_equal(events, expected)
    assert (recording.format, recording.sensor) == ("N-MNIST", (34, 34))


@pytest.mark.parametrize("chunk", [7, 1 << 16])
def test_nmnist_gives_what_tonic_reads(shared_data, tmp_path, chunk):
    """A real recording, and one whose time wraps twice (y = 240)."""
    real = next((shared_data / "nmnist" / "Test" / "3").iterdir()).read_bytes()
    wrap = bytes([0, 240, 0, 0, 0])
    dtype = np.dtype([(name, np.int64) for name in "xytp"])
    for content in (real, real[:500] + wrap + real[500:750] + wrap + real[750:900]):
        (tmp_path / "a.bin").write_bytes(content)
        expected = read_mnist_file(io.BytesIO(content), dtype, is_stream=True)
        events, _ = read_all(tmp_path / "a.bin", chunk=chunk)
        for name in "txyp":
            np.testing.assert_array_equal(events[name], expected[name])


def test_dat_without_a_sensor_or_of_another_kind(tmp_path):
    """N-Cars has no width in its headers, and type 0 for its events."""
    header = b"% Data file containing Event2D events.\n% Version 2\n% Date 2017-3-29 10:9:32\n"
    events, recording = read_all(io.BytesIO(dat(ramp(), header, b"\x00\x08")))
    np.testing.assert_array_equal(events, ramp())
    assert (recording.format, recording.sensor) == ("DAT", None)
    for wrong in (
        dat(ramp(), DAT_HEADER.replace(b"Version 2", b"Version 1")),
        dat(ramp(), DAT_HEADER.replace(b"% Version 2\n", b"")),
        dat(ramp(), kind=b"\x0e\x08"),
        dat(ramp(), kind=b"\x0c\x10"),
        DAT_HEADER,
    ):
        with pytest.raises(InputError, match=r"DAT .*allowed: DAT 2 with CD events of 8 bytes"):
            read_all(io.BytesIO(wrong))


DAVIS346 = b"#!AER-DAT2.0\r\n# AEChip: eu.seebetter.ini.chips.davis.DAVIS346B\r\n"


def davis(header: bytes, addresses: list[int]) -> io.BytesIO:
    records = [[address, 10 * i] for i, address in enumerate(addresses)]
    return io.BytesIO(header + np.array(records, ">u4").tobytes())


def test_davis_addresses_pass_over_frames_and_triggers():
    addresses = [5 << 22 | 9 << 12 | 1 << 11, 1 << 31 | 5 << 22, 1 << 10, 259 << 22 | 345 << 12]
    events, recording = read_all(davis(DAVIS346, addresses))
    assert events.tolist() == [(0, 336, 254, 1), (30, 0, 0, 0)]  # from the right, and from below
    assert recording.sensor == (346, 260)
    at = len(DAVIS346) + 16
    assert str(recording.skipped) == f"special or external: 1 events (first at byte {at})"


def test_a_davis346_is_upright_as_tonic_reads_it(tmp_path):
    rng = np.random.default_rng(0)
    x, y, p = rng.integers(0, 346, 500), rng.integers(0, 260, 500), rng.integers(0, 2, 500)
    header = DAVIS346 + b"# Creation time: 1 \r\n"
    content = davis(header, list(y << 22 | x << 12 | p << 11)).getvalue()
    (tmp_path / "a.aedat").write_bytes(content)
    events, _ = read_all(tmp_path / "a.aedat")
    records = np.frombuffer(content, ">u4", offset=len(header)).reshape(-1, 2)
    address = records[:, 0].astype(int)  # as tonic.io.read_davis_346, whose reader fails here
    np.testing.assert_array_equal(events["x"], 345 - ((address & 4190208) >> 12))
    np.testing.assert_array_equal(events["y"], 259 - ((address & 2143289344) >> 22))
    np.testing.assert_array_equal(events["p"], (address & 2048) >> 11)


@pytest.mark.parametrize(
    ("chip", "sensor"),
    [
        ("DAVIS240C", (240, 180)),
        ("Davis128", (128, 128)),
        ("Davis208PixelParade", (208, 192)),
        ("DAVIS346B", (346, 260)),
        ("Davis640", (640, 480)),
        ("DavisRGBW640", (320, 240)),
        ("CDAVIS", (320, 240)),
    ],
)
def test_a_davis_is_as_large_as_its_chip(chip, sensor):
    header = f"#!AER-DAT2.0\r\n# AEChip: eu.seebetter.ini.chips.davis.{chip}\r\n".encode()
    events, recording = read_all(davis(header, [0]))
    assert recording.sensor == sensor
    assert events.tolist() == [(0, sensor[0] - 1, sensor[1] - 1, 0)]


UNNAMED = b"#!AER-DAT2.0\r\n# Timestamps tick is 1 us\r\n"


def davis_ramp(width: int, height: int) -> list[int]:
    i = np.arange(1000)
    x, y = i % width, i % height
    return list((height - 1 - y) << 22 | (width - 1 - x) << 12 | (i & 1) << 11)


@pytest.mark.parametrize("sensor", [(346, 260), (640, 480), (240, 180)])
def test_a_davis_that_is_not_named_is_told_by_its_sensor(sensor):
    """As v2e writes them."""
    events, recording = read_all(davis(UNNAMED, davis_ramp(*sensor)), sensor=sensor)
    assert events["x"].tolist() == [i % sensor[0] for i in range(1000)]
    assert events["y"].tolist() == [i % sensor[1] for i in range(1000)]
    assert events["p"].tolist() == [i & 1 for i in range(1000)]
    assert not recording.skipped


@pytest.mark.parametrize("sensor", [None, (128, 128), (300, 300)])
def test_addresses_that_no_dvs128_can_send_are_not_read_as_its(sensor):
    with pytest.raises(InputError, match=r"names no chip.*--sensor 346x260"):
        read_all(davis(UNNAMED, davis_ramp(346, 260)), sensor=sensor)


def test_single_damaged_addresses_of_a_dvs128_are_left_out():
    addresses = [5 << 8 | 3 << 1, 5 << 8 | 1 << 20, 6 << 8]
    events, recording = read_all(davis(UNNAMED, addresses))
    assert events["x"].tolist() == [124, 127]
    at = len(UNNAMED) + 8
    assert str(recording.skipped) == f"not a DVS128's address: 1 events (first at byte {at})"


@pytest.mark.parametrize(
    "end",
    [b"", b"#End Of ASCII Header\r\n", b"# End of ASCII Header\r\n", b"#END OF ascii header\n"],
)
@pytest.mark.parametrize("y", [139, 140, 141, 142, 143, 144])
def test_a_header_ends_before_a_record_that_begins_like_it(end, y):
    """With y from 140 to 143 the first byte of a DAVIS event is #."""
    events, recording = read_all(davis(DAVIS346 + end, [y << 22 | 7 << 12] * 40))
    assert len(events) == 40
    assert events["y"].tolist() == [259 - y] * 40
    assert not recording.skipped


def test_a_record_behind_the_end_of_the_header_may_be_text():
    content = DAVIS346 + b"#End Of ASCII Header\r\n" + b"#@    \r\n" * 2
    events, _ = read_all(io.BytesIO(content))
    assert events.tolist() == [(0x20200D0A, 343, 118, 0)] * 2


def test_special_events_of_a_dvs128_are_no_pixels():
    addresses = [1 << 15, 5 << 8 | 3 << 1 | 1, 1 << 15 | 77, 1 << 31 | 5 << 8, 6 << 8]
    events, recording = read_all(davis(b"#!AER-DAT2.0\r\n", addresses))
    assert events.tolist() == [(10, 124, 122, 0), (40, 127, 121, 1)]
    assert str(recording.skipped) == "special or external: 3 events (first at byte 14)"


def test_evt3_vectors():
    words = [0x8001, 0x6002, 7, 0x3000 | 1 << 11 | 100, 0x4000 | 0b101, 0x5000 | 0b10]
    events, _ = read_all(io.BytesIO(b"% evt 3.0\n" + np.array(words, "<u2").tobytes()))
    t = 1 << 12 | 2
    assert events.tolist() == [(t, 100, 7, 1), (t, 102, 7, 1), (t, 113, 7, 1)]


def evt3_plainly(words: np.ndarray, count_wraps: bool) -> np.ndarray:
    """EVT3 word by word as the specification has it: time is TIME_HIGH << 12 | TIME_LOW.

    count_wraps: 4096 µs more for every TIME_LOW below the one before, as expelliarmus counts.
    """
    events, high, low, wraps, y, x, p = [], 0, 0, 0, 0, 0, 0
    for word in words.tolist():
        kind, value = word >> 12, word & 0xFFF
        if kind == 0x8:
            high = value
        elif kind == 0x6:
            wraps += count_wraps and value < low
            low = value
        elif kind == 0x0:
            y = value & 0x7FF
        elif kind in (0x2, 0x3):
            x, p = value & 0x7FF, value >> 11
            if kind == 0x2:
                events.append((((high + wraps) << 12) + low, x, y, p))
        elif kind in (0x4, 0x5):
            time, width = ((high + wraps) << 12) + low, 12 if kind == 0x4 else 8
            events += [(time, x + bit, y, p) for bit in range(width) if value >> bit & 1]
            x += width
    return np.array(events, EVENT)


def test_real_evt3_decodes_to_its_reference_but_for_the_reference_clock(shared_data):
    """x, y and p are equal. The reference's times are wrong, and what is wrong is known exactly.

    The file has eleven steps back of TIME_LOW. At two, TIME_LOW wraps, and TIME_HIGH goes up by
    one; at the other nine the camera repeats a time word that is 3 to 11 µs old. expelliarmus,
    which made the .npy, adds 4096 µs at each (`if (buff_tmp < time_low) time_low_ovfs++` in its
    evt3.c), to the wraps that TIME_HIGH tells as well. So its recording lasts 53.9 ms, while all
    TIME_HIGH words lie within 3 * 4.1 ms, and as they come every 16 µs, say 8.8 ms.
    """
    content = (shared_data / "events" / "evt3_sample.raw").read_bytes()
    reference = np.load(shared_data / "events" / "evt3_sample.npy")
    events, recording = read_all(shared_data / "events" / "evt3_sample.raw")
    assert events.dtype == reference.dtype
    assert not recording.skipped
    words = np.frombuffer(content[content.index(b"system_ID 48\n") + 13 :], "<u2")
    np.testing.assert_array_equal(events, evt3_plainly(words, count_wraps=False))
    np.testing.assert_array_equal(reference, evt3_plainly(words, count_wraps=True))

    for column in "xyp":
        np.testing.assert_array_equal(events[column], reference[column])
    kinds, values = words >> 12, (words & 0xFFF).astype(int)
    highs, steps = values[kinds == 8], np.diff(values[kinds == 6])
    assert sorted(steps[steps < 0])[:2] == [-4095, -4095]
    assert len(steps[steps < 0]) == 11
    assert np.diff(highs).clip(0).sum() == highs.max() - highs.min() == 2
    assert np.ptp(reference["t"]) - np.ptp(events["t"]) == 11 * 4096
    assert np.ptp(reference["t"]) > 4 * (np.ptp(highs) + 1) * 4096
    assert np.ptp(events["t"]) == pytest.approx(16 * len(highs), abs=32)


def test_real_evt2_decodes_whole(shared_data):
    path = shared_data / "events" / "evt2_sample.raw"
    events, recording = read_all(path)
    assert (len(events), recording.sensor, bool(recording.skipped)) == (539481, (640, 480), False)
    content = path.read_bytes()
    words = np.frombuffer(content[content.index(b"% evt 2.0\n") + 10 :], "<u4")
    assert len(events) == (words >> 28 < 2).sum()
    high, plain = 0, []  # the specification, word by word
    for word in words[:5000].tolist():
        if word >> 28 == 8:
            high = word & 0xFFFFFFF
        else:
            plain.append((high << 6 | word >> 22 & 63, word >> 11 & 2047, word & 2047, word >> 28))
    assert events[: len(plain)].tolist() == plain


def test_a_pipe_gives_events_before_it_ends():
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream, os.fdopen(writing, "wb") as pipe:
        content = evt2(ramp())
        pipe.write(content[:-8])
        pipe.flush()
        recording = read_events(stream)
        assert recording.sensor == (128, 128)
        first = next(recording)
        pipe.write(content[-8:-3])  # ends within the last event

        threading.Thread(target=pipe.close).start()
        events = np.concatenate([first, *recording])
    np.testing.assert_array_equal(events, ramp()[:-1])
    assert skipped(recording, "bytes") == 1


class Repeating:
    """A stream of the same words over and over, `size` bytes of them behind the header."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.words = evt2(ramp(), header="")
        self.held = b"% evt 2.0\n% geometry 128x128\n"

    def read(self, count: int) -> bytes:
        while len(self.held) < count and self.left:
            self.held += self.words[: self.left]
            self.left -= min(self.left, len(self.words))
        data, self.held = self.held[:count], self.held[count:]
        return data


def test_memory_does_not_grow_with_the_recording():
    repeats = 10_000
    size = repeats * len(evt2(ramp(), header=""))
    tracemalloc.start()
    try:
        count = sum(map(len, read_events(Repeating(size), chunk=10_000)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 120 * repeats
    assert peak < size / 4


@given(cut=st.integers(0, len(FILES["evt2"][1]) - 1))
def test_a_prefix_of_a_recording_gives_a_prefix_of_its_events(cut):
    content = FILES["evt2"][1]
    header = len(content) - 120 * 8
    whole = max(0, cut - header) // 8
    if whole == 0:
        with pytest.raises(InputError):
            read_all(io.BytesIO(content[:cut]))
        return
    events, recording = read_all(io.BytesIO(content[:cut]))
    np.testing.assert_array_equal(events, ramp()[:whole])
    assert skipped(recording, "bytes") == (cut - header) % 4


damage = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), max_size=40)


@pytest.mark.parametrize("name", FILES)
@given(flips=damage, cut=st.floats(0, 1), at_start=st.booleans())
def test_damage_never_breaks_more_than_it_touches(name, tmp_path_factory, flips, cut, at_start):
    content = bytearray(FILES[name][1])
    for place, bit in flips:
        index = int(place * (min(200, len(content)) if at_start else len(content) - 1))
        content[index] ^= 1 << bit
    if cut < 0.5:
        content = content[: int(2 * cut * len(content))]
    folder = tmp_path_factory.mktemp("damaged")
    last = -(1 << 63)
    try:
        recording = read_events(stored(folder, name, bytes(content)), chunk=50)
        for events in recording:
            width, height = recording.sensor or (1 << 15, 1 << 15)
            assert len(events) > 0
            assert last <= events["t"][0]
            assert (np.diff(events["t"]) >= 0).all()
            assert 0 <= events["x"].min() <= events["x"].max() < width
            assert 0 <= events["y"].min() <= events["y"].max() < height
            assert events["p"].max() <= 1
            last = events["t"][-1]
        assert 0 < recording.events <= 100_000
    except InputError:
        pass  # nothing could be read; every other exception is a failure


def with_times(*times: int) -> bytes:
    events = ramp(len(times))
    events["t"] = times
    return evt2(events)


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("given_times", "expected", "reason"),
    [
        ((0, 50, 40, 60), [0, 50, 50, 60], None),
        ((5000, 9000, 100, 300), [5000, 9000, 9000, 9200], "clock went back"),
        ((5000, 6000, 4500, 5900, 9000), [5000, 6000, 6000, 7400, 10500], "clock went back"),
    ],
)
def test_time_never_goes_back(given_times, expected, reason, chunk):
    events, recording = read_all(io.BytesIO(with_times(*given_times)), chunk=chunk)
    assert events["t"].tolist() == expected
    assert list(recording.skipped) == ([reason] if reason else [])


a_step = st.sampled_from([0, 3, 700, 1000, 1001, 9000, 1 << 26])
steps_of_time = st.lists(a_step | a_step.map(lambda step: -step), min_size=1, max_size=40)


@given(steps=steps_of_time, chunk=st.integers(1, 8))
def test_where_a_piece_ends_changes_nothing(steps, chunk):
    content = with_times(*(np.cumsum(steps) - min(0, *np.cumsum(steps))))
    events, recording = read_all(io.BytesIO(content), chunk=chunk)
    whole, whole_recording = read_all(io.BytesIO(content))
    np.testing.assert_array_equal(events, whole)
    assert recording.skipped == whole_recording.skipped
    assert (np.diff(events["t"]) >= 0).all()


def test_a_wrap_of_the_clock_is_bridged():
    """EVT3 has 24 bits of time; the decoder knows. AEDAT2 has 32; time goes on from the last."""
    events = ramp(2)
    events["t"] = (1 << 24) - 1, 1 << 24
    decoded, recording = read_all(io.BytesIO(evt3(events)))
    assert decoded["t"].tolist() == events["t"].tolist()
    assert not recording.skipped
    events["t"] = (1 << 32) - 1, 5
    decoded, recording = read_all(io.BytesIO(aedat2(events)))
    assert decoded["t"].tolist() == [(1 << 32) - 1, (1 << 32) - 1]
    assert skipped(recording, "times") == 1


def test_events_outside_the_sensor_are_counted():
    events = ramp(100)
    decoded, recording = read_all(io.BytesIO(evt2(events)), sensor=(60, 128))
    np.testing.assert_array_equal(decoded, events[:60])
    assert str(recording.skipped) == "outside the sensor: 40 events (first at event 60)"
    assert recording.sensor == (60, 128)


@pytest.mark.parametrize("chunk", [2, 7, 100])
def test_places_count_all_events_of_the_file(chunk):
    """Also those that were left out before for another reason."""
    events = ramp(40)
    events["x"][[0, 3, 4, 9]] = 500  # beside the sensor
    events["t"][30:] -= 100_000
    events["t"] += 200_000
    decoded, recording = read_all(io.BytesIO(evt2(events)), chunk=chunk)
    places = {reason: skip.position for reason, skip in recording.skipped.items()}
    assert places == {"outside the sensor": 0, "clock went back": 30}
    assert len(decoded) == 36


def test_unknown_words_and_events_before_the_first_time_are_counted():
    content = evt2(ramp(3), header="")
    strange = np.array([1 << 28, 0x70000000, 0xB0000000], "<u4").tobytes()
    decoded, recording = read_all(io.BytesIO(b"% evt 2.0\n" + strange + content))
    np.testing.assert_array_equal(decoded, ramp(3))
    assert set(str(recording.skipped).split("; ")) == {
        "words of unknown type: 8 bytes (first at byte 14)",
        "before the first time stamp: 4 bytes (first at byte 10)",
    }


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_events_of_evt3_before_the_first_time_are_counted(chunk):
    early = [0x6005, 7, 0x2000 | 100, 0x3000 | 8, 0x4003, 0x5001, 0x6006, 0x2000 | 101]
    content = b"% evt 3.0\n" + np.array(early, "<u2").tobytes() + evt3(ramp(3)).split(b"% end\n")[1]
    decoded, recording = read_all(io.BytesIO(content), chunk=chunk)
    np.testing.assert_array_equal(decoded, ramp(3))
    assert str(recording.skipped) == "before the first time stamp: 8 bytes (first at byte 14)"


@pytest.mark.parametrize("name", ["aedat4 lz4", "aedat4 zstd"])
def test_a_damaged_packet_is_passed_over(name):
    content = bytearray(FILES[name][1])
    mark = b"\x04\x22\x4d\x18" if "lz4" in name else b"\x28\xb5\x2f\xfd"
    second = content.index(mark, content.index(mark) + 1)
    content[second] ^= 1
    decoded, recording = read_all(io.BytesIO(content))
    np.testing.assert_array_equal(decoded, ramp()[np.r_[:40, 80:120]])
    assert list(recording.skipped) == ["damaged packets"]


def test_polarities_and_names_of_other_tools(tmp_path):
    table = np.zeros(3, [("ts", "f8"), ("xs", "u2"), ("ys", "u2"), ("polarity", "i1")])
    table["ts"] = 0.5, 0.500_001, 1.0
    table["polarity"] = -1, 1, 1
    np.save(tmp_path / "a.npy", table)
    events, _ = read_all(tmp_path / "a.npy")
    assert events["t"].tolist() == [500_000, 500_001, 1_000_000]
    assert events["p"].tolist() == [0, 1, 1]


def test_numbers_that_are_none_are_skipped():
    table = np.zeros(4, [("t", "f4"), ("x", "f4"), ("y", "i4"), ("p", "?")])
    table["x"] = np.nan, 3.0, np.inf, -np.inf
    table["t"] = 1.0, 2.0, np.nan, np.inf
    events, recording = read_all(io.BytesIO(npy(table)))
    assert events.tolist() == [(2, 3, 0, 0)]
    assert skipped(recording, "events") == 3


def shuffled(seed: int, count: int = 3000) -> np.ndarray:
    """Events in an order of their own, with times that repeat."""
    events = ramp(count)
    events["t"] = np.random.default_rng(seed).integers(0, 1_000_000, count)
    events["x"], events["y"] = np.divmod(np.arange(count), 60)
    return events


def seconds(events: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, t=events["t"] / 1e6, **{name: events[name] for name in "xyp"})
    return file.getvalue()


@pytest.mark.parametrize("chunk", [7, 1000, 1 << 16])
@pytest.mark.parametrize(
    ("suffix", "written"),
    [(".npy", npy), (".npz", npz), (".npz", seconds), (".h5", hdf5), (".h5", hdf5_table)],
)
@pytest.mark.parametrize("by_polarity", [False, True])
def test_arrays_in_a_file_are_sorted(suffix, written, chunk, by_polarity, tmp_path):
    """Stably; in blocks by polarity time goes back once only."""
    events = shuffled(1)
    if by_polarity:
        events = events[np.lexsort((events["t"], events["p"]))]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(written(events))
    found, recording = read_all(path, chunk=chunk)
    np.testing.assert_array_equal(found, events[np.argsort(events["t"], kind="stable")])
    back = np.flatnonzero(np.diff(events["t"]) < 0) + 1
    assert str(recording.skipped) == (
        f"not in the order of time, so sorted: {len(back)} times (first at event {back[0]})"
    )


def test_integers_that_no_float_holds_are_in_order(tmp_path):
    events = ramp()
    events["t"] = (1 << 60) + np.arange(120) // 2
    (tmp_path / "a.npy").write_bytes(npy(events))
    for chunk in (1, 7, 200):
        found, recording = read_all(tmp_path / "a.npy", chunk=chunk)
        np.testing.assert_array_equal(found, events)
        assert not recording.skipped


def test_arrays_in_a_stream_are_refused_if_time_goes_back_often(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="events in the order of time"):
        read_all(io.BytesIO(npy(shuffled(2))), chunk=100)
    events = shuffled(2)
    events["t"].sort()
    events["t"][2000:] -= 100_000  # a clock that was reset
    found, recording = read_all(io.BytesIO(npy(events)), chunk=100)
    assert len(found) == 3000
    assert list(recording.skipped) == ["clock went back"]
    monkeypatch.setattr("multispike.events.codecs.arrays.MOST_EVENTS", 2999)
    (tmp_path / "a.npz").write_bytes(npz(shuffled(2)))
    with pytest.raises(InputError, match=r"a\.npz', allowed: events in the order of time"):
        read_all(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("kind", "odd", "on"),
    [
        ("u1", [2, 3], 1), ("u1", [255], 1), ("i8", [-2], 0), ("i8", [1 << 40], 1),
        ("i1", [-128], 0), ("f4", [np.nan], 0), ("f4", [1.5], 1),
    ],
)  # fmt: skip
def test_odd_polarities_are_told(kind, odd, on):
    table = np.zeros(4, [("t", "i8"), ("x", "u2"), ("y", "u2"), ("p", kind)])
    table["p"] = [0, 1, odd[0], odd[-1]]
    events, recording = read_all(io.BytesIO(npy(table)), chunk=2)
    assert events["p"].tolist() == [0, 1, on, on]
    reason = "polarity not 0, 1 or -1, ON if above 0"
    assert str(recording.skipped) == f"{reason}: 2 events (first at event 2)"


def compressed_by(number: int, path: Path) -> Path:
    """Arrays of a chunk each, whose filter has no settings and no data of its kind."""
    with h5py.File(path, "w") as file:
        group = file.create_group("events")
        for name in "xytp":
            settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            settings.set_chunk((100,))
            settings.set_filter(number, h5py.h5z.FLAG_OPTIONAL, ())
            space = h5py.h5s.create_simple((100,))
            kind = h5py.h5t.NATIVE_INT64
            data = h5py.h5d.create(group.id, name.encode(), kind, space, dcpl=settings)
            data.write_direct_chunk((0,), bytes(64))
    return path


@pytest.mark.parametrize(("number", "called"), [(32001, "blosc"), (36559, "ECF, .*")])
def test_a_compression_of_hdf5_that_is_not_there_is_named(number, called, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    if h5py.h5z.filter_avail(number):
        pytest.skip(f"filter {number} is there")
    path = compressed_by(number, tmp_path / "a.h5")
    with pytest.raises(InputError, match=rf"filter {number} \({called}\)'.*pip install hdf5plugin"):
        read_events(path)


def test_filters_of_hdf5plugin_are_used(tmp_path, monkeypatch):
    """Whether or not it is installed here: importing it is all that h5py needs."""
    (tmp_path / "hdf5plugin.py").write_text("import builtins; builtins.filters_known = True\n")
    program = (
        "import builtins, sys; from multispike.events.read import read_events\n"
        "list(read_events(sys.argv[1])); print(builtins.filters_known)\n"
    )
    (tmp_path / "a.h5").write_bytes(hdf5(ramp()))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.h5")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "True\n"


@pytest.mark.skipif(find_spec("hdf5plugin") is None, reason="needs the plug-in that crashes")
def test_blosc_without_settings_is_refused(tmp_path, monkeypatch):
    """The plug-in reads settings that are not there: a segmentation fault. A process of its own
    writes the file, since the plug-in, once it is known, would add them."""
    program = (
        "import sys; from pathlib import Path; from test_events_recordings import compressed_by\n"
        "from multispike.events.read import read_events\n"
        "read_events(compressed_by(32001, Path(sys.argv[1])))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.h5")], capture_output=True, text=True
    )
    assert "InputError: " in done.stderr
    assert "without its settings" in done.stderr


def bombs(folder: Path) -> dict[str, Path]:
    """Small files that announce, or decompress to, gigabytes."""
    header = b"\x93NUMPY\x02\x00" + (1 << 32 - 1).to_bytes(4, "little")
    wide = io.BytesIO()
    dtype = np.dtype([("t", "i8"), ("x", "i8"), ("y", "i8"), ("p", "V1000000")])
    np.save(wide, np.zeros(2, dtype))
    with zipfile.ZipFile(folder / "header.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in "txyp":
            with archive.open(f"{name}.npy", "w") as member:
                member.write(header + bytes(1 << 26))
    (folder / "wide.npy").write_bytes(wide.getvalue())
    with h5py.File(folder / "chunk.h5", "w") as file:
        for name in "txyp":
            file.create_dataset(name, (1 << 28,), "i8", chunks=(1 << 28,), compression="gzip")
    with h5py.File(folder / "broad.h5", "w") as file:
        for name in "txyp":
            file.create_dataset(name, (4, 1 << 28), "i8", chunks=(1, 1 << 16))
    return {path.name: path for path in folder.iterdir()}


def test_bombs_are_refused_before_memory_is_taken(tmp_path):
    for name, path in bombs(tmp_path).items():
        tracemalloc.start()
        try:
            with pytest.raises(InputError, match="format of"):
                list(read_events(path))
            assert tracemalloc.get_traced_memory()[1] < 1 << 24, name
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    "kind", ["c8", "datetime64[ns]", "timedelta64[us]", "U3", [("a", "i4")]], ids=str
)
@pytest.mark.parametrize("column", "tx")
def test_columns_that_are_no_numbers_are_refused(column, kind, tmp_path):
    """Times of nanoseconds would be taken for microseconds."""
    columns = {name: ramp()[name] for name in "txyp"}
    columns[column] = np.zeros(120, kind)
    np.savez(tmp_path / "a.npz", **columns)
    with pytest.raises(InputError, match=rf"got .an array with {column} of .*, allowed: fields t"):
        read_all(tmp_path / "a.npz", sensor=(128, 128))


def elsewhere(group, how: str) -> None:
    """Times that are no data of the file itself."""
    if how == "group":
        group.create_group("t")
    elif how == "virtual":
        layout = h5py.VirtualLayout((120,), "i8")
        layout[:] = h5py.VirtualSource("gone.h5", "t", (120,))
        group.create_virtual_dataset("t", layout)
    else:
        group.create_dataset("t", (120,), "i8", external=[("/dev/zero", 0, 960)])


@pytest.mark.parametrize("how", ["group", "virtual", "external"])
def test_columns_of_hdf5_that_lie_elsewhere_are_refused(how, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as root:
        for name in "xyp":
            root[f"events/{name}"] = ramp()[name]
        elsewhere(root["events"], how)
    with pytest.raises(InputError, match=r"got 'HDF5 (with a group|whose events lie in other)"):
        read_all(tmp_path / "a.h5", sensor=(128, 128))


def timed(times: list[float], kind: str = "f8") -> io.BytesIO:
    table = np.zeros(len(times), [("t", kind), ("x", "u2"), ("y", "u2"), ("p", "u1")])
    table["t"] = times
    return io.BytesIO(npy(table))


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([1000.0, 1010.0, 1020.0], [1000, 1010, 1020]),
        ([1.6e15, 1.6e15 + 10, 1.6e15 + 20], [16 * 10**14, 16 * 10**14 + 10, 16 * 10**14 + 20]),
        ([0.0, 0.0, 1.0, 1.5], [0, 0, 1_000_000, 1_500_000]),
    ],
)
def test_whole_floats_are_microseconds_and_others_seconds(times, expected, chunk):
    events, recording = read_all(timed(times), chunk=chunk)
    assert events["t"].tolist() == expected
    assert not recording.skipped


def test_the_first_thousand_times_tell_their_unit():
    times = [1000.0 + k for k in range(1500)]
    times[1200] += 0.5
    for chunk in (7, 1000, 1 << 16):
        events, _ = read_all(timed(times), chunk=chunk)
        assert (events["t"][0], events["t"][-1]) == (1000, 2499)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e300, 4e9])
def test_events_without_a_time_are_counted(wrong):
    events, recording = read_all(timed([0.25, 0.5, wrong, 0.75]), chunk=2)
    assert events["t"].tolist() == [250_000, 500_000, 750_000]
    assert str(recording.skipped) == "without a time: 1 events (first at event 2)"


@pytest.mark.parametrize("wrong", [-(1 << 63), (1 << 63) - 1])
def test_times_at_the_border_of_the_integers_are_none(wrong):
    events, recording = read_all(timed([10, wrong, 20, 30], "i8"))
    assert events["t"].tolist() == [10, 20, 30]
    assert str(recording.skipped) == "without a time: 1 events (first at event 1)"


def test_what_came_before_the_damage_is_used_though_its_unit_is_not_certain(tmp_path):
    """The archive's checksum is wrong, which shows when its second block is read."""
    file = io.BytesIO()
    columns = {name: np.arange(900.0) for name in "txyp"}
    np.savez(file, **columns)
    content = bytearray(file.getvalue())
    content[content.index(np.float64(899).tobytes())] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    given, recording = read_all(tmp_path / "a.npz", chunk=10)
    assert 400 < len(given) < 900
    np.testing.assert_array_equal(given["t"], np.arange(len(given)))
    assert "reading failed (BadZipFile)" in str(recording.skipped)


@pytest.mark.parametrize("columns", ["t", "x", "xy", "p", "txyp"])
def test_fields_of_several_values_are_no_columns(columns, tmp_path):
    table = np.zeros(
        4, [(name, "i4", (2,)) if name in columns else (name, "i4") for name in "txyp"]
    )
    with pytest.raises(InputError, match="at least one event"):
        read_all(io.BytesIO(npy(table)))
    (tmp_path / "a.h5").write_bytes(hdf5_table(table))
    with pytest.raises(InputError, match="at least one event"):
        read_all(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"GIF89a plainly no recording", "GIF89a"),
        (b"% evt 2.1\n% end\n" + bytes(16), r"EVT 2\.1"),
        (b"% Date 2020\n", "EVT unknown"),
        (DAT_HEADER + b"\x0c\x08", "at least one event"),
        (b"% evt 2.0\n% end\n", "at least one event"),
        (npy(np.zeros((3, 4))), r"npy of float64 \[3, 4\]"),
        (npy(np.zeros(3, [("t", int), ("x", int)])), "t, x"),
        (npz(ramp()), "npz in a stream"),
        (hdf5(ramp()), "HDF5 in a stream"),
    ],
)
def test_what_can_not_be_read_says_why(content, message):
    with pytest.raises(InputError, match=message):
        read_all(io.BytesIO(content))


def test_missing_files_and_bad_arguments(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_events(tmp_path / "absent.raw")
    with pytest.raises(InputError, match="chunk: got 0"):
        read_events(io.BytesIO(evt2(ramp())), chunk=0)
    with pytest.raises(InputError, match="sensor: got"):
        read_events(io.BytesIO(evt2(ramp())), sensor=(0, 10))


def test_a_missing_library_is_named(tmp_path):
    """In a process of its own, in which the library can't be imported."""
    program = (
        "import sys; sys.modules['h5py'] = None\n"
        "from multispike.events.read import read_events\n"
        "from multispike.errors import InputError\n"
        "try: list(read_events(sys.argv[1]))\n"
        "except InputError as error: print(error)\n"
    )
    path = tmp_path / "a.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
    done = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("HDF5 recordings: needs the package h5py")
    assert "multispike[events]" in done.stdout


@pytest.mark.parametrize("shape", [(8, 2), (2, 4)])
def test_columns_of_several_values_an_event_are_refused(shape, tmp_path):
    events = ramp(8)
    columns = {name: events[name] for name in "xyp"} | {"t": np.zeros(shape, np.int64)}
    np.savez(tmp_path / "a.npz", **columns)
    with pytest.raises(InputError, match=rf"got 'npy of int64 \[{shape[0]}, {shape[1]}\]'"):
        read_all(tmp_path / "a.npz")


def test_coordinates_between_pixels_are_told():
    table = np.zeros(4, [("t", "i8"), ("x", "f4"), ("y", "f4"), ("p", "u1")])
    table["x"], table["y"] = [3, 0.25, np.nan, 3], [5, 5, 5, 6.5]
    events, recording = read_all(io.BytesIO(npy(table)), chunk=2)
    assert events[["x", "y"]].tolist() == [(3, 5), (0, 5), (3, 6)]
    told = "between pixels, cut to whole ones: 2 events (first at event 1)"
    assert str(recording.skipped).startswith(told)


def test_what_is_no_number_is_refused_before_it_is_sorted(tmp_path):
    """Long strings that compress to nothing; in memory they would be 200 MB."""
    kinds = {"t": "S1000", "x": "S1000", "y": "u1", "p": "u1"}
    columns = {name: np.zeros(100_000, kind) for name, kind in kinds.items()}
    columns["t"][0] = b"z"
    np.savez_compressed(tmp_path / "a.npz", **columns)
    del columns
    tracemalloc.start()
    with pytest.raises(InputError, match=r"an array with t of \|S1000"):
        read_all(tmp_path / "a.npz", chunk=1000)
    gc.collect()  # a file that is still open would be a warning
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_events_that_a_file_only_announces_do_not_delay_the_first(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in "txyp":
            file.create_dataset(name, (10**12,), "u1", chunks=(1 << 16,))
    recording = read_events(tmp_path / "a.h5")
    assert len(next(recording)) == 1 << 16
    recording.close()


def test_nmnist_records_that_move_the_time(monkeypatch, tmp_path):
    """As `tonic.io.read_mnist_file` reads them, in any pieces; it is quadratic in their number."""
    tonic = pytest.importorskip("tonic.io")
    events = ramp(30000)
    events["x"], events["y"], events["t"] = np.arange(30000) % 34, np.arange(30000) % 34, 5
    events["y"][::100] = 240
    content = bin5(events)
    (tmp_path / "a.bin").write_bytes(content)
    kind = np.dtype([(name, np.int64) for name in "xytp"])
    expected = tonic.read_mnist_file(io.BytesIO(content), kind, is_stream=True)
    for chunk in (7, 1 << 16):
        found, recording = read_all(tmp_path / "a.bin", chunk=chunk)
        assert not recording.skipped
        for name in "txyp":
            np.testing.assert_array_equal(found[name], expected[name])


def test_more_events_than_memory_holds_are_refused(monkeypatch):
    monkeypatch.setattr("multispike.events.read.MOST_EVENTS", 99)
    with pytest.raises(InputError, match="got 'stream', allowed: at most 99 events a sample"):
        read_events(io.BytesIO(npy(ramp())), chunk=10).whole()
