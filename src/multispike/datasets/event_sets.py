"""Event sets, counted into frames: CIFAR10-DVS, DVS Gesture, N-MNIST, your own, and emulated ones.

Tonic fetches the public sets; its folders are read, or those that their authors publish.
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
from multispike.datasets.dataset import PIECE, Contents, Dataset, Request, balanced_indices
from multispike.datasets.source_files import class_files
from multispike.errors import InputError, RunError, invalid, is_count, unknown
from multispike.events.codecs import ByteSource, Columns, Decoded, require
from multispike.events.codecs.arrays import in_microseconds, integers, polarity
from multispike.events.emulator import emulate_frames
from multispike.events.frames import Binning, event_frames
from multispike.events.read import SUFFIXES, Recording, read_events

log = logging.getLogger(__name__)

VERSION = 4
"""Of the frames in the cache: raise it whenever a recording is read or counted differently."""

EMULATOR_VERSION = 1
"""Of emulated frames in the cache: raise it whenever the emulator counts differently."""

CIFAR10 = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

GESTURES = (
    "hand clapping", "right hand wave", "left hand wave", "right arm clockwise",
    "right arm counter-clockwise", "left arm clockwise", "left arm counter-clockwise", "arm roll",
    "air drums", "air guitar", "other gestures",
)  # fmt: skip

CIFAR10DVS_SPLITS = ("fixed", "tebn", "sew", "tet")
"""100 recordings a class for the test; the set has no split of its own, and papers differ: those
listed in `splits/cifar10dvs.json`; numbers 0 to 99 (Duan et al. 2022, SpikingJelly's
`CIFAR10DVSTEBNSplit`); the last 100 names in the order of strings (Fang et al. 2021, SpikingJelly's
`split_to_train_test_set`); numbers 900 to 999 (Deng et al. 2022)."""

LYING = {"cifar10dvs": ("AEDAT2",)}
"""Sets whose camera lay on its side, and the formats that are as it saw them: CIFAR10-DVS's own.
SpikingJelly's files are upright, and Tonic's are taken as they are."""

Files = Mapping[str, Sequence[tuple[Path, int]]]
"""Recordings with their labels, by split: train and test."""


@dataclass(frozen=True)
class Published:
    """A set that Tonic can fetch.

    tonic: Tonic's name for it and its folder; content: what its folder holds, for a reader.
    whole: how many training and test recordings were published.
    glob, pattern: where they lie, as groups `label` (one of `labels`) and `half` of the set or, if
        it has no split of its own, `number`; open: one of them; folders: further names of its own.
    """

    tonic: str
    content: str
    whole: tuple[int, int]
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


@cache
def numbers_of_test(split: str, name: str) -> frozenset[int]:
    """The numbers of the test recordings of a class in a split of CIFAR10-DVS.

    >>> numbers = numbers_of_test("sew", "cat")
    >>> sorted(numbers)[:3], len(numbers)
    ([91, 92, 93], 100)
    """
    if split == "fixed":
        file = resources.files("multispike.datasets").joinpath("splits/cifar10dvs.json")
        return frozenset(json.loads(file.read_text(encoding="utf-8"))["test"][name])
    sew = sorted(range(1000), key=str)[-100:]
    return frozenset({"tebn": range(100), "tet": range(900, 1000), "sew": sew}[split])


def _open_gesture(path: Path) -> Recording:
    """Tonic's arrays: one row per event with x, y, p and a time in ms."""
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)  # its size is checked first
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
        "CIFAR10DVS", "class folders with cifar10_CLASS_NUMBER.aedat or .aedat4", (9000, 1000),
        CIFAR10, CIFAR10, "*/cifar10_*",
        r"(?P<label>\w+)/cifar10_(?P=label)_(?P<number>\d{1,3})\.(?:aedat4?|npz)",
        partial(read_events, sensor=(128, 128), lying=LYING["cifar10dvs"]),
        ("extract", "events_np"),
    ),
    # Amir et al. 2017, as Tonic cuts it: USER/LABEL.npy
    "dvsgesture": Published(
        "DVSGesture", "ibmGestureTrain and ibmGestureTest folders, as Tonic has", (1077, 264),
        GESTURES, [str(label) for label in range(11)], "ibmGesture*/*/*.npy",
        r"ibmGesture(?P<half>Train|Test)/[^/]+/(?P<label>\d+)\.npy", _open_gesture,
    ),
    # Orchard et al. 2015
    "nmnist": Published(
        "NMNIST", "Train/DIGIT and Test/DIGIT folders with .bin files", (60_000, 10_000),
        DIGITS, DIGITS, "T*/?/*.bin", r"(?P<half>Train|Test)/(?P<label>\d)/[^/]+\.bin",
        partial(read_events, sensor=(34, 34)),
    ),
}  # fmt: skip


