"""The same architecture as ANN and quantised ANN, and the density where the SNN stops winning.

At T = 1 a multi-level SNN is a quantised ANN that is run event by event (Yan et al., arXiv
2409.08290), so the quantised ANN is the fair opponent: few-bit activations, dense or with zeros
skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from multispike.energy.count import Execution, Fanout, GradedOp, execution
from multispike.energy.pricing import EnergyReport, NetworkEnergy, price_layers
from multispike.energy.profiles import Profile, get_profile
from multispike.errors import invalid
from multispike.files import plain_fields
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
        """Baseline, interval, crossing, and the same in words."""
        sentence = f"the SNN needs less energy than the {TWINS[self.baseline]} {self.where}"
        return {**plain_fields(self), "density": self.density, "verdict": sentence}


@dataclass(frozen=True, kw_only=True, repr=False)
class RunPrices(EnergyReport):
    """A report; of a spiking network, also what it is compared with, by the names of `TWINS`."""

    baselines: dict[Execution, NetworkEnergy] | None = None
    crossover: dict[Execution, Crossover] | None = None
    even_density: float | None = None
    """The one density that costs as much as what was recorded."""


def price_run(
    records: Sequence[LayerRecord],
    profile: str | Profile = "lemaire2022",
    bits: int = 32,
    *,
    spiking: bool = True,
    fanout: Fanout = "lemaire",
    graded_op: GradedOp = "mac",
    not_counted: Sequence[str] = (),
) -> RunPrices:
    """The prices of a network from its records alone: arguments as for `price_layers`.

    A network that is not `spiking` is a dense ANN, evaluated as often as it was recorded, and has
    no twins. Raises `InputError` as `price_layers`.
    """
    prices = get_profile(profile)
    report = price_layers(
        records,
        prices,
        bits,
        fanout=fanout,
        graded_op=graded_op,
        network=execution(records, spiking),
        not_counted=not_counted,
    )
    if not spiking:
        return RunPrices(**vars(report))
    twins = price_twins(records, prices, bits, fanout=fanout)
    return RunPrices(
        **vars(report),
        baselines={name: twin.energy_nj for name, twin in twins.items()},
        crossover=crossover_density(records, prices, bits, fanout=fanout, graded_op=graded_op),
        even_density=even_density(records, prices, bits, fanout=fanout, graded_op=graded_op),
    )


def price_twins(
    records: Sequence[LayerRecord],
    profile: str | Profile = "lemaire2022",
    bits: int = 32,
    *,
    fanout: Fanout = "lemaire",
) -> dict[Execution, EnergyReport]:
    """Reports of the dense ANN, the dense and the zero-skipping quantised ANN, by name.

    All three follow from the recorded shapes; only "qann_skip" also needs the activity.
    """
    price = partial(price_layers, records, get_profile(profile), bits, fanout=fanout)
    return {network: price(network=network) for network in TWINS}


def crossover_density(
    records: Sequence[LayerRecord],
    profile: str | Profile = "lemaire2022",
    bits: int = 32,
    *,
    fanout: Fanout = "lemaire",
    graded_op: GradedOp = "mac",
) -> dict[Execution, Crossover]:
    """Per twin, the event density at which the SNN's energy equals the twin's.

    One density for all layers that read or send events, under the assumptions of `with_density`;
    the events that were measured are not used. Raises `InputError` where no layer has any.
    """
    records = _spiking(records)
    price = partial(price_layers, profile=get_profile(profile), bits=bits, fanout=fanout)
    empty, full = with_density(records, 0.0), with_density(records, 1.0)
    silent, busy = (price(layers, graded_op=graded_op).total_nj for layers in (empty, full))

    def crossover(network: Execution) -> Crossover:
        twin = price(empty, network=network)
        gained: dict[int, float] = {}  # by timesteps, from density 0 to 1
        if network == "qann_skip":
            pairs = zip(records, twin.layers, price(full, network=network).layers, strict=True)
            for record, low, high in pairs:
                more = high.energy_nj.total - low.energy_nj.total
                gained[record.timesteps] = gained.get(record.timesteps, 0.0) + more

        def excess(density: float) -> float:
            """The SNN's energy, linear in the density, minus the twin's, linear in the share of
            inputs that are active at one of T timesteps at least."""
            active = sum(k * (1 - (1 - density) ** steps) for steps, k in gained.items())
            return silent + (busy - silent) * density - twin.total_nj - active

        def slope(density: float) -> float:
            active = sum(k * steps * (1 - density) ** (steps - 1) for steps, k in gained.items())
            return busy - silent - active

        return Crossover(network, _negative(excess, slope))

    return {network: crossover(network) for network in TWINS}


def even_density(
    records: Sequence[LayerRecord],
    profile: str | Profile = "lemaire2022",
    bits: int = 32,
    *,
    fanout: Fanout = "lemaire",
    graded_op: GradedOp = "mac",
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
    records = _spiking(records)
    prices = get_profile(profile)
    recorded, silent, full = (
        price_layers(layers, prices, bits, fanout=fanout, graded_op=graded_op).total_nj
        for layers in (records, with_density(records, 0.0), with_density(records, 1.0))
    )
    return (recorded - silent) / (full - silent) if full > silent else 0.0


def _spiking(records: Sequence[LayerRecord]) -> tuple[LayerRecord, ...]:
    records = checked(records)
    if not any(r.levels_in or r.output.levels for r in records):
        raise invalid("records", f"{len(records)} layers without events", "a spiking network")
    return records


def _negative(
    excess: Callable[[float], float], slope: Callable[[float], float]
) -> tuple[float, float] | None:
    """The part of [0, 1] where a convex function is below zero."""
    at_0, at_1 = excess(0.0), excess(1.0)
    if at_0 < 0 and at_1 <= 0:
        return 0.0, 1.0
    inside = 0.0 if at_0 < 0 else 1.0 if at_1 < 0 else _root(slope, 0.0, 1.0)
    if excess(inside) >= 0:
        return None
    low = 0.0 if at_0 < 0 else _root(excess, inside, 0.0)
    high = 1.0 if at_1 < 0 else _root(excess, inside, 1.0)
    return low, high


def _root(function: Callable[[float], float], below: float, above: float) -> float:
    """The sign change between a point below zero and one that is not, by bisection."""
    for _ in range(_STEPS):
        middle = (below + above) / 2
        if function(middle) < 0:
            below = middle
        else:
            above = middle
    return (below + above) / 2
