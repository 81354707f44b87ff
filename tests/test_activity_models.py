"""Models that this project did not write: plain PyTorch, other libraries' neurons, odd ones out."""

import pytest
import torch
from helpers import KINDS
from torch import nn
from torch.nn import functional as F

from multispike import MultiLevelIF, create_model, profile
from multispike.activity import record_activity
from multispike.energy.count import count_layer
from multispike.energy.pricing import price_layers


def record(model, *batches):
    """Activity of batches of inputs, all of class 0."""
    return record_activity(model, [(x, torch.zeros(len(x), dtype=torch.long)) for x in batches])


@pytest.mark.parametrize("arch", KINDS)
@pytest.mark.parametrize("neuron", ["relu", "binary", "multilevel"])
def test_every_model_of_ours_is_recorded_whole(arch, neuron):
    torch.manual_seed(0)
    model = create_model(arch, neuron=neuron, timesteps=2 if neuron == "binary" else 1)
    model(torch.randn(4, 3, 8, 8))
    activity = record(model, torch.randn(2, 3, 8, 8))
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    recorded = [layer for layer in activity.records if layer.kind in ("conv", "linear")]
    assert len(recorded) == len(layers)
    assert all(layer.bias for layer in recorded)
    sums = [layer for layer in activity.records if layer.kind == "add"]
    if neuron != "relu" or "and" not in arch:  # products of analog values are no sums
        assert not activity.not_counted
        blocks = [name for name, _ in model.named_modules() if name.endswith(".merge")]
        assert [layer.name for layer in sums] == blocks
    assert {layer.levels_in for layer in recorded[:1]} == {0}
    assert price_layers(activity.records).total_nj > 0


class Block(nn.Module):
    """A residual block as most write it: functional, in place, one ReLU module used twice."""

    def __init__(self, inputs, outputs, stride, style):
        super().__init__()
        self.style = style
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.down = None
        if stride > 1:
            self.down = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        shortcut = x if self.down is None else self.down(x)
        if self.style == "+=":
            out += shortcut
        elif self.style == "reversed":
            out = shortcut + out
        else:
            out = torch.add(out, shortcut)
        return self.relu(out)


class PlainResNet(nn.Module):
    def __init__(self, style):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.Sequential(Block(4, 4, 1, style), Block(4, 8, 2, style))
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        x = self.blocks(F.relu(self.stem(x)))
        return self.fc(torch.flatten(F.avg_pool2d(x, x.shape[-1]), 1))


@pytest.mark.parametrize("style", ["+=", "reversed", "torch.add"])
def test_a_plain_resnet_with_functional_sums(style):
    torch.manual_seed(0)
    model = PlainResNet(style)
    x = torch.rand(4, 3, 8, 8)
    sent = []
    model.blocks[0].relu.register_forward_hook(lambda m, args, out: sent.append(out.clone()))
    activity = record(model, x)
    names = [layer.name for layer in activity.records]
    assert names[:4] == ["stem", "blocks.0.conv1", "blocks.0.conv2", "blocks.0.add"]
    assert names[4:] == [
        *("blocks.1.conv1", "blocks.1.conv2", "blocks.1.down.0", "blocks.1.add", "pool", "fc")
    ]
    records = dict(zip(names, activity.records, strict=True))
    assert not activity.not_counted
    assert all(layer.input.levels == 0 for layer in activity.records)
    assert all(layer.bias for layer in activity.records if layer.kind == "conv")
    assert (records["blocks.0.add"].shortcut, records["blocks.1.add"].shortcut) == ("dense", None)
    assert records["blocks.0.conv2"].input.events == (sent[0] > 0).sum().item() / 4
    assert records["blocks.1.conv1"].input.events == (sent[1] > 0).sum().item() / 4
    rows = {row.name: row for row in activity.neurons}
    assert rows["blocks.0.relu#2"].events == (sent[1] > 0).sum().item() / 4
    assert rows["blocks.0.relu#2"].levels == 0


class StepNeuron(nn.Module):
    """As snnTorch: (input, potential) -> (spike, potential), one timestep a call."""

    def __init__(self, beta=0.9):
        super().__init__()
        self.register_buffer("beta", torch.tensor(beta))

    def forward(self, x, v):
        v = self.beta * v + x
        spike = (v > 1.0).float()
        return spike, v - spike


