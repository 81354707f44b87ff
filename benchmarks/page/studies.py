"""The sections of the trained studies: a table, what it says, where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import Any

from multispike.energy.twins import TWINS
from page.markdown import bullets, figure, source, table, verdict, whole
from page.rows import (
    ACCURATE,
    BOUNDED,
    COLUMNS,
    FIRST,
    PROFILES,
    SECOND,
    Group,
    Rows,
    StudyRuns,
    lead,
    points,
    rows_of,
    study_source,
)


def columns(rows: Rows, names: Sequence[str]) -> str:
    """One row a group."""
    chosen = [COLUMNS[name] for name in names]
    return table(
        ["row", *(heading for heading, _ in chosen)],
        [[group.name, *(show(group) for _, show in chosen)] for group in rows.values()],
    )


_USUAL = ("accuracy", "n", "density", "events", "energy", "energy2", "skip", "seconds")


def cifar10(content: StudyRuns) -> list[str]:
    """`table-cifar10`."""
    rows = rows_of(content)
    return [
        columns(rows, _USUAL),
        study_source(content, rows),
        bullets(
            [
                *_against_binary(rows, "binary-T4", 1 / 2, "half"),
                *_penalised(rows, "binary-T4"),
                *_where_it_loses(rows),
            ]
        ),
        figure("cifar10-front", "Accuracy against energy of every row, CIFAR-10"),
        figure("cifar10-densities", "Density of every layer, CIFAR-10"),
    ]


def cifar100(content: StudyRuns) -> list[str]:
    """`table-cifar100`."""
    rows = rows_of(content)
    return [
        columns(rows, _USUAL),
        study_source(content, rows),
        bullets([*_against_binary(rows, "binary-T4", 1 / 2, "half"), *_where_it_loses(rows)]),
    ]


def front(content: StudyRuns) -> list[str]:
    """`front`: what each code pays for an accuracy, the penalty chosen on validation images."""
    rows = rows_of(content)
    graded, binary = (
        [group for group in rows.values() if group.mean.neuron == neuron]
        for neuron in ("multilevel", "binary")
    )

    def held_out(group: Group) -> float:
        return group.mean.best_accuracy or 0.0

    lines = []
    for profile in PROFILES if graded and binary else ():
        best = max(binary, key=held_out)
        equal = [group for group in graded if held_out(group) >= held_out(best)]
        aim = f"half of the energy of the best binary network at equal accuracy ({profile})"
        if not equal:
            lines.append(verdict(aim, f"no row is as accurate as {best.name}", False))
            continue
        least = min(equal, key=lambda group: group.energy(profile))
        ratio = least.energy(profile) / best.energy(profile)
        figures = f"{ratio:.2f} times, {least.name} against {best.name}; on the test images"
        lines.append(verdict(aim, f"{figures} {points(least, best):+.2f} points", ratio <= 1 / 2))
    return [
        "Both codes with the same penalties on events. A tenth of the training images chooses: the"
        " best binary network, and the graded one that spends least among those as accurate.",
        columns(rows, ("accuracy", "chosen", "density", "events", "energy", "energy2", "seconds")),
        study_source(content, rows),
        bullets(lines),
        figure("front", "Accuracy against energy of both codes, by penalty"),
    ]


CONVERTED = {"converted-multilevel-T1-N8": 2.0, "tuned-multilevel-T1-N8": 0.5}
"""Points that a row may lose beside the ANN that it was converted from."""


def conversion(content: StudyRuns) -> list[str]:
    """`conversion`."""
    rows = rows_of(content)
    lines = []
    for label, group in rows.items() if "ann" in rows else ():
        more = points(group, rows["ann"])
        name = f"N = {group.mean.levels}, {label.split('-')[0]}"
        if aim := CONVERTED.get(label):
            within = f"{name} within {aim:g} points of the ANN, or above"
            lines.append(verdict(within, f"{more:+.2f} points", more >= -aim))
        elif label != "ann":
            lines.append(f"{name}: {more:+.2f} points beside the ANN.")
    return [columns(rows, _USUAL), study_source(content, rows), bullets(lines)]


def dvs(content: StudyRuns) -> list[str]:
    """`table-dvs`."""
    rows = rows_of(content)
    compare = "    multispike compare --config cifar10dvs --data-dir DIR --download"
    real = "\n".join(
        (
            f"{compare} --variants ann-T10,multilevel-T1-N4,multilevel-T1-N8 --out runs/real",
            f"{compare} --variants binary-T10 --lr 0.015 --out runs/real-binary",
            "    multispike report runs/real,runs/real-binary --out runs/real-all",
        )
    )
    return [
        "**These are emulated events, not recordings**: CIFAR-10 images moved before a simulated"
        " event camera (`multispike.events.emulator`), the same events summed into 10 frames or"
        " into one. Nobody else's figures on CIFAR10-DVS can be compared with them. The same"
        " comparison on the real recordings, which needs the set (binary-T10 with a rate of its"
        " own, as"
        f" here), is\n\n{real}",
        columns(rows, _USUAL),
        study_source(content, rows),
        bullets([*_against_binary(rows, "binary-T10", 1 / 3, "a third"), *_where_it_loses(rows)]),
    ]


def nmnist(content: StudyRuns) -> list[str]:
    """`table-nmnist`."""
    rows = rows_of(content)
    return [
        "Recordings of an event camera before moving digits (N-MNIST, Orchard et al. 2015): 1,000"
        " for training and 100 for testing of the official split, a part of the set; summed into"
        " one frame, ten frames, or ten bins of time as the channels of one timestep (bins10).",
        columns(rows, _USUAL),
        study_source(content, rows),
        bullets(
            [
                *_against_binary(rows, "binary-T10", 1 / 3, "a third"),
                *_against_binary(rows, "binary-T10", 1 / 3, "a third", "bins10-multilevel-T1-N4"),
                *_where_it_loses(rows),
            ]
        ),
    ]


def folds(content: dict[str, Any], file: str) -> list[str]:
    """`benchmarks/nmnist_folds.py`."""
    accuracies: dict[str, list[float]] = {}
    for fold in content["folds"]:
        for run in fold["runs"]:
            accuracies.setdefault(run["name"], []).append(100 * run["accuracy"])
    heading = ["row", "accuracy %, mean of folds", "deviation, points", "folds"]
    rows = [
        [name, f"{fmean(values):.2f}", f"{stdev(values):.2f}", str(len(values))]
        for name, values in accuracies.items()
        if len(values) > 1
    ]
    said = "Each fold tests on another fifth of all 1,100 recordings, trained on the rest."
    environments = [run["environment"] for fold in content["folds"] for run in fold["runs"]]
    return [said, table(heading, rows), source(file, content["command"], [], *environments)]


def _against_binary(
    rows: Rows, binary: str, share: float, share_name: str, label: str = "multilevel-T1-N4"
) -> list[str]:
    """The aims: as accurate as the binary SNN, at a share of its energy."""
    graded = rows.get(label)
    other = rows.get(binary)
    if graded is None or other is None:
        return []
    more = points(graded, other)
    lines = [
        verdict(
            f"{label} within {ACCURATE} points of {binary}, or above",
            lead(graded, other),
            more >= -ACCURATE,
        )
    ]
    for profile in PROFILES:
        ratio = graded.energy(profile) / other.energy(profile)
        lines.append(
            verdict(
                f"at {share_name} of its energy or less ({profile})",
                f"{ratio:.2f} times",
                ratio <= share,
            )
        )
    events = graded.mean.events_per_inference / other.mean.events_per_inference
    return [*lines, f"It sends {events:.2f} times the events of {binary}."]


def _penalised(rows: Rows, binary: str) -> list[str]:
    """The aims of the activity penalty: the binary SNN's accuracy at a share of what it spends."""
    other = rows.get(binary)
    graded = [
        group for group in rows.values() if (group.runs[0].settings or {})["activity_penalty"]
    ]
    if other is None or not graded:
        return []
    kept = [g for g in graded if points(g, other) >= -ACCURATE]

    def aim(what: str, share: float, spent: Callable[[Group], float]) -> str:
        best = min(kept or graded, key=spent)
        ratio = spent(best) / spent(other)
        return verdict(
            f"with the activity penalty, {what} of {binary} at an accuracy within {ACCURATE}"
            " points or above",
            f"{ratio:.2f} times with {points(best, other):+.2f} points, {best.name}",
            bool(kept) and ratio <= share,
        )

    energies = (
        aim(f"half of the energy ({profile})", 1 / 2, lambda g, profile=profile: g.energy(profile))
        for profile in PROFILES
    )
    chosen = (
        "Each of these aims names the row that spends least among those as accurate on the test"
        " images, which so choose the penalty"
        if kept
        else "No row is as accurate: each of these aims names the one that spends least"
    )
    return [
        aim("a third of the events", 1 / 3, lambda g: g.mean.events_per_inference),
        *energies,
        f"{chosen}; {binary} itself was trained without one.",
    ]


