"""Event sets, counted into frames: CIFAR10-DVS, DVS Gesture, N-MNIST, your own, and emulated ones.

Tonic fetches the public sets; where they lie already, its folders are read, or those that their
authors publish. The frames are kept in the cache, memory-mapped.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from multispike.datasets import DATASETS, load_dataset
from multispike.datasets.dataset import Contents, Dataset, Request, balanced_indices
from multispike.errors import RunError, invalid, unknown
from multispike.events.codecs import ByteSource, Columns, Decoded, require
from multispike.events.codecs.arrays import in_microseconds, integers, polarity
from multispike.events.emulator import emulate_frames
from multispike.events.frames import Binning, event_frames, frame_size, transpose
from multispike.events.read import SUFFIXES, Recording, read_events

log = logging.getLogger(__name__)

VERSION = 4
"""Of the frames in the cache: raise it whenever a recording is read or counted differently."""

EMULATOR_VERSION = 1
"""Of emulated frames in the cache: raise it whenever the emulator counts differently."""

EMULATOR_SEED = 0
"""Of the camera and its noise. One for all: a data set is the same in every run."""

CIFAR10 = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

GESTURES = (
    "hand clapping", "right hand wave", "left hand wave", "right arm clockwise",
    "right arm counter-clockwise", "left arm clockwise", "left arm counter-clockwise", "arm roll",
    "air drums", "air guitar", "other gestures",
)  # fmt: skip

CIFAR10DVS_SPLITS = ("fixed", "tebn", "sew", "tet")
"""100 recordings a class for the test; the set has no split of its own, and published accuracies
differ for that reason too.

