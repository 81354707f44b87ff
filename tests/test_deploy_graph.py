"""Networks of anybody's making through `torch.export`: the same integers everywhere, and what is
refused."""

from copy import deepcopy
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from test_deploy_c import logits, make, needs_cc, run
from test_deploy_integer import fine_weights
from test_deploy_runtimes import needs_openvino, units
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from multispike.errors import InputError
from multispike.export import rounding
from multispike.export.bench import onnxruntime_session, openvino_request
from multispike.export.c import export_c
from multispike.export.c_program import without_zeros
from multispike.export.layers import Concat, Potentials, SumPool
from multispike.export.network import IntegerNetwork, count
from multispike.export.onnx import export_onnx, export_openvino
from multispike.export.quantise import quantise
from multispike.export.serialize import load, save
from multispike.neurons import MultiLevelIF

MEAN, STD = [0.4, 0.5], [0.2, 0.3]
SHAPE = (2, 12, 10)


def spike(levels: int = 4, threshold: float = 1.0) -> MultiLevelIF:
    return MultiLevelIF(levels, threshold, v_init=0.25)


def conv(*sizes, neuron: nn.Module | None = None, **options) -> nn.Sequential:
    """Convolution, batch norm and neuron."""
    return nn.Sequential(nn.Conv2d(*sizes, **options), nn.BatchNorm2d(sizes[1]), neuron or spike())


class Branches(nn.Module):
    """Asymmetric padding, oblong kernels and strides, dilation, two thresholds that meet in a
    concatenation, and a classifier over C x H x W."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(2, 6, (3, 2))
        self.left = conv(6, 4, 3, stride=(2, 1), dilation=2, neuron=spike(4, 0.7))
        self.right = conv(6, 5, (4, 5), stride=(2, 1), neuron=spike(3, 1.3))
        self.mixed = conv(9, 6, 3, padding="same", dilation=(2, 1))
        self.classifier = nn.Linear(6 * 5 * 7, 5)

    def forward(self, x):
        x = self.stem(F.pad(x, (2, 0, 2, 1)))
        x = torch.cat([self.left(F.pad(x, (0, 0, 0, 1))), self.right(x)], 1)
        return self.classifier(self.mixed(x).flatten(1))


class Depthwise(nn.Module):
    """Groups, a stride beyond the kernel, a dilated stride, average pools with and without padding,
    of levels and in front of a batch norm, an overlapping max-pool before one, and a dropout."""

    def __init__(self) -> None:
        super().__init__()
        pool = nn.MaxPool2d(3, 2, 1)
        self.body = nn.Sequential(
            *conv(2, 6, 3, padding=2),
            nn.Conv2d(6, 12, 3, groups=6, padding=1), pool, nn.BatchNorm2d(12), spike(),
            *conv(12, 8, 1, groups=2), nn.MaxPool2d(2, 1, dilation=2), nn.Dropout(),
            *conv(8, 8, 3, stride=2, dilation=2, padding=3, groups=8),
            nn.AvgPool2d(3, 1, 1), *conv(8, 8, 1, stride=2), nn.Conv2d(8, 6, 1), nn.AvgPool2d(1),
            nn.BatchNorm2d(6), spike(), nn.AvgPool2d((2, 1)),
        )  # fmt: skip
        self.classifier = nn.LazyLinear(5)

    def forward(self, x):
        return self.classifier(self.body(x).flatten(1))


class Bottlenecks(nn.Module):
    """Potentials that no neuron sends: concatenated, added, normalised, pooled (as DenseNet's and
    MobileNetV2's), batch norm before a padded convolution, and of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.normalise = nn.BatchNorm2d(2)
        self.stem = nn.Conv2d(2, 4, 3, 2, 1)
        self.grow = nn.Sequential(nn.BatchNorm2d(4), spike(), nn.Conv2d(4, 3, 3, padding=1))
        self.transition = nn.Sequential(nn.BatchNorm2d(7), spike(), nn.Conv2d(7, 4, 3, padding=1))
        self.expand = conv(4, 8, 1)
        self.project = nn.Sequential(*conv(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 4, 1))
        self.last = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1))
        self.last[1] = spike()

    def forward(self, x):
        x = self.stem(self.normalise(x))
        x = torch.cat([torch.cat([x], 1), self.grow(x)], 1)  # of one part too, as in DenseNet
        x = F.avg_pool2d(self.transition(x), 2)
        x = x + self.project(self.expand(x))
        return self.last(x).mean((2, 3))


