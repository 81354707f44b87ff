"""Where a network calls activation functions: probes around them, and which belong together."""

from __future__ import annotations

import copy
import inspect
import itertools
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

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

_FUNCTIONS: dict[Any, Callable[..., nn.Module]] = {
    **dict.fromkeys((F.relu, torch.relu, torch.relu_, "relu", "relu_"), lambda *_, **__: nn.ReLU()),
    F.relu6: lambda *_, **__: nn.ReLU6(),
    F.hardtanh: lambda low=-1.0, high=1.0, *_, min_val=None, max_val=None, **__: nn.Hardtanh(
        low if min_val is None else min_val, high if max_val is None else max_val
    ),
    F.silu: lambda *_, **__: nn.SiLU(),
    F.gelu: lambda approximate="none": nn.GELU(approximate),
    F.hardswish: lambda *_, **__: nn.Hardswish(),
}
"""Activation functions that a `forward` calls, or methods: the module that computes the same."""

_ANALOG = {
    *("relu", "relu_", "relu6", "hardtanh", "silu", "gelu", "hardswish", "leaky_relu", "elu"),
    *("celu", "selu", "rrelu", "prelu", "glu", "mish", "sigmoid", "hardsigmoid", "logsigmoid"),
    *("tanh", "hardtanh_", "softplus", "softsign", "softmax", "log_softmax", "lstm", "gru"),
    *("rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "scaled_dot_product_attention"),
    *("multi_head_attention_forward", "threshold"),
}
"""Functions that are no linear ones, by name: what is left of them stays analog, and is named."""

_PASSES = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool2d, nn.Identity, nn.Flatten),
    *(nn.Dropout, nn.Dropout2d, nn.Unflatten, nn.ZeroPad2d),
)
_SUMS = {operator.add, operator.iadd, torch.add, "add", "add_"}
_PASSING = {
    *(torch.cat, torch.flatten, F.max_pool2d, F.dropout, F.pad, F.adaptive_max_pool2d),
    *(
        "flatten",
        "view",
        "reshape",
        "contiguous",
        "permute",
        "transpose",
        "clone",
        operator.getitem,
    ),
}
"""What hands levels on as they are: thresholds of neurons that meet behind it belong together."""

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
        columns = x.detach().float()
        if self.by_channel and x.dim() > 1:
            columns = columns.transpose(0, 1).flatten(1)
        else:
            columns = columns.reshape(1, -1)
        if not columns.isfinite().all():
            raise InputError(
                f"calibration: got NaN or infinity at {self.name}, allowed: finite numbers"
            )
        if self.columns and len(columns) != len(self.columns[0]):
            channels = len(self.columns[0])
            got = f"{len(columns)} channels after {channels} at {self.name}"
            raise invalid("per", f"'channel' with {got}", "'layer' there")
        step = -(-columns.numel() // (_KEPT // 8)) | 1  # odd: not the same columns of every map
        self.columns.append(columns[:, ::step].cpu())
        if sum(part.numel() for part in self.columns) > _KEPT:
            self.columns = [part[:, ::2] for part in self.columns]
        return self.function(x)


def with_probes(model: nn.Module, by_channel: bool) -> tuple[nn.Module, list[Probe], str]:
    """The network with a probe around every activation function; why `torch.fx` failed, or ""."""
    try:
        graph = _traced(model)
    except Exception as error:  # fx raises whatever the forward raises for its stand-ins
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return *_modules_probed(model, by_channel), f" (torch.fx can't follow it: {reason})"
    sites = [node for node in graph.nodes if _site(model, node)]
    called = [node.target for node in sites if node.op == "call_module"]
    again = len(set(called)) < len(called) or any(_changes_input(model, node) for node in sites)
    if len(called) < len(sites) or again:
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


def _traced(model: nn.Module) -> fx.Graph:
    """The calls of a forward whose optional arguments are left away."""
    training = model.training
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.default is not parameter.empty
    }
    try:
        return _Tracer().trace(model.eval(), concrete_args=defaults or None)
    finally:
        model.train(training)


def _modules_probed(model: nn.Module, by_channel: bool) -> tuple[nn.Module, list[Probe]]:
    names = {module: name for name, module in model.named_modules()}
    probes: dict[nn.Module, Probe] = {}

    def probed(module: nn.Module) -> nn.Module | None:
        if not isinstance(module, (*EXACT, *NEAR)):
            return None
        return probes.setdefault(module, Probe(module, names[module], by_channel))

    return replace_modules(model, probed), list(probes.values())


def replace_modules(model: nn.Module, by: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """The module with every part for which `by` gives another one replaced, wherever it is."""
    if (other := by(model)) is not None:
        return other
    for name, child in list(model._modules.items()):
        if child is not None:
            model._modules[name] = replace_modules(child, by)
    return model


def _site(model: nn.Module, node: fx.Node) -> bool:
    """Whether a call is that of an activation function."""
    if node.op == "call_module":
        return isinstance(model.get_submodule(str(node.target)), (*EXACT, *NEAR))
    return node.target in _FUNCTIONS


def _in_place(model: nn.Module, node: fx.Node) -> bool:
    """Whether an activation function writes its output over its input."""
    if node.op == "call_module":
        return getattr(model.get_submodule(str(node.target)), "inplace", False)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return bool(node.kwargs.get("inplace")) or name.endswith("_")


def _changes_input(model: nn.Module, node: fx.Node) -> bool:
    """Whether what an activation function writes over is read again later on."""
    later = [user for x in node.all_input_nodes for user in x.users if user > node]
    return bool(later) and _in_place(model, node)


def _rewrite(model: fx.GraphModule, node: fx.Node) -> None:
    """Make an activation function a module of its own, which changes nothing in place."""
    x, *rest = node.args
    in_place = _in_place(model, node)
    if node.op == "call_module":
        function = copy.deepcopy(model.get_submodule(str(node.target)))
    else:
        options = {name: value for name, value in node.kwargs.items() if name != "inplace"}
        function = _FUNCTIONS[node.target](*rest, **options)
    if hasattr(function, "inplace"):
        cast(Any, function).inplace = False
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
        module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
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
                for probe in _probes_of(model):
                    probe.group = min(ours) if probe.group in ours else probe.group
                carried[node] = together
        elif node.target in _PASSING or isinstance(module, _PASSES):
            carried[node] = together


def _probes_of(model: nn.Module) -> Iterator[Probe]:
    return (module for module in model.modules() if isinstance(module, Probe))


def groups_of(probes: list[Probe]) -> list[list[Probe]]:
    """The probes by group; those that no graph has seen have their own."""
    groups: dict[Any, list[Probe]] = {}
    for probe in probes:
        groups.setdefault(probe.group or probe, []).append(probe)
    return list(groups.values())


@dataclass
class AnalogFunctions(TorchFunctionMode):
    """Notes which functions run, outside of probes, that are no linear ones."""

    names: dict[nn.Module, str]
    running: list[nn.Module] = field(default_factory=list)
    found: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def enter(self, module: nn.Module, inputs: Any) -> None:
        self.running.append(module)

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.running.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _ANALOG and not any(isinstance(m, (Probe, MultiLevelIF)) for m in self.running):
            place = self.names.get(self.running[-1], "") if self.running else ""
            self.found[f"{name} in {place or 'forward'}"] = None
        return func(*args, **(kwargs or {}))
