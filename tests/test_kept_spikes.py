"""Spikes that a convolution keeps as bytes: the same bits come back, or floats are kept."""

import warnings
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from multispike import create_model, list_models
from multispike.models import fusion
from multispike.ops import levels as kept
from multispike.ops import library, spikes_kept_as_bytes

TYPES = [torch.float32, torch.bfloat16]
NEURONS = [(1, 1.0), (4, 1.0), (4, 2.0), (5, 0.7)]  # N, V_th


@pytest.fixture(autouse=True, scope="module")
def built():
    assert library() is not None


@pytest.fixture
def packed(monkeypatch):
    """What was kept instead of each tensor that an operation saved."""
    seen = []
    inner = kept._packed
    monkeypatch.setattr(kept, "_packed", lambda *given: seen.append(inner(*given)) or seen[-1])
    return seen


def spikes(shape, n, threshold, dtype=torch.float32, most=None):
    z = torch.randint(0, (most or n) + 1, shape).float()
    return (z / n * threshold).to(dtype).requires_grad_()[...]  # no leaf


def saved(inputs, n, threshold, **layer):
    """What a convolution keeps of its inputs, the loss's gradients, and the outputs."""
    torch.manual_seed(1)
    conv = nn.Conv2d(inputs.shape[1], 5, 3, **layer).to(inputs.dtype)
    seen = []
    inner = kept._packed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "_packed", lambda *given: seen.append(inner(*given)) or seen[-1])
        with spikes_kept_as_bytes(threshold, n):
            outputs = conv(inputs)
    grads = torch.autograd.grad(outputs.float().square().sum(), [inputs, conv.weight])
    return [item for item in seen if item is not conv.weight], grads, outputs


@given(
    n=st.integers(1, 255),
    threshold=st.floats(2**-10, 2.0**10, width=32),
    dtype=st.sampled_from(TYPES),
    size=st.sampled_from([1, 255, 256, 257, 1000]),
    seed=st.integers(0, 9),
)
def test_the_same_bits_come_back(n, threshold, dtype, size, seed):
    torch.manual_seed(seed)
    values = spikes((size,), n, threshold, dtype)
    packed = kept._packed(values, threshold, n)
    assert isinstance(packed, tuple), "levels of a neuron were not kept as bytes"
    assert packed[0].dtype == torch.uint8
    assert torch.equal(kept._unpacked(*packed, threshold, n), values)


@pytest.mark.parametrize(("n", "threshold"), NEURONS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (4, 16, 32, 32)])  # one thread, and several
def test_a_convolution_keeps_bytes(n, threshold, dtype, layout, shape):
    inputs = spikes(shape, n, threshold, dtype)
    inputs = inputs.contiguous(memory_format=layout)
    (packed,), grads, outputs = saved(inputs, n, threshold)
    assert packed[0].element_size() == 1
    assert packed[0].stride() == inputs.stride()
    with saved_tensors_hooks(lambda t: t, lambda t: t):  # those of someone else: ours stay out
        nothing, plain_grads, plain_outputs = saved(inputs, n, threshold)
    assert not nothing
    assert torch.equal(outputs, plain_outputs)
    assert all(map(torch.equal, grads, plain_grads))


def test_sums_of_residual_blocks_are_bytes_up_to_255_levels():
    for most, expected in ((255, tuple), (256, torch.Tensor)):
        inputs = spikes((2, 3, 60, 60), 4, 2.0, most=most)
        inputs.detach()[-1, -1, -1, -1] = most / 4 * 2.0
        (packed,), _, _ = saved(inputs, 4, 2.0)
        assert isinstance(packed, expected), most


@pytest.mark.parametrize("value", [0.26, -0.25, float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("place", [0, 256, -1])
def test_anything_else_stays_as_it_is(value, place):
    inputs = spikes((2, 16, 40, 40), 4, 1.0)
    inputs.detach().view(-1)[place] = value
    (packed,), grads, _ = saved(inputs, 4, 1.0)
    assert packed is inputs
    with saved_tensors_hooks(lambda t: t, lambda t: t):
        _, plain_grads, _ = saved(inputs, 4, 1.0)
    for a, b in zip(grads, plain_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_slices_and_empty_batches():
    inputs = spikes((4, 3, 6, 6), 4, 1.0)[:, ::2]
    assert saved(inputs, 4, 1.0)[0][0] is inputs
    assert saved(spikes((0, 3, 6, 6), 4, 1.0), 4, 1.0)[2].shape == (0, 5, 4, 4)


def test_nothing_where_no_gradient_is_wanted():
    with torch.no_grad():
        assert isinstance(spikes_kept_as_bytes(1.0, 4), nullcontext)


def steps(network, inputs, call=None):
    """Loss and gradients of one training step."""
    network.zero_grad()
    loss = (call or network)(inputs).square().sum()
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)]


@pytest.mark.parametrize("arch", list_models())
def test_networks_learn_the_same(arch, packed, monkeypatch):
    torch.manual_seed(0)
    network = create_model(arch, levels=4, timesteps=2).train()
    inputs = torch.rand(2, network.config["in_channels"], 32, 32)
    found = steps(network, inputs)
    assert any(isinstance(item, tuple) for item in packed)
    monkeypatch.setattr(fusion, "spikes_kept_as_bytes", lambda *_: nullcontext())
    assert all(map(torch.equal, found, steps(network, inputs)))


def test_every_convolution_of_the_body_keeps_bytes(packed):
    for arch in ("vgg11", "sew_resnet20", "sparse_resnet20"):
        packed.clear()
        network = create_model(arch, levels=4, threshold=2.0).train()
        network(torch.rand(2, 3, 32, 32))
        convolutions = sum(isinstance(m, nn.Conv2d) for m in network.body.modules())
        assert sum(isinstance(item, tuple) for item in packed) == convolutions


def test_a_learned_threshold_keeps_floats(monkeypatch):
    monkeypatch.setattr(kept, "_packed", None)  # a call would fail
    network = create_model("vgg11", levels=4, learn_threshold="layer").train()
    steps(network, torch.rand(2, 3, 32, 32))


def test_mixed_precision():
    network = create_model("vgg11", levels=4).train()
    inputs = torch.rand(2, 3, 32, 32)

    def half(x):
        with torch.autocast("cpu", torch.bfloat16):
            return network(x).float()

    found = steps(network, inputs, half)
    with saved_tensors_hooks(lambda t: t, lambda t: t):
        assert all(map(torch.equal, found, steps(network, inputs, half)))


def test_checkpointing_of_someone_else():
    network = create_model("vgg11", levels=4).train()
    inputs = torch.rand(2, 3, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recomputed = steps(network, inputs, lambda x: checkpoint(network, x, use_reentrant=False))
    assert all(map(torch.equal, recomputed, steps(network, inputs)))


def test_gradients_of_gradients():
    torch.manual_seed(0)
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)
    inputs = spikes((2, 3, 6, 6), 4, 1.0)
    outcomes = []
    for context in (spikes_kept_as_bytes(1.0, 4), nullcontext()):
        with context:
            outputs = nn.functional.conv2d(inputs, weight)
        (grad,) = torch.autograd.grad(outputs.square().sum(), weight, create_graph=True)
        outcomes.append(torch.autograd.grad(grad.square().sum(), [inputs, weight]))
    assert all(map(torch.equal, *outcomes))
