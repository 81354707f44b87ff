"""Every kind of network of the table, with every neuron (all of it: `test_cli.py`)."""

import copy
import io
import re

import pytest
import torch
from helpers import KINDS
from torch import nn
from torch.testing import assert_close

from multispike import MultiLevelIF, create_model, load_run
from multispike.errors import InputError
from multispike.models.blocks import Merge, ResidualBlock
from multispike.pretrained import PRETRAINED

SMALL = dict(num_classes=10, in_channels=3)
NEURONS = {
    "relu": dict(neuron="relu"),
    "binary": dict(neuron="binary", timesteps=2),
    "multilevel": dict(neuron="multilevel", levels=4, timesteps=1, surrogate="ste"),
}


@pytest.mark.parametrize("arch", KINDS)
@pytest.mark.parametrize("neuron", NEURONS)
def test_trains_a_step_and_keeps_nothing(arch, neuron):
    torch.manual_seed(0)
    model = create_model(arch, **SMALL, **NEURONS[neuron])
    images = torch.randn(4, 3, 8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    stem = model.stem.conv0.weight.grad
    assert stem is not None
    assert torch.isfinite(stem).all()
    model.eval()
    with torch.no_grad():
        first = model(images)
        model(images[:1])  # another batch size in between
        assert torch.equal(first, model(images))
        assert torch.equal(first, copy.deepcopy(model)(images))
        buffer = io.BytesIO()
        torch.save(model.state_dict(), buffer)
        buffer.seek(0)
        twin = create_model(arch, **SMALL, **NEURONS[neuron])
        twin.load_state_dict(torch.load(buffer, weights_only=True))
        assert torch.equal(first, twin.eval()(images))
    assert torch.isfinite(first).all()


@pytest.mark.parametrize("arch", ["fastnet", "sew_iand_resnet20"])
def test_traces_without_a_graph_break(arch):
    """torch.compile takes the whole network as one graph, and it computes the same."""
    torch.manual_seed(0)
    model = create_model(arch, **SMALL, levels=4).eval()
    images = torch.randn(2, 3, 8, 8)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images), rtol=1e-4, atol=1e-5)
    torch.compiler.reset()


@pytest.mark.parametrize("arch", ["fastnet", "vgg11", "sparse_resnet20", "ms_resnet20"])
def test_events_and_stems(arch):
    events = torch.randint(0, 3, (2, 3, 2, 16, 16)).float()  # [T, B, C, H, W]
    model = create_model(arch, in_channels=2, timesteps=2, num_classes=7)
    assert model(events).shape == (3, 7)
    wide = create_model(arch, stem="imagenet", timesteps=2)
    assert wide(torch.randn(2, 3, 64, 64)).shape == (2, 10)


@pytest.mark.parametrize("learn", ["no", "channel"])
def test_direct_coding_equals_repeated_frames(learn):
    """One image held for T steps, against the same image given as T frames."""
    torch.manual_seed(0)
    model = create_model("fastnet", timesteps=3, neuron="binary", learn_threshold=learn).eval()
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model(images), model(images.expand(3, -1, -1, -1, -1)))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("timesteps", [1, 3])
@pytest.mark.parametrize("learn", ["no", "channel"])
def test_the_stems_gradient_keeps_its_layout(learn, timesteps, dtype, memory_format):
    """In another one the backward of batch norm is many times slower; nothing else would tell."""
    model = create_model("fastnet", timesteps=timesteps, learn_threshold=learn)
    model.to(memory_format=memory_format)
    layouts = []

    def watch(_, __, output):
        output.register_hook(lambda grad: layouts.append((grad.stride(), grad.dtype)))
        layouts.append((output.stride(), output.dtype))

    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_hook(watch)
    x = torch.randn(2, 3, 16, 16).contiguous(memory_format=memory_format)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        model(x).float().square().mean().backward()
    forward, backward = layouts[: len(layouts) // 2], layouts[len(layouts) // 2 :]
    assert forward == backward[::-1]
    assert all(dtype == kind for _, kind in forward)


@pytest.mark.parametrize("learn", ["layer", "channel"])
def test_neurons_at_a_sum_share_their_threshold(learn):
    model = create_model("sparse_resnet18", learn_threshold=learn)
    for stage in range(1, 5):
        blocks = [b for name, b in model.body.named_children() if name.startswith(f"stage{stage}_")]
        shared = {id(b.path.neuron2.threshold) for b in blocks}
        shared |= {id(b.after.threshold) for b in blocks}
        shared |= {
            id(b.shortcut.neuron0.threshold) for b in blocks if len(list(b.shortcut.children()))
        }
        assert len(shared) == 1
    first = model.body.stage1_block1
    assert model.encoder.threshold is first.path.neuron2.threshold
    assert first.path.neuron1.threshold is not model.encoder.threshold


def spikes_after_blocks(arch, levels):
    """Largest level after each residual block, on inputs that drive every neuron to saturation."""
    model = create_model(arch, levels=levels)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 0.0)
            nn.init.constant_(module.bias, 2.0)  # above the threshold everywhere
    largest = {}
    for name, module in model.named_modules():
        if isinstance(module, ResidualBlock):
            module.register_forward_hook(
                lambda module, args, out, name=name: largest.update(
                    {name: out.max().item() * levels}
                )
            )
    model.eval()(torch.randn(1, 3, 8, 8))
    return largest


