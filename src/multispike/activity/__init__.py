"""Recorded activity: one evaluation pass, and what every layer read and sent during it.

`record_activity` works on any `nn.Module`: our networks, plain PyTorch, and models with neurons of
other libraries, which are recognised by their output: {0..N} times one step. What it assumes:

- Batch normalisation behind a convolution or linear layer, also with a pooling between, is folded
  into it (a max-pooling commutes with a positive scale; a negative one turns it into a minimum).
- Constant factors, copies, reshapes and means of potentials over time cost nothing.
- ReLUs are free, other activation functions are named in `not_counted`.
- A product of spikes (AND, IAND) touches the same memory as their sum and is recorded as one.
- Of the two inputs of a sum, the one with more layers behind it is the direct path.
- Time comes first in stacked timesteps, [T, B, ...] or [T*B, ...], and in event frames; frames
  [B, T, C, H, W] are recognised, features [B, T, F] are not: they look like tokens.
- Neurons of other libraries leak if they have a `tau`, or a `beta`, `decay` or `leak` below 1.
- A layer that reads the same image at every timestep, also a shifted and scaled one, computes the
  same: it is counted once.
- A layer that runs k times in a forward runs at k timesteps: twins of the network, which have one,
  count it once.
- A linear layer over rows of a sample (tokens, pixels) is recorded as a 1x1 convolution over them.
- Weights are not zero: pruned ones count as others do.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn

from multispike.activity.layout import uncommon
from multispike.activity.recorder import Recorder
from multispike.activity.summary import summarise
from multispike.errors import InputError, invalid, is_count
from multispike.results import Activity


def record_activity(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    max_batches: int | None = None,
    confusion: bool = False,
    potentials: bool = False,
    errors: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Activity:
    """Run `model` once over `loader` and record what every layer read and sent.

    Args:
        model: maps inputs to logits [B, classes] (or [T, B, classes], added up over time). It is
            put into evaluation mode and back; hooks are there during the pass only. Modules that
            keep state are reset before every batch by their own `reset()` or `reset_mem()`.
        loader: batches (inputs, targets), inputs [B, C, H, W] or event frames [T, B, C, H, W].
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
    if max_batches is not None and not is_count(max_batches):
        raise invalid("max_batches", max_batches, "an integer >= 1, or None")
    if not isinstance(model, nn.Module):
        raise invalid("model", type(model).__name__, "a torch.nn.Module")
    if not isinstance(loader, Iterable):
        raise invalid("loader", type(loader).__name__, "an iterable of (inputs, targets)")
    model = getattr(model, "_orig_mod", model)  # a compiled module calls no hooks
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    recorder, ahead = Recorder(model, potentials, errors), _copy(model)
    trace = recorder.trace
    samples, score, stateful = 0, Score(confusion), _stateful(model)
    before = _attributes(model, stateful)
    with torch.no_grad(), _evaluating(model), _uncompiled(model), recorder.hooks():
        for index, batch in enumerate(loader):
            if index == max_batches:
                break
            inputs, targets = _unpacked(batch)
            inputs = inputs.to(device)
            if not index:
                trace.go_by(_layout(ahead, inputs, len(targets)))
                ahead = None
            _reset(stateful)
            logits = _forward(model, recorder, inputs, len(targets), index)
            score.add(_summed(logits), targets.to(device))
            samples += len(targets)
            if not index:
                _note_kept(before, _attributes(model, stateful), trace.notes)
            if progress is not None:
                progress(index + 1, samples)
        _reset(stateful)
    if not samples:
        raise invalid("loader", "no batches", "at least one batch (inputs, targets)")
    activity = summarise(
        trace.nodes.values(), trace.notes, samples, score.accuracy, score.loss, score.confusion
    )
    if not activity.records:
        raise invalid("model", type(model).__name__, "a module with layers that PyTorch runs")
    return activity


def _copy(model: nn.Module) -> nn.Module | None:
    """A copy that may run unnoticed, without hooks; None where there can't be one."""
    with suppress(Exception):
        model = copy.deepcopy(model)
        for module in model.modules():
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
        return model


def _layout(model: nn.Module | None, inputs: Tensor, samples: int) -> dict[Hashable, list[Any]]:
    """What a few samples of an uncommon number tell about axes; nothing, if they don't run."""
    if model is None:
        return {}
    recorder = Recorder(model)
    sizes = {size for parameter in model.parameters() for size in parameter.shape}
    with suppress(Exception), torch.random.fork_rng([]), recorder.hooks():
        inputs, samples = uncommon(inputs, samples, sizes)
        _reset(_stateful(model))
        inputs = recorder.trace.start(inputs, samples)
        with recorder:
            model(inputs)
    return recorder.trace.layout.told


