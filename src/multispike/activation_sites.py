"""Where a network calls activation functions: probes around them, and which belong together."""

from __future__ import annotations

import copy
import inspect
import itertools
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from multispike.errors import InputError, invalid
from multispike.neurons import MultiLevelIF

EXACT = (nn.ReLU, nn.ReLU6, nn.Hardtanh)
"""Activation functions that graded spikes stand for: clipped ReLUs."""

NEAR = (nn.SiLU, nn.GELU, nn.Hardswish)
"""Replaced as well, with a warning: what they pass below zero is lost until training goes on."""

_FUNCTIONS: dict[Any, type[nn.Module]] = {
    **dict.fromkeys((F.relu, torch.relu, torch.relu_, "relu", "relu_"), nn.ReLU),
    **{F.relu6: nn.ReLU6, F.hardtanh: nn.Hardtanh},
    **{F.silu: nn.SiLU, F.gelu: nn.GELU, F.hardswish: nn.Hardswish},
}
"""Activation functions that a `forward` calls, or methods: the module of the same arguments."""

_ANALOG = {
    *("relu", "relu_", "relu6", "hardtanh", "silu", "gelu", "hardswish", "leaky_relu", "elu"),
    *("celu", "selu", "rrelu", "prelu", "glu", "mish", "sigmoid", "hardsigmoid", "logsigmoid"),
    *("tanh", "hardtanh_", "softplus", "softsign", "softmax", "log_softmax", "lstm", "gru"),
    *("rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "scaled_dot_product_attention"),
    *("multi_head_attention_forward", "threshold"),
}
"""Names of functions that are no linear ones: what is left of them stays analog, and is named."""

_PASSES = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool2d, nn.Identity, nn.Flatten),
    *(nn.Dropout, nn.Dropout2d, nn.Unflatten, nn.ZeroPad2d),
)
_SUMS = {operator.add, operator.iadd, torch.add, "add", "add_"}
_PASSING = {
    *(torch.cat, torch.flatten, F.max_pool2d, F.dropout, F.pad, F.adaptive_max_pool2d),
    *("flatten", "view", "reshape", "contiguous", "permute", "transpose", "clone"),
    operator.getitem,
}
"""What hands levels on: thresholds of neurons that meet behind it belong together."""

_KEPT = 2**18
"""Values of each activation function, at most, that a threshold is found by."""


