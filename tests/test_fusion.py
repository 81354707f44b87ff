"""Fused training layers against torch's own, which run one after the other in float64."""

from collections import OrderedDict
from contextlib import contextmanager, nullcontext
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from multispike import MultiLevelIF, create_model
from multispike.models import fusion
from multispike.models.fusion import Layers, MaxPool, OverTime
from multispike.ops import count_levels, norm_usable, pool_usable
from multispike.ops.layer import fixed_rows, window
from multispike.surrogate import SURROGATES

LAYOUTS = [torch.contiguous_format, torch.channels_last]

NEAR = {torch.float32: 1e-5, torch.bfloat16: 2**-7}
"""Largest error of a gradient by its own size: rounding of its type, float sums in between."""


def near(value, reference):
    error = (value.double() - reference).norm() / reference.norm()
    assert error < NEAR[value.dtype], error


def block(channels, timesteps, **options):
    """Batch norm with weights of its own and neurons, and drives around all levels."""
    norm = nn.BatchNorm2d(channels)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias, 0.5)
    neuron = OverTime(MultiLevelIF(v_init=0.3, beta=0.9, **options), timesteps)
    return Layers(OrderedDict(norm=norm, neuron=neuron))


def unfused(layers):
    """The same layers as torch's Sequential in float64."""
    return nn.Sequential(OrderedDict(deepcopy(layers).double().named_children()))


def drive(shape, dtype=torch.float32, layout=torch.contiguous_format):
    x = (2 * torch.randn(shape) + 3).to(dtype)
    return x.contiguous(memory_format=layout).requires_grad_()


@pytest.fixture
def calls(monkeypatch):
    """Whether fused layers ran: one entry a call."""
    seen = []
    inner = fusion.FusedNormSpikes.apply
    monkeypatch.setattr(
        fusion.FusedNormSpikes, "apply", lambda *inputs: seen.append(1) or inner(*inputs)
    )
    return seen


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("learn", [False, "layer", "channel"])
@pytest.mark.parametrize("detach_reset", [True, False])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [3, 24])
def test_norm_and_neurons(surrogate, learn, detach_reset, steps, layout, dtype, channels, calls):
    torch.manual_seed(0)
    options = {"surrogate": surrogate, "detach_reset": detach_reset, "learn_threshold": bool(learn)}
    layers = block(channels, steps, **options)
    if learn == "channel":
        neuron = layers.neuron.neuron
        neuron.threshold = nn.Parameter(torch.rand(channels, 1, 1) + 0.7)
    twin = unfused(layers)
    x = drive((steps * 4, channels, 5, 7), dtype, layout)
    reference_x = x.detach().double().requires_grad_()
    spikes, reference = layers(x), twin(reference_x)
    assert calls
    assert spikes.dtype == dtype
    assert spikes.is_contiguous(memory_format=layout)
    assert torch.equal(spikes, reference.to(dtype))
    grad = torch.randn_like(spikes)
    spikes.backward(grad)
    reference.backward(grad.double())
    near(x.grad, reference_x.grad)
    scale = max(p.grad.norm() for p in twin.parameters())
    for (name, value), expected in zip(layers.named_parameters(), twin.parameters(), strict=True):
        error = (value.grad - expected.grad).norm() / scale
        assert error < NEAR[dtype], name
    for value, expected in zip(layers.buffers(), twin.buffers(), strict=True):
        assert_close(value.double(), expected.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_drive_for_all_timesteps(surrogate, layout):
    torch.manual_seed(0)
    layers = block(6, 3, surrogate=surrogate)
    twin = unfused(layers)
    x = drive((4, 6, 5, 5), layout=layout)
    reference_x = x.detach().double().requires_grad_()
    spikes = fusion.normed_spikes(layers.norm, layers.neuron.neuron, x[None], 3)
    reference = twin.neuron.neuron(twin.norm(reference_x).expand(3, -1, -1, -1, -1))
    assert torch.equal(spikes, reference.float())
    grad = torch.randn_like(spikes)
    spikes.backward(grad)
    reference.backward(grad.double())
    near(x.grad, reference_x.grad)
    near(layers.norm.weight.grad, twin.norm.weight.grad)
    near(layers.norm.bias.grad, twin.norm.bias.grad)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_threads_share_the_work(threads, layout):
    torch.manual_seed(0)
    layers = block(40, 2)
    twin = unfused(layers)
    x = drive((2 * 9, 40, 11, 9), layout=layout)
    reference_x = x.detach().double().requires_grad_()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        spikes = layers(x)
        spikes.sum().backward()
    finally:
        torch.set_num_threads(before)
    reference = twin(reference_x)
    reference.sum().backward()
    assert (spikes.double() != reference).sum() <= 2  # drives within rounding of a threshold
    error = (x.grad - reference_x.grad).norm() / reference_x.grad.norm()
    assert error < 1e-3
    assert_close(layers.norm.running_var.double(), twin.norm.running_var, rtol=1e-6, atol=1e-6)


def test_statistics_of_values_far_from_zero():
    """Sums of squares lose all digits in float: 1e4 +- 1."""
    layers = block(4, 1)
    x = torch.randn(16, 4, 8, 8) + 1e4
    layers(x.requires_grad_())
    expected = 0.9 + 0.1 * x.double().transpose(0, 1).flatten(1).var(1)
    assert_close(layers.norm.running_var.double(), expected, rtol=1e-5, atol=0)


def test_not_a_number_is_seen():
    x = torch.randn(4, 3, 4, 4)
    x[0, 1, 0, 0] = torch.nan
    spikes = block(3, 1)(x)
    assert spikes[:, 1].isnan().all()
    assert not spikes[:, [0, 2]].isnan().any()


@pytest.mark.parametrize(
    ("surrogate", "elements"), [("sigmoid", 4), ("ste", 5)], ids=["input", "input and mask"]
)
def test_the_norms_output_is_not_kept(surrogate, elements):
    kept = []
    x = drive((8, 16, 32, 32))
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel() * t.element_size()) or t, lambda t: t
    ):
        block(16, 2, surrogate=surrogate)(x)
    assert sum(kept) < 1.05 * elements * x.numel()


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_of_several_batches(momentum):
    torch.manual_seed(0)
    layers = block(5, 1)
    layers.norm.momentum = momentum
    twin = unfused(layers)
    for _ in range(3):
        x = drive((6, 5, 3, 3))
        layers(x)
        twin(x.double())
    assert_close(layers.norm.running_mean.double(), twin.norm.running_mean, rtol=1e-6, atol=1e-6)
    assert_close(layers.norm.running_var.double(), twin.norm.running_var, rtol=1e-6, atol=1e-6)
    assert layers.norm.num_batches_tracked == 3


