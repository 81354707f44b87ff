"""A trained network of anyone's with graded spikes in the place of its activation functions."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from multispike.activation_sites import (
    EXACT,
    NEAR,
    AnalogFunctions,
    Probe,
    replace_modules,
    with_probes,
)
from multispike.device import device_of
from multispike.errors import InputError, invalid, unknown
from multispike.neurons import MIN_THRESHOLD, MultiLevelIF, NeuronConfig
from multispike.progress import telling


def convert(
    model: nn.Module,
    calibration: Tensor | Iterable[Any],
    levels: int = 4,
    timesteps: int = 1,
    *,
    method: str = "mse",
    percentile: float = 99.9,
    per: str = "layer",
    surrogate: str = "clip",
    learn_threshold: bool = False,
) -> nn.Module:
    """A copy of a network whose activation functions are multi-level neurons.

    ReLU, ReLU6 and Hardtanh are replaced, as modules or as functions that a `forward` calls; SiLU,
    GELU and Hardswish too, with a warning, since they have to be trained on. Neurons round
    (`v_init` 0.5); those that meet at one sum have one threshold. Where the class calls functions,
    or one module at several places, the copy is a `torch.fx.GraphModule` with the same names of
    weights. For several timesteps it gets its input T times and gives the mean of its outputs.

    Args:
        model: maps inputs [B, ...] to outputs; it is left as it is.
        calibration: inputs [B, ...], or batches, inputs or (inputs, ...), of what is to come; a
            few hundred samples will do.
        levels: N, the largest level of a neuron.
        timesteps: T.
        method: "mse" (the least square error against the activation function) or "percentile" (of
            what it passes).
        percentile: for that.
        per: "layer", or "channel" (axis 1): one threshold each.
        surrogate, learn_threshold: as for `MultiLevelIF`.

    Raises:
        InputError: for an argument out of range, a model that fails or has nothing to replace, and
            calibration data that are missing, not finite, or leave a layer without a value above 0.

    Warns:
        UserWarning: naming what stays analog, and what has to be trained on.

    >>> ann = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> snn = convert(ann, torch.tensor([[1.0, 2.0], [-3.0, 0.5]]), levels=8)
    >>> type(snn[1]).__name__, snn[1].levels, type(ann[1]).__name__
    ('MultiLevelIF', 8, 'ReLU')
    """
    if not isinstance(model, nn.Module):
        raise invalid("model", type(model).__name__, "a torch.nn.Module")
    NeuronConfig(levels, 1.0, surrogate, v_init=0.5, timesteps=timesteps)
    if method not in ("mse", "percentile"):
        raise unknown("method", method, ("mse", "percentile"))
    if per not in ("layer", "channel"):
        raise unknown("per", per, ("layer", "channel"))
    if not 0 < percentile <= 100:
        raise invalid("percentile", percentile, "a number in (0, 100]")
    model = getattr(model, "_orig_mod", model)
    probed, probes, why = with_probes(copy.deepcopy(model), per == "channel")
    if not probes:
        names = ", ".join(kind.__name__ for kind in (*EXACT, *NEAR))
        raise invalid("model", type(model).__name__, f"a network with {names}{why}")
    device = device_of(model)
    with telling("calibrating"):
        left = _calibrate(probed, calibration, device)
    used = [probe for probe in probes if probe.columns]
    groups: dict[Any, list[Probe]] = {}
    for probe in used:  # those that no graph has seen have thresholds of their own
        groups.setdefault(probe.group or probe, []).append(probe)
    for group in groups.values():
        if method == "mse":
            threshold = _threshold(group, lambda x, y: _least_error(x, y, levels, timesteps))
        else:
            threshold = _threshold(group, lambda _, y: _percentile(y, percentile))
        if len(threshold) > 1 or learn_threshold:
            threshold = threshold.squeeze().clamp_min(MIN_THRESHOLD).to(device)
            shared = nn.Parameter(threshold, requires_grad=learn_threshold)
        else:
            shared = threshold.item()
        for probe in group:
            probe.neuron = MultiLevelIF(
                levels, shared, surrogate, v_init=0.5, detach_reset=False, timesteps=timesteps
            )
    replace_modules(probed, lambda m: (m.neuron or m.function) if isinstance(m, Probe) else None)
    _tell(used, left, why)
    converted = probed.train(model.training)
    return converted if timesteps == 1 else EveryStep(converted, timesteps)


class EveryStep(nn.Module):
    """A network of T timesteps that takes [B, ...] T times and gives the mean of its outputs."""

    def __init__(self, network: nn.Module, timesteps: int) -> None:
        super().__init__()
        self.network, self.timesteps = network, timesteps

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.network(torch.cat([x] * self.timesteps))
        return outputs.unflatten(0, (self.timesteps, -1)).mean(0)


@torch.no_grad()
def _calibrate(model: nn.Module, calibration: Any, device: torch.device) -> list[str]:
    """Run data through a network in evaluation mode; what it computes beside linear layers."""
    if not isinstance(calibration, (Tensor, Iterable)):
        raise invalid("calibration", type(calibration).__name__, "inputs, or batches of them")
    analog, count = AnalogFunctions(model), 0
    model.eval()
    with ExitStack() as hooks:
        for module in model.modules():
            hooks.enter_context(module.register_forward_pre_hook(analog.enter))
            hooks.enter_context(module.register_forward_hook(analog.leave))
        for batch in [calibration] if isinstance(calibration, Tensor) else calibration:
            inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
            if not isinstance(inputs, Tensor) or not len(inputs):
                break
            try:
                with analog:
                    model(inputs.to(device))
            except InputError:
                raise
            except Exception as error:
                raise InputError(
                    f"model: forward failed on calibration batch {count}, inputs"
                    f" {list(inputs.shape)}: {str(error).strip().splitlines()[0]};"
                    " allowed: data that it takes"
                ) from error
            count += 1
    if not count:
        raise invalid("calibration", "no inputs", "a tensor [B, ...], or batches of inputs")
    return list(analog.found)


def _threshold(group: list[Probe], search: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Thresholds [C], or [1], of neurons that belong together, by inputs and outputs [C, n] of the
    functions that they replace. A channel that never fires has the largest of the others.
    """
    inputs = [torch.cat(probe.columns, 1) for probe in group]
    if len({len(x) for x in inputs}) > 1:  # channels of a sum that was concatenated
        inputs = [x.reshape(1, -1) for x in inputs]
    outputs = [probe.function(x.clone()) for probe, x in zip(group, inputs, strict=True)]
    for probe, y in zip(group, outputs, strict=True):
        if y.amax() <= 0:
            got = f"no value above 0 at {probe.name}"
            raise invalid("calibration", got, "data on which every layer fires")
    thresholds = search(torch.cat(inputs, 1), torch.cat(outputs, 1))
    return torch.where(thresholds > 0, thresholds, thresholds.max())


