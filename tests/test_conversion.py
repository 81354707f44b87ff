"""Networks of anyone's with graded spikes: what is replaced, by which thresholds, what is told."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from multispike import MultiLevelIF, convert, create_model, profile
from multispike.activation_sites import Probe
from multispike.errors import InputError


class Block(nn.Module):
    """A residual block whose one ReLU runs twice."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.down = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.down(x)
        return self.relu(out)


def residual():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), Block(8, 8), Block(8, 16, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


def depthwise():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True),
        nn.Conv2d(8, 12, 1), nn.Flatten(), nn.Linear(12 * 16, 10),
    )  # fmt: skip


class Dense(nn.Module):
    """Concatenations, functions instead of modules, a method, in place."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.second, self.third = nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(10, 4, 1)
        self.head = nn.Linear(4, 10)

    def forward(self, x, scale=None):
        x = F.relu(self.norm(self.first(x)))
        x = torch.cat([x, self.second(x).relu()], 1)
        x = self.third(x if scale is None else x * scale)
        x = F.hardtanh(x, 0.0, max_val=4.0, inplace=True)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def vgg():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 10),
    )  # fmt: skip


NETWORKS = {
    "residual": (residual, 5),
    "depthwise": (depthwise, 2),
    "dense": (Dense, 3),
    "vgg": (vgg, 3),
}


def images(count=32):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def made(name):
    """A network, its batch norms not the identity, and how many activation functions it calls."""
    torch.manual_seed(0)
    make, count = NETWORKS[name]
    model = make().train()
    with torch.no_grad():
        for _ in range(5):
            model(images())
    return model.eval(), count


def neurons_of(model):
    return [module for module in model.modules() if isinstance(module, MultiLevelIF)]


@pytest.mark.parametrize("per", ["layer", "channel"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_activation_function_becomes_a_neuron(name, per):
    """Many levels leave the outputs nearly as they were, and nothing of the original changes."""
    model, count = made(name)
    before, state = repr(model), {k: v.clone() for k, v in model.state_dict().items()}
    expected = model(images())
    converted = convert(model, images(), levels=64, per=per)
    assert len(neurons_of(converted)) == count
    assert not [m for m in converted.modules() if isinstance(m, (nn.ReLU, nn.Hardtanh, Probe))]
    assert {neuron.config.v_init for neuron in neurons_of(converted)} == {0.5}
    error = (converted(images()) - expected).std() / expected.std()
    assert error < 0.08
    coarse = convert(model, images(), levels=4, per=per)
    assert error < (coarse(images()) - expected).std() / expected.std() < 0.7
    assert repr(model) == before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    own = {name: value for name, value in converted.state_dict().items() if name in state}
    assert own.keys() == state.keys()
    assert not converted.training


@pytest.mark.parametrize("name", NETWORKS)
def test_a_converted_network_trains_is_exported_and_priced(name):
    model, count = made(name)
    converted = convert(model.train(), images(), learn_threshold=True)
    assert converted.training
    optimizer = torch.optim.SGD(converted.parameters(), 0.01)
    F.cross_entropy(converted(images()), torch.arange(32) % 10).backward()
    thresholds = [neuron.threshold for neuron in neurons_of(converted)]
    assert all(threshold.grad is not None for threshold in thresholds)
    optimizer.step()
    converted.eval()
    program = torch.export.export(converted, (images(4),))
    called = [str(node.target) for node in program.graph.nodes]
    assert called.count("multispike.spikes.default") == count
    assert profile(converted, [(images(4), torch.zeros(4, dtype=torch.long))]).total_nj > 0


def test_the_class_stays_where_modules_alone_are_replaced():
    model, _ = made("vgg")
    converted = convert(model, images())
    assert type(converted) is nn.Sequential
    assert isinstance(converted[2], MultiLevelIF)


def test_several_timesteps_take_the_image_each_time():
    model, _ = made("residual")
    converted = convert(model, images(), levels=16, timesteps=4)
    assert converted.timesteps == 4
    expected = model(images())
    assert (converted(images()) - expected).std() / expected.std() < 0.2
    report = profile(converted, [(images(4), torch.zeros(4, dtype=torch.long))])
    assert {layer.record.timesteps for layer in report.layers[1:]} == {4}


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_neurons_that_meet_at_a_sum_share_their_threshold(per):
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(4))
            self.acts = nn.ModuleList(nn.ReLU() for _ in range(5))

        def forward(self, x):
            a, b, c, d = (act(f(x)) for act, f in zip(self.acts, self.layers, strict=False))
            x = F.max_pool2d(a, 2) + F.max_pool2d(b, 2)
            x += F.max_pool2d(c, 2)
            return self.acts[4](self.layers[0](x)).sum((2, 3)), d.mean()

    torch.manual_seed(0)
    model = Sums()
    with torch.no_grad():
        model.layers[1].weight *= 10
    converted = convert(model, images(), per=per, learn_threshold=True)
    a, b, c, d, last = (act.threshold for act in converted.acts)
    assert a is b is c
    assert len({id(threshold) for threshold in (a, d, last)}) == 3
    assert a.shape == ((3,) if per == "channel" else ())
    fixed = [act.threshold for act in convert(model, images()).acts]
    assert fixed[0] == fixed[1] == fixed[2] > fixed[3]


def test_thresholds_by_percentile_and_by_the_least_error():
    x = torch.linspace(-1, 1, 1001)[:, None]
    x[-1] = 50.0  # an outlier
    model = nn.Sequential(nn.ReLU())
    (median,) = neurons_of(convert(model, x, method="percentile", percentile=50))
    assert median.threshold == pytest.approx(0.5, abs=0.01)
    (largest,) = neurons_of(convert(model, x, method="percentile", percentile=100))
    assert largest.threshold == 50.0
    (fine,) = neurons_of(convert(model, x[:-1], levels=8))
    grid = torch.linspace(0.5, 1.2, 200)
    errors = [
        (MultiLevelIF(8, v.item(), v_init=0.5)(x[:-1]) - x[:-1].relu()).square().mean()
        for v in grid
    ]
    own = (fine(x[:-1]) - x[:-1].relu()).square().mean()
    assert own <= 1.2 * min(errors)


def test_a_channel_that_never_fires_has_the_threshold_of_another():
    x = torch.tensor([[1.0, -1.0, 0.5], [2.0, -2.0, 0.25]])
    (neuron,) = neurons_of(convert(nn.Sequential(nn.ReLU()), x, levels=2, per="channel"))
    assert neuron.threshold[1] == neuron.threshold[0] > neuron.threshold[2]


def test_functions_in_place_change_what_is_read_again():
    class PreActivation(nn.Module):
        def __init__(self, act):
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 3, 1), act

        def forward(self, x):
            x = self.conv(x)
            return self.conv(self.act(x)) + x

    for act in (nn.ReLU(inplace=True), torch.relu_, lambda x: F.relu(x, inplace=True)):
        torch.manual_seed(0)
        model = PreActivation(act)
        assert_close(
            convert(model, images(), levels=500)(images()), model(images()), rtol=0, atol=0.02
        )


def test_smooth_functions_are_replaced_with_a_warning():
    model = nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 4), nn.GELU(), nn.Hardtanh())
    with pytest.warns(UserWarning, match=r"train on \(1, 3, 4\)$"):
        converted = convert(model, torch.randn(64, 4) * 3)
    assert len(neurons_of(converted)) == 3


def test_what_stays_analog_is_named():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.gate = nn.LSTM(4, 4, batch_first=True), nn.Sigmoid()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.act = nn.ReLU()

        def forward(self, x):
            x = self.rnn(x)[0]
            x = self.attention(x, x, x)[0] * self.gate(x)
            return torch.tanh(self.act(x))

    with pytest.warns(UserWarning, match=r"^these stay analog") as caught:
        converted = convert(Mixed(), torch.randn(8, 5, 4))
    (message,) = (str(warning.message) for warning in caught)
    for name in ("lstm in rnn", "multi_head_attention_forward in attention", "sigmoid in gate",
                 "tanh in forward"):  # fmt: skip
        assert name in message
    assert len(neurons_of(converted)) == 1


def test_a_forward_that_fx_does_not_follow():
    """Modules are replaced all the same; functions, and what meets at sums, are named."""

    class Dynamic(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act = nn.Linear(4, 4), nn.ReLU()

        def forward(self, x):
            x = self.act(self.first(x))
            return F.relu(x - 0.1) if x.sum() > 0 else x

    with pytest.warns(UserWarning, match="analog|shared") as caught:
        converted = convert(Dynamic(), torch.randn(8, 4))
    messages = [str(warning.message) for warning in caught]
    assert any("not shared (torch.fx can't follow it" in message for message in messages)
    assert "these stay analog: relu in forward" in messages
    assert isinstance(converted.act, MultiLevelIF)


def test_modules_that_never_run_stay():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act, self.idle = nn.Linear(4, 4), nn.ReLU(), nn.ReLU()

        def forward(self, x):
            return self.act(self.first(x))

    assert isinstance(convert(Idle(), torch.randn(8, 4)).idle, nn.ReLU)


def test_batches_with_targets_and_one_that_is_smaller():
    model, _ = made("vgg")
    batches = [(images()[:20], torch.zeros(20)), (images()[20:], torch.zeros(12))]
    whole, parts = convert(model, images()), convert(model, batches)
    for one, other in zip(neurons_of(whole), neurons_of(parts), strict=True):
        assert one.threshold == pytest.approx(other.threshold, rel=0.15)


NAN = torch.full((2, 3, 8, 8), torch.nan)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(model="resnet18"), "model: got 'str', allowed: a torch.nn.Module"),
        (dict(model=nn.Linear(2, 2)), "model: got 'Linear', allowed: a network with ReLU, ReLU6,"),
        (dict(calibration=[]), "calibration: got 'no inputs', allowed: a tensor"),
        (dict(calibration=None), "calibration: got 'NoneType', allowed: inputs, or batches"),
        (dict(calibration=NAN), "calibration: got NaN or infinity at 2, allowed: finite numbers"),
        (dict(calibration=torch.zeros(0, 3, 8, 8)), "calibration: got 'no inputs'"),
        (dict(calibration=torch.zeros(2, 4, 8, 8)), "model: forward failed on calibration"),
        (dict(levels=0), "levels: got 0"),
        (dict(timesteps=0), "timesteps: got 0"),
        (dict(method="max"), "method: got 'max'"),
        (dict(per="weight"), "per: got 'weight'"),
        (dict(percentile=0), "percentile: got 0"),
        (dict(surrogate="stee"), "surrogate: got 'stee'"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(InputError) as caught:
        convert(**{"model": made("vgg")[0], "calibration": images(2), **arguments})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_layer_that_never_fires_is_named():
    model, _ = made("vgg")
    nn.init.constant_(model[9].bias, -1e3)
    with pytest.raises(
        InputError, match=r"^calibration: got 'no value above 0 at 10', allowed: data"
    ):
        convert(model, images())


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100", "vgg11_bn", "densenet121"])
def test_networks_of_timm(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10).eval()
    x = torch.randn(2, 3, 64, 64)
    with warnings.catch_warnings():
        if name == "vgg11_bn":  # whose forward asks for shapes: converted module by module
            warnings.simplefilter("ignore", UserWarning)
        converted = convert(model, x, levels=8)
    assert type(converted) is type(model)
    assert not [m for m in converted.modules() if isinstance(m, (nn.ReLU, nn.ReLU6))]
    assert converted(x).shape == (2, 10)


@pytest.mark.parametrize("arch", ["fastnet", "ms_resnet20"])
def test_networks_of_the_table_become_those_with_learned_thresholds(arch):
    """Nothing is warned of: thresholds that meet at a sum are shared. The weights fit as well."""
    torch.manual_seed(0)
    ann = create_model(arch, neuron="relu").train()
    with torch.no_grad():
        ann(images())
    converted = convert(ann.eval(), images(), levels=8, learn_threshold=True)
    twin = create_model(arch, levels=8, learn_threshold="layer", v_init=0.5, surrogate="clip")
    twin.load_state_dict(converted.state_dict())
    assert torch.equal(twin.eval()(images()), converted(images()))
