"""CIFAR-10 and CIFAR-100, from parquet files or from the official Python archive."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from multispike.datasets.cache import Allocate
from multispike.datasets.dataset import Dataset, Request
from multispike.datasets.decode import channel_statistics, open_rgb
from multispike.datasets.download import fetch
from multispike.datasets.pickles import read_archive, unpickle
from multispike.errors import invalid
from multispike.progress import progress_bar

OFFICIAL = "https://www.cs.toronto.edu/~kriz/"
SIDE = 32


@dataclass(frozen=True)
class Release:
    """How one of the two sets is published (https://www.cs.toronto.edu/~kriz/cifar.html).

    archive, sha256: the official archive; folder: what it unpacks to; train, test, meta: the
    pickles in it; label_key, names_key: where these keep labels and class names; column: the
    labels' column in parquet files.
    """

    archive: str
    sha256: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    label_key: bytes
    names_key: bytes
    column: str
    classes: int


RELEASES = {
    "cifar10": Release(
        archive="cifar-10-python.tar.gz",
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        folder="cifar-10-batches-py",
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test=("test_batch",),
        meta="batches.meta",
        label_key=b"labels",
        names_key=b"label_names",
        column="label",
        classes=10,
    ),
    "cifar100": Release(
        archive="cifar-100-python.tar.gz",
        sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        folder="cifar-100-python",
        train=("train",),
        test=("test",),
        meta="meta",
        label_key=b"fine_labels",
        names_key=b"fine_label_names",
        column="fine_label",
        classes=100,
    ),
}


def load_cifar(request: Request) -> Dataset:
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009): 32x32 RGB, 50,000 + 10,000 images.

    `data_dir` may hold, looked for in this order, `train.parquet` and `test.parquet` (columns
    `img: {bytes, path}` with any lossless image format, and `label` or `fine_label`; class names,
    one a line, in the schema's metadata under `class_names`), the unpacked official archive (or
    be that folder), or the official archive itself. With `request.download` the archive is
    fetched into `data_dir`; without a `data_dir`, into `downloads` in the cache folder.
    """
    release = RELEASES[request.name]
    files = _find(release, request)

    def build(allocate: Allocate) -> Mapping[str, Any]:
        if files[0].suffix == ".parquet":
            train, classes = _read_parquet(files[0], "train", release, allocate, request.progress)
            _read_parquet(files[1], "test", release, allocate, request.progress)
        else:
            train, classes = _read_pickles(files, release, allocate)
        mean, std = channel_statistics(train)
        return {"classes": classes, "mean": mean, "std": std}

    return request.cached(files, build, version=1)


def _find(release: Release, request: Request) -> list[Path]:
    """The source: two parquet files, the pickles of an unpacked archive, or one archive."""
    folder = request.data_dir or request.cache.folder / "downloads"
    if folder.is_file():
        return [folder]
    parquet = [folder / "train.parquet", folder / "test.parquet"]
    if all(path.is_file() for path in parquet):
        return parquet
    for unpacked in (folder / release.folder, folder):
        pickles = [unpacked / name for name in (*release.train, *release.test, release.meta)]
        if all(path.is_file() for path in pickles):
            return pickles
    archive = folder / release.archive
    if archive.is_file():
        return [archive]
    if request.download:
        url = OFFICIAL + release.archive
        return [fetch(url, archive, sha256=release.sha256, progress=request.progress)]
    raise invalid(
        "data_dir",
        str(request.data_dir) if request.data_dir else None,
        f"a folder with train.parquet and test.parquet, {release.folder}/ or {release.archive}"
        f" (none of them whole in {folder}); or download=True",
    )


def _read_parquet(
    path: Path, half: str, release: Release, allocate: Allocate, progress: bool
) -> tuple[np.ndarray, list[str]]:
    """Decode a parquet file into the arrays of `half`; returns the images and the class names."""
    column = release.column
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if not _has_layout(file.schema_arrow, column):
                raise invalid(
                    "data file",
                    str(path),
                    f"parquet with columns img: {{bytes, path}} and {column}: integer",
                )
            rows = file.metadata.num_rows
            metadata = file.schema_arrow.metadata or {}
            inputs = allocate(f"{half}_inputs", (rows, 3, SIDE, SIDE), np.uint8)
            labels = allocate(f"{half}_labels", (rows,), np.int64)
            row = 0
            with progress_bar(progress) as bar:
                task = bar.add_task(path.name, total=rows)
                # One thread: at 80 us an image the interpreter's lock is the limit, and two
                # threads were measured to be no faster (5.5 s for all of CIFAR-10).
                for batch in file.iter_batches(500, columns=["img", column]):
                    labels[row : row + len(batch)] = batch[column].to_numpy()
                    for image in batch["img"].field("bytes"):
                        inputs[row] = _decoded(image.as_py(), f"{path} row {row}")
                        row += 1
                    bar.advance(task, len(batch))
    except (pa.ArrowException, OSError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise invalid("data file", str(path), f"a whole parquet file ({reason})") from None
    if row != rows:
        raise invalid("data file", str(path), f"the {rows} rows that it announces, not {row}")
    names = metadata.get(b"class_names", b"").decode(errors="replace").splitlines()
    return inputs, names or [str(label) for label in range(release.classes)]


def _has_layout(schema: pa.Schema, column: str) -> bool:
    if "img" not in schema.names or column not in schema.names:
        return False
    image = schema.field("img").type
    return (
        pa.types.is_struct(image)
        and image.get_field_index("bytes") >= 0
        and pa.types.is_binary(image.field("bytes").type)
        and pa.types.is_integer(schema.field(column).type)
    )


def _decoded(encoded: bytes | None, name: str) -> np.ndarray:
    """One encoded image as uint8 `[3, 32, 32]`."""
    image = open_rgb(io.BytesIO(encoded or b""), name)
    if image.size != (SIDE, SIDE):
        raise invalid("image", f"{name} of {image.width}x{image.height}", f"{SIDE}x{SIDE} pixels")
    return np.asarray(image).transpose(2, 0, 1)


def _read_pickles(
    files: list[Path], release: Release, allocate: Allocate
) -> tuple[np.ndarray, list[str]]:
    """Read the official pickles; returns the training images and the class names."""
    if len(files) == 1:
        names = (*release.train, *release.test, release.meta)
        contents = read_archive(files[0], names)
        origin = {name: f"{files[0]}/{name}" for name in names}
    else:
        contents = {path.name: path.read_bytes() for path in files}
        origin = {path.name: str(path) for path in files}

    def load(name: str) -> dict[Any, Any]:
        return unpickle(contents[name], origin[name])

    train = _fill("train", [_batch(load(n), origin[n], release) for n in release.train], allocate)
    _fill("test", [_batch(load(n), origin[n], release) for n in release.test], allocate)
    names_found = load(release.meta).get(release.names_key)
    if (
        not isinstance(names_found, list)
        or len(names_found) != release.classes
        or not all(isinstance(name, bytes) for name in names_found)
    ):
        raise invalid(
            "data file",
            origin[release.meta],
            f"a list of {release.classes} class names under {release.names_key.decode()!r}",
        )
    return train, [name.decode() for name in names_found]


def _batch(content: dict[Any, Any], origin: str, release: Release) -> tuple[np.ndarray, np.ndarray]:
    """Images `[n, 3, 32, 32]` and labels `[n]` of one pickle."""
    pixels = content.get(b"data")
    labels = content.get(release.label_key)
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.dtype != np.uint8
        or pixels.ndim != 2
        or pixels.shape[1] != 3 * SIDE * SIDE
        or not isinstance(labels, list)
        or len(labels) != len(pixels)
        or not all(isinstance(label, int) for label in labels)
    ):
        raise invalid(
            "data file",
            origin,
            f"a CIFAR batch: uint8 data [n, {3 * SIDE * SIDE}] and n {release.label_key.decode()}",
        )
    return pixels.reshape(-1, 3, SIDE, SIDE), np.array(labels, dtype=np.int64)


def _fill(
    half: str, batches: list[tuple[np.ndarray, np.ndarray]], allocate: Allocate
) -> np.ndarray:
    """Put batches one after the other into the arrays of `half`; returns the images."""
    count = sum(len(labels) for _, labels in batches)
    inputs = allocate(f"{half}_inputs", (count, 3, SIDE, SIDE), np.uint8)
    np.concatenate([images for images, _ in batches], out=inputs)
    np.concatenate(
        [labels for _, labels in batches], out=allocate(f"{half}_labels", (count,), np.int64)
    )
    return inputs
