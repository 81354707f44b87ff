"""Where networks compute: the device that a name stands for, and the way there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from multispike.errors import invalid

ACCELERATORS = {"gpu": "cuda", "mps": "mps", "cpu": "cpu"}
"""torch's devices by the names of `--accelerator`; auto is the first that is there."""

HELD = 0.25
"""Share of a device's free memory that a split of a data set may take up."""


def device_for(name: str | torch.device, argument: str = "accelerator") -> torch.device:
    """The device of an accelerator (auto, cpu, gpu, mps), or of torch's own name for it (cuda:1).

    Raises:
        InputError: if it is not there; the message names the argument.

    >>> device_for("cpu")
    device(type='cpu')
    """
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    counts = {"cuda": cuda, "mps": int(torch.backends.mps.is_available())}
    there = [key for key, kind in ACCELERATORS.items() if counts.get(kind, 1)]
    text = there[0] if name == "auto" else str(name)
    try:
        device = torch.device(ACCELERATORS.get(text, text))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # as its backend has it
        allowed = f"{' or '.join(['auto', *there])}, as this machine has it"
        raise invalid(argument, str(name), allowed) from error
    return device


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are; the CPU for one that has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def moved(x: Tensor, device: torch.device) -> Tensor:
    """x on a device: on CUDA by way of pinned memory, so that the host need not wait for it."""
    pinned = device.type == "cuda" and x.device.type == "cpu"
    return (x.pin_memory() if pinned else x).to(device, non_blocking=pinned)


def fits(device: torch.device, size: int) -> bool:
    """Whether a device may hold a data set of so many bytes; only CUDA has little memory."""
    return device.type != "cuda" or size <= HELD * torch.cuda.mem_get_info(device)[0]
