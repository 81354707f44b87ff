"""What happens beside the training: checkpoints, metrics.csv, the progress bar, Ctrl-C."""

from __future__ import annotations

import csv
import io
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from multispike.files import write_text
from multispike.training.checkpoint import read_checkpoint, weights_of, write_checkpoint
from multispike.training.module import Classifier
from multispike.training.run import NEXT, diverged


class Interrupted(Exception):
    """The user or the scheduler asked for an end; the state is saved."""


class RunFiles(Checkpoint):
    """Keeps last.ckpt, best.ckpt and metrics.csv of a run folder up to date.

    last.ckpt is written after every epoch, within epochs every `seconds`, and on the first
    Ctrl-C or SIGTERM, always after a whole step; after an epoch's last step that is when it has
    been evaluated. Only finite weights are written.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder = folder
        self.seconds = seconds
        self._saved_at = time.monotonic()
        self._stop = False
        self._old_handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at = time.monotonic()

        def stop(number: int, frame: Any) -> None:
            self._stop = True
            signal.signal(number, self._old_handlers[number])  # a second one ends at once

        for number in (signal.SIGINT, signal.SIGTERM):
            self._old_handlers[number] = signal.signal(number, stop)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx + 1 == trainer.num_training_batches:
            return  # evaluation and save follow, which a run that went on from here would lack
        elapsed = time.monotonic() - self._saved_at
        due, stop = trainer.strategy.broadcast((elapsed >= self.seconds, self._stop))
        if due or stop:
            self._save(trainer, pl_module, "last.ckpt")
        if stop:
            raise Interrupted

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        accuracies = [row["test_accuracy"] for row in pl_module.rows]
        self._save(trainer, pl_module, NEXT)
        if trainer.is_global_zero:
            try:
                if accuracies[-1] > max(accuracies[:-1], default=-1.0):
                    # Stripped here: what saves weights only leaves out their averaging.
                    content = weights_of(read_checkpoint(self.folder / NEXT))
                    write_checkpoint(self.folder / "best.ckpt", content)
            finally:  # not before best.ckpt: a kill between them would leave an older best one
                os.replace(self.folder / NEXT, self.folder / "last.ckpt")
            write_rows(self.folder / "metrics.csv", pl_module.rows)
        if trainer.strategy.broadcast(self._stop):  # asked for during the evaluation
            raise Interrupted

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore_handlers()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        self._old_handlers.clear()

    def _save(self, trainer: Trainer, module: LightningModule, name: str) -> None:
        for key, value in module.state_dict().items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise diverged(f"{key} is not finite after step {trainer.global_step}", self.folder)
        trainer.save_checkpoint(self.folder / name)
        self._saved_at = time.monotonic()


def write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    """Replace a CSV file by these rows."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


class ProgressBar(Callback):
    """One bar over the whole training with the time left; without a terminal, a line an epoch."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.console = Console(stderr=True)
        self.bar: Progress | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self._started, self._first_step = time.monotonic(), trainer.global_step
        if not self.console.is_terminal:
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, console=self.console, transient=True)
        self.task = self.bar.add_task(self.name, total=self._steps(trainer), note="")
        self.bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.bar is not None:
            note = (
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs} loss {outputs['loss']:.3f}"
            )
            self.bar.update(self.task, completed=trainer.global_step, note=note + self._tested)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        accuracy = trainer.callback_metrics["test_accuracy"].item()
        self._tested = f" test {accuracy:.3f}"
        if self.bar is None:
            done = trainer.global_step - self._first_step
            seconds = (time.monotonic() - self._started) / max(done, 1)
            left = round(seconds * (self._steps(trainer) - trainer.global_step))
            assert isinstance(pl_module, Classifier)
            print(
                f"{self.name}  epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
                f"  loss {pl_module.epoch_sums[0] / max(pl_module.epoch_sums[2], 1):.4f}"
                f"  test accuracy {accuracy:.4f}  {left // 60}:{left % 60:02d} left",
                file=sys.stderr,
                flush=True,
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    @staticmethod
    def _steps(trainer: Trainer) -> int:
        return int(trainer.num_training_batches) * (trainer.max_epochs or 1)

    _tested = ""
    _started = 0.0
    _first_step = 0
