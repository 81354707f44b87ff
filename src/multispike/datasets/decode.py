"""From image files to uint8 arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from multispike.errors import invalid
from multispike.progress import progress_bar

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
"""What is tried on an image; naming them halves the time that Pillow takes to open a small one."""

DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of more than 8 bits, which its conversion to RGB would clip, not scale."""


def open_rgb(source: Path | BinaryIO, name: str) -> Image.Image:
    """The image as 8-bit RGB, wholly decoded; transparency is dropped.

    name: what to call it in the `InputError` for one that is damaged or has deeper pixels.
    """
    try:
        with Image.open(source, formats=FORMATS) as image:
            if image.mode not in DEEP_MODES:
                if "transparency" in image.info:
                    image = image.convert("RGBA")
                return image.convert("RGB")
    # Pillow's decoders raise nearly every exception there is on damaged input.
    except Exception as error:
        reason = "unknown format" if isinstance(error, Image.UnidentifiedImageError) else error
        raise invalid("image", name, f"a whole, readable image ({reason})") from None
    raise invalid("image", name, f"at most 8 bits per channel, not Pillow's mode {image.mode}")


def image_size(path: Path) -> tuple[int, int]:
    """`(height, width)` from the header of an image file."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.height, image.width
    except Exception as error:  # as in open_rgb
        reason = "unknown format" if isinstance(error, Image.UnidentifiedImageError) else error
        raise invalid("image", str(path), f"a whole, readable image ({reason})") from None


def fitted(image: Image.Image, height: int, width: int) -> np.ndarray:
    """The image scaled until it just covers `height` x `width`, its centre cut out.

    Returns uint8 `[3, height, width]`.
    """
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), method=Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)


def in_threads(
    work: Callable[[slice], None], count: int, *, piece: int, title: str, progress: bool
) -> None:
    """Call `work` for slices of `range(count)`, `piece` long, one thread per core, under a bar.

    The first failure in the order of the slices is raised; slices not begun are dropped.
    """
    pieces = [slice(start, min(start + piece, count)) for start in range(0, count, piece)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with progress_bar(progress) as bar, ThreadPoolExecutor(cores) as pool:
        task = bar.add_task(title, total=count)
        futures = [pool.submit(work, part) for part in pieces]
        try:
            for future, part in zip(futures, pieces, strict=True):
                future.result()
                bar.advance(task, part.stop - part.start)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def channel_statistics(images: np.ndarray) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of each channel, in units of 255.

    images: uint8 `[n, C, H, W]`. Computed exactly, from how often each value occurs. The
    deviation of a channel that never varies is given as 1, so that one can divide by it.

    >>> channel_statistics(np.array([[[[0, 255]], [[51, 51]]]], np.uint8))
    ([0.5, 0.2], [0.5, 1.0])
    """
    histogram = np.zeros((images.shape[1], 256), dtype=np.int64)
    for start in range(0, len(images), 1024):  # in pieces: the set may not fit in memory
        for channel, counts in enumerate(histogram):
            counts += np.bincount(images[start : start + 1024, channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = histogram @ values / histogram[0].sum()
    squares = (values - mean[:, None]) ** 2
    deviation = np.sqrt((histogram * squares).sum(1) / histogram[0].sum())
    return mean.tolist(), np.where(deviation > 0, deviation, 1.0).tolist()
