"""What every architecture is made of: neurons, sums, residual blocks, pooling."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from multispike.models.table import Family
from multispike.neurons import MultiLevelIF, NeuronConfig, barrier, floored
from multispike.ops.pool import max_pool


@dataclass(frozen=True)
class NeuronFactory:
    """Makes the neurons of one network: all with the same settings, or the ANN's ReLUs.

    Attributes:
        kind: "relu", "binary" or "multilevel".
        config: of every neuron, with a number as threshold.
        learn_threshold: "no", "layer" or "channel".
    """

    kind: str
    config: NeuronConfig
    learn_threshold: str

    def new_threshold(self, channels: int) -> float | nn.Parameter:
        """V_th for neurons of one layer, or for all that meet at one sum."""
        if self.kind == "relu" or self.learn_threshold == "no":
            return self.config.threshold  # pyright: ignore[reportReturnType]
        shape = () if self.learn_threshold == "layer" else (channels,)
        return nn.Parameter(torch.full(shape, float(self.config.threshold)))

    def neuron(self, threshold: float | nn.Parameter) -> nn.Module:
        """A neuron for [T*B, ...] tensors."""
        if self.kind == "relu":
            return nn.ReLU()
        return MultiLevelIF(**vars(replace(self.config, threshold=threshold)))

    def barrier(self, threshold: float | nn.Parameter) -> nn.Module:
        """The neuron after a residual sum; a ReLU of an ANN changes nothing."""
        if self.kind == "relu":
            return nn.ReLU()
        return barrier(self.config.levels, threshold, self.config.timesteps)


class MaxPool(nn.MaxPool2d):
    """2x2, stride 2; the last row of an odd size is kept, and 1x1 stays 1x1.

    Training on the CPU it keeps a byte an output for its backward, instead of its input and eight
    bytes.
    """

    def __init__(self) -> None:
        super().__init__(2, ceil_mode=True)

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.requires_grad and input.device.type == "cpu":
            return max_pool(input)[0]
        return super().forward(input)  # pyright: ignore[reportReturnType]


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
        threshold = floored(self.threshold)
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


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, for [T*B, C, H, W] tensors.

    spiking  SN( CB(SN(CB(x))) + shortcut(x) )
    sew      g( SN(CB(SN(CB(x)))), shortcut(x) )
    ms       CB(SN(CB(SN(x)))) + shortcut(x)
    sparse   barrier( SN(CB(SN(CB(x)))) + shortcut(x) )

    The shortcut is the identity, or conv1x1 + BN where stride or width change, followed by a
    neuron where the family fires before the sum.
    """

    def __init__(
        self,
        family: Family,
        in_channels: int,
        out_channels: int,
        stride: int,
        neurons: NeuronFactory,
        shared: float | nn.Parameter,
    ) -> None:
        super().__init__()
        first = conv_bn(1, in_channels, out_channels, 3, stride)
        second = conv_bn(2, out_channels, out_channels)
        before = in_channels if family.pre_activation else out_channels
        neuron1 = {"neuron1": neurons.neuron(neurons.new_threshold(before))}
        neuron2 = {"neuron2": neurons.neuron(neurons.new_threshold(out_channels))}
        if family.pre_activation:
            path = {**neuron1, **first, **neuron2, **second}
        else:
            path = {**first, **neuron1, **second}
        down = OrderedDict[str, nn.Module]()
        if stride != 1 or in_channels != out_channels:
            down.update(conv_bn(0, in_channels, out_channels, 1, stride))
        if family.fires_before_sum:
            path["neuron2"] = neurons.neuron(shared)
            if down:
                down["neuron0"] = neurons.neuron(shared)
        self.path = nn.Sequential(OrderedDict(path))
        self.shortcut = nn.Sequential(down) if down else nn.Identity()
        self.merge = Merge(family.merge, shared, clip=neurons.kind == "relu")
        self.after: nn.Module = nn.Identity()
        if family.after_sum == "neuron":
            self.after = neurons.neuron(neurons.new_threshold(out_channels))
        elif family.after_sum == "barrier":
            self.after = neurons.barrier(shared)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.merge(self.path(x), self.shortcut(x)))
