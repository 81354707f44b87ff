"""The graph of a network, as `torch.export` sees it, walked into integer layers.

Every node becomes a tensor where it depends on weights alone, else a `Signal` that a layer sends or
a `Potential` on its way to one, by the rule of its operation (`operations.RULES`). Axes of time,
[T, B, ...] or [T*B, ...], are told by their sizes and pass as they are: an integer network runs its
layers once a timestep.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node, map_arg

from multispike.errors import InputError, invalid
from multispike.export.folding import Firing, Potential, Signal
from multispike.export.layers import IMAGE, Merge, Shape
from multispike.export.rounding import LayerBuilder
from multispike.export.validate import identifier
from multispike.ops.spikes import spikes

Value = Signal | Potential


@dataclass(frozen=True)
class Rule:
    """What an operation becomes: `apply` is called with the walk and the operation's arguments,
    values for nodes. `takes` of `FORMS`, and of means over "time", those that it can read."""

    apply: Callable[..., Any]
    takes: tuple[str, ...] = ()


FORMS = {
    "flat": "a linear layer behind a flattened image",
    "padding": "a convolution or pooling behind padding",
    "repeated": "a convolution behind a pixel made many",
}
"""What the float network may have made of an image, and what can read it then."""
ACTIVATIONS = "relu relu6 hardtanh leaky_relu elu silu gelu sigmoid hardswish hardsigmoid tanh mish"
SEQUENCES = (
    "lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell"
    " scaled_dot_product_attention softmax"
)
ADVICE = (
    "'binary', 'multilevel' (activations are no events: train with one of those, put neurons there"
    " with `multispike.convert`, or export the ANN itself to ONNX)"
)
CARRIED = (
    "convolutions, linear layers, batch norm, neurons, sums, max and average pools, concatenation"
    " of channels (replace it, or leave it out of what is exported)"
)


def trace(model: nn.Module, sample: Tensor) -> ExportedProgram:
    """The graph of `model` in evaluation mode; `InputError` where torch can't trace it."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what hooks of pruning assign to a module is no fault
            return torch.export.export(model, (sample,))
    except InputError:
        raise
    except Exception as error:  # whatever a user's forward does
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"model: got {type(model).__name__}, which torch.export can't trace ({reason});"
            " allowed: a forward without branches on its input"
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training


