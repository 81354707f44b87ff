"""The sections about deployment, and the energy model's checks."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

from page.markdown import bullets, source, table, verdict, whole


def exact(content: dict[str, Any], file: str) -> list[str]:
    """`benchmarks/deploy_exact.py`: the same answers everywhere."""
    rows = [
        [
            _network(row),
            whole(row["images"]),
            f"{100 * row['accuracy_float']:.2f}",
            f"{100 * row['accuracy_integer']:.2f}",
            _equal_logits(row["c"]),
            *(_share(row[engine]) for engine in (*_RUNTIMES, "float")),
            *(whole(row["c"][memory]) for memory in ("ram", "flash")),
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
            ["n = the images of each row"],
            content["environment"],
        ),
        bullets(_exactness(content["rows"])),
    ]  # fmt: skip


def own_networks(content: dict[str, Any], file: str) -> list[str]:
    """`benchmarks/own_networks.py`: the same answers of anyone's networks."""
    engines = {"c": "C", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
    rows = [
        [
            row["network"],
            whole(row["images"]),
            whole(row["layers"]),
            f"{row['macs'] / 1e6:.1f} M",
            whole(row["weights"]),
            f"{100 * row['accuracy_float']:.1f}",
            f"{100 * row['accuracy_integer']:.1f}",
            *("equal" if row["equal"][engine] else "**differs**" for engine in engines),
            *(whole(row[memory]) for memory in ("ram", "flash")),
        ]
        for row in content["rows"]
    ]
    checked, trained = (
        " or ".join(whole(n) for n in sorted({row[key] for row in content["rows"]}))
        for key in ("sanitized_images", "training_images")
    )
    return [
        "Networks of timm, and one of uneven paddings, groups, dilation and a concatenation, at"
        f" 32 x 32: trained for an epoch on {trained} images of CIFAR-10, converted (`convert`,"
        " N = 8), trained for another one, and exported. Logits against the integer network's:",
        table(
            ["network", "images", "integer layers", "multiply-accumulates", "weights", "float %",
             "integer %", *engines.values(), "RAM", "flash"],
            rows,
        ),
        "Multiply-accumulates are those of a dense inference. C: the program as its Makefile builds"
        f" it, and its counts on {checked} images under the address and"
        " undefined-behaviour sanitizers, which found nothing.",
        source(file, content["command"], [], *(row["environment"] for row in content["rows"])),
    ]  # fmt: skip


def _exactness(rows: list[dict[str, Any]]) -> list[str]:
    """The aims, each by its worst row."""
    worst = max(rows, key=lambda row: abs(_changed(row)))
    # Only images on which the two networks differ count, each for one answer at most.
    error = max(
        100 * 1.96 * math.sqrt((1 - row["float"]["equal_predictions"]) / row["images"])
        for row in rows
    )
    same = [row[name]["equal_predictions"] for row in rows for name in _RUNTIMES]
    programs = [row["c"]["equal_logits"] for row in rows]
    return [
        verdict("logits of the C program equal, bit for bit", f"{sum(programs)} of"
                f" {len(programs)} networks", all(programs)),
        verdict("predictions of the runtimes equal on at least 99.9 % of the images",
                f"{100 * min(same):.2f} % in the worst row", min(same) >= 0.999),
        verdict("accuracy within 0.3 points of the float networks",
                f"{_changed(worst):+.2f} points at most, {_network(worst)}, of {len(rows)}"
                f" networks; the sampling error of such a difference is up to ±{error:.2f} points"
                " (95 %), and `multispike export --finetune` trains with the rounding",
                abs(_changed(worst)) <= 0.3),
    ]  # fmt: skip


_RUNTIMES = ("onnxruntime", "openvino")


def _network(row: dict[str, Any]) -> str:
    return f"{row['arch']} T={row['timesteps']} N={row['levels']}"


def _changed(row: dict[str, Any]) -> float:
    """Points of accuracy that rounding gave or took."""
    return 100 * (row["accuracy_integer"] - row["accuracy_float"])


def _equal_logits(c: dict[str, Any]) -> str:
    return f"all of {c['images']:,}" if c["equal_logits"] else "**not equal**"


def _share(engine: dict[str, Any]) -> str:
    return f"{100 * engine['equal_predictions']:.2f} %"


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


def _fewer(crossover: float | None) -> str:
    return "at any density" if crossover is None else f"below a density of {crossover:.2f}"


def instructions(content: dict[str, Any], file: str) -> list[str]:
    """`benchmarks/deploy_callgrind.py`: event-driven against dense C."""
    kinds, environment = content["layers"], content["environment"]
    rows = zip(*(kind["rows"] for kind in kinds.values()), strict=True)
    lines = [
        f"{name}: the event-driven program needs fewer instructions"
        f" {_fewer(kind['crossover_density'])}."
        for name, kind in kinds.items()
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
        *(_one_image(content, file) if "one_image" in content else []),
    ]


def _one_image(content: dict[str, Any], file: str) -> list[str]:
    rows = content["one_image"]
    worst = max(row["ratio"]["median"] for row in rows.values())
    memory = max(row["profile_mb"] / row["forward_mb"] for row in rows.values())
    return [
        "`profile` of one image, beside one forward:",
        table(
            ["network", "forward", "`profile`", "times", "memory"],
            [
                [
                    name,
                    f"{1e3 * median(row['forward_seconds']):.0f} ms",
                    f"{1e3 * median(row['profile_seconds']):.0f} ms",
                    f"{row['ratio']['median']:.2f} ({row['ratio']['min']:.2f} to"
                    f" {row['ratio']['max']:.2f})",
                    f"{row['profile_mb'] / row['forward_mb']:.2f} times",
                ]
                for name, row in rows.items()
            ],
        ),
        source(
            file,
            "python benchmarks/energy_overhead.py one-image",
            ["CPU seconds of one thread, n = 9 pairs"],
            content["one_image_environment"],
        ),
        bullets([
            verdict("at most twice the time", f"{worst:.2f} times at most", worst <= 2),
            verdict("at most twice the memory", f"{memory:.2f} times at most", memory <= 2),
        ]),
    ]  # fmt: skip


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
