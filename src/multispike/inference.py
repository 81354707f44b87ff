"""A trained network as a function of images or recordings: what `load_run` gives."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from multispike.config.types import parse_sensor
from multispike.datasets import source_of
from multispike.datasets.event_sets import LYING
from multispike.datasets.source_files import fitted, open_rgb
from multispike.device import device_for, device_of, moved
from multispike.errors import InputError, invalid
from multispike.events.frames import Binning, event_frames
from multispike.events.read import Recording, read_events
from multispike.export.network import IntegerNetwork
from multispike.export.serialize import load as load_integer
from multispike.models.network import Network
from multispike.models.normalisation import scale_and_offset
from multispike.pretrained import PRETRAINED, find

if TYPE_CHECKING:
    from multispike.training.run import Run

BATCH = 64

ASK_NETWORK = "one trained on a Dataset: how loaders made inputs of images is not known"

Source = str | Path | bytes | Image.Image | np.ndarray
"""An image or a recording: a file's path or content, an image of Pillow's, or an array: uint8
[H, W] or [H, W, 3] of an image, uint8 [T, C, H, W] of event frames."""


@dataclass(frozen=True)
class Prediction:
    """Classes with their probabilities, the most likely first."""

    top: tuple[tuple[str, float], ...]

    @property
    def name(self) -> str:
        return self.top[0][0]

    @property
    def confidence(self) -> float:
        return self.top[0][1]


@dataclass(frozen=True)
class Trained:
    """A trained network, and all that it takes to ask it.

    Attributes:
        network: from what `preprocess` gives, stacked, to logits [B, classes]; or an integer one.
        input_shape: (C, H, W) of an image or a timestep.
        mean, std: of the training's pixels, a value a channel; none of loaders of torch.
        events: whether it takes event frames.
        run: as `multispike.training.load_run` reads it; None of an integer network.
    """

    network: Network | IntegerNetwork
    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    events: bool
    run: Run | None = None

    @property
    def frames_shape(self) -> tuple[int, int, int, int]:
        """(T, 2K, H, W) of event frames."""
        return (self.network.timesteps, *self.input_shape)

    @property
    def by(self) -> Binning:
        """How events are divided into the T·K bins."""
        return (self.run and self.run.config.by) or "time"

    def preprocess(self, source: Source, sensor: str | None = None) -> Tensor:
        """One sample as the network takes it: an image scaled to cover the frame, its centre cut
        out; a recording counted into frames, whole.

        Args:
            sensor: WIDTHxHEIGHT in pixels, of a recording that doesn't tell it.

        Returns:
            float32 [C, H, W], or [T, C, H, W] of events; uint8 for an integer network.

        Raises:
            InputError: for what can't be read, or has another shape.
        """
        return self.normalised(self.pixels(source, sensor))

    def pixels(self, source: Source, sensor: str | None = None) -> np.ndarray:
        """The same before it is normalised, uint8 in C order: what exported programs read."""
        pixels = self._frames(source, sensor) if self.events else self._image(source)
        return np.array(pixels, order="C")

    def normalised(self, pixels: np.ndarray) -> Tensor:
        """Pixels or counts as the network takes them."""
        sample = torch.from_numpy(pixels)
        if isinstance(self.network, IntegerNetwork):
            return sample
        if not self.mean:
            raise invalid("run", str(self.run and self.run.folder), ASK_NETWORK)
        scale, offset = self._scaling
        return torch.addcmul(offset, sample.float(), scale)

    @cached_property
    def _scaling(self) -> tuple[Tensor, Tensor]:
        return scale_and_offset(self.mean, self.std)

    def predict(self, sources: Source | Iterable[Source], top: int = 1) -> list[Prediction]:
        """The `top` most likely classes of each; the network runs where it is."""
        single = isinstance(sources, (str, Path, bytes, Image.Image, np.ndarray))
        samples = [self.preprocess(one) for one in ([sources] if single else sources)]
        return self.classify(samples, top)

    @torch.inference_mode()
    def classify(self, samples: Sequence[Tensor], top: int = 1) -> list[Prediction]:
        """The same of samples that `preprocess` gave."""
        found = []
        for start in range(0, len(samples), BATCH):
            batch = torch.stack(list(samples[start : start + BATCH]), 1 if self.events else 0)
            odds = self._logits(batch).double().softmax(1)
            values, indices = odds.topk(min(top, len(self.classes)))
            for row, places in zip(values.tolist(), indices.tolist(), strict=True):
                names = [self.classes[place] for place in places]
                found.append(Prediction(tuple(zip(names, row, strict=True))))
        return found

    @torch.inference_mode()
    def probabilities(self, frames: np.ndarray) -> np.ndarray:
        """Of the classes, float32 [classes], for event frames uint8 [T, 2K, H, W]."""
        return self._logits(self.normalised(frames).unsqueeze(1))[0].float().softmax(0).numpy()

    def _logits(self, batch: Tensor) -> Tensor:
        """Of inputs [B, C, H, W], or [T, B, C, H, W] of events; on the CPU."""
        if isinstance(self.network, IntegerNetwork):
            integers = self.network.forward(batch.numpy())
            return torch.from_numpy(integers) * self.network.logit_scale
        frames = moved(batch, device_of(self.network)).flatten(0, -4)
        laid_out = frames.to(memory_format=torch.channels_last)
        logits = self.network(laid_out.unflatten(0, batch.shape[:-3])).cpu()
        if not bool(logits.isfinite().all()):
            raise invalid("run", str(self.run and self.run.folder), "one that gives finite numbers")
        return logits

    def _image(self, source: Source) -> np.ndarray:
        channels, height, width = self.input_shape
        name = "bytes" if isinstance(source, bytes) else str(source)
        if isinstance(source, np.ndarray):
            name = f"an array {source.dtype} {list(source.shape)}"
            is_image = source.ndim == 2 or source.shape[2:] == (3,)
            if source.dtype != np.uint8 or not is_image or not source.size:
                raise invalid("image", name, "uint8 [H, W] or [H, W, 3]")
            source = Image.fromarray(source)
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        image = open_rgb(Path(file) if isinstance(file, str) else file, name)
        grey = image.convert("L") if channels == 1 else image
        return fitted(grey.convert("RGB"), height, width)[:channels]

    def _frames(self, source: Source, sensor: str | None) -> np.ndarray:
        timesteps, channels, height, width = self.frames_shape
        if isinstance(source, np.ndarray):
            if source.dtype != np.uint8 or source.shape != self.frames_shape:
                given = f"an array {source.dtype} {list(source.shape)}"
                raise invalid("frames", given, f"uint8 {list(self.frames_shape)}")
            return source
        if isinstance(source, Image.Image):
            raise invalid("image", "an image", "a recording, since the network takes events")
        recording = self.open(io.BytesIO(source) if isinstance(source, bytes) else source, sensor)
        return event_frames(
            recording.whole(), recording.known_sensor(), timesteps=timesteps, bins=channels // 2,
            size=(height, width), by=self.by,
        )  # fmt: skip

    def open(self, source: str | Path | BinaryIO, sensor: str | None = None) -> Recording:
        """A recording as this network's were read: of sets whose camera lay, set upright."""
        return read_events(
            source,
            sensor=parse_sensor(sensor) if sensor else None,
            lying=LYING.get(self.run.data["name"], ()) if self.run else (),
        )


