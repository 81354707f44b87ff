"""Activity and energy of a model in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Unpack

from torch import nn

from multispike.activity import record_activity
from multispike.energy.count import Choices, execution
from multispike.energy.pricing import EnergyReport, checked_profile, price_layers
from multispike.energy.profiles import Profile
from multispike.energy.twins import price_run
from multispike.results import Evaluation


def profile(
    model: nn.Module,
    loader: Iterable[Any],
    energy: str | Profile = "lemaire2022",
    bits: int = 32,
    *,
    timesteps: int | None = None,
    max_batches: int | None = None,
    **choices: Unpack[Choices],
) -> EnergyReport:
    """What one inference of any model costs, from its activity on real inputs.

    Args:
        model, loader, timesteps, max_batches: as for `multispike.activity.record_activity`.
        energy: a profile's name, a YAML file, or a `Profile`.
        bits: width of weights, potentials and operations: 8, 16 or 32.
        choices: `fanout` and `graded_op`, as for `multispike.energy.count.count_layer`.

    Returns:
        A report with `.total_nj`, `.layers` and `.to_json()`; a model without spiking neurons is
        priced as a dense ANN, evaluated at each of its timesteps.

    Raises:
        InputError: as `record_activity` and `multispike.energy.pricing.price_layers`.

    >>> import torch
    >>> loader = [(torch.rand(2, 4), torch.tensor([0, 1]))]
    >>> round(profile(nn.Linear(4, 3), loader, "lemaire2022").total_nj, 3)
    0.33
    """
    constants = checked_profile(energy, bits, argument="energy", **choices)
    activity = record_activity(model, loader, timesteps=timesteps, max_batches=max_batches)
    return price_layers(
        activity.records,
        constants,
        bits,
        network=execution(activity.records, activity.spiking),
        not_counted=activity.not_counted,
        **choices,
    )


def evaluate_run(
    model: nn.Module,
    loader: Iterable[Any],
    energy: str | Profile = "lemaire2022",
    bits: int = 32,
    *,
    profiles: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    **choices: Unpack[Choices],
) -> Evaluation:
    """All that one pass over labelled data can say, and what an inference costs.

    Arguments as for `profile`; `energy_nj_profiles` has the prices under each further one of
    `profiles`.
    """
    for name in (energy, *profiles):
        checked_profile(name, bits, **choices)
    activity = record_activity(model, loader, confusion=True, errors=True, progress=progress)
    prices = price_run(
        activity.records,
        energy,
        bits,
        spiking=activity.spiking,
        not_counted=activity.not_counted,
        profiles=profiles,
        **choices,
    )
    measured = {**vars(prices), **vars(activity)}
    del measured["records"]  # each is in its layer
    return Evaluation(**measured)
