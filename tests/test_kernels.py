"""The compiled neurons against closed forms, the eager code and a plain loop under autograd."""

import copy
import io
import os
import pickle
import subprocess
import sys
import warnings
from contextlib import contextmanager, nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from processes import started
from torch import Tensor
from torch.testing import assert_close

from multispike import MultiLevelIF
from multispike.ops import spikes as operator
from multispike.ops.build import library
from multispike.ops.reference import Constants
from multispike.surrogate import SURROGATES, level, threshold_gradient

SLOPE = dict(rtol=1e-4, atol=1e-5)
"""The *eager* sigmoid loses digits in 1 - s and in alpha * N * h/V_th (the fused one is held to
float64 below); a threshold's gradient is one sum in another order."""

HALF_SLOPE = dict(rtol=2**-7, atol=1e-5)
"""A gradient near the middle of two bfloat16, up to 2^-7 apart, may round either way."""

thresholds = st.floats(2**-10, 2.0**10, width=32)


def spec(levels=4, surrogate="sigmoid", alpha=5.0, v_init=0.0, beta=1.0, detach_reset=True):
    return Constants(levels, surrogate, alpha, v_init, beta, detach_reset)


def number(threshold):
    """V_th as the operator takes it: a number is float64 without axes."""
    return torch.as_tensor(threshold, dtype=None if isinstance(threshold, Tensor) else torch.double)


def taken(x, threshold, constants):
    return operator.kernels_for(x, number(threshold), constants) is not None


def run(x, v, threshold, constants, last):
    """Spikes, and V[T-1] or None."""
    spikes, v = operator.spikes(x, v, number(threshold), *constants, last)
    assert last or not v.numel()
    return spikes, v if last else None