def load_run(
    run: str | Path,
    checkpoint: str = "last.ckpt",
    device: str | torch.device = "cpu",
    model: nn.Module | None = None,
) -> Trained:
    """A trained network by its run folder, its checkpoint, or a name of `multispike pretrained`.

    Args:
        checkpoint: "last.ckpt" or "best.ckpt", of a folder.
        device: where the network goes, unless it is an integer one: auto, cpu, gpu, mps, or any of
            torch's.
        model: a module like the one that `multispike.fit` trained, which gets the run's weights,
            where the run can't make it again.

    Raises:
        InputError: if there is none, or it is damaged; for a device that is not there.
    """
    there = device_for(device, "device")
    path = find(str(run))
    if path.suffix == ".npz":
        network = load_integer(path)
        row = PRETRAINED.get(str(run))
        classes = row.classes.split() if row else network.class_names
        return Trained(network, tuple(classes), network.input_shape, (), (), network.events)
    if not path.exists():
        allowed = ", ".join(("a run folder", "a .ckpt file", *PRETRAINED))
        raise InputError(f"run: got {str(run)!r}, allowed: {allowed}")
    from multispike.training.run import load_run as read  # with Lightning, which takes its time

    found = read(path, checkpoint, there, model)
    data = found.data
    return Trained(
        network=found.network.to(memory_format=torch.channels_last),  # pyright: ignore[reportCallIssue]
        classes=tuple(map(str, data["classes"])),
        input_shape=tuple(data["input_shape"]),  # pyright: ignore[reportArgumentType]
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        events=data["events"] if "events" in data else source_of(data["name"]).events,
        run=found,
    )
