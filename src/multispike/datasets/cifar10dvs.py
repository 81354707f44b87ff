"""CIFAR10-DVS: where its recordings lie, which of them are the test, and which way up they are."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path

import numpy as np

from multispike.datasets.dataset import Dataset, Request
from multispike.datasets.event_sets import (
    Files,
    Framing,
    Listing,
    Public,
    Sample,
    found,
    load_listing,
)
from multispike.errors import invalid, unknown
from multispike.events.frames import Binning, transpose
from multispike.events.read import read_events

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

PUBLIC = Public(
    "CIFAR10DVS", "class folders with cifar10_CLASS_NUMBER.aedat or .aedat4", 9000, 1000
)

SPLITS = ("fixed", "tebn", "sew", "tet")


def load_cifar10dvs(
    request: Request,
    *,
    timesteps: int = 10,
    size: int | tuple[int, int] | None = None,
    by: Binning = "time",
    split: str = "fixed",
) -> Dataset:
    """CIFAR10-DVS (Li et al. 2017, doi:10.3389/fnins.2017.00309): 128x128, 10 x 1,000 recordings.

    `data_dir` holds class folders (or a folder `CIFAR10DVS`, as Tonic makes it, or `extract` or
    `events_np`, as SpikingJelly does) with `cifar10_CLASS_NUMBER.aedat` (the authors' files),
    `.aedat4` (Tonic's) or `.npz` (SpikingJelly's). A part will do, with a warning.

    The set has no split of its own, and published accuracies differ for that reason too. All of
    these take 100 recordings a class for the test:

    - `fixed`: those listed in `data/splits/cifar10dvs.json`, spread over the whole set.
    - `tebn`: numbers 0 to 99 (Duan et al. 2022, SpikingJelly's `CIFAR10DVSTEBNSplit`).
    - `tet`: numbers 900 to 999 (Deng et al. 2022).
    - `sew`: the last 100 names in the order of strings (Fang et al. 2021, SpikingJelly's
      `split_to_train_test_set`): 909, 91, 910 and so on, up to 999.

    For the other parameters see `Framing`.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)

    def find(root: Path) -> Files | None:
        recordings = _recordings(root)
        files: dict[str, list[tuple[Path, int]]] = {"train": [], "test": []}
        for label, name in enumerate(CLASSES):
            test = numbers_of_test(split, name)
            for number, path in sorted(recordings.get(name, {}).items()):
                files["test" if number in test else "train"].append((path, label))
        return files if recordings else None

    files = found(request, PUBLIC, find, "extract", "events_np")
    for half, listed in files.items():
        if not listed:
            raise invalid(
                "data_dir", str(request.data_dir), f"recordings of the {half} split {split!r}"
            )
    listing = Listing(files, CLASSES, _read)
    return load_listing(request, listing, Framing(timesteps, size, by))


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


def _recordings(root: Path) -> dict[str, dict[int, Path]]:
    """What lies in the class folders of a folder: per class, the recordings by number."""
    pattern = re.compile(r"cifar10_([a-z]+)_(\d{1,3})\.(?:aedat4?|npz)")
    recordings: dict[str, dict[int, Path]] = {}
    for name in CLASSES:
        folder = root / name
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            match = pattern.fullmatch(path.name)
            if match and match[1] == name:
                recordings.setdefault(name, {})[int(match[2])] = path
    return recordings


def _read(path: Path) -> Sample:
    recording = read_events(path, sensor=(128, 128))
    events = np.concatenate(list(recording))
    if is_transposed("cifar10dvs", recording.format):
        events = transpose(events)
    return Sample(events, (128, 128), str(recording.skipped))


def is_transposed(data: str, format: str) -> bool:
    """Whether the recordings of a set, in files of that format, have x and y exchanged.

    The camera of CIFAR10-DVS lay on its side: `transpose`d, the images are upright, as SpikingJelly
    has them. Its authors' files (AEDAT2) are as the camera saw them, and so are new recordings of
    such a camera; SpikingJelly's are upright already, and Tonic's are taken as they are.

    data: name of the set; format: of the recording, as `read_events` tells it.
    """
    return data == "cifar10dvs" and format == "AEDAT2"
