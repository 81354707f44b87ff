"""Counting levels, against `unique` and plain loops."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multispike.activity import counting
from multispike.activity.counting import Grid, find_grid, measure
from multispike.activity.layout import Window, reads
from multispike.activity.provenance import Source
from multispike.ops.build import library
from multispike.ops.counts import count_levels

STEPS = (0.25, 0.3 / 7, 1.0, 0.873)


def levels_drawn(levels, shape, seed):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, levels + 1, shape, generator=random).float()


@pytest.fixture(params=["kernel", "torch"])
def either(request, monkeypatch):
    """The kernel, and what does its work where it can't run."""
    assert library() is not None
    if request.param == "torch":
        monkeypatch.setattr(counting, "count_levels", lambda *_: None)
    return request.param


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the same for all examples
@given(
    levels=st.sampled_from([1, 2, 4, 15, 31, 32, 90]),
    rows=st.integers(1, 40),
    shape=st.sampled_from([(1, 1, 1), (3, 4, 5), (2, 8, 8), (7,), (16,)]),
    step=st.sampled_from(STEPS),
    seed=st.integers(0, 10**6),
)
def test_measures_what_loops_count(either, levels, rows, shape, step, seed):
    z = levels_drawn(levels, (rows, *shape), seed)
    stats = measure(z * step, shape, Grid(step, levels))
    places = (0, 1)
    assert torch.equal(stats.events, (z > 0).double().sum(places))
    assert torch.equal(stats.amplitude, z.double().sum(places))
    assert stats.top == z.max()
    assert stats.elements == z.numel()
    if levels <= 31:
        expected = [(z == k).sum().item() for k in range(levels + 1)]
        assert stats.histogram == expected
    else:
        assert stats.histogram is None


@pytest.mark.parametrize("levels", [1, 4, 40])
def test_a_threshold_for_every_channel(either, levels):
    z = levels_drawn(levels, (50, 3, 4, 4), 0)
    channel = torch.tensor([0.7, 1.0, 1.3], dtype=torch.float64)
    x = z * channel.float().view(3, 1, 1) / levels
    stats = measure(x, (3, 4, 4), Grid(1 / levels, levels, channel))
    assert torch.equal(stats.events, (z > 0).double().sum((0, 1)))
    assert torch.equal(stats.amplitude, z.double().sum((0, 1)))
    flat = measure(x.flatten(1), (48,), Grid(1 / levels, levels, channel))
    assert flat.events == (z > 0).sum()


