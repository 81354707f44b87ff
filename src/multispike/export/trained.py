"""A trained run and its integer network: made, compared with the float one, fine-tuned.

Where rounding costs accuracy, a short training takes its loss with the weights that `quantise`
would write, and its gradient moves the unrounded ones (straight-through, Bengio et al. 2013, arXiv
1308.3432). Batch norm keeps its statistics, since it has been folded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from multispike.datasets import source_of
from multispike.datasets.dataset import Dataset
from multispike.datasets.loader import BatchLoader
from multispike.errors import RunError
from multispike.export.layers import Shape
from multispike.export.network import IntegerNetwork
from multispike.export.quantise import quantise, rounded_weights
from multispike.models.network import Network
from multispike.progress import progress_bar
from multispike.training.launch import augmentation_of, batch_size_of
from multispike.training.run import Run


@dataclass(frozen=True)
class Accuracy:
    """Shares in [0, 1] of `images` test samples.

    Attributes:
        float, integer: classified rightly by each network.
        same_class: on which both networks agree, right or wrong.
    """

    images: int
    float: float
    integer: float
    same_class: float


def quantise_run(run: Run) -> IntegerNetwork:
    """The integer network of a run.

    Raises:
        InputError: naming what integers can't carry, and what to do.
    """
    data = run.data
    events = data["events"] if "events" in data else source_of(data["name"]).events
    return quantise(run.network, data["mean"], data["std"], tuple(data["input_shape"]), events)


def compare(run: Run, integer: IntegerNetwork, loader: BatchLoader) -> Accuracy:
    """The float and the integer network on all samples of `loader`, which keeps their order.

    Shows a progress bar on a terminal.
    """
    done = floats = integers = same = 0
    with progress_bar(True) as bar, torch.inference_mode():
        task = bar.add_task("measuring the integer network", total=len(loader.split))
        for inputs, labels in loader:
            pixels = loader.split.inputs[done : done + len(labels)]
            exact = torch.from_numpy(integer.forward(as_input(integer, pixels))).argmax(1)
            rough = run.network(inputs).argmax(1)
            floats += int((rough == labels).sum())
            integers += int((exact == labels).sum())
            same += int((rough == exact).sum())
            done += len(labels)
            bar.update(task, completed=done)
    return Accuracy(done, floats / done, integers / done, same / done)


def as_input(integer: IntegerNetwork, samples: Tensor) -> Tensor:
    """A split's samples as the network takes them: event frames [B, T, ...] as [T, B, ...]."""
    return samples.transpose(0, 1) if integer.events else samples


def finetune_run(run: Run, dataset: Dataset, epochs: int) -> list[float]:
    """Fine-tune `run.network` in place on the run's own training samples, augmented as they were.

    Shows a progress bar on a terminal.

    Returns:
        The loss of every batch.

    Raises:
        RunError: where the loss is no longer finite.
    """
    loader = BatchLoader(
        dataset.train, batch_size_of(run.config, len(dataset.train)),
        augmentation=augmentation_of(run.config, dataset), shuffle=True, drop_last=True,
        seed=run.config.seed, mean=run.data["mean"], std=run.data["std"],
        channels_last=run.config.channels_last, num_classes=dataset.num_classes,
    )  # fmt: skip

    with progress_bar(True) as bar:
        task = bar.add_task("fine-tuning", total=epochs * len(loader))

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for epoch in range(epochs):
                loader.set_epoch(epoch)
                for batch in loader:
                    yield batch
                    bar.advance(task)

        shape = tuple(run.data["input_shape"])
        return finetune(run.network, batches(), run.data["mean"], run.data["std"], shape)


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
