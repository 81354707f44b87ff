"""The integer network against closed forms and against the float network it came from."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multispike.datasets import load_dataset
from multispike.errors import InputError
from multispike.export import layers, rounding, validate
from multispike.export import network as integer_module
from multispike.export.layers import (
    IMAGE,
    Bias,
    Layer,
    MaxPool,
    Merge,
    Neurons,
    Potentials,
    Readout,
    SumPool,
    Synapses,
    Window,
)
from multispike.export.network import IntegerNetwork, count, fan_out
from multispike.export.quantise import quantise
from multispike.export.serialize import load, save
from multispike.models import create_model
from multispike.models.network import Network
from multispike.models.table import ARCHITECTURES, FAMILIES, ResNet, Vgg

MEAN, STD = [0.4, 0.5], [0.2, 0.3]
SHAPE = (2, 9, 7)  # odd sizes: strides and ceil-mode pools meet borders

THIN = {
    "fastnet": Vgg((6, 8, "P", 8, 12, "P", 12), dirac=True),
    "fastnet_l": Vgg((6, 8, "P", "R", 12, "P", "R"), dirac=True),
    "vgg": Vgg((6, "M", 8, "M", 10, 12, "M")),
    **{f"{name}_resnet": ResNet(row, (6, 8, 12), (2, 1, 1)) for name, row in FAMILIES.items()},
}
"""The table's wirings in widths that compile and run at once."""

CASES = [
    ("fastnet", {}),
    ("vgg", {"classifier": "mlp"}),
    ("fastnet", {"stem": "imagenet"}),
    ("fastnet_l", {}),
    ("spiking_resnet", {}),
    ("sew_resnet", {}),
    ("sparse_resnet", {"stem": "imagenet"}),
    ("ms_resnet", {}),
    ("ms_resnet", {"stem": "imagenet"}),
    ("sew_and_resnet", {}),
    ("sew_iand_resnet", {}),
]
NAMES = [f"{arch}-{'-'.join(options.values())}" for arch, options in CASES]


def thin(arch: str, **options) -> Network:
    """A network of `THIN`."""
    with pytest.MonkeyPatch.context() as patch:
        for name, row in THIN.items():
            patch.setitem(ARCHITECTURES, name, row)
        return create_model(arch, **options)


def wiring(row: Vgg | ResNet) -> object:
    """What an architecture is but for its widths and depths."""
    if isinstance(row, ResNet):
        return row.family
    return row.dirac, frozenset(part for part in row.layout if isinstance(part, str))


def test_every_architecture_has_a_thin_one():
    tested = {wiring(THIN[name]) for name, _ in CASES}
    assert {wiring(row) for row in ARCHITECTURES.values()} == tested


def realistic(arch: str, timesteps: int = 1, levels: int = 4, **options) -> Network:
    """A network whose statistics, thresholds and signs are neither trivial nor dead."""
    if "and" in arch:
        levels = 1
    torch.manual_seed(len(arch))
    model = thin(
        arch, num_classes=5, in_channels=SHAPE[0], levels=levels,
        neuron="binary" if levels == 1 else "multilevel",
        timesteps=timesteps, learn_threshold="channel", v_init=0.25, **options,
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "threshold" in name:
                parameter.uniform_(0.6, 1.2)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.7, 1.3)
                # AND passes on what both paths fire: it dies out unless most neurons do.
                torch.nn.init.uniform_(module.bias, *((1, 1.5) if "_and" in arch else (0, 0.6)))
                module.weight[::3] *= -1
        for _ in range(8):
            model.train()(normalised(images(16)))
    return model.eval()


def integer(arch: str, timesteps: int = 1, levels: int = 4, **options) -> IntegerNetwork:
    """The integer network of `realistic`, made once."""
    return _integer(arch, timesteps, levels, **options)


@cache
def _integer(*network, **options) -> IntegerNetwork:
    return quantise(realistic(*network, **options), MEAN, STD, SHAPE)


def layer_of(network: IntegerNetwork, name: str) -> Layer:
    return next(layer for layer in network.layers if layer.name == name)


