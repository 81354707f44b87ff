"""The NIR file, as `load` and as nirtorch make a module of it, against the reference."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from test_deploy_integer import MEAN, STD, images, realistic, tiny

from multispike.errors import InputError
from multispike.export.layers import HALVING, MaxPool, Window, pooled_shape
from multispike.export.nir import export_nir, load, nir_graph
from multispike.export.quantise import quantise
from multispike.neurons import MultiLevelIF

nir = pytest.importorskip("nir")

EVEN = (2, 8, 8)

NODES = {"Input", "Conv2d", "IF", "Output"}
"""All that other readers know in common."""


class Fires(torch.nn.Module):
    """An IF node, as neurons of libraries are at the first step."""

    def __init__(self, node) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.from_numpy(node.v_threshold))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x > self.threshold).to(x.dtype)


class FiresOften(Fires):
    """One that sends as many spikes as thresholds fit, as sinabs' do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.div(x, self.threshold, rounding_mode="trunc").clamp_min(0)


def by_nirtorch(path, neuron=Fires) -> torch.nn.Module:
    """What nirtorch makes of the file; it leaves neurons to the libraries that use it."""
    nirtorch = pytest.importorskip("nirtorch")
    return nirtorch.nir_to_torch(path, {nir.IF: neuron})


@cache
def network_of(arch, timesteps=1, levels=4, **options):
    model = realistic(arch, timesteps, levels, **options)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.abs_()
    return quantise(model, MEAN, STD, EVEN)


def test_concatenated_levels(tmp_path):
    class Branches(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3, padding=1), MultiLevelIF())
            self.left = torch.nn.Sequential(torch.nn.Conv2d(4, 3, 1), MultiLevelIF(3))
            self.head = torch.nn.Linear(7 * 64, 5)

        def forward(self, x):
            z = self.stem(x)
            return self.head(torch.cat([self.left(z), z], 1).flatten(1))

    torch.manual_seed(0)
    network = quantise(Branches(), MEAN, STD, EVEN)
    export_nir(network, tmp_path / "model.nir")
    pixels = torch.randint(0, 256, (20, *EVEN), dtype=torch.uint8)
    assert np.array_equal(load(tmp_path / "model.nir")(pixels), network.forward(pixels))


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
    pixels = torch.nn.functional.pad(images(4, seed=8)[..., :7], (0, 1))[..., :8, :]
    expected = network.forward(pixels)
    assert len(np.unique(expected)) > 4
    assert np.array_equal(load(tmp_path / "model.nir")(pixels), expected)
    with torch.no_grad():  # the module gives logits and its state
        logits = by_nirtorch(tmp_path / "model.nir")(pixels.float())[0].flatten(1)
    assert np.array_equal(logits, expected)
    graph = nir.read(tmp_path / "model.nir")
    assert {type(node).__name__ for node in graph.nodes.values()} == NODES
    assert float(graph.metadata["logit_scale"]) == network.logit_scale


@pytest.mark.parametrize("arch", ["fastnet", "spiking_resnet", "sparse_resnet"])
def test_binary_neurons_fire_once_and_have_one_threshold(arch, tmp_path):
    """What snnTorch asks for, and what sinabs, whose neurons send several spikes, needs."""
    network = network_of(arch, levels=1, **({"stem": "imagenet"} if arch[1] == "p" else {}))
    export_nir(network, tmp_path / "model.nir")
    nodes = nir.read(tmp_path / "model.nir").nodes.values()
    fire = [node for node in nodes if isinstance(node, nir.IF)]
    assert all(len(np.unique(node.v_threshold)) == 1 and (node.r == 1).all() for node in fire)
    pixels = images(4, seed=8)[..., :8, :7]
    pixels = torch.nn.functional.pad(pixels, (0, 1))
    with torch.no_grad():
        logits = by_nirtorch(tmp_path / "model.nir", FiresOften)(pixels.float())[0].flatten(1)
    assert np.array_equal(logits, network.forward(pixels))