@pytest.mark.parametrize("levels", [1, 4])
def test_sew_grows_and_sparse_is_bounded(levels):
    """After k blocks of a stage SEW-ADD reaches (k+1) N, where every stage's first block starts
    from one level's worth on its shortcut; Sparse never exceeds N (DESIGN 2.6)."""
    for name, value in spikes_after_blocks("sew_resnet34", levels).items():
        block = int(name.rsplit("block", 1)[1])
        assert value == (block + 1) * levels, name
    assert set(spikes_after_blocks("sparse_resnet34", levels).values()) == {levels}


def test_merges_on_hand_made_tensors():
    """ADD, AND, IAND = (not path) and identity, for binary spikes of height V_th = 2."""
    path, identity = torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([0.0, 2.0, 0.0, 2.0])
    assert Merge("add", 2.0)(path, identity).tolist() == [0.0, 2.0, 2.0, 4.0]
    assert Merge("and", 2.0)(path, identity).tolist() == [0.0, 0.0, 0.0, 2.0]
    assert Merge("iand", 2.0)(path, identity).tolist() == [0.0, 2.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", ["and", "iand"])
@pytest.mark.parametrize("shape", [(), (2,)])
def test_merges_hold_a_learned_threshold_where_its_neurons_do(kind, shape):
    """Two full spikes below the floor, of height 0.001: their AND is one, their IAND is none."""
    threshold = nn.Parameter(torch.ones(shape))
    neuron = MultiLevelIF(1, threshold)
    nn.init.constant_(threshold, -0.5)
    full = neuron(torch.ones(1, 2, 3, 3)).detach()
    merged = Merge(kind, threshold)(full, full)
    assert_close(merged, torch.full_like(full, 1e-3 if kind == "and" else 0.0))
    merged.sum().backward()
    assert (threshold.grad != 0).all()


@pytest.mark.parametrize("arch", KINDS)
def test_weights_from_when_neurons_were_wrapped_are_read(arch):
    """All but the encoder were the child `neuron` of a module that split the axis of time."""
    torch.manual_seed(0)
    model = create_model(arch, **SMALL, learn_threshold="channel")
    wrapped = re.compile(r"(?<!encoder)(?<!merge)\.threshold$")
    weights = {wrapped.sub(".neuron.threshold", k): v for k, v in model.state_dict().items()}
    assert (
        sum("neuron.threshold" in name for name in weights)
        >= sum(isinstance(module, MultiLevelIF) for name, module in model.named_modules()) - 1
    )
    other = nn.Sequential(create_model(arch, **SMALL, learn_threshold="channel"))
    for own, given in ((other[0], weights), (other, {f"0.{k}": v for k, v in weights.items()})):
        for parameter in own.parameters():
            parameter.data.zero_()
        own.load_state_dict(given)
        for parameter, expected in zip(own.parameters(), model.parameters(), strict=True):
            assert torch.equal(parameter, expected)


def test_binary_has_one_level_and_mlp_has_three_linear_layers():
    model = create_model("vgg11", neuron="binary", classifier="mlp", timesteps=2)
    assert {m.levels for m in model.modules() if isinstance(m, MultiLevelIF)} == {1}
    assert sum(isinstance(m, nn.Linear) for m in model.modules()) == 3
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(arch="vgg12"), "arch: got 'vgg12', nearest: vgg16, vgg11"),
        (dict(arch="vgg11", neuron="lif"), "neuron: got 'lif'"),
        (dict(arch="vgg11", levels=0), "levels: got 0"),
        (dict(arch="vgg11", threshold=0.0), "threshold: got 0.0"),
        (dict(arch="vgg11", threshold="1", learn_threshold="layer"), "threshold: got '1'"),
        (dict(arch="vgg11", neuron="relu", threshold=-1), "threshold: got -1"),
        (dict(arch="vgg11", neuron="relu", surrogate="bogus"), "surrogate: got 'bogus'"),
        (dict(arch="vgg11", threshold=5e-4, learn_threshold="channel"), "threshold: got 0.0005"),
        (dict(arch="vgg11", timesteps=0), "timesteps: got 0"),
        (dict(arch="vgg11", neuron="binary", levels=4), "levels: got 4, allowed: 1"),
        (dict(arch="sew_resnet18", classifier="mlp"), "classifier: got 'mlp'"),
        (dict(arch="vgg11", learn_threshold="yes"), "learn_threshold: got 'yes'"),
        (dict(arch="vgg11", stem="cifra"), "stem: got 'cifra', nearest: cifar"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(InputError) as caught:
        create_model(**arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (3, 2, 3, 8, 8), (3, 8, 8)])
