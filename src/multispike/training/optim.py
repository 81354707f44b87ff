"""Optimisers, schedules and what has weight decay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from multispike.config import Recipe
from multispike.device import device_of

FINAL_LR = 1e-3
"""Learning rate at the end of a schedule, as a share of its peak."""

MUON_MOMENTUM = 0.6
"""Nesterov momentum of Muon's own weights, of cifar10-airbench."""

_PEAK = {"sgd": 0.2, "adamw": 0.002, "muon": 0.05}
"""Peak learning rates of a batch of 250, to which they are in proportion."""


def peak_lr(recipe: Recipe, batch_size: int) -> float:
    """`recipe.lr`, or the optimiser's default in proportion to the batch size.

    >>> peak_lr(Recipe(), 250), peak_lr(Recipe(lr=0.1), 250)
    (0.2, 0.1)
    """
    return recipe.lr or _PEAK[recipe.optimizer] * batch_size / 250


def make_optimizer(model: nn.Module, recipe: Recipe, batch_size: int) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, AdamW, or Muon for all convolutions but the first, without decay,
    and SGD at its default learning rate for the rest. Weights of convolutions and linear layers
    decay; BN, biases and thresholds don't."""
    matrices, decayed, biases, others = [], [], [], []
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    seen = set[Tensor]()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen:  # thresholds may be shared, and weights of others' networks
                continue
            seen.add(parameter)
            if name == "weight" and recipe.optimizer == "muon" and module in convolutions[1:]:
                matrices.append(parameter)
            elif name == "weight" and isinstance(module, (nn.Conv2d, nn.Linear)):
                decayed.append(parameter)
            elif name == "bias" and isinstance(module, nn.BatchNorm2d):
                biases.append(parameter)
            else:
                others.append(parameter)
    peak = peak_lr(recipe, batch_size)
    lr = peak_lr(Recipe(), batch_size) if recipe.optimizer == "muon" else peak
    groups: list[dict[str, Any]] = [
        {"params": matrices, "lr": peak, "weight_decay": 0.0, "orthogonal": True},
        {"params": decayed, "lr": lr, "weight_decay": recipe.weight_decay},
        {"params": biases, "lr": lr * recipe.bias_lr, "weight_decay": 0.0},
        {"params": others, "lr": lr, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    clips_scaled = recipe.clip_norm and recipe.precision == "16-mixed"  # which fused ones can't
    fused = (device_of(model).type == "cuda" and not clips_scaled) or None
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=fused)
    if recipe.optimizer == "muon":
        return Muon(groups, momentum=recipe.momentum)
    nesterov = recipe.momentum > 0
    return torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=nesterov, fused=fused)


class Muon(torch.optim.Optimizer):
    """Nesterov SGD whose update of a convolution's weight is made orthogonal (Jordan 2024,
    https://kellerjordan.github.io/posts/muon, as in cifar10-airbench).

    Groups marked `orthogonal` hold weights [C_out, C_in, k, k], seen as matrices of C_out rows.
    Before each step such a weight is scaled to norm sqrt(C_out). Groups not marked get the step of
    `torch.optim.SGD`.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float) -> None:
        for group in groups:
            group.setdefault("orthogonal", False)
            group["momentum"] = MUON_MOMENTUM if group["orthogonal"] else momentum
        super().__init__(groups, {"weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            grads = [weight.grad for weight in weights]
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
            moments = [self.state[weight]["momentum_buffer"] for weight in weights]
            lr, momentum = group["lr"], group["momentum"]
            if not group["orthogonal"]:
                sgd(
                    weights, grads, moments, lr=lr, weight_decay=group["weight_decay"],
                    momentum=momentum, dampening=0.0, nesterov=True, maximize=False,
                )  # fmt: skip
                continue
            updates = []
            for grad, moment in zip(grads, moments, strict=True):
                moment.mul_(momentum).add_(grad)
                updates.append(grad.add(moment, alpha=momentum))
            for weight, update in zip(weights, orthogonal(updates), strict=True):
                weight.mul_(len(weight) ** 0.5 / weight.norm()).add_(update, alpha=-lr)
        return loss


def orthogonal(updates: Sequence[Tensor]) -> list[Tensor]:
    """Each tensor, as a matrix of len(tensor) rows, with its singular values s brought near 1.

    Three Newton-Schulz iterations s <- 3.4445 s - 4.7750 s^3 + 2.0315 s^5 from s / |s|. Float32,
    since bfloat16 takes 10 to 30 times as long on CPUs without units for it. Tensors of one shape
    are iterated as one batch, and on the Gram matrix of their shorter side, which costs half.
    """
    results: list[Tensor] = [*updates]
    for shape in {update.shape for update in updates}:
        places = [i for i, update in enumerate(updates) if update.shape == shape]
        x = torch.stack([updates[i].flatten(1) for i in places]).float()
        x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
        tall = x.shape[1] > x.shape[2]
        x = x.mT if tall else x
        gram = x @ x.mT
        product = identity = torch.eye(len(gram[0]), device=x.device)
        for _ in range(3):
            factor = 3.4445 * identity - 4.7750 * gram + 2.0315 * gram @ gram
            product = factor @ product
            gram = factor @ gram @ factor
        x = product @ x
        for i, result in zip(places, x.mT if tall else x, strict=True):
            results[i] = result.reshape(shape).to(updates[i].dtype)
    return results


def make_schedule(
    optimizer: torch.optim.Optimizer, recipe: Recipe, total_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Learning rate per step: up during `warmup`, then down, both linear or along a cosine."""
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=total_steps + 1,  # the schedule also steps after the last update
        pct_start=min(1.0, max(recipe.warmup, 1.5 / total_steps)),  # at least one step up
        anneal_strategy="linear" if recipe.schedule == "onecycle" else "cos",
        cycle_momentum=False,
        div_factor=10,
        final_div_factor=0.1 / FINAL_LR,
    )
