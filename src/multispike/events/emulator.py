"""An event camera that watches a still image move: any image set becomes an event set.

As CIFAR10-DVS was recorded (Li et al. 2017, doi:10.3389/fnins.2017.00309), the image is up-scaled,
shown on a display and moved along a closed loop in front of a camera at rest. The pixels follow the
usual model (Lichtsteiner et al. 2008; Hu et al. 2021, v2e, arXiv 2006.07722): each remembers a log
intensity and sends an event whenever the present one is a threshold above (ON) or below (OFF) it.

Log intensities and thresholds are whole numbers of `UNIT` nats in float32, which is exact for them,
so counts at the edge of a threshold are the same on every machine and in every batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image

from multispike.errors import check_sample, invalid, is_count
from multispike.events.read import EVENT

UNIT = 2.0**-16
"""Log intensity is counted in this many nats."""

BLACK = 0.05
"""What a display's black sends, as a share of its white: sets the contrast there is, 21 to 1."""

DISPLAY = 4
"""Display pixels per camera pixel and axis; CIFAR10-DVS had 512 before 128."""

SHOT_AT_WHITE = 0.25
"""Shot noise at full brightness as a share of that in the dark, as in v2e."""

LOG_INTENSITY = np.rint(np.log(BLACK + np.arange(256) / 255) / UNIT).astype(np.float32)
"""Of the 256 grey levels, in whole units."""


