"""The NIR file, loaded as a torch module by nirtorch, against the reference."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_deploy_integer import MEAN, STD, images, realistic

from multispike.errors import InputError
from multispike.export.layers import HALVING, MaxPool, Window, pooled_shape
from multispike.export.nir import export_nir, nir_graph
from multispike.export.quantise import quantise

nir = pytest.importorskip("nir")

EVEN = (2, 8, 8)


class Elementwise(torch.nn.Module):
    """A node that compares with, or multiplies by, a constant an element."""

    def __init__(self, function, constant: np.ndarray) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("constant", torch.from_numpy(constant))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, self.constant).to(x.dtype)


def linear(node) -> torch.nn.Linear:
    """nirtorch 2.6 leaves out the bias of an Affine."""
    module = torch.nn.Linear(*node.weight.shape[::-1])
    module.weight.data = torch.from_numpy(node.weight)
    module.bias.data = torch.from_numpy(node.bias)
    return module


def loaded(path) -> torch.nn.Module:
    """What nirtorch makes of the file; nodes that it doesn't know follow NIR's definitions."""
    nirtorch = pytest.importorskip("nirtorch")
    nodes = {
        nir.Threshold: lambda node: Elementwise(torch.gt, node.threshold),
        nir.Scale: lambda node: Elementwise(torch.mul, node.scale),
        nir.Affine: linear,
    }
    return nirtorch.nir_to_torch(path, nodes, dtype=torch.float64)


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
    pixels = images(4, seed=8)[..., :7]
    pixels = torch.nn.functional.pad(pixels, (0, 1))[..., :8, :]
    module = loaded(tmp_path / "model.nir")
    with torch.no_grad():  # NIR knows no batches; the module gives logits and its (empty) state
        logits = np.stack([module(image.double())[0].numpy() for image in pixels])
    assert np.array_equal(logits, network.forward(pixels))
    assert len(np.unique(network.forward(pixels))) > 4
    graph = nir.read(tmp_path / "model.nir")
    assert float(graph.metadata["logit_scale"]) == network.logit_scale


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ("sparse_resnet", {"timesteps": 2}, r"^timesteps: got 2, allowed: 1 .*soft reset"),
        ("ms_resnet", {}, r"^stem.bn0: got 'fixed-point potentials'"),
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


def test_a_max_pool_of_sums_is_refused():
    """NIR's nodes pool what they read one by one: the sum of maxima is not the maximum of sums."""
    network = network_of("sew_resnet")
    *layers, pool, readout = network.layers
    extra = MaxPool("extra", pooled_shape(HALVING, network.outputs[pool.source].shape), pool.source)
    pool = replace(pool, source="extra", window=Window(extra.shape[1:]))
    behind = replace(network, layers=(*layers, extra, pool, readout))
    with pytest.raises(InputError, match=r"^extra: got 'a max-pool of body.*merge'"):
        nir_graph(behind)
