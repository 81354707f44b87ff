"""`multispike::spikes` as the tools of torch see it: opcheck, compile, export, fakes, autocast."""

import warnings

import pytest
import torch
from test_deploy_integer import THIN, thin
from torch import nn
from torch.testing import assert_close

from multispike import MultiLevelIF, create_model
from multispike.ops import reference
from multispike.ops import spikes as operator
from multispike.ops.reference import Constants
from multispike.surrogate import SURROGATES

INDUCTOR = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
"""What the import of Inductor itself says."""

C = Constants(levels=4, surrogate="sigmoid", alpha=5.0, v_init=0.25, beta=0.9, detach_reset=True)
THRESHOLDS = {
    "number": lambda: torch.full((), 0.7, dtype=torch.float64),
    "layer": lambda: torch.tensor(0.7, requires_grad=True),
    "channel": lambda: torch.tensor([0.5, 0.7, 1.0]).view(3, 1, 1).requires_grad_(),
}


DTYPES = (torch.float32, torch.bfloat16, torch.float64)
PAIRS = [
    (dtype, threshold, ("sigmoid", "clip", "sigmoid")[(i + j) % 3], bool((i + 2 * j) % 3))
    for i, dtype in enumerate(DTYPES)
    for j, threshold in enumerate(THRESHOLDS)
]
"""Any two settings together (an orthogonal array of 9 rows)."""


@pytest.mark.parametrize(("dtype", "threshold", "surrogate", "state"), PAIRS)
def test_opcheck(dtype, threshold, surrogate, state):
    x = torch.randn(2, 2, 3, 4, 5).to(dtype).requires_grad_()
    v = torch.rand(2, 3, 4, 5, dtype=reference.wide(dtype)).requires_grad_() if state else None
    c = C._replace(surrogate=surrogate)
    torch.library.opcheck(operator.spikes, (x, v, THRESHOLDS[threshold](), *c, state))


def test_opcheck_of_what_training_adds():
    x, grad, v = torch.randn(2, 2, 3, 4), torch.randn(2, 2, 3, 4), torch.rand(2, 3, 4)
    threshold = torch.tensor(0.7)
    ops = torch.ops.multispike
    torch.library.opcheck(ops._spikes_and_window.default, (x, v, threshold, *C))
    for need in (True, False):
        kept = (grad, v if need else None, None, x, v, threshold)
        torch.library.opcheck(ops._spikes_backward.default, (*kept, *C, need, need))


def test_the_schema_is_that_of_the_design():
    """`return_v` comes last and has a default, so that graphs and callers may leave it away."""
    assert str(operator.spikes._schema) == (
        "multispike::spikes(Tensor x, Tensor? v, Tensor threshold, int levels, str surrogate, "
        "float alpha, float v_init, float beta, bool detach_reset, bool return_v=True) "
        "-> (Tensor spikes, Tensor v)"
    )


def custom_nodes(graph):
    """Names of all nodes that are no operations of ATen."""
    calls = [node.target for node in graph.nodes if node.op == "call_function"]
    return [
        str(target)
        for target in calls
        if isinstance(target, torch._ops.OpOverload) and target.namespace != "aten"
    ]