def window_of(kernel: int, stride: int = 1, padding: int = 0) -> Window:
    """A square one."""
    return Window(*((size, size) for size in (kernel, stride, padding, padding)))


def images(batch: int, seed: int = 0, frames: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (frames, batch, *SHAPE) if frames else (batch, *SHAPE)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (MEAN, STD))
    return (pixels.float() / 255 - mean) / std


def tiny(timesteps: int = 1, **changes) -> IntegerNetwork:
    """One pixel, one neuron with D = 11, N = 2: weight 3 on the pixel, bias -5, start 4 (at T = 1
    in the bias).
    """
    bias, start = (-5, 4) if timesteps > 1 else (-1, 0)
    shape = (1, 1, 1)
    one = np.ones((1, 1, 1, 1), np.int8)
    neuron = {
        "synapses": (Synapses("in", IMAGE, weight=3 * one),),
        "bias": Bias.uniform(np.array([bias], np.int32), shape),
        "start": np.array([start], np.int32),
        "step": np.array([11], np.int32),
        "levels": 2,
    }
    return IntegerNetwork(
        arch="tiny",
        input_shape=shape,
        timesteps=timesteps,
        events=False,
        layers=(
            Neurons("neuron", shape, **(neuron | changes)),
            SumPool("pool", shape, "neuron", Window()),
            Readout(
                "logits",
                shape,
                (Synapses("out", "pool", weight=one),),
                Bias.uniform(np.zeros(1, np.int32), shape),
            ),
        ),
        logit_scale=1.0,
    )


@pytest.mark.parametrize(("pixel", "level"), [(0, 0), (3, 0), (4, 1), (7, 1), (8, 2), (255, 2)])
def test_a_neuron_fires_at_its_threshold(pixel, level):
    # H = -1 + 3 * pixel fires level k at H >= 11 k: pixels 4 and 7.67 are the edges.
    image = np.full((1, 1, 1, 1), pixel, np.uint8)
    assert tiny().forward(image).tolist() == [[level]]


def test_soft_reset_keeps_what_was_not_sent():
    # V: 4 -> H 11, z 1, V 0 -> H 7, z 0, V 7 -> H 14, z 1, V 3 -> H 10, z 0.
    spikes = []
    image = np.full((1, 1, 1, 1), 4, np.uint8)
    network = tiny(timesteps=4)
    network.forward(image, lambda name, z: spikes.append(int(z)) if name == "neuron" else None)
    assert spikes == [1, 0, 1, 0]


def shifts() -> IntegerNetwork:
    """One pixel through shifts of 1, 1, 2 and -8 into potentials, read by four neurons."""
    shape = (4, 1, 1)
    weight = np.array([1, -1, 3, 127], np.int8).reshape(4, 1, 1, 1)
    shift = np.array([1, 1, 2, -8], np.int32)
    zero = Bias.uniform(np.zeros(4, np.int32), shape)
    identity = Synapses("identity", "p", gain=np.ones(4, np.int32))
    return IntegerNetwork(
        "shift",
        (1, 1, 1),
        1,
        False,
        (
            Potentials("p", shape, (Synapses("in", IMAGE, weight=weight, shift=shift),), zero),
            Neurons(
                "z", shape, (identity,), zero, np.zeros(4, np.int32), np.ones(4, np.int32), 255
            ),
            Readout(
                "logits",
                (1, 1, 1),
                (Synapses("out", "z", weight=np.ones((1, 4, 1, 1), np.int8)),),
                Bias.uniform(np.zeros(1, np.int32), (1, 1, 1)),
            ),
        ),
        1.0,
    )


def test_shifts_round_half_up_and_saturate():
    seen = {}
    shifts().forward(np.full((1, 1, 1, 1), 5, np.uint8), seen.__setitem__)
    # 5/2 = 2.5 -> 3; -2.5 -> -2; 15/4 = 3.75 -> 4; 635 * 256 -> the end of int16.
    assert seen["p"].flatten().tolist() == [3, -2, 4, 32767]


