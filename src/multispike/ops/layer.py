"""What the kernels are told of a layer: its place in memory, its constants, the threads."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from multispike.surrogate import WINDOWS

if TYPE_CHECKING:
    from multispike.surrogate import NeuronSpec

SERIAL = 2**15
"""Element-steps below which a second thread costs more than it brings."""

CACHED = 2**24
"""Bytes of a result above which little of it would be left in the cache for the next layer."""

BLOCK, TILE = 256, 8192
"""Elements that go through the kernels together, those of common.h."""

_NEGLIGIBLE = 16.2
"""A bump that is further away than this, in units of 1/alpha, adds less than 1e-7 to the slope."""

_RANGE = 40.0
"""Largest alpha times half a window; beyond, the constants of the sum leave the floats' range."""


class Layer(ctypes.Structure):
    """`Layer` of common.h; make it with `layer`."""

    _fields_ = (
        *[
            (name, ctypes.c_int64)
            for name in (
                "elements", "steps", "channels", "inner", "normed", "levels", "window", "detach",
                "bfloat16", "bypass", "threads",
            )
        ],
        *[(name, ctypes.c_float) for name in ("alpha", "beta", "reach")],
        ("constants", ctypes.c_void_p),
        ("width", ctypes.c_int64),
        *[(name, ctypes.c_void_p) for name in ("rise", "fall")],
    )  # fmt: skip


class Gradients(ctypes.Structure):
    """`Gradients` of neurons.c."""

    _fields_ = tuple(
        (name, ctypes.c_int64 if name.endswith(("_stride", "constant")) else ctypes.c_void_p)
        for name in (
            "x", "x_stride", "v", "mask", "grad", "grad_stride", "grad_last", "grad_x", "constant",
            "grad_v", "threshold_sums", "norm_sums", "room",
        )
    )  # fmt: skip


def plain(tensor: Tensor, *dtypes: torch.dtype) -> bool:
    """Whether the kernels may read a tensor's memory: on the CPU, dense, of one of these types."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.dtype in dtypes
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
    )


def threads_for(elements: int) -> int:
    """How many threads share so many elements: torch's, or one where they are few."""
    return torch.get_num_threads() if elements > SERIAL else 1