def _forward(model: nn.Module, recorder: Recorder, inputs: Tensor, samples: int, index: int) -> Any:
    """Logits of one batch, under the eyes of `recorder`."""
    inputs = recorder.trace.start(inputs, samples)
    try:
        with recorder:
            logits = model(inputs)
    except Exception as error:
        first = str(error).strip().split("\n")[0]
        raise InputError(
            f"model: forward failed on batch {index}, inputs {list(inputs.shape)}:"
            f" {type(error).__name__}: {first}"
        ) from error
    if (total := _summed(logits)) is not None:
        recorder.trace.check("outputs", total)
    broken = recorder.trace.broken()
    if broken is not None:
        raise invalid(broken, f"NaN or infinite values in batch {index}", "finite numbers")
    return logits


class Score:
    """Right predictions, cross-entropy, and on request the confusion matrix."""

    def __init__(self, confusion: bool) -> None:
        self._wanted = confusion
        self._right = self._seen = 0
        self._loss = 0.0
        self.confusion: Tensor | None = None

    def add(self, logits: Tensor | None, targets: Tensor) -> None:
        """Logits [B, classes] and class indices [B]; anything else has no accuracy."""
        classes = targets.dim() == 1 and not targets.is_floating_point()
        if logits is None or not classes or logits.shape[:-1] != targets.shape:
            return
        predictions, size = logits.argmax(1), logits.shape[1]
        self._seen += len(targets)
        self._right += int((predictions == targets).sum())
        self._loss += nn.functional.cross_entropy(logits, targets, reduction="sum").item()
        if self._wanted:
            pairs = torch.bincount(targets * size + predictions, minlength=size * size)
            table = pairs.view(size, size).cpu()
            self.confusion = table if self.confusion is None else self.confusion + table

    @property
    def accuracy(self) -> float | None:
        """Share of right predictions."""
        return self._right / self._seen if self._seen else None

    @property
    def loss(self) -> float | None:
        """Mean cross-entropy."""
        return self._loss / self._seen if self._seen else None


def _unpacked(batch: Any) -> tuple[Tensor, Tensor]:
    pair = isinstance(batch, (tuple, list)) and len(batch) == 2
    if not pair or not all(isinstance(part, Tensor) for part in batch):
        raise invalid("loader", type(batch).__name__, "batches (inputs, targets) of tensors")
    if not batch[1].dim() or not len(batch[1]):
        raise invalid("loader", "a batch of no targets", "at least one sample a batch")
    return batch[0], batch[1]


def _summed(output: Any) -> Tensor | None:
    """[B, classes] of an output, of its first part, or summed over time."""
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        return None
    return output.sum(0) if output.dim() == 3 else output


def _stateful(model: nn.Module) -> list[tuple[str, nn.Module, str]]:
    """Modules whose neurons keep state, with their name and what resets them.

    That is `reset` in SpikingJelly and `reset_mem` in snnTorch. Metrics, which have a reset() too,
    are left out.
    """
    return [
        (name or "the network itself", module, method)
        for name, module in model.named_modules()
        for method in ("reset", "reset_mem")
        if not hasattr(module, "compute") and callable(getattr(module, method, None))
    ]


def _reset(stateful: list[tuple[str, nn.Module, str]]) -> None:
    """Reset what `_stateful` found; a reset() that draws new weights loses them."""
    for name, module, method in stateful:
        weights = [(parameter, parameter.clone()) for parameter in module.parameters()]
        try:
            getattr(module, method)()
        except Exception as error:
            raise InputError(
                f"model: {name}.{method}() failed: {type(error).__name__}: {error}"
            ) from error
        for parameter, before in weights:
            parameter.copy_(before)


_Attributes = dict[str, tuple[Tensor, int]]


def _attributes(model: nn.Module, stateful: list[tuple[str, nn.Module, str]]) -> _Attributes:
    """Tensors that are no parameters, of modules without a reset; how often they were written."""
    reset = {part for _, module, _ in stateful for part in module.modules()}
    return {
        f"{name}.{key}" if name else key: (value, value._version)
        for name, module in model.named_modules()
        if module not in reset
        for key, value in (vars(module) | dict(module.named_buffers(recurse=False))).items()
        if isinstance(value, Tensor) and value.dim()
    }


def _note_kept(before: _Attributes, after: _Attributes, notes: dict[str, None]) -> None:
    """Name what modules have kept of a batch."""
    for name, (value, version) in after.items():
        old, old_version = before.get(name, (None, 0))
        if (value is not old or version != old_version) and bool((value != 0).any()):
            line = f"{name} is kept from batch to batch: a potential needs reset() or reset_mem()"
            notes[line] = None


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module is in the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _uncompiled(model: nn.Module) -> Any:
    """Run compiled modules eagerly: a graph shows neither operations nor hooks."""
    compiled = any(getattr(m, "_compiled_call_impl", None) is not None for m in model.modules())
    if compiled or "torch._dynamo" in sys.modules:
        return torch.compiler.set_stance("force_eager")
    return nullcontext()
