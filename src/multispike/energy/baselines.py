"""The same architecture as ANN and quantised ANN, and the density where the SNN stops winning.

At T = 1 a multi-level SNN is a quantised ANN that is run event by event (Yan et al., arXiv
2409.08290), so the quantised ANN is the fair opponent: few-bit activations, dense or with zeros
skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from multispike.energy.counts import Fanout, GradedOp, Network
from multispike.energy.pricing import EnergyReport, energy
from multispike.energy.profiles import Profile, get_profile
from multispike.errors import invalid
from multispike.layer_record import LayerRecord, checked, with_density

BASELINES: dict[Network, str] = {
    "ann": "dense ANN",
    "qann": "dense quantised ANN",
    "qann_skip": "zero-skipping quantised ANN",
}
"""What the SNN is compared with, and what to call it."""
_STEPS = 60  # halvings of [0, 1]: beyond a float's precision


@dataclass(frozen=True)
class Crossover:
    """Where the SNN needs less energy than a baseline, in events per neuron and timestep, the same
    in all layers."""

    baseline: Network
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
        sentence = f"the SNN needs less energy than the {BASELINES[self.baseline]} {self.where}"
        return {**asdict(self), "density": self.density, "verdict": sentence}


def baselines(
    records: Sequence[LayerRecord],
    profile: str | Profile = "lemaire2022",
    bits: int = 32,
    *,
    fanout: Fanout = "lemaire",
) -> dict[str, EnergyReport]:
    """Reports of the dense ANN, the dense and the zero-skipping quantised ANN, by name.

    All three follow from the recorded shapes; only "qann_skip" also needs the activity.
    """
    prices = get_profile(profile)
    return {
        network: energy(records, prices, bits, fanout=fanout, network=network)
        for network in BASELINES
    }


def crossover_density(
    records: Sequence[LayerRecord],
    profile: str | Profile = "lemaire2022",
    bits: int = 32,
    *,
    fanout: Fanout = "lemaire",
    graded_op: GradedOp = "mac",
) -> dict[str, Crossover]:
    """Per baseline, the event density at which the SNN's energy equals the baseline's.

    One density for all layers that read or send events, under the assumptions of `with_density`;
    the events that were measured are not used. Raises `InputError` where no layer has any.
    """
    records = _spiking(records)
    prices = get_profile(profile)

    def total(network: Network, density: float) -> float:
        assumed = with_density(records, density)
        return energy(
            assumed, prices, bits, fanout=fanout, graded_op=graded_op, network=network
        ).total_nj

    silent, full = total("snn", 0.0), total("snn", 1.0)

    def excess(network: Network) -> Callable[[float], float]:
        """The SNN's energy, linear in the density, minus the baseline's."""
        dense = None if network == "qann_skip" else total(network, 0.0)
        return lambda density: (
            silent
            + (full - silent) * density
            - (total(network, density) if dense is None else dense)
        )

    return {network: Crossover(network, _negative(excess(network))) for network in BASELINES}


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

    >>> layer = LayerRecord("fc", "linear", (4,), (3,), input_kind="spikes", levels_in=1)
    >>> round(even_density(with_density([layer], 0.25)), 9)
    0.25
    """
    records = _spiking(records)
    prices = get_profile(profile)
    recorded, silent, full = (
        energy(layers, prices, bits, fanout=fanout, graded_op=graded_op).total_nj
        for layers in (records, with_density(records, 0.0), with_density(records, 1.0))
    )
    return (recorded - silent) / (full - silent) if full > silent else 0.0


def _spiking(records: Sequence[LayerRecord]) -> tuple[LayerRecord, ...]:
    records = checked(records)
    if not any(r.levels_in or r.levels_out for r in records):
        raise invalid("records", f"{len(records)} layers without events", "a spiking network")
    return records


def _negative(difference: Callable[[float], float]) -> tuple[float, float] | None:
    """The part of [0, 1] where a convex function is below zero.

    The difference is convex: the SNN's energy is linear in the density d, a dense baseline's
    constant, and a zero-skipping one's concave, since of T timesteps at least one is active with
    probability 1 - (1 - d)^T.
    """
    at_0, at_1 = difference(0.0), difference(1.0)
    if at_0 < 0 and at_1 <= 0:
        return 0.0, 1.0
    inside = 0.0 if at_0 < 0 else 1.0
    if at_0 >= 0 and at_1 >= 0:
        inside = _minimum(difference)
        if difference(inside) >= 0:
            return None
    low = 0.0 if at_0 < 0 else _root(difference, inside, 0.0)
    high = 1.0 if at_1 < 0 else _root(difference, inside, 1.0)
    return low, high


def _minimum(convex: Callable[[float], float]) -> float:
    """Where a convex function on [0, 1] is least, by ternary search."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        if convex(left) < convex(right):
            high = right
        else:
            low = left
    return (low + high) / 2


def _root(difference: Callable[[float], float], below: float, above: float) -> float:
    """The sign change between a point below zero and one that is not, by bisection."""
    for _ in range(_STEPS):
        middle = (below + above) / 2
        if difference(middle) < 0:
            below = middle
        else:
            above = middle
    return (below + above) / 2
