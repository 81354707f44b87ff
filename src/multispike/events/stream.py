"""Slices of a recording, made into frames as in training and classified one by one as they come.

Latency is the time from a slice being available to its class being known. In real time a slice is
available as soon as it has been read, is known to be whole (a window, when an event behind it, or
the end, was read), and its end has come by the recording's clock: latency holds waiting, framing
and inference. Otherwise it is available once it has been asked for and read: latency is framing and
inference alone. How long its bytes lay in a file or a pipe is not in it, as nobody knows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from multispike.events.frames import Binning, Slice, event_frames, slices
from multispike.events.read import Recording

WARM_UP = 3
"""Inferences before the source is opened: libraries choose and prepare their kernels in them."""

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}


@dataclass(frozen=True)
class Prediction:
    """What is known of a slice.

    t_us: its end, the first µs of the recording's clock that is not in it.
    name, confidence: its class and the softmax probability of that; latency_ms: see the module.
    probabilities: float32 `[classes]`; frames: uint8 `[T, 2K, H, W]`.
    """

    t_us: int
    name: str
    confidence: float
    events: int
    latency_ms: float
    probabilities: np.ndarray
    frames: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        return {
            "t_us": self.t_us, "class": self.name, "confidence": round(self.confidence, 6),
            "events": self.events, "latency_ms": round(self.latency_ms, 3),
        }  # fmt: skip


class FrameClassifier:
    """A function from frames uint8 `[T, 2K, H, W]` to probabilities `[classes]`, warmed up.

    classes: their names; shape: of the frames; by: how events are divided into the T·K bins.
    """

    def __init__(
        self,
        probabilities: Callable[[np.ndarray], np.ndarray],
        classes: Sequence[str],
        shape: tuple[int, int, int, int],
        by: Binning,
    ) -> None:
        self.probabilities, self.classes, self.shape = probabilities, classes, shape
        self.by: Binning = by
        for _ in range(WARM_UP):
            probabilities(np.zeros(shape, np.uint8))

    def frames(self, part: Slice, sensor: tuple[int, int]) -> np.ndarray:
        """Frames uint8 `[T, 2K, H, W]` of a slice; bins of equal time divide all of it."""
        timesteps, channels, height, width = self.shape
        by_time = self.by == "time" and timesteps * channels > 2
        return event_frames(
            part.events, sensor, timesteps=timesteps, bins=channels // 2, size=(height, width),
            by=self.by, span=(part.start_us, part.stop_us) if by_time else None,
        )  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """What was streamed, as `stream --json` ends with it.

    latency_ms: quantiles p50, p95 and p99, and the largest, each of a slice; None without slices.
    skipped: reason, count, unit and first place of what was not as it should be.
    sensor: `[width, height]`; frame: `[height, width]`.
    """

    slices: int
    slices_dropped: int
    events: int
    events_per_second: float
    latency_ms: dict[str, float | None]
    wall_seconds: float
    recording_seconds: float
    skipped: list[dict[str, Any]]
    interrupted: bool
    format: str
    sensor: list[int]
    frame: list[int]
    timesteps: int


class AsRead:
    """Slices as fast as they are asked for, each with the `time.perf_counter` when it was there."""

    dropped = 0

    def __init__(self, recording: Recording, **slicing: int) -> None:
        self._slices = slices(recording, **slicing)
        self.close = recording.close

    def __iter__(self) -> Iterator[tuple[Slice, float]]:
        return ((part, time.perf_counter()) for part in self._slices)


class Realtime:
    """As `AsRead`, at the recording's own pace, by a thread; of slices that wait, only the newest.

    The recording's clock starts at its first event, at the moment when that was read. The last
    slice is always given out. dropped: slices for which a newer one came while they waited.
    """

    def __init__(self, recording: Recording, **slicing: int) -> None:
        self.dropped = 0
        self._recording = recording
        self._slices = slices(recording, **slicing)
        self._waiting: SimpleQueue[tuple[Slice, float] | BaseException | None] = SimpleQueue()
        self._closing = threading.Event()
        # A daemon, as it may be waiting for a pipe in which nothing ever comes.
        self._thread = threading.Thread(target=self._read, name="reader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[tuple[Slice, float]]:
        while (newest := self._waiting.get()) is not None:
            if isinstance(newest, BaseException):
                raise newest
            yield newest

    def close(self) -> None:
        """Stop reading and close the recording, at the latest when its next bytes come."""
        self._closing.set()
        self._thread.join(timeout=1.0)

    def _read(self) -> None:
        try:
            for part in self._slices:
                read = time.perf_counter()
                due = self._recording.began + (part.stop_us - self._recording.first_us) / 1e6
                while not self._closing.is_set() and (left := due - time.perf_counter()) > 0:
                    self._closing.wait(min(left, 60.0))  # a damaged clock may ask for centuries
                if self._closing.is_set():
                    return
                with suppress(Empty):
                    self._waiting.get_nowait()
                    self.dropped += 1
                self._waiting.put((part, max(read, due)))
        except BaseException as error:  # it belongs to the thread that asks for slices
            self._waiting.put(error)
        finally:
            self._recording.close()
            self._waiting.put(None)


def classify_stream(
    classifier: FrameClassifier,
    recording: Recording,
    realtime: bool = False,
    sinks: Sequence[Callable[[Prediction, int], None]] = (),
    **slicing: int,
) -> Summary:
    """Classify an open recording slice by slice, and close it.

    sinks: each is called with every prediction and the number of slices that were dropped so far.
    slicing: see `multispike.events.frames.slices`.

    Ctrl-C ends it early, which the summary tells. Raises `InputError` if nothing could be read, or
    the size of the sensor is unknown, or less than that of the frames.
    """
    began = time.perf_counter()
    latencies: list[float] = []
    interrupted = False
    arrivals = (Realtime if realtime else AsRead)(recording, **slicing)
    try:
        sensor = recording.known_sensor()
        for part, available in arrivals:
            frames = classifier.frames(part, sensor)
            probabilities = classifier.probabilities(frames)
            label = int(probabilities.argmax())
            latencies.append(1000 * (time.perf_counter() - available))
            prediction = Prediction(
                part.stop_us, classifier.classes[label], float(probabilities[label]),
                len(part.events), latencies[-1], probabilities, frames,
            )  # fmt: skip
            for sink in sinks:
                sink(prediction, arrivals.dropped)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        arrivals.close()
    seconds = time.perf_counter() - began
    quantiles: dict[str, float | None] = dict.fromkeys(QUANTILES)
    if latencies:
        values = np.quantile(latencies, [*QUANTILES.values()], method="inverted_cdf")
        quantiles = {
            name: round(ms, 3) for name, ms in zip(QUANTILES, values.tolist(), strict=True)
        }
    return Summary(
        slices=len(latencies),
        slices_dropped=arrivals.dropped,
        events=recording.events,
        events_per_second=round(recording.events / seconds, 1),
        latency_ms=quantiles,
        wall_seconds=round(seconds, 6),
        recording_seconds=(recording.last_us - recording.first_us) / 1e6,
        skipped=recording.skipped.to_dicts(),
        interrupted=interrupted,
        format=recording.format,
        sensor=list(recording.sensor or ()),
        frame=list(classifier.shape[2:]),
        timesteps=classifier.shape[0],
    )
