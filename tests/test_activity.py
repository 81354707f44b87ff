"""What a pass counts, against closed forms and against plain convolutions of ones."""

import gc
import weakref
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from multispike import MultiLevelIF, create_model
from multispike.activity import record_activity
from multispike.errors import InputError
from multispike.layer_record import Stream


class Frames(nn.Module):
    """Lets layers without a notion of time read frames [T, B, ...]."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x.flatten(0, 1)).unflatten(0, x.shape[:2]).flatten(2).mean(0)


def record(model, *batches, **options):
    """Activity of batches of inputs, all of class 0."""
    loader = [(x, torch.zeros(x.shape[x.dim() == 5], dtype=torch.long)) for x in batches]
    return record_activity(model, loader, **options)


def spikes(shape, levels=1, density=0.3, seed=0):
    random = torch.Generator().manual_seed(seed)
    z = torch.randint(1, levels + 1, shape, generator=random)
    return (z * (torch.rand(shape, generator=random) < density)).float()


# --- convolutions and linear layers -------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "column", "taps"), [(2, 2, 9), (0, 0, 4), (0, 2, 6), (4, 4, 4), (2, 4, 6)]
)
def test_taps_of_one_event(row, column, taps):
    frame = torch.zeros(1, 1, 2, 5, 5)
    frame[0, 0, 1, row, column] = 3
    frame[0, 0, 0, 2, 2] = 1
    (layer,) = record(Frames(nn.Conv2d(2, 7, 3, padding=1)), frame).records
    assert (layer.input.events, layer.input.amplitude) == (2, 4)
    assert layer.input.taps == taps + 9
    assert layer.input.amplitude_taps == 3 * taps + 9
    assert (layer.levels_in, layer.input.levels > 0, layer.bias) == (3, True, True)
    assert layer.input.active == 2


@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 1)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.sampled_from([1, 2, 4]),
    timesteps=st.integers(1, 3),
    levels=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_taps_are_a_convolution_with_ones(
    kernel, stride, padding, dilation, groups, timesteps, levels, seed
):
    x = spikes((timesteps, 3, 4, 9, 7), levels, seed=seed)
    x[0, 0, 0, 0, :2] = torch.tensor([1.0, levels])  # so that step and levels can be seen
    conv = nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups, bias=False)
    layer = record(Frames(conv), x).records[0]
    ones = torch.ones(groups, 4 // groups, *kernel)
    for counts, name in (((x > 0).float(), "taps"), (x, "amplitude_taps")):
        reached = F.conv2d(counts.flatten(0, 1), ones, None, stride, padding, dilation, groups)
        assert getattr(layer.input, name) == pytest.approx(reached.sum().item() / 3)
    assert layer.input.events == pytest.approx((x > 0).sum().item() / 3)
    assert layer.input.amplitude == pytest.approx(x.sum().item() / 3)
    assert layer.input.active == pytest.approx((x.sum(0) > 0).sum().item() / 3)
    assert (layer.timesteps, layer.geometry.groups) == (timesteps, groups)
    assert (
        layer.geometry.kernel,
        layer.geometry.stride,
        layer.geometry.padding,
        layer.geometry.dilation,
    ) == (
        kernel,
        stride,
        padding,
        dilation,
    )


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_same_padding_of_even_kernels(kernel):
    x = spikes((1, 2, 1, 6, 6))
    conv = nn.Conv2d(1, 1, kernel, padding="same", bias=False)
    layer = record(Frames(conv), x).records[0]
    nn.init.ones_(conv.weight)
    assert layer.input.taps == conv(x[0]).sum().item() / 2
    assert layer.geometry.out_shape == (1, 6, 6)


def test_one_dimensional_layers():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU(), nn.AvgPool1d(2), nn.Flatten()
    )
    x = torch.rand(5, 2, 8)
    x[:, :, 3] = 0
    conv, pool = record(model, x).records
    assert (conv.geometry.in_shape, conv.geometry.out_shape, conv.geometry.kernel) == (
        (2, 1, 8),
        (4, 1, 8),
        (1, 3),
    )
    assert (conv.input.events, conv.input.taps) == (14, 2 * (2 + 2 + 5 * 3))
    assert (pool.geometry.in_shape, pool.geometry.out_shape, pool.geometry.kernel) == (
        (4, 1, 8),
        (4, 1, 4),
        (1, 2),
    )


def test_a_linear_layer_reads_every_event_once():
    x = spikes((4, 3, 1, 2, 5), levels=2)
    layer = record(Frames(nn.Flatten(), nn.Linear(10, 6)), x).records[0]
    assert layer.kind == "linear"
    assert (layer.geometry.in_shape, layer.geometry.out_shape, layer.timesteps) == ((10,), (6,), 4)
    assert layer.input.events == layer.input.taps == pytest.approx((x > 0).sum().item() / 3)
    assert layer.input.amplitude == layer.input.amplitude_taps == pytest.approx(x.sum().item() / 3)


def test_images_are_analog_and_read_once_however_long_the_encoder_runs():
    model = create_model("fastnet", in_channels=1, neuron="binary", timesteps=3)
    images = torch.rand(4, 1, 8, 8)
    images[:, :, :2] = 0
    stem = record(model, images).records[0]
    assert (stem.input.levels > 0, stem.levels_in) == (False, 0)
    assert (stem.timesteps, stem.steps_out, bool(stem.neuron)) == (1, 3, True)
    assert stem.input.events == 6 * 8


def test_frames_of_an_event_camera_are_spikes():
    model = create_model("fastnet", in_channels=2, levels=2, timesteps=2)
    stem = record(model, spikes((2, 3, 2, 8, 8), levels=4)).records[0]
    assert (stem.input.levels > 0, stem.levels_in, stem.timesteps) == (True, 4, 2)
    normalised = record(model, torch.randn(2, 3, 2, 8, 8)).records[0]
    assert (normalised.input.levels > 0, normalised.timesteps) == (False, 2)


# --- neurons ------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [1.0, 0.37, torch.tensor([0.5, 0.9, 1.7])])
@pytest.mark.parametrize(("timesteps", "levels"), [(1, 1), (1, 4), (3, 2), (2, 12), (2, 40)])
def test_levels_that_a_neuron_sends(threshold, timesteps, levels):
    torch.manual_seed(0)
    neuron = MultiLevelIF(levels, threshold, beta=0.5, timesteps=timesteps)
    model = Frames(nn.Conv2d(2, 3, 3), neuron, nn.Conv2d(3, 1, 1))
    x = spikes((timesteps, 5, 2, 9, 9))
    sent = []
    neuron.register_forward_hook(lambda module, args, output: sent.append(output))
    activity = record(model, x)
    unit = torch.as_tensor(threshold).view(-1, 1, 1) / levels
    z = (sent[0] / unit).round()
    (row,) = activity.neurons
    first, second = activity.records
    assert (row.timesteps, row.levels, row.shape, row.path) == (
        timesteps,
        levels,
        (3, 7, 7),
        "direct",
    )
    assert row.events == first.output.events == second.input.events == (z > 0).sum().item() / 5
    assert row.amplitude == first.output.amplitude == second.input.amplitude == z.sum().item() / 5
    assert row.max_level == first.output.max_level == z.max()
    assert row.density == pytest.approx((z > 0).double().mean().item())
    assert (first.output.levels, second.levels_in) == (levels, levels)
    assert (bool(first.neuron), first.neuron.leak, bool(second.neuron)) == (True, True, False)
    if levels <= 31:
        assert row.histogram == tuple((z == k).sum().item() / 5 for k in range(levels + 1))
    if levels * timesteps <= 31:
        summed = z.unflatten(0, (timesteps, -1)).sum(0)
        expected = [(summed == k).sum().item() / 5 for k in range(levels * timesteps + 1)]
        assert row.decoded == pytest.approx(expected)


@pytest.mark.parametrize("learn", ["no", "layer", "channel"])
@pytest.mark.parametrize("arch", ["fastnet", "sew_resnet20", "ms_resnet20"])
def test_batches_of_any_size_give_the_same(arch, learn):
    torch.manual_seed(0)
    model = create_model(arch, levels=3, timesteps=2, learn_threshold=learn, threshold=0.7)
    model(torch.randn(8, 3, 8, 8))  # statistics that let the neurons fire
    x = torch.randn(6, 3, 8, 8)
    whole, parts = record(model, x), record(model, x[:1], x[1:4], x[4:])
    assert whole.events_per_inference > 100
    assert whole.neurons == parts.neurons
    assert whole.sums == parts.sums
    assert whole.records == parts.records
    last = record(model.to(memory_format=torch.channels_last), x)
    assert last.events_per_inference == pytest.approx(
        whole.events_per_inference, rel=0.02
    )  # rounding may move a level


# --- pooling ------------------------------------------------------------------------------------


def test_a_maximum_of_spikes():
    x = spikes((2, 3, 2, 6, 6), levels=3)
    pool = record(Frames(nn.MaxPool2d(2)), x).records[0]
    out = F.max_pool2d(x.flatten(0, 1), 2)
    assert pool.kind == "pool"
    assert (pool.output.levels, pool.output.max_level) == (3, 3)
    assert pool.input.taps == pool.input.events == pytest.approx((x > 0).sum().item() / 3)
    assert pool.output.events == pytest.approx((out > 0).sum().item() / 3)
    assert pool.output.amplitude == pytest.approx(out.sum().item() / 3)


@pytest.mark.parametrize(
    ("layer", "area"),
    [
        (nn.AvgPool2d(2), 4),
        (nn.AvgPool2d(3, 2, padding=1), 9),
        (nn.AdaptiveAvgPool2d(1), 36),
        (nn.AdaptiveAvgPool2d((3, 2)), 6),
        (nn.AdaptiveAvgPool2d(12), 1),
    ],
)
def test_an_average_of_spikes_is_their_sum(layer, area):
    x = spikes((1, 4, 2, 6, 6), levels=2)
    pool, conv = record(Frames(layer, nn.Conv2d(2, 1, 1)), x).records
    sums = layer(x[0]) * area
    assert pool.output.levels == conv.levels_in == 2 * area
    assert pool.output.events == conv.input.events == (sums > 0).sum().item() / 4
    assert (
        pool.output.amplitude == conv.input.amplitude == pytest.approx(sums.sum().item() / 4, 1e-5)
    )
    assert pool.output.max_level == round(sums.max().item())


@pytest.mark.parametrize(
    "layer",
    [
        nn.AvgPool2d(2, ceil_mode=True),
        nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
        nn.AdaptiveAvgPool2d(3),
    ],
)
def test_uneven_averages_lose_their_levels_and_say_so(layer):
    x = spikes((1, 4, 2, 7, 7), levels=2)
    activity = record(Frames(layer, nn.Conv2d(2, 1, 1)), x)
    pool, conv = activity.records
    assert conv.input.levels == 0
    assert conv.input.events == pool.output.events == (layer(x[0]) > 0).sum().item() / 4
    assert any("windows of unequal size" in line for line in activity.not_counted)


def test_functional_and_global_pooling():
    class Model(nn.Module):
        def forward(self, x):
            return F.max_pool2d(x[0], 2).mean((2, 3))

    x = spikes((1, 3, 2, 8, 8))
    first, second = record(Model(), x).records
    assert (first.name, second.name) == ("pool", "pool#2")
    assert (second.geometry.kernel, second.output.levels) == ((4, 4), 16)


# --- residual sums ------------------------------------------------------------------------------


def saturated(arch, levels):
    """A network whose every neuron sends N: convolutions give 0, norms a large constant."""
    model = create_model(arch, levels=levels)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 10.0)
    return record(model, torch.rand(2, 3, 8, 8))


@pytest.mark.parametrize("levels", [1, 4])
def test_sew_add_reaches_its_bound(levels):
    """k sums in a stage: (k+1) N; a stage starts anew behind its down-sampling neuron."""
    activity = saturated("sew_resnet20", levels)
    bounds = [(k + 1) * levels for k in (1, 2, 3)] * 3
    assert [total.total.max_level for total in activity.sums] == bounds
    assert [total.total.levels for total in activity.sums] == bounds
    assert [total.shortcut.max_level for total in activity.sums[:3]] == [
        levels,
        2 * levels,
        3 * levels,
    ]
    assert {total.direct.max_level for total in activity.sums} == {levels}
    assert [row.path for row in activity.neurons].count("sum") == 9
    assert [row.path for row in activity.neurons].count("shortcut") == 2
    pool = activity.records[-2]
    assert pool.levels_in == 4 * levels


@pytest.mark.parametrize("levels", [1, 4])
def test_sparse_never_exceeds_n(levels):
    activity = saturated("sparse_resnet20", levels)
    assert max(row.max_level for row in activity.neurons) == levels
    assert {total.total.max_level for total in activity.sums} == {2 * levels}
    sums = [layer for layer in activity.records if layer.kind == "add"]
    assert all(layer.neuron and layer.output.levels == levels for layer in sums)


CROSSING = {
    "spiking": ("analog", "events", None),
    "sew": ("spikes", "events", "events"),
    "sew_and": ("spikes", "events", "events"),
    "sew_iand": ("spikes", "events", "events"),
    "ms": ("analog", "dense", None),
    "sparse": ("spikes", "events", "events"),
}


@pytest.mark.parametrize("family", CROSSING)
def test_what_crosses_the_shortcut(family):
    torch.manual_seed(0)
    model = create_model(f"{family}_resnet20", neuron="binary", timesteps=2)
    model(torch.randn(8, 3, 8, 8))
    activity = record(model, torch.randn(4, 3, 8, 8))
    kind, identity, projected = CROSSING[family]
    sums = {layer.name: layer for layer in activity.records if layer.kind == "add"}
    first = sums["body.stage1_block1.merge"]
    down = sums["body.stage2_block1.merge"]
    crossing = ["events" if isinstance(s.shortcut, Stream) else s.shortcut for s in (first, down)]
    assert (first.input.levels > 0, *crossing) == (kind == "spikes", identity, projected)
    assert not activity.not_counted
    total = activity.sums[0]
    if identity == "events":
        stem = activity.records[0]
        assert total.shortcut.events == first.crossing.events == stem.output.events
    if kind == "spikes":
        path = next(r for r in activity.records if r.name.endswith("block1.path.conv2"))
        assert total.direct.events == first.input.events == path.output.events


@pytest.mark.parametrize("timesteps", [1, 2])
@pytest.mark.parametrize("arch", ["vgg11", "sparse_resnet20", "sew_resnet20"])
def test_what_is_written_is_what_is_read(arch, timesteps):
    """Conservation: in a chain, events sent by one record are read by the next."""
    torch.manual_seed(0)
    model = create_model(arch, levels=2, timesteps=timesteps)
    model(torch.randn(8, 3, 16, 16))
    records = record(model, torch.randn(4, 3, 16, 16)).records
    compared = 0
    for before, after in pairwise(records):
        if after.kind == "add" or "shortcut" in after.name or "shortcut" in before.name:
            continue
        assert before.output.events == after.input.events
        assert before.output.amplitude == after.input.amplitude
        assert before.output.levels == after.levels_in
        compared += 1
    assert compared >= 10


# --- norms --------------------------------------------------------------------------------------


def test_batch_norm_becomes_a_bias_also_behind_a_pool():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 1, bias=False),
        nn.Flatten(),
    )
    activity = record(model, torch.rand(2, 3, 8, 8))
    assert [getattr(layer, "bias", False) for layer in activity.records] == [True, False, False]
    assert not activity.not_counted


def test_norms_that_can_not_be_folded_are_named():
    model = nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, bias=False), nn.GroupNorm(2, 4), nn.Flatten()
    )
    activity = record(model, torch.rand(2, 3, 8, 8))
    assert [layer.bias for layer in activity.records] == [False]
    assert [line.split(":")[0] for line in activity.not_counted] == ["norm at 0", "norm at 2"]


# --- the pass itself ----------------------------------------------------------------------------


class Counted(nn.Module):
    """A readout of how many spikes there were."""

    def __init__(self, add):
        super().__init__()
        self.first, self.neuron, self.head = nn.Linear(6, 9), MultiLevelIF(1, 0.5), nn.Linear(9, 2)
        self.add = add

    def forward(self, x):
        spikes, v = [], None
        for _ in range(4):
            s, v = self.neuron.step(self.first(x), v)
            spikes.append(s)
        return self.head(self.add(spikes))


@pytest.mark.parametrize(
    "add", [sum, lambda s: s[0] + s[1] + s[2] + s[3], lambda s: (s[0] + s[1]) + (s[2] + s[3])]
)
def test_spikes_added_up_one_by_one_are_a_sum_over_time(add):
    torch.manual_seed(0)
    stacked, x = Counted(lambda s: torch.stack(s).sum(0)), torch.rand(5, 6) * 3
    model = Counted(add)
    model.load_state_dict(stacked.state_dict())
    expected, activity = record(stacked, x), record(model, x)
    assert activity.records == expected.records
    assert activity.neurons == expected.neurons
    assert activity.records[-1].levels_in == 4
    assert activity.not_counted == (
        "add at the network itself: spikes of one layer added up over time",
    )


def test_recurrent_weights_are_one_layer_over_time():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.back, self.neuron = nn.Linear(6, 9), nn.Linear(9, 9), MultiLevelIF(1)

        def forward(self, x):
            s, v = self.neuron.step(self.inner(x))
            for _ in range(2):
                s, v = self.neuron.step(self.inner(x) + self.back(s), v)
            return s

    activity = record(Recurrent(), torch.rand(5, 6))
    assert [record.name for record in activity.records] == ["inner", "back", "add"]
    assert activity.records[1].timesteps == 2
    assert [row.timesteps for row in activity.neurons] == [3]
    assert activity.records[0].output.events == activity.neurons[0].events


def hooks_of(model):
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


def test_leaves_the_model_as_it_was():
    model = create_model("fastnet", in_channels=1)
    model.body.neuron1.eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    record(model, torch.rand(2, 1, 8, 8))
    assert not any(hooks_of(model))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_failing_forward_says_which_batch_and_leaves_no_hooks():
    model = create_model("fastnet", in_channels=1)
    x = torch.rand(2, 1, 8, 8)

    def fails(module, args):
        if args[0].abs().sum() == 0:
            raise RuntimeError("out of luck\nand more")

    handle = model.classifier.register_forward_pre_hook(fails)
    nn.init.constant_(model.stem.bn0.bias, -1.0)
    with pytest.raises(InputError, match=r"^model: forward failed on batch 0, .*out of luck$"):
        record(model, 0 * x)
    handle.remove()
    assert not any(hooks_of(model))
    assert model.training
    with pytest.raises(InputError, match=r"forward failed on batch 0, .*\[2, 3, 8, 8\]"):
        record(model, torch.rand(2, 3, 8, 8))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_layer_that_is_not_finite_is_named(value):
    model = create_model("fastnet", in_channels=1, num_classes=3)
    x = torch.rand(2, 1, 8, 8)
    with pytest.raises(InputError, match=r"^inputs: got 'NaN or infinite values in batch 1'"):
        record(model, x, x + value)
    with torch.no_grad():
        model.body.conv3.weight[0, 0] = value
        model.body.conv2.bias = nn.Parameter(torch.ones(64))
        model.body.bn2.bias += 2
    with pytest.raises(InputError, match=r"^body\.conv3: got 'NaN or infinite values in batch 0'"):
        record(model, x)


@pytest.mark.parametrize("part", ["weight", "bias", "running_mean", "running_var"])
def test_a_norm_that_is_not_finite_is_named_though_neurons_swallow_it(part):
    class Fire(nn.Module):
        def forward(self, x):
            return (x >= 0.1).to(x)  # of NaN nothing is left

    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), Fire(), nn.Flatten(),
                          nn.Linear(72, 3))  # fmt: skip
    with torch.no_grad():
        getattr(model[1], part)[1] = float("nan")
    with pytest.raises(InputError, match=r"^1: got 'NaN or infinite values in batch 0'"):
        record(model, torch.rand(2, 1, 8, 8))


def test_half_precision_sums_do_not_overflow():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 2)).half()
    activity = record(model, torch.rand(64, 3, 32, 32).half())
    assert activity.records[0].input.events > 3000


def test_what_a_constant_overwrites_is_counted_anew():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            y = self.one(x).relu()
            y[:, :6] = 0
            return self.two(y)

    model = Cut()
    nn.init.ones_(model.one.weight)
    assert record(model, torch.rand(3, 4) + 1).records[1].input.events == 2


def test_only_neurons_are_reset_and_buffers_stay():
    class Odd(nn.Linear):
        def reset(self):
            self.reset_parameters()

    class Head(nn.Linear):
        def reset(self, classes):
            raise RuntimeError("not to be called")

    class Norm(nn.BatchNorm1d):
        def reset(self):
            self.reset_running_stats()

    class Cell(nn.Module):
        """As sinabs: the potential is a buffer."""

        def __init__(self):
            super().__init__()
            self.register_buffer("v", torch.full((3, 4), 0.25))
            self.resets = 0

        def reset_states(self, randomize=False):
            self.v = torch.zeros(3, 4)
            self.resets += 1

        def forward(self, x):
            self.v = self.v + x
            return (self.v > 1).to(x)

    model = nn.Sequential(Odd(4, 4), Norm(4), Cell(), Head(4, 2))
    model[1].running_mean.fill_(7.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    activity = record(model, torch.rand(3, 4), torch.rand(3, 4))
    assert model[2].resets == 3  # before every batch and at the end
    assert not activity.not_counted
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_reset_that_fails_is_named():
    class Cell(nn.Module):
        def reset(self):
            raise RuntimeError("no state yet")

    with pytest.raises(InputError, match=r"^model: 1\.reset\(\) failed: RuntimeError: no state"):
        record(nn.Sequential(nn.Linear(4, 2), Cell()), torch.rand(3, 4))


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([(torch.rand(2, 4), torch.zeros(()))], r"loader: got 'a batch of no targets'"),
        ([], r"loader: got 'no batches'"),
        (None, r"loader: got 'NoneType', allowed: an iterable"),
        ([torch.rand(2, 4)], r"loader: got 'Tensor', allowed: batches"),
        ([(torch.rand(2, 4), [0, 1])], r"loader: got 'list', allowed|loader: got 'tuple', allowed"),
        ([(torch.rand(0, 4), torch.zeros(0))], r"loader: got 'a batch of no targets'"),
        (
            [(torch.rand(2, 4), torch.zeros(2)), (torch.rand(2, 2, 4), torch.zeros(2))],
            r"loader: got inputs \[2, 2, 4\] for 2 targets",
        ),
    ],
)
def test_bad_loaders(loader, message):
    with pytest.raises(InputError, match=message):
        record_activity(nn.Linear(4, 2), loader)


def test_a_model_without_layers_and_bad_limits():
    with pytest.raises(InputError, match="model: got 'function', allowed"):
        record_activity(lambda x: x, [])  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="model: got 'Flatten'"):
        record(nn.Flatten(), torch.rand(2, 3))
    with pytest.raises(InputError, match="max_batches: got 0"):
        record(nn.Linear(3, 1), torch.rand(2, 3), max_batches=0)


def test_accuracy_loss_confusion_and_limits():
    model = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.eye(3))
    x = torch.eye(3)[[0, 1, 2, 2]]
    batch = (x, torch.tensor([0, 1, 2, 0]))
    seen = []
    activity = record_activity(
        model, [batch] * 3, max_batches=2, confusion=True, progress=lambda *at: seen.append(at)
    )
    assert activity.accuracy == 0.75
    assert activity.loss == pytest.approx(F.cross_entropy(x, batch[1]).item())
    assert activity.confusion == ((2, 0, 2), (0, 2, 0), (0, 0, 2))
    assert (activity.samples, seen) == (8, [(1, 4), (2, 8)])
    plain = record_activity(model, [(x, torch.rand(4, 2))])
    assert (plain.accuracy, plain.loss, plain.confusion) == (None, None, None)
    assert record(model, x).confusion is None


def images_alive() -> list[torch.Tensor]:
    """Tensors of 8x8 maps that something still holds."""
    tensors = [found for found in gc.get_objects() if type(found) is torch.Tensor]
    return [tensor for tensor in tensors if tensor.shape[-2:] == (8, 8)]


def test_keeps_no_inputs_and_grows_with_nothing():
    model = create_model("sew_resnet20", timesteps=2)
    earlier = []
    before = images_alive()  # other tests' own

    def loader():
        for _ in range(4):
            gc.collect()
            assert not any(reference() is not None for reference in earlier[:-1])
            x = torch.rand(2, 3, 8, 8)
            earlier.append(weakref.ref(x))
            yield x, torch.zeros(2, dtype=torch.long)

    activity = record_activity(model, loader())
    assert activity.samples == 8
    gc.collect()
    assert not [tensor for tensor in images_alive() if not any(tensor is old for old in before)]


def test_to_dict_is_plain():
    import json

    model = create_model("sew_resnet20", levels=2)
    content = record(model, torch.rand(2, 3, 8, 8), confusion=True).to_dict()
    assert json.loads(json.dumps(content)) == content
    assert content["density"] == pytest.approx(
        content["events_per_inference"]
        / sum(row["neurons"] * row["timesteps"] for row in content["neurons"])
    )
