"""The sections of the benchmarks: speed, streaming, deployment, and the energy model's checks."""

from __future__ import annotations

from typing import Any

from multispike.reproduce.page.markdown import bullets, source, table, verdict, whole


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
        *_bound(content["cases"]),
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


def _bound(cases: dict[str, Any]) -> list[str]:
    """What convolutions alone leave of the lead over the peer's training step."""
    relu, peer = (
        cases.get(f"training/{name}") for name in ("vgg11 relu", "spikingjelly vgg11 T=4")
    )
    if relu is None or peer is None:
        return []
    share = relu["ms"] / peer["ms"]
    return [
        "Convolutions bound the ratios of training steps: the ReLU network's step takes"
        f" {share:.3f} times that of SpikingJelly at T=4, and four of them {4 * share:.3f} times."
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
        "at the camera's pace": parts.get("latency"),
        "a file, as fast as it goes": parts.get("memory", {}).get("summary"),
    }
    measured = {name: summary for name, summary in streams.items() if summary}
    if measured:
        columns = ["latency of a slice, ms", "p50", "p95", "p99", "max", "events/s", "dropped"]
        rows = [
            [
                name,
                *(f"{summary['latency_ms'][column]:.2f}" for column in columns[1:5]),
                whole(summary["events_per_second"]),
                f"{summary['slices_dropped']} of {whole(summary['slices'])}",
            ]
            for name, summary in measured.items()
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
        f" {content['frame']}x{content['frame']}, fastnet with T=1 N=4; n = 1 run",
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
        source(file, "python benchmarks/stream.py", remarks, *environments),
        bullets(promises),
    ]


def exact(content: dict[str, Any], file: str) -> list[str]:
    """`benchmarks/deploy_exact.py`: the same answers everywhere."""
    rows = [
        [
            f"{row['arch']} T={row['timesteps']} N={row['levels']}"
            + (", briefly trained" if row["brief"] else ""),
            whole(row["images"]),
            f"{100 * row['accuracy_float']:.2f}",
            f"{100 * row['accuracy_integer']:.2f}",
            _equal_logits(row.get("c")),
            *(_share(row.get(engine)) for engine in (*_RUNTIMES, "float")),
            *(whole(row["c"][memory]) if row.get("c") else "-" for memory in ("ram", "flash")),
        ]
        for row in content["rows"]
    ]
    return [
        "The integer network against the float one, and the C program, ONNX Runtime and OpenVINO"
        " against the integer network:",
        table(
            ["network", "images", "float %", "integer %", "C", "ONNX Runtime", "OpenVINO",
             "float", "RAM", "flash"],
            rows,
        ),
        "Columns 5 to 8: equal logits of the C program; equal predictions. RAM is the C program's"
        " buffers, flash its weights and tables, in bytes.",
        source(
            file,
            content["command"],
            ["n = the images of each row", "briefly trained networks are there for exactness"],
            content["environment"],
        ),
        bullets(_exactness(content["rows"])),
    ]  # fmt: skip


def _exactness(rows: list[dict[str, Any]]) -> list[str]:
    """The aims over all rows; accuracy counts in networks that were trained for it."""
    trained = [row for row in rows if not row["brief"]]
    lost = [100 * abs(row["accuracy_integer"] - row["accuracy_float"]) for row in trained]
    same = [row[name]["equal_predictions"] for row in rows for name in _RUNTIMES if name in row]
    programs = [row["c"]["equal_logits"] for row in rows if row.get("c")]
    lines = [
        verdict("logits of the C program equal, bit for bit", f"{sum(programs)} of"
                f" {len(programs)} networks", all(programs)),
        verdict("predictions of the runtimes equal on at least 99.9 % of the images",
                f"{100 * min(same):.2f} % in the worst row", min(same) >= 0.999),
    ]  # fmt: skip
    if lost:
        aim = "accuracy of trained networks within 0.3 points of the float ones"
        lines.append(verdict(aim, f"{max(lost):.2f} points at most", max(lost) <= 0.3))
    return lines


_RUNTIMES = ("onnxruntime", "openvino")


def _equal_logits(c: dict[str, Any] | None) -> str:
    if not c:
        return "-"
    return f"all of {c['images']:,}" if c["equal_logits"] else "**not equal**"


def _share(engine: dict[str, Any] | None) -> str:
    return f"{100 * engine['equal_predictions']:.2f} %" if engine else "-"


def engines(content: dict[str, Any], file: str) -> list[str]:
    """`benchmarks/deploy_speed.py`: VGG-16 in the runtimes."""
    cost = content["export"]
    return [
        "VGG-16 in each engine, random weights:",
        table(
            ["engine", "batch", "images/s", "p50 ms", "p99 ms"],
            [
                [
                    row["engine"],
                    str(row["batch"]),
                    f"{row['images_per_second']:,.0f}",
                    f"{row['p50_ms']:.1f}",
                    f"{row['p99_ms']:.1f}",
                ]
                for row in content["rows"]
            ],
        ),
        source(
            file,
            content["command"],
            ["the engines take turns"],
            content["environment"],
        ),
        bullets(
            [
                *(
                    verdict(
                        f"OpenVINO's SNN at least {aim:g} times as fast as"
                        f" {name.removeprefix('to ')}, {batch}",
                        f"{content['openvino SNN'][batch][name]:.2f} times, by median time of a"
                        " call",
                        content["openvino SNN"][batch][name] >= aim,
                    )
                    for batch, name, aim in _ENGINE_AIMS
                ),
                verdict(
                    "exporting VGG-16 as C and ONNX takes less than 60 s and 4 GB",
                    f"{cost['seconds_c_and_onnx']:.1f} s, {cost['peak_gib']:.2f} GiB",
                    cost["seconds_c_and_onnx"] < 60 and cost["peak_gib"] * 2**30 < 4e9,
                ),
            ]
        ),
    ]