- `fixed`: those listed in `splits/cifar10dvs.json`, spread over the whole set.
- `tebn`: numbers 0 to 99 (Duan et al. 2022, SpikingJelly's `CIFAR10DVSTEBNSplit`).
- `tet`: numbers 900 to 999 (Deng et al. 2022).
- `sew`: the last 100 names in the order of strings (Fang et al. 2021, SpikingJelly's
  `split_to_train_test_set`): 909, 91, 910 and so on, up to 999.
"""

Files = Mapping[str, Sequence[tuple[Path, int]]]
"""Recordings with their labels, by split: train and test."""


@dataclass(frozen=True)
class Published:
    """A set that Tonic can fetch.

    tonic: Tonic's name for it and its folder; content: what its folder holds, for a reader.
    train, test: how many recordings were published.
    glob, pattern: where they lie below that folder, as groups `label` (one of `labels`) and `half`
        of the set or, if it has no split of its own, `number`; open: one of them.
    folders: further names of its folder.
    """

    tonic: str
    content: str
    train: int
    test: int
    classes: Sequence[str]
    labels: Sequence[str]
    glob: str
    pattern: str
    open: Callable[[Path], Recording]
    folders: tuple[str, ...] = ()

    def find(self, root: Path, split: str) -> Files | None:
        """The recordings in a folder; None if nothing is there."""
        found: dict[tuple[int, int], tuple[str, Path, int]] = {}
        for index, path in enumerate(sorted(root.glob(self.glob))):
            match = re.fullmatch(self.pattern, path.relative_to(root).as_posix())
            if match is None or match["label"] not in self.labels:
                continue
            label = self.labels.index(match["label"])
            if "number" in match.groupdict():
                number = int(match["number"])
                is_test = number in numbers_of_test(split, match["label"])
                found[label, number] = ("test" if is_test else "train", path, label)
            else:
                found[0, index] = (match["half"].lower(), path, label)
        files: dict[str, list[tuple[Path, int]]] = {"train": [], "test": []}
        for _, (half, path, label) in sorted(found.items()):
            files[half].append((path, label))
        return files if found else None

    def is_whole(self, files: Files) -> bool:
        return (len(files["train"]), len(files["test"])) == (self.train, self.test)


@cache
def numbers_of_test(split: str, name: str) -> frozenset[int]:
    """The numbers of the test recordings of a class in a split of CIFAR10-DVS.

    >>> numbers = numbers_of_test("sew", "cat")
    >>> sorted(numbers)[:3], len(numbers)
    ([91, 92, 93], 100)
    """
    if split == "tebn":
        return frozenset(range(100))
    if split == "tet":
        return frozenset(range(900, 1000))
    if split == "sew":
        return frozenset(sorted(range(1000), key=str)[-100:])
    file = resources.files("multispike.datasets").joinpath("splits/cifar10dvs.json")
    return frozenset(json.loads(file.read_text(encoding="utf-8"))["test"][name])


def is_transposed(data: str, format: str) -> bool:
    """Whether the recordings of a set, in files of that format, have x and y exchanged.

    The camera of CIFAR10-DVS lay on its side: `transpose`d, the images are upright, as SpikingJelly
    has them. Its authors' files (AEDAT2) are as the camera saw them, and so are new recordings of
    such a camera; SpikingJelly's are upright already, and Tonic's are taken as they are.

    data: name of the set; format: of the recording, as `read_events` tells it.
    """
    return data == "cifar10dvs" and format == "AEDAT2"


def _open_gesture(path: Path) -> Recording:
    """Tonic's arrays: one row per event with x, y, p and a time in ms."""
    try:
        rows = np.load(path, allow_pickle=False)
        if rows.ndim != 2 or rows.shape[1] != 4 or rows.dtype.kind not in "iuf":
            raise ValueError(f"{rows.dtype} {rows.shape}")
    except (OSError, ValueError, EOFError) as error:
        raise invalid("recording", str(path), f"an array of rows x, y, p, t ({error})") from None
    x, y, p, t = rows.T
    columns = Columns(in_microseconds(t, unit_us=1000), integers(x), integers(y), polarity(p))
    source = ByteSource(io.BytesIO(), str(path), chunk=max(1, len(rows)))
    return Recording(source, Decoded("npy", (128, 128), iter([columns])))


DIGITS = tuple("0123456789")

PUBLISHED = {
    # Li et al. 2017, doi:10.3389/fnins.2017.00309: the authors' files are .aedat, Tonic's .aedat4
    # and SpikingJelly's .npz, in folders `extract` or `events_np`.
    "cifar10dvs": Published(
        "CIFAR10DVS", "class folders with cifar10_CLASS_NUMBER.aedat or .aedat4", 9000, 1000,
        CIFAR10, CIFAR10, "*/cifar10_*",
        r"(?P<label>\w+)/cifar10_(?P=label)_(?P<number>\d{1,3})\.(?:aedat4?|npz)",
        partial(read_events, sensor=(128, 128)), ("extract", "events_np"),
    ),
    # Amir et al. 2017, as Tonic cuts it: USER/LABEL.npy
    "dvsgesture": Published(
        "DVSGesture", "ibmGestureTrain and ibmGestureTest folders, as Tonic has", 1077, 264,
        GESTURES, [str(label) for label in range(11)], "ibmGesture*/*/*.npy",
        r"ibmGesture(?P<half>Train|Test)/[^/]+/(?P<label>\d+)\.npy", _open_gesture,
    ),
    # Orchard et al. 2015
    "nmnist": Published(
        "NMNIST", "Train/DIGIT and Test/DIGIT folders with .bin files", 60_000, 10_000,
        DIGITS, DIGITS, "T*/?/*.bin", r"(?P<half>Train|Test)/(?P<label>\d)/[^/]+\.bin",
        partial(read_events, sensor=(34, 34)),
    ),
}  # fmt: skip


def load_published(request: Request, *, split: str = "fixed", **framing: Any) -> Dataset:
    """A row of `PUBLISHED`. A part of the set will do, with a warning.

    split: one of `CIFAR10DVS_SPLITS`; framing: as for `frames_of`.
    """
    if split not in CIFAR10DVS_SPLITS:
        raise unknown("split", split, CIFAR10DVS_SPLITS)
    published = PUBLISHED[request.name]
    files = _find(request, published, split)
    for half, listed in files.items():
        if not listed:
            allowed = f"recordings of the {half} split"
            if request.name == "cifar10dvs":
                allowed += f" {split!r}"
            raise invalid("data_dir", str(request.data_dir), allowed)
    return frames_of(request, files, published.classes, published.open, {}, **framing)


def load_eventfolder(
    request: Request, *, sensor: tuple[int, int] | None = None, **framing: Any
) -> Dataset:
    """Your own recordings in `train/CLASS` and `test/CLASS` (or `val/CLASS`) below `data_dir`.

    Every format of `multispike.events.read.read_events`, told by its suffix.

    sensor: `(width, height)` in pixels, for files that don't tell it (npy, npz, HDF5).

    Without `size`, all recordings must be of one sensor. framing: as for `frames_of`.
    """
    files, classes = request.class_files("recordings", SUFFIXES)
    open_file = partial(read_events, sensor=sensor)
    return frames_of(request, files, classes, open_file, {"sensor": sensor}, **framing)


def frames_of(
    request: Request,
    files: Files,
    classes: Sequence[str],
    open_file: Callable[[Path], Recording],
    options: Mapping[str, Any],
    *,
    timesteps: int = 10,
    size: int | tuple[int, int] | None = None,
    by: Binning = "time",
) -> Dataset:
    """Count every recording into frames, see `event_frames`, or take them from the cache.

    options: of `open_file`; timesteps: T; size: one side or (height, width), None for the
    sensor's; by: "time" or "count".
    """

    def count(path: Path) -> tuple[np.ndarray, tuple[int, int], str]:
        recording = open_file(path)
        events, sensor = np.concatenate(list(recording)), recording.sensor
        if sensor is None:
            allowed = f"(width, height) of {path}, whose format doesn't tell it"
            raise invalid("sensor", None, allowed)
        if is_transposed(request.name, recording.format):
            events = transpose(events)
        frames = event_frames(events, sensor, timesteps=timesteps, size=size, by=by)
        return frames, sensor, str(recording.skipped)

    first, first_sensor, _ = count(files["train"][0][0])  # refuses bad options before the work
    damaged: list[str] = []

    def decode(half: str, part: slice) -> np.ndarray:
        counted = []
        for path, _ in files[half][part]:
            frames, sensor, skipped = count(path)
            if size is None and sensor != first_sensor:
                allowed = f"a size, as {path} is of another sensor than the first"
                raise invalid("size", None, allowed)
            if skipped:
                damaged.append(f"{path}: {skipped}")
            counted.append(frames)
        return np.stack(counted)

    labels = {half: [label for _, label in files[half]] for half in files}
    return request.cached(
        [path for half in files for path, _ in files[half]],
        lambda: Contents(labels, first.shape, decode, classes, damaged),
        version=VERSION,
        options={
            "classes": list(classes),
            "timesteps": timesteps,
            "size": list(frame_size(size, first_sensor)),
            "by": by,
            "files": {half: [[path.name, label] for path, label in files[half]] for half in files},
            **options,
        },
    )


def _find(request: Request, published: Published, split: str) -> Files:
    """The recordings of a public set: where they lie, or fetched by Tonic, if that is wanted.

    They may lie in `data_dir` (without one, in `downloads` in the cache folder), in Tonic's folder
    there, or in another of the set's folders there. What a download that broke off has left in
    Tonic's folder is fetched again, if Tonic sees that it isn't whole. Other parts of the set are
    taken, with a warning.
    """
    home = request.home
    tonic_folder = home / published.tonic
    places = [home, tonic_folder, *(home / folder for folder in published.folders)]

    def search() -> tuple[Path, Files | None]:
        each = ((root, published.find(root, split)) for root in places)
        return next(((root, files) for root, files in each if files is not None), (home, None))

    root, files = search()
    if request.download and (
        files is None or (root == tonic_folder and not published.is_whole(files))
    ):
        _fetch(request.name, published.tonic, home)
        root, files = search()
    if files is None:
        raise request.missing(
            f"a folder with {published.content}; download=True lets Tonic fetch it"
        )
    if not published.is_whole(files) and request.limit_train is request.limit_test is None:
        log.warning(
            "%s: %s has %d + %d recordings, not the %d + %d that were published", request.name,
            root, len(files["train"]), len(files["test"]), published.train, published.test,
        )  # fmt: skip
    return files


def _fetch(data: str, name: str, folder: Path) -> None:
    """Let Tonic download its set `name`, of what isn't there yet; it checks what it gets."""
    dataset = getattr(require("tonic.datasets", f"the download of {data}"), name)
    halves = [{}] if name == "CIFAR10DVS" else [{"train": True}, {"train": False}]
    try:
        for half in halves:
            dataset(str(folder), **half)
    except (OSError, RuntimeError) as error:
        raise RunError(f"download of {data} by Tonic failed: {error}") from None


def load_emulated(request: Request, *, timesteps: int = 10, size: int = 64) -> Dataset:
    """Frames of the events that a camera of `size` x `size` pixels sends before each image.

    The parameters of camera and motion are the defaults of `multispike.events.emulator`; `data_dir`
    and `download` are those of the image set, and so are its splits and classes. The frames of an
    image are the same whatever limits are set, which save the work for all other images.

    timesteps: T bins of equal time; size: from 8 to 128 pixels.
    """
    emulate = partial(emulate_frames, size=size, timesteps=timesteps, seed=EMULATOR_SEED)
    emulate(np.zeros((1, 1, 8, 8), np.uint8), [0])  # refuses bad options before the work starts
    base = request.name.removesuffix("-dvs-sim")
    images = load_dataset(
        base,
        request.data_dir,
        cache_dir=request.cache.folder,
        download=request.download,
        progress=request.progress,
        **({"size": size} if "size" in DATASETS[base].options else {}),
    )
    limited = images.limited(request.limit_train, request.limit_test)
    splits = {"train": limited.train, "test": limited.test}
    # Each image keeps the number that it has in the whole set; those of the test come behind.
    numbers = {
        "train": balanced_indices(images.train.labels, len(limited.train)),
        "test": balanced_indices(images.test.labels, len(limited.test)) + len(images.train),
    }

    def decode(half: str, part: slice) -> np.ndarray:
        return emulate(splits[half].inputs[part].numpy(), numbers[half][part].tolist())

    labels = {half: split.labels.numpy() for half, split in splits.items()}
    content = hashlib.sha256()
    for half, split in splits.items():
        for tensor in (split.inputs, split.labels, numbers[half]):
            content.update(np.ascontiguousarray(tensor.numpy()).data)
    return request.cached(
        [],
        lambda: Contents(labels, (timesteps, 2, size, size), decode, images.classes),
        version=EMULATOR_VERSION,
        options={
            "images": content.hexdigest(),
            "classes": list(images.classes),
            "timesteps": timesteps,
            "size": size,
            "seed": EMULATOR_SEED,
        },
    )