class StepModel(nn.Module):
    def __init__(self, timesteps=3):
        super().__init__()
        self.timesteps = timesteps
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.fire1 = StepNeuron()
        self.fc = nn.Linear(4 * 16, 10)
        self.fire2 = StepNeuron(beta=1.0)

    def forward(self, x):
        v1, v2, sent = torch.zeros(1), torch.zeros(1), []
        for _ in range(self.timesteps):
            spikes, v1 = self.fire1(F.max_pool2d(self.conv(x), 2), v1)
            spikes, v2 = self.fire2(self.fc(spikes.flatten(1)), v2)
            sent.append(spikes)
        return torch.stack(sent)


def test_neurons_with_tuples_called_step_by_step():
    torch.manual_seed(0)
    model = StepModel()
    with torch.no_grad():
        model.conv.bias += 0.3
    seen = []
    model.fire1.register_forward_hook(lambda m, args, out: seen.append(out[0]))
    x = torch.rand(5, 1, 8, 8)
    activity = record(model, x, x)
    conv, pool, fc = activity.records
    events = sum(spikes.sum().item() for spikes in seen) / 10
    assert 0 < events < 64 * 3
    # It convolves the same image at every step: once would do.
    assert (conv.timesteps, pool.timesteps, fc.timesteps) == (1, 3, 3)
    assert conv.input.events == x.count_nonzero().item() / 5
    assert (bool(pool.neuron), pool.neuron.leak, pool.output.events) == (True, True, events)
    assert (bool(fc.neuron), fc.neuron.leak) == (True, False)
    assert (fc.input.levels > 0, fc.levels_in, fc.input.events) == (True, 1, events)
    assert [row.name for row in activity.neurons] == ["fire1", "fire2"]
    assert activity.neurons[0].histogram == (64 * 3 - events, events)
    assert activity.neurons[0].decoded == ()  # timesteps came one by one
    assert not activity.not_counted
    assert activity.accuracy is not None


class Surrogate(nn.Module):
    """A part of its own, as in SpikingJelly."""

    def forward(self, x):
        return (x >= 0).to(x)


class HiddenState(nn.Module):
    """As SpikingJelly: [T, B, ...], the potential stays inside and must be reset by hand."""

    def __init__(self, levels=1, threshold=0.7):
        super().__init__()
        self.levels, self.threshold, self.v = levels, threshold, 0.0
        self.surrogate = Surrogate()

    def reset(self):
        self.v = 0.0

    def forward(self, x):
        sent = []
        for x_t in x:
            self.v = self.v + x_t
            z = sum(
                self.surrogate(self.v - self.threshold * k / self.levels)
                for k in range(1, self.levels + 1)
            )
            spike = z * (self.threshold / self.levels)
            self.v = self.v - spike
            sent.append(spike)
        return torch.stack(sent)


