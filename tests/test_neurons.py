"""Multi-level IF neurons against closed forms (DESIGN 2.1 to 2.4)."""

import math

import pytest
import torch
from helpers import EDGE, FLOAT_SUM, binary_if
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.testing import assert_close

from multispike import MultiLevelIF
from multispike.errors import InputError
from multispike.neurons import MIN_THRESHOLD, barrier
from multispike.surrogate import SURROGATES, sigmoid_gradient

levels_ = st.integers(1, 16)
timesteps_ = st.integers(1, 6)
thresholds = st.floats(0.0625, 20.0, width=32)


def decoded(neuron: MultiLevelIF, x: torch.Tensor) -> torch.Tensor:
    """Mean over T of the spikes for a constant input x [n]."""
    return neuron(x.expand(neuron.timesteps, -1)).mean(0)


@given(levels_, timesteps_, thresholds)
def test_transfer_function_has_its_levels_and_edges(n, timesteps, threshold):
    """y = D/T * clip(floor(N T x / V_th), 0, N T): N*T + 1 values, saturation at V_th."""
    count = n * timesteps
    edges = torch.arange(count + 1) * (threshold / count)
    below, above = edges * (1 - EDGE), edges * (1 + EDGE)
    step = threshold / count
    whole = torch.arange(count + 1, dtype=torch.float32) * step
    neuron = MultiLevelIF(n, threshold, timesteps=timesteps)
    assert_close(decoded(neuron, above), whole, rtol=1e-4, atol=0.0)
    assert_close(decoded(neuron, below[1:]), whole[:-1], rtol=1e-4, atol=0.0)
    sweep = torch.linspace(-threshold, 2 * threshold, 60 * count + 1)
    reached = torch.round(decoded(neuron, sweep) / step)
    assert reached.unique().tolist() == list(range(count + 1))


@given(levels_, thresholds)
def test_it_fires_exactly_at_each_edge(n, threshold):
    """At T = 1 the edge V_th k/N itself fires, the next smaller float does not."""
    threshold = torch.tensor(threshold)
    edges = torch.arange(1, n + 1) / n * threshold
    neuron = MultiLevelIF(n, threshold.item())
    below = torch.nextafter(edges, torch.tensor(0.0))
    level = threshold / n
    assert torch.round(neuron(edges[None, None]) / level)[0, 0].tolist() == list(range(1, n + 1))
    assert torch.round(neuron(below[None, None]) / level)[0, 0].tolist() == list(range(n))
    assert neuron(threshold[None, None, None]).item() == threshold.item(), "saturates at V_th"


@given(levels_, timesteps_, st.sampled_from([0.25, 0.5, 1.0, 2.0]), st.integers(0, 2**31))
def test_timesteps_and_levels_trade_places(n, timesteps, scale, seed):
    """(T, N) and (1, N T) decode a constant input alike; its edges are the multiples of scale."""
    threshold = scale * n * timesteps
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randint(-4, 4 * n * timesteps + 8, (50,), generator=generator) + 0.5) * (scale / 4)
    many = decoded(MultiLevelIF(n, threshold, timesteps=timesteps), x)
    one = decoded(MultiLevelIF(n * timesteps, threshold), x)
    assert_close(many, one, **FLOAT_SUM)


@given(levels_, timesteps_, st.sampled_from([0.0, 0.5]), st.integers(0, 2**31))
def test_conservation(n, timesteps, v_init, seed):
    """What came in = what was sent + what is left: sum x = sum s + V_T - V_0."""
    x = torch.randn(timesteps, 3, 7, generator=torch.Generator().manual_seed(seed))
    neuron = MultiLevelIF(n, 0.7, v_init=v_init)
    v, sent = None, torch.zeros(3, 7)
    for x_t in x:
        s, v = neuron.step(x_t, v)
        sent += s
    assert_close(x.sum(0), sent + v - v_init * 0.7 / n, **FLOAT_SUM)


