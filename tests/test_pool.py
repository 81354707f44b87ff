"""2x2 max-pooling as one operator; all operators under torch's defaults and saved-tensor hooks."""

from collections import OrderedDict
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from multispike import MultiLevelIF
from multispike.models.blocks import MaxPool
from multispike.ops.counts import count_levels
from multispike.ops.pool import max_pool
from multispike.ops.spikes import bumps
from multispike.surrogate import SURROGATES


def drive(shape, dtype=torch.float32, layout=torch.contiguous_format):
    x = (2 * torch.randn(shape) + 3).to(dtype)
    return x.contiguous(memory_format=layout).requires_grad_()


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1), (1, 6), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [3, 300])
def test_pooling(size, dtype, layout, channels):
    """Spikes have few values: of equal ones the same wins as in torch."""
    torch.manual_seed(0)
    x = torch.randint(0, 3, (4, channels, *size)).to(dtype)
    x = x.contiguous(memory_format=layout).requires_grad_()
    twin = x.detach().clone().requires_grad_()
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
    """Where no gradient is asked for, and in graphs of evaluation."""
    x = drive((2, 3, 8, 8), layout=torch.channels_last)
    pool, expected = MaxPool(), nn.MaxPool2d(2, ceil_mode=True)(x)
    assert torch.equal(pool(x.detach()), expected)
    assert "MaxPool2D" in type(pool.eval()(x).grad_fn).__name__


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pooling_is_an_operator(layout):
    torch.library.opcheck(max_pool, (drive((2, 3, 5, 6), layout=layout),))


@pytest.fixture(params=[(surrogate, learn) for surrogate in SURROGATES for learn in (False, True)])
def outcome(request):
    """A function that runs every kernel forward and backward, and gives all that comes out."""
    surrogate, learn = request.param
    torch.manual_seed(0)
    options = {"threshold": 0.7, "surrogate": surrogate, "learn_threshold": learn}
    neuron = MultiLevelIF(v_init=0.3, beta=0.9, timesteps=2, **options)
    layers = nn.Sequential(OrderedDict(neuron=neuron, pool=MaxPool()))
    x = (drive((6, 5, 4, 4), layout=torch.channels_last).detach() / 4).requires_grad_()
    v = torch.rand(6, 5, 4, 4).requires_grad_()
    asked = [torch.randn(6, 5, *size) for size in ((2, 2), (4, 4), (4, 4))]

    def run(hooks):
        with hooks:
            outputs = (layers(x), *layers.neuron.step(x, v))
            counts = count_levels(outputs[1].detach().contiguous(), 0.175, 4)
        grads = torch.autograd.grad(outputs, (x, v, *layers.parameters()), asked)
        histogram = torch.tensor(counts.histogram, dtype=torch.float64, device="cpu")
        return [*outputs, counts.events, counts.amplitude, histogram, *grads]

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
    bumps.cache_clear()
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
