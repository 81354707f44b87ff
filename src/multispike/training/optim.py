"""Optimisers, schedules and what has weight decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from multispike.config import Recipe

FINAL_LR = 1e-3
"""Learning rate at the end of a schedule, as a share of its peak."""

_REFERENCE_BATCH = 250
_PEAK = {"sgd": 0.2, "adamw": 0.002}


def peak_lr(recipe: Recipe, batch_size: int) -> float:
    """`recipe.lr`, or the optimiser's default in proportion to the batch size.

    >>> peak_lr(Recipe(), 250), peak_lr(Recipe(lr=0.1), 250)
    (0.2, 0.1)
    """
    return recipe.lr or _PEAK[recipe.optimizer] * batch_size / _REFERENCE_BATCH


def parameter_groups(model: nn.Module, recipe: Recipe, lr: float) -> list[dict[str, Any]]:
    """Weights of convolutions and linear layers decay; BN, biases and thresholds don't."""
    decayed, biases, others = [], [], []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name == "weight" and isinstance(module, (nn.Conv2d, nn.Linear)):
                decayed.append(parameter)
            elif name == "bias" and isinstance(module, nn.BatchNorm2d):
                biases.append(parameter)
            elif not any(parameter is other for other in others):  # thresholds may be shared
                others.append(parameter)
    groups = [
        {"params": decayed, "lr": lr, "weight_decay": recipe.weight_decay},
        {"params": biases, "lr": lr * recipe.bias_lr, "weight_decay": 0.0},
        {"params": others, "lr": lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(model: nn.Module, recipe: Recipe, lr: float) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW."""
    groups = parameter_groups(model, recipe, lr)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups)
    return torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=recipe.momentum > 0)


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