@given(timesteps_, st.integers(0, 2**31))
def test_one_level_is_the_binary_if_neuron(timesteps, seed):
    x = torch.randn(timesteps, 2, 50, generator=torch.Generator().manual_seed(seed)) + 0.3
    assert torch.equal(MultiLevelIF(1, 0.8, timesteps=timesteps)(x), binary_if(x, 0.8))


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("beta", [1.0, 0.75])
@pytest.mark.parametrize("detach_reset", [True, False])
@pytest.mark.parametrize("learn", [False, True])
def test_sequence_equals_steps(surrogate, beta, detach_reset, learn):
    """Forward, input gradient and threshold gradient, the whole sequence against single steps."""

    def run(stepwise):
        neuron = MultiLevelIF(3, 0.9, surrogate, 5.0, 0.5, beta, detach_reset, learn, timesteps=4)
        x = torch.randn(4, 2, 30, generator=torch.Generator().manual_seed(1)).requires_grad_()
        if stepwise:
            v, spikes = None, []
            for x_t in x:
                s, v = neuron.step(x_t, v)
                spikes.append(s)
            s = torch.stack(spikes)
        else:
            s = neuron(x)
        weights = torch.randn(s.shape, generator=torch.Generator().manual_seed(2))
        (s * weights).sum().backward()
        return [s, x.grad, *[parameter.grad for parameter in neuron.parameters()]]

    for whole, steps in zip(run(False), run(True), strict=True):
        assert_close(whole, steps, **FLOAT_SUM)


def test_ste_gradient_is_one_inside_and_zero_outside():
    x = torch.tensor([[[-0.01, 0.0, 0.5, 1.0, 1.01]]], requires_grad=True)
    MultiLevelIF(4, surrogate="ste")(x).sum().backward()
    assert x.grad.tolist() == [[[0.0, 1.0, 1.0, 1.0, 0.0]]]


@pytest.mark.parametrize("v_init", [0.0, 0.5])
def test_clip_gradient_is_one_where_the_level_is_not_clipped(v_init):
    x = torch.linspace(-1.01, 2.02, 300)[None, None].requires_grad_()
    MultiLevelIF(4, surrogate="clip", v_init=v_init)(x).sum().backward()
    unclipped = torch.floor(x.detach() * 4 + v_init)
    assert x.grad.tolist() == ((unclipped >= 0) & (unclipped <= 4)).float().tolist()


@given(levels_, thresholds, st.floats(1.0, 10.0))
def test_sigmoid_gradient_is_the_sum_of_its_bumps(n, threshold, alpha):
    """Against the formula in float64: sum_k D a' s(a'(h - kD))(1 - s(...)), a' = alpha/D."""
    h = torch.linspace(-threshold, 2 * threshold, 101, dtype=torch.float64)
    step, steep = threshold / n, alpha * n / threshold
    expected = torch.zeros_like(h)
    for k in range(1, n + 1):
        s = 1 / (1 + torch.exp(-steep * (h - k * step)))
        expected += step * steep * s * (1 - s)
    assert_close(sigmoid_gradient(h, threshold, n, alpha), expected, rtol=1e-9, atol=1e-12)
    x = h.float()[None, None].requires_grad_()
    MultiLevelIF(n, threshold, "sigmoid", alpha)(x).sum().backward()
    assert_close(x.grad[0, 0], expected.float(), rtol=1e-3, atol=1e-4)


def test_gradient_through_time_with_detached_reset():
    """x[0] moves V[0] and so every later H: its gradient is the sum of all later masks."""
    x = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1).requires_grad_()
    MultiLevelIF(4, surrogate="ste", timesteps=3)(x).sum().backward()
    assert x.grad.flatten().tolist() == [3.0, 2.0, 1.0]


def test_gradient_through_the_reset():
    """Without detaching, dV/dH = 1 - mask = 0 inside: nothing of x[0] reaches later spikes."""
    x = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1).requires_grad_()
    MultiLevelIF(4, surrogate="ste", detach_reset=False, timesteps=3)(x).sum().backward()
    assert x.grad.flatten().tolist() == [1.0, 1.0, 1.0]


