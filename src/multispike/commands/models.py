"""`multispike models`: every architecture with its size."""

from __future__ import annotations

from rich.table import Table

from multispike.config.commands import ModelsConfig
from multispike.files import console_beside, write_json
from multispike.models import create_model, list_models
from multispike.models.table import ARCHITECTURES, ResNet


def count_macs(network, shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of one image [C, H, W] and one timestep, convolutions and linear layers.

    >>> count_macs(create_model("vgg16"), (3, 32, 32))
    313201664
    """
    import torch
    from torch import nn

    total = 0

    def add(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        total += weight[0].numel() * output[0].numel()

    hooks = [
        module.register_forward_hook(add)
        for module in network.modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    try:
        with torch.device("meta"), torch.no_grad():
            network.to("meta").eval()(torch.empty(1, *shape))
    finally:
        for hook in hooks:
            hook.remove()
    return total


def rows() -> list[dict[str, str | int]]:
    """One dict an architecture: name, what crosses the shortcut, params, macs at 32x32."""
    import torch

    crossing = {"ms": "potentials", "sew": "spikes, growing"}
    table = []
    for name in list_models():
        with torch.device("meta"):
            network = create_model(name, neuron="relu")
        residual = ""
        if isinstance(ARCHITECTURES[name], ResNet):
            residual = crossing.get(name.rpartition("_")[0], "spikes, at most N")
        params = sum(parameter.numel() for parameter in network.parameters())
        macs = count_macs(network, (3, 32, 32))
        table.append({"name": name, "shortcut": residual, "params": params, "macs": macs})
    return table


def show(settings: ModelsConfig) -> None:
    """Print the table; write it as JSON if asked for."""
    table = Table(title="Architectures (3x32x32 input, 10 classes, one timestep)")
    for column in ("name", "across the shortcut"):
        table.add_column(column)
    for column in ("parameters", "MACs"):
        table.add_column(column, justify="right")
    listed = rows()
    for row in listed:
        table.add_row(
            str(row["name"]), str(row["shortcut"]), f"{row['params']:,}", f"{row['macs']:,}"
        )
    console_beside(settings.json).print(table)
    if settings.json:
        write_json(settings.json, listed)