class Expansions(nn.Module):
    """Convolutions of many potentials, onto neurons and onto potentials (as MobileNetV2's), whose
    sums can pass what float32 holds; a pixel made an image (as the head of timm's VGGs)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 32, 3, 2, 1)
        self.expand = conv(32, 24, 1)
        self.project = nn.Conv2d(24, 16, 3, padding=1)
        self.skip, self.norm, self.neuron = nn.Conv2d(32, 16, 1), nn.BatchNorm2d(16), spike()
        self.head = nn.Sequential(nn.Conv2d(16, 12, 3), nn.BatchNorm2d(12), spike())
        self.classifier = nn.Linear(12, 5)

    def forward(self, x):
        x = self.stem(x)
        z = self.neuron(self.norm(self.project(self.expand(x)) + self.skip(x)))
        z = F.adaptive_avg_pool2d(F.adaptive_avg_pool2d(z, 1), 3)
        return self.classifier(self.head(z).flatten(1))


class OverTime(nn.Module):
    """T = 3 in a network of its own, images held or frames of events; a classifier on the mean."""

    timesteps = 3

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.neuron = nn.Conv2d(2, 6, 3, 1, 1), MultiLevelIF(2, v_init=0.5, timesteps=3)
        self.conv, self.bn = nn.Conv2d(6, 6, 3, 2, 1), nn.BatchNorm2d(6)
        self.classifier = nn.Linear(6 * 6 * 5, 5)

    def forward(self, x):
        frames = x if x.dim() == 5 else x.expand(3, *x.shape)
        z = self.neuron(self.stem(frames.flatten(0, 1)))
        z = self.neuron(self.bn(self.conv(z)))
        return self.classifier(z.unflatten(0, (3, -1)).mean(0).flatten(1))


CASES = {
    "branches": Branches, "depthwise": Depthwise, "bottlenecks": Bottlenecks,
    "expansions": Expansions, "time": OverTime,
}  # fmt: skip


def images(batch: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, *SHAPE), dtype=torch.uint8, generator=generator)


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (MEAN, STD))
    return (pixels.float() / 255 - mean) / std


@cache
def model_of(name: str) -> nn.Module:
    """With statistics, thresholds and signs that are neither trivial nor dead."""
    torch.manual_seed(1)
    model = CASES[name]()
    with torch.no_grad():
        model(normalised(images(2)))  # lazy sizes
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.7, 1.3)
                nn.init.uniform_(module.bias, 0.1, 0.7)
                module.weight[::3] *= -1
        for _ in range(8):
            model.train()(normalised(images(16)))
    return model.eval()


@cache
def network_of(name: str) -> IntegerNetwork:
    return quantise(model_of(name), MEAN, STD, SHAPE)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_float_network_as_weights_get_finer(name, monkeypatch):
    model = model_of(name)
    with monkeypatch.context() as patch:
        fine_weights(patch, potentials=name in ("bottlenecks", "expansions"))
        patch.setattr(rounding, "FOLDED", 2**40)
        patch.setattr(rounding, "POTENTIAL_LEVEL", 2**14 - 1)  # they are multiplied once more
        network = quantise(model, MEAN, STD, SHAPE)
        pixels = images(8, seed=1)
        got = network.forward(pixels) * network.logit_scale
    with torch.no_grad():
        expected = model(normalised(pixels)).numpy()
    assert expected.std(0).min() > 0
    assert np.isclose(got, expected, atol=1e-3).all(1).mean() > 0.7


@needs_cc
@pytest.mark.parametrize("name", CASES)
def test_c_equals_the_reference_and_counts_the_same(name, tmp_path):
    network, pixels = network_of(name), images(40, seed=2)
    np.save(tmp_path / "images.npy", pixels.numpy())
    export_c(network, tmp_path / "c")
    done = run(make(tmp_path / "c"), tmp_path / "images.npy")
    expected = network.forward(pixels)
    assert np.array_equal(logits(done), expected)
    assert len(np.unique(expected, axis=0)) > 10
    counts = count(network, pixels)
    wanted = {key: (events, work) for key, (events, _, work) in counts.items()}
    lines = (line.split() for line in done.stderr.decode().splitlines())
    assert wanted == {(kind, key): (int(a), int(b)) for kind, key, a, _, b in lines}
    assert all(values[0] > 0 for (kind, _), values in counts.items() if kind == "neurons")
    dense = run(make(tmp_path / "c", "dense"), tmp_path / "images.npy")
    assert dense.stdout == done.stdout


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.parametrize("name", CASES)
def test_runtimes_give_the_reference_logits(name, runtime, tmp_path):
    network = network_of(name)
    if runtime == "onnx":
        pytest.importorskip("onnxruntime")
        export_onnx(network, tmp_path / "model.onnx")
        call = onnxruntime_session(tmp_path / "model.onnx", threads=1)
    else:
        needs_openvino()
        export_openvino(network, tmp_path / "model.xml")
        call = openvino_request(tmp_path / "model.xml", threads=1)
    for batch in (1, 200):
        pixels = images(batch, seed=3).numpy()
        assert np.array_equal(units(call(pixels), network), network.forward(pixels))


def test_files_hold_every_kind_of_layer(tmp_path):
    kinds = set()
    for name in CASES:
        network = network_of(name)
        save(network, tmp_path / "network.npz")
        again = load(tmp_path / "network.npz")
        assert np.array_equal(again.forward(images(4)), network.forward(images(4)))
        kinds |= {type(layer) for layer in again.layers}
    assert kinds >= {Concat, Potentials, SumPool}


def sequence(*layers: nn.Module) -> nn.Sequential:
    """The layers between an encoder and a classifier over 6 x 12 x 10, or what is left of it."""
    return nn.Sequential(nn.Conv2d(2, 6, 1), spike(), *layers, nn.Flatten(), nn.LazyLinear(5))


class Sequences(nn.Module):
    """Rows of what neurons send, one after the other or each to each."""

    def __init__(self, attends: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 6, 1), spike())
        if attends:
            self.attention = nn.MultiheadAttention(60, 2, batch_first=True)
        else:
            self.lstm = nn.LSTM(60, 60, batch_first=True)
        self.classifier = nn.Linear(60, 5)

    def forward(self, x):
        x = self.stem(x).transpose(1, 2).flatten(2)
        x = self.attention(x, x, x)[0] if hasattr(self, "attention") else self.lstm(x)[0]
        return self.classifier(x[:, -1])


class Of(nn.Module):
    """A function of the first neurons, in front of a classifier."""

    def __init__(self, function) -> None:
        super().__init__()
        self.stem, self.function = nn.Sequential(nn.Conv2d(2, 6, 1), spike()), function
        self.classifier = nn.Linear(720, 5)

    def forward(self, x):
        return self.function(self.stem(x), self.classifier)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (sequence(nn.SiLU()), r"neuron: got 'silu', .*convert.*; it is 2"),
        (nn.Sequential(nn.Flatten(), nn.Linear(240, 5)), "model: got 'no spiking neuron', .*conv"),
        (sequence(nn.AdaptiveAvgPool2d(7)), "2: got 'adaptive_avg_pool2d', .*divide 12x10"),
        (sequence(nn.AvgPool2d(3, 2, 1, count_include_pad=False)), "2: got 'avg_pool2d', .*one si"),
        (sequence(nn.AvgPool2d(3, 3, ceil_mode=True)), "2: got 'avg_pool2d', .*ceil_mode=False"),
        (sequence(nn.ReflectionPad2d(1)), "2: got 'pad', allowed: .*zeros"),
        (sequence(nn.ZeroPad2d(1), spike()), "3: got 'unflatten', allowed: .*behind padding"),
        (
            sequence(nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d(3), nn.Conv2d(6, 6, 3, 1, 1)),
            "4: got 'conv2d', allowed: a kernel, without padding, as large as",
        ),
        (
            sequence(nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d(3), spike()),
            "4: got 'unflatten', allowed: a convolution behind a pixel made many",
        ),
        (Sequences(), "lstm: got 'lstm', allowed: convolutions, .*replace it, or leave it out"),
        (Sequences(attends=True), "attention: got 'softmax', allowed: conv"),
        (sequence(nn.Upsample(scale_factor=2)), "2: got 'upsample_nearest2d', allowed: conv"),
        (sequence(nn.GroupNorm(2, 6)), "2: got 'group_norm', allowed: convolutions"),
        (sequence(nn.Flatten(), nn.BatchNorm1d(720)), "3: got 'batch_norm', .*flattened"),
        (Of(lambda z, head: (head(z.flatten(1)), z)), "output: got '2 outputs', .*logits"),
        (Of(lambda z, head: z), "stem.1: got .* linear layer, without a neuron, as the last"),
        (Of(lambda z, head: head((z * z).flatten(1))), r"levels: got 4, .*and of mul"),
        (Of(lambda z, head: head((z * z.mean((2, 3), True)).flatten(1))), r"levels: got"),
        (
            Of(lambda z, head: head(z.mean(1, keepdim=True).expand(-1, 6, -1, -1).flatten(1))),
            "mean: got 'mean'",
        ),
        (Of(lambda z, head: head(z.flatten(1)) if z.sum() > 0 else z), "model: .*trace"),
        (
            Of(lambda z, head: head(z.transpose(0, 1).flatten(1).reshape(-1, 720))),
            "transpose: got 'tr",
        ),
        (Of(lambda z, head: head(z.reshape(1, -1, 720)[0])), None),
        (Of(lambda z, head: head((z - 0.5 * z).flatten(1))), "sub: got 'sub', allowed: a sum"),
    ],
)
def test_what_integers_cannot_carry_is_refused_by_name(model, message):
    model(torch.zeros(2, *SHAPE))
    if message is None:
        quantise(model, MEAN, STD, SHAPE)
        return
    with pytest.raises(InputError, match=f"^{message}") as caught:
        quantise(model, MEAN, STD, SHAPE)
    assert "\n" not in str(caught.value)


def test_training_mode_and_flags_come_back():
    model = OverTime().train()
    model.bn.eval()
    quantise(model, MEAN, STD, SHAPE)
    assert [model.training, model.conv.training, model.bn.training] == [True, True, False]


def test_pruned_and_computed_weights_are_evaluated():
    model = OverTime().eval()
    prune.l1_unstructured(model.conv, "weight", 0.7)
    nn.utils.parametrizations.weight_norm(model.stem)
    network = quantise(model, MEAN, STD, SHAPE)
    (conv,) = (one for one in network.synapses if one.name == "conv")
    assert 0.7 <= (conv.weight == 0).mean() < 0.8


@cache
def pruned_network() -> IntegerNetwork:
    """Seven tenths of each layer's weights are zero; one layer has more than 256 outputs."""
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(2, 12, 3, 1, 1, bias=False), spike(),
        nn.Conv2d(12, 24, 3, 2, 1, groups=2, bias=False), spike(4, 0.3),
        nn.Conv2d(24, 24, 3, 2, groups=24, bias=False), spike(4, 0.1), nn.Flatten(),
        nn.Linear(96, 600, bias=False), spike(4, 0.03), nn.Linear(600, 5),
    )  # fmt: skip
    for layer in model:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            prune.random_unstructured(layer, "weight", 0.7)
    return quantise(model, MEAN, STD, SHAPE)


