"""Sections of a report on activity: density, the avalanche along depth, information per layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from multispike.activity.information import LayerInformation, quantisation_study
from multispike.activity.information import information as of_layers
from multispike.report.comparison import Comparison
from multispike.report.document import Column, Content, Plot, Table
from multispike.report.plots import Lines
from multispike.report.style import DASHES, PAGE, Mark
from multispike.results import RunResult, SpikeLayer

ByPlace = dict[str, float | None]
"""A quantity by the place in the network where it was measured."""

_JITTERS = tuple(step / 10 for step in range(11))
"""How much an input changes from step to step, as a share of the spread of its mean."""


def along_depth(
    marks: Mapping[str, Mark],
    values: Mapping[str, ByPlace],
    title: str,
    axis: str,
    spec: str,
    summary: str,
    bounds: Mapping[str, ByPlace] | None = None,
) -> Plot:
    """One line a series over named places of the network, in their order; a table of the same.

    `bounds`: further columns, of whole numbers, which the plot shows as bounds.
    """
    every = {**values, **(bounds or {})}
    places: list[str] = []
    for own in sorted(values.values(), key=len, reverse=True):
        end = 0
        for place in own:
            if place in places:
                end = places.index(place) + 1
            else:  # behind what it follows in its own network
                places.insert(end, place)
                end += 1
    table = Table(
        (
            Column("layer"),
            *(Column(name, spec if name in values else ",d") for name in every),
        ),
        [(place, *(own.get(place) for own in every.values())) for place in places],
        title,
    )
    height = 380 if len(places) > 6 else 330
    drawn = Lines(marks, "", axis, height, layers=True, bounds=tuple(bounds or ()))
    return Plot(title, summary, table, drawn)


def density(data: Comparison) -> Content:
    """Share of neurons that send something, layer by layer."""
    averages = "; ".join(f"{run.name} {run.density:.3f}" for run in data.runs)
    plot = along_depth(
        data.marks,
        {run.name: {row.name: row.density for row in run.neurons} for run in data.runs},
        "Density per layer of neurons",
        "density (share not zero)",
        ".4f",
        f"Mean over all neurons: {averages}. For a ReLU it is the share of outputs above zero.",
    )
    return Content(legend=data.legend(data.runs), plots=[plot])


_BRANCHES = {"direct": "direct path", "shortcut": "shortcut", "total": "sum"}
"""Attribute of a residual sum, in the order they are drawn."""

_AMOUNTS: tuple[tuple[str, str, str, Callable[[SpikeLayer], float]], ...] = (
    ("Density", "events per neuron and timestep", ".4f", lambda row: row.density),
    ("Amplitude", "Σz per neuron and inference", ",.3f", lambda row: row.amplitude / row.neurons),
    ("Largest level", "largest z", ",d", lambda row: row.max_level),
)
"""Name, axis, format, and how spikes at a sum give it."""


def avalanche(data: Comparison) -> Content:
    """Density, amplitude and largest level on both ways into every residual sum."""
    if not any(run.sums for run in data.runs):
        return Content(
            [
                "This architecture has no residual sum, so nothing can pile up along a shortcut and"
                " there is no avalanche to show. “multispike avalanche” studies residual networks."
            ]
        )
    runs = [run for run in data.spiking if any(_spikes(run, branch) for branch in _BRANCHES)]
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
            values: dict[str, ByPlace] = {
                run.name: {place: amount(row) for place, row in _spikes(run, branch).items()}
                for run in runs
            }
            if any(values.values()):
                ends = [
                    f"{run} {next(iter(own.values())):{spec}} to {list(own.values())[-1]:{spec}}"
                    for run, own in values.items()
                    if own
                ]
                summary = f"First to last sum: {'; '.join(ends)}."
                title = f"{name}, {where}"
                plots.append(along_depth(data.marks, values, title, axis, spec, summary))
    return Content(
        [
            "At every residual sum: what the block computed (direct path), what bypassed it"
            " (shortcut), and their sum before a barrier, where there is one. Only spikes have a"
            " level; ways that carry potentials are left out."
        ],
        data.legend(runs),
        plots,
        plot_width=340,
    )


def _spikes(run: RunResult, branch: str) -> dict[str, SpikeLayer]:
    """What a branch carries at every residual sum of a run, as far as it is spikes."""
    at = {total.name.removesuffix(".merge"): getattr(total, branch) for total in run.sums}
    return {place: row for place, row in at.items() if isinstance(row, SpikeLayer)}


_QUANTITIES = (
    ("bits", "Entropy per neuron", "bits per neuron and inference", ".3f"),
    ("bits_per_event", "Entropy per event", "bits per event", ".3f"),
    ("levels_used", "Levels in use", "share of levels 0..N seen", ".2f"),
    ("error_relu", "Error against the ReLU", "RMS error / V_th", ".4f"),
    ("error_clipped", "Error against the clipped ReLU", "RMS error / V_th", ".4f"),
)
"""Attribute of a layer's information, title, axis, format."""


