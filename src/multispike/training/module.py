"""The LightningModule: loss, activity penalty, metrics, and what a checkpoint says of its run."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from multispike.config import TrainConfig
from multispike.datasets.dataset import Dataset
from multispike.models.network import Network
from multispike.neurons import MultiLevelIF
from multispike.training.optim import make_optimizer, make_schedule
from multispike.training.run import diverged

THRESHOLD_GRADIENT = 1.0
"""Largest gradient of a learned threshold, which sums over all its neurons: at most 0.03 in fastnet
on CIFAR-10. But a batch normalisation behind neurons that hardly fire divides by almost nothing,
and one such batch, of digits, made it 7,900: the threshold would leave all bounds at once."""


class Classifier(LightningModule):
    """A network in training, for `steps` steps of `batch_size` samples.

    Attributes:
        rows: one dict an epoch, the content of metrics.csv; part of the checkpoint.
        train_seconds: time spent in training epochs, without evaluation, over all sessions.
    """

    def __init__(
        self, network: Network, config: TrainConfig, dataset: Dataset, batch_size: int, steps: int
    ) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.batch_size = batch_size
        self.steps = steps
        self.description: dict[str, Any] = {
            "model": network.config,
            "config": dataclasses.asdict(config),
            "data": {
                "name": dataset.name,
                "mean": list(dataset.mean),
                "std": list(dataset.std),
                "classes": list(dataset.classes),
                "input_shape": list(dataset.input_shape),
                "images": len(dataset.train),
            },
        }
        self.rows: list[dict[str, float]] = []
        self.train_seconds = 0.0
        # Loss, correct, images of this epoch so far, in this process.
        self.epoch_sums = [0.0, 0.0, 0.0]
        self._since = 0.0
        self.test_loss = MeanMetric()
        self.test_accuracy = MulticlassAccuracy(len(dataset.classes), average="micro")
        for name, parameter in network.named_parameters():
            if name.endswith("threshold"):
                parameter.register_hook(_bounded)
        self._spikes: list[Tensor] = []
        if config.activity_penalty and config.neuron != "relu":
            for module in network.modules():
                if isinstance(module, MultiLevelIF):
                    module.register_forward_hook(self._keep_spikes)

    def _keep_spikes(self, neuron: MultiLevelIF, _: Any, spikes: Tensor) -> None:
        if self.training:
            threshold = neuron.threshold_for(spikes)
            threshold = threshold.detach() if isinstance(threshold, Tensor) else threshold
            self._spikes.append(spikes * (neuron.levels / threshold))

    def penalty(self) -> Tensor:
        """Events per neuron and timestep, differentiable through the surrogate.

        min(z, 1) is 1 for every event whatever its level; its gradient reaches only neurons at
        level 0 or 1, so the loss has a reason to drop an event but none to shrink a large one.
        """
        # z is a level but for rounding errors, which must not put level 1 above the bound.
        counts = [torch.where(z < 1.5, z, 1.0).sum(dtype=torch.float32) for z in self._spikes]
        events = torch.stack(counts).sum()
        neurons = sum(z.numel() for z in self._spikes)
        self._spikes.clear()
        return events / neurons

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, targets = batch
        logits = self.network(inputs).float()
        loss = F.cross_entropy(logits, targets, label_smoothing=self.config.label_smoothing)
        value = loss.item()
        if not value < float("inf"):
            raise diverged(
                f"the loss is {value} at step {self.global_step} (epoch {self.current_epoch + 1})",
                Path(self.config.folder),
            )
        labels = targets if targets.dim() == 1 else targets.argmax(1)
        correct = (logits.argmax(1) == labels).sum().item()
        for index, amount in enumerate((value * len(labels), correct, len(labels))):
            self.epoch_sums[index] += amount
        if self._spikes:
            loss = loss + self.config.activity_penalty * self.penalty()
        return loss

    def on_train_start(self) -> None:
        self._since = time.perf_counter()

    def on_train_epoch_start(self) -> None:
        self.epoch_sums = [0.0, 0.0, 0.0]
        self._since = time.perf_counter()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.train_seconds += time.perf_counter() - self._since

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._since = time.perf_counter()  # after the callbacks: saving is not training

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        inputs, targets = batch
        # Mixed precision is for training: what is reported here is what `evaluate` will measure.
        with torch.autocast(self.device.type, enabled=False):
            logits = self.network(inputs)
        self.test_loss.update(F.cross_entropy(logits, targets, reduction="none"))
        self.test_accuracy.update(logits, targets)

    def on_validation_epoch_end(self) -> None:
        self.log("test_loss", self.test_loss)
        self.log("test_accuracy", self.test_accuracy)

    def on_train_epoch_end(self) -> None:
        loss, correct, images = self._sums_of_all()
        metrics = self.trainer.callback_metrics
        before = self.rows[-1]["train_seconds"] if self.rows else 0.0
        optimizer = self.trainer.optimizers[0]
        row = {
            "epoch": self.current_epoch + 1,
            "step": self.global_step,
            "train_loss": loss / max(images, 1),
            "train_accuracy": correct / max(images, 1),
            "test_loss": metrics["test_loss"].item(),
            "test_accuracy": metrics["test_accuracy"].item(),
            "lr": optimizer.param_groups[0]["lr"],
            "train_seconds": self.train_seconds,
            "images_per_second": images / max(self.train_seconds - before, 1e-9),
        }
        self.rows.append(row)
        for logger in self.loggers:
            logger.log_metrics(row, step=self.global_step)

    def _sums_of_all(self) -> list[float]:
        """`epoch_sums` over all processes, each of which has to ask."""
        if self.trainer.world_size == 1:
            return self.epoch_sums
        sums = torch.tensor(self.epoch_sums, dtype=torch.float64, device=self.device)
        return self.trainer.strategy.reduce(sums, reduce_op="sum").tolist()

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.network, self.config, self.batch_size)
        schedule = make_schedule(optimizer, self.config, self.steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["multispike"] = {
            **self.description,
            "rows": self.rows,
            "train_seconds": self.train_seconds,
            "epoch_sums": self._sums_of_all(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint["multispike"]
        self.rows = saved["rows"]
        self.train_seconds = saved["train_seconds"]
        if self.trainer.is_global_zero:  # they are those of all processes
            self.epoch_sums = saved["epoch_sums"]


def _bounded(grad: Tensor) -> Tensor:
    return grad.clamp(-THRESHOLD_GRADIENT, THRESHOLD_GRADIENT)
