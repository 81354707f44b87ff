"""The image sets: the bundled digits, Fashion-MNIST, CIFAR, and the user's own folders."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import ImageColor

from multispike.datasets.dataset import (
    Contents,
    Dataset,
    Request,
    Split,
    balanced_indices,
    in_threads,
    statistics,
    without,
)
from multispike.datasets.source_files import (
    LARGEST,
    class_files,
    fetch,
    fitted,
    image_size,
    open_rgb,
    read_archive,
    read_idx,
    unpickle,
)
from multispike.errors import InputError, check_sample, invalid, is_count

DIGITS_TEST = 360
"""Test samples of `digits`, a fifth of the 1,797."""

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""

CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

IDX_FILES = {
    "train_inputs": "train-images-idx3-ubyte", "train_labels": "train-labels-idx1-ubyte",
    "test_inputs": "t10k-images-idx3-ubyte", "test_labels": "t10k-labels-idx1-ubyte",
}  # fmt: skip

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")
"""What counts as an image in a folder, in either case; other files are left alone."""


def load_digits(request: Request) -> Dataset:
    """scikit-learn's handwritten digits: 8x8, 17 grey levels scaled to 0..255.

    The test samples are a class-balanced fifth (`balanced_indices`), 36 of each digit; the training
    samples are the rest, in their original order. `data_dir` has no meaning here.
    """
    from sklearn.datasets import load_digits as bundled

    digits: Any = bundled()
    pixels = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8))[:, None]
    whole = Split(pixels, torch.from_numpy(digits.target.astype(np.int64)))
    train, test = without(whole, balanced_indices(whole.labels, DIGITS_TEST))
    mean, std = statistics(train.inputs.numpy())
    return Dataset(request.name, train, test, tuple("0123456789"), tuple(mean), tuple(std))


def load_fashion_mnist(request: Request) -> Dataset:
    """Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747): four idx files, plain or `.gz`."""
    folder = request.data_dir or DEBIAN
    files: dict[str, Path] = {}
    for array, stem in IDX_FILES.items():
        found = [path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()]
        if not found:
            raise request.missing(
                f"a folder with {', '.join(IDX_FILES.values())}, plain or .gz"
                f" ({folder / stem} is missing)"
            )
        files[array] = found[0]

    def read() -> Contents:
        images = {half: read_idx(files[f"{half}_inputs"], 3)[:, None] for half in ("train", "test")}
        labels = {half: read_idx(files[f"{half}_labels"], 1) for half in ("train", "test")}
        shape = images["train"].shape[1:]
        for half in ("train", "test"):
            if len(labels[half]) != len(images[half]):
                where = f"labels in {files[f'{half}_labels']}"
                raise invalid(where, len(labels[half]), f"{len(images[half])}, as images")
            if images[half].shape[1:] != shape:
                allowed = f"the shape of the training inputs, {list(shape)}"
                raise invalid(f"{half} inputs", list(images[half].shape[1:]), allowed)
        return Contents(labels, shape, lambda half, part: images[half][part], CLOTHES)

    return request.cached(list(files.values()), read, version=1)


OFFICIAL = "https://www.cs.toronto.edu/~kriz/"
SIDE = 32


@dataclass(frozen=True)
class Release:
    """How one of the CIFAR sets is published (https://www.cs.toronto.edu/~kriz/cifar.html): the
    archive, the folder and pickles in it, their keys, and the labels' column in parquet files."""

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
        "cifar-10-python.tar.gz",
        "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        "cifar-10-batches-py", tuple(f"data_batch_{number}" for number in range(1, 6)),
        ("test_batch",), "batches.meta", b"labels", b"label_names", "label", 10,
    ),
    "cifar100": Release(
        "cifar-100-python.tar.gz",
        "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        "cifar-100-python", ("train",),
        ("test",), "meta", b"fine_labels", b"fine_label_names", "fine_label", 100,
    ),
}  # fmt: skip