class Oblong(torch.nn.Module):
    """A kernel of one shape, and a readout over what is left of the image."""

    def __init__(self, shape, **options) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 3, **options)
        self.norm = torch.nn.BatchNorm2d(3)
        self.neuron = MultiLevelIF(2)
        sent = self.conv(torch.zeros(1, *shape)).flatten(1).shape[1]
        self.readout = torch.nn.Linear(sent, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.readout(self.neuron(self.norm(self.conv(x))).flatten(1))


@pytest.mark.parametrize("shape", [(2, 8, 6), (2, 5, 8), (2, 7, 7)], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": (3, 1)},
        {"kernel_size": (1, 5), "padding": (0, 2)},
        {"kernel_size": (5, 3), "padding": (2, 0), "stride": (2, 1)},
        {"kernel_size": (1, 3), "padding": (0, 2), "dilation": (1, 2), "stride": 2},
    ],
    ids=str,
)
def test_kernels_that_are_not_square_are_written_as_squares(options, shape, tmp_path):
    """nir takes every kernel for a square, that of a readout over an oblong image, too."""
    torch.manual_seed(3)
    network = quantise(Oblong(shape, **options).eval(), MEAN, STD, shape)
    export_nir(network, tmp_path / "model.nir")
    for node in nir.read(tmp_path / "model.nir").nodes.values():
        assert not isinstance(node, nir.Conv2d) or len({*node.weight.shape[2:]}) == 1
    pixels = torch.randint(0, 256, (6, *shape), dtype=torch.uint8)
    expected = network.forward(pixels)
    assert len(np.unique(expected)) > 4
    assert np.array_equal(load(tmp_path / "model.nir")(pixels), expected)
    with torch.no_grad():
        logits = by_nirtorch(tmp_path / "model.nir")(pixels.float())[0].flatten(1)
    assert np.array_equal(logits, expected)


def test_a_kernel_that_no_square_stands_for_is_refused():
    """Sides of 3 and 2: what is padded is padded on both sides."""
    network = quantise(Oblong((2, 8, 8), kernel_size=(3, 2)).eval(), MEAN, STD, (2, 8, 8))
    with pytest.raises(InputError, match=r"^conv: got 'a kernel of \(3, 2\)', .*even"):
        nir_graph(network)


def test_a_neuron_fires_at_its_threshold_not_below(tmp_path):
    """3 * 2 - 1 = 5 reaches a threshold of 5; 3 * 1 - 1 does not."""
    for levels in (1, 2):
        network = tiny(step=np.array([5], np.int32), levels=levels)
        export_nir(network, tmp_path / "model.nir")
        pixels = np.array([0, 1, 2, 9], np.uint8).reshape(4, 1, 1, 1)
        for module in (load(tmp_path / "model.nir"), by_nirtorch(tmp_path / "model.nir")):
            given = module(torch.from_numpy(pixels).float())
            logits = given[0].flatten(1) if isinstance(given, tuple) else given
            assert np.array_equal(logits.detach(), network.forward(pixels))
            assert logits.flatten().tolist() == [0, 0, 1, levels]


@pytest.mark.parametrize(
    "damage",
    [
        lambda graph: graph.nodes.pop("logits"),
        lambda graph: graph.nodes.update(stem_conv=nir.Delay(np.ones(3))),
        lambda graph: graph.edges.append(("classifier_linear", "encoder_level1")),
        lambda graph: graph.edges.append(("nowhere", "logits")),
        lambda graph: graph.nodes.update(logits=nir.IF(np.ones(3), np.ones(3))),
        lambda graph: setattr(graph.nodes["classifier_linear"], "weight", np.ones((2, 2))),
        lambda graph: setattr(graph.nodes["classifier_linear"], "weight", np.float32(1)),
        lambda graph: setattr(graph.nodes["image"], "input_type", {"input": np.array([-1, 4])}),
    ],
)
def test_files_of_other_nodes_or_shapes_are_one_line(damage, tmp_path):
    graph = nir_graph(network_of("fastnet"))
    graph.type_check = False
    damage(graph)
    nir.write(tmp_path / "model.nir", graph)
    with pytest.raises(InputError, match=r"^path: got .*no network of export_nir: ") as caught:
        load(tmp_path / "model.nir")
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_files_and_wrong_pixels_are_one_line(tmp_path):
    path = tmp_path / "model.nir"
    with pytest.raises(InputError, match=r"^path: got .*an existing file"):
        load(path)
    export_nir(network_of("fastnet"), path)
    with pytest.raises(InputError, match=r"^pixels: got \[1, 2, 4, 4\], allowed: \[B, 2, 8, 8\]"):
        load(path)(torch.zeros(1, 2, 4, 4))
    content = path.read_bytes()
    for cut in (b"", content[: len(content) // 2], b"text" + content[4:]):
        path.write_bytes(cut)
        with pytest.raises(InputError, match=r"^path: got .*no network of export_nir: ") as caught:
            load(path)
        assert "\n" not in str(caught.value)


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
    with pytest.raises(InputError, match=r"pool0_sum1: got .*even sizes"):
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