@contextmanager
def without_kernels():
    """As on a machine without a compiler, forward and backward."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operator, "library", lambda: None)
        yield


def eager(*inputs):
    with without_kernels():
        return run(*inputs)


def compare(x, v, threshold, constants, last, **tolerance):
    """Both implementations on the same inputs: equal bits forward, near gradients."""
    assert taken(x, threshold, constants)
    inputs = [t for t in (x, v, threshold) if isinstance(t, Tensor) and t.requires_grad]
    outcomes = []
    for implementation in (without_kernels, nullcontext):
        with implementation():
            outputs = [t for t in run(x, v, threshold, constants, last) if t is not None]
            generator = torch.Generator().manual_seed(3)
            grads = [torch.randn(t.shape, generator=generator) for t in outputs]
            outcomes.append((outputs, torch.autograd.grad(outputs, inputs, grads)))
    (expected, expected_grads), (fused, fused_grads) = outcomes
    for a, b in zip(expected, fused, strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()
    for a, b in zip(expected_grads, fused_grads, strict=True):
        assert_close(b, a, **(tolerance or SLOPE))


@pytest.fixture(autouse=True, scope="module")
def built():
    """A machine that tests this project has a C compiler: skipping silently would test nothing."""
    assert library() is not None


@given(st.integers(1, 255), thresholds)
def test_edges(n, threshold):
    """Level k is reached at V_th * k/N exactly, and not by the float below it."""
    edges = torch.arange(1, n + 1) / n * threshold
    lower = torch.cat([torch.zeros(1), edges[:-1]])
    for x, expected in (
        (edges, edges),
        (torch.nextafter(edges, torch.tensor(torch.inf)), edges),
        (torch.nextafter(edges, torch.tensor(-torch.inf)), lower),
    ):
        x = x[None, None]
        assert taken(x, threshold, spec(n))
        spikes = run(x, None, threshold, spec(n), False)[0]
        assert torch.equal(spikes[0, 0], expected)
        assert torch.equal(spikes, level(x, threshold, n) / n * threshold)


@given(
    st.integers(1, 6), st.integers(1, 255), thresholds, st.sampled_from([0.0, 0.5, 0.9]),
    st.sampled_from([1.0, 0.9, 0.5]), st.booleans(), st.booleans(), st.integers(0, 2**31),
)  # fmt: skip
def test_forward_is_that_of_the_eager_code(steps, n, threshold, v_init, beta, state, last, seed):
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(steps, 2, 300, generator=generator) + 0.3) * threshold
    v = torch.rand(2, 300, generator=generator) * threshold / n if state else None
    constants = spec(n, v_init=v_init, beta=beta)
    expected = eager(x, v, threshold, constants, last)
    fused = run(x, v, threshold, constants, last)
    assert torch.equal(expected[0], fused[0])
    assert torch.equal(expected[1], fused[1]) if last else fused[1] is None


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("detach_reset", [True, False])
@pytest.mark.parametrize("learned", ["no", "layer", "channel"])
@pytest.mark.parametrize("state", [True, False])
@pytest.mark.parametrize(("steps", "n"), [(1, 4), (4, 1), (3, 7)])
def test_gradients_are_those_of_the_eager_code(surrogate, detach_reset, learned, state, steps, n):
    torch.manual_seed(0)
    x = (torch.randn(steps, 3, 5, 4, 7) + 0.3).requires_grad_()
    v = torch.rand(3, 5, 4, 7).requires_grad_() if state else None
    threshold = {
        "no": 0.7,
        "layer": torch.tensor(0.7, requires_grad=True),
        "channel": (torch.rand(5, 1, 1) + 0.5).requires_grad_(),
    }[learned]
    constants = spec(n, surrogate, v_init=0.25, beta=0.9, detach_reset=detach_reset)
    compare(x, v, threshold, constants, state)


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("detach_reset", [True, False])
def test_gradients_against_autograd(surrogate, detach_reset):
    """A plain loop in which autograd does the time axis: eager in float64, fused in float32."""

    class Fire(torch.autograd.Function):
        @staticmethod
        def forward(ctx, h, threshold):
            ctx.save_for_backward(h, threshold)
            return level(h, threshold, 3) / 3 * threshold

        @staticmethod
        def backward(ctx, grad):
            h, threshold = ctx.saved_tensors
            slope = SURROGATES[surrogate](h, threshold, 3, 5.0)
            return grad * slope, (grad * threshold_gradient(h, threshold, 3, surrogate)).sum()

    def plain(x, v, threshold):
        spikes = []
        for x_t in x:
            h = x_t + v * 0.75
            s = Fire.apply(h, threshold)
            v = h - (s.detach() if detach_reset else s)
            spikes.append(s)
        return torch.stack(spikes), v

    generator = torch.Generator().manual_seed(5)
    # Multiples of 1/16 with V_th = 0.75, leak 0.75: potentials and levels are exact in both types.
    x = torch.randint(-8, 24, (3, 4, 6), generator=generator).double() / 16
    v = torch.randint(0, 8, (4, 6), generator=generator).double() / 16
    constants = spec(3, surrogate, beta=0.75, detach_reset=detach_reset)

    def gradients(function, dtype):
        inputs = [t.to(dtype).requires_grad_() for t in (x, v, torch.tensor(0.75))]
        assert taken(inputs[0], inputs[2], constants) == (dtype == torch.float32)
        spikes, last = function(*inputs)
        return torch.autograd.grad([(spikes**2).sum() + (last**3).sum()], inputs)

    def neurons(x, v, threshold):
        return run(x, v, threshold, constants, True)

    expected = gradients(plain, torch.float64)
    for a, b in zip(gradients(neurons, torch.float64), expected, strict=True):
        assert_close(a, b, rtol=1e-9, atol=1e-12)
    for a, b in zip(gradients(neurons, torch.float32), expected, strict=True):
        assert_close(a.double(), b, **SLOPE)


@pytest.mark.parametrize("n", [1, 2, 4, 8, 15, 64, 255])
@pytest.mark.parametrize("alpha", [0.5, 2.0, 5.0, 10.0, 20.0])
@pytest.mark.parametrize("threshold", [1.0, 0.37])
def test_the_sum_of_bumps_has_float_accuracy(n, alpha, threshold):
    """Against float64, from one level below the first edge to one above the last."""
    threshold = torch.tensor(threshold)
    step = threshold.double() / n
    x = torch.linspace(0, threshold.item() * (1 + 1 / n), 5001)[None, None].requires_grad_()
    fused = run(x, None, threshold.item(), spec(n, alpha=alpha), False)[0]
    fused.sum().backward()
    u = alpha * (x.detach().double()[0, 0] / step - torch.arange(1, n + 1)[:, None])
    expected = (alpha * torch.sigmoid(u) * torch.sigmoid(-u)).sum(0)
    assert_close(x.grad[0, 0].double(), expected, rtol=6e-6, atol=1e-12)


def test_far_potentials_have_no_slope_and_no_overflow():
    x = torch.tensor([[[-1e30, -1e3, 1e3, 1e30]]], requires_grad=True)
    MultiLevelIF(4)(x).sum().backward()
    assert x.grad.abs().max() < 1e-16


def test_constants_beyond_floats_are_left_to_the_eager_code():
    x = torch.randn(1, 2, 3)
    assert not taken(x, 1.0, spec(255, alpha=60.0))
    assert taken(x, 1.0, spec(1, alpha=60.0))
    assert taken(x, 1.0, spec(255, "ste", alpha=60.0))


def test_not_a_number_stays_one():
    x = torch.tensor([[[float("nan"), 0.5]]])
    for last in (False, True):
        spikes, v = run(x, None, 1.0, spec(), last)
        assert spikes.isnan().tolist() == [[[True, False]]]
        assert v is None or v.isnan().tolist() == [[True, False]]


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    .unflatten(0, x.shape[:2]),
    "expanded": lambda x: x[:1].expand_as(x),
    "expanded channels_last": lambda x: x[0].contiguous(memory_format=torch.channels_last)
    .expand_as(x),
    "batch first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "every second": lambda x: x.repeat_interleave(2, dim=-1)[..., ::2],
}  # fmt: skip


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("learned", ["no", "channel"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layouts(surrogate, learned, layout):
    """Any layout gives the eager numbers, and dense steps keep their strides."""
    torch.manual_seed(0)
    # More than one block, with channels that begin and end inside of blocks.
    x = LAYOUTS[layout](torch.randn(3, 2, 5, 9, 11) + 0.3).requires_grad_()
    threshold = (torch.rand(5, 1, 1) + 0.5).requires_grad_() if learned == "channel" else 0.7
    spikes = run(x, None, threshold, spec(surrogate=surrogate), False)[0]
    if layout not in ("batch first", "every second"):
        assert spikes[0].stride() == x[0].stride()
    assert spikes.stride(0) == spikes[0].numel()
    compare(x, None, threshold, spec(surrogate=surrogate), False)


def test_inputs_are_not_copied():
    """The saved input is the input itself, expanded over time or not; `ste` keeps bytes."""
    drive = torch.randn(2, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    kept = []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    for timesteps in (1, 3):
        x = drive.expand(timesteps, *drive.shape).requires_grad_()
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            MultiLevelIF(4, surrogate="sigmoid", timesteps=timesteps)(x)
            MultiLevelIF(4, surrogate="ste", timesteps=timesteps)(x)
        big = [t for t in kept if t.numel() == x.numel()]
        assert [t.dtype for t in big] == [torch.float32, torch.uint8]
        assert big[0].data_ptr() == x.data_ptr()


def test_gradients_in_other_layouts():
    """What comes back from a pooling or a mean may be expanded or in another memory order."""
    x = torch.randn(4, 2, 3, 5, 5).requires_grad_()
    grad = torch.randn(2, 3, 5, 5).contiguous(memory_format=torch.channels_last).expand_as(x)
    for surrogate in SURROGATES:
        outcomes = []
        for implementation in (without_kernels, nullcontext):
            with implementation():
                spikes, _ = run(x, None, 1.0, spec(surrogate=surrogate), False)
                outcomes += torch.autograd.grad(spikes, x, grad)
        assert_close(outcomes[1], outcomes[0], **SLOPE)


@pytest.mark.parametrize("shape", [(1, 0, 3), (2, 0, 3, 4, 4), (1, 2, 0), (2, 1, 1, 1, 1)])
def test_small_and_empty_batches(shape):
    x = torch.rand(shape, requires_grad=True)
    neuron = MultiLevelIF(4, learn_threshold=True, timesteps=len(x))
    neuron(x).sum().backward()
    assert x.grad.shape == x.shape
    assert neuron.threshold.grad is not None


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4, 2, 64, 9, 9), (3, 2, 5, 7, 3)])  # whole blocks, and odd ends
def test_results_past_the_cache_are_the_same(surrogate, dtype, shape, monkeypatch):
    x = torch.randn(shape).to(dtype).requires_grad_()
    grad = torch.randn(shape).to(dtype)
    outcomes = []
    for limit in (operator.CACHED, 0):
        monkeypatch.setattr(operator, "CACHED", limit)
        spikes, last = run(x, None, 1.0, spec(4, surrogate), True)
        outcomes.append((spikes, last, *torch.autograd.grad(spikes, x, grad)))
    for cached, streamed in zip(*outcomes, strict=True):
        assert torch.equal(cached, streamed)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_share_the_work(threads):
    """Any number of threads gives the same spikes and, but for the order of sums, gradients."""
    x = torch.randn(2, 5, 64, 81)  # above the size from which threads are used, no whole blocks

    def run():
        neuron = MultiLevelIF(4, 0.8, v_init=0.5, learn_threshold=True, timesteps=2)
        y = x.clone().requires_grad_()
        spikes = neuron(y)
        spikes.pow(2).sum().backward()
        return spikes, y.grad, neuron.threshold.grad

    alone = run()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together, again = run(), run()
    finally:
        torch.set_num_threads(before)
    for a, b, c in zip(alone, together, again, strict=True):
        assert_close(a, b, rtol=1e-5, atol=0.0)
        assert torch.equal(b, c), "repeatable"
    assert torch.equal(alone[0], together[0])


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_steps_equal_the_sequence(surrogate):
    x = torch.randn(5, 3, 70)
    neuron = MultiLevelIF(2, 0.9, surrogate, v_init=0.5, beta=0.8, timesteps=5)
    v, spikes = None, []
    for x_t in x:
        s, v = neuron.step(x_t, v)
        spikes.append(s)
    assert torch.equal(neuron(x), torch.stack(spikes))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_types(dtype):
    """float64 runs eagerly, float16 as float32 between two conversions."""
    x = torch.randn(2, 3, 8).to(dtype).requires_grad_()
    neuron = MultiLevelIF(4)
    assert taken(x, 1.0, spec()) == (dtype == torch.float16)
    spikes, v = neuron.step(x[0])
    spikes.sum().backward()
    assert spikes.dtype == x.grad.dtype == dtype
    assert v.dtype == (torch.float32 if dtype == torch.float16 else dtype)


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("detach_reset", [True, False])
@pytest.mark.parametrize("learned", ["no", "layer", "channel"])
@pytest.mark.parametrize("state", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("steps", "n"), [(1, 4), (3, 7)])
def test_bfloat16_is_float32_between_conversions(
    surrogate, detach_reset, learned, state, layout, steps, n
):
    """Bits of spikes, potential and gradients: rounded once, at the end, on every path.

    With levels off the grid of bfloat16 (7, thresholds like 0.7), so that a potential or a gradient
    that were rounded from step to step would show.
    """
    torch.manual_seed(0)
    x = LAYOUTS[layout]((torch.randn(steps, 2, 5, 9, 11) + 0.3).bfloat16())
    v = torch.rand(2, 5, 9, 11) if state else None
    threshold = {"no": 0.7, "layer": torch.tensor(0.7), "channel": torch.rand(5, 1, 1) + 0.5}[
        learned
    ]
    constants = spec(n, surrogate, v_init=0.25, beta=0.9, detach_reset=detach_reset)
    outcomes = []
    for convert in (torch.Tensor.float, torch.Tensor.bfloat16):
        inputs = [
            t.detach().requires_grad_() for t in (convert(x), v, threshold) if isinstance(t, Tensor)
        ]
        rest = inputs[1:]
        given_v = rest.pop(0) if state else None
        given_threshold = rest.pop(0) if rest else threshold
        assert taken(inputs[0], given_threshold, constants)
        outputs = run(inputs[0], given_v, given_threshold, constants, state)
        outputs = [t for t in outputs if t is not None]
        generator = torch.Generator().manual_seed(3)
        grads = [torch.randn(t.shape, generator=generator).bfloat16() for t in outputs]
        grads = [g.to(t.dtype) for g, t in zip(grads, outputs, strict=True)]
        outcomes.append((outputs, torch.autograd.grad(outputs, inputs, grads)))
    for a, b in zip(*([*outputs, *grads] for outputs, grads in outcomes), strict=True):
        assert torch.equal(a.to(b.dtype), b)
    (spikes, *last), (grad_x, *others) = outcomes[1]
    assert spikes.dtype == grad_x.dtype == torch.bfloat16
    assert all(t.dtype == torch.float32 for t in (*last, *others))
    if layout == "channels_last":
        assert spikes[0].is_contiguous(memory_format=torch.channels_last)
        assert grad_x[0].is_contiguous(memory_format=torch.channels_last)


@given(
    st.integers(1, 6), st.integers(1, 255), thresholds, st.sampled_from([1.0, 0.9]),
    st.booleans(), st.integers(0, 2**31),
)  # fmt: skip
def test_bfloat16_forward_is_that_of_the_eager_code(steps, n, threshold, beta, state, seed):
    generator = torch.Generator().manual_seed(seed)
    x = ((torch.randn(steps, 2, 300, generator=generator) + 0.3) * threshold).bfloat16()
    v = torch.rand(2, 300, generator=generator) * threshold / n if state else None
    constants = spec(n, beta=beta)
    assert taken(x, threshold, constants)
    expected, expected_v = eager(x.float(), v, threshold, constants, True)
    spikes, last = run(x, v, threshold, constants, True)
    assert torch.equal(spikes, expected.bfloat16())
    assert torch.equal(last, expected_v)


@pytest.mark.parametrize("n", [1, 2, 4, 8, 64, 256])
def test_bfloat16_spikes_are_whole_levels(n):
    """For V_th = 1 and N a power of two up to 256 no spike is rounded, and edges are hit."""
    edges = torch.arange(n + 1) / n
    assert torch.equal(edges.bfloat16().float(), edges)
    spikes = MultiLevelIF(n)(edges.bfloat16()[None, None])
    assert torch.equal(spikes[0, 0].float(), edges)


@pytest.mark.parametrize("value", [3.0e38, 3.39e38, -3.39e38, 1e-40, float("nan"), float("inf")])
def test_bfloat16_extremes(value):
    """Gradients at the ends of the range round as torch rounds, NaN included."""
    x = torch.full((1, 1, 40), 0.5, dtype=torch.bfloat16, requires_grad=True)
    spikes, v = run(x, None, 1.0, spec(surrogate="ste"), True)
    # dL/dx = dL/ds + dL/dV: the sum is the float whose rounding is looked at.
    torch.autograd.backward([spikes, v], [torch.zeros_like(spikes), torch.full((1, 40), value)])
    expected = torch.full((1, 1, 40), value).bfloat16()
    assert torch.equal(x.grad.nan_to_num(7.0), expected.nan_to_num(7.0))


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_module_in_bfloat16(surrogate, learn, dtype, monkeypatch):
    """Fused or eager, with parameters of float32 (mixed precision) or bfloat16: one result."""
    neuron = MultiLevelIF(
        4, 0.8, surrogate, v_init=0.5, beta=0.9, learn_threshold=learn, timesteps=3
    ).to(dtype)
    x = torch.randn(3, 2, 6, 5, 5).bfloat16()
    weights = torch.randn_like(x)
    results = []
    for fused in (True, False):
        if not fused:
            monkeypatch.setattr(operator, "library", lambda: None)
        y = x.clone().requires_grad_()
        spikes = neuron(y)
        (spikes * weights).sum().backward()
        first, v = neuron.step(x[0])
        again = neuron.step(x[1], v)[0]
        assert v.dtype == torch.float32
        assert torch.equal(torch.stack([first, again]), spikes[:2])
        results.append([spikes.detach(), y.grad, neuron.threshold.grad if learn else None])
        neuron.zero_grad()
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1].dtype == torch.bfloat16
    assert_close(results[0][1], results[1][1], **HALF_SLOPE)
    if learn:
        slope = SLOPE if dtype == torch.float32 else HALF_SLOPE
        assert_close(results[0][2], results[1][2], **slope)


def test_bfloat16_keeps_half_the_memory():
    """The saved input is the bfloat16 input itself; `ste` keeps bytes."""
    x = torch.randn(2, 2, 8, 4, 4).bfloat16().requires_grad_()
    kept = []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        MultiLevelIF(4, surrogate="sigmoid", timesteps=2)(x)
        MultiLevelIF(4, surrogate="ste", timesteps=2)(x)
    big = [t for t in kept if t.numel() == x.numel()]
    assert [t.dtype for t in big] == [torch.bfloat16, torch.uint8]
    assert big[0].data_ptr() == x.data_ptr()


def test_autocast_trains_in_channels_last():
    """Convolution, batch norm and neuron pass bfloat16 on, in one memory layout, both ways."""
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.Identity(),
        torch.nn.Conv2d(8, 4, 3, padding=1),
    ).to(memory_format=torch.channels_last)  # fmt: skip
    neuron, seen = MultiLevelIF(4, surrogate="ste"), []

    def fire(_, inputs, __):
        spikes = neuron(inputs[0])
        for tensor in (inputs[0], spikes):
            seen.append(tensor)
            tensor.register_hook(seen.append)
        return spikes

    network[2].register_forward_hook(fire)
    x = torch.randn(2, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        network(x).float().square().mean().backward()
    assert len(seen) == 4
    assert all(t.dtype == torch.bfloat16 for t in seen)
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in seen)
    assert network[0].weight.grad.dtype == torch.float32


def test_tensors_without_memory():
    from torch._subclasses.fake_tensor import FakeTensorMode

    assert MultiLevelIF(4)(torch.randn(2, 3, 8, device="meta")).shape == (2, 3, 8)
    with FakeTensorMode():
        assert MultiLevelIF(4)(torch.randn(2, 3, 8)).shape == (2, 3, 8)


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize(
    ("learn", "dtype"),
    [(False, torch.float32), (True, torch.float32), (True, torch.bfloat16)],
)
def test_compiled_models_see_one_graph(surrogate, learn, dtype):
    """torch.compile sees one operation, without a graph break, with the same numbers."""
    torch._dynamo.reset()  # it keeps eight variants of a function, and here are nine
    neuron = MultiLevelIF(4, 0.8, surrogate, v_init=0.5, learn_threshold=learn, timesteps=3)
    x = torch.randn(3, 2, 6, 5, 5).to(dtype)
    weights = torch.randn_like(x)
    results = []
    for run in (neuron, torch.compile(neuron, fullgraph=True, backend="aot_eager")):
        y = x.clone().requires_grad_()
        spikes = run(y)
        (spikes * weights).sum().backward()
        results.append([spikes.detach(), y.grad, neuron.threshold.grad if learn else None])
        neuron.zero_grad()
    assert torch.equal(results[0][0], results[1][0])
    slope = SLOPE if dtype == torch.float32 else HALF_SLOPE
    for a, b in zip(results[0][1:], results[1][1:], strict=True):
        assert a is b is None or assert_close(a, b, **slope) is None


def test_exports_see_the_operator():
    program = torch.export.export(MultiLevelIF(4).eval(), (torch.randn(2, 8),))
    x = torch.randn(2, 8)
    assert torch.equal(program.module()(x), MultiLevelIF(4)(x))


def test_modules_copy_and_pickle():
    neuron = MultiLevelIF(4, learn_threshold=True)
    x = torch.randn(2, 3, 8)
    expected = neuron(x)
    buffer = io.BytesIO()
    torch.save(neuron.state_dict(), buffer)
    loaded = MultiLevelIF(4, 0.5, learn_threshold=True)
    loaded.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    for twin in (copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron)), loaded):
        assert torch.equal(twin(x), expected)


@pytest.fixture
def quick_compiler(tmp_path_factory):
    """A compiler that does not optimise: what is built is looked at, not timed."""
    compiler = tmp_path_factory.mktemp("compiler") / "quick-cc"
    compiler.write_text('#!/bin/sh\nexec cc "$@" -O0\n')
    compiler.chmod(0o755)
    return str(compiler)


@pytest.fixture
def afresh(monkeypatch, tmp_path, quick_compiler):
    """As in a new process with an empty cache; afterwards the tests' own library is back."""
    monkeypatch.setenv("MULTISPIKE_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", quick_compiler)
    library.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    library.cache_clear()


