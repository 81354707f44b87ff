"""What int32, int8, int16 or float32 can't hold is refused, and what they just hold is exact."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_deploy_integer import (
    MEAN,
    SHAPE,
    STD,
    images,
    integer,
    layer_of,
    normalised,
    realistic,
    tiny,
)

from multispike.errors import InputError
from multispike.export.bench import onnxruntime_session
from multispike.export.layers import Bias, Neurons, Potentials, Synapses
from multispike.export.nir import nir_graph
from multispike.export.onnx import build, export_onnx
from multispike.export.quantise import quantise
from multispike.models import create_model

PIXELS = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)
DRIVE = 3 * 255
"""What a pixel brings in `tiny`, at most."""


def biased(bias: int, **changes):
    start = np.zeros(1, np.int32)
    return tiny(bias=Bias.uniform(np.array([bias], np.int32), (1, 1, 1)), start=start, **changes)


@pytest.mark.parametrize(
    ("holds", "beyond"),
    [
        (
            lambda: biased(DRIVE + 1 - 2**24),
            lambda: biased(DRIVE - 2**24),
        ),
        (
            lambda: biased(2**20 - 390, step=np.array([2**20 - 1], np.int32), levels=3),
            lambda: biased(2**20 - 390, step=np.array([2**20 + 1], np.int32), levels=3),
        ),
    ],
    ids=["sum", "step"],
)
def test_onnx_is_exact_up_to_the_limits_of_float32(holds, beyond, tmp_path):
    pytest.importorskip("onnx")
    with pytest.raises(InputError, match=r"^neuron: got .*float32|^neuron: got .*\(N\+1\) \* D"):
        build(beyond())
    pytest.importorskip("onnxruntime")
    network = holds()
    export_onnx(network, tmp_path / "model.onnx")
    logits = onnxruntime_session(tmp_path / "model.onnx", threads=1)(PIXELS)
    assert np.array_equal(logits, network.forward(PIXELS))


def test_a_channel_without_weights_leaves_room_for_its_shortcut_at_every_timestep():
    """The shortcut's gain grows with D."""
    pytest.importorskip("onnx")
    for timesteps, levels in ((16, 1), (5, 4), (8, 2)):
        model = realistic("spiking_resnet", timesteps=timesteps, levels=levels)
        with torch.no_grad():
            for name, module in model.named_modules():
                if name.endswith("bn2"):
                    module.weight[0] = 0
        build(quantise(model, MEAN, STD, SHAPE))


def test_a_folded_convolution_is_refused_where_its_bias_blurs_the_edges():
    """D and the bias in the scale of a sum: exact up to (N+1) * D + |bias| < 2^21."""
    pytest.importorskip("onnx")
    network = integer("vgg")
    name = "body.neuron1"
    layer = layer_of(network, name)

    def biased_by(total: int):
        room = total - (layer.levels + 1) * layer.step
        bias = Bias.uniform(-room.astype(np.int32), layer.shape)
        layers = (replace(x, bias=bias) if x.name == name else x for x in network.layers)
        return replace(network, layers=tuple(layers))

    build(biased_by(2**21 - 1))
    with pytest.raises(InputError, match=rf"^{name}: got .* \+ \|bias\| = 2097152'"):
        build(biased_by(2**21))


def test_a_global_sum_over_time_has_to_fit_as_well():
    pytest.importorskip("onnx")
    nothing = np.zeros((1, 1, 1, 1), np.int8)
    network = biased(
        0,
        timesteps=2**24 // 255 + 1,
        levels=255,
        step=np.ones(1, np.int32),
        synapses=(Synapses("in", "image", weight=nothing),),
    )
    readout = replace(network.readout, synapses=(Synapses("out", "pool", weight=nothing),))
    with pytest.raises(InputError, match=r"^pool: got .*float32"):
        build(replace(network, layers=(*network.layers[:-1], readout)))


def test_nir_thresholds_are_halves_that_float32_holds():
    pytest.importorskip("nir")
    edge = 2 * 11  # the second level's
    graph = nir_graph(biased(edge - 2**23))
    assert graph.nodes["neuron_level2"].v_threshold.item() == 2**23 - 0.5
    with pytest.raises(InputError, match=r"^neuron: got 'a threshold of 8388608.5'.*float32"):
        nir_graph(biased(edge - 2**23 - 1))
    with pytest.raises(InputError, match=r"^neuron: got 'sums up to 16777216'"):
        nir_graph(biased(1, synapses=(Synapses("in", "image", gain=np.array([65793], np.int32)),)))


