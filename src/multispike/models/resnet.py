"""Residual networks: one block, wired by its family's row of the table."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from multispike.models.fusion import Layers, MaxPool
from multispike.models.layers import Merge, NeuronFactory, conv_bn
from multispike.models.network import Network
from multispike.models.table import Family, ResNet


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, for merged [T*B, C, H, W] tensors.

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
        self.path = Layers(OrderedDict(path))
        self.shortcut = Layers(down) if down else nn.Identity()
        self.merge = Merge(family.merge, shared, clip=neurons.kind == "relu")
        after: dict[str | None, nn.Module] = {None: nn.Identity()}
        if family.after_sum == "neuron":
            after["neuron"] = neurons.neuron(neurons.new_threshold(out_channels))
        elif family.after_sum == "barrier":
            after["barrier"] = neurons.barrier(shared)
        self.after = after[family.after_sum]

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.merge(self.path(x), self.shortcut(x)))


def build_resnet(row: ResNet, config: dict[str, Any], neurons: NeuronFactory) -> Network:
    """The network of a `ResNet` row.

    Neurons whose spikes meet at a sum share one threshold: those of a stage that end a block or a
    shortcut, and in the first stage the encoder, whose spikes are its first identity.
    """
    family, width = row.family, row.widths[0]
    kernel, stride = (7, 2) if config["stem"] == "imagenet" else (3, 1)
    stem = nn.Sequential(conv_bn(0, config["in_channels"], width, kernel, stride))
    shared = neurons.new_threshold(width)
    encoder = nn.Identity() if family.pre_activation else neurons.bare(shared)
    body = OrderedDict[str, nn.Module]()
    if config["stem"] == "imagenet":
        body["pool0"] = MaxPool()
    channels = width
    for stage, (width, depth) in enumerate(zip(row.widths, row.depths, strict=True), start=1):
        if stage > 1:
            shared = neurons.new_threshold(width)
        for block in range(1, depth + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            body[f"stage{stage}_block{block}"] = ResidualBlock(
                family, channels, width, stride, neurons, shared
            )
            channels = width
    if family.pre_activation:
        body["neuron"] = neurons.neuron(neurons.new_threshold(channels))
    classifier = nn.Sequential(OrderedDict(linear=nn.Linear(channels, config["num_classes"])))
    return Network(config, stem, encoder, nn.Sequential(body), classifier)