@pytest.mark.parametrize("compiler", ["false", "/nowhere/cc", "true"])
def test_without_a_compiler(compiler, afresh, monkeypatch):
    """One warning, once, that names the reason; same spikes from the eager code."""
    x = torch.randn(2, 3, 8)
    expected = eager(x, None, 1.0, spec(), False)[0]
    monkeypatch.setenv("CC", compiler)
    with pytest.warns(RuntimeWarning, match=r"without their compiled kernels: .") as caught:
        assert torch.equal(MultiLevelIF(4, timesteps=2)(x), expected)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(MultiLevelIF(4, timesteps=2)(x), expected)
    assert not list(afresh.rglob("*.so"))


def test_without_openmp(afresh, monkeypatch, tmp_path):
    """A compiler that refuses -fopenmp still builds kernels, for one thread."""
    compiler = tmp_path / "plain-cc"
    compiler.write_text(
        '#!/bin/sh\ncase " $* " in *" -fopenmp "*) exit 1;; esac\nexec cc "$@" -O0\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    assert library() is not None
    x = torch.randn(2, 5, 64, 81)
    assert torch.equal(MultiLevelIF(4, timesteps=2)(x), eager(x, None, 1.0, spec(), False)[0])


def test_unwritable_cache(afresh, monkeypatch):
    (afresh / "file").write_text("")
    monkeypatch.setenv("MULTISPIKE_CACHE", str(afresh / "file"))
    assert library() is not None


def test_processes_build_at_once(tmp_path, quick_compiler):
    """Three processes with one empty cache: all of them compute, one library stays, no litter."""
    running = [started(compute_with, tmp_path, quick_compiler) for _ in range(3)]
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0] * 3
    files = [path.suffix for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [".so"]


def compute_with(cache, compiler):
    os.environ |= {"MULTISPIKE_CACHE": str(cache), "CC": compiler}
    warnings.simplefilter("error")
    assert MultiLevelIF(4)(torch.ones(1, 1, 1)).item() == 1.0


def test_a_broken_library_does_not_stop_the_neurons(afresh):
    """A file that was damaged on the disk: the kernels are built in another form, or eager."""
    assert library() is not None
    library.cache_clear()
    (found,) = afresh.rglob("*.so")
    # A new file: the loaded one is still mapped.
    found.unlink()
    found.write_bytes(b"")
    assert library() is not None
    assert taken(torch.randn(1, 2, 3), 1.0, spec())


def test_training_after_inference_mode():
    """In one process, with a neuron that inference has met first."""
    neuron = MultiLevelIF(levels=3, threshold=0.8125)
    x = torch.rand(1, 4, 5)
    with torch.inference_mode():
        expected = neuron(x)
    x.requires_grad_()
    spikes = neuron(x)
    spikes.sum().backward()
    assert torch.equal(spikes, expected)
    assert x.grad is not None


def test_a_command_tells_openmp_to_wait_briefly(tmp_path):
    """Before torch loads it: GNU's library prints what it has read then."""
    Image.new("RGB", (32, 32)).save(tmp_path / "image.png")
    words = [sys.executable, "-m", "multispike.cli", "predict", "cifar10-fastnet", "image.png"]
    variables = {**os.environ, "OMP_DISPLAY_ENV": "verbose"}
    variables.pop("GOMP_SPINCOUNT", None)
    done = subprocess.run(words, capture_output=True, text=True, env=variables, cwd=tmp_path)
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("torch has another OpenMP library")
    assert "GOMP_SPINCOUNT = '20000'" in done.stderr


def test_kept_memory_costs_no_page_faults():
    """In a process of its own: once warm, taking and freeing large blocks touches no new page."""
    code = """
import resource, sys, torch
from multispike.environment import keep_freed_memory
sys.exit(0) if not keep_freed_memory() else None
def step():
    kept = [torch.zeros(2**24 - 2**20 * i) for i in range(4)]
for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if not done.stdout:
        pytest.skip("this C library has no mallopt")
    assert int(done.stdout) < 30_000, "taken anew, five steps are 300,000 pages"