def fine_weights(monkeypatch, potentials: bool) -> None:
    """Weights of 22 bits instead of 8, and potentials wider than the shipped int16."""
    if potentials:
        for module in (layers, integer_module, rounding):
            monkeypatch.setattr(module, "POTENTIAL_END", 2**39)
        monkeypatch.setattr(rounding, "POTENTIAL_LEVEL", 2**20 - 1)
    monkeypatch.setattr(rounding, "WEIGHT", np.int32)
    monkeypatch.setattr(rounding, "WEIGHT_MAX", 2**21)
    monkeypatch.setattr(rounding, "STEP_MAX", 2**26 - 1)
    monkeypatch.setattr(rounding, "UNITS_MAX", 2**40)
    monkeypatch.setattr(validate, "INT32", 2**62)
    monkeypatch.setattr(torch, "int32", torch.int64)


@pytest.mark.parametrize(("timesteps", "levels"), [(1, 4), (3, 1)])
@pytest.mark.parametrize(("arch", "options"), CASES, ids=NAMES)
def test_equals_the_float_network_as_weights_get_finer(
    arch, options, timesteps, levels, monkeypatch
):
    """With 22-bit weights rounding is too rare to matter; all else is the same arithmetic."""
    fine_weights(monkeypatch, potentials=arch.startswith("ms"))
    model = realistic(arch, timesteps, levels, **options)
    network = quantise(model, MEAN, STD, SHAPE)
    pixels = images(6, seed=1)
    with torch.no_grad():
        expected = model.double()(normalised(pixels).double()).numpy()
    close = np.isclose(network.forward(pixels) * network.logit_scale, expected, atol=1e-4).all(1)
    assert expected.std(0).min() > 0
    # A pixel whose potential lies within the rounding of an edge may still differ by a level.
    assert close.mean() > 0.8


def test_padding_means_the_normalised_zero():
    """Away from and at the border the drive is sum w (p - 255 mean), with nothing outside."""
    network = integer("fastnet")
    encoder = layer_of(network, "encoder")
    assert isinstance(encoder, Neurons)
    weight = torch.from_numpy(encoder.synapses[0].weight).double()
    pixels = images(3, seed=2)
    centred = pixels.double() - 255 * torch.tensor(MEAN).double().view(-1, 1, 1)
    exact = torch.nn.functional.conv2d(centred, weight, padding=1)
    raw = torch.nn.functional.conv2d(pixels.double(), weight, padding=1)
    constant = exact - raw
    bias = torch.from_numpy(encoder.bias.image()).double()
    # What is left is the channel's own bias, the same everywhere up to its rounding down.
    left = bias - constant[0]
    assert ((left.amax((1, 2)) - left.amin((1, 2))) < 1 + 1e-6).all()
    assert encoder.bias.values.shape[:2] == (3, 3)


@pytest.mark.parametrize("largest", [4, 255])
def test_float_convolutions_are_exact(largest):
    """Equal to int64 arithmetic for the largest weights and levels, in the type the bound picks."""
    generator = np.random.default_rng(0)
    weight = generator.integers(-127, 128, (8, 512, 3, 3)).astype(np.int8)
    weight[0] = 127
    z = generator.integers(0, largest + 1, (2, 512, 5, 5))
    z[0] = largest
    passing = Synapses("in", IMAGE, gain=np.ones(512, np.int32))
    conv = Synapses("conv", "levels", weight=weight, window=window_of(3, padding=1))
    network = tiny()
    layers = [
        Neurons(
            name,
            shape,
            (synapses,),
            Bias.uniform(np.zeros(shape[0], np.int32), shape),
            start=np.zeros(shape[0], np.int32),
            step=np.ones(shape[0], np.int32),
            levels=largest,
        )
        for name, shape, synapses in (("levels", (512, 5, 5), passing), ("out", (8, 5, 5), conv))
    ]
    readout = Synapses("readout", "pool", weight=np.ones((1, 8, 1, 1), np.int8))
    network = replace(
        network,
        input_shape=(512, 5, 5),
        layers=(
            *layers,
            SumPool("pool", (8, 1, 1), "out", Window((5, 5))),
            replace(network.readout, synapses=(readout,)),
        ),
    )
    got = network._sum(conv, torch.from_numpy(z))
    padded = np.pad(z, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    wanted = np.einsum("bihwkl,oikl->bohw", windows, weight.astype(np.int64))
    assert np.array_equal(got.numpy(), wanted)
    assert np.abs(wanted).max() == 127 * largest * 512 * 9


@pytest.mark.parametrize("backend", ["no oneDNN", "autocast"])
@pytest.mark.parametrize("arch", ["sparse_resnet", "ms_resnet"])
def test_every_backend_gives_the_same_logits(arch, backend):
    """From a batch of 16 on, NNPACK would stand in for oneDNN; autocast would take bfloat16."""
    network = integer(arch)
    pixels = images(64, seed=3)
    expected = network.forward(pixels)
    assert torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(backend != "no oneDNN")
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=backend == "autocast"):
            logits = network.forward(pixels)
    finally:
        torch._C._set_mkldnn_enabled(True)
    assert np.array_equal(logits, expected)