def traced() -> bool:
    """Whether `torch.compile` or an export looks on, which see operations, not kernels."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


@cache
def window(spec: NeuronSpec) -> Tensor | None:
    """`rise` and `fall` of the sigmoid's sum, [2, bumps that can reach an element].

    None where they leave the floats' range (alpha beyond 24, unless there are few levels) and for a
    gradient that is not built in; empty for one that is no sum.
    """
    if spec.surrogate in WINDOWS:
        return floats(2, 0)
    if spec.surrogate != "sigmoid":
        return None
    reach = math.ceil(_NEGLIGIBLE / spec.alpha)
    size = min(spec.levels, 2 * reach + 1)
    if spec.alpha * (size - 1) / 2 > _RANGE:
        return None
    bumps = torch.arange(size, dtype=torch.float64, device="cpu")
    exponents = spec.alpha * ((size - 1) / 2 - bumps)
    return torch.stack([exponents, -exponents]).exp().float()


def empty_like_steps(x: Tensor, dtype: torch.dtype, steps: int | None = None) -> Tensor:
    """An empty tensor of x's shape, dense over time, each step in the memory layout of x[0].

    `empty_like` will not do: the stem's drive is one step *expanded* over T, and layouts such as
    channels_last have to survive for the next convolution.

    Args:
        x: [T, B, ...].
        dtype: of the result.
        steps: T of the result, if not that of x.
    """
    step = torch.empty_like(x[0], device="meta")
    shape = (x.shape[0] if steps is None else steps, *x.shape[1:])
    return torch.empty_strided(shape, (step.numel(), *step.stride()), dtype=dtype, device=x.device)


def dense_steps(x: Tensor) -> Tensor:
    """x [T, B, ...] laid out as `empty_like_steps` does, copied only if it is not."""
    like = empty_like_steps(x, torch.int8)
    first = 0 if len(x) > 1 else 1  # the stride of a single step means nothing
    return (
        x if x.stride()[first:] == like.stride()[first:] else empty_like_steps(x, x.dtype).copy_(x)
    )


def laid_out(tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    """`tensor`, a step or [T, a step], copied only if its steps do not have these strides."""
    if tensor.stride()[-len(strides) :] == strides:
        return tensor
    size = math.prod(tensor.shape[-len(strides) :])
    strides = (size, *strides)[-tensor.dim() :]
    return restored(tensor, strides)


def restored(tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    """`tensor`, copied only if it does not have these strides."""
    if tensor.stride() == strides:
        return tensor
    like = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device)
    return like.copy_(tensor)


def inner_of(like: Tensor, channels: int) -> int:
    """Memory distance between the channels of `like` [T, B, C, ...]."""
    return like.stride(2) if channels > 1 else 1


def layer(
    like: Tensor, table: Tensor, channels: int, spec: NeuronSpec, normed: bool = False
) -> Layer:
    """The arguments that the kernels share.

    Args:
        like: [T, B, ...] as `empty_like_steps` makes it.
        table: rows of common.h, as `repeated` makes them; the result points into it, so it has to
            live as long.
        channels: that have constants of their own.
        spec: of the neurons.
        normed: a batch norm stands before the neurons.
    """
    sums = window(spec)
    assert sums is not None  # `usable` has asked
    return Layer(
        elements=math.prod(like.shape[1:]),
        steps=len(like),
        channels=channels,
        inner=inner_of(like, channels),
        normed=normed,
        levels=spec.levels,
        window=sums.shape[1],
        detach=spec.detach_reset,
        bfloat16=like.dtype == torch.bfloat16,
        bypass=like.nbytes > CACHED,
        threads=threads_for(like.numel()),
        alpha=spec.alpha,
        beta=spec.beta,
        reach=1 + WINDOWS.get(spec.surrogate, 0) / spec.levels,
        constants=table.data_ptr(),
        width=table.stride(0),
        rise=sums[0].data_ptr(),
        fall=sums[1].data_ptr(),
    )


def repeated(rows: Tensor, inner: int) -> Tensor:
    """`rows` [rows, channels] as the kernels look them up.

    Where channels are neighbours in memory a block reads on from any channel, so they start anew.
    """
    return rows.repeat(1, 1 + math.ceil(BLOCK / rows.shape[1])) if inner == 1 else rows


def neuron_rows(threshold: float | Tensor, spec: NeuronSpec) -> Tensor:
    """The first four rows of common.h for every threshold, float32 [4, channels]."""
    rest = threshold * (spec.beta * spec.v_init / spec.levels)
    threshold, rest = (
        torch.as_tensor(value, dtype=torch.float32, device="cpu").flatten()
        for value in (threshold, rest)
    )
    scale = spec.levels / threshold.double()
    rounded = scale.float()
    return torch.stack([threshold, rest, rounded, (scale - rounded).float()])


@lru_cache(maxsize=256)
def fixed_rows(threshold: float, spec: NeuronSpec) -> Tensor:
    """`repeated` rows of a threshold that is a number: small layers would notice 20 microseconds.

    Kept as ordinary tensors whatever mode asks first: a training may be the next to use them.
    """
    with torch.inference_mode(False):
        return repeated(neuron_rows(threshold, spec), 1)


def window_mask(
    spikes: Tensor, spec: NeuronSpec, needs_grad: Sequence[bool], threshold: int
) -> tuple[Tensor | None, bool]:
    """Room for the gradient's window, a byte an element, and whether it is all that is kept.

    Args:
        spikes: laid out as the mask will be.
        needs_grad: of every input of the function.
        threshold: which of them is V_th: its gradient needs the potentials, no mask tells them.
    """
    masked = spec.surrogate in WINDOWS and not needs_grad[threshold]
    if masked and any(needs_grad):
        return torch.empty_like(spikes, dtype=torch.uint8), True
    return None, masked


def floats(*shape: int) -> Tensor:
    """Room for float32 on the CPU, whatever torch's defaults are."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def zeros(*shape: int) -> Tensor:
    """Sums to begin with, float64 on the CPU."""
    return torch.zeros(shape, dtype=torch.float64, device="cpu")


def pointer(tensor: Tensor | None) -> Any:
    """The address of a tensor's memory, or NULL."""
    return None if tensor is None else tensor.data_ptr()
