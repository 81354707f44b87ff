"""The bundled digits, and the user's own folders of images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from multispike.datasets.cache import Allocate
from multispike.datasets.dataset import Dataset, Request, Split, balanced_indices
from multispike.datasets.decode import channel_statistics, fitted, image_size, in_threads, open_rgb
from multispike.errors import invalid

DIGITS_TEST = 360
"""Test samples of `digits`, a fifth of the 1,797."""

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff",
)  # fmt: skip
"""What counts as an image in a folder, in either case; other files are left alone."""


def load_digits(request: Request) -> Dataset:
    """scikit-learn's handwritten digits: 8x8, 17 grey levels scaled to 0..255, 1,437 + 360.

    The split is fixed: the test samples are a class-balanced fifth (`balanced_indices`), 36 of
    each digit; the training samples are the rest, in their original order. Bundled, so `data_dir`
    has no meaning here and nothing is cached.
    """
    from sklearn.datasets import load_digits as bundled

    digits: Any = bundled()
    pixels = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(digits.target.astype(np.int64))
    test = balanced_indices(labels, DIGITS_TEST)
    in_train = torch.ones(len(labels), dtype=torch.bool)
    in_train[test] = False
    whole = Split(pixels, labels)
    train = whole.take(in_train.nonzero().squeeze(1))
    mean, std = channel_statistics(train.inputs.numpy())
    return Dataset(
        name=request.name,
        train=train,
        test=whole.take(test),
        classes=tuple("0123456789"),
        mean=tuple(mean),
        std=tuple(std),
    )


def load_imagefolder(request: Request, *, size: int | tuple[int, int] | None = None) -> Dataset:
    """Images sorted into `train/CLASS` and `test/CLASS` (or `val/CLASS`) below `data_dir`.

    Classes are the folders in `train`, sorted by name. All images become 8-bit RGB.

    size: side, or (height, width), in pixels, that each image is scaled to cover and then
        centrally cropped to; may be left out if all images have one size already.

    Decoded in parallel, straight into memory-mapped files: the set need not fit in memory.
    """
    folders, classes = class_folders(request.data_dir, "images")
    target = _checked_size(size)
    files: dict[str, list[Path]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "test": []}
    for half, folder in folders.items():
        for label, name in enumerate(classes):
            found = _images_in(folder / name)
            if half == "train" and not found:
                raise invalid("data_dir", str(folder / name), f"a folder with {_suffixes()} files")
            files[half] += found
            labels[half] += [label] * len(found)
        if not files[half]:
            raise invalid("data_dir", str(folder), f"class folders with {_suffixes()} files")

    def build(allocate: Allocate) -> Mapping[str, Any]:
        height, width = target or _common_size(files["train"] + files["test"], request.progress)
        mean = std = ()
        for half, paths in files.items():
            inputs = allocate(f"{half}_inputs", (len(paths), 3, height, width), np.uint8)
            allocate(f"{half}_labels", (len(paths),), np.int64)[:] = labels[half]

            def decode(part: slice, paths=paths, inputs=inputs) -> None:
                for row, path in enumerate(paths[part], start=part.start):
                    inputs[row] = fitted(open_rgb(path, str(path)), height, width)

            in_threads(
                decode, len(paths), piece=32, title=f"images, {half}", progress=request.progress
            )
            if half == "train":
                mean, std = channel_statistics(inputs)
        return {"classes": classes, "mean": mean, "std": std}

    return request.cached(
        files["train"] + files["test"], build, version=1, options={"size": target}
    )


def class_folders(data_dir: Path | None, content: str) -> tuple[dict[str, Path], list[str]]:
    """The folders of both splits, and the names of the classes; content: what is in them."""
    allowed = f"a folder with train/CLASS and test/CLASS (or val/CLASS) folders of {content}"
    if data_dir is None:
        raise invalid("data_dir", None, allowed)
    train = data_dir / "train"
    test = data_dir / "test" if (data_dir / "test").is_dir() else data_dir / "val"
    for folder in (data_dir, train, test):
        if not folder.is_dir():
            raise invalid("data_dir", str(data_dir), f"{allowed}; {folder} is missing")
    classes, in_test = (
        sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")
        for folder in (train, test)
    )
    if not classes:
        raise invalid("data_dir", str(data_dir), f"{allowed}; {train} has no class folders")
    strange = sorted(set(in_test) - set(classes))
    if strange:
        raise invalid("data_dir", str(test / strange[0]), f"only classes that {train} has too")
    return {"train": train, "test": test}, classes


def _images_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and path.name[0] != "." and path.is_file()
    )


def _suffixes() -> str:
    return "/".join(suffix[1:] for suffix in SUFFIXES)


def _checked_size(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    pair = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(pair) != 2 or not all(type(side) is int and side >= 1 for side in pair):
        raise invalid("size", size, "an integer >= 1 or (height, width), in pixels")
    return pair[0], pair[1]


def _common_size(paths: list[Path], progress: bool) -> tuple[int, int]:
    """`(height, width)` that all the images have."""
    sizes: list[tuple[int, int]] = [(0, 0)] * len(paths)

    def measure(part: slice) -> None:
        sizes[part] = [image_size(path) for path in paths[part]]

    in_threads(measure, len(paths), piece=256, title="image sizes", progress=progress)
    for path, size in zip(paths, sizes, strict=True):
        if size != sizes[0]:
            raise invalid(
                "size",
                None,
                "an integer or (height, width), as the images differ in size:"
                f" {paths[0]} is {sizes[0][0]}x{sizes[0][1]}, {path} is {size[0]}x{size[1]}",
            )
    return sizes[0]
