"""`multispike predict`: the classes of images or recordings."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from multispike.config.commands import PredictConfig
from multispike.datasets.image_sets import SUFFIXES as IMAGES
from multispike.device import device_for
from multispike.errors import InputError, invalid
from multispike.events.read import SUFFIXES as RECORDINGS
from multispike.files import replacing, write_json
from multispike.inference import BATCH, load_run


def predict(settings: PredictConfig) -> int:
    """Print a line a file, in their order; the exit code is 2 if one of them could not be read."""
    run = load_run(settings.run, settings.checkpoint, device_for(settings.accelerator))
    paths = list(files_of(settings.files, RECORDINGS if run.events else IMAGES))
    written: list[dict[str, Any]] = []
    unread = 0
    raw: list[bytes] = []
    for start in range(0, len(paths), BATCH):
        samples: dict[str, Tensor] = {}
        for path in paths[start : start + BATCH]:
            try:
                source = sys.stdin.buffer.read() if path == "-" else path
                pixels = run.pixels(source, settings.sensor)
                samples[path] = run.normalised(pixels)
                raw.append(pixels.tobytes() if settings.as_input else b"")
            except InputError as error:
                print(f"multispike: {error}", file=sys.stderr)
                unread += 1
        found = run.classify(list(samples.values()), settings.top)
        for path, prediction in zip(samples, found, strict=True):
            top = [{"class": name, "probability": round(p, 6)} for name, p in prediction.top]
            written.append({"file": path, **top[0], "top": top})
            if settings.json != "-":
                print(path, *(f"{name} {p:.4f}" for name, p in prediction.top), sep="  ")
    if settings.as_input:
        with replacing(settings.as_input) as temporary:
            temporary.write_bytes(b"".join(raw))
    if settings.json:
        write_json(settings.json, written)
    return 2 if unread else 0


def files_of(given: list[str], suffixes: tuple[str, ...]) -> Iterator[str]:
    """Files as they are, and of folders what a network may take, in the order of the names."""
    for path in dict.fromkeys(given):
        if not Path(path).is_dir():
            yield path
            continue
        inside = sorted(p for p in Path(path).rglob("*") if p.suffix.lower() in suffixes)
        if not inside:
            kinds = "/".join(suffix[1:] for suffix in suffixes)
            raise invalid("files", path, f"a folder with {kinds} files")
        yield from map(str, inside)
