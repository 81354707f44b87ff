"""Time, samples and tokens: the same network costs the same, however a batch is laid out."""

import pytest
import torch
from torch import nn

from multispike import MultiLevelIF, profile
from multispike.activity import record_activity
from multispike.activity.layout import Layout
from multispike.errors import InputError


def labelled(*inputs, samples=None):
    return [(x, torch.zeros(samples or len(x), dtype=torch.long)) for x in inputs]


class Tokens(nn.Module):
    """A residual block over the pixels of an image, as in a vision transformer."""

    def __init__(self):
        super().__init__()
        self.patches, self.mix, self.head = nn.Conv2d(1, 6, 2, 2), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head((x + self.mix(x)).mean(1))


@pytest.mark.parametrize("sizes", [(15,), (16,), (17,), (16, 8), (16, 1)])
def test_tokens_are_not_timesteps_whatever_the_batch(sizes):
    torch.manual_seed(0)
    images = [torch.rand(size, 1, 8, 8) for size in sizes]  # 16 patches
    report = profile(Tokens(), labelled(*images))
    assert report.network == "ann"
    shapes = {layer.record.name: layer.record.geometry.in_shape for layer in report.layers}
    assert shapes == {"patches": (1, 8, 8), "mix": (16, 6), "add": (16, 6), "head": (6,)}
    assert {layer.record.timesteps for layer in report.layers} == {1}


class Direct(nn.Module):
    """A direct-coded network, its time first or second."""

    def __init__(self, first, repeat=True, steps=4):
        super().__init__()
        self.first, self.repeat = first, repeat
        self.stem, self.conv = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 3, 3)
        self.fc, neurons = nn.Linear(108, 2), [MultiLevelIF(1, timesteps=steps) for _ in "12"]
        self.neuron, self.last = neurons

    def forward(self, x):
        time = 0 if self.first else 1
        if self.repeat:
            x = torch.stack([x] * 4, time) if self.first else x.unsqueeze(1).repeat(1, 4, 1, 1, 1)
        leading = x.shape[:2]
        spikes = self.spikes(self.neuron, self.stem(x.flatten(0, 1)).unflatten(0, leading))
        spikes = self.spikes(self.last, self.conv(spikes.flatten(0, 1)).unflatten(0, leading))
        return self.fc(spikes.flatten(2)).mean(time)

    def spikes(self, neuron, x):
        return neuron(x) if self.first else neuron(x.transpose(0, 1)).transpose(0, 1)


def same(report, other):
    assert [layer.record for layer in report.layers] == [layer.record for layer in other.layers]
    assert report.total_nj == other.total_nj
    assert not other.not_counted


def test_an_image_repeated_along_either_axis_is_convolved_once():
    torch.manual_seed(0)
    first, second, images = Direct(True), Direct(False), torch.rand(6, 1, 8, 8) * 2
    second.load_state_dict(first.state_dict())
    report = profile(first, labelled(images))
    assert [layer.record.timesteps for layer in report.layers] == [1, 4, 4]
    assert report.layers[1].record.input.active < report.layers[1].record.input.events
    same(report, profile(second, labelled(images)))


def test_event_frames_with_the_samples_first():
    torch.manual_seed(0)
    first, second = (Direct(first, repeat=False, steps=5) for first in (True, False))
    second.load_state_dict(first.state_dict())
    frames = torch.randint(0, 3, (5, 4, 1, 8, 8)).float()
    report = profile(first, labelled(frames, samples=4))
    assert (report.layers[0].record.input.levels > 0, report.layers[0].record.timesteps) == (
        True,
        5,
    )
    same(report, profile(second, labelled(frames.transpose(0, 1))))


def test_as_many_timesteps_as_samples_is_told_or_known_from_other_batches():
    torch.manual_seed(0)
    frames = torch.rand(4, 4, 1, 8, 8).round()
    untold, told = (Direct(True, repeat=False, steps=steps) for steps in (1, 4))
    alone = record_activity(untold, labelled(frames))
    assert alone.not_counted == ("inputs: [4, 4, 1, 8, 8] were taken for [T, B, ...]",)
    assert not record_activity(told, labelled(frames)).not_counted  # by its neurons
    signals = [torch.rand(size, 4, 9).round() for size in (3, 4)]  # [B, C, L]
    model = nn.Sequential(nn.Conv1d(4, 2, 3), nn.Flatten(), nn.Linear(14, 2))
    known = record_activity(model, labelled(*signals))
    assert not known.not_counted
    assert known.records[0].input.levels == 0