@pytest.mark.parametrize("levels", [1, 3, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_layout_and_precision_change_nothing(either, levels, dtype):
    z = levels_drawn(levels, (300, 4, 6, 5), 1)
    grid = Grid(0.5, levels)
    plain = measure(z / 2, (4, 6, 5), grid)
    other = measure((z / 2).to(dtype).to(memory_format=torch.channels_last), (4, 6, 5), grid)
    assert torch.equal(plain.events, other.events)
    assert torch.equal(plain.amplitude, other.amplitude)


@pytest.mark.parametrize("timesteps", [2, 5])
@pytest.mark.parametrize("levels", [1, 4, 6])
@pytest.mark.parametrize("shape", [(3, 20, 30), (7,)])
def test_levels_summed_over_time(timesteps, levels, shape):
    z = levels_drawn(levels, (timesteps, 9, *shape), 2)
    for x in (z, z.flatten(0, 1)):
        stats = measure(x * 0.5, shape, Grid(0.5, levels), timesteps)
        assert stats.timesteps == timesteps
        expected = torch.bincount(z.sum(0).long().flatten(), minlength=levels * timesteps + 1)
        assert stats.decoded == expected.tolist()
        assert stats.histogram == torch.bincount(z.long().flatten()).tolist()
    assert measure(z, shape, Grid(0.5, levels)).decoded is None
    assert measure(z, shape, Grid(1.0, 31), timesteps).decoded is None  # too many to count


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("shape", [(40, 5, 1000), (90, 7, 10, 10), (3, 2, 2**14 + 1), (9, 600, 31)])
@pytest.mark.parametrize("axis", [1, 2])
def test_threads_share_the_counting(threads, shape, axis):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        z = levels_drawn(4, shape, 3)
        counts = count_levels(z / 4, 0.25, 4, channels=axis)
    finally:
        torch.set_num_threads(before)
    for sums, part in ((counts.events, z > 0), (counts.amplitude, z)):
        assert torch.equal(sums, part.double().sum((0, axis)))
    assert counts.histogram == [(z == k).sum().item() for k in range(5)]


def test_not_a_number_and_negative_values_are_no_level():
    x = torch.tensor([[[float("nan"), -1.0, 0.24, 0.26, float("inf")]]])
    counts = count_levels(x, 0.5, 2)
    assert (counts.events.tolist(), counts.amplitude.tolist()) == ([0, 0, 0, 1, 1], [0, 0, 0, 1, 2])
    assert counts.histogram == [3, 1, 1]
    assert count_levels(x, None, 1).events.tolist() == [1] * 5


def test_analog_values_have_no_levels(either):
    x = torch.tensor([[[[0.0, -1.5], [2.5, 0.0]]]])
    stats = measure(x, (1, 2, 2), None)
    assert stats.events.tolist() == [[0, 1], [1, 0]]
    assert stats.amplitude is None


@given(
    step=st.sampled_from(STEPS),
    levels=st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any),
)
def test_finds_a_step_that_all_values_are_multiples_of(step, levels):
    x = torch.tensor(levels) * step
    grid = find_grid(x)
    if grid is None:  # only where the step is less than an eighth of the least value
        assert min(z for z in levels if z) > 8
        return
    assert (x / grid.step - (x / grid.step).round()).abs().max() < 1e-2
    assert grid.levels == round(x.max().item() / grid.step)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("step", "levels"), [(0.3, 4), (0.1, 15), (0.07, 15)])
def test_a_step_is_found_though_a_type_rounds_its_levels(dtype, step, levels):
    grid = find_grid((torch.arange(levels + 1) * step).to(dtype))
    assert grid is not None
    assert (grid.levels, grid.step) == (levels, pytest.approx(step, rel=1e-2))


def test_analog_values_are_on_no_grid():
    torch.manual_seed(0)
    assert find_grid(torch.rand(1000)) is None
    assert find_grid(torch.rand(1000).bfloat16()) is None
    assert find_grid(torch.tensor([0.0, 0.1, 0.9999])) is None
    assert find_grid(torch.arange(300.0)) is None  # 256 levels are the most


def test_a_source_refines_the_step_it_found():
    source = Source("foreign")
    assert not source.learn(torch.zeros(3))
    assert source.carries == "spikes"
    assert source.learn(torch.tensor([0.0, 1.0, 2.0]))  # even levels of a step of 0.5
    assert source.grid == Grid(1.0, 2)
    source.out.histogram, source.out.step = [5.0, 3.0, 2.0], 1.0
    assert source.learn(torch.tensor([0.5, 2.0]))
    assert source.grid == Grid(0.5, 4)
    source.out.rescale(source.grid.step)
    assert source.out.histogram == [5, 0, 3, 0, 2]
    assert source.learn(torch.tensor([0.5, 0.7071]))
    assert source.carries == "analog"
    assert source.grid is None


def test_a_binary_source_sees_values_below_its_step():
    source = Source("foreign")
    source.learn(torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    assert source.grid == Grid(1.0, 1)
    source.learn(torch.tensor([[0.0, 1.0], [0.9, 1.0]]))
    assert source.carries == "analog"


@pytest.mark.parametrize("size", [1, 5, 8])
@pytest.mark.parametrize("out", [1, 3, 5, 8])
def test_reach_of_adaptive_windows(size, out):
    reach = reads(Window((1, size, 1), (1, out, 1), adaptive=True), 0)
    covered = torch.zeros(size, dtype=torch.float64)
    for o in range(out):
        covered[o * size // out : -(-(o + 1) * size // out)] += 1
    assert torch.equal(reach, covered)