def fullest(network: IntegerNetwork) -> dict[str, np.ndarray]:
    """What each layer sends at most, int64 [C, H, W]."""
    full = {IMAGE: np.full(network.input_shape, 255)}
    for layer in network.layers[:-1]:
        match layer:
            case Neurons():
                value = np.full(layer.shape, layer.levels)
            case Potentials():
                value = np.full(layer.shape, 2**15)
            case Merge():
                both = full[layer.path], full[layer.shortcut]
                value = sum(both) if layer.kind == "add" else np.minimum(*both)
            case MaxPool():
                value = np.full(layer.shape, full[layer.source].max())
            case SumPool():
                value = full[layer.source].sum((1, 2), keepdims=True)
        full[layer.name] = value
    return full


def largest_partial_sum(layer, inputs: dict[str, np.ndarray], timesteps: int) -> int:
    """Largest |intermediate| where start, biases and weights all drive a channel down, so that no
    reset intervenes, and products are added one after the other, in int64.
    """
    largest = 0
    for channel in range(layer.shape[0]):
        v = -abs(int(layer.start[channel])) if isinstance(layer, Neurons) else 0
        bias = np.abs(layer.bias.values[..., channel].astype(np.int64)).max()
        for _ in range(1 if isinstance(layer, Potentials) else timesteps):
            v -= bias
            for one in layer.synapses:
                each = one.gain if one.weight is None else one.weight
                magnitudes = np.abs(each[channel].astype(np.int64)).ravel()
                sums = -np.cumsum(magnitudes * inputs[one.source].max())
                if one.shift is not None:
                    largest = max(largest, -sums[-1])
                    sums = np.floor(sums * 0.5 ** one.shift[channel] + 0.5).astype(np.int64)
                largest = max(largest, -(v + sums).min())
                v += sums[-1]
    return int(largest)


@pytest.mark.parametrize(("timesteps", "levels"), [(1, 4), (3, 1)])
@pytest.mark.parametrize("arch", [*THIN, "shift"])
def test_no_sum_exceeds_the_proven_bound_and_the_bound_is_close(arch, timesteps, levels):
    made = shifts() if arch == "shift" else None
    network = made or integer(arch, timesteps, levels)
    inputs = fullest(network)
    for name, bound in network.bounds.items():
        reached = largest_partial_sum(layer_of(network, name), inputs, network.timesteps)
        assert 0.75 * bound <= reached <= bound, name


def test_overflow_is_refused_with_the_layer_named():
    with pytest.raises(InputError, match=r"^neuron: got .sums up to \d+., allowed: <= 2147483647"):
        tiny(timesteps=8, bias=Bias.uniform(np.array([2**29], np.int32), (1, 1, 1)))


