"""The NIR graph, read back from its file and evaluated node by node, against the reference."""

import numpy as np
import pytest
import torch
from test_deploy_integer import MEAN, STD, images, realistic

from multispike.deploy.nir_graph import export_nir
from multispike.deploy.quantise import quantise
from multispike.errors import InputError

nir = pytest.importorskip("nir")

EVEN = (2, 8, 8)


def evaluate(graph, pixels: torch.Tensor) -> torch.Tensor:
    """What the nodes' definitions say, edges into one node added up."""
    values = {"image": pixels.double()}
    waiting = dict(graph.nodes)
    del waiting["image"]
    while waiting:
        for name, node in list(waiting.items()):
            sources = [a for a, b in graph.edges if b == name]
            if all(source in values for source in sources):
                values[name] = apply(node, sum(values[source] for source in sources))
                del waiting[name]
    return values["logits"]


def apply(node, x: torch.Tensor) -> torch.Tensor:
    match node:
        case nir.Conv2d():
            weight, bias = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
            stride, padding = [tuple(int(n) for n in pair) for pair in (node.stride, node.padding)]
            return torch.nn.functional.conv2d(x, weight.double(), bias.double(), stride, padding)
        case nir.Threshold():
            return (x > torch.from_numpy(node.threshold)).double()
        case nir.Scale():
            return x * torch.from_numpy(node.scale)
        case nir.SumPool2d():
            window = tuple(int(n) for n in node.kernel_size)
            assert tuple(node.stride) == window
            return torch.nn.functional.avg_pool2d(x, window) * np.prod(window)
        case nir.Flatten():
            return x.flatten(1)
        case nir.Affine():
            return x @ torch.from_numpy(node.weight).double().T + torch.from_numpy(node.bias)
        case nir.Output():
            return x
    raise AssertionError(type(node))


def network_of(arch, timesteps=1, levels=4, **options):
    model = realistic(arch, timesteps, levels, **options)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.abs_()
    return quantise(model, MEAN, STD, EVEN)


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("fastnet", {}),
        ("vgg", {"classifier": "mlp"}),
        ("spiking_resnet", {}),
        ("sew_resnet", {}),
        ("sparse_resnet", {"stem": "imagenet"}),
    ],
)
@pytest.mark.parametrize("levels", [1, 4])
def test_nir_gives_the_integer_logits(arch, options, levels, tmp_path):
    network = network_of(arch, levels=levels, **options)
    export_nir(network, tmp_path / "model.nir")
    graph = nir.read(tmp_path / "model.nir")
    pixels = images(4, seed=8)[..., :7]
    pixels = torch.nn.functional.pad(pixels, (0, 1))[..., :8, :]
    assert np.array_equal(evaluate(graph, pixels).numpy(), network.forward(pixels))
    assert len(np.unique(network.forward(pixels))) > 4
    assert float(graph.metadata["logit_scale"]) == network.logit_scale


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ("sparse_resnet", {"timesteps": 2}, r"^timesteps: got 2, allowed: 1 .*soft reset"),
        ("ms_resnet", {}, r"^stem: got 'fixed-point potentials'"),
        ("sew_and_resnet", {}, r"merge: got 'and'"),
    ],
)
def test_what_nir_cannot_say_is_refused(arch, options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        export_nir(network_of(arch, **options), tmp_path / "model.nir")
    assert not list(tmp_path.iterdir())


def test_negative_scales_and_odd_pools_are_refused(tmp_path):
    model = realistic("fastnet")
    with pytest.raises(InputError, match=r"^body.neuron1: got 'a negative scale'"):
        export_nir(quantise(model, MEAN, STD, EVEN), tmp_path / "model.nir")
    with pytest.raises(InputError, match=r"pool0: got .*even sizes"):
        export_nir(quantise(realistic("vgg"), MEAN, STD, (2, 9, 8)), tmp_path / "model.nir")
