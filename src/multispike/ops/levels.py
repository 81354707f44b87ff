"""Graded spikes that a convolution keeps for its backward: one byte a value, nothing lost."""

from __future__ import annotations

import ctypes
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from multispike.ops.build import library
from multispike.ops.layer import plain, pointer, threads_for, traced


class Levels(ctypes.Structure):
    """`Levels` of levels.c."""

    _fields_ = (
        *[(name, ctypes.c_int64) for name in ("size", "bfloat16", "threads")],
        *[(name, ctypes.c_float) for name in ("threshold", "levels")],
    )


def spikes_kept_as_bytes(threshold: float, levels: int) -> AbstractContextManager[Any]:
    """In this context operations keep what they need for the backward as levels, where that is
    exact: tensors of z/N * V_th with z in 0..255, on the CPU, run eagerly. Others stay as they are.

    Does nothing inside the saved-tensor hooks of someone else (checkpointing, offloading).

    Args:
        threshold: V_th.
        levels: N.
    """
    if (
        traced()
        or not torch.is_grad_enabled()
        or torch._C._autograd._top_saved_tensors_default_hooks(False) is not None  # pyright: ignore[reportAttributeAccessIssue]
        or library() is None
    ):
        return nullcontext()

    def pack(tensor: Tensor) -> Tensor | tuple[Tensor, torch.dtype]:
        return _packed(tensor, threshold, levels)

    def unpack(kept: Tensor | tuple[Tensor, torch.dtype]) -> Tensor:
        return kept if isinstance(kept, Tensor) else _unpacked(*kept, threshold, levels)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def _packed(tensor: Tensor, threshold: float, levels: int) -> Tensor | tuple[Tensor, torch.dtype]:
    """Levels of `tensor`, uint8 of its shape and strides, and its type; or `tensor` itself."""
    if not plain(tensor, torch.float32, torch.bfloat16) or tensor.is_leaf or not _dense(tensor):
        return tensor
    kernels = library()
    assert kernels is not None  # `spikes_kept_as_bytes` has loaded it
    codes = torch.empty_like(tensor, dtype=torch.uint8)
    exact = ctypes.c_int32()
    described = _described(codes, tensor.dtype, threshold, levels)
    kernels.multispike_pack(
        ctypes.byref(described), *map(pointer, (tensor, codes)), ctypes.byref(exact)
    )
    return (codes, tensor.dtype) if exact.value else tensor


def _unpacked(codes: Tensor, dtype: torch.dtype, threshold: float, levels: int) -> Tensor:
    kernels = library()
    assert kernels is not None
    values = torch.empty_like(codes, dtype=dtype)
    described = _described(codes, dtype, threshold, levels)
    kernels.multispike_unpack(ctypes.byref(described), *map(pointer, (codes, values)))
    return values


def _described(codes: Tensor, dtype: torch.dtype, threshold: float, levels: int) -> Levels:
    size = codes.numel()
    return Levels(size, dtype == torch.bfloat16, threads_for(size), threshold, levels)


def _dense(tensor: Tensor) -> bool:
    """Whether the values fill one piece of memory, in any order of the axes."""
    return tensor.is_contiguous() or (
        tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    )
