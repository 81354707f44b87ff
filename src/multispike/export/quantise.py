"""From a network of `create_model` to an integer one: which layers it becomes.

How numbers are rounded, and in which units, is `folding`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from multispike.errors import InputError, invalid
from multispike.export.folding import Drive, Floats, LayerBuilder, Signal, fold, identity, project
from multispike.export.layers import GlobalSum, MaxPool, Merge, Shape, pooled_shape
from multispike.export.network import IntegerNetwork
from multispike.models.blocks import ResidualBlock
from multispike.models.network import Network
from multispike.neurons import MultiLevelIF


def quantise(
    model: Network,
    mean: Sequence[float],
    std: Sequence[float],
    input_shape: Shape,
    events: bool = False,
) -> IntegerNetwork:
    """The integer network of a trained `model`.

    Args:
        model: of `create_model`, in evaluation mode or not (running statistics are used).
        mean, std: one a channel; the model was trained on (pixel/255 - mean) / std.
        input_shape: (C, H, W) of the uint8 input.
        events: inputs are event frames [T, B, C, H, W].

    Raises:
        InputError: naming what integers can't carry, and what to do.

    >>> from multispike.models import create_model
    >>> model = create_model("sparse_resnet20", in_channels=1)
    >>> network = quantise(model, [0.5], [0.25], (1, 8, 8))
    >>> network.forward(np.zeros((2, 1, 8, 8), np.uint8)).shape
    (2, 10)
    """
    _refuse(model)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise invalid(name, "NaN or infinite values", "finite numbers")
    channels = model.config["in_channels"]
    if len(input_shape) != 3 or input_shape[0] != channels or min(input_shape) < 1:
        raise invalid("input_shape", input_shape, f"({channels}, H, W)")
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels or not np.isfinite(values).all():
            raise invalid(name, list(values), f"{channels} finite numbers")
    if min(std) <= 0:
        raise invalid("std", list(std), "numbers > 0")
    walker = _Walker(model, mean, std, input_shape)
    return IntegerNetwork(
        arch=model.config["arch"],
        input_shape=input_shape,
        timesteps=model.timesteps,
        events=events,
        layers=tuple(walker.builder.layers),
        logit_scale=walker.logit_unit / model.timesteps,
    )


def rounded_weights(
    model: Network, mean: Sequence[float], std: Sequence[float], input_shape: Shape
) -> dict[str, Floats]:
    """Each convolution's and linear layer's own weights as `quantise` rounds them, by name.

    Arguments and errors as for `quantise`. Linear weights are [No, Ni, 1, 1].
    """
    _refuse(model)
    return _Walker(model, mean, std, input_shape).builder.rounded


class _Walker:
    """Walks a `Network` in execution order: the one place that knows its classes."""

    def __init__(
        self, model: Network, mean: Sequence[float], std: Sequence[float], input_shape: Shape
    ) -> None:
        neurons = [module for module in model.modules() if isinstance(module, MultiLevelIF)]
        self.builder = LayerBuilder(input_shape, model.timesteps, mean, std, neurons)
        drive = self.run("stem", model.stem, self.builder.image)
        assert isinstance(drive, Drive)
        if isinstance(model.encoder, nn.Identity):
            encoded = self.builder.potentials("stem", [drive])
        else:
            encoded = self.run("encoder", model.encoder, drive)
        body = self.run("body", model.body, encoded)
        assert isinstance(body, Signal)
        channels, *size = body.shape
        mean_worth = body.worth / (size[0] * size[1])
        pool = self.builder.add(GlobalSum("pool", (channels, 1, 1), body.name), mean_worth)
        logits = self.run("classifier", model.classifier, pool)
        assert isinstance(logits, Drive)
        self.logit_unit = self.builder.readout(logits)

    def run(self, name: str, module: nn.Module, x: Signal | Drive) -> Signal | Drive:
        """`module` applied to x."""
        match module:
            case nn.Sequential():
                for child, part in module.named_children():
                    x = self.run(f"{name}.{child}", part, x)
                return x
            case nn.Identity():
                return x
            case ResidualBlock():
                assert isinstance(x, Signal)
                return self.block(name, module, x)
            case nn.Conv2d() | nn.Linear():
                assert isinstance(x, Signal)
                return project(name, module, x)
            case nn.BatchNorm2d():
                assert isinstance(x, Drive)
                return fold(module, x)
            case nn.MaxPool2d() if isinstance(x, Drive):
                return replace(x, shape=pooled_shape(x.shape), pools=True)
            case nn.MaxPool2d():
                assert isinstance(x, Signal)
                return self.builder.add(MaxPool(name, pooled_shape(x.shape), x.name), x.worth)
            case MultiLevelIF():
                drive = x if isinstance(x, Drive) else identity(f"{name}.input", x)
                return self.builder.neurons(name, module, [drive])
        raise invalid(name, type(module).__name__, "the layers of `create_model`'s networks")

    def block(self, name: str, block: ResidualBlock, x: Signal) -> Signal:
        """A residual block of any family; what meets at its sum tells which."""
        merge = f"{name}.merge"
        path = self.run(f"{name}.path", block.path, x)
        shortcut = self.run(f"{name}.shortcut", block.shortcut, x)
        after = block.after if isinstance(block.after, MultiLevelIF) else None
        if isinstance(path, Signal):
            assert isinstance(shortcut, Signal)
            if not np.array_equal(path.worth, shortcut.worth):
                allowed = "one on both sides of a sum"
                raise InputError(f"{merge}: got two thresholds, allowed: {allowed}")
            if after is None:
                names = path.name, shortcut.name
                layer = Merge(merge, path.shape, block.merge.kind, *names)
                return self.builder.add(layer, path.worth)
            path = identity(f"{merge}.path", path)
        if isinstance(shortcut, Signal):
            shortcut = identity(f"{merge}.shortcut", shortcut)
        if after is None:
            return self.builder.potentials(merge, [path, shortcut])
        return self.builder.neurons(f"{name}.after", after, [path, shortcut])


def _refuse(model: Network) -> None:
    """Raise `InputError` for networks that integers can't carry, before any work."""
    if not isinstance(model, Network):
        raise invalid("model", type(model).__name__, "a network of `create_model`")
    if model.config["neuron"] == "relu":
        raise InputError(
            "neuron: got 'relu', allowed: 'binary', 'multilevel' (an ANN's activations are no"
            " events: train with one of those, or export the ANN itself to ONNX)"
        )
    levels = model.config["levels"]
    for name, module in model.named_modules():
        if levels > 1 and isinstance(module, ResidualBlock) and module.merge.kind != "add":
            raise InputError(
                f"levels: got {levels}, allowed: 1 ({module.merge.kind} of {name}"
                " is logic on binary spikes; graded ones it takes out of the integers: use ADD)"
            )
    if levels > 255:
        raise invalid("levels", levels, "at most 255: one byte a level")
