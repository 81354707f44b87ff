"""Counting events into frames against plain loops, and the random changes of events."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multispike.datasets.augment import Augmentation
from multispike.errors import InputError
from multispike.events.frames import event_frames, frame_size
from multispike.events.read import EVENT

SENSOR = (13, 9)


def made(count: int, seed: int = 0, duration: int = 1000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    events = np.empty(count, EVENT)
    events["t"] = np.sort(rng.integers(0, duration, count))
    events["x"] = rng.integers(0, SENSOR[0], count)
    events["y"] = rng.integers(0, SENSOR[1], count)
    events["p"] = rng.integers(0, 2, count)
    return events


@given(
    count=st.integers(0, 200),
    timesteps=st.integers(1, 7),
    rows=st.integers(1, 9),
    columns=st.integers(1, 13),
    by=st.sampled_from(["time", "count"]),
    seed=st.integers(0, 99),
)
def test_frames_are_what_a_loop_counts(count, timesteps, rows, columns, by, seed):
    events = made(count, seed)
    expected = np.zeros((timesteps, 2, rows, columns), int)
    for i, (t, x, y, p) in enumerate(events.tolist()):
        start, stop = int(events["t"][0]), int(events["t"][-1]) + 1
        share = (t - start) / (stop - start) if by == "time" else i / count
        expected[int(share * timesteps + 1e-9), p, y * rows // 9, x * columns // 13] += 1
    frames = event_frames(events, SENSOR, timesteps=timesteps, size=(rows, columns), by=by)
    assert frames.dtype == np.uint8
    np.testing.assert_array_equal(frames, expected)


@pytest.mark.parametrize("by", ["time", "count"])
def test_one_timestep_is_the_sum_of_many(by):
    events = made(500)
    many = event_frames(events, SENSOR, timesteps=10, by=by)
    one = event_frames(events, SENSOR, timesteps=1, by=by)
    np.testing.assert_array_equal(many.sum(0, dtype=int), one[0])
    assert one.sum() == 500


@pytest.mark.parametrize("by", ["time", "count"])
def test_bins_are_channels_of_a_frame(by):
    events = made(500)
    six = event_frames(events, SENSOR, timesteps=6, by=by)
    np.testing.assert_array_equal(
        event_frames(events, SENSOR, bins=6, by=by), six.reshape(1, 12, 9, 13)
    )
    np.testing.assert_array_equal(
        event_frames(events, SENSOR, timesteps=2, bins=3, by=by), six.reshape(2, 6, 9, 13)
    )


def test_bins_of_a_time_that_is_damaged():
    """A clock that jumps by centuries overflows nothing."""
    events = made(3)
    events["t"] = 0, 5, 1 << 61
    assert event_frames(events, SENSOR, timesteps=100).sum((1, 2, 3)).tolist() == (
        [2] + [0] * 98 + [1]
    )


def test_bins_by_count_hold_equally_many():
    frames = event_frames(made(103), SENSOR, timesteps=10, by="count")
    assert set(frames.sum((1, 2, 3)).tolist()) == {10, 11}


def test_a_bin_holds_its_start_but_not_its_end():
    events = made(4)
    events["t"] = 0, 99, 100, 199
    frames = event_frames(events, SENSOR, timesteps=2, span=(0, 200))
    assert frames.sum((1, 2, 3)).tolist() == [2, 2]
    frames = event_frames(events, SENSOR, timesteps=2, span=(99, 199))
    assert frames.sum((1, 2, 3)).tolist() == [2, 0]


def test_counts_saturate():
    events = np.zeros(300, EVENT)
    assert event_frames(events, SENSOR)[0, 0, 0, 0] == 255


def test_no_events_give_empty_frames():
    assert event_frames(made(0), SENSOR, timesteps=3).shape == (3, 2, 9, 13)
    assert not event_frames(made(0), SENSOR, timesteps=3, by="count").any()


def dropped(frames: np.ndarray, share: float, seed: int = 1) -> np.ndarray:
    augmentation = Augmentation(drop=share)
    return augmentation.lose(torch.from_numpy(frames)[None], [np.random.default_rng(seed)])[
        0
    ].numpy()


def test_dropping_leaves_its_input_alone():
    frames = event_frames(made(50), SENSOR)
    before = frames.copy()
    assert (dropped(frames, 0.5) != before).any()
    np.testing.assert_array_equal(frames, before)


def test_drop_loses_its_share():
    frames = event_frames(made(20_000), SENSOR, timesteps=10)
    counted = int(dropped(frames, 0.3).sum())
    deviation = (20_000 * 0.3 * 0.7) ** 0.5
    assert abs(counted - 14_000) < 4 * deviation
    np.testing.assert_array_equal(dropped(frames, 0.0), frames)
    assert not dropped(frames, 1 - 1e-9).any()
    assert dropped(frames[:, :, ::2, ::3], 0.5).shape == (10, 2, 5, 5)


@pytest.mark.parametrize(
    "options",
    [
        {"timesteps": 0},
        {"timesteps": True},
        {"bins": 0},
        {"size": 0},
        {"size": 10},
        {"size": (9, 14)},
        {"size": (9,)},
        {"by": "events"},
        {"span": (5, 5)},
        {"span": (0, 5), "by": "count"},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(InputError, match=f"^{'by' if options.get('by') == 'events' else ''}"):
        event_frames(made(3), SENSOR, **options)


def test_frame_size_defaults_to_the_sensor():
    assert frame_size(None, (640, 480)) == (480, 640)
    with pytest.raises(InputError, match="at most the sensor's 480x640"):
        frame_size(481, (640, 480))
