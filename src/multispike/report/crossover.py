"""Whether the SNN or an ANN of its shape needs less energy, in words: for terminal and page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from multispike.energy.count import Execution
from multispike.energy.twins import TWINS, Crossover
from multispike.report.document import Json, listed

MEANING = (
    "density: events per neuron and timestep, the same in every layer (measured zeros are"
    " spread unevenly, which can serve the zero-skipping ANN better or worse than the SNN);"
    " a quantised ANN has activations of ⌈log2(N·T+1)⌉ bits"
)
"""What the densities of a crossover are."""


def crossings(run: Json) -> dict[Execution, str]:
    """Baseline -> at which densities the SNN needs less energy, e.g. "below density 0.25".

    >>> crossings({"crossover": {"ann": {"wins": [0.0, 0.25]}, "qann": {"wins": None}}})
    {'ann': 'below density 0.25', 'qann': 'at no density'}
    """
    found: dict[Execution, Any] = {key: run["crossover"].get(key) for key in TWINS}
    return {
        key: Crossover(key, entry["wins"] and tuple(entry["wins"])).where
        for key, entry in found.items()
        if entry
    }


def verdict(run: Json) -> str:
    """Against which baselines the SNN wins as it is, and against which it loses.

    >>> prices = {"ann": {"total": 3.0}, "qann": {"total": 2.0}, "qann_skip": {"total": 0.5}}
    >>> print(verdict({"energy_nj": {"total": 1.0}, "baselines": prices, "even_density": 0.2}))
    its events cost what density 0.2 would; it needs less energy than the dense ANN and the dense \
quantised ANN, more than the zero-skipping quantised ANN
    """
    own = run["energy_nj"]["total"]
    others: dict[Execution, float] = {key: run["baselines"][key]["total"] for key in TWINS}
    less: list[Execution] = [key for key, total in others.items() if own < total]
    more: list[Execution] = [key for key in others if key not in less]
    parts = [f"less energy than {_named(less)}"] if less else []
    parts += [f"more{'' if less else ' energy'} than {_named(more)}"] if more else []
    density = run.get("even_density")
    known = "" if density is None else f"its events cost what density {density:.3g} would; "
    return f"{known}it needs {', '.join(parts)}"


def _named(keys: Sequence[Execution]) -> str:
    return listed([f"the {TWINS[key]}" for key in keys])
