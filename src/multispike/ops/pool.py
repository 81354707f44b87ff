"""2x2 max-pooling that keeps one byte an output for its backward, and not its input.

torch keeps both the input and eight bytes an output, and clears the gradient before it fills it.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from multispike.ops.build import library
from multispike.ops.layer import plain, pointer, threads_for, traced


class Images(ctypes.Structure):
    """`Images` of pool.c."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in ("images", "rows", "columns", "channels", "bfloat16", "threads")
    )


def pool_usable(x: Tensor) -> bool:
    """Whether `FusedMaxPool` takes x: a plain tensor on the CPU, run eagerly, whose gradient is
    wanted; float32 or bfloat16, in channels_last: in other layouts torch is as fast."""
    return (
        x.requires_grad
        and torch.is_grad_enabled()
        and not traced()
        and plain(x, torch.float32, torch.bfloat16)
        and x.dim() == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and library() is not None
    )


def _images(x: Tensor) -> Images:
    batch, channels, rows, columns = x.shape
    bfloat16 = x.dtype == torch.bfloat16
    return Images(batch, rows, columns, channels, bfloat16, threads_for(x.numel()))


def _room(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


class FusedMaxPool(torch.autograd.Function):
    """max_pool2d(x, 2, ceil_mode=True) of x [B, C, H, W] that is `pool_usable`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        kernels = library()
        assert kernels is not None  # `pool_usable` has loaded it
        shape = (*x.shape[:2], (x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2)
        maxima = _room(x, shape)
        winner = torch.empty_like(maxima, dtype=torch.uint8)
        kernels.multispike_pool(ctypes.byref(_images(x)), *map(pointer, (x, maxima, winner)))
        ctx.shape = x.shape
        ctx.save_for_backward(winner)
        return maxima

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        kernels = library()
        assert kernels is not None
        # Hooks on saved tensors may have laid it out anew.
        winner = ctx.saved_tensors[0].contiguous(memory_format=torch.channels_last)
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x = _room(grad, ctx.shape)
        kernels.multispike_pool_backward(
            ctypes.byref(_images(grad_x)), *map(pointer, (grad_x, grad, winner))
        )
        return grad_x