class Walk:
    """One pass over a graph with the weights that `model` has now.

    Attributes:
        builder: with the integer layers, once `run` is through.
        parameters: names of the nodes that are parameters.
        logit_unit: what a unit of the logits is worth, the mean over time included.
    """

    def __init__(
        self, model: nn.Module, program: ExportedProgram, rules: Mapping[Any, Rule],
        input_shape: Shape, timesteps: int, mean: Sequence[float], std: Sequence[float],
    ) -> None:  # fmt: skip
        self.rules = rules
        self.timesteps, self.batch = timesteps, batch_of(timesteps)
        self.nodes = list(program.graph.nodes)
        self.node = self.nodes[0]
        self.values: dict[Node, Any] = {}
        self.parameters: dict[Node, str] = {}
        self.taken = {IMAGE, "logits"}
        self.divisor: int | None = None
        if self.at_first(SEQUENCES):  # rather than at what leads to it
            raise self.refused(CARRIED)
        self.evaluate_constants(model, program)
        fires = [node for node in self.nodes if node.target is spikes]
        if not fires:
            self.refuse_activations()
            raise invalid("model", "no spiking neuron", ADVICE)
        firing = [firing_of(*self.arguments(node)[0]) for node in fires]
        self.builder = LayerBuilder(input_shape, timesteps, mean, std, firing)
        self.logit_unit = self.run()

    def evaluate_constants(self, model: nn.Module, program: ExportedProgram) -> None:
        """Values of all that depends on weights alone."""
        tensors: dict[str, Any] = {
            **program.constants,
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
        signature = program.graph_signature
        parameters = signature.inputs_to_parameters
        names = {**parameters, **signature.inputs_to_buffers}
        names |= signature.inputs_to_lifted_tensor_constants
        for node in self.nodes:
            if node.op == "placeholder" and node.name in names:
                self.values[node] = tensors[names[node.name]].detach().cpu()
                if node.name in parameters:
                    self.parameters[node] = parameters[node.name]
            elif node.op == "call_function" and self.values.keys() >= {*node.all_input_nodes}:
                positional, named = self.arguments(node)
                self.values[node] = node.target(*positional, **named)  # pyright: ignore[reportCallIssue]

    def arguments(self, node: Node) -> tuple[Any, dict[str, Any]]:
        """With values for nodes; None for what has none yet."""
        return map_arg((node.args, node.kwargs), self.values.get)  # pyright: ignore[reportReturnType]

    def run(self) -> float:
        """All nodes in order; gives the unit of the logits."""
        for node in self.nodes:
            if node in self.values or (node.op == "call_function" and not node.users):
                continue
            self.node = node
            if node.op == "placeholder":
                self.values[node] = self.builder.image
            elif node.op == "output":
                return self.readout(node.args[0])
            else:
                value = self.call()
                if isinstance(value, Potential) and len(node.users) > 1:
                    value = self.numbers(value)
                self.values[node] = value
        raise AssertionError("a graph without an output")

    def call(self) -> Any:
        """What the rule makes of this node."""
        positional, named = self.arguments(self.node)
        if (rule := self.rules.get(self.node.target)) is None:
            self.refuse_activations()
            raise self.refused(CARRIED)
        for value in map(self.values.get, self.node.all_input_nodes):
            for form, allowed in FORMS.items():
                if form not in rule.takes and np.any(getattr(value, form, False)):
                    raise self.refused(allowed)
        if self.divisor and "time" not in rule.takes:
            raise self.refused("linear layers behind the mean over time")
        return rule.apply(self, *positional, **named)

    @property
    def module(self) -> str:
        """The qualified name of the module that this node stands in, or of the node itself."""
        stack = self.node.meta.get("nn_module_stack") or {"": ("", None)}
        name = list(stack.values())[-1][0] or self.node.name
        return re.sub(r"[^A-Za-z0-9_.-]", "_", name)

    def new_name(self, name: str | None = None) -> str:
        """A name that no layer has yet, nor its C identifier."""
        wanted = base = name or self.module
        count = 1
        while identifier(wanted) in self.taken:
            count += 1
            wanted = f"{base}_{count}"
        self.taken.add(identifier(wanted))
        return wanted

    def refused(self, allowed: str) -> InputError:
        """What integers don't carry at this node."""
        return invalid(self.module, operation_of(self.node), allowed)

    def refuse_activations(self) -> None:
        """Raise `InputError` for the first activation that is no neuron."""
        if self.at_first(ACTIVATIONS):
            name = operation_of(self.node)
            raise InputError(f"neuron: got {name!r}, allowed: {ADVICE}; it is {self.module}")

    def at_first(self, operations: str) -> bool:
        """Go to the first node of these operations; whether there is one."""
        found = [node for node in self.nodes if operation_of(node) in operations.split()]
        self.node = found[0] if found else self.node
        return bool(found)

    def shape_of(self, node: Node | None = None) -> tuple[int, ...]:
        """The float network's tensor at a node."""
        return tuple((node or self.node).meta["val"].shape)

    def is_time(self, axes: tuple[int, ...]) -> bool:
        """Whether these leading axes are those of time and batch."""
        steps, batch = self.timesteps, self.batch
        known = (batch,), (steps * batch,), (steps, batch), (1, batch), (steps, 1, batch)
        return axes in (*known, (1, steps * batch))

    def numbers(self, x: Value) -> Signal:
        """x as what a layer sends: sums of levels as they are, else potentials in fixed point."""
        if isinstance(x, Signal):
            return x
        first, *more = x.drives
        sources = [drive.source for drive in x.drives]
        levels = all(drive.weight is None and not drive.source.potentials for drive in x.drives)
        if levels and all(np.array_equal(one.worth, first.source.worth) for one in sources):
            total = first.source
            for drive in more:
                name = self.new_name(x.name)
                layer = Merge(name, x.shape, "add", total.name, drive.source.name)
                total = self.builder.add(layer, total.worth)
            return total
        return self.builder.potentials(self.new_name(x.name), x)

    def readout(self, outputs: Sequence[Node]) -> float:
        """The last layer."""
        if len(outputs) != 1:
            raise invalid("output", f"{len(outputs)} outputs", "one tensor of logits")
        self.node, x = outputs[0], self.values[outputs[0]]
        ends = isinstance(x, Potential) and len(x.drives) == 1 and x.drives[0].weight is not None
        if not ends or x.pool or x.shape[1:] != (1, 1):
            raise self.refused("a linear layer, without a neuron, as the last layer: [B, classes]")
        if self.timesteps > 1 and self.divisor is None:
            raise self.refused(f"a mean or sum over T = {self.timesteps} at the end")
        return self.builder.readout(x) / (self.divisor or 1)


def operation_of(node: Node) -> str:
    return str(node.target).removeprefix("aten.").split(".")[0].rstrip("_")


def batch_of(timesteps: int) -> int:
    """A size of the batch that can't be taken for a number of timesteps."""
    return 3 if timesteps == 2 else 2


def firing_of(
    x: Any, v: Any, threshold: Tensor, levels: int, surrogate: str, alpha: float, v_init: float,
    beta: float, *_: Any,
) -> Firing:  # fmt: skip
    """Numbers of `multispike::spikes`."""
    if levels > 255:
        raise invalid("levels", levels, "at most 255: one byte a level")
    return Firing(threshold.double().numpy().reshape(-1) / levels, levels, v_init, beta)
