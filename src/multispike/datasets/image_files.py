"""Files of images and arrays, read so that a damaged or hostile one costs one line."""

from __future__ import annotations

import gzip
import io
import math
import pickle
import struct
import sys
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pooch
from filelock import FileLock
from PIL import Image, ImageOps
from requests import RequestException

from multispike.errors import InputError, RunError, invalid

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
"""What is tried on an image; naming them halves the time that Pillow takes to open a small one."""

DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of more than 8 bits, which its conversion to RGB would clip, not scale."""


def open_rgb(source: Path | BinaryIO, name: str) -> Image.Image:
    """The image as 8-bit RGB, wholly decoded; transparency is dropped.

    name: what to call it in the `InputError` for one that is damaged or has deeper pixels.
    """
    with _opened(source, name) as image:
        if image.mode in DEEP_MODES:
            allowed = f"at most 8 bits per channel, not Pillow's mode {image.mode}"
            raise invalid("image", name, allowed)
        if "transparency" in image.info:
            image = image.convert("RGBA")
        return image.convert("RGB")


def image_size(path: Path) -> tuple[int, int]:
    """`(height, width)` from the header of an image file."""
    with _opened(path, str(path)) as image:
        return image.height, image.width


@contextmanager
def _opened(source: Path | BinaryIO, name: str) -> Iterator[Image.Image]:
    try:
        with Image.open(source, formats=FORMATS) as image:
            yield image
    except InputError:
        raise
    # Pillow's decoders raise nearly every exception there is on damaged input.
    except Exception as error:
        reason = "unknown format" if isinstance(error, Image.UnidentifiedImageError) else error
        raise invalid("image", name, f"a whole, readable image ({reason})") from None


def fitted(image: Image.Image, height: int, width: int) -> np.ndarray:
    """The image scaled until it just covers `height` x `width`, its centre cut out.

    Returns uint8 `[3, height, width]`.
    """
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), method=Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)


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


class _Type:
    """Stands for a type of numbers; its name is all that is looked at."""

    def __init__(self, name: object) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment, which bytes don't have."""


class _Array:
    """Stands for an array, which comes out as the bytes it is: uint8, of a shape."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, content = state
        if not isinstance(kind, _Type) or kind.name not in (b"u1", "u1"):
            raise pickle.UnpicklingError("an array of something else than uint8")
        flat = np.frombuffer(content, np.uint8)
        self.values = flat.reshape(shape, order="F" if fortran else "C")


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for each name that a pickled array needs: no part of numpy.

        Numbers, strings, lists and dictionaries have no name to look up.
        """
        # Made anew for each pickle, which can give a function attributes, and nothing more.
        if (module, name) == ("numpy", "dtype"):
            return lambda kind, *_: _Type(kind)
        if (module, name) == ("numpy", "ndarray"):
            return None  # what `_reconstruct` is to make; it makes nothing else
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return lambda *_: _Array()
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def unpickle(content: bytes, name: str) -> dict[Any, Any]:
    """A dictionary of plain values and uint8 arrays from a pickle; Python 2's `str` as bytes.

    name: what to call it in the `InputError` for a pickle that is damaged, no dictionary, or asks
        for any other function or class. Nothing it names is imported or called.
    """
    try:
        value = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        if isinstance(value, dict):
            return {
                key: each.values if isinstance(each, _Array) else each
                for key, each in value.items()
            }
    # A damaged pickle can fail in any way that the making of arrays and values can.
    except Exception as error:
        raise invalid(
            "data file", name, f"a whole pickle of nothing but uint8 arrays ({error})"
        ) from None
    raise invalid("data file", name, f"a pickled dictionary, not {type(value).__name__}")


def read_archive(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The members of a `.tar.gz` with these base names, read without unpacking to the disk."""
    contents: dict[str, bytes] = {}
    try:
        with gzip.open(path) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    base = member.name.rsplit("/", 1)[-1]
                    if member.isfile() and base in names:
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

    sha256: hexadecimal SHA-256 of the whole file.

    Raises `InputError` if the content has another checksum or the folder can't be written, and
    `RunError` if the server can't be reached or breaks off.
    """
    pooch.get_logger().setLevel("WARNING")
    show = progress and sys.stderr.isatty()
    downloader: Any = pooch.HTTPDownloader(progressbar=show, timeout=30)
    source = pooch.create(
        target.parent, "", registry={target.name: sha256}, urls={target.name: url},
        retry_if_failed=2,
    )  # fmt: skip
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
        raise invalid(
            "download folder", str(target.parent), f"a writable folder ({error.strerror or error})"
        ) from None
    return target