def load_cifar(request: Request) -> Dataset:
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009): 32x32 RGB, 50,000 + 10,000 images.

    `request.home` may hold, looked for in this order, `train.parquet` and `test.parquet` (columns
    `img: {bytes, path}` with any lossless image format, and `label` or `fine_label`; class names,
    one a line, in the schema's metadata under `class_names`), the unpacked official archive (or
    be that folder), or the archive itself, which `request.download` fetches.
    """
    release = RELEASES[request.name]
    files = _find_cifar(release, request)
    read = _read_parquet if files[0].suffix == ".parquet" else _read_pickles
    return request.cached(files, partial(read, files, release), version=1)


def _find_cifar(release: Release, request: Request) -> list[Path]:
    """The source: two parquet files, the pickles of an unpacked archive, or one archive."""
    folder = request.home
    if folder.is_file():
        return [folder]
    pickles = (*release.train, *release.test, release.meta)
    for files in (
        [folder / "train.parquet", folder / "test.parquet"],
        [folder / release.folder / name for name in pickles],
        [folder / name for name in pickles],
        [folder / release.archive],
    ):
        if all(path.is_file() for path in files):
            return files
    if request.download:
        url, archive = OFFICIAL + release.archive, folder / release.archive
        return [fetch(url, archive, sha256=release.sha256, progress=request.progress)]
    raise request.missing(
        f"a folder with train.parquet and test.parquet, {release.folder}/ or {release.archive}"
        f" (none of them whole in {folder}); or download=True"
    )


def _read_parquet(files: Sequence[Path], release: Release) -> Contents:
    tables = {path.stem: _parquet_table(path, release.column) for path in files}
    origin = {path.stem: path for path in files}

    def decode(half: str, part: slice) -> np.ndarray:
        images = []
        for row, cell in enumerate(tables[half]["img"][part], start=part.start):
            name = f"{origin[half]} row {row}"
            image = open_rgb(io.BytesIO((cell.as_py() or {}).get("bytes") or b""), name)
            if image.size != (SIDE, SIDE):
                name += f" of {image.width}x{image.height}"
                raise invalid("image", name, f"{SIDE}x{SIDE} pixels")
            images.append(np.asarray(image).transpose(2, 0, 1))
        return np.stack(images)

    metadata = tables["train"].schema.metadata or {}
    names = metadata.get(b"class_names", b"").decode(errors="replace").splitlines()
    labels = {half: table[release.column].to_numpy() for half, table in tables.items()}
    names = names or [str(label) for label in range(release.classes)]
    return Contents(labels, (3, SIDE, SIDE), decode, names)


def _parquet_table(path: Path, column: str) -> pa.Table:
    """The columns of labels and of images, still encoded."""
    # A dictionary stays one: its values, each many times, could take any memory.
    options: dict[str, Any] = {"read_dictionary": ["img.bytes"]}
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, **options) as file:
            rows, schema, about = file.metadata.num_rows, file.schema_arrow, file.metadata
            image = schema.field("img").type.field("bytes").type.value_type
            if not (pa.types.is_binary(image) and pa.types.is_integer(schema.field(column).type)):
                raise KeyError
            groups = map(about.row_group, range(about.num_row_groups))
            columns = [group.column(i) for group in groups for i in range(group.num_columns)]
            read = [each for each in columns if each.path_in_schema in ("img.bytes", column)]
            size = max(sum(each.total_uncompressed_size for each in read), rows * 3 * SIDE * SIDE)
            if size > LARGEST:
                allowed = f"at most {LARGEST:,} bytes of images, not {size:,} of {rows:,} images"
                raise invalid("data file", str(path), allowed)
            table = file.read(columns=["img.bytes", column])
    except InputError:
        raise
    except (pa.ArrowException, OSError, IndexError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise invalid("data file", str(path), f"a whole parquet file ({reason})") from None
    except (KeyError, AttributeError, TypeError):  # no such column, or no struct
        allowed = f"parquet with columns img: {{bytes, path}} and {column}: integer"
        raise invalid("data file", str(path), allowed) from None
    if len(table) != rows:
        allowed = f"the {rows} rows that it announces, not {len(table)}"
        raise invalid("data file", str(path), allowed)
    if table[column].null_count:
        raise invalid("data file", str(path), f"a {column} for every image")
    return table


def _read_pickles(files: Sequence[Path], release: Release) -> Contents:
    """The official pickles, from their archive (one file) or unpacked."""
    names = (*release.train, *release.test, release.meta)
    if len(files) == 1:
        contents = read_archive(files[0], names)
        origin = {name: f"{files[0]}/{name}" for name in names}
    else:
        contents = {path.name: path.read_bytes() for path in files}
        origin = {path.name: str(path) for path in files}
    found = {name: unpickle(contents[name], origin[name]) for name in names}
    images, labels = {}, {}
    for half, batches in (("train", release.train), ("test", release.test)):
        arrays = [_batch(found[name], origin[name], release) for name in batches]
        images[half], labels[half] = map(np.concatenate, zip(*arrays, strict=True))
    classes = found[release.meta].get(release.names_key)
    if (
        not isinstance(classes, list)
        or len(classes) != release.classes
        or not all(isinstance(name, bytes) for name in classes)
    ):
        allowed = f"a list of {release.classes} class names under {release.names_key.decode()!r}"
        raise invalid("data file", origin[release.meta], allowed)
    decoded = [name.decode() for name in classes]
    return Contents(labels, (3, SIDE, SIDE), lambda half, part: images[half][part], decoded)


def _batch(content: dict[Any, Any], origin: str, release: Release) -> tuple[np.ndarray, np.ndarray]:
    """Images `[n, 3, 32, 32]` and labels `[n]` of one pickle."""
    pixels, labels = content.get(b"data"), content.get(release.label_key)
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.shape[1:] != (3 * SIDE * SIDE,)
        or not isinstance(labels, list)
        or len(labels) != len(pixels)
        or not all(isinstance(label, int) for label in labels)
    ):
        key = release.label_key.decode()
        allowed = f"a CIFAR batch: uint8 data [n, {3 * SIDE * SIDE}] and n {key}"
        raise invalid("data file", origin, allowed)
    return pixels.reshape(-1, 3, SIDE, SIDE), np.array(labels, dtype=np.int64)


def load_imagefolder(
    request: Request,
    *,
    size: int | tuple[int, int] | None = None,
    background: str = "white",
    test_share: float | None = None,
    val_share: float = 0.0,
    skip_damaged: bool = False,
) -> Dataset:
    """Images sorted into `train/CLASS` and `test/CLASS`, or as `class_files` finds them.

    All become upright 8-bit RGB. The set need not fit in memory.

    size: side, or (height, width), in pixels, that each image is scaled to cover and then
        centrally cropped to; may be left out if all images have one size already.
    background: colour behind what is transparent. skip_damaged: leave out images that can't be
        read, instead of refusing the set.
    """
    files, classes = class_files(request, "images", SUFFIXES, test_share, val_share)
    for label in sorted({*range(len(classes))} - {label for _, label in files["train"]}):
        folder = files["train"][0][0].parent.with_name(classes[label])
        kinds = "/".join(suffix[1:] for suffix in SUFFIXES)
        raise invalid("data_dir", str(folder), f"a folder with {kinds} files")
    target = None
    if size is not None:
        target = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
        if len(target) != 2 or not all(map(is_count, target)):
            raise invalid("size", size, "an integer >= 1 or (height, width)")
        check_sample("size", (3, *target))
    try:
        ImageColor.getrgb(background)
    except ValueError:
        raise invalid("background", background, "a colour, such as white or #80ff00") from None
    paths = [path for part in files.values() for path, _ in part]

    def read() -> Contents:
        height, width = target or _common_size(paths, request.progress)

        def decode(part: str, piece: slice) -> np.ndarray:
            images = (open_rgb(path, str(path), background) for path, _ in files[part][piece])
            return np.stack([fitted(image, height, width) for image in images])

        labels = {part: [label for _, label in files[part]] for part in files}
        return Contents(labels, (3, height, width), decode, classes)

    shares = {"test_share": test_share, "val_share": val_share}
    options = {"size": target, "background": background, **shares}
    return request.cached(paths, read, version=3, options=options, skip_damaged=skip_damaged)


def _common_size(paths: list[Path], progress: bool) -> tuple[int, int]:
    """`(height, width)` that all the images have, but for those whose header can't be read."""
    sizes: list[tuple[int, int] | None] = [None] * len(paths)

    def measure(piece: slice) -> None:
        for index in range(piece.start, piece.stop):
            with suppress(InputError):  # decoding tells why
                sizes[index] = image_size(paths[index])

    in_threads(measure, len(paths), "image sizes", progress)
    known = [(path, size) for path, size in zip(paths, sizes, strict=True) if size]
    first, size = known[0] if known else (paths[0], (1, 1))
    for path, other in known:
        if other != size:
            allowed = "an integer or (height, width), as the images differ in size:"
            found = f"{first} is {size[0]}x{size[1]}, {path} is {other[0]}x{other[1]}"
            raise invalid("size", None, f"{allowed} {found}")
    return size
