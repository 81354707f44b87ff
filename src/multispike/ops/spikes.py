"""Neurons: all timesteps of a layer in one pass over memory, forward and backward."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from multispike.ops.build import library
from multispike.ops.layer import (
    TILE,
    Gradients,
    empty_like_steps,
    fixed_rows,
    floats,
    inner_of,
    laid_out,
    layer,
    neuron_rows,
    plain,
    pointer,
    repeated,
    restored,
    traced,
    window,
    window_mask,
    zeros,
)

if TYPE_CHECKING:
    from multispike.surrogate import NeuronSpec

MAX_LEVELS = 2**16
"""Largest N of the kernel: its guess of the level is off by less than one up to here."""


def usable(x: Tensor, v: Tensor | None, threshold: float | Tensor, spec: NeuronSpec) -> bool:
    """Whether `FusedSpikes` takes these inputs: plain tensors on the CPU, run eagerly; float32, but
    for x, which may be bfloat16."""
    if traced() or not plain(x, torch.float32, torch.bfloat16):
        return False
    if x.dim() == 0 or x.shape[0] == 0:
        return False
    if not all(plain(t, torch.float32) for t in (v, threshold) if isinstance(t, Tensor)):
        return False
    if spec.levels > MAX_LEVELS or window(spec) is None:
        return False
    if isinstance(threshold, Tensor) and threshold.numel() != 1:
        channels = (x.shape[2], *[1] * (x.dim() - 3)) if x.dim() > 2 else None
        if threshold.shape != channels:
            return False
    return library() is not None


class FusedSpikes(torch.autograd.Function):
    """x [T, B, ...], V[-1] or None, V_th -> graded spikes [T, B, ...] and V[T-1] (or None).

    The compiled twin of the eager function in `multispike.neurons`, for inputs that are `usable`.
    Spikes have the type of x, potentials are float32. The backward keeps one byte an element for a
    gradient that is a mask, else the input.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        v: Tensor | None,
        threshold: float | Tensor,
        spec: NeuronSpec,
        last: bool,
    ) -> tuple[Tensor, Tensor | None]:
        kernels = library()
        assert kernels is not None  # `usable` has loaded it
        spikes = empty_like_steps(x, x.dtype)
        strides = spikes.stride()[1:]
        x = laid_out(x, strides)
        v = None if v is None else laid_out(v, strides)
        mask, masked = window_mask(spikes, spec, ctx.needs_input_grad, 2)
        state = torch.empty_like(spikes[0], dtype=torch.float32) if last else None
        if isinstance(threshold, Tensor):
            ctx.channels, ctx.threshold_shape = threshold.numel(), threshold.shape
            rows = neuron_rows(threshold, spec)
            table = repeated(rows, inner_of(spikes, ctx.channels))
        else:
            ctx.channels, ctx.threshold_shape = 1, None
            table = fixed_rows(threshold, spec)
        kernels.multispike_forward(
            ctypes.byref(layer(spikes, table, ctx.channels, spec)),
            *(x.data_ptr(), x.stride(0), pointer(v)),
            *map(pointer, (spikes, mask, state)),
        )
        ctx.spec, ctx.strides = spec, spikes.stride()
        ctx.save_for_backward(mask, None if masked else x, None if masked else v, table)
        return spikes, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor, grad_last: Tensor | None) -> Any:
        kernels = library()
        assert kernels is not None
        mask, x, v, table = ctx.saved_tensors
        strides = ctx.strides[1:]
        # Hooks on saved tensors may have laid them out anew.
        mask = None if mask is None else restored(mask, ctx.strides)
        x = None if x is None else laid_out(x, strides)
        v = None if v is None else laid_out(v, strides)
        table = table.contiguous()
        grad_spikes = laid_out(grad_spikes, strides)
        grad_last = None if grad_last is None else laid_out(grad_last, strides)
        grad_x = torch.empty_strided(
            grad_spikes.shape, ctx.strides, dtype=grad_spikes.dtype, device=grad_spikes.device
        )
        described = layer(grad_x, table, ctx.channels, ctx.spec)
        sums = grad_v = room = None
        if ctx.needs_input_grad[1]:
            grad_v = torch.empty_like(grad_x[0], dtype=torch.float32)
        if ctx.needs_input_grad[2]:
            sums = zeros(described.threads, ctx.channels)
        if mask is None:
            room = floats(described.threads, described.steps, TILE)
        gradients = Gradients(
            x=pointer(x),
            x_stride=0 if x is None else x.stride(0),
            v=pointer(v),
            mask=pointer(mask),
            grad=grad_spikes.data_ptr(),
            grad_stride=grad_spikes.stride(0),
            grad_last=pointer(grad_last),
            grad_x=grad_x.data_ptr(),
            grad_v=pointer(grad_v),
            threshold_sums=pointer(sums),
            room=pointer(room),
        )
        kernels.multispike_backward(ctypes.byref(described), ctypes.byref(gradients))
        grad_threshold = None if sums is None else sums.sum(0).float().view(ctx.threshold_shape)
        return grad_x, grad_v, grad_threshold, None, None
