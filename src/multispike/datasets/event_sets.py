"""Recorded event sets, counted into frames: DVS Gesture, N-MNIST, and your own.

Tonic fetches the public sets; where they lie already, its folders are read, or those that their
authors publish. The frames are kept in the cache, memory-mapped. `cifar10dvs` is a module of its
own.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from multispike.datasets.cache import Allocate
from multispike.datasets.dataset import Dataset, Request
from multispike.datasets.decode import in_threads
from multispike.datasets.image_sets import class_folders
from multispike.errors import RunError, invalid
from multispike.events.codecs import ByteSource, Columns, Decoded, require
from multispike.events.codecs.arrays import in_microseconds, integers, polarity
from multispike.events.frames import Binning, event_frames, frame_size
from multispike.events.read import SUFFIXES, Recording, read_events

log = logging.getLogger(__name__)

GESTURES = (
    "hand clapping", "right hand wave", "left hand wave", "right arm clockwise",
    "right arm counter-clockwise", "left arm clockwise", "left arm counter-clockwise", "arm roll",
    "air drums", "air guitar", "other gestures",
)  # fmt: skip

VERSION = 3
"""Of the frames in the cache: raise it whenever a recording is read or counted differently."""


Files = Mapping[str, Sequence[tuple[Path, int]]]
"""Recordings with their labels, by split: train and test."""


@dataclass(frozen=True)
class Public:
    """A set that Tonic can fetch: Tonic's name for it and its folder, and what was published.

    content: what its folder holds, for a reader; train, test: how many recordings.
    """

    tonic: str
    content: str
    train: int
    test: int

    def is_whole(self, files: Files) -> bool:
        return (len(files["train"]), len(files["test"])) == (self.train, self.test)


NMNIST = Public("NMNIST", "Train/DIGIT and Test/DIGIT folders with .bin files", 60_000, 10_000)
DVSGESTURE = Public(
    "DVSGesture", "ibmGestureTrain and ibmGestureTest folders, as Tonic has", 1077, 264
)


@dataclass(frozen=True)
class Sample:
    """The events of one recording, the `(width, height)` of their sensor, and what was skipped."""

    events: np.ndarray
    sensor: tuple[int, int]
    skipped: str = ""


@dataclass(frozen=True)
class Listing:
    """The files of a set: training and test recordings with their labels, and how one is read."""

    files: Files
    classes: Sequence[str]
    read: Callable[[Path], Sample]


@dataclass(frozen=True)
class Framing:
    """How recordings become frames, see `multispike.events.frames.event_frames`.

    timesteps: T; size: one side or (height, width), None for the sensor's; by: "time" or "count".
    """

    timesteps: int
    size: int | tuple[int, int] | None
    by: Binning

    def frames(self, sample: Sample) -> np.ndarray:
        return event_frames(
            sample.events, sample.sensor, timesteps=self.timesteps, size=self.size, by=self.by
        )


def load_nmnist(
    request: Request,
    *,
    timesteps: int = 10,
    size: int | tuple[int, int] | None = None,
    by: Binning = "time",
) -> Dataset:
    """N-MNIST (Orchard et al. 2015): 34x34, handwritten digits, 60,000 + 10,000 recordings.

    `data_dir` (or `NMNIST` in it, as Tonic makes it) holds `Train/DIGIT/*.bin` and
    `Test/DIGIT/*.bin`. For the parameters see `Framing`.
    """

    def find(root: Path) -> Files | None:
        if not ((root / "Train").is_dir() and (root / "Test").is_dir()):
            return None
        return {
            half.lower(): [
                (path, digit)
                for digit in range(10)
                for path in sorted((root / half / str(digit)).glob("*.bin"))
            ]
            for half in ("Train", "Test")
        }

    read = partial(read_sample, sensor=(34, 34))
    listing = Listing(found(request, NMNIST, find), tuple("0123456789"), read)
    return load_listing(request, listing, Framing(timesteps, size, by))


def load_dvsgesture(
    request: Request,
    *,
    timesteps: int = 10,
    size: int | tuple[int, int] | None = None,
    by: Binning = "time",
) -> Dataset:
    """DVS Gesture (Amir et al. 2017) as Tonic cuts it: 128x128, 11 gestures, 1,077 + 264 samples.

    `data_dir` (or `DVSGesture` in it, as Tonic makes it) holds `ibmGestureTrain/USER/LABEL.npy`
    and `ibmGestureTest/USER/LABEL.npy`. For the parameters see `Framing`.
    """

    def find(root: Path) -> Files | None:
        folders = {"train": root / "ibmGestureTrain", "test": root / "ibmGestureTest"}
        if not all(folder.is_dir() for folder in folders.values()):
            return None
        labels = {str(label): label for label in range(len(GESTURES))}
        return {
            half: [
                (path, labels[path.stem])
                for path in sorted(folder.glob("*/*.npy"))
                if path.stem in labels
            ]
            for half, folder in folders.items()
        }

    listing = Listing(found(request, DVSGESTURE, find), GESTURES, _read_gesture)
    return load_listing(request, listing, Framing(timesteps, size, by))


def _read_gesture(path: Path) -> Sample:
    """Tonic's arrays: one row per event with x, y, p and a time in ms."""
    try:
        rows = np.load(path, allow_pickle=False)
        if rows.ndim != 2 or rows.shape[1] != 4 or rows.dtype.kind not in "iuf":
            raise ValueError(f"{rows.dtype} {rows.shape}")
    except (OSError, ValueError, EOFError) as error:
        raise invalid("recording", str(path), f"an array of rows x, y, p, t ({error})") from None
    columns = Columns(
        in_microseconds(rows[:, 3], unit_us=1000),
        integers(rows[:, 0]),
        integers(rows[:, 1]),
        polarity(rows[:, 2]),
    )
    source = ByteSource(io.BytesIO(), str(path), chunk=max(1, len(rows)))
    recording = Recording(source, Decoded("npy", (128, 128), iter([columns])))
    return Sample(np.concatenate(list(recording)), (128, 128), str(recording.skipped))


