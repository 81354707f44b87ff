"""The networks of the table's two kinds of rows."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

from multispike.models.blocks import MaxPool, NeuronFactory, ResidualBlock, conv_bn
from multispike.models.network import Network
from multispike.models.table import STEMS, ResNet, Vgg


def build_vgg(row: Vgg, config: dict[str, Any], neurons: NeuronFactory) -> Network:
    """The network of a `Vgg` row; the first width of its layout is the stem."""
    width = int(row.layout[0])
    stem, body = _stem(config, width)
    encoder = neurons.neuron(neurons.new_threshold(width))
    index = 0
    for position, item in enumerate(row.layout[1:], start=1):
        if item == "M":
            body[f"pool{index}"] = MaxPool()
        elif isinstance(item, int):
            index += 1
            layers = conv_bn(index, width, item)
            if row.dirac:
                conv = layers[f"conv{index}"]
                assert isinstance(conv, nn.Conv2d)
                nn.init.dirac_(conv.weight.data[: min(width, item)])
            body[f"conv{index}"] = layers.pop(f"conv{index}")
            if row.layout[position + 1 : position + 2] == ("P",):
                body[f"pool{index}"] = MaxPool()
            body.update(layers)
            body[f"neuron{index}"] = neurons.neuron(neurons.new_threshold(item))
            width = item
    classifier = OrderedDict[str, nn.Module]()
    if config["classifier"] == "mlp":
        for index in (1, 2):
            classifier[f"hidden{index}"] = nn.Linear(width, 512)
            classifier[f"neuron{index}"] = neurons.neuron(neurons.new_threshold(512))
            width = 512
    classifier["linear"] = nn.Linear(width, config["num_classes"])
    return Network(config, stem, encoder, nn.Sequential(body), nn.Sequential(classifier))


def build_resnet(row: ResNet, config: dict[str, Any], neurons: NeuronFactory) -> Network:
    """The network of a `ResNet` row.

    Neurons whose spikes meet at a sum share one threshold: those of a stage that end a block or a
    shortcut, and in the first stage the encoder, whose spikes are its first identity.
    """
    family, channels = row.family, row.widths[0]
    stem, body = _stem(config, channels)
    shared = neurons.new_threshold(channels)
    encoder = nn.Identity() if family.pre_activation else neurons.neuron(shared)
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


def _stem(config: dict[str, Any], width: int) -> tuple[nn.Sequential, OrderedDict[str, nn.Module]]:
    """The first convolution with its batch norm, and the body's pooling behind it if there is."""
    kernel, stride, pools = STEMS[config["stem"]]
    stem = nn.Sequential(conv_bn(0, config["in_channels"], width, kernel, stride))
    return stem, OrderedDict[str, nn.Module]({"pool0": MaxPool()} if pools else {})
