"""The modules that run, and which of them are neurons.

A neuron is a module without weights whose output is whole steps; what happens inside it is not
counted. The `forward` of every module tells the tracer where it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import batchnorm, conv, pooling, rnn
from torch.utils._pytree import tree_leaves

from multispike.activity.counting import Errors, Grid, count_decoded, sum_of_histograms
from multispike.activity.elementwise_rules import Activation
from multispike.activity.provenance import Frame, Node, Signal, Source, is_function, is_sum
from multispike.activity.tracing import Tracer
from multispike.layer_record import Neuron
from multispike.neurons import MIN_THRESHOLD, MultiLevelIF

LAYERS = (
    *(conv._ConvNd, nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, nn.MultiheadAttention),
    *(batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.RMSNorm),
    *(pooling._MaxPoolNd, pooling._AvgPoolNd, pooling._LPPoolNd, pooling._AdaptiveAvgPoolNd),
    *(pooling._AdaptiveMaxPoolNd, rnn.RNNBase, rnn.RNNCellBase),
)
"""A module that contains one of these is not a neuron."""


def are_weightless(module: nn.Module, found: dict[nn.Module, bool]) -> dict[nn.Module, bool]:
    """Whether a module and its parts may be neurons, added to what was `found` of others: no layers
    inside, no parameters but one per channel."""
    if module not in found:
        found[module] = True  # also where a part holds the whole
        parts = [are_weightless(x, found)[x] for x in module._modules.values() if x is not None]
        own = () if isinstance(module, LAYERS) else module._parameters.values()
        vectors = all(p is None or p.numel() == max(p.shape, default=1) for p in own)
        found[module] = vectors and all(parts) and not isinstance(module, LAYERS)
    return found


@contextmanager
def wrapped(
    modules: dict[str, nn.Module],
    weightless: dict[nn.Module, bool],
    tracer: Tracer,
    errors: bool,
) -> Iterator[None]:
    """Tell the tracer which of the modules of a network runs, the network itself first."""
    seen, own = Modules(modules.get(""), tracer, errors), []
    others: dict[str, Callable[..., Any]] = {"forward": seen.call}
    neurons: dict[str, Callable[..., Any]] = {"forward": seen.neuron, "step": seen.step}
    try:
        for name, module in modules.items():
            if type(module) is nn.Identity:
                continue
            leaf = not any(part is not None for part in module._modules.values())
            frame = partial(Frame, module, name, weightless[module], leaf)
            calls = neurons if isinstance(module, MultiLevelIF) else others
            for method, call in calls.items():
                own.append((vars(module), method, vars(module).get(method)))
                vars(module)[method] = partial(call, frame, getattr(module, method))
        yield
    finally:
        for held, method, before in own:
            del held[method]
            if before is not None:
                held[method] = before


class Modules:
    """What runs instead of modules' own methods; `frame` makes the `Frame` of one that begins."""

    def __init__(self, model: nn.Module | None, tracer: Tracer, errors: bool) -> None:
        self._root = model
        self._tracer = tracer
        self._errors = errors
        self._activations: dict[tuple[str, int], Node] = {}
        """Outputs of modules that were activation functions so far."""
        self._neurons: dict[tuple[str, int], Source] = {}

    def call(self, frame: Callable[[], Frame], forward: Any, *args: Any, **kwargs: Any) -> Any:
        """The forward of a module that is no neuron of ours."""
        frames, entered = self._tracer.frames, frame()
        inside = bool(frames) and frames[-1].inside
        if entered.weightless and not inside and entered.module is not self._root:
            fed = self._fed(entered, (*args, *kwargs.values()))
            entered.atomic = len({signal.node for signal in fed}) <= 1
        entered.inside, depth = inside or entered.atomic, len(frames)
        frames.append(entered)
        output = forward(*args, **kwargs)
        del frames[depth:]  # with modules that an exception left
        if inside or entered.module is self._root:
            return output
        node = signal.node if (signal := self._tracer.signal(output)) else None
        if node is None or node.spiking or is_function(node) or isinstance(node.effect, Activation):
            with torch._C.DisableTorchFunction():
                self._foreign(entered, output)
        elif entered.notes:
            self._tracer.notes.update(dict.fromkeys(entered.notes))
        return output

    def neuron(self, frame: Any, forward: Any, x: Tensor) -> Tensor:
        """The forward of a `MultiLevelIF`; its operations are not traced."""
        entered = frame()
        self._fed(entered, (x,))
        with torch._C.DisableTorchFunction():
            spikes = forward(x)
            self._own_neuron(entered, spikes, x if self._errors else None)
        return spikes

    def step(self, frame: Any, step: Any, x_t: Tensor, v: Any = None) -> Any:
        """`MultiLevelIF.step`, seen as the module's forward is."""
        entered = frame()
        self._fed(entered, (x_t,))
        with torch._C.DisableTorchFunction():
            spikes, v = step(x_t, v)
            self._own_neuron(entered, spikes)
        return spikes, v

    def _fed(self, frame: Frame, values: Iterable[Any]) -> list[Signal]:
        """Tell a frame what its module reads; returns the signals that rules know."""
        carried = [signal for value in values if (signal := self._tracer.signal(value))]
        fed = [signal for signal in carried if not is_function(signal.node)]
        frame.source = next(iter(fed or carried), None)
        return fed

    def _own_neuron(self, frame: Frame, output: Tensor, x: Tensor | None = None) -> None:
        """The output [T*B, ...] of our neuron, or [B, ...] of one step: the grid is known.

        x: its input, where errors are wanted.
        """
        module: Any = frame.module
        threshold = module.threshold
        if isinstance(threshold, Tensor):
            threshold = threshold.detach().clamp_min(MIN_THRESHOLD).cpu().double()
        if isinstance(threshold, Tensor) and threshold.dim():
            grid = Grid(1 / module.levels, module.levels, threshold)
        else:
            grid = Grid(float(threshold) / module.levels, module.levels)
        outer = next((outer for outer in self._tracer.frames if outer.atomic), frame)
        make = partial(Source, grid=grid, leak=module.config.beta != 1)
        neuron = self._neuron(outer.name, frame.source, output, 0, make)
        if x is not None:
            neuron.errors = neuron.errors or Errors()
            steps = module.timesteps, -1
            neuron.errors.add(x.unflatten(0, steps), output.unflatten(0, steps), grid)

    def _foreign(self, frame: Frame, output: Any) -> None:
        """The output of a module, if no rule explains it: spikes, or an unknown function."""
        outputs = output if isinstance(output, (tuple, list)) else (output,)
        tensors = [x for x in outputs if isinstance(x, Tensor) and x.is_floating_point()]
        for index, x in enumerate(tensors):
            signal = self._tracer.signal(x)
            if (signal is not None and not is_function(signal.node)) or not x.numel():
                if signal is not None and isinstance(signal.node.effect, Activation):
                    self._activations[frame.name, index] = signal.node
                if signal is not None and signal.node.spiking:
                    self._name_state(frame, outputs, x)
                break
            source = signal if frame.source is None or not frame.atomic else frame.source
            before = self._activations.get((frame.name, index))
            if before is not None and source is not None and before.inputs == (source.node,):
                self._tracer.send(before, x, x, before.shape)  # a ReLU in the first step
                return
            if not (frame.weightless or frame.leaf or x.sum() or x.any()):
                continue  # a block of layers that is silent: no sign of a neuron
            neuron = self._neuron(frame.name, source, x, index, Source)
            if neuron.spiking:
                self._look_into(neuron, frame, outputs, x)
                return
            if signal is None:
                kind = type(frame.module).__name__
                self._tracer.notes[f"{kind} at {frame.name}: what it computes was not seen"] = None
        self._tracer.notes.update(dict.fromkeys(frame.notes))

    def _look_into(self, neuron: Source, frame: Frame, outputs: Any, spikes: Tensor) -> None:
        """See what a foreign neuron keeps for each of its outputs, and has of its own."""
        module, was = frame.module, neuron.keeps
        vectors: list[Tensor] = []
        if frame.weightless:
            own = [x for part in module.modules() for x in own_tensors(part).values()]
            vectors = [x for x in (*own, *module.parameters()) if not _is_state(x, spikes)]
        sizes = [x.numel() for x in vectors if x.numel() == max(x.shape, default=0) > 1]
        states = max(was.states, _states(frame, outputs, spikes))
        feedback = frame.weightless and getattr(module, "recurrent", None) is not None
        neuron.keeps = Neuron(1, was.leak or _leaks(module), states, tuple(sizes), feedback)
        named = frame.further or {name for name in _FURTHER if hasattr(module, name)}
        if named and frame.weightless:
            size = f"{math.prod(neuron.shape):,} neurons at each timestep"
            line = f"quadratic or exponential terms ({', '.join(sorted(named))}) are not counted"
            self._tracer.notes[f"neuron at {frame.name}: its {line}: {size}"] = None

    def _name_state(self, frame: Frame, outputs: Any, spikes: Tensor) -> None:
        """Note what a neuron keeps that has a recurrent layer inside, which was counted."""
        names = (*frame.module._modules, *frame.module._parameters)
        recurrent = any(name.startswith("recurrent") for name in names)
        if recurrent and (states := _states(frame, outputs, spikes)):
            size = f"{spikes.numel() // self._tracer.layout.batch:,} multiplications, reads, writes"
            line = (
                f"its leak and {states} state variables are not counted: {size} each at a timestep"
            )
            self._tracer.notes[f"neuron at {frame.name}: {line}"] = None

    def _neuron(
        self, name: str, source: Signal | None, output: Tensor, index: int, make: Any
    ) -> Source:
        layout = self._tracer.layout
        inputs: tuple[Node, ...] = () if source is None else (source.node,)
        neuron = self._round_before(name, index, inputs)
        if neuron is None:
            make = partial(make, inputs=inputs)
            neuron = self._tracer.place(name, inputs, ("neuron", index), make)
            self._neurons[name, index] = neuron
        if neuron.carries == "analog" or self._tracer.learn(Signal(neuron), output) == "analog":
            self._tracer.tag(output, Signal(neuron))
            return neuron
        # The layer knows the shape of one row; [T, B, F] and [B, C, L] look alike.
        like = neuron.integrates or (inputs[0] if inputs else neuron)
        neuron.shape = layout.row_like(output, like.shape, name)
        signal = self._tracer.send(neuron, output, output, neuron.shape)
        steps = layout.steps_of(output, neuron.shape)
        if steps > 1:
            decoded, over_time = signal.decoded(steps), layout.over_time(output, steps)
            if decoded is None and over_time is not None and neuron.grid is not None:
                decoded = count_decoded(over_time, neuron.shape, neuron.grid)
            neuron.out.decoded = sum_of_histograms(neuron.out.decoded, decoded)
        return neuron

    def _round_before(self, name: str, index: int, inputs: tuple[Node, ...]) -> Source | None:
        """A neuron in a loop of its own: its input has a summand of its input before."""
        neuron = self._neurons.get((name, index))
        if neuron is None or not inputs or not neuron.inputs or neuron.inputs == inputs:
            return neuron if neuron is not None and neuron.inputs == inputs else None
        now, before = (
            {node, *(node.inputs if is_sum(node) else ())} for node in (inputs[0], neuron.inputs[0])
        )
        return neuron if now & before and neuron in inputs[0].ancestors() else None