def test_levels_beyond_a_byte_are_refused():
    with pytest.raises(InputError, match="merge: got levels up to 270, allowed: <= 255"):
        integer("sew_resnet", levels=90)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "vgg11", "neuron": "relu"}, "neuron: got 'relu'.*ONNX"),
        ({"arch": "sew_and_resnet20", "levels": 4}, "levels: got 4, allowed: 1 .*and.*ADD"),
        ({"arch": "sew_iand_resnet20", "levels": 2}, "levels: got 2, allowed: 1 .*iand.*ADD"),
        ({"arch": "vgg11", "beta": 0.9, "timesteps": 2}, "beta: got 0.9, allowed: 1"),
        ({"arch": "vgg11", "levels": 300}, "levels: got 300, allowed: at most 255"),
    ],
)
def test_what_integers_cannot_carry_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        quantise(create_model(in_channels=2, **options), MEAN, STD, SHAPE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": [0.5]}, "mean"),
        ({"std": [0.1, 0.0]}, "std"),
        ({"input_shape": (3, 8, 8)}, "input_shape"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"mean": MEAN, "std": STD, "input_shape": SHAPE} | change
    with pytest.raises(InputError, match=f"^{message}: got"):
        quantise(create_model("fastnet", in_channels=2), **arguments)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 2, 9, 7), np.float32),
        np.zeros((1, 2, 7, 9), np.uint8),
        np.zeros((2, 9, 7), np.uint8),
        np.zeros((1, 1, 2, 9, 7), np.uint8),
    ],
)
def test_wrong_input_is_refused(wrong):
    network = integer("fastnet")
    with pytest.raises(InputError, match=r"^images: got .*allowed: uint8 \[B, 2, 9, 7\]"):
        network.forward(wrong)


def test_constant_event_frames_equal_a_still_image():
    model = realistic("sparse_resnet", timesteps=3, levels=1)
    still = quantise(model, MEAN, STD, SHAPE)
    events = quantise(model, MEAN, STD, SHAPE, events=True)
    pixels = images(4, seed=3)
    frames = pixels.expand(3, *pixels.shape)
    assert np.array_equal(still.forward(pixels), events.forward(frames))
    assert events.forward(images(4, frames=3)).shape == (4, 5)


def test_batches_do_not_matter():
    network = integer("fastnet", timesteps=2, levels=2)
    pixels = images(5)
    one_by_one = np.concatenate([network.forward(pixels[i : i + 1]) for i in range(5)])
    assert np.array_equal(network.forward(pixels), one_by_one)


def test_sew_levels_grow_and_sparse_ones_do_not():
    for arch, most in (("sew_resnet", 3 * 4), ("sparse_resnet", 4)):
        network = integer(arch)
        largest = {name: sent.largest for name, sent in network.outputs.items()}
        assert max(value for name, value in largest.items() if name not in (IMAGE, "pool")) == most


@given(
    st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 3]), st.integers(1, 3), st.booleans()
)
def test_fan_out_is_the_number_of_weights_an_event_meets(rows, columns, kernel, stride, padded):
    weight = np.ones((2, 1, kernel, kernel), np.int8)
    padding = kernel // 2 if padded else 0
    window = window_of(kernel, stride, padding)
    synapses = Synapses("conv", IMAGE, weight=weight, window=window)
    if min(rows, columns) + 2 * padding < kernel:
        return
    shape = (1, rows, columns)
    events = torch.eye(rows * columns).reshape(-1, 1, rows, columns)
    reached = torch.nn.functional.conv2d(
        events, torch.from_numpy(weight).float(), stride=stride, padding=padding
    )
    assert fan_out(synapses, shape).flatten().tolist() == reached.sum((1, 2, 3)).tolist()


def test_counts_are_sums_over_images_and_time():
    network = integer("sew_resnet", timesteps=2, levels=2)
    pixels = images(3)
    whole, parts = count(network, pixels), [count(network, pixels[i : i + 1]) for i in range(3)]
    for name, counts in whole.items():
        assert np.array_equal(counts, sum(part[name] for part in parts))
    events, amplitude, _ = whole["synapses", "stem.conv0"]
    assert events == int((pixels != 0).sum())
    assert amplitude == int(pixels.sum(dtype=torch.int64))
    events, amplitude, updates = whole["neurons", "encoder"]
    assert updates == 3 * 2 * np.prod(layer_of(network, "encoder").shape)
    assert 0 < events <= amplitude <= 2 * events