@pytest.mark.parametrize("change", ["evaluation", "frozen", "affine", "double", "type"])
def test_other_layers_run_on_their_own(change, calls):
    torch.manual_seed(0)
    layers, x = block(5, 1), drive((6, 5, 3, 3))
    if change == "evaluation":
        layers.eval()
    elif change == "frozen":
        layers.norm.eval()
    elif change == "affine":
        layers.norm = nn.BatchNorm2d(5, affine=False)
    elif change == "double":
        layers, x = layers.double(), x.double()
    else:
        layers.norm = nn.SyncBatchNorm(5).eval()
    twin = nn.Sequential(OrderedDict(deepcopy(layers).named_children()))
    assert torch.equal(layers(x), twin(x))
    assert not calls


def test_statistics_without_history():
    layers = block(5, 1)
    layers.norm = nn.BatchNorm2d(5, track_running_stats=False)
    x = drive((6, 5, 3, 3))
    assert torch.equal(layers(x), unfused(layers)(x.double()).float())


def test_one_value_a_channel_is_refused_as_by_torch():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        block(5, 1)(drive((1, 5, 1, 1)))


@pytest.mark.parametrize("name", ["norm", "neuron", "neuron.neuron"])
@pytest.mark.parametrize("when", ["forward", "forward_pre", "full_backward"])
def test_hooks_see_their_layer(name, when, calls):
    torch.manual_seed(0)
    layers, seen = block(5, 1), []
    handle = getattr(layers.get_submodule(name), f"register_{when}_hook")(
        lambda *of: seen.append(len(of))
    )
    layers(drive((6, 5, 3, 3)).mul(1)).sum().backward()
    assert len(seen) == 1
    assert not calls
    handle.remove()
    layers(drive((6, 5, 3, 3)))
    assert len(seen) == len(calls) == 1


def test_names_are_those_of_torchs_modules():
    """Checkpoints of either form fit the other."""
    layers = block(5, 1, learn_threshold=True)
    plain = nn.Sequential(OrderedDict(deepcopy(layers).named_children()))
    assert list(layers.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(layers.state_dict())


@pytest.mark.parametrize("arch", ["fastnet", "vgg11", "sparse_resnet20", "ms_resnet20"])
@pytest.mark.parametrize("options", [{"levels": 4}, {"levels": 2, "timesteps": 2}], ids=str)
def test_networks_train_as_without_fusion(arch, options, calls, monkeypatch):
    """A drive within rounding of a threshold may fire otherwise and shift what is behind it."""
    torch.manual_seed(0)
    model = create_model(arch, surrogate="ste", **options)
    model = model.to(memory_format=torch.channels_last).train()
    images = torch.rand(8, 3, 16, 16)

    def gradient(model):
        loss = nn.functional.cross_entropy(model(images), torch.arange(8))
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])

    twin = deepcopy(model)
    loss, grad = gradient(model)
    layers = sum(isinstance(module, MultiLevelIF) for module in model.modules())
    assert 0.4 * layers < len(calls) <= layers
    del calls[:]
    monkeypatch.setattr(fusion, "norm_usable", lambda *inputs: False)
    monkeypatch.setattr(fusion, "pool_usable", lambda x: False)
    expected_loss, expected_grad = gradient(twin)
    assert not calls
    assert loss == pytest.approx(expected_loss, rel=1e-2)
    assert (grad - expected_grad).norm() / expected_grad.norm() < 0.1
    for (name, value), expected in zip(model.named_buffers(), twin.buffers(), strict=True):
        assert (value - expected).float().norm() <= 0.05 * expected.float().norm(), name


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1), (1, 6), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [3, 300])
def test_pooling(size, dtype, channels):
    """Spikes have few values: of equal ones the same wins as in torch."""
    torch.manual_seed(0)
    x = torch.randint(0, 3, (4, channels, *size)).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    twin = x.detach().clone().requires_grad_()
    assert pool_usable(x)
    pooled, expected = MaxPool()(x), nn.MaxPool2d(2, ceil_mode=True)(twin)
    assert torch.equal(pooled, expected)
    grad = torch.randn_like(pooled)
    pooled.backward(grad)
    expected.backward(grad)
    assert torch.equal(x.grad, twin.grad)


