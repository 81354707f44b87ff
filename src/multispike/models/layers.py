"""The pieces that every architecture is made of: neurons over merged time, sums, conv + BN."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from multispike.models.fusion import OverTime
from multispike.neurons import MultiLevelIF, acting, barrier


@dataclass(frozen=True)
class NeuronFactory:
    """Makes the neurons of one network: all with the same constants, `relu` for the ANN.

    Attributes:
        learn_threshold: "no", "layer" or "channel".
        The others are those of `MultiLevelIF`.
    """

    kind: str
    levels: int
    timesteps: int
    threshold: float
    surrogate: str
    alpha: float
    v_init: float
    beta: float
    detach_reset: bool
    learn_threshold: str

    def __post_init__(self) -> None:
        self._spiking(self.threshold, self.learn_threshold != "no")  # refuses what an ANN ignores

    def new_threshold(self, channels: int) -> float | nn.Parameter:
        """V_th for neurons of one layer, or for all that meet at one sum."""
        if self.kind == "relu" or self.learn_threshold == "no":
            return self.threshold
        shape = () if self.learn_threshold == "layer" else (channels,)
        return nn.Parameter(torch.full(shape, self.threshold))

    def bare(self, threshold: float | nn.Parameter) -> nn.Module:
        """A neuron for [T, B, ...] tensors."""
        if self.kind == "relu":
            return nn.ReLU()
        return self._spiking(threshold)

    def _spiking(
        self, threshold: float | nn.Parameter, learn_threshold: bool = False
    ) -> MultiLevelIF:
        return MultiLevelIF(
            1 if self.kind == "relu" else self.levels,
            threshold,
            self.surrogate,
            self.alpha,
            self.v_init,
            self.beta,
            self.detach_reset,
            learn_threshold,
        )

    def neuron(self, threshold: float | nn.Parameter) -> nn.Module:
        """A neuron for merged [T*B, ...] tensors."""
        return self._over_time(self.bare(threshold))

    def barrier(self, threshold: float | nn.Parameter) -> nn.Module:
        """The neuron after a residual sum, for merged tensors; a ReLU of an ANN changes nothing."""
        return (
            nn.ReLU() if self.kind == "relu" else self._over_time(barrier(self.levels, threshold))
        )

    def _over_time(self, neuron: nn.Module) -> nn.Module:
        return OverTime(neuron, self.timesteps) if isinstance(neuron, MultiLevelIF) else neuron


class Merge(nn.Module):
    """Where the block's path a and the shortcut b meet (SEW-ResNet's g): add, and, iand.

    With one threshold V_th on both sides: a + b, a*b/V_th, (V_th - a)*b/V_th. The last two are
    logic for binary spikes; for graded ones they are their natural, but not integer, extension.
    `clip` bounds both sides by V_th first: an ANN's activations are not bounded by themselves, and
    products of products of them overflow.
    """

    def __init__(self, kind: str, threshold: float | nn.Parameter, clip: bool = False) -> None:
        super().__init__()
        self.kind = kind
        self.threshold = 1.0 if kind == "add" else threshold  # a sum needs none
        self.clip = clip

    def forward(self, path: Tensor, shortcut: Tensor) -> Tensor:
        if self.kind == "add":
            return path + shortcut
        threshold = acting(self.threshold)
        if isinstance(threshold, Tensor) and threshold.dim():
            threshold = threshold.view(-1, 1, 1)
        if self.clip:
            path, shortcut = path.clamp(max=threshold), shortcut.clamp(max=threshold)
        if self.kind == "iand":
            path = threshold - path
        return path * shortcut / threshold

    def extra_repr(self) -> str:
        return self.kind


def conv_bn(
    index: int, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1
) -> OrderedDict[str, nn.Module]:
    """Convolution without bias + batch norm, named conv{index} and bn{index}."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return OrderedDict({f"conv{index}": conv, f"bn{index}": nn.BatchNorm2d(out_channels)})