@dataclass(frozen=True)
class Camera:
    """The pixels.

    threshold: change of log intensity, in nats, that makes an event.
    mismatch: standard deviation of the thresholds between pixels, relative; ON and OFF thresholds
        are drawn apart, once per seed: all samples are seen by the same camera.
    refractory_us: after an event a pixel sends none for so long; what it sees meanwhile is lost.
    leak_hz: rate of ON events of a pixel that sees no change.
    shot_hz: rate of random events of a dark pixel, half of them ON; bright pixels send fewer.
    warm: pixels start anywhere between their thresholds; otherwise they remember the first image.
    """

    threshold: float = 0.2
    mismatch: float = 0.03
    refractory_us: int = 500
    leak_hz: float = 0.1
    shot_hz: float = 1.0
    warm: bool = True

    def __post_init__(self) -> None:
        if not 0.001 <= self.threshold <= 10:
            raise invalid("threshold", self.threshold, "from 0.001 to 10 nats")
        if not 0 <= self.mismatch <= 0.3:
            raise invalid("mismatch", self.mismatch, "from 0 to 0.3")
        for name in ("refractory_us", "leak_hz", "shot_hz"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise invalid(name, getattr(self, name), "a number >= 0")

    def thresholds(self, pixels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """ON and OFF thresholds, float32 `[pixels]`, whole numbers of units above 0."""
        spread = np.random.default_rng([seed]).standard_normal((2, pixels)).clip(-3, 3)
        scaled = self.threshold / UNIT * (1 + self.mismatch * spread)
        on, off = np.rint(scaled).astype(np.float32)
        return on, off


@dataclass(frozen=True)
class Saccade:
    """How the image moves: along the four sides of a diamond and back to where it was.

    amplitude: how far a side leads in x and in y, as a share of the image's side.
    duration_us: of the whole loop.
    steps: the least number of positions; the brightness changes evenly between two of them.
    """

    amplitude: float = 1 / 16
    duration_us: int = 200_000
    steps: int = 40

    def __post_init__(self) -> None:
        if not 0 <= self.amplitude <= 0.5:
            raise invalid("amplitude", self.amplitude, "from 0 to 0.5 of the image's side")
        if not 1 <= self.steps <= self.duration_us:
            raise invalid("steps", self.steps, f"from 1 to the {self.duration_us} µs of the loop")

    def times(self, timesteps: int) -> np.ndarray:
        """When each position is reached, in µs, int64 `[steps + 1]`: steps are a multiple of
        `timesteps`, so that none lies in two bins; rounded up, as the first µs of a bin is."""
        steps = -(-self.steps // timesteps) * timesteps
        return -(-np.arange(steps + 1) * self.duration_us // steps)

    def offsets(self, steps: int, side: int) -> np.ndarray:
        """Positions (down, right) in display pixels, int64 `[steps + 1, 2]`; side: the image's.

        >>> Saccade(amplitude=0.5).offsets(8, 4).tolist()
        [[0, 0], [1, 1], [2, 2], [3, 1], [4, 0], [3, -1], [2, -2], [1, -1], [0, 0]]
        """
        corners = np.array([[0, 0], [1, 1], [2, 0], [1, -1], [0, 0]]) * (self.amplitude * side)
        place = np.arange(steps + 1) * 4 / steps
        path = [np.interp(place, np.arange(5), corners[:, axis]) for axis in (0, 1)]
        return np.rint(np.stack(path, axis=1)).astype(np.int64)


class Bursts(NamedTuple):
    """What each pixel sends in a step: `count` events from `first` µs on, `spacing` µs apart."""

    pixel: np.ndarray
    polarity: np.ndarray
    count: np.ndarray
    first: np.ndarray
    spacing: np.ndarray


class Pixels:
    """The state of n pixels and what they send from step to step.

    on, off: their thresholds; change: present minus remembered log intensity at the start, less
    than a threshold. All float32 `[n]`, whole numbers of units.
    """

    def __init__(self, on: np.ndarray, off: np.ndarray, change: np.ndarray, camera: Camera) -> None:
        self._on = on
        self._minus_off = -off
        self._change = change.astype(np.float32)
        self._leak_hz = camera.leak_hz
        self._refractory = float(camera.refractory_us)
        self._last = np.full(len(on), -np.inf)
        self._fired = np.empty((2, len(on)), dtype=bool)

    def step(self, change: np.ndarray, start_us: float, duration_us: float) -> Bursts:
        """The log intensity changes evenly by `change` (units, float32 `[n]`; overwritten).

        A pixel fires at its threshold. Each event moves the memory by one threshold, also one that
        the refractory time suppresses.
        """
        if self._leak_hz:
            change += np.rint(self._on * np.float32(self._leak_hz * duration_us * 1e-6))
        self._change += change
        np.greater_equal(self._change, self._on, out=self._fired[0])
        np.less_equal(self._change, self._minus_off, out=self._fired[1])
        pixel = np.flatnonzero(np.logical_or(self._fired[0], self._fired[1], out=self._fired[0]))

        after = self._change[pixel]
        is_on = after > 0
        sign = np.where(is_on, np.float32(1), np.float32(-1))
        threshold = np.where(is_on, self._on[pixel], -self._minus_off[pixel])
        after *= sign
        count = np.floor(after / threshold)
        self._change[pixel] = sign * (after - count * threshold)

        before = after - sign * change[pixel]
        per_unit = duration_us / (after - before).astype(np.float64)
        spacing = threshold * per_unit
        first = start_us + (threshold - before) * per_unit
        if self._refractory:
            skipped = np.ceil((self._last[pixel] + self._refractory - first) / spacing).clip(0)
            every = np.ceil(self._refractory / spacing).clip(1)
            sends = skipped < count
            pixel, is_on = pixel[sends], is_on[sends]
            count, skipped, every = count[sends], skipped[sends], every[sends]
            first = first[sends] + skipped * spacing[sends]
            spacing = every * spacing[sends]
            count = (count - 1 - skipped) // every + 1
            self._last[pixel] = first + (count - 1) * spacing
        return Bursts(pixel, is_on.astype(np.uint8), count.astype(np.int64), first, spacing)


def emulate_frames(
    images: np.ndarray,
    indices: Sequence[int],
    *,
    size: int = 64,
    timesteps: int = 10,
    seed: int = 0,
    camera: Camera | None = None,
    saccade: Saccade | None = None,
) -> np.ndarray:
    """The events of a batch of images, counted in T bins of equal time.

    images: uint8 `[B, C, H, W]`, C = 1 or 3, square; indices: one number per image. What comes out
    for an image depends on the seed and its number, not on the batch it is in.

    Returns uint8 `[B, T, 2, size, size]`, OFF and ON events, at most 255.

    >>> dark_and_bright = np.repeat(np.uint8([0, 255]), 16)[None, None, None].repeat(32, axis=2)
    >>> frames = emulate_frames(dark_and_bright, [0], size=32, timesteps=2)
    >>> frames.shape, bool(frames[..., 10:20].sum() > 10 * frames[..., :8].sum())
    ((1, 2, 2, 32, 32), True)
    """
    scene = _Scene(images, indices, size, timesteps, seed, camera, saccade)
    counts = np.zeros((timesteps, 2, len(images) * size * size), dtype=np.uint16)
    for step, bursts in enumerate(scene.run()):
        frame = counts[step * timesteps // len(scene.spans)]
        frame[bursts.polarity, bursts.pixel] += bursts.count.astype(np.uint16)
    for i, noise in enumerate(scene.noise()):
        bins = noise["t"] * timesteps // scene.duration_us
        pixel = i * size * size + noise["y"].astype(np.int64) * size + noise["x"]
        np.add.at(counts, (bins, noise["p"], pixel), 1)
    frames = counts.reshape(timesteps, 2, len(images), size, size).transpose(2, 0, 1, 3, 4)
    return np.minimum(frames, 255).astype(np.uint8)


def emulate_events(
    image: np.ndarray,
    index: int = 0,
    *,
    size: int = 64,
    timesteps: int = 1,
    seed: int = 0,
    camera: Camera | None = None,
    saccade: Saccade | None = None,
) -> np.ndarray:
    """The events of one image, uint8 `[C, H, W]`: an array of `EVENT` sorted by time, from 0 on.

    timesteps: the T of the frames that the events are to agree with; they are the same for every
        T that divides the saccade's steps. The rest as for `emulate_frames`.
    """
    scene = _Scene(image[None], [index], size, timesteps, seed, camera, saccade)
    parts = list(scene.noise())
    for (start, stop), bursts in zip(scene.spans, scene.run(), strict=True):
        earlier = np.cumsum(bursts.count) - bursts.count
        number = np.arange(bursts.count.sum()) - np.repeat(earlier, bursts.count)
        t = np.repeat(bursts.first, bursts.count) + number * np.repeat(bursts.spacing, bursts.count)
        part = np.empty(len(t), EVENT)
        # An event at the very end of a step is put into it, as the frames do.
        part["t"] = np.floor(t).clip(start, stop - 1)
        part["y"], part["x"] = np.divmod(np.repeat(bursts.pixel, bursts.count), size)
        part["p"] = np.repeat(bursts.polarity, bursts.count)
        parts.append(part)
    events = np.concatenate(parts)
    return events[np.argsort(events["t"], kind="stable")]


class _Scene:
    """A batch of images on the display, the camera before it, and the steps (`spans`, in µs)."""

    def __init__(
        self,
        images: np.ndarray,
        indices: Sequence[int],
        size: int,
        timesteps: int,
        seed: int,
        camera: Camera | None,
        saccade: Saccade | None,
    ) -> None:
        shape = list(images.shape)
        if images.dtype != np.uint8 or images.ndim != 4 or shape[1] not in (1, 3):
            raise invalid("images", f"{images.dtype} {shape}", "uint8 [B, 1 or 3, H, W]")
        if shape[2] != shape[3]:
            raise invalid("images", shape[2:], "square images")
        if not is_count(size) or not 8 <= size <= 128:
            raise invalid("size", size, "an integer from 8 to 128")
        if not is_count(timesteps):
            raise invalid("timesteps", timesteps, "an integer >= 1")
        check_sample("frames", (timesteps, 2, size, size))
        if seed < 0:
            raise invalid("seed", seed, "an integer >= 0")
        self._camera = camera or Camera()
        self._size = size
        self._random = [np.random.default_rng([seed, index]) for index in indices]
        saccade = saccade or Saccade()
        self.duration_us = saccade.duration_us
        self.spans = list(pairwise(saccade.times(timesteps).tolist()))
        self._offsets = saccade.offsets(len(self.spans), size * DISPLAY)
        self._margin = -(-int(np.abs(self._offsets).max()) // DISPLAY) * DISPLAY
        self._shown = np.stack([_shown(image, size, self._margin) for image in images])
        # By place in the grid that the camera samples, so that what it sees is one block:
        # [B, DISPLAY, DISPLAY, rows, columns].
        side = self._shown.shape[1] // DISPLAY
        grid = self._shown.reshape(len(images), side, DISPLAY, side, DISPLAY)
        self._log = LOG_INTENSITY[grid.transpose(0, 2, 4, 1, 3)]
        on, off = self._camera.thresholds(size * size, seed)
        change = np.zeros((len(images), len(on)), dtype=np.float32)
        if self._camera.warm:  # drawn before the noise, whatever is asked for first
            draws = np.stack([rng.random(len(on), dtype=np.float32) for rng in self._random])
            change = np.floor(1 - off + draws * (on + off - 1))
        on, off = np.tile(on, len(images)), np.tile(off, len(images))
        self._pixels = Pixels(on, off, change.reshape(-1), self._camera)

    def run(self) -> Iterator[Bursts]:
        """What the pixels send in each step, once; their numbers run over the whole batch."""
        change = np.empty((len(self._shown), self._size, self._size), dtype=np.float32)
        before = self._seen(0)
        for step, (start, stop) in enumerate(self.spans, start=1):
            after = self._seen(step)
            np.subtract(after, before, out=change)
            yield self._pixels.step(change.reshape(-1), start, stop - start)
            before = after

    def noise(self) -> Iterator[np.ndarray]:
        """Shot noise of each image as events, in no order: a Poisson process, thinned by light."""
        rate = self._camera.shot_hz * 1e-6 * self.duration_us * self._size**2
        shown = slice(self._margin, -self._margin or None, DISPLAY)
        for rng, bright in zip(self._random, self._shown[:, shown, shown], strict=True):
            events = np.empty(rng.poisson(rate), EVENT)
            events["t"] = rng.integers(0, self.duration_us, len(events))
            events["y"], events["x"] = rng.integers(0, self._size, (2, len(events)))
            events["p"] = rng.integers(0, 2, len(events))
            share = 1 - (1 - SHOT_AT_WHITE) / 255 * bright[events["y"], events["x"]]
            yield events[rng.random(len(events)) < share]

    def _seen(self, step: int) -> np.ndarray:
        """Log intensity at the pixels when `step` steps are done: `[B, size, size]`, a view."""
        top, left = self._margin - self._offsets[step]  # the other way than the image
        rows, columns = top // DISPLAY, left // DISPLAY
        block = self._log[:, top % DISPLAY, left % DISPLAY]
        return block[:, rows : rows + self._size, columns : columns + self._size]


def _shown(image: np.ndarray, size: int, margin: int) -> np.ndarray:
    """Luminance on the display, uint8, its border repeated for `margin` pixels."""
    grey = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).convert("L")
    large = grey.resize((size * DISPLAY, size * DISPLAY), Image.Resampling.BICUBIC)
    return np.pad(np.asarray(large), margin, mode="edge")