_ENGINE_AIMS = (
    ("batch 1", "to torch float32 ANN", 6),
    ("batch 64", "to torch float32 ANN", 4),
    ("batch 1", "to openvino int8 ANN", 0.9),
    ("batch 64", "to openvino int8 ANN", 0.9),
)


def _crossing(density: float | None) -> str:
    return "none" if density is None else f"{density:.2f}"


def instructions(content: dict[str, Any], file: str) -> list[str]:
    """`benchmarks/deploy_callgrind.py`: event-driven against dense C."""
    kinds, environment = content["layers"], content["environment"]
    rows = zip(*(kind["rows"] for kind in kinds.values()), strict=True)
    lines = [
        "Crossing densities: "
        + ", ".join(
            f"{name} {_crossing(kind['crossover_density'])}" for name, kind in kinds.items()
        )
        + "; below them the event-driven program needs fewer instructions."
    ]
    network = content.get("network")
    if network:
        lines.append(
            f"A trained {network['arch']} (T={network['timesteps']}) at its own density of"
            f" {network['density']:.2f}: "
            + ", ".join(f"{name} {network[name]['ratio']:.2f} times" for name in kinds)
            + " the instructions of the dense program, whole inference."
        )
    return [
        "Instructions of the event-driven C convolutions over those of the dense ones:",
        table(
            ["density", *kinds],
            [
                [f"{row[0]['density']:.0%}", *(f"{kind['ratio']:.3f}" for kind in row)]
                for row in rows
            ],
        ),
        source(
            file,
            content["command"],
            [
                "counted by callgrind: exact, no spread",
                *(f"{kind}: cc {' '.join(flags)}" for kind, flags in environment["flags"].items()),
            ],
            environment,
        ),
        bullets(lines),
    ]


def microcontroller(content: dict[str, Any], file: str) -> list[str]:
    """`benchmarks/deploy_arm.py`: the digits networks in 64 KB of RAM."""
    rows = content["rows"]
    largest = max(row["ram_program"] for row in rows)
    equal = all(row["equal_logits"] for row in rows)
    return [
        "On an emulated Cortex-M4, the whole program with newlib's printf and file reading:",
        table(
            ["network", "images", "accuracy %", "RAM", "of it buffers", "flash",
             "of it weights and tables"],
            [
                [
                    f"{row['arch']} T={row['timesteps']} N={row['levels']} on {row['data']}",
                    str(row["images"]),
                    f"{100 * row['accuracy']:.2f}",
                    *(
                        f"{row[name]:,}"
                        for name in (
                            "ram_program", "ram_buffers",
                            "flash_program", "flash_weights_and_tables",
                        )
                    ),
                ]
                for row in rows
            ],
        ),
        source(file, content["command"], ["sizes in bytes"], content["environment"]),
        bullets(
            [
                verdict("logits equal to the integer network's, bit for bit",
                        "all equal" if equal else "not equal", equal),
                verdict("fits into 64 KB of RAM", f"{largest:,} bytes at most",
                        largest <= 64 * 1024),
            ]
        ),
    ]  # fmt: skip


def overhead(content: dict[str, Any], file: str) -> list[str]:
    """`benchmarks/energy_overhead.py`: what measuring costs."""
    peaks = ", ".join(f"{mb:.0f} MB for {n} images" for n, mb in content["peak_mb"].items())
    lines = []
    for name, network in content["networks"].items():
        ratio = network["ratio"]
        lines.append(
            verdict(
                f"recording activity of {name} costs at most 1.3 times a plain evaluation",
                f"{ratio['median']:.2f} times ({ratio['min']:.2f} to {ratio['max']:.2f})",
                ratio["median"] <= 1.3,
            )
        )
    first = next(iter(content["networks"]))
    return [
        bullets([*lines, f"Peak memory of {first}: {peaks}."]),
        source(
            file,
            content["command"],
            [f"n = {content['n']} pairs over {content['images']:,} images"],
            content["environment"],
        ),
    ]


_CONVENTION = ("effective_acs", "effective_macs", "dense")


def neurobench(content: dict[str, Any], file: str) -> list[str]:
    """`benchmarks/neurobench.sh`: synaptic operations against NeuroBench's own count."""
    rows = content["rows"]
    equal = all(row["neurobench"] == row["multispike"] for row in rows)
    return [
        "Synaptic operations as NeuroBench counts them, its count / ours:",
        table(
            ["network", "effective ACs", "effective MACs", "dense"],
            [
                [
                    f"{row['arch']} {row['neuron']}",
                    *(
                        f"{row['neurobench'][key]:,.0f} / {row['multispike'][key]:,.0f}"
                        for key in _CONVENTION
                    ),
                ]
                for row in rows
            ],
        ),
        source(file, content["command"], [f"n = {content['images']} images"],
               content["environment"]),
        bullets([verdict("the same counts", "equal" if equal else "not equal", equal)]),
    ]  # fmt: skip