@pytest.mark.parametrize("arch", ["fastnet", "ms_resnet", "sew_iand_resnet"])
def test_saved_networks_come_back_the_same(arch, tmp_path):
    network = integer(arch)
    save(network, tmp_path / "network.npz")
    again = load(tmp_path / "network.npz")
    pixels = images(4)
    assert np.array_equal(again.forward(pixels), network.forward(pixels))
    assert again.logit_scale == network.logit_scale
    assert again.bounds == network.bounds


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "network.npz"
    save(tiny(), path)
    return path.read_bytes()


@given(st.floats(0, 1, exclude_max=True))
def test_truncated_files_are_refused(saved, tmp_path_factory, share):
    path = tmp_path_factory.mktemp("cut") / "network.npz"
    path.write_bytes(saved[: int(share * len(saved))])
    with pytest.raises(InputError, match=r"^path: got"):
        load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"timesteps": "many"},
        {"input_shape": [2, 1, 1]},
        {"layers": []},
        {"layers": [{"type": "Unknown"}]},
        {"layers": [{"type": "MaxPool", "name": "p", "shape": [1, 1, 1], "source": "absent"}]},
    ],
)
def test_files_that_contradict_themselves_are_refused(change, tmp_path):
    save(tiny(), tmp_path / "network.npz")
    with np.load(tmp_path / "network.npz") as archive:
        arrays = dict(archive)
    header = json.loads(arrays["network.json"].tobytes()) | change
    arrays["network.json"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(tmp_path / "changed.npz", **arrays)
    with pytest.raises(InputError):
        load(tmp_path / "changed.npz")


def test_pickles_and_missing_files_are_refused(tmp_path):
    np.savez(tmp_path / "pickle.npz", **{"network.json": np.array([{"a": 1}], dtype=object)})
    for name in ("pickle.npz", "absent.npz"):
        with pytest.raises(InputError, match=r"^path: got"):
            load(tmp_path / name)


def test_pooling_and_logic_of_levels():
    """Max-pool keeps the last odd row and column; AND and IAND are logic."""
    shape, small = (1, 3, 3), (1, 2, 2)
    gain = np.ones(1, np.int32)
    zero = Bias.uniform(np.zeros(1, np.int32), shape)

    def threshold_at(name: str, step: int) -> Neurons:
        return Neurons(
            name, shape, (Synapses(f"{name}.in", IMAGE, gain=gain),), zero,
            np.zeros(1, np.int32), np.array([step], np.int32), 1,
        )  # fmt: skip

    network = IntegerNetwork(
        "logic",
        shape,
        1,
        False,
        (
            threshold_at("low", 1),
            threshold_at("high", 5),
            Merge("and", shape, "and", "high", "low"),
            Merge("iand", shape, "iand", "high", "low"),
            MaxPool("pool", small, "and"),
            SumPool("sum", (1, 1, 1), "pool", Window((2, 2))),
            Readout(
                "logits",
                (1, 1, 1),
                (Synapses("out", "sum", weight=np.ones((1, 1, 1, 1), np.int8)),),
                Bias.uniform(np.zeros(1, np.int32), (1, 1, 1)),
            ),
        ),
        1.0,
    )
    seen = {}
    image = np.array([[0, 1, 0], [2, 0, 5], [0, 0, 9]], np.uint8)[None, None]
    logits = network.forward(image, seen.__setitem__)
    assert seen["and"].flatten().tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 1]
    assert seen["iand"].flatten().tolist() == [0, 1, 0, 1, 0, 0, 0, 0, 0]
    assert seen["pool"].flatten().tolist() == [0, 1, 0, 1]
    assert logits.tolist() == [[2]]


def test_the_network_kept_in_results_answers_on_real_images(shared_data):
    """results/deploy_exact.json has its accuracy on all 10,000: 0.9005."""
    kept = Path(__file__).parent.parent / "results" / "checkpoints"
    network = load(kept / "table-cifar10-multilevel-T1-N4-s0.npz")
    test = load_dataset("cifar10", shared_data / "cifar10").test
    answers = network.forward(test.inputs[:500].numpy()).argmax(1)
    assert (answers == test.labels[:500].numpy()).sum() == 442