def information(data: Comparison) -> Content:
    """Entropy per neuron and per event, levels in use, and the error of codes of equal N·T."""
    layers = {run.name: of_layers(run.neurons) for run in data.spiking}
    runs = [run for run in data.spiking if layers[run.name]]
    if not runs:
        return Content(["No spiking run with histograms of its levels is in these results."])
    plots = []
    for key, title, axis, spec in _QUANTITIES:
        values: dict[str, ByPlace] = {
            run.name: {
                row.name: value
                for row in layers[run.name]
                if (value := getattr(row, key)) is not None
            }
            for run in runs
        }
        means = [
            f"{name} {sum(v or 0 for v in own.values()) / len(own):{spec}}"
            for name, own in values.items()
            if own
        ]
        if means:
            summary = f"Mean over the layers: {'; '.join(means)}."
            plots.append(along_depth(data.marks, values, title, axis, spec, summary))
    products = sorted({run.timesteps * run.levels for run in runs})
    plots += [_error_plot(product) for product in products if product > 1]
    columns = (
        Column("run"),
        Column("T", "d"),
        Column("N", "d"),
        Column("N·T", "d"),
        Column("bits per inference", ",.0f"),
        Column("events per inference", ",.0f"),
        Column("bits per event", ".3f"),
    )
    table = Table(
        columns,
        [_sent(run, layers[run.name]) for run in runs],
        "Information sent by all neurons, residual sums left out",
    )
    return Content(
        [
            "The entropy of what a neuron sends, its levels added up over the timesteps, is the"
            " most it can tell the next layer; neurons of a layer are taken together. Bits per"
            " event say what one event, and so its energy, buys. A neuron stands for the ReLU"
            " max(x, 0) of its mean input x: the error against it has two parts. What exceeds V_th"
            " no code of this threshold can send; the error against the clipped ReLU, min(max(x,"
            " 0), V_th), is that of the code alone.",
        ],
        legend=data.legend(runs),
        tables=[table],
        plots=plots,
    )


def _sent(
    run: RunResult, layers: tuple[LayerInformation, ...]
) -> tuple[str | float | int | None, ...]:
    """The whole network: bits sent, events paid for them."""
    told = [row.bits * row.neurons for row in layers if row.bits is not None]
    bits = sum(told) if len(told) == len(layers) else None
    events = sum(row.events for row in layers)
    each = bits / events if bits is not None and events else None
    product = run.timesteps * run.levels
    return run.name, run.timesteps, run.levels, product, bits, events, each


def _error_plot(product: int) -> Plot:
    """RMS error against the clipped ReLU over the inputs' jitter, one line for every way to factor
    N·T; that against the ReLU stands in the table."""
    clipped: dict[str, list[float]] = {}
    whole: dict[str, list[float]] = {}
    for code in quantisation_study(product, _JITTERS, v_init=0.5):
        name = f"T = {code.timesteps}, N = {code.levels}"
        clipped.setdefault(name, []).append(code.error_clipped)
        whole.setdefault(f"{name}, ReLU", []).append(code.error_relu)
    shades = [PAGE[name][0] for name in ("text", "accent", "muted")]
    marks = {
        name: Mark(name, shades[min(i, 2)], "circle", list(DASHES)[i % len(DASHES)])
        for i, name in enumerate(clipped)
    }
    table = Table(
        (Column("jitter", ".1f"), *(Column(name, ".4f") for name in (*clipped, *whole))),
        list(zip(_JITTERS, *clipped.values(), *whole.values(), strict=True)),
        f"Error at N·T = {product} against the clipped ReLU, then against the ReLU, in V_th",
    )
    first = next(iter(clipped.values()))
    worst = max(clipped, key=lambda name: clipped[name][-1])
    return Plot(
        f"Error of codes with N·T = {product} against the clipped ReLU",
        f"For constant inputs all are equal ({first[0]:.4f}). With jitter 1 the error is"
        f" {first[-1]:.4f} at T = 1 and {clipped[worst][-1]:.4f} with {worst}: spikes"
        " that come before a negative input can't be taken back. Simulated with 20,000 random"
        " inputs, mean N(0, 0.6²), neurons that start at half a level.",
        table,
        Lines(
            marks,
            "jitter of the input between timesteps",
            "RMS error / V_th",
            points=False,
            named=True,
        ),
    )
