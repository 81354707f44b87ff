"""The top of a report: every run in one table, and what follows from it in plain words."""

from __future__ import annotations

import math

from multispike.energy.twins import TWINS
from multispike.report.comparison import (
    MICRO,
    Comparison,
    accuracy_error,
    energy_uj,
    is_spiking,
    test_images,
)
from multispike.report.crossover import crossings
from multispike.report.document import Column, Content, Json, Table, listed, number, percent


def overview(data: Comparison) -> Content:
    """The headline table and what it says, losses included."""
    return Content(points=findings(data), tables=[_headline(data)])


def findings(data: Comparison) -> list[str]:
    """Sentences that follow from the numbers: who wins, by how much, and where the SNN loses."""
    found = [_accuracy(data), _energy(data)]
    anns = data.anns
    for run in data.spiking:
        if anns:
            found.append(_against_ann(run, anns[0]))
    found += _one_timestep(data)
    found += [_against_baselines(run) for run in data.priced]
    return [sentence for sentence in found if sentence]


def _headline(data: Comparison) -> Table:
    columns = (
        Column("run"),
        Column("T", "d"),
        Column("N", "d"),
        Column("accuracy", ".2%"),
        Column("energy, µJ", ",.2f"),
        Column("events", ",.0f"),
        Column("density", ".3f"),
        Column("parameters", ",d"),
        Column("training, s", ",.1f"),
        Column("images/s", ",.0f"),
    )
    rows = [
        (
            run["name"],
            run["timesteps"],
            run["levels"] if is_spiking(run) else None,
            run["accuracy"],
            energy_uj(run),
            run["events_per_inference"] if is_spiking(run) else None,
            run["density"],
            run["params"],
            run["train_seconds"],
            run["images_per_second"],
        )
        for run in data.runs
    ]
    first = data.runs[0]["energy_nj"]
    return Table(
        columns,
        rows,
        f"Energy, events and density per inference; energy by {first['profile']},"
        f" {first['bits']} bit; images/s in training",
    )


def _accuracy(data: Comparison) -> str:
    ranked = sorted(data.runs, key=lambda run: -run["accuracy"])
    best = ranked[0]
    if len(ranked) == 1:
        return f"{best['name']} gets {percent(best['accuracy'])} of the test images right."
    second = ranked[1]
    gap = best["accuracy"] - second["accuracy"]
    if not gap:
        names = [run["name"] for run in ranked if run["accuracy"] == best["accuracy"]]
        return f"Accuracy: {listed(names)} lead together with {percent(best['accuracy'])}."
    return (
        f"Accuracy: {best['name']} leads with {percent(best['accuracy'])}, {points(gap)} above"
        f" {second['name']}{_noise(best, second)}."
    )


def _noise(a: Json, b: Json) -> str:
    """A remark where two accuracies differ by less than chance explains."""
    errors = [accuracy_error(run) for run in (a, b)]
    if None in errors:
        return ""
    error = math.hypot(*(value or 0.0 for value in errors))
    if abs(a["accuracy"] - b["accuracy"]) >= 2 * error:
        return ""
    return (
        f", less than twice the sampling error of {test_images(a):,} test images"
        f" ({100 * error:.2f} points): no proof of a difference"
    )


def points(difference: float) -> str:
    """A difference of shares in percentage points: 0.0125 -> '1.25 points'."""
    return f"{100 * abs(difference):.2f} points"


def _energy(data: Comparison) -> str:
    ranked = sorted(data.runs, key=energy_uj)
    if len(ranked) == 1:
        return f"It needs {number(energy_uj(ranked[0]))} µJ per inference."
    least = ranked[0]
    others = [
        f"{energy_uj(run) / max(energy_uj(least), 1e-300):.2f} against {run['name']}"
        for run in ranked[1:]
    ]
    return (
        f"Energy: {least['name']} needs least, {number(energy_uj(least))} µJ per inference; less by"
        f" a factor of {listed(others)}."
    )


def _against_ann(run: Json, ann: Json) -> str:
    """A spiking run against the ANN: accuracy and energy, and plainly which of the two it loses."""
    gap = run["accuracy"] - ann["accuracy"]
    ratio = energy_uj(run) / max(energy_uj(ann), 1e-300)
    accuracy = (
        "is as accurate as"
        if not gap
        else f"is {points(gap)} {'more' if gap > 0 else 'less'} accurate than"
    )
    price = f"{1 / ratio:.2f} times less" if ratio < 1 else f"{ratio:.2f} times as much"
    verdict = (
        "it wins both" if gap >= 0 and ratio < 1
        else "it loses both" if gap < 0 and ratio >= 1
        else "it loses accuracy and wins energy" if ratio < 1
        else "it wins accuracy and loses energy"
    )  # fmt: skip
    if not gap and ratio >= 1:
        verdict = "it loses energy"
    return (
        f"{run['name']} {accuracy} {ann['name']} and needs {price} energy:"
        f" {verdict}{_noise(run, ann) if gap else ''}."
    )


def _one_timestep(data: Comparison) -> list[str]:
    """Graded spikes in one timestep against the binary network: the paper's two claims."""
    binaries = [run for run in data.spiking if run["levels"] == 1]
    graded = [run for run in data.spiking if run["levels"] > 1 and run["timesteps"] == 1]
    sentences = []
    for binary in binaries:
        for run in graded:
            energy = energy_uj(binary) / max(energy_uj(run), 1e-300)
            events = 1 - run["events_per_inference"] / max(binary["events_per_inference"], 1e-300)
            gap = run["accuracy"] - binary["accuracy"]
            sentences.append(
                f"{run['name']} against {binary['name']}:"
                f" {_factor(energy)} energy, {abs(events):.0%} {'fewer' if events >= 0 else 'more'}"
                f" events, accuracy {100 * gap:+.2f} points{_noise(run, binary)}."
            )
    return sentences


def _factor(ratio: float) -> str:
    return f"{ratio:.2f} times less" if ratio >= 1 else f"{1 / ratio:.2f} times more"


def _against_baselines(run: Json) -> str:
    """Against ANNs of the same shape, by the energy model alone."""
    own = run["energy_nj"]["total"]
    won, lost = [], []
    for key, name in TWINS.items():
        baseline = run["baselines"][key]["total"]
        ratio = own / max(baseline, 1e-300)
        cost = f"{name} ({number(baseline * MICRO)} µJ)"
        if ratio < 1:
            won.append(f"{1 / ratio:.2f} times less than the {cost}")
        else:
            lost.append(f"{ratio:.2f} times as much as the {cost}")
    wins = [f"less than the {TWINS[key]} {where}" for key, where in crossings(run).items()]
    even = run.get("even_density")
    costs = "" if even is None else f"; its events cost what density {even:.3f} would"
    return (
        f"Same layers as an ANN: {run['name']} needs {listed(won + lost)};"
        f" it {_verdict(len(won), len(lost))}."
        f" An SNN of this shape needs {listed(wins)}{costs}."
    )


def _verdict(won: int, lost: int) -> str:
    if not lost:
        return "wins against all of them"
    return f"loses against {lost} of {won + lost}" if won else "loses against all of them"
