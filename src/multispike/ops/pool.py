"""`multispike::max_pool`: 2x2 max-pooling that keeps one byte an output for its backward.

    multispike::max_pool(Tensor x) -> (Tensor maxima, Tensor corner)

It is max_pool2d(x, 2, ceil_mode=True) of x [B, C, H, W], and which of the four corners won, uint8.
torch keeps the input and eight bytes an output instead, and clears the gradient before it fills it.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from multispike.ops.build import library, pointer, threads_for
from multispike.ops.reference import laid_out

_IMAGES = Struct("6q")
"""`Images` of pool.c."""


def _pool(x: Tensor) -> tuple[Tensor, Tensor]:
    maxima, indices = functional.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
    row, column = indices // x.shape[3] % 2, indices % x.shape[3] % 2
    return maxima, (2 * row + column).to(torch.uint8)


def _pool_backward(grad: Tensor, corner: Tensor, shape: Sequence[int]) -> Tensor:
    grad_x = _empty(grad, corner, shape)
    for k in range(4):
        part = grad_x[..., k // 2 :: 2, k % 2 :: 2]
        rows, columns = part.shape[2:]
        won = corner[..., :rows, :columns] == k
        part.copy_(torch.where(won, grad[..., :rows, :columns], 0))
    return grad_x


def _empty(grad: Tensor, corner: Tensor, shape: Sequence[int]) -> Tensor:
    channels_last = corner.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=layout)


def _images(x: Tensor) -> bytes | None:
    """What the kernels are told of x; None where they don't run: they take float32 or bfloat16 in
    channels_last."""
    typed = x.dtype in (torch.float32, torch.bfloat16)
    if not typed or not x.is_contiguous(memory_format=torch.channels_last) or library() is None:
        return None
    batch, channels, rows, columns = x.shape
    bfloat16 = x.dtype == torch.bfloat16
    return _IMAGES.pack(batch, rows, columns, channels, bfloat16, threads_for(x.numel()))


def _pool_cpu(x: Tensor) -> tuple[Tensor, Tensor]:
    images, kernels = _images(x), library()
    if images is None or kernels is None:
        return _pool(x)
    shape = (*x.shape[:2], (x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2)
    maxima = torch.empty(shape, dtype=x.dtype, device="cpu", memory_format=torch.channels_last)
    corner = torch.empty_like(maxima, dtype=torch.uint8)
    kernels.multispike_pool(images, *map(pointer, (x, maxima, corner)))
    return maxima, corner


def _pool_backward_cpu(grad: Tensor, corner: Tensor, shape: Sequence[int]) -> Tensor:
    grad_x = _empty(grad, corner, shape)
    images, kernels = _images(grad_x), library()
    if images is None or kernels is None:
        return _pool_backward(grad, corner, shape)
    grad = grad.contiguous(memory_format=torch.channels_last)
    kernels.multispike_pool_backward(images, *map(pointer, (grad_x, grad, corner)))
    return grad_x


_LIBRARY = torch.library.Library("multispike", "FRAGMENT")
_LIBRARY.define("max_pool(Tensor x) -> (Tensor maxima, Tensor corner)")
_LIBRARY.define("_max_pool_backward(Tensor grad, Tensor corner, SymInt[] shape) -> Tensor")
for _name, _on_cpu, _elsewhere in (
    ("max_pool", _pool_cpu, _pool),
    ("_max_pool_backward", _pool_backward_cpu, _pool_backward),
):
    _LIBRARY.impl(_name, _on_cpu, "CPU")
    _LIBRARY.impl(_name, _elsewhere, "CompositeExplicitAutograd")
    torch.library.register_fake(f"multispike::{_name}", _elsewhere)


def _keep(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.shape, ctx.strides = inputs[0].shape, output[1].stride()
    ctx.save_for_backward(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Any) -> Tensor:
    (corner,) = ctx.saved_tensors
    corner = laid_out(corner, ctx.strides)  # hooks on saved tensors may have changed it
    return torch.ops.multispike._max_pool_backward(grad, corner, ctx.shape)


torch.library.register_autograd("multispike::max_pool", _differentiate, setup_context=_keep)
max_pool = torch.ops.multispike.max_pool.default