def test_threshold_gradient():
    """z/N - h/V inside, 1 above, 0 below (LSQ, PACT), summed per channel."""
    neuron = MultiLevelIF(4, torch.tensor([1.0, 2.0]), "ste", learn_threshold=True)
    x = torch.tensor([[0.6, 0.6], [3.0, -1.0]])  # [B, C]
    neuron(x).sum().backward()
    assert_close(neuron.threshold.grad, torch.tensor([0.5 - 0.6 + 1.0, 0.25 - 0.3 + 0.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # fused, eager
@pytest.mark.parametrize("surrogate", ["ste", "clip"])
def test_threshold_gradient_of_rounding_neurons(surrogate, dtype):
    """LSQ: round(x/D)/N - x/V_th where nothing is clipped, as V[-1] = D/2 moves with V_th."""
    neuron = MultiLevelIF(4, 2.0, surrogate, v_init=0.5, learn_threshold=True).to(dtype)
    x = torch.tensor([[[0.1, 0.3, 0.7, 1.1, 1.6]]], dtype=dtype)
    neuron(x).sum().backward()
    expected = torch.tensor([0.0 - 0.05, 0.25 - 0.15, 0.25 - 0.35, 0.5 - 0.55, 0.75 - 0.8])
    assert_close(neuron.threshold.grad, expected.sum().to(dtype), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # fused, eager
@pytest.mark.parametrize("timesteps", [1, 4])
def test_barrier_that_clips_nothing_has_no_threshold_gradient(timesteps, dtype):
    """Its output is its input, whatever V_th: sums of N levels, the highest, included."""
    x = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=dtype).repeat(timesteps, 3, 1)
    neuron = barrier(4, torch.nn.Parameter(torch.tensor(1.0, dtype=dtype)), timesteps)
    asked = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    neuron(x).backward(asked)
    assert_close(neuron.threshold.grad, torch.zeros((), dtype=dtype), rtol=0, atol=1e-5)


def test_gradients_of_input_and_potential_are_no_views_of_each_other():
    """Summed over two backward passes, in float64 (eager) as well."""
    for dtype in (torch.float32, torch.float64):
        x = torch.full((1, 3), 0.5, dtype=dtype, requires_grad=True)
        v = torch.full((1, 3), 0.1, dtype=dtype, requires_grad=True)
        for _ in range(2):
            MultiLevelIF(4, surrogate="ste").step(x, v)[0].sum().backward()
        assert x.grad.tolist() == v.grad.tolist() == [[2.0, 2.0, 2.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # fused, eager
def test_a_learned_threshold_acts_at_its_floor_and_comes_back(dtype):
    """It fires as one of 0.001 does, and a loss that wants more of it gets more."""
    assert MIN_THRESHOLD == 1e-3
    neuron = MultiLevelIF(2, 0.5, learn_threshold=True).to(dtype)
    with torch.no_grad():
        neuron.threshold.fill_(-0.25)
    x = torch.tensor([[[4e-4, 6e-4, 2e-3, 3.0]]], dtype=dtype)
    assert_close(neuron(x), torch.tensor([[[0.0, 5e-4, 1e-3, 1e-3]]], dtype=dtype))
    optimizer = torch.optim.SGD(neuron.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        (3 - neuron(x)[0, 0, 3]).square().backward()
        optimizer.step()
    assert neuron.threshold.item() > 1


def test_per_channel_threshold_on_maps():
    neuron = MultiLevelIF(1, torch.tensor([1.0, 2.0]))
    spikes = neuron(torch.full((1, 2, 3, 3), 1.5))
    assert spikes[0, 0].unique().item() == 1.0
    assert spikes[0, 1].unique().item() == 0.0
    for shape in [(1, 3, 4, 4), (1, 1, 2, 4, 4), (2,)]:  # other channels, [T, B, C, H, W], none
        with pytest.raises(InputError, match=r"allowed: \[T\*B, 2, \.\.\.\] \(one threshold a ch"):
            neuron(torch.zeros(shape))


@given(levels_, st.integers(0, 2**31))
def test_barrier_bounds_sums_of_levels_exactly(n, seed):
    """Any two multiples of D, summed in floats, come back as min(a + b, N) levels."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randint(0, n + 1, (2, 1, 1, 64), generator=generator)
    threshold = 0.1 + 3 * torch.rand((), generator=generator).item()
    out = barrier(n, threshold)(a / n * threshold + b / n * threshold)
    assert torch.equal(torch.round(out * n / threshold), (a + b).clamp(max=n).float())


@pytest.mark.parametrize("timesteps", [1, 4])
def test_barrier_passes_the_gradient_unchanged_where_nothing_is_clipped(timesteps):
    """Sums of at most N: identity forward, and backward whatever later timesteps ask for."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 3, (timesteps, 2, 9), generator=generator).float().div(2).requires_grad_()
    out = barrier(2, timesteps=timesteps)(x)
    asked = torch.randn(out.shape, generator=generator)
    out.backward(asked)
    assert torch.equal(out, x)
    assert_close(x.grad, asked, **FLOAT_SUM)


def test_no_state_survives():
    """Same output twice, another batch size in between, nothing but parameters in state_dict."""
    neuron = MultiLevelIF(4, timesteps=3)
    x = torch.randn(3, 5, 6)
    first = neuron(x)
    neuron(torch.randn(3, 2, 6))
    assert torch.equal(first, neuron(x))
    assert not neuron.state_dict()
    assert not list(neuron.buffers())


def test_v_init_half_rounds():
    x = torch.tensor([[[0.12, 0.13, 0.37, 0.38]]])
    assert MultiLevelIF(4, v_init=0.5)(x).tolist() == [[[0.0, 0.25, 0.25, 0.5]]]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("levels", 0), ("levels", 2.5), ("levels", True), ("threshold", 0.0), ("threshold", -1.0),
        ("threshold", math.nan), ("threshold", math.inf), ("alpha", 0.0), ("v_init", 1.0),
        ("threshold", 1e39), ("threshold", 1e-46), ("threshold", "1"), ("threshold", None),
        ("threshold", torch.tensor([1.0, math.inf])), ("threshold", torch.tensor([])),
        ("threshold", torch.tensor([1.0, math.nan])), ("threshold", torch.tensor(5e-4)),
        ("threshold", torch.ones(2, 2)), ("threshold", 2 * torch.ones(2, requires_grad=True)),
        ("timesteps", 0), ("timesteps", 1.5), ("v_init", None), ("beta", "1"),
        ("alpha", math.inf), ("alpha", "5"),
        ("v_init", -0.1), ("beta", 0.0), ("beta", 1.1), ("surrogate", "sigmoidal"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(argument, value):
    with pytest.raises(InputError) as caught:
        MultiLevelIF(**{argument: value})
    message = str(caught.value)
    assert message.startswith(f"{argument}: got")
    assert "allowed" in message
    assert "\n" not in message


def test_a_learned_threshold_below_its_floor_is_refused():
    message = r"^threshold: got 0\.0005, allowed: numbers from 0\.001 to .*where it is learned"
    with pytest.raises(InputError, match=message):
        MultiLevelIF(4, threshold=5e-4, learn_threshold=True)
    assert MultiLevelIF(4, threshold=5e-4)(torch.full((1, 1, 1), 1.0)).item() == pytest.approx(5e-4)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(2, 3, dtype=torch.uint8), "x: got torch.uint8, allowed: .*floating-point"),
        (torch.ones(2, 3, dtype=torch.int64), "x: got torch.int64, allowed: .*floating-point"),
        (torch.ones(3, 2), r"x: got 'shape \[3, 2\]', allowed: \[T\*B, .*\[T, B, .*T = 2$"),
        (torch.tensor(1.0), r"x: got 'shape \[\]', allowed: \[T\*B, ...\]"),
    ],
    ids=str,
)
def test_inputs_that_are_no_drive_are_refused(x, message):
    with pytest.raises(InputError, match=f"^{message}"):
        MultiLevelIF(timesteps=2)(x)


@pytest.mark.parametrize("timesteps", [1, 3])
@pytest.mark.parametrize("learn", ["no", "layer"])
def test_time_and_batch_share_an_axis_or_have_their_own(timesteps, learn):
    """[T*B, ...] and [T, B, ...], with the gradients of both."""
    found = []
    for shape in [(timesteps * 2, 5), (timesteps, 2, 5)]:
        neuron = MultiLevelIF(3, learn_threshold=learn == "layer", timesteps=timesteps)
        x = torch.randn(timesteps * 2, 5, generator=torch.Generator().manual_seed(0)).view(shape)
        x.requires_grad_()
        spikes = neuron(x)
        assert spikes.shape == shape
        spikes.square().sum().backward()
        grads = [x.grad, *[parameter.grad for parameter in neuron.parameters()]]
        found.append([tensor.flatten() for tensor in (spikes.detach(), *grads)])
    for merged, apart in zip(*found, strict=True):
        assert torch.equal(merged, apart)


@pytest.mark.parametrize("batch", [0, 1, 32])
def test_no_sample_meets_another_in_a_plain_network(batch):
    """At T = 1 x is [B, ...]; each sample gives what it gives alone."""
    torch.manual_seed(0)
    threshold = torch.tensor([0.5, 1.0, 1.5])
    layers = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), MultiLevelIF(4, threshold))
    images = torch.randn(batch, 1, 5, 5)
    alone = [layers(image[None]) for image in images]
    expected = torch.cat(alone) if alone else torch.zeros(0, 3, 3, 3)
    assert torch.equal(layers(images), expected)


def test_state_of_another_shape_is_refused():
    with pytest.raises(InputError, match=r"v: got \(2, 3\), allowed: the shape of x_t"):
        MultiLevelIF().step(torch.zeros(4, 3), torch.zeros(2, 3))


@given(st.integers(1, 255), thresholds)
def test_saturation(n, threshold):
    assume(threshold / n > 1e-3)
    top = MultiLevelIF(n, threshold)(torch.tensor([[[threshold, 1e6, -1e6]]]))
    expected = torch.tensor([threshold, threshold, 0.0])
    assert_close(top[0, 0], expected, rtol=1e-6, atol=0.0)