def test_pooling_of_not_a_number():
    x = torch.randn(2, 8, 6, 6).contiguous(memory_format=torch.channels_last)
    x[0, :, 1, 3] = x[1, :, 4, 2] = torch.nan
    expected = nn.MaxPool2d(2, ceil_mode=True)(x)
    pooled = MaxPool()(x.requires_grad_())
    assert_close(pooled.detach(), expected, rtol=0, atol=0, equal_nan=True)


def test_pooling_keeps_a_byte_an_output():
    kept = []
    x = drive((4, 16, 8, 8), layout=torch.channels_last)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel() * t.element_size()) or t, lambda t: t
    ):
        pooled = MaxPool()(x)
    assert sum(kept) == pooled.numel()


def test_pooling_elsewhere_is_torchs():
    for x in (
        drive((2, 3, 8, 8)),
        drive((2, 3, 8, 8), torch.float64, torch.channels_last),
        drive((2, 3, 8, 8), layout=torch.channels_last).detach(),
    ):
        assert not pool_usable(x)
        assert torch.equal(MaxPool()(x), nn.MaxPool2d(2, ceil_mode=True)(x))


def test_more_channels_than_a_tile_run_on_their_own():
    x, weight = torch.randn(1, 2, 8193, 1, 1), torch.ones(8193)
    assert not norm_usable(x, weight, weight, 1.0, MultiLevelIF().spec)


@pytest.fixture(params=[(surrogate, learn) for surrogate in SURROGATES for learn in (False, True)])
def outcome(request):
    """A function that runs every kernel forward and backward, and gives all that comes out."""
    surrogate, learn = request.param
    torch.manual_seed(0)
    layers = block(5, 2, threshold=0.7, surrogate=surrogate, learn_threshold=learn)
    layers.append(MaxPool())
    x = drive((6, 5, 4, 4), layout=torch.channels_last)
    v = torch.rand(6, 5, 4, 4).requires_grad_()
    asked = [torch.randn(6, 5, *size) for size in ((2, 2), (4, 4), (4, 4))]

    def run(hooks):
        with hooks:
            outputs = (layers(x), *layers.neuron.neuron.step(x, v))
            counts = count_levels(outputs[1].detach().contiguous(), 0.175, 4)
        grads = torch.autograd.grad(outputs, (x, v, *layers.parameters()), asked)
        return [*outputs, counts.sums, counts.histogram, *grads]

    return run


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize(
    "defaults",
    [
        lambda: default_dtype(torch.float64),
        lambda: default_dtype(torch.bfloat16),
        lambda: torch.device("meta"),
    ],
    ids=["float64", "bfloat16", "meta"],
)
def test_torchs_defaults_change_nothing(outcome, defaults):
    """Nor does what is kept for the next call."""
    expected = outcome(nullcontext())
    for kept in (fixed_rows, window):
        kept.cache_clear()
    with defaults():
        changed = outcome(nullcontext())
    for values in (changed, outcome(nullcontext())):
        assert all(torch.equal(a, b) for a, b in zip(values, expected, strict=True))


@pytest.mark.parametrize(
    ("pack", "unpack"),
    [
        (lambda kept: kept.to_sparse(), lambda kept: kept.to_dense()),
        (lambda kept: kept.contiguous(), lambda kept: kept),
        (lambda kept: torch.stack([kept, kept], -1), lambda kept: kept[..., 0]),
    ],
    ids=["sparse", "contiguous", "slices"],
)
def test_what_is_kept_may_come_back_in_another_layout(outcome, pack, unpack):
    """Hooks of someone else on saved tensors, for compression or offloading."""
    expected = outcome(nullcontext())
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda kept: pack(kept.detach()), unpack)
    assert all(torch.equal(a, b) for a, b in zip(outcome(hooks), expected, strict=True))
