"""A trained network as an integer one: made, compared with the float one, fine-tuned.

`graph` reads it, `operations` says what becomes of each operation, `rounding` makes the integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from re import ASCII, sub

import numpy as np
import torch
from torch import Tensor, nn

from multispike.datasets import source_of
from multispike.datasets.dataset import Dataset
from multispike.datasets.loader import BatchLoader
from multispike.device import device_of
from multispike.errors import RunError, invalid
from multispike.export import rounding
from multispike.export.folding import Floats
from multispike.export.graph import Walk, batch_of, trace
from multispike.export.layers import Shape
from multispike.export.network import IntegerNetwork
from multispike.export.operations import RULES
from multispike.plugins import label
from multispike.progress import progress_bar
from multispike.training.data import training_loader
from multispike.training.run import Run


class Quantiser:
    """A network's graph, traced once, and the integers of the weights that it has at a time.

    Args:
        model: any module of the operations in `operations.RULES`, in evaluation mode or not
            (running statistics are used); T is its `timesteps`, 1 if it has none.
        mean, std: one a channel; the model was trained on (pixel/255 - mean) / std.
        input_shape: (C, H, W) of the uint8 input.
        events: inputs are event frames [T, B, C, H, W].

    Raises:
        InputError: naming what integers can't carry, and what to do.
    """

    def __init__(
        self, model: nn.Module, mean: Sequence[float], std: Sequence[float], input_shape: Shape,
        events: bool = False,
    ) -> None:  # fmt: skip
        config = getattr(model, "config", {})
        channels = config.get("in_channels", len(mean))
        if len(input_shape) != 3 or input_shape[0] != channels or min(input_shape) < 1:
            raise invalid("input_shape", input_shape, f"({channels}, H, W)")
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != channels or not np.isfinite(values).all():
                raise invalid(name, list(values), f"{channels} finite numbers")
        if min(std) <= 0:
            raise invalid("std", list(std), "numbers > 0")
        arch = label(config.get("arch", type(model).__name__))
        self.model, self.arch = model, sub(r"[^\w.-]", "_", arch, flags=ASCII)
        self.timesteps: int = getattr(model, "timesteps", 1)
        self.sizes = (input_shape, self.timesteps, mean, std)
        steps = (self.timesteps,) if events else ()
        like = next(model.parameters(), torch.zeros(()))
        sample = like.new_zeros(*steps, batch_of(self.timesteps), *input_shape)
        self.program = trace(model, sample)

    def walk(self) -> Walk:
        """The layers of the present weights."""
        for name, value in self.model.state_dict().items():
            if value.is_floating_point() and not value.isfinite().all():
                raise invalid(name, "NaN or infinite values", "finite numbers")
        return Walk(self.model, self.program, RULES, *self.sizes)


def quantise(
    model: nn.Module, mean: Sequence[float], std: Sequence[float], input_shape: Shape,
    events: bool = False, classes: Sequence[str] = (),
) -> IntegerNetwork:  # fmt: skip
    """The integer network of a trained `model`; arguments and errors as of `Quantiser`, `classes`
    names for its logits.

    >>> from multispike.models import create_model
    >>> model = create_model("sparse_resnet20", in_channels=1)
    >>> network = quantise(model, [0.5], [0.25], (1, 8, 8))
    >>> network.forward(np.zeros((2, 1, 8, 8), np.uint8)).shape
    (2, 10)
    """
    made = Quantiser(model, mean, std, input_shape, events)
    walk = made.walk()
    return IntegerNetwork(
        made.arch, input_shape, made.timesteps, events, tuple(walk.builder.layers),
        walk.logit_unit, tuple(classes), tuple(map(float, mean)), tuple(map(float, std)),
    )  # fmt: skip


@dataclass(frozen=True)
class Accuracy:
    """Shares in [0, 1] of `images` samples of a split, "test" or "validation".

    Attributes:
        float, integer: classified rightly by each network.
        same_class: on which both networks agree, right or wrong.
    """

    images: int
    float: float
    integer: float
    same_class: float
    split: str = "test"


def quantise_run(run: Run) -> IntegerNetwork:
    """The integer network of a run; errors as of `Quantiser`."""
    data = run.data
    events = data["events"] if "events" in data else source_of(data["name"]).events
    shape = tuple(data["input_shape"])
    classes = [str(name).encode("utf-8", "replace").decode() for name in data["classes"]]
    return quantise(run.network, data["mean"], data["std"], shape, events, classes)


def compare(run: Run, integer: IntegerNetwork, loader: BatchLoader) -> Accuracy:
    """The float and the integer network on all samples of `loader`, which keeps their order."""
    done = floats = integers = same = 0
    with progress_bar(True) as bar, torch.inference_mode():
        task = bar.add_task("measuring the integer network", total=len(loader.split))
        for inputs, labels in loader:
            pixels = loader.split.inputs[done : done + len(labels)].cpu()
            exact = torch.from_numpy(integer.forward(as_input(integer, pixels))).argmax(1)
            rough, labels = run.network(inputs).argmax(1).cpu(), labels.cpu()
            floats += int((rough == labels).sum())
            integers += int((exact == labels).sum())
            same += int((rough == exact).sum())
            done += len(labels)
            bar.update(task, completed=done)
    return Accuracy(done, floats / done, integers / done, same / done)


def as_input(integer: IntegerNetwork, samples: Tensor) -> Tensor:
    """A split's samples as the network takes them: event frames [B, T, ...] as [T, B, ...]."""
    return samples.transpose(0, 1) if integer.events else samples


def rounded_to(grid: Floats, weight: Tensor) -> Tensor:
    """Weights as their integers say them, in units of `grid`, without a gradient."""
    unit = torch.from_numpy(grid).to(weight).view_as(weight)
    units = (weight.detach() / unit).round().clamp(-rounding.WEIGHT_MAX, rounding.WEIGHT_MAX)
    return torch.where(unit == 0, 0, units * unit)


def finetune_run(run: Run, dataset: Dataset, epochs: int) -> list[float]:
    """`finetune` of `run.network` on the run's own training samples, augmented as they were."""
    normalised = replace(dataset, mean=run.data["mean"], std=run.data["std"])
    loader = training_loader(run.config, normalised, device=device_of(run.network))

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
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], mean: Sequence[float],
    std: Sequence[float], input_shape: Shape, lr: float = 1e-3,
) -> list[float]:  # fmt: skip
    """Train `model` in place for one pass over `batches`, where rounding costs accuracy.

    The loss is taken with weights rounded to the units that `quantise` has at the start, and its
    gradient moves the unrounded ones (straight-through, Bengio et al. 2013, arXiv 1308.3432). Batch
    norm keeps its statistics, since it has been folded.

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
    grids = Quantiser(model, mean, std, input_shape).walk().builder.grids
    losses = []
    for step, (inputs, labels) in enumerate(batches):
        optimizer.zero_grad()
        rounded = {
            name: rounded_to(grid, model.get_parameter(name)).requires_grad_()
            for name, grid in grids.items()
        }
        logits = torch.func.functional_call(model, rounded, (inputs,))
        loss = torch.nn.functional.cross_entropy(logits, labels)
        loss.backward()
        for name, weight in rounded.items():
            model.get_parameter(name).grad = weight.grad
        losses.append(loss.item())
        if not torch.isfinite(loss):
            raise RunError(
                f"finetune: got a loss of {losses[-1]} in step {step}, allowed: a finite one"
                " (export without --finetune, or from another --checkpoint)"
            )
        optimizer.step()
    return losses
