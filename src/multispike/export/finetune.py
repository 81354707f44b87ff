"""Quantisation-aware fine-tuning: a short training that sees the rounded weights.

Where rounding costs accuracy, the loss is taken with the weights that `quantise` would write, and
its gradient moves the unrounded ones (straight-through, Bengio et al. 2013, arXiv 1308.3432). Batch
norm keeps its statistics, since it has been folded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from multispike.errors import RunError
from multispike.export.layers import Shape
from multispike.export.quantise import rounded_weights
from multispike.models.network import Network


def finetune(
    model: Network,
    batches: Iterable[tuple[Tensor, Tensor]],
    mean: Sequence[float],
    std: Sequence[float],
    input_shape: Shape,
    lr: float = 1e-3,
) -> list[float]:
    """Train `model` in place for one pass over `batches`.

    Args:
        model: trained; left in evaluation mode.
        batches: (inputs, labels), inputs normalised, as in training.
        mean, std, input_shape: as for `quantise`.
        lr: of SGD with momentum 0.9; a tenth of the training's, or less.

    Returns:
        The loss of every batch.

    Raises:
        InputError: as `quantise`.
        RunError: where the loss is no longer finite.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr, momentum=0.9)
    model.eval()
    losses = []
    for step, (inputs, labels) in enumerate(batches):
        optimizer.zero_grad()
        with _rounded(model, mean, std, input_shape):
            loss = torch.nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
        losses.append(loss.item())
        if not torch.isfinite(loss):
            raise RunError(
                f"finetune: got a loss of {losses[-1]} in step {step}, allowed: a finite one"
                " (export without --finetune, or from another --checkpoint)"
            )
        optimizer.step()
    return losses


@contextmanager
def _rounded(
    model: Network, mean: Sequence[float], std: Sequence[float], input_shape: Shape
) -> Iterator[None]:
    """The model with its weights rounded."""
    modules = dict(model.named_modules())
    exact: dict[str, Tensor] = {}
    try:
        for name, values in rounded_weights(model, mean, std, input_shape).items():
            weight = modules[name].weight
            assert isinstance(weight, Tensor)
            exact[name] = weight.data
            weight.data = torch.from_numpy(values).to(weight).view_as(weight)
        yield
    finally:
        for name, values in exact.items():
            modules[name].weight.data = values  # pyright: ignore[reportArgumentType]
