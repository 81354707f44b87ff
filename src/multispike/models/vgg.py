"""VGG-like networks: a layout of convolutions and poolings becomes layers."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

from multispike.models.fusion import Layers, MaxPool
from multispike.models.layers import NeuronFactory, conv_bn
from multispike.models.network import Network
from multispike.models.table import Vgg


def build_vgg(row: Vgg, config: dict[str, Any], neurons: NeuronFactory) -> Network:
    """The network of a `Vgg` row; the first width of its layout is the stem."""
    width = int(row.layout[0])
    stem = nn.Sequential(conv_bn(0, config["in_channels"], width, *_STEMS[config["stem"]]))
    encoder = neurons.bare(neurons.new_threshold(width))
    body = OrderedDict[str, nn.Module]()
    if config["stem"] == "imagenet":
        body["pool0"] = MaxPool()
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
    classifier = _classifier(width, config, neurons)
    return Network(config, stem, encoder, Layers(body), classifier)


_STEMS = {"cifar": (3, 1), "imagenet": (7, 2)}  # kernel, stride


def _classifier(width: int, config: dict[str, Any], neurons: NeuronFactory) -> nn.Module:
    layers = OrderedDict[str, nn.Module]()
    if config["classifier"] == "mlp":
        for index in (1, 2):
            layers[f"hidden{index}"] = nn.Linear(width, 512)
            layers[f"neuron{index}"] = neurons.neuron(neurons.new_threshold(512))
            width = 512
    layers["linear"] = nn.Linear(width, config["num_classes"])
    return nn.Sequential(layers)
