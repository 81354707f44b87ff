"""Sections of a report on activity: density, the avalanche along depth, information per layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from multispike.report.axes import add_line, canvas, label, layer_axis
from multispike.report.comparison import Comparison
from multispike.report.document import Column, Content, Json, Plot, Table, short_name

_BRANCHES = {"direct": "direct path", "shortcut": "shortcut", "total": "sum"}
"""Keys of a residual sum in the results, in the order they are drawn."""

_AMOUNTS: tuple[tuple[str, str, str, Callable[[Json], float]], ...] = (
    ("Density", "events per neuron and timestep", ".4f", lambda row: row["density"]),
    (
        "Amplitude",
        "Σz per neuron and inference",
        ",.3f",
        lambda row: row["amplitude"] / row["neurons"],
    ),
    ("Largest level", "largest z", ",d", lambda row: row["max_level"]),
)
"""Name, axis, format, and how a row of the results gives it."""


def density(data: Comparison) -> Content:
    """Share of neurons that send something, layer by layer."""
    values = {
        run["name"]: {row["name"]: row["density"] for row in run["neurons"]} for run in data.runs
    }
    averages = "; ".join(f"{run['name']} {run['density']:.3f}" for run in data.runs)
    plot = along_depth(
        data,
        values,
        "Density per layer of neurons",
        "density (share not zero)",
        ".4f",
        f"Mean over all neurons: {averages}. For a ReLU it is the share of outputs above zero.",
    )
    return Content(legend=_legend(data), plots=[plot])


def avalanche(data: Comparison) -> Content:
    """Density, amplitude and largest level on both ways into every residual sum."""
    if not any(run.get("sums") for run in data.runs):
        return Content(
            [
                "This architecture has no residual sum, so nothing can pile up along a shortcut and"
                " there is no avalanche to show. “multispike avalanche” studies residual networks."
            ]
        )
    runs = [run for run in data.spiking if _rows(run)]
    if not runs:
        return Content(
            [
                "Full-precision potentials meet at this architecture's residual sums, not spikes:"
                " there is no level z that could grow."
            ]
        )
    plots = []
    for branch, where in _BRANCHES.items():
        for name, axis, spec, amount in _AMOUNTS:
            values = {run["name"]: _along(run, branch, amount) for run in runs}
            if any(values.values()):
                title = f"{name}, {where}"
                plots.append(along_depth(data, values, title, axis, spec, _ends(values, spec)))
    return Content(
        [
            "At every residual sum: what the block computed (direct path), what bypassed it"
            " (shortcut), and their sum before a barrier, where there is one. Only spikes have a"
            " level; ways that carry potentials are left out."
        ],
        [data.marks[run["name"]].key() for run in runs],
        plots,
        plot_width=340,
    )


def along_depth(
    data: Comparison,
    values: dict[str, dict[str, float]],
    title: str,
    axis: str,
    spec: str,
    summary: str,
) -> Plot:
    """One line a run over named places of the network, in their order."""
    ranked = sorted(values.values(), key=len, reverse=True)
    places = list(dict.fromkeys(place for own in ranked for place in own))
    figure = canvas("", axis, 380 if len(places) > 6 else 330)
    for name, own in values.items():
        add_line(
            figure,
            data.marks[name],
            [label(short_name(place)) for place in own],
            list(own.values()),
            f"%{{x}}: %{{y:{spec}}}",
        )
    layer_axis(figure, places)
    figure.update_yaxes(rangemode="tozero")
    table = Table(
        (Column("layer"), *(Column(name, spec) for name in values)),
        [(place, *(own.get(place) for own in values.values())) for place in places],
        title,
    )
    return Plot(title, figure, summary, table)


def _rows(run: Json) -> list[Json]:
    return [row for item in run.get("sums") or [] for key in _BRANCHES if (row := item.get(key))]


def _along(run: Json, branch: str, amount: Callable[[Json], float]) -> dict[str, float]:
    """An amount at every residual sum of a run, as far as that branch carries spikes."""
    return {
        item["name"].removesuffix(".merge"): amount(item[branch])
        for item in run["sums"]
        if item.get(branch)
    }


def _ends(values: dict[str, dict[str, float]], spec: str) -> str:
    parts = [
        f"{name} {next(iter(own.values())):{spec}} to {list(own.values())[-1]:{spec}}"
        for name, own in values.items()
        if own
    ]
    return f"First to last sum: {'; '.join(parts)}."


def _legend(data: Comparison, runs: Sequence[Json] | None = None) -> list:
    return [data.marks[run["name"]].key() for run in (data.runs if runs is None else runs)]
