"""Files of data sets: found, fetched, and read so that a damaged or hostile one costs one line."""

from __future__ import annotations

import gzip
import io
import math
import pickle
import struct
import sys
import tarfile
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pooch
import torch
from filelock import FileLock
from PIL import Image, ImageOps
from requests import RequestException

from multispike.datasets.dataset import Request, share_indices
from multispike.errors import InputError, RunError, invalid

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
"""What is tried on an image; naming them halves the time that Pillow takes to open a small one."""

ORIENTATION, LYING = 0x0112, (5, 6, 7, 8)
"""The tag of an image's metadata that tells how it was held, and its values for a turn by 90°."""

LARGEST = 1 << 30
"""Bytes that an array or a member of an archive may have; the largest known has 0.6 GB."""

# What is beyond Pillow's limit of 89 million pixels is refused by its header.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def class_files(
    request: Request,
    content: str,
    suffixes: Sequence[str],
    test_share: float | None = None,
    val_share: float = 0.0,
) -> tuple[dict[str, list[tuple[Path, int]]], list[str]]:
    """Files with their labels by part, and the classes: the folders in `train`, sorted by name.

    They lie in train/CLASS, test/CLASS and val/CLASS; without test, val is taken for it. With
    `test_share` there is no test folder, and that share of each class is the test; the classes may
    then lie in `data_dir` itself. Without a val folder of its own, `val_share` of each class's
    training files is for validation. content: what the files are, for messages.
    """
    allowed = f"a folder with train/CLASS and test/CLASS (or val/CLASS) folders of {content}"
    data_dir = request.data_dir
    if data_dir is None:
        raise request.missing(allowed)
    folders = {"train": data_dir / "train", "test": data_dir / "test"}
    if (data_dir / "val").is_dir():
        folders["validation" if folders["test"].is_dir() else "test"] = data_dir / "val"
    if test_share is not None:
        test = folders.pop("test")
        if test.is_dir():
            raise invalid("test_share", test_share, f"none, as there is a folder {test}")
        if not folders["train"].is_dir():
            folders["train"] = data_dir
    for folder in (data_dir, *folders.values()):
        if not folder.is_dir():
            raise request.missing(f"{allowed}; {folder} is missing")
    classes = _class_folders(folders["train"])
    if not classes:
        raise request.missing(f"{allowed}; {folders['train']} has no class folders")
    files: dict[str, list[tuple[Path, int]]] = {}
    for part, folder in folders.items():
        for strange in sorted(set(_class_folders(folder)) - set(classes)):
            allowed = f"only classes that {folders['train']} has too"
            raise invalid("data_dir", str(folder / strange), allowed)
        files[part] = [
            (path, label)
            for label, name in enumerate(classes)
            for path in sorted((folder / name).glob("*"))
            if path.suffix.lower() in suffixes and path.name[0] != "." and path.is_file()
        ]
        if not files[part]:
            kinds = "/".join(suffix[1:] for suffix in suffixes)
            raise invalid("data_dir", str(folder), f"class folders with {kinds} files")
    for part, share in (("test", test_share), ("validation", val_share)):
        if share and part not in files:
            labels = torch.tensor([label for _, label in files["train"]])
            chosen = set(share_indices(labels, share).tolist())
            whole = list(enumerate(files["train"]))
            files["train"] = [file for index, file in whole if index not in chosen]
            files[part] = [file for index, file in whole if index in chosen]
    # Names of folders may be no UTF-8, which neither a report nor a result could hold.
    names = [name.encode("utf-8", "backslashreplace").decode() for name in classes]
    return {part: listed for part, listed in files.items() if listed}, names


def _class_folders(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir() if each.is_dir() and each.name[0] != ".")


def open_rgb(
    source: Path | BinaryIO | Image.Image, name: str, background: str = "white"
) -> Image.Image:
    """The image as 8-bit RGB, upright, and before a background if it has holes; 16-bit grey is
    scaled. `InputError` calls one that is damaged, deeper or too large by its `name`."""
    with _opened(source, name) as image:
        if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):  # there of 16 bits
            allowed = f"at most 16 bits per channel, not Pillow's mode {image.mode}"
            raise invalid("image", name, allowed)
        is_upright = image.getexif().get(ORIENTATION, 1) == 1
        upright = image if is_upright else ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            wide = np.asarray(upright, np.float32)
            grey = np.rint(wide / 257).astype(np.uint8)
            holes = wide == image.info.get("transparency", -1)
            pair = np.stack([grey, np.where(holes, 0, 255).astype(np.uint8)], 2)
            upright = Image.fromarray(pair if holes.any() else grey)
        if upright.has_transparency_data:
            opaque = Image.new("RGBA", upright.size, background)
            upright = Image.alpha_composite(opaque, upright.convert("RGBA"))
        return upright.convert("RGB")


def image_size(path: Path) -> tuple[int, int]:
    """`(height, width)` of the upright image, from the header of its file."""
    with _opened(path, str(path)) as image:
        # Of TIFF, Pillow tells the size as turned.
        lies = image.format != "TIFF" and image.getexif().get(ORIENTATION) in LYING
        return (image.width, image.height) if lies else (image.height, image.width)


