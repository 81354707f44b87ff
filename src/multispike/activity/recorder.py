"""The pass itself: a `TorchFunctionMode` sees every operation, module hooks say where it happens.

A neuron is a module without weights whose output is whole steps; what happens inside it is its own
business. Operations outside are counted by the rules of `operations`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import activation, batchnorm, conv, normalization, pooling, rnn, sparse
from torch.overrides import TorchFunctionMode

from multispike.activity.graph import Node, Source
from multispike.activity.operations import RULES
from multispike.activity.provenance import Errors, Signal, longer_plus
from multispike.activity.statistics import Grid
from multispike.activity.trace import Frame, Trace, is_function
from multispike.neurons import MIN_THRESHOLD, MultiLevelIF

_LAYERS = (
    conv._ConvNd,
    nn.Linear,
    nn.Bilinear,
    batchnorm._NormBase,
    normalization.LayerNorm,
    normalization.GroupNorm,
    normalization.LocalResponseNorm,
    nn.RMSNorm,
    pooling._MaxPoolNd,
    pooling._AvgPoolNd,
    pooling._AdaptiveAvgPoolNd,
    pooling._AdaptiveMaxPoolNd,
    pooling._LPPoolNd,
    rnn.RNNBase,
    rnn.RNNCellBase,
    sparse.Embedding,
    activation.MultiheadAttention,
)
"""A module that contains one of these is not a neuron."""


class Recorder(TorchFunctionMode):
    """Fills a `Trace` while a model runs under it, `with recorder: model(inputs)`."""

    def __init__(self, model: nn.Module, potentials: bool = False, errors: bool = False) -> None:
        super().__init__()
        self.trace = Trace(potentials)
        self._errors = errors
        self._root = model
        self._own = ExitStack()
        """Open while a neuron of ours runs and is counted: those operations are not the model's."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        operation = getattr(func, "__name__", "")
        rule, run = RULES.get(operation), partial(func, *args, **kwargs)
        if rule is not None:
            return rule(self.trace, run, *args, **kwargs)
        return self.trace.unknown(operation, run, *args, *kwargs.values())

    def __exit__(self, *error: Any) -> None:
        self._own.close()
        super().__exit__(*error)

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Hooks on every module, removed at the end whatever happens."""
        handles, stepped = [], []
        try:
            for name, module in self._root.named_modules():
                if isinstance(module, torch.jit.ScriptModule):
                    continue  # takes no hooks; what reads its output notes that
                frame = partial(Frame, module, name, _weightless(module))
                if isinstance(module, MultiLevelIF):
                    vars(module)["step"] = partial(self._step, frame, module, module.step)
                    stepped.append(module)
                handles += [
                    module.register_forward_pre_hook(partial(self._enter, frame), with_kwargs=True),
                    module.register_forward_hook(self._leave),
                ]
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module in stepped:
                del vars(module)["step"]

    def _step(
        self,
        frame: Callable[[], Frame],
        module: MultiLevelIF,
        step: Any,
        x_t: Tensor,
        v: Any = None,
    ) -> tuple[Tensor, Tensor]:
        """`MultiLevelIF.step`, seen as the module's call is."""
        self._enter(frame, module, (x_t,), {})
        spikes, v = step(x_t, v)
        self._own_neuron(self.trace.frames.pop(), module, spikes)
        return spikes, v

    def _enter(self, frame: Callable[[], Frame], module: nn.Module, args: Any, kwargs: Any) -> None:
        entered, inside = frame(), self.trace.atomic
        own = isinstance(module, MultiLevelIF)
        may_be_neuron = entered.weightless and module is not self._root and not inside
        if own or may_be_neuron:
            values = (*args, *kwargs.values())
            carried = [signal for value in values if (signal := self.trace.signal(value))]
            fed = [signal for signal in carried if not is_function(signal.node)]
            entered.source = next(iter([*fed, *carried]), None)
            entered.atomic = not own and len({signal.node for signal in fed}) <= 1
        entered.inside = inside or entered.atomic
        if own:
            self._own.enter_context(torch._C.DisableTorchFunction())
        self.trace.frames.append(entered)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        while self.trace.frames and self.trace.frames[-1].module is not module:
            self.trace.frames.pop()  # modules that an exception left
        if not self.trace.frames:
            return
        frame = self.trace.frames.pop()
        if isinstance(module, MultiLevelIF):
            self.trace.axes.check_sequence(frame.name, output)
            self._own_neuron(frame, module, output, args[0] if self._errors else None)
        elif module is not self._root and not self.trace.atomic:
            with torch._C.DisableTorchFunction():  # what is computed here is not the model's
                self._foreign(frame, output)

    def _own_neuron(
        self, frame: Frame, module: MultiLevelIF, output: Tensor, x: Tensor | None = None
    ) -> None:
        """The output [T, B, ...] of our neuron, or [B, ...] of one step: the grid is known.

        x: its input, where errors are wanted.
        """
        grid = own_grid(module)
        outer = next((outer for outer in self.trace.frames if outer.atomic), frame)
        neuron = self._neuron(outer.name, frame.source, output, 0, lambda name, inputs: Source(
            name, inputs, grid=grid, leak=module.spec.beta != 1
        ))  # fmt: skip
        if x is not None:
            neuron.errors = neuron.errors or Errors()
            neuron.errors.add(x, output, grid)
        self._own.close()

    def _foreign(self, frame: Frame, output: Any) -> None:
        """The output of a module, if no rule explains it: spikes, or an unknown function."""
        outputs = output if isinstance(output, (tuple, list)) else (output,)
        tensors = [x for x in outputs if isinstance(x, Tensor) and x.is_floating_point()]
        for index, x in enumerate(tensors):
            signal = self.trace.signal(x)
            if (signal is not None and not is_function(signal.node)) or not x.numel():
                break
            source = signal if frame.source is None or not frame.atomic else frame.source
            neuron = self._neuron(
                frame.name, source, x, index,
                lambda name, inputs: Source(name, inputs, leak=_leaks(frame.module)),
            )  # fmt: skip
            if neuron.carries == "spikes":
                return
            if signal is None:
                kind = type(frame.module).__name__
                self.trace.notes[f"{kind} at {frame.name}: what it computes was not seen"] = None
        self.trace.notes.update(dict.fromkeys(frame.notes))

    def _neuron(
        self,
        name: str,
        source: Signal | None,
        output: Tensor,
        index: int,
        make: Callable[[str, tuple[Node, ...]], Source],
    ) -> Source:
        """The neuron layer `name` sends `output`."""
        inputs = () if source is None else (source.node,)
        key = (name, "neuron", index, inputs)
        neuron = self.trace.place(key, name, lambda name: make(name, inputs), inputs)
        self.trace.learn(neuron, output)
        if neuron.carries == "analog":
            self.trace.tag(output, Signal(neuron))
            return neuron
        # The layer knows the shape of one row; [T, B, F] and [B, C, L] look alike.
        layer = neuron.integrates
        like = layer or (inputs[0] if inputs else neuron)
        neuron.shape = self.trace.axes.row_like(output, like.shape)
        signal = self.trace.sent(neuron, output, output, neuron.shape)
        steps = self.trace.axes.timesteps(output, neuron.shape)
        if steps > 1:
            output = self.trace.axes.time_first(output, steps)
            decoded = signal.decoded(output, neuron.shape, steps)
            if decoded is not None:
                neuron.decoded = longer_plus(neuron.decoded, decoded)
        return neuron


