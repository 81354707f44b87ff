"""Networks of somebody else's where networks of the table stand.

    def build(num_classes, in_channels): ...  # -> nn.Module

in a file or an installed module (`multispike.plugins`); it may take any other argument of
`create_model` by its name as well, such as `neuron`, `levels` and `timesteps`. Arguments without a
default are those two; a function or class with defaults alone builds what it builds.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from multispike import plugins
from multispike.errors import InputError, invalid
from multispike.models.network import Network
from multispike.models.table import ARCHITECTURES
from multispike.neurons import MultiLevelIF


class OwnNetwork(Network):
    """A module from images [B, C, H, W] to logits [B, classes].

    Of event frames [T, B, C, H, W] time and batch reach it as one axis, [T*B, C, H, W], as the
    neurons of `MultiLevelIF(timesteps=T)` have it; of logits [T*B, classes] the mean over T is
    taken.

    Attributes:
        config: the arguments of `create_model` that made this network.
        timesteps: T.
        module: as it was built.
    """

    def __init__(self, config: dict[str, Any], module: nn.Module) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.timesteps = config["timesteps"]
        self.module = module

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        nn.Module._load_from_state_dict(self, state_dict, prefix, *rest)  # names have no history

    def forward(self, inputs: Tensor) -> Tensor:
        batch, classes = inputs.shape[-4], self.config["num_classes"]
        logits = self.module(inputs.flatten(0, 1) if inputs.dim() == 5 else inputs)
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if shape == [self.timesteps * batch, classes] and self.timesteps > 1:
            return logits.unflatten(0, (self.timesteps, batch)).mean(0)
        if shape != [batch, classes]:
            given = f"{self.config['arch']!r}, whose network gives {shape}"
            raise InputError(f"arch: got {given}, allowed: logits {[batch, classes]}")
        return logits


def own_network(config: dict[str, Any]) -> OwnNetwork:
    """The network that the function of `config["arch"]` builds.

    Raises:
        InputError: naming the place, if the function is gone, raises, or returns no module.
    """
    arch = config["arch"]
    build = plugins.load("arch", arch)
    parameters = inspect.signature(build).parameters.values()
    required = [p for p in parameters if p.default is p.empty and p.kind <= p.POSITIONAL_OR_KEYWORD]
    given = [config["num_classes"], config["in_channels"]][: len(required)]
    taken = [p.name for p in parameters if p not in required[:2]]
    try:
        module = build(*given, **{name: config[name] for name in taken if name in config})
    except Exception as error:  # whatever the code of others raises
        raise plugins.failed("arch", arch, "built", error) from error
    if not isinstance(module, nn.Module):
        raise invalid("arch", arch, f"a function that returns an nn.Module, not {module!r}")
    return OwnNetwork(config, module)


def wrapped(config: dict[str, Any], module: nn.Module) -> Network:
    """A module as the network of a configuration."""
    if isinstance(module, Network) and config["arch"] in ARCHITECTURES:
        return module
    return OwnNetwork(config, module.module if isinstance(module, OwnNetwork) else module)


def check_taken(arch: str, given: Mapping[str, Any]) -> None:
    """Raise `InputError` for the first setting that a function does not take."""
    taken = inspect.signature(plugins.load("arch", arch)).parameters
    for name, value in given.items():
        if name not in taken:
            allowed = f"the default, since {plugins.label(arch)} takes no argument {name}"
            raise invalid(name, value, allowed)


def code_of(network: nn.Module) -> dict[str, Any]:
    """What tells results apart: arch, neuron, levels and timesteps. Of networks that are not of the
    table by the neurons that are in them."""
    config: dict[str, Any] = network.config  # pyright: ignore[reportAssignmentType]
    code = {key: config[key] for key in ("arch", "neuron", "levels", "timesteps")}
    if isinstance(network, OwnNetwork):
        levels = [m.levels for m in network.modules() if isinstance(m, MultiLevelIF)]
        neuron = "relu" if not levels else "binary" if max(levels) == 1 else "multilevel"
        code |= {"arch": plugins.label(config["arch"]), "neuron": neuron}
        code["levels"] = max(levels, default=0)
    return code