def _is_state(x: Tensor, spikes: Tensor) -> bool:
    """Whether x may be a state variable of the neurons that sent `spikes`, whole or of one step."""
    like, shape = tuple(x.shape), tuple(spikes.shape)
    one = len(shape) > 2 and like in (shape[1:], shape[:1] + shape[2:])
    return one or (len(like) == len(shape) > 1 and like[1:] == shape[1:])


def _states(frame: Frame, outputs: Any, spikes: Tensor) -> int:
    """Variables, neither binary nor the spikes, that a module keeps or returns for each spike."""
    parts = frame.module.modules() if frame.weightless else (frame.module,)
    counts = []
    for found in ([x for m in parts for x in own_tensors(m).values()], tree_leaves(outputs)):
        each = {id(x): x for x in found if isinstance(x, Tensor) and x is not spikes}
        alike = [x for x in each.values() if _is_state(x, spikes)]
        counts.append(sum(not bool(((x == 0) | (x == 1)).all()) for x in alike))
    return max(counts)


_LEAKS = ("beta", "_beta", "decay", "mem_decay", "leak")
"""Names of the share of a potential that is left after a step."""


_FURTHER = ("a0", "v_c", "delta_T", "theta_rh")
"""Parameters of quadratic and exponential neurons whose step is one operation (SpikingJelly)."""


