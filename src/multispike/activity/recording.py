"""One evaluation pass over a model, the state that it resets, and its score."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from multispike.activity.modules import LAYERS, are_weightless, holders, own_tensors, wrapped
from multispike.activity.summary import Summary
from multispike.activity.tracing import Tracer
from multispike.device import device_of
from multispike.errors import InputError, invalid, is_count
from multispike.neurons import MultiLevelIF
from multispike.results import Activity


def record_activity(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    timesteps: int | None = None,
    max_batches: int | None = None,
    confusion: bool = False,
    potentials: bool = False,
    errors: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Activity:
    """Run `model` once over `loader` and record what every layer read and sent.

    Args:
        model: maps inputs to logits [B, classes] (or [T, B, classes], added up over time). It is
            put into evaluation mode and back; its modules are wrapped during the pass. Neurons that
            keep state are reset before every batch by their own `reset()`, `reset_mem()` or
            `reset_states()`; buffers are afterwards what they were.
        loader: batches (inputs, targets), inputs [B, C, H, W] or event frames [T, B, C, H, W].
        timesteps: T of the model, which tells axes apart where sizes don't: a batch of one, or of
            as many samples as timesteps. Without it that of the model's attribute `timesteps`, of
            our neurons, or else, noted in `not_counted`, what sizes look like.
        max_batches: stop after so many.
        confusion: also count predictions by target.
        potentials: also measure what meets at residual sums where it is no spikes.
        errors: also measure what our neurons send, decoded, against the ReLU it stands for.
        progress: called with (batches, samples) after each batch.

    Raises:
        InputError: an empty loader, a batch that is not (inputs, targets), a forward that fails
            (which batch, why), NaN or infinite values (which layer), a model without layers.

    >>> layer = nn.Linear(4, 2, bias=False)
    >>> activity = record_activity(layer, [(torch.eye(4), torch.zeros(4, dtype=torch.long))])
    >>> activity.records[0].input.events, activity.records[0].input.taps
    (1.0, 1.0)
    """
    for name, count in (("timesteps", timesteps), ("max_batches", max_batches)):
        if count is not None and not is_count(count):
            raise invalid(name, count, "an integer >= 1, or None")
    if not isinstance(model, nn.Module):
        raise invalid("model", type(model).__name__, "a torch.nn.Module")
    if not isinstance(loader, Iterable):
        raise invalid("loader", type(loader).__name__, "an iterable of (inputs, targets)")
    model = getattr(model, "_orig_mod", model)  # a compiled module shows nothing
    modules = dict(model.named_modules())
    weights = [p for m in modules.values() for p in m._parameters.values() if p is not None]
    if any(map(nn.parameter.is_lazy, weights)):
        raise invalid("model", "lazy layers without weights", "a model that was called before")
    if timesteps is None:  # neurons of one timestep may be stepped through more
        neurons = [m.timesteps for m in modules.values() if isinstance(m, MultiLevelIF)]
        told = [getattr(model, "timesteps", None), *(count for count in neurons if count > 1)]
        timesteps = next((count for count in told if is_count(count)), None)
    # A scripted module can't be wrapped; what reads its output notes that.
    modules = {n: m for n, m in modules.items() if not isinstance(m, torch.jit.ScriptModule)}
    weightless, device = are_weightless(model, {}), device_of(model)
    tracer = Tracer(timesteps, potentials)
    samples, score, state = 0, Score(confusion), State(modules, weightless)
    traced = wrapped(modules, weightless, tracer, errors)
    with torch.no_grad(), _uncompiled(modules.values()), state.restored(), traced:
        for weight in weights:  # all in a row, which takes a third of the time
            if weight.dim() > 1:
                tracer.density(weight)
        for index, batch in enumerate(loader):
            if index == max_batches:
                break
            inputs, targets = _unpacked(batch)
            state.reset()
            logits = _forward(model, tracer, inputs.to(device), len(targets), index)
            score.add(logits, targets.to(device))
            samples += len(targets)
            if not index:
                tracer.notes.update(dict.fromkeys(state.kept()))
            if progress is not None:
                progress(index + 1, samples)
        state.reset()
    if not samples:
        raise invalid("loader", "no batches", "at least one batch (inputs, targets)")
    activity = Activity(**Summary(tracer, samples).parts(), **score.parts())
    if not activity.records:
        raise invalid("model", type(model).__name__, "a module with layers that PyTorch runs")
    return activity


def _forward(
    model: nn.Module, tracer: Tracer, inputs: Tensor, samples: int, index: int
) -> Tensor | None:
    """Logits [B, classes] of one batch, traced."""
    inputs = tracer.start(inputs, samples)
    try:
        with tracer:
            output = model(inputs)
    except Exception as error:
        first = str(error).strip().split("\n")[0]
        raise InputError(
            f"model: forward failed on batch {index}, inputs {list(inputs.shape)}:"
            f" {type(error).__name__}: {first}"
        ) from error
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    logits = None
    if isinstance(output, Tensor):
        logits = output.sum(0) if output.dim() == 3 else output
        tracer.check("outputs", logits)
    if name := tracer.not_finite():
        raise invalid(name, f"NaN or infinite values in batch {index}", "finite numbers")
    return logits


class Score:
    """Right predictions, cross-entropy, and on request the confusion matrix."""

    def __init__(self, confusion: bool) -> None:
        self._right = self._seen = 0
        self._loss = 0.0
        self._confusion = torch.zeros((), dtype=torch.int64) if confusion else None

    def add(self, logits: Tensor | None, targets: Tensor) -> None:
        """Logits [B, classes] and class indices [B]; anything else has no accuracy."""
        classes = targets.dim() == 1 and not targets.is_floating_point()
        if logits is None or not classes or logits.shape[:-1] != targets.shape:
            return
        predictions, size = logits.argmax(1), logits.shape[1]
        self._seen += len(targets)
        self._right += int((predictions == targets).sum())
        self._loss += nn.functional.cross_entropy(logits, targets, reduction="sum").item()
        if self._confusion is not None:
            pairs = torch.bincount(targets * size + predictions, minlength=size * size)
            self._confusion = self._confusion + pairs.view(size, size).cpu()

    def parts(self) -> dict[str, Any]:
        if not self._seen:
            return {"accuracy": None}
        found: dict[str, Any] = {"accuracy": self._right / self._seen}
        found["loss"] = self._loss / self._seen
        if self._confusion is not None:
            found["confusion"] = tuple(map(tuple, self._confusion.tolist()))
        return found


def _unpacked(batch: Any) -> tuple[Tensor, Tensor]:
    pair = isinstance(batch, (tuple, list)) and len(batch) == 2
    if not pair or not all(isinstance(part, Tensor) for part in batch):
        raise invalid("loader", type(batch).__name__, "batches (inputs, targets) of tensors")
    if not batch[1].dim() or not len(batch[1]):
        raise invalid("loader", "a batch of no targets", "at least one sample a batch")
    return batch[0], batch[1]


class State:
    """What modules keep from call to call beside weights: tensors, which neurons are known by."""

    def __init__(self, modules: dict[str, nn.Module], weightless: dict[nn.Module, bool]) -> None:
        self._modules = modules
        self._held = [
            (name, held, dict(held)) for name, m in modules.items() for held in holders(m)
        ]
        self._copies = {
            id(x): (x, x._version, x.clone())
            for _, _, before in self._held
            for x in before.values()
            if isinstance(x, Tensor)
        }
        self._resets = [
            (name or "the network itself", module, method)
            for name, module in modules.items()
            for method in ("reset", "reset_mem", "reset_states")
            if hasattr(type(module), method) and _takes_nothing(getattr(module, method))
            if not isinstance(module, LAYERS) and not hasattr(module, "compute")
            if weightless[module] or own_tensors(module)
        ]
        """Modules that may keep a potential, with their name and the method that resets it: no
        layers or metrics, whose `reset` is something else, and no methods that need arguments."""

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Evaluation mode; at the end modes, buffers and other tensors are what they were."""
        training = [module for module in self._modules.values() if module.training]
        if training:
            self._modules[""].eval()
        try:
            yield
        finally:
            for _, held, before in self._held:
                for name, old in before.items():
                    new = held.get(name)
                    if new is not old and (isinstance(new, Tensor) or isinstance(old, Tensor)):
                        held[name] = old
            for x, version, copy in self._copies.values():
                if x._version != version:
                    x.copy_(copy)
            for module in training:
                module.training = True

    def reset(self) -> None:
        """Call the reset that neurons of SpikingJelly, snnTorch and sinabs have."""
        for name, module, method in self._resets:
            try:
                getattr(module, method)()
            except Exception as error:
                raise InputError(
                    f"model: {name}.{method}() failed: {type(error).__name__}: {error}"
                ) from error

    def kept(self) -> Iterator[str]:
        """Lines that name what modules without a reset keep of a batch."""
        reset = {
            id(held) for _, m, _ in self._resets for part in m.modules() for held in holders(part)
        }
        for name, held, before in self._held:
            for key, x in held.items() if id(held) not in reset else ():
                _, version, _ = self._copies.get(id(x), (x, None, x))
                if x is before.get(key) and (version is None or x._version == version):
                    continue
                if isinstance(x, Tensor) and x.dim() and bool((x != 0).any()):
                    why = "a potential needs reset() or reset_mem()"
                    place = f"{name}.{key}" if name else key
                    yield f"{place} is kept from batch to batch: {why}"


def _takes_nothing(method: Any) -> bool:
    try:
        inspect.signature(method).bind()
    except (TypeError, ValueError):
        return False
    return True


def _uncompiled(modules: Iterable[nn.Module]) -> Any:
    """Run compiled modules eagerly: a graph shows neither operations nor modules."""
    compiled = any(m._compiled_call_impl is not None for m in modules)
    if compiled or "torch._dynamo" in sys.modules:
        return torch.compiler.set_stance("force_eager")
    return nullcontext()