@pytest.mark.parametrize("surrogate", ["sigmoid", "ste"])
def test_a_compiled_training_step(surrogate):
    """One node a neuron layer in the graph, and the loss of eager mode."""
    torch.manual_seed(0)
    model = create_model("fastnet", surrogate=surrogate, learn_threshold="no")
    images, labels = torch.randn(4, 3, 8, 8), torch.arange(4)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph.graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    losses = []
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for run in (model, torch.compile(model, fullgraph=True, backend=backend)):
        model.load_state_dict(state)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(run(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    torch.compiler.reset()
    assert losses[2:] == pytest.approx(losses[:2], rel=1e-5)
    neurons = sum(isinstance(module, MultiLevelIF) for module in model.modules())
    nodes = [
        str(node.target) for graph in graphs[:1] for node in graph.nodes
        if node.op == "call_function" and "spikes" in str(node.target)
    ]  # fmt: skip
    assert nodes == ["multispike.spikes.default"] * neurons


@INDUCTOR
def test_inductor_trains_a_layer():
    """Its own code around the operator, with the window kept for the backward."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(6, 5), MultiLevelIF(4, surrogate="clip", timesteps=2))
    x, grads = torch.randn(2, 3, 6), []
    for run in (layers, torch.compile(layers, fullgraph=True)):
        layers.zero_grad()
        run(x).square().sum().backward()
        grads.append(layers[0].weight.grad.clone())
    torch.compiler.reset()
    assert_close(*grads)


KINDS = (*THIN, "fastnet_l", "sparse_resnet20")
"""Every wiring, in few blocks, the residual block of fastnet_l, and a deep network."""


@pytest.mark.parametrize("arch", KINDS)
def test_exports_hold_aten_and_the_operator(arch):
    """With a dynamic batch; every neuron layer is one node."""
    torch.manual_seed(0)
    model = thin(arch, levels=4, timesteps=2).eval()
    shapes = {"inputs": {0: torch.export.Dim.DYNAMIC}}
    program = torch.export.export(model, (torch.randn(3, 3, 8, 8),), dynamic_shapes=shapes)
    neurons = sum(isinstance(module, MultiLevelIF) for module in model.modules())
    assert custom_nodes(program.graph) == ["multispike.spikes.default"] * neurons
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert_close(program.module()(images), model(images))


@pytest.mark.parametrize("arch", KINDS)
@pytest.mark.parametrize("learn", ["no", "channel"])
def test_training_steps_without_memory(arch, learn):
    """The meta device stands in for one that this machine lacks."""
    with torch.device("meta"):
        model = thin(arch, levels=4, timesteps=2, learn_threshold=learn)
        images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)
        nn.functional.cross_entropy(model(images), labels).backward()
    assert all(p.grad is not None and p.grad.is_meta for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    """Half precision in and out, float32 inside: whatever the weights are."""
    torch.manual_seed(0)
    neuron = MultiLevelIF(4, learn_threshold=True, timesteps=3)
    linear = nn.Linear(6, 5)
    x = torch.randn(3, 2, 6)
    with torch.autocast("cpu", dtype):
        drive = linear(x)
        spikes = neuron(drive)
        step, v = neuron.step(drive[0])
    assert spikes.dtype == step.dtype == dtype
    assert v.dtype == torch.float32
    assert torch.equal(spikes, neuron(drive.float()).to(dtype))
    spikes.float().sum().backward()
    assert neuron.threshold.grad.dtype == linear.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("levels", [1, 4])
def test_potentials_that_are_no_numbers(surrogate, levels, kernels, monkeypatch):
    """The sigmoid's gradient is 0 where a potential is infinite and NaN where it is NaN: a run that
    has diverged is to be seen. A window is open for neither."""
    if not kernels:
        monkeypatch.setattr(operator, "library", lambda: None)
    x = torch.tensor([[[torch.nan, torch.inf, -torch.inf, 0.5]]], requires_grad=True)
    spikes = MultiLevelIF(levels, surrogate=surrogate)(x)
    spikes.sum().backward()
    assert spikes[0, 0].isnan().tolist() == [True, False, False, False]
    assert spikes[0, 0, 1:3].tolist() == [1.0, 0.0]
    assert x.grad[0, 0].isnan().tolist() == [surrogate == "sigmoid", False, False, False]
    assert x.grad[0, 0, 1:3].tolist() == [0.0, 0.0]
    assert x.grad[0, 0, 3] > 0


@INDUCTOR
def test_inductor_compiles_the_reference():
    """As on a GPU, where the operator calls it."""
    x, v = torch.randn(2, 3, 5), torch.rand(3, 5)
    threshold = THRESHOLDS["number"]()
    inputs = (x, v, threshold, C, False, True)
    expected, compiled = reference.forward(*inputs), operator.by_inductor(reference.forward)
    for a, b in zip(compiled(*inputs), expected, strict=True):
        assert a is b is None or assert_close(a, b) is None
    kept = (torch.randn_like(x), torch.randn_like(v), None, x, v, threshold, C, True, False)
    compiled = operator.by_inductor(reference.backward)
    for a, b in zip(compiled(*kept), reference.backward(*kept), strict=True):
        assert a is b is None or assert_close(a, b) is None
    torch.compiler.reset()


def test_without_inductor_the_reference_runs(monkeypatch):
    """One warning, once."""

    def refuse(*_, **__):
        raise RuntimeError("no Triton here\nand more")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: refuse)
    run = operator.by_inductor(lambda x: x + 1)
    with pytest.warns(RuntimeWarning, match="without Inductor: no Triton here$"):
        assert run(1) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(2) == 3
