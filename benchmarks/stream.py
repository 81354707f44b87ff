"""How fast events become frames, how late classes are known, and how much memory a stream takes.

    python benchmarks/stream.py [--threads 2] [--seconds 30] [--gigabytes 1] [--data-dir CIFAR10]
                                [--parts frames,latency,memory,emulator] [--out results/stream.json]

Parts that are not measured are kept as the file has them. Where other programs take turns on the
processor, `chrt -f 20` before the command gives it the right of way, and the file says so.

All recordings are made here: events anywhere on 640x480 pixels, ON and OFF, `RATE` a second. The
network is a fastnet of N = 4 at T = 1 for frames of 64x64, with random weights and the batch
statistics of such frames, so that its activity is not trivial. Slices are windows of 10 ms.

frames: events a second of process time from a file to frames, without the network.
latency: `--realtime` for --seconds of recording, as a camera would send it, so that reading goes
    on beside the inference. For its definition see `multispike.events.stream`.
memory: a file of --gigabytes, as fast as it goes; largest resident size, less what it was before
    the file was opened.
emulator: images of CIFAR-10 a second that become frames of 64x64, in --threads threads; and how
    many events an image gives at 128x128, the size of CIFAR10-DVS.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tools import resident_mb

from multispike.commands.stream import frame_classifier
from multispike.datasets import load_dataset
from multispike.environment import environment
from multispike.events.emulator import emulate_frames
from multispike.events.frames import event_frames, slices
from multispike.events.read import EVENT, read_events
from multispike.events.stream import classify_stream
from multispike.files import write_json
from multispike.inference import Trained
from multispike.models import create_model

SENSOR = (640, 480)
SIZE = 64
WINDOW_US = 10_000
RATE = 2_000_000
PIECE = 16
HEADER = b"% evt 2.0\n% geometry 640x480\n% end\n"


def made(count: int, seed: int = 0) -> np.ndarray:
    """Events at random places, evenly spread over time."""
    rng = np.random.default_rng(seed)
    events = np.empty(count, EVENT)
    events["t"] = np.arange(count) * 1_000_000 // RATE
    for name, values in (("x", SENSOR[0]), ("y", SENSOR[1]), ("p", 2)):
        events[name] = rng.integers(0, values, count)
    return events


def evt2_words(events: np.ndarray) -> np.ndarray:
    """The words of EVT2, uint32: one of the time wherever its upper 28 bits have changed."""
    high = events["t"] >> 6
    new = np.flatnonzero(np.diff(high, prepend=-1))
    words = (
        events["p"].astype(np.uint32) << 28
        | (events["t"] & 63).astype(np.uint32) << 22
        | events["x"].astype(np.uint32) << 11
        | events["y"].astype(np.uint32)
    )
    return np.insert(words, new, (8 << 28 | high[new]).astype(np.uint32)).astype("<u4")


def evt3_words(events: np.ndarray) -> np.ndarray:
    """The words of EVT3, uint16: time above and below 12 bits, row, column with polarity."""
    words = np.empty((len(events), 4), "<u2")
    words[:, 0] = 0x8000 | events["t"] >> 12 & 0xFFF
    words[:, 1] = 0x6000 | events["t"] & 0xFFF
    words[:, 2] = events["y"]
    words[:, 3] = 0x2000 | events["p"].astype(int) << 11 | events["x"]
    return words


def write_evt3(path: Path, events: np.ndarray) -> None:
    header = b"% evt 3.0\n% format EVT3;height=480;width=640\n% end\n"
    path.write_bytes(header + evt3_words(events).tobytes())


def write_evt2(path: Path, events: np.ndarray) -> None:
    path.write_bytes(HEADER + evt2_words(events).tobytes())


def write_npy(path: Path, events: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.save(file, events)


def write_large(path: Path, size: int) -> None:
    """An EVT2 file of about `size` bytes whose time goes on throughout; a second at a time."""
    events = made(RATE)
    with open(path, "wb") as file:
        file.write(HEADER)
        while file.tell() < size:
            file.write(evt2_words(events).tobytes())
            events["t"] += 1_000_000


def fastnet_run() -> Trained:
    """A run as if trained: fastnet for two channels of 64x64."""
    torch.manual_seed(0)
    network = create_model("fastnet", in_channels=2, levels=4, timesteps=1)
    events = made(8 * RATE * WINDOW_US // 1_000_000, seed=1)
    frames = [
        event_frames(part.events, SENSOR, size=SIZE)
        for part in slices([events], window_us=WINDOW_US)
    ]
    counts = torch.from_numpy(np.stack(frames)).float()
    scale = float(counts.square().mean().sqrt())
    with torch.no_grad():
        for _ in range(3):
            network.train()((counts / scale).transpose(0, 1))
    network.eval().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    classes, std = tuple(map(str, range(10))), (scale / 255,) * 2
    return Trained(network, classes, (2, SIZE, SIZE), (0.0, 0.0), std, True)


def measure_frames(folder: Path, seconds: float) -> dict[str, float]:
    """Events a second of process time by format, the best of three."""
    events = made(int(RATE * min(seconds, 5)))
    writers: dict[str, tuple[str, Callable[[Path, np.ndarray], None]]] = {
        "EVT2": ("a.raw", write_evt2),
        "EVT3": ("b.raw", write_evt3),
        "npy": ("c.npy", write_npy),
    }
    speed = {}
    for name, (file, write) in writers.items():
        write(folder / file, events)
        rounds = []
        for _ in range(3):
            began = time.process_time()
            for part in slices(read_events(folder / file, sensor=SENSOR), window_us=WINDOW_US):
                event_frames(part.events, SENSOR, size=SIZE)
            rounds.append(time.process_time() - began)
        speed[name] = len(events) / min(rounds)
        (folder / file).unlink()
    return speed


def measure_latency(folder: Path, seconds: float) -> dict[str, Any]:
    """The summary of a stream in real time that shows nothing."""
    path = folder / "latency.raw"
    write_large(path, int(seconds * evt2_words(made(RATE)).nbytes))
    summary, _ = stream_made(path, realtime=True)
    path.unlink()
    return summary


def stream_made(path: Path, realtime: bool = False) -> tuple[dict[str, Any], float]:
    """Classify a file; its summary, and the MB that this took in memory beyond what there was."""
    classifier = frame_classifier(fastnet_run())
    start = resident_mb("VmRSS")
    recording = read_events(path)
    summary = classify_stream(classifier, recording, realtime, window_us=WINDOW_US)
    return asdict(summary), resident_mb("VmHWM") - start


def measure_memory(folder: Path, gigabytes: float, threads: int) -> dict[str, Any]:
    """A file classified as fast as it can be, by a process that does nothing else."""
    path = folder / "large.raw"
    write_large(path, int(gigabytes * 1e9))
    with ProcessPoolExecutor(
        1, get_context("spawn"), initializer=torch.set_num_threads, initargs=(threads,)
    ) as fresh:
        summary, above = fresh.submit(stream_made, path).result()
    return {"file_mb": path.stat().st_size / 1e6, "above_start_mb": above, "summary": summary}


def measure_emulator(data_dir: str, threads: int, images: int = 1000) -> dict[str, Any]:
    """Images a second by number of timesteps, the best of three; events of the first 200."""
    data = load_dataset("cifar10", data_dir, limit_train=images).train.inputs.numpy()
    speed = {}
    for timesteps in (1, 10):
        rounds = []
        for _ in range(3):
            began = time.perf_counter()
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(partial(emulate_piece, data, timesteps), range(0, images, PIECE)))
            rounds.append(time.perf_counter() - began)
        speed[f"T={timesteps}"] = images / min(rounds)
    frames = emulate_frames(data[:200], range(200), size=128, timesteps=1).astype(int)
    events, on = frames.sum((1, 2, 3, 4)), frames[:, :, 1].sum((1, 2, 3))
    return {
        "images_per_second": speed,
        "events_at_128": {
            "images": len(events),
            "mean": float(events.mean()),
            "deviation": float(events.std()),
            "on_share": float((on / events).mean()),
        },
    }


def emulate_piece(images: np.ndarray, timesteps: int, start: int) -> None:
    """Frames of the images from `start` on, as many at a time as a data set takes."""
    piece = images[start : start + PIECE]
    emulate_frames(piece, range(start, start + len(piece)), size=SIZE, timesteps=timesteps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--data-dir", help="folder of CIFAR-10, for the emulator")
    parser.add_argument("--parts", default="frames,latency,memory")
    parser.add_argument("--out", default="results/stream.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    parts = arguments.parts.split(",")
    out = Path(arguments.out)
    result: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"promises": {}}
    result |= {"rate": RATE, "sensor": SENSOR, "frame": SIZE, "window_us": WINDOW_US}

    def store(part: str, measured: Any, promise: str, value: float, kind: str, limit: float):
        kept = value >= limit if kind == ">=" else value < limit
        waits = os.sched_getscheduler(0) == os.SCHED_OTHER
        machine = environment() | {"scheduler": "other" if waits else "real time"}
        result[part] = {"environment": machine, "measured": measured}
        result["promises"][promise] = [value, kind, limit, kept]

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if "frames" in parts:
            speed = measure_frames(folder, arguments.seconds)
            slowest = min(speed.values())
            store("frames", speed, "events/s from file to frame", slowest, ">=", 2e6)
        if "latency" in parts:
            summary = measure_latency(folder, arguments.seconds)
            p99 = summary["latency_ms"]["p99"]
            store("latency", summary, "p99 latency in ms", p99, "<", 10)
        if "memory" in parts:
            memory = measure_memory(folder, arguments.gigabytes, arguments.threads)
            store("memory", memory, "MB above start", memory["above_start_mb"], "<", 300)
        if "emulator" in parts:
            emulator = measure_emulator(arguments.data_dir, arguments.threads)
            slowest = min(emulator["images_per_second"].values())
            store("emulator", emulator, "emulated images/s", slowest, ">=", 200)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
