"""The sections about speed: training, memory, streaming."""

from __future__ import annotations

import statistics
from typing import Any

from page.markdown import bullets, source, table, verdict, whole


def speed(content: dict[str, Any], file: str) -> list[str]:
    """`benchmarks/speed.py`: ratios promised, then all cases."""
    environment = content["environment"]
    repeats = sorted({case["n"] for case in content["cases"].values()})
    peers = "with our allocator setting" if environment.get("tuned_peers") else "as installed"
    remarks = [
        f"n = {' and '.join(map(str, repeats))} repetitions, the cases taking turns",
        f"other libraries {peers}",
    ]
    command = "`, `".join(dict.fromkeys(content["commands"].values()))
    return [
        "Time (memory, peak of tensors) of a case over that of its reference, median of the"
        " repetitions with quartiles:",
        table(
            ["case", "reference", "ratio", "quartiles", "fastest", "aim: at most", "holds"],
            [
                [
                    row["case"],
                    row["reference"],
                    f"{row['median']:.3f}",
                    f"{row['low']:.3f} to {row['high']:.3f}",
                    f"{row['fastest']:.3f}",
                    f"{row['limit']:.3f}",
                    "yes" if row["holds"] else "**no**",
                ]
                for row in content["ratios"]
            ],
        ),
        *_relu_step(content["cases"]),
        "All cases:",
        table(
            ["case", "median", "fastest", "images/s"],
            [
                [
                    name,
                    f"{case['ms']:.2f} ms" if "ms" in case else f"{case['MiB']:.0f} MiB",
                    f"{case['fastest_ms']:.2f} ms" if "fastest_ms" in case else "-",
                    f"{case['images_per_second']:.0f}" if "images_per_second" in case else "-",
                ]
                for name, case in content["cases"].items()
            ],
        ),
        source(file, command, remarks, environment),
    ]


def _relu_step(cases: dict[str, Any]) -> list[str]:
    """What a network without spiking neurons reaches against the peer's training step."""
    relu, peer = (
        cases.get(f"training/{name}") for name in ("vgg11 relu", "spikingjelly vgg11 T=4")
    )
    if relu is None or peer is None:
        return []
    return [
        "Without spiking neurons, the ReLU vgg11's training step takes"
        f" {relu['ms'] / peer['ms']:.3f} times that of SpikingJelly at T=4."
    ]


def waiting(content: dict[str, Any], file: str) -> list[str]:
    """`benchmarks/waiting.py`: what threads save that wait briefly for each other."""
    rows = [
        [
            row["work"],
            str(row["busy"]),
            *(f"{1000 * row[setting]:,.1f}" for setting in ("default", "briefly")),
            "{median:.3f} ({min:.3f} to {max:.3f})".format(**row["ratio"]),
        ]
        for row in content["rows"]
    ]
    return [
        "Threads that wait for each other sleep soon ([speed.md](speed.md#busy-cores)), alone and"
        " beside processes that keep the cores busy:",
        table(["work", "other processes", "ms by default", "ms", "ratio"], rows),
        source(
            file,
            content["command"],
            [f"n = {content['n']} pairs of processes"],
            content["environment"],
        ),
    ]


def allocator(content: dict[str, Any], file: str) -> list[str]:
    """`benchmarks/allocator.py`: what memory that is kept saves."""
    rows = []
    for name, row in content["work"].items():
        seconds, peak = row["seconds_ratio"], row["peak_mb_ratio"]
        rows.append(
            [
                name,
                f"{row['default']['seconds']:.3f}",
                f"{row['kept']['seconds']:.3f}",
                f"{seconds['median']:.2f} ({seconds['min']:.2f} to {seconds['max']:.2f})",
                f"{whole(row['default']['page_faults'])} / {whole(row['kept']['page_faults'])}",
                f"{peak['median']:.2f}",
            ]
        )
    return [
        "Memory that tensors free is kept for the next batch ([speed.md](speed.md#allocator)); of"
        " each batch:",
        table(
            ["work", "s by default", "s kept", "ratio", "page faults", "peak memory, ratio"], rows
        ),
        source(
            file,
            content["command"],
            [f"n = {content['n']} pairs of processes"],
            content["environment"],
        ),
    ]


