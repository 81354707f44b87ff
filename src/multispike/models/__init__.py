"""The registry of architectures: `create_model` builds a network of a row of `table`."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

from multispike.errors import invalid, is_count, unknown
from multispike.models.table import ARCHITECTURES, NEURONS, STEMS, Vgg
from multispike.plugins import check_name
from multispike.pretrained import PRETRAINED

if TYPE_CHECKING:
    from multispike.models.network import Network

MOST = 65_536
"""Classes, channels or timesteps of a network: what asks for more is damaged."""

DEFAULT_LEVELS = {"relu": 0, "binary": 1, "multilevel": 4}


def list_models() -> list[str]:
    """Names of the table, sorted; `create_model` takes networks of your own as well.

    >>> "sparse_resnet18" in list_models()
    True
    """
    return sorted(ARCHITECTURES)


def create_model(
    arch: str,
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    neuron: str = "multilevel",
    levels: int | None = None,
    timesteps: int = 1,
    stem: str = "cifar",
    classifier: str = "linear",
    threshold: float = 1.0,
    surrogate: str = "sigmoid",
    alpha: float = 5.0,
    v_init: float = 0.0,
    beta: float = 1.0,
    detach_reset: bool = True,
    learn_threshold: str = "no",
    pretrained: bool | str = False,
) -> Network:
    """A network of the table, with ReLU, binary or multi-level neurons; or somebody else's.

    Args:
        arch: a name of `list_models()`, or where a function of your own is, see
            `multispike.models.own`.
        num_classes, in_channels: of the data; an event camera has 2 channels (ON, OFF).
        neuron: "relu" (the ANN), "binary" (N = 1) or "multilevel".
        levels: N; 4 for "multilevel" unless given, always 1 for "binary".
        timesteps: T.
        stem: "cifar" (3x3, stride 1) or "imagenet" (7x7, stride 2, max-pool).
        classifier: "linear", or "mlp" for VGGs (two hidden layers of 512).
        learn_threshold: "no", "layer" or "channel".
        pretrained: True, or a name of `multispike pretrained`: with the weights and the settings of
            that network, which travels with the package.
        threshold, surrogate, alpha, v_init, beta, detach_reset: see `MultiLevelIF`.

    Raises:
        InputError: naming the argument, its value and what is allowed.

    >>> import torch
    >>> model = create_model("fastnet", in_channels=1, levels=4, timesteps=2)
    >>> model(torch.rand(3, 1, 8, 8)).shape
    torch.Size([3, 10])
    """
    if pretrained:
        return _pretrained(arch, pretrained, {**locals()})
    check_name("arch", arch, ARCHITECTURES)
    if neuron not in NEURONS:
        raise unknown("neuron", neuron, NEURONS)
    if stem not in STEMS:
        raise unknown("stem", stem, STEMS)
    row = ARCHITECTURES.get(arch)
    if classifier not in ("linear", "mlp") or (classifier == "mlp" and not isinstance(row, Vgg)):
        raise invalid("classifier", classifier, "'linear', or 'mlp' with a VGG")
    if learn_threshold not in ("no", "layer", "channel"):
        raise unknown("learn_threshold", learn_threshold, ("no", "layer", "channel"))
    for name, value in {
        "num_classes": num_classes,
        "in_channels": in_channels,
        "timesteps": timesteps,
    }.items():
        if not is_count(value) or value > MOST:
            raise invalid(name, value, f"an integer >= 1, at most {MOST:,}")
    if levels is None or neuron == "relu":
        levels = DEFAULT_LEVELS[neuron]
    if neuron == "binary" and levels != 1:
        raise invalid("levels", levels, "1 with neuron='binary'")
    config = dict(
        arch=arch, num_classes=num_classes, in_channels=in_channels, neuron=neuron, levels=levels,
        timesteps=timesteps, stem=stem, classifier=classifier, threshold=threshold,
        surrogate=surrogate, alpha=alpha, v_init=v_init, beta=beta, detach_reset=detach_reset,
        learn_threshold=learn_threshold,
    )  # fmt: skip

    if row is None:
        from multispike.models.own import own_network

        return own_network(config)

    from multispike.models.blocks import NeuronFactory
    from multispike.models.network import build_resnet, build_vgg
    from multispike.neurons import NeuronConfig

    settings = NeuronConfig(
        1 if neuron == "relu" else levels, threshold, surrogate, alpha, v_init, beta, detach_reset,
        learn_threshold != "no", timesteps,
    )  # fmt: skip
    neurons = NeuronFactory(neuron, settings, learn_threshold)
    if isinstance(row, Vgg):
        return build_vgg(row, config, neurons)
    return build_resnet(row, config, neurons)


def _pretrained(arch: str, name: bool | str, given: dict[str, Any]) -> Network:
    """The network of a checkpoint that travels with the package; `InputError` for other settings
    than it was trained with."""
    import torch

    floats = {key: row for key, row in PRETRAINED.items() if row.file.endswith(".ckpt")}
    key = next((k for k, row in floats.items() if row.arch == arch and name in (True, k)), None)
    if key is None:
        shipped = ", ".join(f"{key} of {row.arch}" for key, row in floats.items())
        raise invalid("pretrained", name, f"none of {arch}; shipped are {shipped}")
    content = torch.load(floats[key].path, weights_only=True)
    config = content["multispike"]["model"]
    for setting, parameter in signature(create_model).parameters.items():
        value, trained = given[setting], config.get(setting)
        if setting in config and value not in (parameter.default, trained):
            raise invalid(setting, value, f"{trained!r}, which {key} was trained with")
    network = create_model(**config)
    weights = content["state_dict"].items()
    network.load_state_dict({name.removeprefix("network."): value for name, value in weights})
    return network