def load_eventfolder(
    request: Request,
    *,
    timesteps: int = 10,
    size: int | tuple[int, int] | None = None,
    by: Binning = "time",
    sensor: tuple[int, int] | None = None,
) -> Dataset:
    """Your own recordings in `train/CLASS` and `test/CLASS` (or `val/CLASS`) below `data_dir`.

    Every format of `multispike.events.read.read_events`, told by its suffix.

    sensor: `(width, height)` in pixels, for files that don't tell it (npy, npz, HDF5).

    Without `size`, all recordings must be of one sensor. For the other parameters see `Framing`.
    """
    folders, classes = class_folders(request.data_dir, "recordings")
    files = {
        half: [
            (path, label)
            for label, name in enumerate(classes)
            for path in sorted((folder / name).glob("*"))
            if path.suffix.lower() in SUFFIXES and path.name[0] != "." and path.is_file()
        ]
        for half, folder in folders.items()
    }
    for half, folder in folders.items():
        if not files[half]:
            allowed = f"class folders with {'/'.join(s[1:] for s in SUFFIXES)} files"
            raise invalid("data_dir", str(folder), allowed)
    listing = Listing(files, classes, partial(read_sample, sensor=sensor))
    return load_listing(request, listing, Framing(timesteps, size, by), {"sensor": sensor})


def read_sample(path: Path, sensor: tuple[int, int] | None) -> Sample:
    recording = read_events(path, sensor=sensor)
    events = np.concatenate(list(recording))
    if recording.sensor is None:
        raise invalid("sensor", None, f"(width, height) of {path}, whose format doesn't tell it")
    return Sample(events, recording.sensor, str(recording.skipped))