@needs_cc
def test_a_pruned_program_stores_no_zeros_and_gives_the_same_logits(tmp_path):
    network, pixels = pruned_network(), images(40, seed=2)
    np.save(tmp_path / "images.npy", pixels.numpy())
    program = export_c(network, tmp_path / "c")
    sparse = [one.name for one in network.synapses if one.sparse]
    assert sparse == ["0", "2", "7"]  # places of others would take more than their zeros
    full = sum(one.weight.size for one in network.synapses)
    assert program.weight_bytes < 0.75 * full
    said = (tmp_path / "c" / "README.md").read_text()
    (one,) = (one for one in network.synapses if one.name == "7")
    zeros = int((one.weight == 0).sum())
    assert zeros >= 40_320
    assert f"- 7: {zeros:,} of its weights are zero, neither stored nor visited" in said
    done = run(make(tmp_path / "c"), tmp_path / "images.npy")
    expected = network.forward(pixels)
    assert np.array_equal(logits(done), expected)
    assert len(np.unique(expected, axis=0)) > 10
    dense = run(make(tmp_path / "c", "dense"), tmp_path / "images.npy")
    assert dense.stdout == done.stdout
    counted = {tuple(line.split()[:2]): [*map(int, line.split()[2:])] for line in
               done.stderr.decode().splitlines()}  # fmt: skip
    assert counted == {key: values.tolist() for key, values in count(network, pixels).items()}