def _weightless(module: nn.Module) -> bool:
    """Whether a module may be a neuron: no layers inside, no parameters but one per channel."""
    vectors = all(sum(size > 1 for size in p.shape) <= 1 for p in module.parameters())
    return vectors and not any(isinstance(part, _LAYERS) for part in module.modules())


def own_grid(module: MultiLevelIF) -> Grid:
    """The values that our neuron can send."""
    threshold = module.threshold
    if not isinstance(threshold, Tensor):
        return Grid(threshold / module.levels, module.levels)
    threshold = threshold.detach().clamp_min(MIN_THRESHOLD).double().cpu()
    if threshold.dim() == 0:
        return Grid(threshold.item() / module.levels, module.levels)
    return Grid(1 / module.levels, module.levels, threshold)


_LEAKS = ("beta", "_beta", "decay", "mem_decay", "leak")
"""Names of the share of a potential that is left after a step."""


def _leaks(module: nn.Module) -> bool:
    """By the usual names: a share below 1 (snnTorch), `tau` or its logit `w` (SpikingJelly)."""
    for part in module.modules():
        for share in (getattr(part, name, None) for name in _LEAKS):
            if isinstance(share, (float, Tensor)) and bool((torch.as_tensor(share) < 1).any()):
                return True
        if hasattr(part, "tau") or isinstance(getattr(part, "w", None), Tensor):
            return True
    return False