def load_listing(
    request: Request,
    listing: Listing,
    framing: Framing,
    options: Mapping[str, Any] | None = None,
) -> Dataset:
    """Count every recording into frames, or take the frames from the cache."""
    for half in ("train", "test"):
        if not listing.files.get(half):
            raise invalid("data_dir", str(request.data_dir), f"recordings of the {half} split")
    first = listing.read(listing.files["train"][0][0])
    rows, columns = frame_size(framing.size, first.sensor)
    shape = framing.frames(first).shape  # refuses bad options before the work starts

    def build(allocate: Allocate) -> Mapping[str, Any]:
        damaged: list[str] = []
        scale = 1.0
        for half, files in listing.files.items():
            inputs = allocate(f"{half}_inputs", (len(files), *shape), np.uint8)
            allocate(f"{half}_labels", (len(files),), np.int64)[:] = [label for _, label in files]

            def count(part: slice, files=files, inputs=inputs) -> None:
                for row, (path, _) in enumerate(files[part], start=part.start):
                    sample = listing.read(path)
                    if framing.size is None and sample.sensor != first.sensor:
                        raise invalid(
                            "size", None, f"a size, as {path} is of another sensor than the first"
                        )
                    if sample.skipped:
                        damaged.append(f"{path}: {sample.skipped}")
                    inputs[row] = framing.frames(sample)

            in_threads(
                count, len(files), piece=8, title=f"recordings, {half}", progress=request.progress
            )
            if half == "train":
                scale = root_mean_square(inputs)
        if damaged:
            log.warning("%d recordings are not whole, the first is %s", len(damaged), min(damaged))
        return frame_meta(listing.classes, scale)

    paths = [path for files in listing.files.values() for path, _ in files]
    keys = {
        "classes": list(listing.classes),
        "timesteps": framing.timesteps,
        "size": [rows, columns],
        "by": framing.by,
        "files": {
            half: [[path.name, label] for path, label in files]
            for half, files in listing.files.items()
        },
    }
    return request.cached(paths, build, version=VERSION, options=keys | dict(options or {}))


def root_mean_square(frames: np.ndarray) -> float:
    """Of all counts in uint8 frames of any shape; 1 if there are none.

    >>> root_mean_square(np.array([[0, 0, 0, 4]], np.uint8))
    2.0
    """
    histogram = np.zeros(256, dtype=np.int64)
    for start in range(0, len(frames), 256):  # in pieces: the set may not fit in memory
        histogram += np.bincount(frames[start : start + 256].reshape(-1), minlength=256)
    square = float(histogram @ np.arange(256.0) ** 2 / max(1, histogram.sum()))
    return square**0.5 or 1.0


def frame_meta(classes: Sequence[str], scale: float) -> dict[str, Any]:
    """What `Request.cached` wants to know of frames: a count of `scale` becomes 1, none stays 0."""
    return {"classes": list(classes), "mean": [0.0, 0.0], "std": [scale / 255] * 2}


def found(
    request: Request, public: Public, find: Callable[[Path], Files | None], *folders: str
) -> Files:
    """The recordings of a public set: where they lie, or fetched by Tonic, if that is wanted.

    They may lie in `data_dir` (without one, in `downloads` in the cache folder), in Tonic's folder
    there, or in one of `folders` there; find: what is in one of these places, None if nothing is.
    What a download that broke off has left in Tonic's folder is fetched again, if Tonic sees that
    it isn't whole. Other parts of the set are taken, with a warning.
    """
    home = request.data_dir or request.cache.folder / "downloads"
    places = [home, *(home / folder for folder in (public.tonic, *folders))]

    def search() -> tuple[Path, Files | None]:
        each = ((root, find(root)) for root in places)
        return next(((root, files) for root, files in each if files is not None), (home, None))

    root, files = search()
    if request.download and (
        files is None or (root == home / public.tonic and not public.is_whole(files))
    ):
        _fetch(request.name, public.tonic, home)
        root, files = search()
    if files is None:
        raise invalid(
            "data_dir",
            None if request.data_dir is None else str(request.data_dir),
            f"a folder with {public.content}; download=True lets Tonic fetch it",
        )
    if not public.is_whole(files) and request.limit_train is request.limit_test is None:
        log.warning(
            "%s: %s has %d + %d recordings, not the %d + %d that were published",
            request.name, root, len(files["train"]), len(files["test"]), public.train, public.test,
        )  # fmt: skip
    return files


def _fetch(data: str, name: str, folder: Path) -> None:
    """Let Tonic download its set `name`, of what isn't there yet; it checks what it gets."""
    dataset = getattr(require("tonic.datasets", f"the download of {data}"), name)
    options: list[dict[str, Any]] = [{}] if name == "CIFAR10DVS" else [
        {"train": True}, {"train": False},
    ]  # fmt: skip
    try:
        for option in options:
            dataset(str(folder), **option)
    except (OSError, RuntimeError) as error:
        raise RunError(f"download of {data} by Tonic failed: {error}") from None