def loading(content: dict[str, Any], file: str) -> list[str]:
    """`benchmarks/data.py`: what images cost beside the training step."""
    cached = statistics.median(content["cached_load_seconds"])
    return [
        f"CIFAR-10 is read in {content['first_load_seconds']:.1f} s the first time and in"
        f" {cached:.2f} s from the cache; a batch takes {content['batch_ms']['median']:.1f} ms,"
        f" {100 * content['share_of_step']:.1f} % of the step that trains on it.",
        source(file, content["command"], [f"n = {content['n']} batches"], content["environment"]),
    ]


def streaming(content: dict[str, Any], file: str) -> list[str]:
    """`benchmarks/stream.py`: what a camera's user waits for, part by part."""
    names = [name for name in ("frames", "latency", "memory", "emulator") if name in content]
    parts = {name: content[name]["measured"] for name in names}
    blocks = []
    if "frames" in parts:
        rates = [[name, f"{rate / 1e6:.1f}"] for name, rate in parts["frames"].items()]
        blocks.append(table(["format", "million events/s of process time"], rates))
    streams = {
        "at the camera's pace": ("latency", parts.get("latency")),
        "a file, as fast as it goes": ("memory", parts.get("memory", {}).get("summary")),
    }
    measured = {name: stream for name, stream in streams.items() if stream[1]}
    if measured:
        columns = ["latency of a slice, ms", "p50", "p95", "p99", "max", "threads", "events/s",
                   "dropped"]  # fmt: skip
        rows = [
            [
                name,
                *(f"{summary['latency_ms'][column]:.2f}" for column in columns[1:5]),
                str(content[part]["environment"]["threads"]),
                whole(summary["events_per_second"]),
                f"{summary['slices_dropped']} of {whole(summary['slices'])}",
            ]
            for name, (part, summary) in measured.items()
        ]
        blocks.append(table(columns, rows))
    if "emulator" in parts:
        rates = parts["emulator"]["images_per_second"]
        rows = [[name, f"{rate:.0f}"] for name, rate in rates.items()]
        blocks.append(table(["emulated frames of 64x64", "images/s"], rows))
    width, height = content["sensor"]
    remarks = [
        f"made recordings of {content['rate'] / 1e6:g} million events/s on {width}x{height}"
        f" pixels, windows of {content['window_us'] / 1e3:g} ms, frames of"
        f" {content['frame']}x{content['frame']}, fastnet with T=1 N=4",
        "rates are the best of three rounds, latencies those of one run",
    ]
    environments = [content[name]["environment"] for name in parts]
    schedulers = dict.fromkeys(environment["scheduler"] for environment in environments)
    remarks.append(f"scheduler: {' and '.join(schedulers)}")
    promises = [
        verdict(f"{name} {sign} {limit:g}", f"{value:,.4g}", holds)
        for name, (value, sign, limit, holds) in content["promises"].items()
    ]
    return [
        *blocks,
        source(file, _stream_commands(content, names), remarks, *environments),
        bullets(promises),
    ]


def _stream_commands(content: dict[str, Any], parts: list[str]) -> str:
    """As far as the file tells them: one for each number of threads and scheduler."""
    together: dict[tuple[int, str], list[str]] = {}
    for part in parts:
        environment = content[part]["environment"]
        key = (environment["threads"], environment["scheduler"])
        together.setdefault(key, []).append(part)
    commands = []
    for (threads, scheduler), names in together.items():
        command = "chrt -f 20 " if scheduler == "real time" else ""
        command += f"python benchmarks/stream.py --parts {','.join(names)} --threads {threads}"
        if "latency" in names:
            command += f" --seconds {content['latency']['measured']['recording_seconds']:.0f}"
        commands.append(command + " --data-dir DIR" * ("emulator" in names))
    return "`, `".join(commands)