def load_published(request: Request, *, split: str = "fixed", **framing: Any) -> Dataset:
    """A row of `PUBLISHED`. A part of the set will do, with a warning.

    split: one of `CIFAR10DVS_SPLITS`; framing: as for `_framed`.
    """
    if split not in CIFAR10DVS_SPLITS:
        raise unknown("split", split, CIFAR10DVS_SPLITS)
    published = PUBLISHED[request.name]
    files = _find(request, published, split)
    for half, listed in files.items():
        if not listed:
            which = f" {split!r}" if request.name == "cifar10dvs" else ""
            raise request.missing(f"recordings of the {half} split{which}")
    return _framed(request, files, published.classes, published.open, {}, **framing)


def load_eventfolder(
    request: Request,
    *,
    sensor: tuple[int, int] | None = None,
    test_share: float | None = None,
    val_share: float = 0.0,
    skip_damaged: bool = False,
    **framing: Any,
) -> Dataset:
    """Your own recordings in every format, in `train/CLASS` and `test/CLASS`, or as `class_files`
    finds them.

    sensor: `(width, height)` in pixels, for files that don't tell it (npy, npz, HDF5).
    skip_damaged: leave out recordings of which nothing can be read, instead of refusing the set.
    framing: as for `_framed`; without `size`, all recordings must be of one sensor.
    """
    shares = test_share, val_share
    files, classes = class_files(request, "recordings", SUFFIXES, *shares)
    open_file, options = partial(read_events, sensor=sensor), {"sensor": sensor}
    return _framed(request, files, classes, open_file, options, skip_damaged, **framing)


def _framed(
    request: Request,
    files: Files,
    classes: Sequence[str],
    open_file: Callable[[Path], Recording],
    options: Mapping[str, Any],
    skip_damaged: bool | None = None,
    *,
    timesteps: int = 10,
    bins: int = 1,
    size: int | tuple[int, int] | None = None,
    by: Binning = "time",
) -> Dataset:
    """Every recording counted into frames, see `event_frames`; options: of `open_file`."""
    told: dict[Path, str] = {}

    def count(path: Path, shape: tuple[int, ...] | None = None) -> np.ndarray:
        recording = open_file(path)
        frames = event_frames(
            recording.whole(), recording.known_sensor(),
            timesteps=timesteps, bins=bins, size=size, by=by,
        )  # fmt: skip
        if frames.shape != (shape or frames.shape):
            allowed = f"a size, as {path} is of another sensor than the first"
            raise invalid("size", None, allowed)
        if recording.skipped:
            told[path] = f"{path}: {recording.skipped}"
        return frames

    errors = []  # of the first recordings; bad options are refused before the work
    for path, _ in files["train"][:PIECE]:
        try:
            shape = count(path).shape
            break
        except InputError as error:
            errors.append(error)
    else:
        raise errors[0]

    def decode(part: str, piece: slice) -> np.ndarray:
        return np.stack([count(path, shape) for path, _ in files[part][piece]])

    labels = {part: [label for _, label in files[part]] for part in files}
    return request.cached(
        [path for part in files.values() for path, _ in part],
        lambda: Contents(labels, shape, decode, classes, told),
        version=VERSION,
        options={
            "classes": list(classes), "timesteps": timesteps, "bins": bins,
            "size": list(shape[-2:]), "by": by,
            "files": {part: [[path.name, label] for path, label in files[part]] for part in files},
            **options,
        },
        skip_damaged=skip_damaged,
    )  # fmt: skip


