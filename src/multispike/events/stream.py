"""`multispike stream`: a recording, or what a camera sends, classified slice by slice.

A slice (by time or by count of events) becomes a frame as in training: counts of OFF and ON events,
down-sampled to the size the run was trained at, normalised by the run's own mean and std. One
forward pass gives its class. A network of T > 1 timesteps gets the slice in T bins, of equal time
or with equally many events, as in its training.

Latency is the time from a slice being available to its class being known. The first inferences,
which are slower, are made before the source is opened.

With `--realtime` a slice is available as soon as its last event has been read, it is known to be
whole, and its end has come by the recording's clock; so latency holds waiting, framing and
inference. A window is known to be whole when an event behind it, or the end, was read. Without
`--realtime` the next slice is read when the class of the one before is known, and available then:
latency is framing and inference alone. How long its bytes lay in a file or a pipe is not in it, and
can't be, as nobody knows when they were written.

Without `--realtime` no slice is dropped: a file is read as fast as it is classified, and the writer
of a pipe waits. With it, slices come at the recording's own pace, and of those that wait while one
is classified only the newest is kept: each older one is dropped whole, and counted. So the last
slice of a recording is always classified.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

import numpy as np
import torch

from multispike.config.commands import StreamConfig
from multispike.config.types import parse_sensor
from multispike.errors import InputError, RunError, invalid
from multispike.events.frames import Binning, event_frames, frame_size, is_transposed, transpose
from multispike.events.playback import Arrival, AsRead, Reading, Realtime
from multispike.events.read import Recording, read_events
from multispike.events.terminal import LinePrinter, LiveView, note, print_summary, stdout_console
from multispike.events.windows import Slice
from multispike.training import Run, load_run

WARM_UP = 3
"""Inferences before the source is opened: libraries choose and prepare their kernels in them."""


@dataclass(frozen=True)
class Prediction:
    """What is known of a slice.

    t_us: its end, in µs of the recording's clock: the first time that is not in it.
    name: of its class; confidence: the softmax probability of that.
    events: how many it holds; latency_ms: see the module.
    probabilities: float32 `[classes]`; frames: uint8 `[T, 2, H, W]`.
    """

    t_us: int
    name: str
    confidence: float
    events: int
    latency_ms: float
    probabilities: np.ndarray
    frames: np.ndarray

    def as_dict(self) -> dict[str, Any]:
        """The line of JSON."""
        return {
            "t_us": self.t_us,
            "class": self.name,
            "confidence": round(self.confidence, 6),
            "events": self.events,
            "latency_ms": round(self.latency_ms, 3),
        }


@dataclass(frozen=True)
class Framer:
    """How a slice becomes frames.

    sensor: `(width, height)` of the coordinates; size: `(height, width)` of the frames.
    timesteps, by: as for `event_frames`.
    transposed: x and y are exchanged before anything else (`frames.is_transposed`).
    """

    sensor: tuple[int, int]
    size: tuple[int, int]
    timesteps: int
    by: Binning = "time"
    transposed: bool = False

    def __call__(self, part: Slice) -> np.ndarray:
        """Counts of its events, uint8 `[T, 2, H, W]`; the bins share its time or events."""
        events = transpose(part.events) if self.transposed else part.events
        by_time = self.timesteps > 1 and self.by == "time"
        span = (part.start_us, part.stop_us) if by_time else None
        return event_frames(
            events, self.sensor, timesteps=self.timesteps, size=self.size, by=self.by, span=span
        )


def framer(run: Run, recording: Recording) -> Framer:
    """How the recording's slices become what the run was trained on.

    Raises `InputError` if the size of the sensor is unknown, or less than that of the run's frames.
    """
    _, height, width = run.data["input_shape"]
    if recording.sensor is None:
        raise invalid(
            "sensor", None, f"WIDTHxHEIGHT in pixels, which a {recording.format} file doesn't tell"
        )
    transposed = is_transposed(run.data["name"], recording.format)
    columns, rows = recording.sensor
    sensor = (rows, columns) if transposed else (columns, rows)
    return Framer(
        sensor,
        frame_size((height, width), sensor),
        run.network.timesteps,
        run.config.by or "time",
        transposed,
    )


class FrameClassifier:
    """A run's network as a function from frames to probabilities, on the CPU and warmed up.

    classes: their names. Raises `InputError` for a run that was not trained on events.
    """

    def __init__(self, run: Run) -> None:
        channels, height, width = run.data["input_shape"]
        if channels != 2:
            raise invalid(
                "run",
                f"{run.folder}, trained on {run.data['name']} with {channels} channels",
                "a run trained on events, which have 2",
            )
        self.classes = [str(name) for name in run.data["classes"]]
        self._layout = torch.channels_last if run.config.channels_last else torch.contiguous_format
        self._network = run.network.to(memory_format=self._layout)  # pyright: ignore[reportCallIssue]
        mean = torch.tensor(run.data["mean"], dtype=torch.float64)
        deviation = torch.tensor(run.data["std"], dtype=torch.float64)
        # As the batch loader of the training has it, to the last bit.
        self._scale = (1 / (255 * deviation)).float().view(-1, 1, 1)
        self._offset = (-mean / deviation).float().view(-1, 1, 1)
        for _ in range(WARM_UP):
            self(np.zeros((run.network.timesteps, 2, height, width), np.uint8))

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Softmax of the logits, float32 `[classes]`, of frames uint8 `[T, 2, H, W]`."""
        pixels = torch.from_numpy(frames).to(torch.float32, memory_format=self._layout)
        torch.addcmul(self._offset, pixels, self._scale, out=pixels)
        return self._network(pixels.unsqueeze(1))[0].softmax(0).numpy()