def _percentile(y: Tensor, percentile: float) -> Tensor:
    found = []
    for row in y:
        row = row[row > 0].sort().values
        place = math.ceil(len(row) * percentile / 100) - 1
        found.append(row[max(place, 0)] if len(row) else y.new_zeros(()))
    return torch.stack(found)


def _least_error(x: Tensor, y: Tensor, levels: int, timesteps: int) -> Tensor:
    """The threshold whose spikes, decoded, are nearest to y in the mean square.

    Between y's largest value and 1/70 of it, first by steps of a fifth, then of a twentieth.
    """
    best = y.amax(1, keepdim=True).clamp_min(0)
    for factor, powers in ((0.8, range(20)), (0.95, range(-4, 5))):
        start, least = best, torch.full_like(best, torch.inf)
        for power in powers:
            unit = start * factor**power / levels
            sent = (x * (timesteps / unit) + 0.5).floor().clamp(0, levels * timesteps)
            error = (sent * (unit / timesteps) - y).square().mean(1, keepdim=True)
            best = torch.where(error < least, unit * levels, best)
            least = torch.minimum(error, least)
    return best[:, 0]


def _tell(used: list[Probe], left: list[str], why: str) -> None:
    """Warn of what has to be trained on, of what stays analog, and of what was not seen."""
    near = [probe.name for probe in used if isinstance(probe.function, NEAR)]
    near += [probe.name for probe in used if getattr(probe.function, "min_val", 0) < 0]
    for told, line in (
        (near, f"neurons pass nothing below zero, as these did: train on ({', '.join(near)})"),
        (why, f"thresholds of neurons that meet at a sum are not shared{why}"),
        (left, f"these stay analog: {', '.join(left)}"),
    ):
        if told:
            warnings.warn(line, UserWarning, stacklevel=3)
