"""The same architecture as ANN and quantised ANN, and the density where the SNN stops winning.

At T = 1 a multi-level SNN is a quantised ANN that is run event by event (Yan et al., arXiv
2409.08290), so the quantised ANN is the fair opponent: few-bit activations, dense or with zeros
skipped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack, get_args

from multispike.energy.count import Choices, Execution, GradedOp, execution
from multispike.energy.pricing import EnergyReport, NetworkEnergy, price_layers
from multispike.energy.profiles import Profile, get_profile
from multispike.errors import invalid
from multispike.files import known_fields, plain_fields
from multispike.layer_record import LayerRecord, checked, with_density

TWINS: dict[Execution, str] = {
    "ann": "dense ANN",
    "qann": "dense quantised ANN",
    "qann_skip": "zero-skipping quantised ANN",
}
"""What the SNN is compared with, and what to call it. Result files name them "baselines"."""
_STEPS = 60  # halvings of [0, 1]: beyond a float's precision


@dataclass(frozen=True)
class Crossover:
    """Where the SNN needs less energy than a twin, in events per neuron and timestep, the same
    in all layers."""

    baseline: Execution
    wins: tuple[float, float] | None
    """The SNN wins for densities between these two; None where it never does."""

    @property
    def density(self) -> float | None:
        """The density at which the SNN stops winning; None where there is no such crossing."""
        return None if self.wins is None or self.wins[1] >= 1 else self.wins[1]

    @property
    def where(self) -> str:
        """At which densities, as words behind "the SNN needs less energy".

        >>> Crossover("qann", (0.0, 0.25)).where, Crossover("ann", None).where
        ('below density 0.25', 'at no density')
        """
        if self.wins is None:
            return "at no density"
        low, high = self.wins
        if low <= 0:
            return "at any density" if high >= 1 else f"below density {high:.3g}"
        if high >= 1:
            return f"above density {low:.3g}"
        return f"between densities {low:.3g} and {high:.3g}"

    def to_dict(self) -> dict[str, Any]:
        sentence = f"the SNN needs less energy than the {TWINS[self.baseline]} {self.where}"
        return {**plain_fields(self), "density": self.density, "verdict": sentence}


@dataclass(frozen=True)
class FurtherPrices:
    """What a result keeps of a further energy profile."""

    energy_nj: NetworkEnergy
    baselines: dict[Execution, NetworkEnergy] | None = None

    def to_dict(self) -> dict[str, Any]:
        return known_fields(self)


@dataclass(frozen=True, kw_only=True, repr=False)
class RunPrices(EnergyReport):
    """A report; of a spiking network, also what it is compared with, by the names of `TWINS`."""

    baselines: dict[Execution, NetworkEnergy] | None = None
    crossover: dict[Execution, Crossover] | None = None
    even_density: float | None = None
    """The one density that costs as much as what was recorded."""
    executions: dict[GradedOp, NetworkEnergy] | None = None
    """By how a graded event is executed; the energy above is one of them."""
    energy_nj_profiles: dict[str, FurtherPrices] | None = None
    """By the name of a further profile."""


def price_run(
    records: Sequence[LayerRecord],
    profile: str | Profile = "lemaire2022",
    bits: int = 32,
    *,
    spiking: bool = True,
    not_counted: Sequence[str] = (),
    profiles: Sequence[str] = (),
    **choices: Unpack[Choices],
) -> RunPrices:
    """The prices of a network from its records alone: arguments as for `price_layers`.

    A network that is not `spiking` is a dense ANN, evaluated as often as it was recorded, and has
    no twins. `energy_nj_profiles` has the prices under each further one of `profiles`. Raises
    `InputError` as `price_layers`.
    """
    network = execution(records, spiking)
    own = price_layers(records, profile, bits, network=network, not_counted=not_counted, **choices)

    def twins(profile: str | Profile) -> dict[Execution, NetworkEnergy] | None:
        reports = price_twins(records, profile, bits, **choices) if spiking else {}
        return {name: report.energy_nj for name, report in reports.items()} or None

    further = {}
    for name in profiles:
        energy = price_layers(records, name, bits, network=network, **choices).energy_nj
        further[name] = FurtherPrices(energy, twins(name))
    prices = RunPrices(**vars(own), energy_nj_profiles=further or None)
    if not spiking:
        return prices
    fanout = choices.get("fanout", "lemaire")
    return replace(
        prices,
        baselines=twins(profile),
        crossover=crossover_density(records, profile, bits, **choices),
        even_density=even_density(records, profile, bits, **choices),
        executions={
            op: price_layers(records, profile, bits, fanout=fanout, graded_op=op).energy_nj
            for op in get_args(GradedOp)
        },
    )


def price_twins(
    records: Sequence[LayerRecord],
    profile: str | Profile = "lemaire2022",
    bits: int = 32,
    **choices: Unpack[Choices],
) -> dict[Execution, EnergyReport]:
    """Reports of the dense ANN, the dense and the zero-skipping quantised ANN, by name.

    All three follow from the recorded shapes; only "qann_skip" also needs the activity.
    """
    prices = get_profile(profile)
    return {name: price_layers(records, prices, bits, network=name, **choices) for name in TWINS}


def crossover_density(
    records: Sequence[LayerRecord],
    profile: str | Profile = "lemaire2022",
    bits: int = 32,
    **choices: Unpack[Choices],
) -> dict[Execution, Crossover]:
    """Per twin, the event density at which the SNN's energy equals the twin's.

    One density for all layers that read or send events, under the assumptions of `with_density`;
    the events that were measured are not used. Raises `InputError` where no layer has any.
    """
    prices, (empty, full) = get_profile(profile), _extremes(records)
    silent, busy = (price_layers(r, prices, bits, **choices).total_nj for r in (empty, full))
    twins = price_twins(empty, prices, bits, **choices)
    skipping = price_layers(full, prices, bits, network="qann_skip", **choices).layers
    gained: dict[int, float] = defaultdict(float)  # of the zero-skipping twin, by timesteps
    for record, low, high in zip(full, twins["qann_skip"].layers, skipping, strict=True):
        gained[record.timesteps] += high.energy_nj.total - low.energy_nj.total

    def crossover(network: Execution) -> Crossover:
        grows = gained if network == "qann_skip" else {}

        # The SNN's energy is linear in the density; the twin's in the share of inputs that are
        # active at one of T timesteps at least.
        def excess(density: float) -> float:
            active = sum(more * (1 - (1 - density) ** steps) for steps, more in grows.items())
            return silent + (busy - silent) * density - twins[network].total_nj - active

        def slope(density: float) -> float:
            active = sum(more * n * (1 - density) ** (n - 1) for n, more in grows.items())
            return busy - silent - active

        return Crossover(network, _negative(excess, slope))

    return {network: crossover(network) for network in TWINS}


def even_density(
    records: Sequence[LayerRecord],
    profile: str | Profile = "lemaire2022",
    bits: int = 32,
    **choices: Unpack[Choices],
) -> float:
    """The density, the same in all layers, at which the SNN would need what it was recorded to.

    What a crossover density is to be compared with: the mean of the measured densities is not, as
    an event costs more in one layer than in another. 0 where events are free. Raises `InputError`
    as `crossover_density`.

    >>> from multispike.layer_record import Geometry, Input, Synapses
    >>> layer = Synapses("fc", Geometry((4,), (3,)), kind="linear", input=Input(levels=1))
    >>> round(even_density(with_density([layer], 0.25)), 9)
    0.25
    """
    prices = get_profile(profile)
    silent, full, recorded = (
        price_layers(layers, prices, bits, **choices).total_nj
        for layers in (*_extremes(records), records)
    )
    return (recorded - silent) / (full - silent) if full > silent else 0.0


def _extremes(records: Sequence[LayerRecord]) -> tuple[Sequence[LayerRecord], ...]:
    """The layers of a spiking network without any event, and with all."""
    if not any(r.levels_in or r.output.levels for r in checked(records)):
        raise invalid("records", f"{len(records)} layers without events", "a spiking network")
    return with_density(records, 0.0), with_density(records, 1.0)


def _negative(
    excess: Callable[[float], float], slope: Callable[[float], float]
) -> tuple[float, float] | None:
    """The part of [0, 1] where a convex function is below zero."""
    at_0, at_1 = excess(0.0), excess(1.0)
    inside = 0.0 if at_0 < 0 else 1.0 if at_1 < 0 else _root(slope, 0.0, 1.0)
    if excess(inside) >= 0:
        return None
    low = 0.0 if at_0 < 0 else _root(excess, inside, 0.0)
    return low, 1.0 if at_1 <= 0 else _root(excess, inside, 1.0)


def _root(function: Callable[[float], float], below: float, above: float) -> float:
    """The sign change between a point below zero and one that is not, by bisection."""
    for _ in range(_STEPS):
        middle = (below + above) / 2
        if function(middle) < 0:
            below = middle
        else:
            above = middle
    return (below + above) / 2