def classify(arrival: Arrival, frame: Framer, classifier: FrameClassifier) -> Prediction:
    """The class of one slice, and how long after it was available it was known."""
    frames = frame(arrival.part)
    probabilities = classifier(frames)
    label = int(probabilities.argmax())
    known = time.perf_counter()
    return Prediction(
        t_us=arrival.part.stop_us,
        name=classifier.classes[label],
        confidence=float(probabilities[label]),
        events=len(arrival.part.events),
        latency_ms=1000 * (known - arrival.available),
        probabilities=probabilities,
        frames=frames,
    )


class Latencies:
    """Quantiles of any number of latencies in constant memory: bins of 0.5 % from 1 µs to 1000 s.

    >>> latencies = Latencies()
    >>> for ms in range(1, 101):
    ...     latencies.add(ms)
    >>> [round(latencies.quantile(q) or 0) for q in (0.5, 0.95, 1)], latencies.count
    ([50, 95, 100], 100)
    """

    SMALLEST_MS, STEP, BINS = 1e-3, math.log(1.005), 4155

    def __init__(self) -> None:
        self.count = 0
        self.largest = 0.0
        self._bins = np.zeros(self.BINS, np.int64)

    def add(self, ms: float) -> None:
        """Count one, in ms."""
        place = int(math.log(max(ms / self.SMALLEST_MS, 1.0)) / self.STEP)
        self._bins[min(place, self.BINS - 1)] += 1
        self.count += 1
        self.largest = max(self.largest, ms)

    def quantile(self, q: float) -> float | None:
        """What a share q of all latencies does not exceed, in ms, to 0.3 %; None if there are none.

        q: in (0, 1].
        """
        if not self.count:
            return None
        place = int(np.searchsorted(np.cumsum(self._bins), math.ceil(q * self.count)))
        return min(self.SMALLEST_MS * math.exp((place + 0.5) * self.STEP), self.largest)

    def as_dict(self) -> dict[str, float | None]:
        """p50, p95, p99 and max, in ms."""
        quantiles = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
        values = {name: self.quantile(q) for name, q in quantiles.items()}
        return {name: None if ms is None else round(ms, 3) for name, ms in values.items()}


class Sink(Protocol):
    """Where predictions go."""

    def show(self, prediction: Prediction, dropped: int) -> None:
        """Take one; dropped: how many slices were dropped so far."""
        ...

    def close(self) -> None:
        """Leave terminal or file as they should be, whatever has happened."""
        ...