def test_inputs_that_do_not_fit_are_refused(shape):
    with pytest.raises(InputError, match=r"inputs: got shape .* allowed: \[B, 3, H, W\]"):
        create_model("fastnet")(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_images_of_another_precision_are_refused(dtype):
    """But where autocast converts them."""
    model, images = create_model("fastnet"), torch.zeros(2, 3, 8, 8, dtype=dtype)
    with pytest.raises(InputError, match=r"^inputs: got .*, allowed: .* of torch\.float32, as the"):
        model(images)
    assert model.double()(images.double()).dtype == torch.float64


@pytest.mark.parametrize(
    "argument",
    [{"neuron": None}, {"learn_threshold": True}, {"stem": 3}, {"num_classes": 10**12}],
)
def test_arguments_of_no_type_are_named(argument):
    [name] = argument
    with pytest.raises(InputError, match=f"^{name}: got {argument[name]!r}, "):
        create_model("fastnet", **argument)


def test_images_that_are_bytes_are_refused():
    with pytest.raises(InputError, match=r"^inputs: got torch\.uint8, allowed: .*floating-point"):
        create_model("fastnet")(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize("arch", KINDS)
def test_every_learned_threshold_is_one_of_a_neuron_or_a_product(arch):
    """One that nothing reads would get no gradient, and DDP would refuse it."""
    torch.manual_seed(0)
    neuron = {"neuron": "binary"} if "and" in arch else {"levels": 4}
    model = create_model(arch, **SMALL, **neuron, learn_threshold="channel")
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", ["cifar10-sparse-resnet20", "cifar10-sew-resnet20"])
def test_shipped_weights(name):
    row = PRETRAINED[name]
    images = torch.rand(2, 3, 32, 32)
    expected = load_run(name).network(images)
    for given in (True, name):
        model = create_model(row.arch, pretrained=given, num_classes=10)
        assert torch.equal(model.eval()(images), expected)


@pytest.mark.parametrize(
    ("arch", "given", "expected"),
    [
        (
            "fastnet",
            {"pretrained": True},
            "pretrained: got True, allowed: none of fastnet; ship",
        ),
        ("vgg11", {"pretrained": "cifar10-sew-resnet20"}, "none of vgg11; shipped are cifar10-sp"),
        ("sew_resnet20", {"pretrained": "mine"}, "pretrained: got 'mine', allowed: none of sew"),
        ("sew_resnet20", {"pretrained": True, "num_classes": 7}, "num_classes: got 7, allowed: 10"),
        ("sew_resnet20", {"pretrained": True, "levels": 8}, "levels: got 8, allowed: 4, which cif"),
    ],
)
def test_weights_that_are_not_shipped_are_one_line(arch, given, expected):
    with pytest.raises(InputError) as caught:
        create_model(arch, **given)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
