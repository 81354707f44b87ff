"""A network, and how a row of the table becomes one: stem, encoder, body, classifier."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from multispike.errors import InputError, invalid
from multispike.models.blocks import MaxPool, NeuronFactory, ResidualBlock, conv_bn
from multispike.models.table import FAMILIES, STEMS, ResNet, Vgg

RANDOM_SHARE = 0.25
"""Of the random weights that stay beside an identity. A bare identity hands on a channel that holds
one value (silent, or equal everywhere behind a max-pool), and batch norms, dividing by no variance,
multiply its gradient by 316 a layer: 1e5 at the stem on digits."""


class Network(nn.Module):
    """stem -> encoder -> body -> global pooling -> classifier -> mean over T.

    Static images are direct-coded: the stem (convolution and BN, no neuron) runs once, its output
    drives the encoder, the first neuron layer, in every timestep. Events run the stem per timestep.
    In between, time and batch share the first axis, [T*B, C, H, W].

    Attributes:
        config: the arguments of `create_model` that made this network.
        timesteps: T.
    """

    def __init__(
        self,
        config: dict[str, Any],
        stem: nn.Module,
        encoder: nn.Module,
        body: nn.Module,
        classifier: nn.Module,
    ) -> None:
        super().__init__()
        self.config = config
        self.timesteps: int = config["timesteps"]
        self.stem = stem
        self.encoder = encoder
        self.body = body
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = classifier

    def forward(self, inputs: Tensor) -> Tensor:
        """Images [B, C, H, W], or event frames [T, B, C, H, W] -> logits [B, classes].

        Raises:
            InputError: for another rank, number of channels or number of timesteps.
        """
        if isinstance(inputs, Tensor):  # torch.fx, which `convert` asks, goes through with none
            self._check(inputs)
        x = self.body(self._encoded(inputs))
        logits = self.classifier(self.pool(x).flatten(1))
        if self.timesteps == 1:
            return logits
        return logits.unflatten(0, (self.timesteps, -1)).mean(0)

    def _encoded(self, inputs: Tensor) -> Tensor:
        """What the first neuron layer sends, [T*B, C, H, W]; potentials where there is none."""
        if isinstance(inputs, Tensor) and inputs.dim() == 5:
            return self.encoder(self.stem(inputs.flatten(0, 1)))
        drive = self.stem(inputs)
        if self.timesteps == 1:
            return self.encoder(drive)
        threshold = getattr(self.encoder, "threshold", None)
        if isinstance(threshold, Tensor) and threshold.dim():  # neurons look for channels at axis 1
            return self.encoder(torch.cat([drive] * self.timesteps))
        return self.encoder(_every_step(drive, self.timesteps)).flatten(0, 1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Also takes thresholds by the names that they had while every neuron of the body was the
        child `neuron` of a module that split its axis of time."""
        part = re.escape(prefix) + r"(?:body|classifier)\.(?:.*\.)?(?:neuron\d*|after)"
        for name in list(state_dict):
            if found := re.fullmatch(rf"({part})\.neuron\.threshold", name):
                state_dict[f"{found[1]}.threshold"] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _check(self, inputs: Tensor) -> None:
        channels = self.config["in_channels"]
        wanted = f"[B, {channels}, H, W] or [{self.timesteps}, B, {channels}, H, W]"
        fits = inputs.dim() in (4, 5) and inputs.shape[-3] == channels
        dtype = next(self.parameters()).dtype
        if inputs.dtype != dtype and not torch.is_autocast_enabled(inputs.device.type):
            raise invalid(
                "inputs", inputs.dtype, f"floating-point numbers of {dtype}, as the weights"
            )
        if not fits or (inputs.dim() == 5 and inputs.shape[0] != self.timesteps):
            raise InputError(f"inputs: got shape {list(inputs.shape)}, allowed: {wanted}")


def _every_step(drive: Tensor, timesteps: int) -> Tensor:
    """One drive [B, C, H, W] as a view [T, B, C, H, W] whose gradient comes back in its layout.

    The gradient of `expand` is a sum over T in the order of the axes, not of the memory, and batch
    norm's backward takes 16 times as long if that is not channels_last where the drive is.
    """
    if drive.is_contiguous(memory_format=torch.channels_last):
        return drive.permute(0, 2, 3, 1).expand(timesteps, *(-1,) * 4).permute(0, 1, 4, 2, 3)
    return drive.expand(timesteps, *(-1,) * 4)


def build_vgg(row: Vgg, config: dict[str, Any], neurons: NeuronFactory) -> Network:
    """The network of a `Vgg` row; the first width of its layout is the stem."""
    width = int(row.layout[0])
    stem, body = _stem(config, width)
    shared = neurons.new_threshold(width)
    encoder = neurons.neuron(shared)
    index = 0
    for position, item in enumerate(row.layout[1:], start=1):
        if item == "M":
            body[f"pool{index}"] = MaxPool()
        elif isinstance(item, int):
            index += 1
            layers = conv_bn(index, width, item)
            body[f"conv{index}"] = layers.pop(f"conv{index}")
            if row.layout[position + 1 : position + 2] == ("P",):
                body[f"pool{index}"] = MaxPool()
            body.update(layers)
            width, shared = item, neurons.new_threshold(item)
            body[f"neuron{index}"] = neurons.neuron(shared)
        elif item == "R":
            body[f"block{index}"] = ResidualBlock(
                FAMILIES["sparse"], width, width, 1, neurons, shared
            )
    if row.dirac:
        _start_near_identity(body)
    classifier = OrderedDict[str, nn.Module]()
    if config["classifier"] == "mlp":
        for index in (1, 2):
            classifier[f"hidden{index}"] = nn.Linear(width, 512)
            classifier[f"neuron{index}"] = neurons.neuron(neurons.new_threshold(512))
            width = 512
    classifier["linear"] = nn.Linear(width, config["num_classes"])
    return Network(config, stem, encoder, nn.Sequential(body), nn.Sequential(classifier))


def _start_near_identity(body: OrderedDict[str, nn.Module]) -> None:
    """Convolutions whose first outputs are their inputs, and a share of the random weights."""
    for module in nn.Sequential(body).modules():
        if isinstance(module, nn.Conv2d):
            first = module.weight.data[: module.in_channels]
            identity = nn.init.dirac_(torch.empty_like(first))
            first.mul_(RANDOM_SHARE).add_(identity)


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