class Probe(nn.Module):
    """An activation function that keeps a part of what it receives.

    Attributes:
        name: where it is.
        columns: what it received, [C, n] each, or [1, n] where channels don't matter.
        group: neurons with the same threshold, by a number.
        neuron: what takes its place.
    """

    def __init__(self, function: nn.Module, name: str, by_channel: bool) -> None:
        super().__init__()
        self.function, self.name, self.by_channel = function, name, by_channel
        self.columns: list[Tensor] = []
        self.group = 0
        self.neuron: MultiLevelIF | None = None

    def forward(self, x: Tensor) -> Tensor:
        by_channel = self.by_channel and x.dim() > 1
        columns = x.detach().float()
        columns = columns.transpose(0, 1).flatten(1) if by_channel else columns.reshape(1, -1)
        if not columns.isfinite().all():
            raise InputError(
                f"calibration: got NaN or infinity at {self.name}, allowed: finite numbers"
            )
        if self.columns and len(columns) != (before := len(self.columns[0])):
            got = f"'channel' with {len(columns)} channels after {before} at {self.name}"
            raise invalid("per", got, "'layer' there")
        step = -(-columns.numel() // (_KEPT // 8)) | 1  # odd: not the same columns of every map
        self.columns.append(columns[:, ::step].cpu())
        if sum(part.numel() for part in self.columns) > _KEPT:
            self.columns = [part[:, ::2] for part in self.columns]
        return self.function(x)


def with_probes(model: nn.Module, by_channel: bool) -> tuple[nn.Module, list[Probe], str]:
    """The network with a probe around every activation function; why `torch.fx` failed, or "".

    It is traced without its optional arguments, and left in evaluation mode.
    """
    try:
        parameters = inspect.signature(model.forward).parameters.items()
        defaults = {name: p.default for name, p in parameters if p.default is not p.empty}
        graph = _Tracer().trace(model.eval(), concrete_args=defaults or None)
    except Exception as error:  # fx raises whatever the forward raises for its stand-ins
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return *_modules_probed(model, by_channel), f" (torch.fx can't follow it: {reason})"
    sites = [node for node in graph.nodes if _site(model, node)]
    called = {node.target for node in sites if node.op == "call_module"}
    if len(called) < len(sites) or any(_changes_input(model, node) for node in sites):
        model = fx.GraphModule(model, graph)
        for node in sites:
            _rewrite(model, node)
        model.graph.lint()
        model.recompile()
    probed, probes = _modules_probed(model, by_channel)
    _group(model, graph)
    return probed, probes, ""


class _Tracer(fx.Tracer):
    """Batch norms of any library are leaves: what they do in training is no part of a graph."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        batch_norm = isinstance(m, nn.modules.batchnorm._NormBase)
        return batch_norm or super().is_leaf_module(m, module_qualified_name)


def _modules_probed(model: nn.Module, by_channel: bool) -> tuple[nn.Module, list[Probe]]:
    probes: dict[nn.Module, Probe] = {
        module: Probe(module, name, by_channel)
        for name, module in model.named_modules()
        if isinstance(module, (*EXACT, *NEAR))
    }
    return replace_modules(model, probes.get), list(probes.values())


def replace_modules(model: nn.Module, by: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """The module with every part for which `by` gives another one replaced, wherever it is."""
    if (other := by(model)) is not None:
        return other
    for name, child in list(model._modules.items()):
        if child is not None:
            model._modules[name] = replace_modules(child, by)
    return model


def _module(model: nn.Module, node: fx.Node) -> nn.Module | None:
    return model.get_submodule(str(node.target)) if node.op == "call_module" else None


def _site(model: nn.Module, node: fx.Node) -> bool:
    module = _module(model, node)
    return node.target in _FUNCTIONS if module is None else isinstance(module, (*EXACT, *NEAR))


def _in_place(model: nn.Module, node: fx.Node) -> bool:
    """Whether an activation function writes its output over its input."""
    if (module := _module(model, node)) is not None:
        return getattr(module, "inplace", False)
    return bool(node.kwargs.get("inplace")) or node.target in (torch.relu_, "relu_")


def _changes_input(model: nn.Module, node: fx.Node) -> bool:
    """Whether what an activation function writes over is read again later on."""
    later = [user for x in node.all_input_nodes for user in x.users if user > node]
    return bool(later) and _in_place(model, node)


def _rewrite(model: fx.GraphModule, node: fx.Node) -> None:
    """Make an activation function a module of its own, which changes nothing in place."""
    (x, *rest), in_place = node.args, _in_place(model, node)
    module = _module(model, node)
    function: Any = (
        _FUNCTIONS[node.target](*rest, **node.kwargs) if module is None else copy.deepcopy(module)
    )
    if hasattr(function, "inplace"):
        function.inplace = False
    name = node.name
    while hasattr(model, name):
        name += "_"
    model.add_submodule(name, function)
    with model.graph.inserting_after(node):
        new = model.graph.call_module(name, (x,))
    node.replace_all_uses_with(new)
    if in_place and isinstance(x, fx.Node):
        for user in [user for user in x.users if user > new]:
            user.replace_input_with(x, new)
    model.graph.erase_node(node)
    if node.op == "call_module" and all(other.target != node.target for other in model.graph.nodes):
        model.delete_submodule(str(node.target))


def _group(model: nn.Module, graph: fx.Graph) -> None:
    """Number the probes of a traced network so that those which meet at one sum have one number."""
    carried: dict[fx.Node, frozenset[Probe]] = {}
    numbers = itertools.count(1)
    for node in graph.nodes:
        module = _module(model, node)
        inputs = [carried.get(other, frozenset()) for other in node.all_input_nodes]
        together = frozenset[Probe]().union(*inputs)
        inner = [] if module is None else [m for m in module.modules() if isinstance(m, Probe)]
        for probe in inner:
            probe.group = probe.group or next(numbers)
        if inner and isinstance(module, (Probe, nn.modules.batchnorm._NormBase)):
            carried[node] = frozenset(inner)
        elif node.target in _SUMS:
            if all(inputs) and len(inputs) > 1:
                ours = {probe.group for probe in together}
                for probe in model.modules():
                    if isinstance(probe, Probe) and probe.group in ours:
                        probe.group = min(ours)
                carried[node] = together
        elif node.target in _PASSING or isinstance(module, _PASSES):
            carried[node] = together


class AnalogFunctions(TorchFunctionMode):
    """Notes which functions run, outside of probes, that are no linear ones."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {module: name for name, module in model.named_modules()}
        self.running: list[nn.Module] = []
        self.found: dict[str, None] = {}

    def enter(self, module: nn.Module, *_: Any) -> None:
        self.running.append(module)

    def leave(self, *_: Any) -> None:
        self.running.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _ANALOG and not any(isinstance(m, (Probe, MultiLevelIF)) for m in self.running):
            place = self.names.get(self.running[-1], "") if self.running else ""
            self.found[f"{name} in {place or 'forward'}"] = None
        return func(*args, **(kwargs or {}))