@pytest.mark.parametrize("levels", [9, 64, 255])
def test_potentials_of_many_levels_fit_their_16_bits(levels):
    """The logits spread as the float network's do; saturated ones don't."""
    model = realistic("ms_resnet", levels=levels)
    network = quantise(model, MEAN, STD, SHAPE)
    pixels = images(16, seed=3)
    with torch.no_grad():
        floats = model(normalised(pixels)).numpy()
    logits = network.forward(pixels) * network.logit_scale
    assert np.corrcoef(floats.ravel(), logits.ravel())[0, 1] > 0.995
    assert logits.std(0).mean() == pytest.approx(floats.std(0).mean(), rel=0.05)
    seen = {}
    network.forward(pixels, lambda name, values: seen.update({name: values.abs().max().item()}))
    assert max(seen[x.name] for x in network.layers if isinstance(x, Potentials)) < 2**15 - 1


def test_few_levels_keep_their_unit():
    for levels in (1, 4, 8):
        network = integer("ms_resnet", levels=levels)
        gains = [
            one.gain
            for layer in network.layers
            if isinstance(layer, Neurons)
            for one in layer.synapses
            if one.gain is not None
        ]
        assert gains
        assert all((gain == 1).all() for gain in gains)


def test_a_threshold_that_no_potential_reaches_is_refused():
    model = realistic("ms_resnet")
    with torch.no_grad():
        model.body.stage2_block1.path.neuron1.threshold.fill_(40.0)
    with pytest.raises(
        InputError, match=r"^body.stage2_block1.path.neuron1: got 'a threshold of 4"
    ):
        quantise(model, MEAN, STD, SHAPE)


@pytest.mark.parametrize(("threshold", "levels"), [(1.0, 4), (0.7, 3), (0.7, 4), (1.3, 7)])
def test_a_bias_on_an_edge_fires(threshold, levels):
    """Biases of k levels are k * D units, whatever D: none is rounded down past the edge."""
    torch.manual_seed(0)
    model = create_model("fastnet", in_channels=2, levels=levels, threshold=threshold)
    with torch.no_grad():
        for module in model.body.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                k = torch.arange(module.num_features) % levels + 1
                module.bias.copy_(k * threshold / levels)
    network = quantise(model, MEAN, STD, (2, 32, 32))
    steps = set()
    for layer in network.layers:
        if isinstance(layer, Neurons) and layer.name != "encoder":
            k = np.arange(len(layer.step)) % levels + 1
            assert np.array_equal(layer.bias.values[0, 0], k * layer.step), layer.name
            steps |= set(layer.step.tolist())
    assert len(steps) > 30


def test_a_readout_without_weights_keeps_the_class_of_its_bias():
    model = realistic("sparse_resnet", timesteps=2, levels=2)
    with torch.no_grad():
        linear = model.classifier[-1]
        linear.weight.zero_()
        linear.bias.copy_(torch.tensor([0.1, 0.2, 0.3, -0.1, 0.05]))
    network = quantise(model, MEAN, STD, SHAPE)
    logits = network.forward(images(2)) * network.logit_scale
    assert logits == pytest.approx(linear.bias.detach().numpy()[None].repeat(2, 0), rel=1e-5)


@pytest.mark.parametrize(
    ("module", "change", "message"),
    [
        ("weight", 1000, r"^body.stage2_block1.path.conv1: got 'weights up to \d+ levels'.*<= 127"),
        ("bias", 1e12, r"^body.stage2_block1.path.neuron1: got '.* units'.*2\^31"),
    ],
)
def test_what_no_integer_holds_is_refused_with_the_layer_named(module, change, message):
    model = realistic("sparse_resnet")
    with torch.no_grad():
        getattr(model.body.stage2_block1.path.bn1, module).mul_(change)
    with pytest.raises(InputError, match=message):
        quantise(model, MEAN, STD, SHAPE)


def test_channels_without_weights_do_not_keep_a_network_from_float32():
    """Their D is as large as it may be, but no larger than bias and levels leave room for."""
    pytest.importorskip("onnx")
    model = realistic("sparse_resnet", levels=8)
    with torch.no_grad():
        norm = model.body.stage2_block1.path.bn1
        norm.weight[0] = 0
        norm.bias[0] = 20
    network = quantise(model, MEAN, STD, SHAPE)
    layer = layer_of(network, "body.stage2_block1.path.neuron1")
    assert layer.step[0] > 1000
    build(network)