class MergedTime(nn.Module):
    """A layer for [T, B, ...] tensors."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def hidden_state_model(levels):
    return nn.Sequential(
        MergedTime(nn.Conv2d(2, 4, 3, padding=1, bias=False)),
        MergedTime(nn.BatchNorm2d(4)),
        HiddenState(levels),
        MergedTime(nn.AvgPool2d(2)),
        MergedTime(nn.Conv2d(4, 4, 3)),
        HiddenState(levels),
        nn.Flatten(2),
        nn.Linear(16, 3),
    )


@pytest.mark.parametrize("levels", [1, 3])
def test_neurons_with_hidden_state_over_stacked_time(levels):
    torch.manual_seed(0)
    model = hidden_state_model(levels)
    seen = []
    model[2].register_forward_hook(lambda m, args, out: seen.append(out / (0.7 / levels)))
    x = 3 * torch.rand(4, 5, 2, 8, 8)
    loader = [(x, torch.zeros(5, dtype=torch.long)), (x[:, :3], torch.zeros(3, dtype=torch.long))]
    activity = record_activity(model, loader)
    conv, pool, conv2, fc = activity.records
    z = torch.cat(seen, 1).round()
    assert conv.output.events == pool.input.events == (z > 0).sum().item() / 8
    assert conv.output.amplitude == pool.input.amplitude == z.sum().item() / 8
    assert (conv.output.levels, conv.output.max_level, conv.bias, bool(conv.neuron)) == (
        levels,
        levels,
        True,
        True,
    )
    assert pool.output.levels == conv2.levels_in == 4 * levels
    assert [row.name for row in activity.neurons] == ["2", "5"]
    assert activity.neurons[0].histogram == tuple(
        (z == k).sum().item() / 8 for k in range(levels + 1)
    )
    assert sum(activity.neurons[0].decoded) == 4 * 64
    assert (fc.timesteps, fc.input.levels > 0) == (4, True)
    assert not activity.not_counted
    assert isinstance(model[2].v, float)  # reset, before every batch and at the end


def test_levels_first_seen_later():
    """The first batch holds even levels only; counts of both batches are in the true step."""

    class Quantised(nn.Module):
        def forward(self, x):
            return torch.floor(x) / 4

    model = nn.Sequential(Quantised(), nn.Linear(4, 2))
    even, odd = torch.tensor([[0.0, 2.0, 4.0, 2.0]]), torch.tensor([[1.0, 3.0, 0.0, 4.0]])
    activity = record(model, even, odd)
    layer = activity.records[0]
    assert (layer.levels_in, layer.input.events, layer.input.amplitude) == (4, 3.0, 8.0)
    assert activity.neurons[0].histogram == (1.0, 0.5, 1.0, 0.5, 1.0)


def test_neurons_written_out_in_the_forward():
    class Inline(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)
            self.fc = nn.Linear(64, 3)

        def forward(self, x):
            v1, v2, out = 0.0, 0.0, 0.0
            for _ in range(2):
                v1 = 0.9 * v1 + self.conv1(x)
                s1 = (v1 >= 0.2).float()
                v1 = v1 - s1 * 0.2
                v2 = v2 + self.conv2(s1)
                s2 = (v2 >= 0.2).float()
                v2 = v2 - s2 * 0.2
                out = out + self.fc(s2.flatten(1))
            return out / 2

    torch.manual_seed(0)
    activity = record(Inline(), torch.rand(3, 1, 8, 8))
    conv1, conv2, fc = activity.records
    assert (bool(conv1.neuron), conv1.output.events) == (True, conv2.input.events)
    assert (conv2.input.levels > 0, conv2.levels_in, conv2.timesteps) == (True, 1, 2)
    assert conv2.output.events == fc.input.events > 0
    # Nobody said what these operations are, so they are named.
    assert {line.split(" ")[0] for line in activity.not_counted} >= {"ge", "sub"}


def test_layers_inside_spiking_modules_are_not_swallowed():
    class SpikingLinear(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.rand(4, 3))

        def forward(self, x):
            return (x @ self.weight.T > 1).float()

    model = nn.Sequential(nn.Linear(3, 3), SpikingLinear(), nn.Linear(4, 2))
    torch.manual_seed(0)
    activity = record(model, torch.rand(8, 3))
    assert activity.records[2].input.levels > 0
    assert [layer.name for layer in activity.records] == ["0", "1", "2"]
    assert activity.records[1].neuron is not None
    assert activity.not_counted == ("gt at 1: no rule counts it",)


class Cosine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.cos()


class Custom(nn.Module):
    def forward(self, x):
        return Cosine.apply(x)


class Attention(nn.Module):
    def forward(self, x):
        return torch.softmax(x @ x.transpose(-1, -2), -1) @ x


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (nn.LayerNorm(6), {"norm at 1"}),
        (nn.SiLU(), {"activation at 1"}),
        (nn.Upsample(scale_factor=2), {"interpolate at 1"}),
        (nn.Upsample(scale_factor=2, mode="bilinear"), {"interpolate at 1"}),
        (nn.ReflectionPad2d(1), {"pad at 1"}),
        (nn.LPPool2d(2, 2), {"lp_pool2d at 1"}),
        (Custom(), {"cos at 1"}),
        (Attention(), {"activation at 1"}),
    ],
)
def test_what_can_not_be_counted_is_named(layer, named):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), layer, nn.Conv2d(4, 2, 1), nn.Flatten())
    activity = record(model, torch.rand(2, 1, 8, 8))
    assert [r.name for r in activity.records if r.kind == "conv"] == ["0", "2"]
    assert named <= {line.split(":")[0] for line in activity.not_counted}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_what_a_scripted_module_hides_is_named():
    class Inner(nn.Module):
        def forward(self, x):
            return x.cos() * 2

    scripted = torch.jit.script(Inner())
    model = nn.Sequential(nn.Conv2d(1, 4, 3), scripted, nn.Conv2d(4, 2, 1), nn.Flatten())
    activity = record(model, torch.rand(2, 1, 8, 8))
    assert activity.not_counted == ("conv at 2: its input comes from no operation that was seen",)


def test_a_compiled_model_counts_as_its_original():
    torch.manual_seed(0)
    model = create_model("fastnet", in_channels=1, levels=2)
    model(torch.randn(8, 1, 8, 8))
    x = torch.randn(4, 1, 8, 8)
    expected = record(model, x)
    compiled = torch.compile(model, backend="eager")
    assert record(compiled, x).records == expected.records
    model.compile(backend="eager")
    assert record(model, x).records == expected.records


def test_concatenated_branches():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(1, 3, 1)
            self.fire = HiddenState()
            self.last = nn.Conv2d(5, 2, 1)

        def forward(self, x):
            joined = torch.cat([self.a(x), self.b(x)], 1)
            return self.last(self.fire(joined)).flatten(1)

    torch.manual_seed(0)
    activity = record(Branches(), 4 * torch.rand(2, 1, 6, 6))
    a, b, last = activity.records
    assert not a.neuron
    assert not b.neuron
    assert (last.input.levels > 0, last.geometry.in_shape) == (True, (5, 6, 6))
    assert last.input.events == activity.neurons[0].events
    assert any("no layer here computes its input" in line for line in activity.not_counted)


class Tokens(nn.Module):
    """Two linear layers over the pixels of a map, [T, B, 8, 8, F], binary neurons between."""

    def __init__(self, timesteps=1, convolve=False):
        super().__init__()
        self.timesteps, self.convolve = timesteps, convolve
        self.one, self.two = nn.Linear(3, 6), nn.Linear(6, 5)
        self.fire = MultiLevelIF(2, threshold=0.4, timesteps=timesteps)

    def forward(self, x):
        x = x.expand(self.timesteps, *x.shape).flatten(0, 1)
        if self.convolve:
            one, two = (layer.weight[..., None, None] for layer in (self.one, self.two))
            drive = F.conv2d(x, one, self.one.bias)
            out = F.conv2d(self.fire(drive), two, self.two.bias).flatten(2).mean(2)
        else:
            drive = self.one(x.permute(0, 2, 3, 1))
            out = self.two(self.fire(drive)).flatten(1, 2).mean(1)
        return out.unflatten(0, (self.timesteps, -1)).mean(0)


@pytest.mark.parametrize("timesteps", [1, 3])
def test_linear_layers_over_pixels_read_the_events_of_1x1_convolutions(timesteps):
    torch.manual_seed(0)
    x = torch.rand(4, 3, 8, 8)
    linear, convolved = Tokens(timesteps), Tokens(timesteps, convolve=True)
    convolved.load_state_dict(linear.state_dict())
    found, expected = record(linear, x), record(convolved, x)
    assert [layer.kind for layer in found.records[:2]] == ["linear", "linear"]
    for layer, other in zip(found.records[:2], expected.records[:2], strict=True):
        assert layer.out_size == other.out_size == 64 * layer.geometry.out_shape[-1]
        for part in ("timesteps", "input", "output", "neuron"):
            assert getattr(layer, part) == getattr(other, part), part
        for network in ("snn", "ann", "qann_skip"):
            counts = [count_layer(record, network=network) for record in (layer, other)]
            assert counts[0].mac == counts[1].mac
            assert counts[0].ac == counts[1].ac
    row, other = found.neurons[0], expected.neurons[0]
    assert (row.shape, other.shape) == ((8, 8, 6), (6, 8, 8))
    assert (row.timesteps, row.histogram, row.decoded, row.density) == (
        timesteps, other.histogram, other.decoded, other.density
    )  # fmt: skip


@pytest.mark.parametrize("code", ["expand", "repeat", "stack", "loop", "loop over copies"])
def test_an_image_that_comes_at_every_timestep_is_convolved_once(code):
    class Coded(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3, bias=False)
            self.fire = MultiLevelIF(1, threshold=0.2, timesteps=4)
            self.fc = nn.Linear(4 * 36, 3)

        def forward(self, x):
            if code == "loop":
                drive = torch.stack([self.conv(x) for _ in range(4)])
            elif code == "loop over copies":
                drive = torch.stack([self.conv(copy) for copy in x.repeat(4, 1, 1, 1, 1)])
            else:
                copies = {
                    "expand": lambda: x.expand(4, *x.shape),
                    "repeat": lambda: x.repeat(4, 1, 1, 1, 1),
                    "stack": lambda: torch.stack([x] * 4),
                }[code]()
                drive = self.conv(copies.flatten(0, 1)).unflatten(0, (4, -1))
            return self.fc(self.fire(drive).flatten(0, 1).flatten(1)).unflatten(0, (4, -1))

    torch.manual_seed(0)
    x = torch.rand(5, 1, 8, 8)
    x[:, :, :4] = 0
    conv, fc = record(Coded(), x).records
    assert (conv.timesteps, conv.steps_out, bool(conv.neuron), fc.timesteps) == (1, 4, True, 4)
    assert conv.input.events == 32
    taps = (3 + 3 + 2 + 1) * (1 + 2 + 3 + 3 + 3 + 3 + 2 + 1)  # rows 4 to 7, all columns
    assert count_layer(conv, fanout="exact").mac == 4 * taps


def test_another_image_through_the_same_layer_is_counted_again():
    """Mirrored images are no repetition."""

    class Mirrored(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 2, 3), nn.Linear(72, 3)

        def forward(self, x):
            return self.fc((self.conv(x) + self.conv(x.flip(-1))).relu().flatten(1))

    assert record(Mirrored(), torch.rand(5, 1, 8, 8)).records[0].timesteps == 2


@pytest.mark.parametrize("threshold", [0.05, 0.2])
def test_spikes_written_out_and_scaled_are_a_neurons(threshold):
    class Inline(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.conv, self.fc, self.scale = nn.Conv2d(1, 4, 3), nn.Linear(144, 2), scale

        def forward(self, x):
            v, out = 0.0, 0.0
            for _ in range(3):
                v = v + self.conv(x)
                spikes = (v >= threshold).float()
                v = v - spikes * threshold
                out = out + self.fc((spikes * self.scale if self.scale else spikes).flatten(1))
            return out

    found = []
    for scale in (None, threshold):
        torch.manual_seed(0)
        found.append(record(Inline(scale), torch.rand(3, 1, 8, 8)))
    plain, scaled = found
    assert scaled.records == plain.records
    assert scaled.neurons == plain.neurons
    assert plain.records[0].neuron
    assert plain.records[0].output.amplitude == plain.records[1].input.amplitude > 0


@pytest.mark.parametrize("limit", [1, 2.0])
@pytest.mark.parametrize("clamp", [torch.clamp_max, lambda x, most: x.clamp(0, most)])
def test_event_frames_cut_to_some_levels_are_events_still(limit, clamp):
    class Cut(nn.Module):
        def __init__(self, neuron):
            super().__init__()
            self.network = create_model("vgg11", in_channels=2, neuron=neuron, timesteps=3)

        def forward(self, x):
            return self.network(clamp(x, limit))

    torch.manual_seed(0)
    frames = torch.randint(0, 4, (3, 4, 2, 8, 8)).float()
    labels = torch.tensor([0, 1, 2, 3])
    assert profile(Cut("relu"), [(frames, labels)]).network == "ann_stepwise"
    report = profile(Cut("binary"), [(frames, labels)])
    first = report.layers[0].record
    assert (first.input.levels > 0, first.levels_in) == (True, limit)
    assert first.input.events == (frames != 0).sum() / 4
    assert first.input.amplitude == frames.clamp_max(limit).sum() / 4
    assert report.network == "snn"
    assert not report.not_counted


def test_a_barrier_written_as_a_clamp():
    """Its levels are those of the sum up to N; half levels make it analog."""

    class Block(nn.Module):
        def __init__(self, limit):
            super().__init__()
            self.conv, self.neuron, self.fc = nn.Conv2d(1, 1, 1), MultiLevelIF(4), nn.Linear(16, 2)
            self.limit = limit

        def forward(self, x):
            spikes = self.neuron(self.conv(x))
            return self.fc((spikes + self.neuron(x)).clamp(max=self.limit).flatten(1))

    torch.manual_seed(0)
    whole, half = (record(Block(limit), torch.rand(3, 1, 4, 4)) for limit in (1.0, 0.9))
    assert (whole.records[-1].input.levels > 0, whole.records[-1].levels_in) == (True, 4)
    assert half.records[-1].input.levels == 0


@pytest.mark.parametrize(("name", "leaks"), [("beta", True), ("decay", True), ("slope", False)])
def test_leaks_by_name_and_state_that_stays(name, leaks):
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            setattr(self, name, 0.9)
            self.v = 0.0

        def forward(self, x):
            self.v = getattr(self, name) * self.v + x
            spikes = (self.v >= 0.3).float()
            self.v = self.v - 0.3 * spikes
            return spikes

    model = nn.Sequential(nn.Linear(4, 8), Cell(), nn.Linear(8, 2))
    activity = record(model, torch.rand(5, 4))
    assert activity.records[0].neuron.leak == leaks
    kept = "1.v is kept from batch to batch: a potential needs reset() or reset_mem()"
    assert activity.not_counted == (kept,)