@pytest.mark.parametrize("density", [0, 0.01, 0.4])
def test_runs_without_zeros_hold_all_weights(density):
    runs = np.random.default_rng(0).integers(1, 127, (7, 700)).astype(np.int8)
    runs *= np.random.default_rng(1).random(runs.shape) < density
    weights, first, gaps = without_zeros(runs)
    again = np.zeros_like(runs)
    for row, (start, end) in enumerate(pairwise(first)):
        places = np.cumsum(gaps[start:end].astype(int) + 1) - 1
        again[row, places] = weights[start:end]
    assert np.array_equal(again, runs)
    assert gaps.dtype == np.uint8


def test_layers_in_another_memory_format_are_the_same():
    model = model_of("time")
    other = deepcopy(model).to(memory_format=torch.channels_last)
    assert np.array_equal(
        quantise(other, MEAN, STD, SHAPE).forward(images(4)), network_of("time").forward(images(4))
    )


def test_layers_may_be_called_by_words_of_c(tmp_path):
    """Names that C keeps for itself, those of kernels, and those of other layers' tables."""
    model = nn.Sequential()
    for index, name in enumerate(("fire", "int", "add", "x", "x_weight", "0", "conv")):
        model.add_module(name, nn.Conv2d(6 if index else 2, 6, 1))
        model.add_module(f"{name}_bias", spike())
    model.add_module("head", nn.Sequential(nn.Flatten(), nn.Linear(720, 5)))
    network = quantise(model, MEAN, STD, SHAPE)
    export_c(network, tmp_path / "c")
    done = run(make(tmp_path / "c", "model"), stdin=images(3).numpy().tobytes())
    assert np.array_equal(logits(done), network.forward(images(3)))