class Prepared(nn.Module):
    def __init__(self, prepare):
        super().__init__()
        self.prepare, self.conv = prepare, nn.Conv2d(3, 4, 3)
        self.neuron, self.fc = MultiLevelIF(1), nn.Linear(144, 2)

    def forward(self, x):
        out, v = 0, None
        for _ in range(3):
            spikes, v = self.neuron.step(self.conv(self.prepare(x)), v)
            out = out + self.fc(spikes.flatten(1))
        return out


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize(
    "prepare",
    [
        lambda x: (x - 0.5) / 0.25,
        lambda x: (x - torch.full((1, 1, 1), 0.4)) / torch.full((1, 1, 1), 0.2),
        lambda x: x,
        lambda x: x.clamp(0.1, 0.9),
    ],
)
def test_a_prepared_image_is_convolved_once(prepare, batch):
    torch.manual_seed(0)
    model = Prepared(lambda x: prepare(x).repeat(1, 3, 1, 1))
    report = profile(model, labelled(torch.rand(batch, 1, 8, 8)))
    assert (report.layers[0].record.timesteps, report.layers[0].record.steps_out) == (1, 3)
    assert report.layers[0].record.in_size == 192


@pytest.mark.parametrize("learn", [False, True])
def test_stepping_counts_as_the_whole_sequence(learn):
    torch.manual_seed(0)
    neuron = MultiLevelIF(4, beta=0.9, learn_threshold=learn, timesteps=3)

    class Whole(nn.Module):
        def __init__(self, stepped):
            super().__init__()
            self.conv, self.neuron, self.fc, self.stepped = conv, neuron, fc, stepped

        def forward(self, x):
            x = self.conv(x)
            if not self.stepped:
                return self.fc(self.neuron(torch.stack([x] * 3)).flatten(2)).sum(0)
            out, v = 0, None
            for _ in range(3):
                spikes, v = self.neuron.step(x, v)
                out = out + self.fc(spikes.flatten(1))
            return out

    conv, fc = nn.Conv2d(1, 4, 3), nn.Linear(144, 2)
    data = labelled(torch.rand(6, 1, 8, 8) * 3)
    whole, stepped = (profile(Whole(stepped), data) for stepped in (False, True))
    assert stepped.total_nj == whole.total_nj
    record = stepped.layers[0].record
    assert (bool(record.neuron), record.neuron.leak, record.output.levels) == (True, True, 4)
    assert not stepped.not_counted
    assert neuron.step.__func__ is MultiLevelIF.step  # nothing is left behind


@pytest.mark.parametrize(
    ("shape", "samples"), [((4, 1, 8, 8), 3), ((12, 5), 4), ((2, 3, 1, 8, 8), 4)]
)
def test_targets_must_fit_the_inputs(shape, samples):
    with pytest.raises(InputError, match=rf"^loader: got inputs .* for {samples} targets, allowed"):
        Layout.of(torch.zeros(shape), samples)


def folded(layer, x):
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class OneStep(nn.Module):
    """One timestep of features, [1, B, F]."""

    def __init__(self):
        super().__init__()
        self.first, self.neuron, self.last = nn.Linear(9, 7), MultiLevelIF(4), nn.Linear(7, 3)

    def forward(self, x):
        return self.last(self.neuron(self.first(x[None]))).mean(0)


class Transposed(nn.Module):
    """Event frames [B, T, C, H, W], time first inside."""

    def __init__(self):
        super().__init__()
        self.conv, self.neuron = nn.Conv2d(2, 4, 3), MultiLevelIF(4, threshold=0.3)
        self.head = nn.Linear(64, 3)

    def forward(self, x):
        return self.head(self.neuron(folded(self.conv, x.transpose(0, 1))).flatten(2)).mean(0)