def _where_it_loses(rows: Rows) -> list[str]:
    """The headline SNN against its ANN and against quantised ANNs, whoever wins."""
    graded = rows.get("multilevel-T1-N4")
    if graded is None:
        return []
    lines = []
    for label, remark in (("ann", ""), ("ann-T10", ", evaluated on each of its ten frames")):
        if (ann := rows.get(label)) is not None:
            more = points(ann, graded)
            than = f"{abs(more):.2f} points {'more' if more > 0 else 'less'} accurate than"
            accurate = than if more else "as accurate as"
            energies = " and ".join(
                f"{ann.energy(profile) / graded.energy(profile):.2f} times the energy ({profile})"
                for profile in PROFILES
            )
            lines.append(
                f"Against the ANN: {label} is {accurate} multilevel-T1-N4, at {energies}{remark}."
            )
    first, crossover = graded.runs[0], graded.runs[0].crossover or {}
    wins = (
        f"the SNN needs less energy than the {TWINS[k]} {c.where}" for k, c in crossover.items()
    )
    return [
        *lines,
        *(quantised(graded, profile) for profile in PROFILES),
        f"Crossovers ({FIRST}): {'; '.join(wins)}. What"
        f" {graded.name} needs, it would need at an even density of"
        f" {first.even_density:.3f}.",
    ]


