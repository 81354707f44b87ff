"""Fashion-MNIST and the idx format it is stored in."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from multispike.datasets.cache import Allocate
from multispike.datasets.dataset import Dataset, Request
from multispike.datasets.decode import channel_statistics
from multispike.errors import invalid

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

FILES = {
    "train_inputs": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_inputs": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


def load_fashion_mnist(request: Request) -> Dataset:
    """Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747): 28x28 grey, 60,000 + 10,000.

    The four idx files, plain or `.gz`, are looked for in `data_dir`, by default where Debian's
    package `dataset-fashion-mnist` installs them.
    """
    folder = request.data_dir or DEBIAN
    files: dict[str, Path] = {}
    for array, stem in FILES.items():
        for candidate in (folder / stem, folder / f"{stem}.gz"):
            if candidate.is_file():
                files[array] = candidate
                break
        else:
            raise invalid(
                "data_dir",
                str(request.data_dir) if request.data_dir else None,
                f"a folder with {', '.join(FILES.values())}, plain or .gz"
                f" ({folder / stem} is missing)",
            )

    def build(allocate: Allocate) -> Mapping[str, Any]:
        mean = std = ()
        for half in ("train", "test"):
            images = read_idx(files[f"{half}_inputs"], dimensions=3)
            labels = read_idx(files[f"{half}_labels"], dimensions=1)
            if len(labels) != len(images):
                raise invalid(
                    f"labels in {files[f'{half}_labels']}", len(labels), f"{len(images)}, as images"
                )
            inputs = allocate(f"{half}_inputs", (len(images), 1, *images.shape[1:]), np.uint8)
            inputs[:, 0] = images
            allocate(f"{half}_labels", labels.shape, np.int64)[:] = labels
            if half == "train":
                mean, std = channel_statistics(inputs)
        return {"classes": CLASSES, "mean": mean, "std": std}

    return request.cached(list(files.values()), build, version=1)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array in an idx file, plain or gzipped.

    The format: two zero bytes, the type (8 is uint8), the number of dimensions, their sizes as
    big-endian 32-bit integers, the data in C order.

    Raises `InputError` if the file is cut short, damaged or another kind of file.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise invalid("data file", str(path), f"a whole gzip file ({error})") from None
    header = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < header:
        raise invalid("data file", str(path), f"an idx file of bytes in {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise invalid(
            "data file",
            str(path),
            f"an idx file with {math.prod(shape)} bytes for its shape {list(shape)},"
            f" not {len(content) - header}",
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