class TokensOverTime(nn.Module):
    """Four tokens, two timesteps."""

    def __init__(self):
        super().__init__()
        self.first, self.neuron = nn.Linear(9, 8), MultiLevelIF(1, threshold=0.3)
        self.mix, self.again = nn.Linear(8, 8), MultiLevelIF(1, threshold=0.1)
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        x = x[None].expand(2, *x.shape)
        x = self.again(folded(self.mix, self.neuron(folded(self.first, x))))
        return folded(self.head, x.flatten(2)).mean(0)


@pytest.mark.parametrize(
    ("network", "shape", "sizes"),
    [
        (OneStep, (9,), (12, 5, 1)),
        (Transposed, (4, 2, 6, 6), (12, 5, 1)),
        (TokensOverTime, (4, 9), (12, 6, 5)),  # and a last batch of 4
    ],
)
def test_the_size_of_batches_changes_nothing(network, shape, sizes):
    torch.manual_seed(0)
    model, samples = network(), (torch.rand(24, *shape) * 3).round()
    whole = profile(model, labelled(samples))
    for size in sizes:
        parts = profile(model, labelled(*samples.split(size)))
        assert [layer.record.name for layer in parts.layers] == [
            layer.record.name for layer in whole.layers
        ]
        assert parts.total_nj == pytest.approx(whole.total_nj, rel=1e-9)
        assert not parts.not_counted


@pytest.mark.parametrize(
    ("shape", "timesteps", "note"),
    [
        ((4, 4, 9), None, "inputs: [4, 4, 9] were taken for [B, ...]"),
        ((4, 4, 9), 4, None),
        ((4, 4, 9), 1, None),
        ((4, 3, 9), None, None),
    ],
)
def test_timesteps_tell_axes_apart_where_sizes_do_not(shape, timesteps, note):
    model = nn.Sequential(nn.Conv1d(shape[1], 2, 3), nn.Flatten(), nn.Linear(14, 2))
    activity = record_activity(model, labelled(torch.rand(shape).round()), timesteps=timesteps)
    assert activity.not_counted == ((note,) if note else ())
    assert activity.records[0].input.levels == (timesteps == 4)  # frames may be events


def test_timesteps_are_the_models_or_given_and_counts():
    class Timed(nn.Linear):
        timesteps = 1

    x = torch.rand(4, 4, 9)
    assert not record_activity(Timed(9, 2), labelled(x)).not_counted
    with pytest.raises(InputError, match=r"^timesteps: got 0, allowed: an integer >= 1, or None"):
        record_activity(nn.Linear(9, 2), labelled(x), timesteps=0)


@pytest.mark.parametrize("batch", [1, 4, 8])
def test_samples_of_a_plain_network_are_no_timesteps_whatever_the_batch(batch):
    """As many as channels, or as one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), MultiLevelIF(4), nn.Flatten(), nn.Linear(288, 2))
    images = torch.rand(8, 1, 8, 8) * 2
    report = profile(model, labelled(*images.split(batch)))
    same(profile(model, labelled(*images.split(3))), report)
    conv, fc = (layer.record for layer in report.layers)
    assert (conv.geometry.out_shape, conv.timesteps, fc.timesteps) == ((8, 6, 6), 1, 1)
    assert fc.input.events == (model[:2](images) > 0).sum().item() / 8


def test_a_network_of_one_batch_size_is_counted_as_it_runs():
    """What goes ahead in another size fails, and says nothing."""

    class Fixed(OneStep):
        def forward(self, x):
            return super().forward(x.view(5, 9))

    model = Fixed()
    same(profile(model, labelled(torch.ones(5, 9))), profile(model, labelled(torch.ones(5, 3, 3))))


def test_a_pass_is_seen_by_hooks_and_random_numbers_as_one():
    model, calls = OneStep(), []
    model.first.register_forward_hook(lambda *_: calls.append(torch.rand(1).item()))
    torch.manual_seed(3)
    expected = torch.rand(1).item()
    torch.manual_seed(3)
    record_activity(model, labelled(torch.rand(5, 9, generator=torch.Generator())))
    assert calls == [expected]
