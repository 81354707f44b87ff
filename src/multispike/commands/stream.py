"""`multispike stream` and `view`: recordings of event cameras, classified or shown."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import torch
from rich.console import Console

from multispike.config.commands import VIEWS, StreamConfig, ViewConfig
from multispike.config.types import parse_sensor
from multispike.device import device_for
from multispike.errors import RunError, invalid
from multispike.events.stream import FrameClassifier, Prediction, classify_stream
from multispike.events.view import (
    LiveView,
    StdoutConsole,
    line_printer,
    print_summary,
    read_view,
    write_view,
)
from multispike.inference import Trained, load_run


def stream(config: StreamConfig) -> int:
    """Print or write the class of every slice. Returns the exit code: 0, or 130 after Ctrl-C."""
    console = StdoutConsole(highlight=False)
    if config.view and (not console.is_terminal or console.is_dumb_terminal):
        raise invalid("view", True, "a terminal as standard output")
    run = load_run(config.run, device=device_for(config.accelerator))
    if config.threads:
        torch.set_num_threads(config.threads)
    classifier = frame_classifier(run)
    if run.network.timesteps > 1:
        bins = "with equally many events" if run.by == "count" else "of equal time"
        print(
            f"multispike: T = {run.network.timesteps}: a slice is split into bins {bins}",
            file=sys.stderr,
        )
    events = config.events if config.events != "-" else _standard_input()
    recording = run.open(events, config.sensor)
    lines = JsonLines(config.json) if config.json else None
    sinks: list[Callable[[Prediction, int], None]] = []
    with ExitStack() as at_end:
        if lines:
            sinks.append(lambda prediction, dropped: lines.write(prediction.to_dict()))
            at_end.callback(lines.close)
        if config.view:
            view = LiveView(console, config.run, classifier.classes)
            sinks.append(view.show)
            at_end.callback(view.close)
        elif not lines:
            sinks.append(line_printer(console, classifier.classes))
        summary = classify_stream(classifier, recording, config.realtime, sinks, **config.slicing)
        if lines:
            lines.write({"summary": asdict(summary)})
    if config.json != "-":
        print_summary(console, summary)
    elif recording.skipped:
        print(f"multispike: skipped: {recording.skipped}", file=sys.stderr)
    if summary.interrupted:
        print("multispike: interrupted", file=sys.stderr)
        return 130
    return 0


def frame_classifier(run: Trained) -> FrameClassifier:
    """A run's network for frames of events; `InputError` if it was not trained on events."""
    channels = run.input_shape[0]
    if not run.events or channels % 2:
        given = f"one trained on {run.run.data['name'] if run.run else 'images'}"
        allowed = "a run trained on events, which have 2 a bin"
        raise invalid("run", f"{given} with {channels} channels", allowed)
    return FrameClassifier(run.probabilities, run.classes, run.frames_shape, run.by)


def _standard_input() -> BinaryIO:
    try:
        # Not sys.stdin, whose lock a thread that still waits for bytes would hold at the exit.
        source: Any = io.FileIO(0, closefd=False)
    except OSError as error:
        raise invalid("events", "-", f"an open standard input ({error.strerror})") from None
    if source.isatty():
        raise invalid("events", "-", "a pipe or a file as standard input, not a terminal")
    return source


class JsonLines:
    """JSON lines in a file that is made with the first line, or on standard output ("-")."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: TextIO | None = sys.stdout if path == "-" else None

    def write(self, value: dict[str, Any]) -> None:
        """One line, which whoever reads the file has at once."""
        try:
            self._file = self._file or open(self._path, "w", encoding="utf-8")  # noqa: SIM115
            self._file.write(json.dumps(value, allow_nan=False) + "\n")
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            if self._file is None:
                allowed = f"a file that can be written ({error.strerror})"
                raise invalid("json", self._path, allowed) from None
            raise RunError(f"json: could not write {self._path}: {error.strerror}") from error

    def close(self) -> None:
        if self._file is not None and self._path != "-":
            with suppress(OSError):  # it has been told already
                self._file.close()


def view(config: ViewConfig) -> None:
    """Write the picture and print what it shows."""
    shown = read_view(
        config.events,
        sensor=parse_sensor(config.sensor) if config.sensor else None,
        size=config.size,
        limit=config.frames or VIEWS[Path(config.out).suffix.lower()],
        window_us=config.window_us or (None if config.count else 20_000),
        count=config.count,
    )
    write_view(shown, config.out)
    console = Console(highlight=False)
    for name, value in [*shown.lines(), ("written", config.out)]:
        console.print(f"{name:<9} {value}", markup=False, soft_wrap=True)