class JsonLines:
    """JSON lines in a file that is made with the first line, or on standard output ("-").

    Raises `RunError` if a line can't be written, `InputError` if the file can't be made.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: TextIO | None = sys.stdout if path == "-" else None

    def show(self, prediction: Prediction, dropped: int) -> None:
        self.write(prediction.as_dict())

    def write(self, value: dict[str, Any]) -> None:
        """One line, which whoever reads the file has at once."""
        if self._file is None:
            try:
                self._file = open(self._path, "w", encoding="utf-8")  # noqa: SIM115  see close()
            except OSError as error:
                allowed = f"a file that can be written ({error.strerror})"
                raise invalid("json", self._path, allowed) from None
        try:
            self._file.write(json.dumps(value, allow_nan=False) + "\n")
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise RunError(f"json: could not write {self._path}: {error.strerror}") from error

    def close(self) -> None:
        if self._file is not None and self._path != "-":
            with suppress(OSError):  # it has been told already
                self._file.close()


def run_stream(
    run: Run,
    classifier: FrameClassifier,
    recording: Recording,
    config: StreamConfig,
    sinks: Sequence[Sink] = (),
) -> dict[str, Any]:
    """Classify an open recording slice by slice into sinks, and close it; returns the summary.

    Ctrl-C ends it early, which the summary tells (`interrupted`).

    Raises `InputError` if nothing could be read, or the recording doesn't fit the run.
    """
    try:
        frame = framer(run, recording)
    except InputError:
        recording.close()
        raise
    began = time.perf_counter()
    latencies, interrupted = Latencies(), False
    reading = Reading(recording)
    arrivals = (Realtime if config.realtime else AsRead)(reading, **config.slicing)
    try:
        for arrival in arrivals:
            prediction = classify(arrival, frame, classifier)
            latencies.add(prediction.latency_ms)
            for sink in sinks:
                sink.show(prediction, arrivals.dropped)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        arrivals.close()
    seconds = time.perf_counter() - began
    return {
        "slices": latencies.count,
        "slices_dropped": arrivals.dropped,
        "events": recording.events,
        "events_per_second": round(recording.events / seconds, 1),
        "latency_ms": latencies.as_dict(),
        "wall_seconds": round(seconds, 6),
        "recording_seconds": (reading.last_us - reading.first_us) / 1e6,
        "skipped": [
            {
                "reason": reason,
                "count": skip.count,
                "unit": skip.unit,
                "first_at": {"unit": skip.place, "position": skip.position},
            }
            for reason, skip in recording.skipped.reasons.items()
        ],
        "interrupted": interrupted,
        "format": recording.format,
        "sensor": list(recording.sensor or ()),
        "frame": list(frame.size),
        "timesteps": frame.timesteps,
    }


def open_source(events: str, sensor: str | None) -> Recording:
    """The recording that `multispike stream` is told to read; "-" is standard input."""
    size = parse_sensor(sensor) if sensor else None
    if events != "-":
        return read_events(events, sensor=size)
    try:
        # Not sys.stdin, whose lock a thread that still waits for bytes would hold at the exit.
        source = io.FileIO(0, closefd=False)
    except OSError as error:
        raise invalid("events", "-", f"an open standard input ({error.strerror})") from None
    if source.isatty():
        raise invalid("events", "-", "a pipe or a file as standard input, not a terminal")
    return read_events(source, sensor=size)  # pyright: ignore[reportArgumentType]


def stream(config: StreamConfig) -> int:
    """The command behind `multispike stream`: print or write the class of every slice.

    Returns the exit code: 0, or 130 after Ctrl-C. A reader that closes standard output (`head`)
    ends it quietly.

    Raises `InputError` if the run, the source or a setting won't do, or nothing could be read.
    """
    console = stdout_console()
    if config.view and (not console.is_terminal or console.is_dumb_terminal):
        raise invalid("view", True, "a terminal as standard output")
    run = load_run(config.run)
    if config.threads:
        torch.set_num_threads(config.threads)
    classifier = FrameClassifier(run)
    if run.network.timesteps > 1:
        bins = "with equally many events" if run.config.by == "count" else "of equal time"
        note(f"T = {run.network.timesteps}, so each slice is split into bins {bins}")
    recording = open_source(config.events, config.sensor)
    lines = JsonLines(config.json) if config.json else None
    sinks: list[Sink] = [lines] if lines else []
    if config.view:
        sinks.append(LiveView(console, config.run, classifier.classes))
    elif not lines:
        sinks.append(LinePrinter(console, classifier.classes))
    try:
        try:
            summary = run_stream(run, classifier, recording, config, sinks)
            if lines:
                lines.write({"summary": summary})
        finally:
            for sink in sinks:
                sink.close()
        if config.json != "-":
            print_summary(console, summary)
        elif recording.skipped:
            note(f"skipped: {recording.skipped}")
    except BrokenPipeError:
        # What is left in the buffer would fail again when the interpreter ends.
        with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return 0
    if summary["interrupted"]:
        note("interrupted")
        return 130
    return 0
