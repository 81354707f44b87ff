"""Settings of the commands that measure, ship or show what was trained or recorded."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from multispike.config import TrainConfig, seeded
from multispike.config.types import (
    Accelerator,
    BatchSize,
    Bits,
    CheckpointName,
    Count,
    DataDir,
    Folder,
    JsonFile,
    Natural,
    Positive,
    ProfileName,
    RunPath,
    Seed,
    Seeds,
    Sensor,
    Settings,
    TestLimit,
    Threads,
    Where,
    parse_seeds,
    split_names,
)
from multispike.datasets import DATASETS
from multispike.errors import invalid, unknown
from multispike.files import check_target
from multispike.models.table import ARCHITECTURES, ResNet
from multispike.pretrained import find

RecordingPath = Annotated[str, Where("a file that exists", lambda p: Path(p).exists(), late=True)]


@dataclass(frozen=True)
class TrainRuns(TrainConfig):
    """Train one network, or one from each of several seeds.

    Examples:
        multispike train --arch fastnet --data digits --epochs 10
        multispike train --arch vgg16 --data cifar10 --data-dir DIR --levels 4 --out RUN
        multispike train --config RUN/config.yaml --out RUN --resume
        multispike train --arch fastnet --data digits --epochs 10 --seeds 0,1,2 --out DIR
    """

    seeds: Seeds | None = None

    def check(self) -> None:
        for run in self.runs():
            run.check()

    def runs(self) -> list[TrainConfig]:
        """One run a seed, in the order given."""
        one = TrainConfig(**{f.name: getattr(self, f.name) for f in fields(TrainConfig)})
        return seeded(one, parse_seeds(self.seeds), self.folder)


@dataclass(frozen=True)
class ModelsConfig(Settings):
    """List the architectures with their parameters and MACs.

    Examples:
        multispike models
    """

    json: JsonFile | None = None


@dataclass(frozen=True)
class PretrainedConfig(Settings):
    """List the trained networks that travel with the package.

    Examples:
        multispike pretrained
        multispike predict cifar10-fastnet image.png
    """

    json: JsonFile | None = None


@dataclass(frozen=True)
class PredictConfig(Settings):
    """Classify images or recordings by a trained network.

    Args:
        files: Images or recordings, folders of them, or - for one on standard input.
        top: Show this many classes, the most likely first.
        as_input: Also write the files, scaled and cut, one behind the other as the raw bytes that
            an exported program reads: ./model FILE.

    Examples:
        multispike predict cifar10-fastnet image.png
        multispike predict RUN image.png --as-input image.bin
        multispike predict RUN photos --top 3 --json classes.json
        camera | multispike predict RUN -
    """

    positional = {"files": "+"}  # noqa: RUF012  of the class

    run: RunPath
    files: list[str]
    checkpoint: CheckpointName = "last.ckpt"
    top: Count = 1
    sensor: Sensor | None = None
    as_input: str | None = None
    accelerator: Accelerator = "auto"
    json: JsonFile | None = None

    def check(self) -> None:
        super().check()
        if self.as_input:
            check_target("as_input", self.as_input)
        for path in self.files:
            if path != "-" and not Path(path).exists():
                raise invalid("files", path, "files or folders that exist, or -")


@dataclass(frozen=True)
class EvaluateConfig(Settings):
    """Measure a trained run on its test set.

    Args:
        flip: Report the accuracy over each image and its mirror image as well.

    Examples:
        multispike evaluate RUN
        multispike evaluate RUN --checkpoint best.ckpt --json out.json
    """

    run: RunPath
    checkpoint: CheckpointName = "last.ckpt"
    data_dir: DataDir | None = None
    limit_test: TestLimit | None = None
    flip: bool = False
    profile: ProfileName = "lemaire2022"
    bits: Bits = 32
    accelerator: Accelerator = "auto"
    json: JsonFile | None = None


@dataclass(frozen=True)
class ReportConfig(Settings):
    """Put trained runs into one HTML report, under any energy profile.

    Args:
        runs: Folders of runs, of comparisons, or checkpoints, comma-separated.
        out: Folder for report.html and results.json.

    Examples:
        multispike report RUN
        multispike report RUN1,RUN2 --profile mine.yaml --bits 8 --out DIR
    """

    runs: str
    profile: ProfileName = "lemaire2022"
    bits: Bits = 32
    data_dir: DataDir | None = None
    limit_test: TestLimit | None = None
    accelerator: Accelerator = "auto"
    out: Folder = "runs/report"

    def check(self) -> None:
        super().check()
        for folder in split_names(self.runs) or [""]:
            if not folder or not find(folder).exists():
                allowed = "folders of runs, of comparisons, or checkpoints, comma-separated"
                raise invalid("runs", folder, allowed)


@dataclass(frozen=True)
class AvalancheConfig(Settings):
    """Measure how activity grows along the depth of residual networks.

    Args:
        arch: Residual architectures, comma-separated.
        levels: N of the graded network, at T = 1.
        timesteps: T of its binary twin, at N = 1.
        data: Data set whose test images are sent through.
        data_dir: Folder with the data, also of runs trained on it; not needed for digits.
        limit: Use this many test samples only.
        batch_size: Samples at a time.
        seed: Of the untrained weights.
        runs: Trained runs (folders or checkpoints), comma-separated, measured on their own data.
        out: Folder for avalanche.json and avalanche.html.

    Examples:
        multispike avalanche --arch sparse_resnet18,sew_resnet18 --levels 4 --out DIR
        multispike avalanche --runs RUN1,RUN2 --out DIR
    """

    arch: str = "spiking_resnet18,sew_resnet18,ms_resnet18,sparse_resnet18"
    levels: Count = 4
    timesteps: Count = 4
    data: str = "digits"
    data_dir: DataDir | None = None
    limit: Count = 256
    batch_size: BatchSize = 64
    seed: Seed = 0
    runs: str | None = None
    accelerator: Accelerator = "auto"
    out: Folder = "runs/avalanche"

    def check(self) -> None:
        super().check()
        residual = [name for name, row in ARCHITECTURES.items() if isinstance(row, ResNet)]
        if self.data not in DATASETS:
            raise unknown("data", self.data, DATASETS)
        for name in split_names(self.arch):
            if name not in residual:
                raise unknown("arch", name, residual)
        for folder in split_names(self.runs):
            if not find(folder).exists():
                raise invalid("runs", folder, "run folders or .ckpt files, comma-separated")
        if not split_names(self.arch) and not split_names(self.runs):
            raise invalid("arch", self.arch, "one or more residual architectures, or --runs")


@dataclass(frozen=True)
class ExportConfig(Settings):
    """Ship a run as an exact integer program: C99, ONNX, OpenVINO or NIR.

    Args:
        format: c (C99, event-driven), onnx, openvino or nir.
        out: Folder to write to, new or empty; by default RUN/FORMAT.
        overwrite: Replace files of the format's names there, and what exports of others left.
        evaluate: Measure the integer network on the whole test set, beside the float one; else it
            is on up to 1,000 samples (limit_test) of the validation or test set, if the run's data
            are there.
        finetune: Epochs of training with rounded weights, on the run's own data, before the export;
            advised where rounding costs more than 0.3 points. Implies --evaluate.

    Examples:
        multispike export RUN --format c --out DIR
        multispike export RUN --format onnx --out DIR --overwrite
        multispike export RUN --finetune 1 --data-dir DIR
    """

    run: RunPath
    format: Literal["c", "onnx", "openvino", "nir"] = "c"
    out: str | None = None
    checkpoint: CheckpointName = "last.ckpt"
    overwrite: bool = False
    evaluate: bool = False
    finetune: Natural = 0
    data_dir: DataDir | None = None
    limit_test: TestLimit | None = None
    accelerator: Accelerator = "auto"
    json: JsonFile | None = None


@dataclass(frozen=True)
class BenchConfig(Settings):
    """Time a run in torch, ONNX Runtime, OpenVINO and C.

    Args:
        threads: Threads of torch, ONNX Runtime and OpenVINO; the C program has one.
        seconds: Time spent on each engine and batch size.

    Examples:
        multispike bench RUN --threads 1 --json bench.json
    """

    run: RunPath
    checkpoint: CheckpointName = "last.ckpt"
    threads: Threads = 2
    seconds: Positive = 5.0
    data_dir: DataDir | None = None
    accelerator: Accelerator = "auto"
    json: JsonFile | None = None


WINDOW_US = 10_000
"""Length of a slice where neither a length nor a count is given."""


@dataclass(frozen=True)
class StreamConfig(Settings):
    """Classify a recording, or what a camera sends, slice by slice.

    Args:
        run: Folder of a run that was trained on events, or a checkpoint by itself.
        events: Recording (EVT2, EVT3, AEDAT2, AEDAT4, HDF5, npy, npz), or - for standard input.
        window_us: Time that a slice takes; 10,000 unless count is given.
        count: Events of a slice, instead of window_us.
        overlap: How much of a slice the next one repeats: µs, or events with count.
        realtime: Let slices come at the recording's own pace; where inference can't follow, drop
            all but the newest one that waits, and count what was dropped.
        view: Show frame, class and confidence in the terminal as they come.
        threads: CPU threads of the inference; by default all cores.

    Examples:
        multispike stream RUN recording.raw
        multispike stream RUN recording.raw --count 5000 --overlap 2500 --json -
        camera | multispike stream RUN - --realtime --view
    """

    run: RunPath
    events: str
    window_us: Count | None = None
    count: Count | None = None
    overlap: int = 0
    realtime: bool = False
    view: bool = False
    sensor: Sensor | None = None
    threads: Threads | None = None
    accelerator: Accelerator = "auto"
    json: JsonFile | None = None

    def check(self) -> None:
        if None not in (self.window_us, self.count):
            raise invalid("count", self.count, "window_us or count, not both")
        length = self.count or self.window_us or WINDOW_US
        if not 0 <= self.overlap < length:
            raise invalid("overlap", self.overlap, f"an integer from 0 to {length - 1}")
        if self.json not in (None, "-") and _same_file(self.json, self.events):
            raise invalid("json", self.json, "another file than the recording")
        if self.view and self.json == "-":
            raise invalid("json", "-", "a file, as --view takes the terminal")
        super().check()

    @property
    def slicing(self) -> dict[str, int]:
        """The arguments of `multispike.events.frames.slices`.

        >>> StreamConfig("RUN", "a.raw", overlap=5000).slicing
        {'window_us': 10000, 'overlap': 5000}
        """
        length = {"count": self.count} if self.count else {"window_us": self.window_us or WINDOW_US}
        return {**length, "overlap": self.overlap}


def _same_file(out: str, events: str) -> bool:
    """Whether both are one file, by whatever names; events may be "-", standard input."""
    try:
        return os.path.samefile(out, 0 if events == "-" else events)
    except OSError:
        return False  # one of them is missing, so nothing can be written over


VIEWS = {".png": 16, ".gif": 100, ".html": 100}
"""What `view` writes, and how many frames of a recording it shows by default."""


@dataclass(frozen=True)
class ViewConfig(Settings):
    """Show a recording of an event camera as PNG, GIF or HTML.

    Args:
        events: Recording: EVT2, EVT3, AEDAT2, AEDAT4, HDF5, npy, npz, or N-MNIST's .bin.
        out: File to write: .png (frames side by side), .gif (animation) or .html (page).
        window_us: Time that a frame shows; 20,000 unless count is given.
        count: Events that a frame shows, instead of window_us.
        frames: Show so many frames from the start; by default 16 (.png) or 100.
        size: Longest side of a frame in pixels; by default the sensor's, or 320 if that is less.

    Examples:
        multispike view recording.raw --out frames.png
        multispike view recording.raw --out film.gif --window-us 10000
    """

    events: RecordingPath
    out: str = "events.png"
    window_us: Count | None = None
    count: Count | None = None
    frames: Count | None = None
    size: Count | None = None
    sensor: Sensor | None = None

    def check(self) -> None:
        if None not in (self.window_us, self.count):
            raise invalid("count", self.count, "window_us or count, not both")
        if Path(self.out).suffix.lower() not in VIEWS:
            raise invalid("out", self.out, f"a name that ends in {', '.join(VIEWS)}")
        super().check()
