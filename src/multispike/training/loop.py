"""The training loop: a module, batches and a recipe in, checkpoints and metrics.csv out."""

from __future__ import annotations

import copy
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn

from multispike import __version__
from multispike.config import Recipe
from multispike.datasets.loader import BatchLoader
from multispike.device import device_of
from multispike.errors import InputError
from multispike.progress import progress_bar, time_left
from multispike.training.loaders import EpochLoader
from multispike.training.objective import Objective
from multispike.training.optim import make_optimizer, make_schedule
from multispike.training.run import (
    check_same_data,
    diverged,
    judged_accuracy,
    read_checkpoint,
    weights_of,
    write_checkpoint,
    write_rows,
)

PAUSE_STEPS, PAUSE_SECONDS = 50, 1.0
"""After so many steps, or about so long, the host waits for the device: losses are read, Ctrl-C is
answered, and rank 0 tells the other processes."""


Callback = Callable[[dict[str, float], nn.Module], Any]
"""Is given an epoch's row of metrics.csv and the network that was evaluated; True ends the
training."""


class Interrupted(Exception):
    """The user or the scheduler asked for an end; the state is saved."""


def train(
    fabric: Fabric, network: nn.Module, train_loader: BatchLoader | EpochLoader,
    judge_loader: Iterable[Any], recipe: Recipe, folder: Path, about: dict[str, Any],
    start: Path | None, callbacks: Sequence[Callback] = (),
) -> None:  # fmt: skip
    """Train a network, any module from inputs to logits [B, classes], by a recipe.

    Args:
        fabric: launched.
        train_loader, judge_loader: batches of this process on its device, of the training and
            those that each epoch is judged by.
        folder: where last.ckpt, best.ckpt and metrics.csv go.
        about: what checkpoints tell of the run; "data" has to be the same on going on, and its
            "validation" says that epochs are judged by a split of that name, not by the test.
        start: a last.ckpt to go on from.
        callbacks: called after each epoch, once it is saved.
    """
    if recipe.channels_last:
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    network = fabric.to_device(network)
    batches = len(train_loader)
    average = copy.deepcopy(network).eval() if recipe.ema else None
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    objective = Objective(network, recipe, scaler)
    optimizer = make_optimizer(network, recipe, train_loader.batch_size * recipe.accumulate)
    schedule = make_schedule(optimizer, recipe, recipe.epochs * -(-batches // recipe.accumulate))
    state = State(network, average, optimizer, schedule, about, scaler=scaler)
    judge = "val" if about["data"].get("validation") else "test"
    if start is not None:
        state.load(start, first=fabric.is_global_zero)
    if recipe.compile:
        network.compile()
    module, stepper = fabric.setup(network, optimizer)
    stepper.zero_grad()
    saved_at = time.monotonic()

    display = Display(folder.name, recipe.epochs, batches, state.step, show=fabric.is_global_zero)
    with _stop_requests() as asked, display.bar, objective:
        for epoch in range(state.step // batches, recipe.epochs):
            if recipe.patience and (stalled := _stalled(state.rows, recipe.patience)):
                display.tell(f"stopped after epoch {epoch} of {recipe.epochs}: {stalled}")
                break
            first, end = epoch * batches, (epoch + 1) * batches
            if state.step == first:
                state.sums = [0.0, 0.0, 0.0]
            train_loader.set_epoch(epoch, state.step - first)
            network.train()
            pending: list[tuple[Tensor, Tensor, int]] = []
            since, pause = time.perf_counter(), state.step + 1
            for inputs, targets in train_loader:
                place = (state.step - first) % recipe.accumulate
                parts = min(recipe.accumulate, end - state.step + place)  # the last may be fewer
                with fabric.no_backward_sync(module, enabled=place + 1 < parts):
                    total, loss, correct = objective(module(inputs), targets)
                    fabric.backward(total / parts if parts > 1 else total)
                state.step += 1
                pending.append((loss, correct, len(targets)))
                if place + 1 < parts:  # nothing is saved here: no checkpoint has gradients
                    continue
                if recipe.clip_norm:
                    fabric.clip_gradients(
                        module, stepper, max_norm=recipe.clip_norm, error_if_nonfinite=False
                    )
                stepper.step()
                stepper.zero_grad()
                schedule.step()
                if recipe.ema:
                    state.update_average(recipe.ema)
                if state.step < pause and state.step < end:
                    continue

                state.add_up(pending, epoch, folder)
                seconds = time.perf_counter() - since
                state.train_seconds += seconds
                display.advance(epoch, state.step, state.sums[0] / state.sums[2])
                if state.step == end:
                    break  # evaluation and save follow, which a run going on from here would lack
                rate = len(pending) / seconds
                until = min(PAUSE_SECONDS, recipe.checkpoint_seconds) * rate
                pause = state.step + max(1, min(PAUSE_STEPS, int(until)))
                due = time.monotonic() - saved_at >= recipe.checkpoint_seconds
                due, stop, pause = fabric.broadcast((due, bool(asked), pause))
                if due or stop:
                    _save(fabric, state, epoch, folder)
                    saved_at = time.monotonic()
                if stop:
                    raise Interrupted
                pending.clear()
                since = time.perf_counter()

            judge_loss, judge_accuracy = evaluate(fabric, state.tested, judge_loader)
            loss, correct, images = _sum(fabric, state.sums)
            before = state.rows[-1]["train_seconds"] if state.rows else 0.0
            row = {
                "epoch": epoch + 1,
                "step": state.step,
                "train_loss": loss / max(images, 1),
                "train_accuracy": correct / max(images, 1),
                f"{judge}_loss": judge_loss,
                f"{judge}_accuracy": judge_accuracy,
                "lr": optimizer.param_groups[0]["lr"],
                "train_seconds": state.train_seconds,
                "images_per_second": images / max(state.train_seconds - before, 1e-9),
            }
            is_best = judge_accuracy > max(map(judged_accuracy, state.rows), default=-1.0)
            state.rows.append(row)
            fabric.log_dict(row, state.step)
            _save(fabric, state, epoch, folder, is_best)
            saved_at = time.monotonic()
            display.end_epoch(row)
            answers = [call(row, state.tested) for call in callbacks if fabric.is_global_zero]
            stop, enough = fabric.broadcast((bool(asked), True in answers))
            if stop:
                raise Interrupted
            if enough:
                display.tell(f"stopped after epoch {epoch + 1} of {recipe.epochs} by a callback")
                break
    if fabric.is_global_zero:  # again: a kill may have come between last.ckpt and this file
        write_rows(folder / "metrics.csv", state.rows)


@torch.no_grad()
def evaluate(fabric: Fabric, network: nn.Module, loader: Iterable[Any]) -> tuple[float, float]:
    """Mean loss and accuracy over all processes, in float32 as `multispike evaluate` measures."""
    network.eval()
    results: list[tuple[Tensor, Tensor, int]] = []
    for batch in loader:
        inputs, targets = fabric.to_device(batch)
        logits = network(inputs)
        loss = F.cross_entropy(logits, targets, reduction="sum")
        results.append((loss, (logits.argmax(1) == targets).sum(), len(targets)))
    columns = zip(*_read(results), strict=True)
    loss, correct, images = _sum(fabric, [float(sum(column)) for column in columns])
    return loss / images, correct / images


def _read(results: list[tuple[Tensor, Tensor, int]]) -> list[tuple[float, int, int]]:
    """Loss, right answers and samples of every batch, copied from the device at once."""
    losses = torch.stack([loss for loss, _, _ in results]).tolist()
    correct = torch.stack([right for _, right, _ in results]).tolist()
    return list(zip(losses, correct, [images for _, _, images in results], strict=True))


def _sum(fabric: Fabric, values: list[float]) -> list[float]:
    """Values added up over all processes, each of which has to ask."""
    if fabric.world_size == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=fabric.device)
    total = fabric.all_reduce(tensor, reduce_op="sum")
    assert isinstance(total, Tensor)
    return total.tolist()


def _save(
    fabric: Fabric, state: State, epoch: int, folder: Path, is_best: bool | None = None
) -> None:
    """Write last.ckpt; at an epoch's end, where `is_best` is told, also what follows from it."""
    tensors = [
        (name, value)
        for module in (state.network, state.tested)
        for name, value in module.state_dict().items()
        if value.is_floating_point()
    ]
    finite = torch.stack([value.isfinite().all() for _, value in tensors]).tolist()
    if not all(finite):
        name, _ = tensors[finite.index(False)]
        raise diverged(f"network.{name} is not finite after step {state.step}", folder)
    content = state.checkpoint(epoch, _sum(fabric, state.sums))
    if not fabric.is_global_zero:
        return
    if is_best:  # before last.ckpt, which a run goes on from: what a kill left out is made up for
        write_checkpoint(folder / "best.ckpt", weights_of(content))
    write_checkpoint(folder / "last.ckpt", content)
    if is_best is not None:
        write_rows(folder / "metrics.csv", state.rows)


def _stalled(rows: list[dict[str, float]], patience: int) -> str:
    """Why a training ends before its last epoch, if it does."""
    best = max(range(len(rows)), key=lambda index: judged_accuracy(rows[index]), default=0)
    if len(rows) <= best + patience:
        return ""
    judge = "validation" if "val_accuracy" in rows[0] else "test"
    accuracy = judged_accuracy(rows[best])
    return f"no better {judge} accuracy than the {accuracy:.4f} of epoch {best + 1}"


@dataclass
class State:
    """What a training has become after `step` batches: the weights, their average if there is one,
    what moves them (with 16-mixed a scaler), a row of metrics.csv an epoch, the seconds spent in
    training, evaluation apart, over all sessions; and this epoch's loss, correct and samples so
    far, in this process."""

    network: nn.Module
    average: nn.Module | None
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    about: dict[str, Any]
    step: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    train_seconds: float = 0.0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    scaler: torch.amp.GradScaler | None = None

    @property
    def tested(self) -> nn.Module:
        """What is evaluated: the average, if there is one."""
        return self.network if self.average is None else self.average

    def update_average(self, decay: float) -> None:
        """Move the average; it begins with the weights after the first update. `AveragedModel` of
        torch would read a scalar in every step."""
        update = get_ema_multi_avg_fn(decay if self.schedule.last_epoch > 1 else 0.0)
        tensors = [
            [tensor.detach() for tensor in chain(module.parameters(), module.buffers())]
            for module in (self.tested, self.network)
        ]
        for real in (True, False):
            ours, new = ([t for t in side if t.is_floating_point() is real] for side in tensors)
            if ours:
                update(ours, new, torch.tensor(self.step))

    def add_up(self, results: list[tuple[Tensor, Tensor, int]], epoch: int, folder: Path) -> None:
        """Add the results of the last steps to the epoch's sums; their losses have to be finite."""
        first = self.step - len(results)
        for step, (loss, correct, images) in enumerate(_read(results), first):
            if not math.isfinite(loss):
                raise diverged(f"the loss is {loss} at step {step} (epoch {epoch + 1})", folder)
            for place, amount in enumerate((loss * images, correct, images)):
                self.sums[place] += amount

    def checkpoint(self, epoch: int, sums: list[float]) -> dict[str, Any]:
        """The content of last.ckpt, in Lightning's layout; `sums` are those of all processes."""
        device = device_of(self.network)
        content = {
            "epoch": epoch,
            "global_step": self.step,
            "pytorch-lightning_version": lightning.__version__,
            "state_dict": _state_of(self.tested),
            "optimizer_states": [self.optimizer.state_dict()],
            "lr_schedulers": [self.schedule.state_dict()],
            "rng_states": [torch.get_rng_state()],
            "multispike": {
                **self.about,
                "version": __version__,
                "rows": self.rows,
                "train_seconds": self.train_seconds,
                "epoch_sums": sums,
            },
        }
        if self.scaler is not None:
            content["scaler"] = self.scaler.state_dict()
        if device.type == "cuda":
            content["rng_states"].append(torch.cuda.get_rng_state(device))
        if self.average is not None:
            content["current_model_state"] = _state_of(self.network)
        return content

    def load(self, path: Path, first: bool) -> None:
        """Go on from a last.ckpt, also of versions that trained by Lightning's Trainer; the `first`
        process, rank 0, takes over the sums of all."""
        content = read_checkpoint(path)
        saved = content["multispike"]
        check_same_data(self.about["data"], saved["data"], path)
        try:
            weights = content["state_dict"]
            current = content.get("current_model_state", weights)
            for module, state in ((self.tested, weights), (self.network, current)):
                module.load_state_dict({k.removeprefix("network."): v for k, v in state.items()})
            self.optimizer.load_state_dict(content["optimizer_states"][0])
            self.schedule.load_state_dict(content["lr_schedulers"][0])
            if self.scaler is not None:
                self.scaler.load_state_dict(content["scaler"])
            self.step, self.rows = content["global_step"], saved["rows"]
            self.train_seconds = saved["train_seconds"]
            if first:
                self.sums = saved["epoch_sums"]
        except (LookupError, ValueError, RuntimeError) as error:
            version = saved.get("version", f"before {__version__}")
            raise InputError(
                f"resume: got {str(path)!r} of multispike {version}, which this version can't go on"
                f" from ({str(error).splitlines()[0]}); allowed: --overwrite, or --init with it"
            ) from error
        for index, rng in enumerate(content.get("rng_states", ())):
            device = device_of(self.network)
            torch.cuda.set_rng_state(rng, device) if index else torch.set_rng_state(rng)


def _state_of(network: nn.Module) -> dict[str, Any]:
    """Weights under the names they had as a part of a LightningModule."""
    return {f"network.{name}": value for name, value in network.state_dict().items()}


class Display:
    """One bar over the whole training with the time left; without a terminal, a line an epoch."""

    def __init__(self, name: str, epochs: int, batches: int, step: int, show: bool) -> None:
        self.name, self.epochs, self.show = name, epochs, show
        self.total, self.first, self.since = epochs * batches, step, time.monotonic()
        self.bar = progress_bar(show)
        self.task = self.bar.add_task(name, total=self.total, completed=step)
        self.tested = ""

    def advance(self, epoch: int, step: int, loss: float) -> None:
        note = f"{self.name} epoch {epoch + 1}/{self.epochs} loss {loss:.3f}{self.tested}"
        self.bar.update(self.task, completed=step, description=note)

    def tell(self, line: str) -> None:
        if self.show:
            print(f"{self.name}  {line}", file=sys.stderr, flush=True)

    def end_epoch(self, row: dict[str, float]) -> None:
        judge = "validation" if "val_accuracy" in row else "test"
        self.tested = f" {judge} {judged_accuracy(row):.3f}"
        if self.bar.disable:
            left = time_left(self.since, self.first, int(row["step"]), self.total)
            self.tell(
                f"epoch {row['epoch']}/{self.epochs}  loss {row['train_loss']:.4f}"
                f"  {judge} accuracy {judged_accuracy(row):.4f}  {left}"
            )


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """The signals that asked for an end so far; a second Ctrl-C or SIGTERM ends at once. Only the
    main thread hears of them."""
    asked: list[int] = []
    main = threading.current_thread() is threading.main_thread()

    def note(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(number, before[signal.Signals(number)])

    numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
