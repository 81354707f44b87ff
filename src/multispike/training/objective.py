"""What a training minimises: cross-entropy, and a penalty on the activity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from multispike.config import Recipe
from multispike.neurons import MultiLevelIF

THRESHOLD_GRADIENT = 1.0
"""Largest gradient of a learned threshold, which sums over all its neurons: at most 0.03 in fastnet
on CIFAR-10. But a batch normalisation behind neurons that hardly fire divides by almost nothing,
and one such batch, of digits, made it 7,900: the threshold would leave all bounds at once."""


class Objective:
    """The loss of a network; with an activity penalty it keeps the spikes of every forward call.
    Gradients of learned thresholds are bounded as well, times the scale of `scaler`. After a `with`
    the network is as before."""

    def __init__(
        self, network: nn.Module, recipe: Recipe, scaler: torch.amp.GradScaler | None = None
    ) -> None:
        self.label_smoothing = recipe.label_smoothing
        self.activity_penalty = recipe.activity_penalty
        self._spikes: list[Tensor] = []
        self._scaler = scaler
        self._hooks: list[RemovableHandle] = []
        for name, parameter in network.named_parameters():
            if name.endswith("threshold") and parameter.requires_grad:
                self._hooks.append(parameter.register_hook(self._bounded))
        if recipe.activity_penalty:
            for module in network.modules():
                if isinstance(module, MultiLevelIF):
                    self._hooks.append(module.register_forward_hook(self._keep_spikes))

    def __enter__(self) -> Objective:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def __call__(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What to minimise, the loss without the penalty, and the number of right answers, of the
        last call's logits [B, classes] and targets, classes [B] or their shares [B, classes]."""
        logits = logits.float()
        loss = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        labels = targets if targets.dim() == 1 else targets.argmax(1)
        correct = (logits.argmax(1) == labels).sum()
        total = loss + self.activity_penalty * self.penalty() if self._spikes else loss
        return total, loss.detach(), correct

    def _bounded(self, grad: Tensor) -> Tensor:
        bound = torch.full_like(grad, THRESHOLD_GRADIENT)
        bound = bound if self._scaler is None else self._scaler.scale(bound)
        return grad.clamp(-bound, bound)

    def _keep_spikes(self, neuron: MultiLevelIF, _: Any, spikes: Tensor) -> None:
        if neuron.training:
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
