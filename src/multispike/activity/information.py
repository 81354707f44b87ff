"""How much a spike tells: entropy of the levels, levels in use, error against the ReLU."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from multispike.activity.counting import Errors, Grid
from multispike.errors import invalid, is_count
from multispike.neurons import MultiLevelIF
from multispike.results import SpikeLayer


class LayerInformation(SpikeLayer):
    """A layer of neurons, taken as draws of one distribution, and what they tell."""

    @property
    def bits_per_step(self) -> float:
        """Entropy of z at one timestep, per neuron."""
        return entropy(self.histogram)

    @property
    def bits(self) -> float | None:
        """Entropy of the levels added up over time, per neuron; None where timesteps came one by
        one (T times `bits_per_step` is a bound)."""
        return entropy(self.decoded) if self.decoded else None

    @property
    def bits_per_event(self) -> float | None:
        """What one event buys; None without events or without `bits`."""
        bits = self.bits
        return None if bits is None or not self.events else bits * self.neurons / self.events

    @property
    def levels_used(self) -> float:
        """Share of 0..N that occurs."""
        return sum(count > 0 for count in self.histogram) / (self.levels + 1)


def entropy(counts: Sequence[float]) -> float:
    """Shannon entropy, in bits, of how often each value occurs.

    >>> entropy([2, 1, 1]), entropy([5, 0])
    (1.5, 0.0)
    """
    total = sum(counts)
    shares = [count / total for count in counts if count > 0]
    return sum(-share * math.log2(share) for share in shares) + 0.0


def information(layers: Iterable[SpikeLayer]) -> tuple[LayerInformation, ...]:
    """All neuron layers of a recorded pass (sums and ReLUs tell no levels).

    >>> layer = SpikeLayer(name="n", path="direct", shape=(4,), timesteps=1, levels=3, events=2.0,
    ...                    amplitude=5.0, max_level=3, histogram=(2, 0, 1, 1), decoded=(2, 0, 1, 1))
    >>> [row] = information([layer])
    >>> row.bits, row.bits_per_event, row.levels_used
    (1.5, 3.0, 0.75)
    """
    neurons = (row for row in layers if row.histogram and row.path != "sum")
    return tuple(LayerInformation(**vars(row)) for row in neurons)


@dataclass(frozen=True, kw_only=True)
class CodeQuality(LayerInformation):
    """One code (T, N) for inputs that change from timestep to timestep; counts per neuron.

    What jitter adds to `bits` tells nothing of m.
    """

    jitter: float


@torch.no_grad()
def quantisation_study(
    product: int,
    jitters: Sequence[float] = (0.0, 0.5, 1.0),
    *,
    spread: float = 0.6,
    v_init: float = 0.0,
    samples: int = 20_000,
    seed: int = 0,
) -> tuple[CodeQuality, ...]:
    """All codes with N*T = `product`, for neurons alone (V_th = 1).

    Inputs are x[t] = m + e[t]: m ~ N(0, spread²) is the mean of the inference, e[t] ~ N(0,
    (jitter*spread)²) changes from step to step and has mean 0 over them, so that every code is
    asked for the same max(m, 0). With jitter, spikes that come before a negative input can't be
    taken back and what exceeds V_th at one step is late: timesteps then cost accuracy as well as
    events.

    Raises:
        InputError: product below 1, negative jitter or spread.

    >>> codes = quantisation_study(4, [1.0])
    >>> [(code.timesteps, code.levels) for code in codes]
    [(1, 4), (2, 2), (4, 1)]
    >>> all(codes[0].error_clipped < code.error_clipped for code in codes[1:])
    True
    """
    if not is_count(product):
        raise invalid("product", product, "an integer >= 1")
    if spread <= 0 or min(jitters, default=0.0) < 0:
        raise invalid("jitters, spread", (jitters, spread), "numbers >= 0, and a spread > 0")
    random = torch.Generator().manual_seed(seed)
    mean = spread * torch.randn(samples, generator=random, dtype=torch.float64)
    noise = torch.randn(product, samples, generator=random, dtype=torch.float64)
    found = []
    for jitter in jitters:
        for steps in (t for t in range(1, product + 1) if product % t == 0):
            levels, errors = product // steps, Errors()
            x = mean + spread * jitter * (noise[:steps] - noise[:steps].mean(0))
            spikes = MultiLevelIF(levels, v_init=v_init, timesteps=steps)(x)
            errors.add(x, spikes, Grid(1 / levels, levels))
            z = (spikes * levels).round().long()
            code = CodeQuality(
                name=f"T{steps} N{levels}",
                path="direct",
                shape=(),
                timesteps=steps,
                levels=levels,
                jitter=jitter,
                events=z.count_nonzero().item() / samples,
                amplitude=z.sum().item() / samples,
                max_level=int(z.max()),
                histogram=tuple(z.flatten().bincount(minlength=levels + 1).tolist()),
                decoded=tuple(z.sum(0).bincount(minlength=product + 1).tolist()),
                error_relu=errors.rms()[0],
                error_clipped=errors.rms()[1],
            )
            found.append(code)
    return tuple(found)