@contextmanager
def _opened(source: Path | BinaryIO | Image.Image, name: str) -> Iterator[Image.Image]:
    try:
        if isinstance(source, Image.Image):
            yield source
        else:
            with Image.open(source, formats=FORMATS) as image:
                yield image
    except InputError:
        raise
    # Pillow's decoders raise nearly every exception there is on damaged input.
    except Exception as error:
        reason = "unknown format" if isinstance(error, Image.UnidentifiedImageError) else error
        raise invalid("image", name, f"a whole, readable image ({reason})") from None


def fitted(image: Image.Image, height: int, width: int) -> np.ndarray:
    """uint8 `[3, height, width]`: the image scaled to just cover that, its centre cut out."""
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), method=Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array in an idx file, plain or gzipped.

    The format: two zero bytes, the type (8 is uint8), the number of dimensions, their sizes as
    big-endian 32-bit integers, the data in C order. No more is read than the header says.
    """

    def refused(allowed: str) -> InputError:
        return invalid("data file", str(path), allowed)

    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as stream:
            header = stream.read(4 + 4 * dimensions)
            if header[:4] != bytes([0, 0, 8, dimensions]) or len(header) < 4 + 4 * dimensions:
                raise refused(f"an idx file of bytes in {dimensions} dimensions")
            shape = struct.unpack(f">{dimensions}I", header[4:])
            size = math.prod(shape)
            if size > LARGEST:
                raise refused(f"an idx file of at most {LARGEST:,} bytes, not {size:,}")
            content = stream.read(size)
            found = len(content) + len(stream.read(1))
    except (OSError, EOFError, zlib.error) as error:
        raise refused(f"a whole gzip file ({error})") from None
    if found != size:
        found = "more" if found > size else found
        raise refused(f"an idx file with {size} bytes for its shape {list(shape)}, not {found}")
    return np.frombuffer(content, np.uint8).reshape(shape)


class _Made:
    """Stands for an array or a type: what a pickle makes it of, and nothing is done with that."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def pixels(self) -> np.ndarray:
        """The array, which has to be of uint8."""
        _, shape, kind, fortran, content = self.state
        if not isinstance(kind, _Made) or kind.arguments[0] not in (b"u1", "u1"):
            raise pickle.UnpicklingError("an array of something else than uint8")
        return np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for each name that a pickled array needs; all else has no name to look up."""
        allowed = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
        if module not in allowed or name not in ("dtype", "ndarray", "_reconstruct"):
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        # Made anew for each pickle, which can give a function attributes, and nothing more.
        return lambda *arguments: _Made(*arguments)


def unpickle(content: bytes, name: str) -> dict[Any, Any]:
    """A dictionary of plain values and uint8 arrays from a pickle; Python 2's `str` as bytes.

    name: what to call it in the `InputError` for a pickle that is damaged, no dictionary, or asks
        for any other function or class. Nothing it names is imported or called.
    """
    try:
        value = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        if isinstance(value, dict):
            return {k: v.pixels() if isinstance(v, _Made) else v for k, v in value.items()}
    # A damaged pickle can fail in any way that the making of arrays and values can.
    except Exception as error:
        allowed = f"a whole pickle of nothing but uint8 arrays ({error})"
        raise invalid("data file", name, allowed) from None
    raise invalid("data file", name, f"a pickled dictionary, not {type(value).__name__}")


def read_archive(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The members of a `.tar.gz` with these base names, read without unpacking to the disk."""
    contents: dict[str, bytes] = {}
    try:
        with gzip.open(path) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    base = member.name.rpartition("/")[2]
                    if member.isfile() and base in names:
                        if member.size > LARGEST:
                            raise tarfile.TarError(f"{base} has {member.size:,} bytes")
                        contents[base] = archive.extractfile(member).read()  # type: ignore
            while stream.read(1 << 20):
                pass  # gzip's checksum comes at the end, after tar's last block
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise invalid("data file", str(path), f"a whole .tar.gz archive ({error})") from None
    missing = [name for name in names if name not in contents]
    if missing:
        raise invalid("data file", str(path), f"an archive that holds {', '.join(missing)}")
    return contents


def fetch(url: str, target: Path, *, sha256: str, progress: bool = True) -> Path:
    """Download `url` to `target`, unless it is there already, and return `target`.

    A server that fails is asked twice more. `target` is whole and has its checksum, or is absent.
    Processes that fetch the same file wait for each other.

    Raises `InputError` if the content has another checksum or the folder can't be written, and
    `RunError` if the server can't be reached or breaks off.
    """
    pooch.get_logger().setLevel("WARNING")
    show = progress and sys.stderr.isatty()
    downloader: Any = pooch.HTTPDownloader(progressbar=show, timeout=30)
    registry, urls = {target.name: sha256}, {target.name: url}
    source = pooch.create(target.parent, "", registry=registry, urls=urls, retry_if_failed=2)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            source.fetch(target.name, downloader=downloader)
    except RequestException as error:
        raise RunError(f"download of {url} failed: {error}") from None
    except ValueError as error:
        raise InputError(
            f"{url}: SHA-256 of the download is wrong, allowed: {sha256};"
            f" the partial file was removed ({error})"
        ) from None
    except OSError as error:
        allowed = f"a writable folder ({error.strerror or error})"
        raise invalid("download folder", str(target.parent), allowed) from None
    return target
