"""The sections about recipes: ablation, barriers, time to accuracy."""

from __future__ import annotations

import math
import statistics
from typing import Any

from barrier import CEILINGS, ROWS, Row

from page.markdown import bullets, figure, source, table, verdict, whole
from page.rows import ACCURATE, BOUNDED, likely_error, shown_settings


def ablation(content: dict[str, Any], file: str) -> list[str]:
    """`benchmarks/ablation.py`: one change of a recipe at a time."""
    rows = content["rows"]
    reference = rows.get("recipe")
    return [
        table(
            ["change", "options", "accuracy %", "points", "loss", "density", "events"],
            [
                [
                    name,
                    f"`{row['options']}`" if row["options"] else "-",
                    f"{100 * row['accuracy']:.2f}",
                    _points(row, reference),
                    f"{row['loss']:.4f}",
                    f"{row['density']:.3f}",
                    whole(row["events_per_inference"]),
                ]
                for name, row in rows.items()
            ],
        ),
        _short_source(file, content),
    ]


def binary(content: dict[str, Any], file: str) -> list[str]:
    """`benchmarks/binary.py`: what suits the SNN that graded spikes are compared with."""
    best = max(content["rows"].items(), key=lambda item: item[1]["accuracy"])[0]
    return [
        "The recipe with binary neurons, T > 1, on a part of the training images: what suits graded"
        " spikes in one timestep need not suit them.",
        *ablation(content, file),
        bullets(
            [
                f"Most accurate in so short a training: {best}. The binary row of"
                " [Event data](#event-data), whose rate stands below its table, had more images and"
                " epochs; other rates were not measured there, and a better one would put the"
                " graded spikes further behind."
            ]
        ),
    ]


def barrier(content: dict[str, Any], file: str) -> list[str]:
    """`benchmarks/barrier.py`: what the paper leaves open of its barrier."""
    rows = content["rows"]
    return [
        "Barriers of Sparse-ResNet-20, by the sums in which their gradient passes, each against"
        " the SEW-ResNet of the same surrogate gradient and V_th:",
        table(
            ["barrier", "accuracy %", "points to SEW", "events", "amplitude Σz", "times SEW",
             "largest z"],
            [
                [
                    name,
                    f"{100 * row['accuracy']:.2f}",
                    _points(row, _sew(rows, name)),
                    whole(row["events"]),
                    whole(row["amplitude"]),
                    _share(row, _sew(rows, name)),
                    str(row["largest"]),
                ]
                for name, row in rows.items()
            ],
        ),
        _short_source(file, content),
        bullets(_bounded(rows)),
    ]  # fmt: skip


