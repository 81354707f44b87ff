"""Activity and energy of a model in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn

from multispike.activity import Activity, record_activity
from multispike.energy import (
    EnergyReport,
    baselines,
    checked_profile,
    crossover_density,
    even_density,
)
from multispike.energy import energy as price
from multispike.energy.counts import Fanout, GradedOp
from multispike.energy.profiles import Profile, get_profile


def profile(
    model: nn.Module,
    loader: Iterable[Any],
    energy: str | Profile = "lemaire2022",
    bits: int = 32,
    *,
    fanout: Fanout = "lemaire",
    graded_op: GradedOp = "mac",
    max_batches: int | None = None,
) -> EnergyReport:
    """What one inference of any model costs, from its activity on real inputs.

    Args:
        model, loader, max_batches: as for `multispike.activity.record_activity`: our networks,
            plain PyTorch, or neurons of other libraries.
        energy: a profile's name, a YAML file, or a `Profile`.
        bits: width of weights, potentials and operations: 8, 16 or 32.
        fanout, graded_op: as for `multispike.energy.counts`.

    Returns:
        A report with `.total_nj`, `.layers` and `.to_json()`; a model without spiking neurons is
        priced as a dense ANN, evaluated at each of the timesteps that it was given.

    Raises:
        InputError: as `record_activity` and `multispike.energy.energy`.

    >>> import torch
    >>> loader = [(torch.rand(2, 4), torch.tensor([0, 1]))]
    >>> round(profile(nn.Linear(4, 3), loader, "lemaire2022").total_nj, 3)
    0.33
    """
    constants = checked_profile(energy, bits, fanout, graded_op, argument="energy")
    activity = record_activity(model, loader, max_batches=max_batches)
    return _priced(activity, constants, bits, fanout, graded_op)


def _priced(
    activity: Activity, profile: str | Profile, bits: int, fanout: Fanout, graded_op: GradedOp
) -> EnergyReport:
    dense = "ann_stepwise" if any(r.timesteps > 1 for r in activity.records) else "ann"
    return price(
        activity.records,
        profile,
        bits,
        fanout=fanout,
        graded_op=graded_op,
        network="snn" if is_spiking(activity) else dense,
        not_counted=activity.not_counted,
    )


def is_spiking(activity: Activity) -> bool:
    """Whether any neuron sends levels; event frames at the input do not make an ANN spike."""
    return any(layer.levels and layer.path != "sum" for layer in activity.neurons)


def prices(
    activity: Activity,
    energy: str | Profile = "lemaire2022",
    bits: int = 32,
    *,
    fanout: Fanout = "lemaire",
    graded_op: GradedOp = "mac",
) -> dict[str, Any]:
    """A report's `to_json()`; for spiking models also the prices of their ANN and quantised twins
    ("baselines"), the densities at which they win or lose ("crossover"), and the one density that
    costs as much as what was recorded ("even_density")."""
    result = _priced(activity, energy, bits, fanout, graded_op).to_json()
    if is_spiking(activity):
        records, profile = activity.records, get_profile(energy)
        twins = baselines(records, profile, bits, fanout=fanout)
        crossings = crossover_density(records, profile, bits, fanout=fanout, graded_op=graded_op)
        result["baselines"] = {name: twin.to_json()["energy_nj"] for name, twin in twins.items()}
        result["crossover"] = {name: crossing.to_dict() for name, crossing in crossings.items()}
        result["even_density"] = even_density(
            records, profile, bits, fanout=fanout, graded_op=graded_op
        )
    return result


def measure(
    model: nn.Module,
    loader: Iterable[Any],
    energy: str | Profile = "lemaire2022",
    bits: int = 32,
    *,
    fanout: Fanout = "lemaire",
    graded_op: GradedOp = "mac",
    profiles: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """All that one pass over labelled data can say, as the entries of a result.

    Arguments as for `profile`. Beside accuracy, loss, activity and energy: the confusion matrix,
    what neurons and residual sums sent, and for spiking models the prices of their ANN and
    quantised twins with the densities at which they win or lose. "energy_nj_profiles" holds, for
    each further one of `profiles`, "energy_nj" and "baselines" under it.
    """
    for name in (energy, *profiles):
        checked_profile(name, bits, fanout, graded_op)
    activity = record_activity(model, loader, confusion=True, errors=True, progress=progress)

    def priced(profile: str | Profile) -> dict[str, Any]:
        return prices(activity, profile, bits, fanout=fanout, graded_op=graded_op)

    # "layers" and "not_counted" of the activity stand, with their prices, in the prices too.
    result = activity.to_dict() | priced(energy)
    if profiles:
        result["energy_nj_profiles"] = {
            name: {key: value for key, value in priced(name).items() if key in _FURTHER}
            for name in profiles
        }
    return result


_FURTHER = {"energy_nj", "baselines"}
"""What a result keeps of a further profile."""