def _leaks(module: nn.Module) -> bool:
    """By the usual names: a share below 1 (snnTorch), `tau` or its logit `w` (SpikingJelly), a
    finite `tau_mem` or its inverse (sinabs, norse)."""
    for part in module.modules():
        for share in (getattr(part, name, None) for name in _LEAKS):
            if isinstance(share, (float, Tensor)) and bool((torch.as_tensor(share) < 1).any()):
                return True
        for holder in (part, getattr(part, "p", None)):
            for tau in (getattr(holder, name, None) for name in ("tau", "tau_mem", "tau_mem_inv")):
                if tau is not None and bool(torch.as_tensor(tau).isfinite().any()):
                    return True
        if isinstance(getattr(part, "w", None), Tensor):
            return True
    return False


def holders(module: nn.Module) -> list[dict[str, Any]]:
    """Where a module keeps what is no weight; SpikingJelly has a dict of it, torch only buffers."""
    if type(module).__module__.startswith("torch.nn."):
        return [module._buffers] if module._buffers else []
    own = vars(module)
    return [own, module._buffers, *([own["_memories"]] if "_memories" in own else [])]


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """What a module keeps that is no weight."""
    pairs = (pair for held in holders(module) for pair in held.items())
    return {name: x for name, x in pairs if isinstance(x, Tensor) and x.dim()}
