"""The emulator against closed forms, a plain event-by-event loop, and its own two outputs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multispike.errors import InputError
from multispike.events.emulator import (
    UNIT,
    Camera,
    Pixels,
    Saccade,
    emulate_events,
    emulate_frames,
)
from multispike.events.frames import event_frames

C = 1000.0
IDEAL = Camera(mismatch=0, refractory_us=0, leak_hz=0, shot_hz=0, warm=False)


def pixels(count: int = 1, threshold: float = C, **changes) -> Pixels:
    same = np.full(count, threshold, np.float32)
    camera = Camera(**{"mismatch": 0, "refractory_us": 0, "leak_hz": 0, "shot_hz": 0} | changes)
    return Pixels(same, same, np.zeros(count), camera)


def send(pixels: Pixels, change: float, start: float = 0, duration: float = 5000) -> list:
    """(time, polarity) of the events of a single pixel in one step."""
    bursts = pixels.step(np.array([change], np.float32), start, duration)
    return [
        (float(bursts.first[0] + j * bursts.spacing[0]), int(bursts.polarity[0]))
        for j in range(int(bursts.count[0]) if len(bursts.count) else 0)
    ]


def photographs(count: int = 3, side: int = 32, channels: int = 3) -> np.ndarray:
    """Blurred noise: structure at every place, none sharper than the images of CIFAR."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, channels, side // 4, side // 4), dtype=np.uint8)
    return coarse.repeat(4, axis=2).repeat(4, axis=3)


