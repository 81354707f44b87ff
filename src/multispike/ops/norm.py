"""Batch norm and the neurons behind it: two passes over memory forward, two backward.

Of the layer only the input of the batch norm is kept for the backward (and a byte an element for a
gradient that is a mask): its output is never written.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from multispike.ops.build import library
from multispike.ops.layer import (
    BLOCK,
    TILE,
    Gradients,
    dense_steps,
    empty_like_steps,
    fixed_rows,
    floats,
    inner_of,
    laid_out,
    layer,
    neuron_rows,
    plain,
    pointer,
    restored,
    window_mask,
    zeros,
)
from multispike.ops.spikes import usable

if TYPE_CHECKING:
    from multispike.surrogate import NeuronSpec


class Norm(ctypes.Structure):
    """`Norm` of norm.c."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("eps", ctypes.c_double),
        ("neuron_rows", ctypes.c_void_p),
        ("neuron_width", ctypes.c_int64),
        ("neuron_step", ctypes.c_int64),
        *[(name, ctypes.c_void_p) for name in ("table", "sums", "factors", "statistics")],
    )


def norm_usable(
    x: Tensor, weight: Tensor, bias: Tensor, threshold: float | Tensor, spec: NeuronSpec
) -> bool:
    """Whether `FusedNormSpikes` takes these inputs: those of `usable`, a float32 batch norm with
    more than one value a channel."""
    return (
        x.dim() > 2
        and x.shape[2] <= TILE
        and x.numel() > x.shape[2]
        and plain(weight, torch.float32)
        and plain(bias, torch.float32)
        and usable(x, None, threshold, spec)
    )


class FusedNormSpikes(torch.autograd.Function):
    """x [T, B, C, ...], gamma [C], beta [C], V_th -> spikes [T, B, C, ...], statistics [2, C].

    Spikes of MultiLevelIF(batch_norm(x)) for inputs that are `norm_usable`, normalised with the
    statistics of this batch (Ioffe and Szegedy 2015, arXiv 1502.03167), and these statistics: the
    mean, and the variance without bias. With x [1, B, C, ...] and more `steps` the one normalised
    drive comes at every timestep.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        threshold: float | Tensor,
        spec: NeuronSpec,
        steps: int,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        kernels = library()
        assert kernels is not None  # `norm_usable` has loaded it
        x, weight, bias = dense_steps(x), weight.contiguous(), bias.contiguous()
        spikes = empty_like_steps(x, x.dtype, steps)
        channels = x.shape[2]
        each = isinstance(threshold, Tensor) and threshold.numel() > 1
        rows = (neuron_rows if isinstance(threshold, Tensor) else fixed_rows)(threshold, spec)
        table = floats(7, channels + (BLOCK if inner_of(x, channels) == 1 else 0))
        described = layer(spikes, table, channels, spec, normed=True)
        sums = zeros(described.threads, 2, channels)
        factors = zeros(2, channels)
        statistics = floats(2, channels)
        norm = Norm(
            weight=weight.data_ptr(),
            bias=bias.data_ptr(),
            eps=eps,
            neuron_rows=rows.data_ptr(),
            neuron_width=rows.stride(0),
            neuron_step=each,
            table=table.data_ptr(),
            sums=sums.data_ptr(),
            factors=factors.data_ptr(),
            statistics=statistics.data_ptr(),
        )
        mask, _ = window_mask(spikes, spec, ctx.needs_input_grad, 3)
        ctx.constant = steps > x.shape[0]
        kernels.multispike_norm_forward(
            *(ctypes.byref(described), ctypes.byref(norm), x.data_ptr(), ctx.constant),
            *(spikes.data_ptr(), pointer(mask)),
        )
        ctx.spec, ctx.strides = spec, spikes.stride()
        ctx.threshold_shape = threshold.shape if isinstance(threshold, Tensor) else None
        ctx.mark_non_differentiable(statistics)
        ctx.save_for_backward(x, mask, table, factors)
        return spikes, statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor, _: Any) -> Any:
        kernels = library()
        assert kernels is not None
        x, mask, table, factors = ctx.saved_tensors
        # Hooks on saved tensors may have laid them out anew.
        x = laid_out(x, ctx.strides[1:])
        mask = None if mask is None else restored(mask, ctx.strides)
        table, factors = table.contiguous(), factors.contiguous()
        channels = x.shape[2]
        grad_spikes = laid_out(grad_spikes, ctx.strides[1:])
        described = layer(grad_spikes, table, channels, ctx.spec, normed=True)
        grad_x = torch.empty_like(x)
        threads, steps = described.threads, described.steps
        sums = zeros(threads, 2, channels)
        threshold_sums = room = None
        if ctx.needs_input_grad[3]:
            threshold_sums = zeros(threads, channels)
        if mask is None:
            room = floats(threads, steps, TILE)
        gradients = Gradients(
            x=x.data_ptr(),
            x_stride=0 if ctx.constant else x.stride(0),
            mask=pointer(mask),
            grad=grad_spikes.data_ptr(),
            grad_stride=grad_spikes.stride(0),
            grad_x=grad_x.data_ptr(),
            constant=ctx.constant,
            threshold_sums=pointer(threshold_sums),
            norm_sums=sums.data_ptr(),
            room=pointer(room),
        )
        changed = table.clone()
        norm = Norm(table=changed.data_ptr(), factors=factors.data_ptr())
        grad_weight, grad_bias = floats(2, channels)
        kernels.multispike_norm_backward(
            *(ctypes.byref(described), ctypes.byref(norm), ctypes.byref(gradients)),
            *(grad_weight.data_ptr(), grad_bias.data_ptr()),
        )
        grad_threshold = None
        if threshold_sums is not None:
            total = threshold_sums.sum(0).float().view(-1, *[1] * (x.dim() - 3))
            grad_threshold = total.sum_to_size(ctx.threshold_shape)
        return grad_x, grad_weight, grad_bias, grad_threshold, None, None, None