def _sew(rows: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The network without barriers of the same gradient and threshold as a row's."""
    own = ROWS[name]
    same = Row("sew_resnet20", surrogate=own.surrogate, threshold=own.threshold)
    return next((row for other, row in rows.items() if ROWS[other] == same), None)


def _bounded(rows: dict[str, Any]) -> list[str]:
    """Does any barrier keep what the paper claims, and what does a higher ceiling cost?"""
    sparse = [name for name in rows if ROWS[name].arch == "sparse_resnet20"]
    known = {name: sew for name in sparse if (sew := _sew(rows, name))}

    def against(name: str) -> str:
        return (
            f"{_share(rows[name], known[name])} times at {_points(rows[name], known[name])} points"
        )

    def lost(name: str) -> float:
        return 100 * (known[name]["accuracy"] - rows[name]["accuracy"])

    def times(name: str) -> float:
        return rows[name]["amplitude"] / known[name]["amplitude"]

    lines = []
    if known:
        lower = [name for name in known if times(name) <= BOUNDED]
        best = min(lower, key=lost) if lower else min(known, key=times)
        which = "that loses least at so low an amplitude" if lower else "of the lowest amplitude"
        lines.append(
            verdict(
                f"a barrier with at most {BOUNDED} times the amplitude of SEW, at an accuracy"
                f" within {ACCURATE} points or above",
                f"the one {which} is {best}, {against(best)}",
                bool(lower) and lost(best) <= ACCURATE,
            )
        )
    for name in known:
        if factor := CEILINGS.get(ROWS[name].barrier):
            lines.append(f"With {factor:g} times as many levels, {name}: {against(name)}.")
    for name, row in rows.items():
        if name not in sparse and ROWS[name].threshold and "sew" in rows:
            share, points = _share(row, rows["sew"]), _points(row, rows["sew"])
            lines.append(f"Without a barrier, {name}: {share} times at {points} points.")
    return lines


def _share(row: dict[str, Any], reference: dict[str, Any] | None) -> str:
    """Amplitude over that of the reference."""
    return f"{row['amplitude'] / reference['amplitude']:.2f}" if reference else "-"


def _points(row: dict[str, Any], reference: dict[str, Any] | None) -> str:
    """Accuracy above the reference, in points."""
    return f"{100 * (row['accuracy'] - reference['accuracy']):+.2f}" if reference else "-"


def _short_source(file: str, content: dict[str, Any]) -> str:
    accuracies = [row["accuracy"] for row in content["rows"].values()]
    error = math.sqrt(2) * likely_error(accuracies, content["samples"])
    remarks = [
        f"recipe, before options of the command: {shown_settings(content['recipe'])}",
        f"n = 1 run a row, seed {content['seed']}",
        f"{content['samples']:,} test images: two rows may differ by {error:.1f} points from their"
        " sampling alone (95 %)",
    ]
    if missing := [name for name in content["planned"] if name not in content["rows"]]:
        remarks.append(f"not finished yet: {', '.join(missing)}")
    return source(file, content["command"], remarks, content["environment"])


AIMS = ((0.92, 45), (0.94, 60))
"""Accuracy, and minutes of training on two cores."""


def time_to_accuracy(content: dict[str, Any], file: str) -> list[str]:
    """A recipe, trained to its end, against both aims."""
    runs = content["runs"]
    accuracies = [100 * run["accuracy"] for run in runs]
    spread = f" ± {statistics.stdev(accuracies):.2f}" if len(runs) > 1 else ""
    return [
        table(
            ["seed", "accuracy %", "with mirror images %", "epochs", "training min",
             *(f"min to {aim:.0%}" for aim, _ in AIMS)],
            [
                [
                    str(run["seed"]),
                    f"{100 * run['accuracy']:.2f}",
                    f"{100 * run['accuracy_flip']:.2f}",
                    str(run["epochs"]),
                    f"{run['train_seconds'] / 60:.1f}",
                    *(_minutes(reached(run, aim)) for aim, _ in AIMS),
                ]
                for run in runs
            ],
        ),
        source(
            file,
            content["command"],
            [
                f"recipe `recipes/{content['recipe']}.yaml`: {shown_settings(runs[0]['settings'])}",
                f"n = {len(runs)} seeds",
                "minutes are those of training steps, without evaluation; those to an accuracy end "
                "with the first epoch that has it on the test set, not with training",
            ],
            content["environment"],
        ),
        bullets(
            [
                f"Accuracy {statistics.fmean(accuracies):.2f}{spread} % without mirror images.",
                *(_reached_in(runs, aim, limit) for aim, limit in AIMS),
            ]
        ),
        figure(file.removesuffix(".json"), "Test accuracy against minutes of training"),
    ]  # fmt: skip


def reached(run: dict[str, Any], accuracy: float) -> float | None:
    """Seconds of training until the test accuracy is first that high; None if it never is."""
    return next((seconds for seconds, value in run["curve"] if value >= accuracy), None)


def _minutes(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds / 60:.1f}"


def _reached_in(runs: list[dict[str, Any]], aim: float, limit: int) -> str:
    times = [reached(run, aim) for run in runs]
    measured = "minutes by seed: " + ", ".join(map(_minutes, times))
    held = all(seconds is not None and seconds <= 60 * limit for seconds in times)
    return verdict(f"{aim:.0%} within {limit} minutes of training, every seed", measured, held)