def _find(request: Request, published: Published, split: str) -> Files:
    """The recordings of a public set: where they lie, or fetched by Tonic, if that is wanted.

    They may lie in `request.home`, in Tonic's folder there, or in another of the set's. What a
    download that broke off has left in Tonic's folder is fetched again; other parts are taken.
    """
    home = request.home
    places = [home, *(home / folder for folder in (published.tonic, *published.folders))]

    def search() -> tuple[Path, Files, tuple[int, ...]]:
        for root in places:
            if files := published.find(root, split):
                return root, files, (len(files["train"]), len(files["test"]))
        return home, {}, (0, 0)

    root, files, sizes = search()
    broken_off = root == home / published.tonic and sizes != published.whole
    if request.download and (not files or broken_off):
        what = f"the download of {request.name}"
        fetch = getattr(require("tonic.datasets", what), published.tonic)
        halves = [{}] if request.name == "cifar10dvs" else [{"train": True}, {"train": False}]
        try:
            for half in halves:
                fetch(str(home), **half)  # what isn't there yet; it checks what it gets
        except (OSError, RuntimeError) as error:
            raise RunError(f"{what} by Tonic failed: {error}") from None
        root, files, sizes = search()
    if not files:
        allowed = f"a folder with {published.content}; download=True lets Tonic fetch it"
        raise request.missing(allowed)
    if sizes != published.whole and request.limit_train is request.limit_test is None:
        log.warning(
            "%s: %s has %d + %d recordings, not the %d + %d that were published", request.name,
            root, *sizes, *published.whole,
        )  # fmt: skip
    return files


def load_emulated(
    request: Request, *, timesteps: int = 10, bins: int = 1, size: int = 64, **options: Any
) -> Dataset:
    """Frames of the events that a camera of `size` x `size` pixels sends before each image.

    `data_dir`, `download`, `options`, splits and classes are those of the image set. The frames of
    an image are the same whatever limits are set, which save the work for all other images.
    timesteps, bins: T·K bins of equal time; size: from 8 to 128 pixels.
    """
    if not is_count(bins):
        raise invalid("bins", bins, "an integer >= 1")

    def emulate(images: np.ndarray, indices: Sequence[int]) -> np.ndarray:
        frames = emulate_frames(images, indices, size=size, timesteps=timesteps * bins)
        return frames.reshape(len(images), timesteps, 2 * bins, size, size)

    emulate(np.zeros((1, 1, 8, 8), np.uint8), [0])  # refuses bad options before the work starts
    base = request.name.removesuffix("-dvs-sim")
    if "size" in DATASETS[base].options:
        options["size"] = size
    images = load_dataset(
        base, request.data_dir, cache_dir=request.cache.folder, download=request.download,
        progress=request.progress, **options,
    )  # fmt: skip
    limited = images.limited(request.limit_train, request.limit_test)
    # Each image keeps the number that it has in the whole set, in which the splits follow.
    numbers, start = {}, 0
    for part, split in limited.splits.items():
        whole = images.splits[part]
        numbers[part] = balanced_indices(whole.labels, len(split)) + start
        start += len(whole)

    def decode(part: str, piece: slice) -> np.ndarray:
        inputs = limited.splits[part].inputs[piece].numpy()
        return emulate(inputs, numbers[part][piece].tolist())

    content = hashlib.sha256()
    for part, split in limited.splits.items():
        for tensor in (split.inputs, split.labels, numbers[part]):
            content.update(np.ascontiguousarray(tensor.numpy()).data)
    labels = {part: split.labels.numpy() for part, split in limited.splits.items()}
    return request.cached(
        [],
        lambda: Contents(labels, (timesteps, 2 * bins, size, size), decode, images.classes),
        version=EMULATOR_VERSION,
        options={
            "images": content.hexdigest(), "classes": list(images.classes),
            "timesteps": timesteps, "bins": bins, "size": size,
        },
    )  # fmt: skip