def quantised(graded: Group, profile: str) -> str:
    """What quantised ANNs of the same transfer function would need, and who wins."""
    own = graded.energy(profile)
    skip = graded.baseline(profile, "qann_skip")
    dense = graded.baseline(profile, "qann")
    winner = "the SNN wins" if own < skip else "**the SNN loses**"
    return (
        f"Against the quantised ANN that skips zeros (the same network and activity, no neurons'"
        f" memory), {profile}: it needs {skip / own:.3f} times the energy of {graded.name},"
        f" {winner}; the dense one {dense / own:.3f} times."
    )


def families(content: StudyRuns) -> list[str]:
    """`families`."""
    rows = rows_of(content)
    names = ("accuracy", "density", "events", "amplitude", "largest", "energy", "energy2", "skip")
    return [
        "Events are the non-zero spikes that are sent, amplitude the sum of their levels: by"
        " neurons, barriers and, in SEW-ResNets, residual sums. In MS-ResNets potentials cross"
        " the shortcuts, which are no spikes and are not in these columns, but in the energy.",
        columns(rows, (*names, "seconds")),
        study_source(content, rows),
        bullets(
            line
            for variant in ("multilevel-T1-N4", "binary-T4")
            for line in _sparse_against_sew(rows, variant)
        ),
        "What other barriers would do, and how the price of a barrier depends on its ceiling, is"
        " under [Ablation](#ablation).",
    ]


def _sparse_against_sew(rows: Rows, variant: str) -> list[str]:
    """The paper's claim: at least a fifth less activity at the same accuracy."""
    sparse, sew = rows.get(f"sparse-{variant}"), rows.get(f"sew-{variant}")
    if sparse is None or sew is None:
        return []
    more = points(sparse, sew)
    ratios = {
        name: getattr(sparse.mean, f"{name}_per_inference")
        / getattr(sew.mean, f"{name}_per_inference")
        for name in ("amplitude", "events")
    }
    energies = ", ".join(
        f"{sparse.energy(profile) / sew.energy(profile):.2f} times ({profile})"
        for profile in PROFILES
    )
    return [
        verdict(
            f"{variant}: Sparse at most {BOUNDED} times the amplitude of SEW, at an accuracy within"
            f" {ACCURATE} points or above",
            f"amplitude {ratios['amplitude']:.2f} times, accuracy {more:+.2f} points",
            ratios["amplitude"] <= BOUNDED and more >= -ACCURATE,
        ),
        f"{variant}: Sparse sends {ratios['events']:.2f} times the events of SEW; energy"
        f" {energies}.",
    ]


_PARTS = ("total", "ops", "addressing", "weights", "potentials", "bias", "io")


def vgg16(content: StudyRuns) -> list[str]:
    """`table-vgg16`."""
    rows = rows_of(content)
    parts = [
        [f"{group.name}, {profile}", *(whole(group.energy(profile, part)) for part in _PARTS)]
        for profile in PROFILES
        for group in rows.values()
    ]
    return [
        columns(rows, ("accuracy", "n", "density", "events", "energy", "energy2", "seconds")),
        "Where the energy goes, µJ per inference:",
        table(["row, profile", *_PARTS], parts),
        study_source(content, rows),
        bullets([*_paper_ratios(rows), *_where_it_loses(rows)]),
        figure("vgg16-energy", "Energy of VGG-16 by category under both profiles"),
    ]


_PAPER = {"binary-T4": 8.5e3 / 4.41e3, "ann": 12.9e3 / 4.41e3}
"""Energies over that of multilevel-T1-N4 in the paper's VGG-16 table, read second-hand."""


def _paper_ratios(rows: Rows) -> list[str]:
    """The paper's claim of two to three times less energy than the binary SNN."""
    graded = rows.get("multilevel-T1-N4")
    lines = []
    for label, published in _PAPER.items():
        if graded is None or label not in rows:
            continue
        ratios = {p: rows[label].energy(p) / graded.energy(p) for p in PROFILES}
        measured = " and ".join(f"{ratio:.2f} times ({p})" for p, ratio in ratios.items())
        more = f"{points(graded, rows[label]):+.2f} points"
        if label == "binary-T4":
            lines.append(
                verdict(
                    f"{label} needs at least 2 times the energy of multilevel-T1-N4 ({SECOND})",
                    f"{measured}; multilevel-T1-N4 has {more} of accuracy; the paper's table,"
                    f" read second-hand, gives {published:.2f}",
                    ratios[SECOND] >= 2,
                )
            )
        else:
            lines.append(
                f"{label} needs {measured} of multilevel-T1-N4, which has {more} of accuracy; the"
                f" paper's table, read second-hand, gives {published:.2f}."
            )
    return lines