@pytest.mark.parametrize("k", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_step_of_k_thresholds_gives_k_events(k, sign):
    assert len(send(pixels(), sign * k * C)) == k  # at the threshold, it fires
    assert len(send(pixels(), sign * (k * C - 1))) == k - 1
    assert {p for _, p in send(pixels(), sign * k * C)} == {int(sign > 0)}


def test_small_steps_add_up():
    pixel = pixels()
    assert [len(send(pixel, C / 4)) for _ in range(8)] == [0, 0, 0, 1, 0, 0, 0, 1]


def test_going_back_takes_a_threshold_in_the_other_direction():
    pixel = pixels()
    assert send(pixel, 1.5 * C)[0][1] == 1
    assert send(pixel, -C) == []  # at -0.5 C now
    assert [p for _, p in send(pixel, -C / 2)] == [0]


def test_times_lie_where_the_straight_line_crosses():
    pixel = pixels()
    assert send(pixel, C / 2) == []
    times = [t for t, _ in send(pixel, 4 * C, start=5000, duration=8000)]
    assert times == pytest.approx([5000 + 2000 * (j - 0.5) for j in (1, 2, 3, 4)])


@pytest.mark.parametrize(
    ("refractory", "sent"), [(0, [1, 2, 3, 4, 5, 6]), (1000, [1, 2, 3, 4, 5, 6]), (1001, [1, 3, 5])]
)
def test_the_refractory_time_suppresses_what_comes_too_early(refractory, sent):
    times = [t for t, _ in send(pixels(refractory_us=refractory), 6 * C, duration=6000)]
    assert times == pytest.approx([1000 * j for j in sent])


def test_the_refractory_time_reaches_into_the_next_step():
    pixel = pixels(refractory_us=2500)
    assert len(send(pixel, C, 0, 1000)) == 1  # at 1000
    assert [t for t, _ in send(pixel, 4 * C, 1000, 4000)] == pytest.approx([4000])


def one_by_one(steps, threshold, refractory, duration):
    """The same pixel, event by event."""
    memory = level = 0.0
    last, sent = -np.inf, []
    for number, change in enumerate(steps):
        sign = 1 if level + change > memory else -1
        start_level, level = level, level + change
        while sign * (level - memory) >= threshold:
            memory += sign * threshold
            t = duration * (number + (memory - start_level) / change)
            if t >= last + refractory:
                sent.append((t, int(sign > 0)))
                last = t
    return sent


@given(
    steps=st.lists(st.integers(-9000, 9000), min_size=1, max_size=8),
    refractory=st.sampled_from([0, 333, 2111, 9777]),
)
def test_bursts_are_what_a_loop_sends(steps, refractory):
    pixel = pixels(refractory_us=refractory)
    sent = []
    for number, change in enumerate(steps):
        sent += send(pixel, change, 5000 * number)
    expected = one_by_one(steps, C, refractory, 5000)
    assert len(sent) == len(expected)
    for (t, p), (expected_t, expected_p) in zip(sent, expected, strict=True):
        assert (t, p) == (pytest.approx(expected_t), expected_p)


@given(steps=st.lists(st.integers(-9000, 9000), max_size=12))
def test_what_came_in_was_sent_or_is_left(steps):
    pixel = pixels()
    sent = sum(2 * p - 1 for change in steps for _, p in send(pixel, change))
    left = sum(steps) - C * sent
    assert abs(left) < C
    # What is left is the state: as much again as is missing fires.
    assert len(send(pixel, C - left)) == 1


def test_a_leaking_pixel_sends_at_its_rate():
    pixel = pixels(leak_hz=10)
    sent = [event for n in range(200) for event in send(pixel, 0.0, 5000 * n)]
    assert [p for _, p in sent] == [1] * 10  # one second
    assert np.diff([t for t, _ in sent]) == pytest.approx(100_000)


@pytest.mark.parametrize("images", [photographs(), np.full((2, 3, 32, 32), 128, np.uint8)])
def test_a_static_scene_without_noise_is_silent(images):
    still = Saccade(amplitude=0)
    assert not emulate_frames(images, range(len(images)), camera=IDEAL, saccade=still).any()
    warm = Camera(leak_hz=0, shot_hz=0)
    assert not emulate_frames(images, range(len(images)), camera=warm, saccade=still).any()


def test_a_moving_but_uniform_scene_is_silent():
    images = np.full((1, 1, 32, 32), 200, np.uint8)
    assert not emulate_frames(images, [0], camera=IDEAL).any()


def test_a_bright_edge_gives_on_events_where_it_arrives_and_off_where_it_leaves():
    images = np.zeros((1, 1, 32, 32), np.uint8)
    images[..., :16] = 255
    frames = emulate_frames(images, [0], timesteps=4, camera=IDEAL)[0]
    # The diamond: right, left, left, right.
    assert [int(np.sign(int(on.sum()) - int(off.sum()))) for off, on in frames] == [1, -1, -1, 1]
    assert not frames[..., :24].any()
    assert not frames[..., 40:].any()
    # There and back the same contrast is crossed, so as many events of either kind.
    assert frames[:, 0].sum() == frames[:, 1].sum()


def test_the_whole_contrast_is_counted():
    """From white to black and back: floor(log(21) / C) events each, but for what is left over."""
    images = np.zeros((1, 1, 32, 32), np.uint8)
    images[..., :16] = 255
    camera = Camera(threshold=np.log(21) / 5.5, mismatch=0, refractory_us=0, leak_hz=0, shot_hz=0,
                    warm=False)  # fmt: skip
    frames = emulate_frames(images, [0], size=64, timesteps=1, camera=camera)[0, 0]
    assert frames[0].max() == frames[1].max() == 5


@pytest.mark.parametrize("timesteps", [1, 3, 10, 16])
@pytest.mark.parametrize("camera", [IDEAL, Camera(), Camera(refractory_us=8000, shot_hz=50)])
def test_events_counted_are_the_frames(timesteps, camera):
    images = photographs()
    options = {"size": 32, "timesteps": timesteps, "seed": 3, "camera": camera}
    frames = emulate_frames(images, [7, 8, 9], **options)
    assert frames.dtype == np.uint8
    for i, image in enumerate(images):
        events = emulate_events(image, 7 + i, **options)
        assert len(events) == frames[i].sum(dtype=int) > 500
        assert (np.diff(events["t"]) >= 0).all()
        assert 0 <= events["t"][0] <= events["t"][-1] < 200_000
        counted = event_frames(events, (32, 32), timesteps=timesteps, span=(0, 200_000))
        np.testing.assert_array_equal(counted, frames[i])


def test_fewer_timesteps_see_the_same_events():
    images = photographs()
    ten = emulate_frames(images, range(3), timesteps=10)
    one = emulate_frames(images, range(3), timesteps=1)
    np.testing.assert_array_equal(ten.sum(1, dtype=int), one[:, 0])


def test_a_sample_depends_on_seed_and_index_only():
    images = photographs(5)
    whole = emulate_frames(images, range(5), size=24)
    np.testing.assert_array_equal(emulate_frames(images[3:], [3, 4], size=24), whole[3:])
    np.testing.assert_array_equal(emulate_frames(images[[4, 1]], [4, 1], size=24), whole[[4, 1]])
    assert (emulate_frames(images[3:4], [2], size=24) != whole[3:4]).any()
    assert (emulate_frames(images[3:4], [3], size=24, seed=1) != whole[3:4]).any()


def test_the_camera_is_the_same_for_all_samples_of_a_seed():
    on, off = Camera(mismatch=0.05).thresholds(4096, seed=0)
    np.testing.assert_array_equal(on, Camera(mismatch=0.05).thresholds(4096, seed=0)[0])
    for drawn in (on, off):
        assert drawn.mean() * UNIT == pytest.approx(0.2, rel=0.01)
        assert drawn.std() / drawn.mean() == pytest.approx(0.05, rel=0.05)
        np.testing.assert_array_equal(drawn, np.rint(drawn))
    assert abs(np.corrcoef(on, off)[0, 1]) < 0.1


@pytest.mark.parametrize(("grey", "share"), [(0, 1.0), (255, 0.25)])
def test_shot_noise_has_its_rate(grey, share):
    images = np.full((40, 1, 16, 16), grey, np.uint8)
    noisy = Camera(leak_hz=0, shot_hz=20, warm=False)
    frames = emulate_frames(images, range(40), size=16, timesteps=2, camera=noisy)
    expected = 20 * 0.2 * 40 * 16 * 16 * share
    assert frames.sum(dtype=int) == pytest.approx(expected, abs=4 * expected**0.5)
    halves = frames.sum((0, 1, 3, 4), dtype=int), frames.sum((0, 2, 3, 4), dtype=int)
    for pair in halves:  # of each polarity, and in each half of the time
        assert pair == pytest.approx(expected / 2, abs=4 * expected**0.5)


def test_the_loop_is_closed_and_goes_over_a_diamond():
    offsets = Saccade(amplitude=1 / 16).offsets(40, 256)
    assert offsets[[0, 10, 20, 30, 40]].tolist() == [[0, 0], [16, 16], [32, 0], [16, -16], [0, 0]]


@pytest.mark.parametrize(("timesteps", "steps"), [(1, 40), (10, 40), (16, 48), (3, 42), (50, 50)])
def test_no_step_lies_in_two_bins(timesteps, steps):
    times = Saccade().times(timesteps)
    assert len(times) == steps + 1
    assert set(-(-np.arange(timesteps + 1) * 200_000 // timesteps)) <= set(times.tolist())


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("size: got 7", {"size": 7}),
        ("size: got 129", {"size": 129}),
        ("timesteps: got 0", {"timesteps": 0}),
        ("seed: got -1", {"seed": -1}),
        ("images: got", {"images": np.zeros((1, 3, 32, 32), np.float32)}),
        ("images: got", {"images": np.zeros((1, 2, 32, 32), np.uint8)}),
        ("square images", {"images": np.zeros((1, 3, 32, 30), np.uint8)}),
    ],
)
def test_bad_input_is_refused(message, options):
    with pytest.raises(InputError, match=message):
        emulate_frames(**{"images": photographs(1), "indices": [0]} | options)


@pytest.mark.parametrize(
    "options",
    [{"threshold": 0}, {"mismatch": 0.5}, {"refractory_us": -1}, {"leak_hz": np.inf}],
)
def test_impossible_cameras_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        Camera(**options)


@pytest.mark.parametrize("options", [{"amplitude": 0.6}, {"steps": 0}])
def test_impossible_saccades_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        Saccade(**options)
