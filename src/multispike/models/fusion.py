"""Layers that keep less for the backward: batch norm and the neurons behind it as one, 2x2 pooling.

In evaluation mode, under `torch.compile` and in exports they are torch's own layers, one after the
other. Parameters, buffers and their names are always those of torch's modules.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from multispike.neurons import MultiLevelIF
from multispike.ops import (
    FusedMaxPool,
    FusedNormSpikes,
    norm_usable,
    pool_usable,
    spikes_kept_as_bytes,
    traced,
)


class OverTime(nn.Module):
    """Runs a neuron on tensors whose first axis merges time and batch, [T*B, ...]."""

    def __init__(self, neuron: MultiLevelIF, timesteps: int) -> None:
        super().__init__()
        self.neuron = neuron
        self.timesteps = timesteps

    def forward(self, x: Tensor) -> Tensor:
        return self.neuron(x.unflatten(0, (self.timesteps, -1))).flatten(0, 1)


class Layers(nn.Sequential):
    """Layers in a row for merged [T*B, ...] tensors, which keep less for the backward in training.

    Batch norm and neurons are fused, and a convolution keeps spikes of neurons like those of this
    row as one byte each. With a learned threshold it keeps them as they are.

    Args: those of `nn.Sequential`.
    """

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not self.training or traced():
            return super().forward(x)
        layers = list(self)
        fused = False
        for layer, following in zip(layers, [*layers[1:], None], strict=True):
            if fused:
                fused = False
                continue
            spikes = None
            if isinstance(layer, nn.BatchNorm2d) and isinstance(following, OverTime):
                steps = following.timesteps
                if not watched(following):
                    over_time = x.unflatten(0, (steps, -1))
                    spikes = normed_spikes(layer, following.neuron, over_time, steps)
            fused = spikes is not None
            if spikes is not None:
                x = spikes.flatten(0, 1)
            elif isinstance(layer, nn.Conv2d):
                with self._spikes_kept():
                    x = layer(x)
            else:
                x = layer(x)
        return x

    def _spikes_kept(self) -> AbstractContextManager[Any]:
        for layer in self:
            if isinstance(layer, OverTime) and isinstance(layer.neuron.threshold, float):
                return spikes_kept_as_bytes(layer.neuron.threshold, layer.neuron.levels)
        return nullcontext()


def normed_spikes(norm: nn.Module, neuron: nn.Module, x: Tensor, timesteps: int) -> Tensor | None:
    """Spikes of a batch norm and the neurons behind it, in one kernel (`FusedNormSpikes`).

    Args:
        norm, neuron: the two layers.
        x: [T, B, C, H, W], or [1, B, C, H, W], which drives every timestep.
        timesteps: T.

    Returns:
        [T, B, C, H, W], or None where the layers have to run on their own: in evaluation mode,
        with hooks, under `torch.compile`, for other types of layers, numbers and devices.
    """
    if type(norm) is not nn.BatchNorm2d or not norm.training or not norm.affine:
        return None
    if type(neuron) is not MultiLevelIF or watched(norm, neuron) or x.dim() != 5:
        return None
    threshold = neuron.threshold_for(x)
    if not norm_usable(x, norm.weight, norm.bias, threshold, neuron.spec):
        return None
    spikes, statistics = FusedNormSpikes.apply(  # pyright: ignore[reportGeneralTypeIssues]
        x, norm.weight, norm.bias, threshold, neuron.spec, timesteps, norm.eps
    )
    if norm.running_mean is not None and norm.running_var is not None:
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked += 1
        share = norm.momentum
        share = 1 / norm.num_batches_tracked.item() if share is None else share
        mean, variance = statistics
        norm.running_mean.lerp_(mean, share)
        norm.running_var.lerp_(variance, share)
    return spikes


def watched(*modules: nn.Module) -> bool:
    """Whether someone waits for the inputs or outputs of these modules themselves."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    own = any(getattr(module, name) for module in modules for name in hooks)
    return own or bool(_has_any_global_hook())


class MaxPool(nn.MaxPool2d):
    """2x2, stride 2; the last row of an odd size is kept, and 1x1 stays 1x1.

    In training it keeps a byte an output for its backward, instead of its input and eight bytes.
    """

    def __init__(self) -> None:
        super().__init__(2, ceil_mode=True)

    def forward(self, input: Tensor) -> Tensor:
        return FusedMaxPool.apply(input) if pool_usable(input) else super().forward(input)  # pyright: ignore[reportReturnType]
