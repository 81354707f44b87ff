"""`multispike::spikes`: the neurons of a layer as one operator, in eager mode and in every graph.

    multispike::spikes(Tensor x, Tensor? v, Tensor threshold, int levels, str surrogate,
                       float alpha, float v_init, float beta, bool detach_reset,
                       bool return_v=True) -> (Tensor spikes, Tensor v)

x is [T, B, ...], v the potential V[-1] [B, ...] (None starts from v_init). threshold broadcasts
against a step of x; float64 without axes it is a number, rounded where it meets a potential. Spikes
have x's type and, step by step, its layout. The v that comes out is V[T-1], float32 for
half-precision x; with return_v=False it is empty and costs nothing.

On the CPU kernels in C run where they can, else `reference`; on CUDA that, compiled by Inductor.
Two operators more serve training: `_spikes_and_window` also gives the window of a gradient that is
1 inside and 0 outside, a byte an element, so that x need not be kept for the backward, and
`_spikes_backward` is the gradient of both.
"""

from __future__ import annotations

import ctypes
import math
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from struct import Struct
from typing import Any

import torch
from torch import Tensor
from torch._C._autograd import _profiler_enabled
from torch.autograd.function import once_differentiable

from multispike.errors import invalid
from multispike.ops import reference
from multispike.ops.build import library, pointer, threads_for, zeros
from multispike.ops.reference import Constants, empty_like_steps, laid_out, wide
from multispike.surrogate import WINDOWS

CACHED = 2**24
"""Bytes of a result above which little of it would be left in the cache for the next layer."""

MAX_LEVELS = 2**16
"""Largest N of the kernel: its guess of the level is off by less than one up to here."""

BLOCK, TILE = 256, 8192
"""Elements that go through the kernels together, those of common.h and neurons.c."""

_NEGLIGIBLE = 16.2
"""A bump that is further away than this, in units of 1/alpha, adds less than 1e-7 to the slope."""

_RANGE = 40.0
"""Largest alpha times half a window; beyond, the constants of the sum leave the floats' range."""

_LAYER, _GRADIENTS = Struct("11q3fd4P"), Struct("PqPPPqPPPPP")
"""The structures of layer.h and neurons.c of these names."""


@lru_cache(maxsize=64)
def bumps(surrogate: str, alpha: float, levels: int) -> Tensor | None:
    """`rise` and `fall` of the sigmoid's sum, [2, bumps that can reach an element]: empty for a
    gradient that is no sum; None for one that is not built in, and where they leave the floats'
    range (alpha beyond 24, unless there are few levels)."""
    if surrogate in WINDOWS:
        return _floats(2, 0)
    size = min(levels, 2 * math.ceil(_NEGLIGIBLE / alpha) + 1)
    if surrogate != "sigmoid" or alpha * (size - 1) / 2 > _RANGE:
        return None
    with torch.inference_mode(False):  # a training may be the next to use them
        number = torch.arange(size, dtype=torch.float64, device="cpu")
        exponents = alpha * ((size - 1) / 2 - number)
        return torch.stack([exponents, -exponents]).exp().float()


def kernels_for(x: Tensor, threshold: Tensor, c: Constants) -> ctypes.CDLL | None:
    """The kernels, if they compute neurons of x [T, B, C, ...]: float32 or half-precision, with one
    threshold or one a channel, and a gradient that is built in."""
    if threshold.dim() == 0:
        fits = threshold.dtype in (torch.float32, torch.float64)
    else:
        channels = (*x.shape[2:3], *[1] * (x.dim() - 3))
        fits = threshold.dtype == torch.float32 and threshold.shape in (channels, (1,))
    fits = fits and wide(x.dtype) == torch.float32 and c.levels <= MAX_LEVELS
    return library() if fits and bumps(c.surrogate, c.alpha, c.levels) is not None else None


def _layer(like: Tensor, threshold: Tensor, room: Tensor, c: Constants) -> bytes:
    """`Layer` of layer.h, which points into `threshold`, contiguous, and `room` for constants;
    `like` is [T, B, ...] as `_empty` makes it."""
    rise_and_fall = bumps(c.surrogate, c.alpha, c.levels)
    assert rise_and_fall is not None  # `kernels_for` has asked
    steps, channels, size = len(like), threshold.numel(), like.numel()
    width, rise = rise_and_fall.shape[1], rise_and_fall.data_ptr()
    return _LAYER.pack(
        *(size // steps, steps, channels, like.stride(2) if channels > 1 else 1),
        *(c.levels, width, c.detach_reset, like.dtype == torch.bfloat16),
        *(like.nbytes > CACHED, threads_for(size), threshold.dtype == torch.float64),
        *(c.alpha, c.beta, 1 + WINDOWS.get(c.surrogate, 0) / c.levels),
        c.beta * c.v_init / c.levels,
        *(threshold.data_ptr(), room.data_ptr(), rise, rise + 4 * width),
    )


def _empty(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`empty_like_steps` for layers so small that they would notice ten microseconds."""
    return torch.empty_strided(x.shape, _strides(x.shape, x.stride()), dtype=dtype, device="cpu")


@lru_cache(maxsize=256)
def _strides(shape: torch.Size, strides: tuple[int, ...]) -> tuple[int, ...]:
    x = torch.empty_strided(shape, strides, dtype=torch.uint8, device="meta")
    return empty_like_steps(x, x.dtype).stride()


def _floats(*shape: int) -> Tensor:
    """Room for float32 on the CPU, whatever torch's defaults are."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def _forward_cpu(
    x: Tensor, v: Tensor | None, threshold: Tensor, c: Constants, with_window: bool, return_v: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    kernels = kernels_for(x, threshold, c)
    if kernels is None:
        return reference.forward(x, v, threshold, c, with_window, return_v)
    half = x.dtype == torch.float16
    x = x.float() if half else x
    spikes = _empty(x, x.dtype)
    x = laid_out(x, spikes.stride())
    v = None if v is None else laid_out(v.float(), spikes.stride())
    window = torch.empty_like(spikes, dtype=torch.uint8) if with_window else None
    last = torch.empty_like(spikes[0], dtype=torch.float32) if return_v else None
    threshold, constants = threshold.contiguous(), _floats(4, threshold.numel() + BLOCK)
    kernels.multispike_forward(
        _layer(spikes, threshold, constants, c),
        *(x.data_ptr(), x.stride(0), pointer(v)),
        *map(pointer, (spikes, window, last)),
    )
    return spikes.half() if half else spikes, last, window


def _backward_cpu(
    grad_spikes: Tensor, grad_last: Tensor | None, window: Tensor | None, x: Tensor | None,
    v: Tensor | None, threshold: Tensor, c: Constants, need_v: bool, need_threshold: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    kernels = kernels_for(grad_spikes, threshold, c)
    if kernels is None:
        kept = grad_spikes, grad_last, window, x, v, threshold
        return reference.backward(*kept, c, need_v, need_threshold)
    half = grad_spikes.dtype == torch.float16
    if half:
        grad_spikes, x = grad_spikes.float(), None if x is None else x.float()
    like = window if x is None else x
    assert like is not None
    grad_x = _empty(like, grad_spikes.dtype)
    strides = grad_x.stride()
    grad_spikes = laid_out(grad_spikes, strides)
    grad_last = None if grad_last is None else laid_out(grad_last, strides)
    x = None if x is None else laid_out(x, strides)
    v = None if v is None else laid_out(v.float(), strides)
    if window is not None and window.stride() != strides:
        window = torch.empty_like(grad_x, dtype=torch.uint8).copy_(window)
    threshold, constants = threshold.contiguous(), _floats(4, threshold.numel() + BLOCK)
    threads, steps = threads_for(grad_x.numel()), len(grad_x)
    grad_v = torch.empty_like(grad_x[0], dtype=torch.float32) if need_v else None
    sums = zeros(threads, threshold.numel()) if need_threshold else None
    potentials = _floats(threads, steps, TILE) if window is None else None
    kernels.multispike_backward(
        _layer(grad_x, threshold, constants, c),
        _GRADIENTS.pack(
            *(pointer(x), 0 if x is None else x.stride(0), pointer(v), pointer(window)),
            *(pointer(grad_spikes), grad_spikes.stride(0), pointer(grad_last), pointer(grad_x)),
            *(pointer(grad_v), pointer(sums), pointer(potentials)),
        ),
    )
    grad_threshold = None if sums is None else sums.sum(0).float().view(threshold.shape)
    return grad_x.half() if half else grad_x, grad_v, grad_threshold


def by_inductor(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, compiled by Inductor at its first call; where that fails, one warning says so and
    it runs as it is."""
    compiled: Callable[..., Any] | None = None

    def run(*arguments: Any) -> Any:
        nonlocal compiled
        compiled = compiled or torch.compile(function, fullgraph=True)
        if compiled is not function:
            try:
                with torch._dynamo.config.patch(recompile_limit=256):  # for layers of all settings
                    return compiled(*arguments)
            except Exception as error:
                compiled = function
                reason = str(error).strip().partition("\n")[0]
                warnings.warn(
                    f"neurons run several times slower, without Inductor: {reason}",
                    RuntimeWarning,
                    stacklevel=2,
                )
        return function(*arguments)

    return run


_NUMBERS = "int levels, str surrogate, float alpha, float v_init, float beta, bool detach_reset"
_INPUTS = f"Tensor x, Tensor? v, Tensor threshold, {_NUMBERS}, bool return_v=True"
_KEPT = "Tensor grad_spikes, Tensor? grad_v, Tensor? window, Tensor? x, Tensor? v, Tensor threshold"
_LIBRARY = torch.library.Library("multispike", "DEF")
_LIBRARY.define(f"spikes({_INPUTS}) -> (Tensor spikes, Tensor v)")
_LIBRARY.define(f"_spikes_and_window({_INPUTS}) -> (Tensor spikes, Tensor v, Tensor window)")
_LIBRARY.define(
    f"_spikes_backward({_KEPT}, {_NUMBERS}, bool need_v, bool need_threshold)"
    " -> (Tensor grad_x, Tensor grad_v, Tensor grad_threshold)"
)
spikes = torch.ops.multispike.spikes.default
_spikes_and_window = torch.ops.multispike._spikes_and_window.default
_spikes_backward = torch.ops.multispike._spikes_backward.default
"""The operators as Python calls them."""


_UNSEEN = -1
"""Bits of all dispatch keys but those of ordinary tensors on the CPU."""
for _key in ("CPU", "AutogradCPU", "AutocastCPU", "ADInplaceOrView", "BackendSelect"):
    _UNSEEN &= ~torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, _key)).raw_repr()


def plain(*tensors: Tensor | None) -> bool:
    """Whether tensors are ordinary ones on the CPU, and nothing but autograd looks on: no mode,
    transform, tracer, profiler or compiler that has to see the operator, whose dispatch takes
    longer than a small layer."""
    if torch.compiler.is_compiling() or torch._C._is_torch_function_mode_enabled():
        return False
    keys = torch._C._dispatch_tls_local_include_set()
    for tensor in tensors:
        keys = keys if tensor is None else keys | torch._C._dispatch_keys(tensor)
    return not keys.raw_repr() & _UNSEEN and not _profiler_enabled()


@lru_cache(maxsize=256)
def _number(value: float) -> Tensor:
    """A threshold that is one number, as the operator takes it."""
    with torch.inference_mode(False):  # a training may be the next to use it
        return torch.full((), value, dtype=torch.float64, device="cpu")


def fire(
    x: Tensor, v: Tensor | None, threshold: float | Tensor, c: Constants, return_v: bool
) -> tuple[Tensor, Tensor | None]:
    """`spikes`, without the dispatcher where nobody would see the difference; the second output is
    of no meaning without `return_v`."""
    if not x.is_floating_point():
        raise invalid("x", x.dtype, "a tensor of floating-point numbers")
    number = not isinstance(threshold, Tensor)
    if not plain(x, v, None if number else threshold):
        if number:
            threshold = torch.full((), threshold, dtype=torch.float64, device="cpu")
        return spikes(x, v, threshold, *c, return_v)
    threshold = _number(threshold) if number else threshold
    if _needs_gradient(x, v, threshold):
        return _Spikes.apply(None, x, v, threshold, c, return_v)  # pyright: ignore[reportReturnType]
    return _forward_cpu(x, v, threshold, c, False, return_v)[:2]


def _needs_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


class _Spikes(torch.autograd.Function):
    """`spikes` with its gradient: by the operators below autograd, or straight by the kernels."""

    @staticmethod
    def forward(
        ctx: Any, keys: Any, x: Tensor, v: Tensor | None, threshold: Tensor, c: Constants,
        return_v: bool,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        with_window, window = c.surrogate in WINDOWS and not ctx.needs_input_grad[3], None
        if keys is None:
            spiked, last, window = _forward_cpu(x, v, threshold, c, with_window, return_v)
        elif with_window:
            inputs = x, v, threshold, *c, return_v
            spiked, last, window = _spikes_and_window.redispatch(keys, *inputs)
        else:
            spiked, last = spikes.redispatch(keys, x, v, threshold, *c, return_v)
        kept = (window, None, None) if with_window else (None, x, v)
        ctx.save_for_backward(*kept, threshold)
        ctx.c, ctx.return_v, ctx.strides = c, return_v, spiked.stride()
        return spiked, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor, grad_last: Tensor | None) -> Any:
        needed = ctx.needs_input_grad[2:4]
        by_v = grad_last if ctx.return_v else None
        window, x, v, threshold = ctx.saved_tensors
        # Hooks on saved tensors may change the layout, which decides that of the gradient.
        window = None if window is None else laid_out(window, ctx.strides)
        x = None if x is None else laid_out(x, ctx.strides)
        kept = grad_spikes, by_v, window, x, v, threshold
        if plain(grad_spikes, by_v):
            grads = _backward_cpu(*kept, ctx.c, *needed)
        else:
            found = _spikes_backward(*kept, *ctx.c, *needed)
            asked = zip(found, (True, *needed), strict=True)
            grads = [grad if need else None for grad, need in asked]
        return None, *grads, None, None


def _returns_v(numbers: Sequence[Any]) -> bool:
    """`return_v` of the schema's numbers: a default is not passed on."""
    return len(numbers) == 6 or numbers[6]


def _differentiable(
    keys: Any, x: Tensor, v: Tensor | None, threshold: Tensor, *numbers: Any
) -> tuple[Tensor, Tensor]:
    below = keys & torch._C._after_autograd_keyset
    if _needs_gradient(x, v, threshold):
        c = Constants(*numbers[:6])
        return _Spikes.apply(below, x, v, threshold, c, _returns_v(numbers))  # pyright: ignore[reportReturnType]
    return spikes.redispatch(below, x, v, threshold, *numbers)


def _forward(function: Callable[..., Any], with_window: bool) -> Callable[..., Any]:
    """The operator `spikes`, or `_spikes_and_window`, by a function that computes it."""

    def computed(x: Tensor, v: Tensor | None, threshold: Tensor, *numbers: Any) -> Any:
        c, return_v = Constants(*numbers[:6]), _returns_v(numbers)
        spiked, last, window = function(x, v, threshold, c, with_window, return_v)
        last = spiked.new_empty(0) if last is None else last
        return (spiked, last, window) if with_window else (spiked, last)

    return computed


def _backward(function: Callable[..., Any]) -> Callable[..., Any]:
    """The operator `_spikes_backward` by a function that computes it."""

    def computed(*inputs: Any) -> tuple[Tensor, ...]:
        found = function(*inputs[:6], Constants(*inputs[6:12]), *inputs[12:])
        return tuple(found[0].new_empty(0) if grad is None else grad for grad in found)

    return computed


for _device, _computes, _differentiates in (
    ("CPU", _forward_cpu, _backward_cpu),
    ("CUDA", by_inductor(reference.forward), by_inductor(reference.backward)),
    ("CompositeExplicitAutograd", reference.forward, reference.backward),
):
    _LIBRARY.impl("spikes", _forward(_computes, False), _device)
    _LIBRARY.impl("_spikes_and_window", _forward(_computes, True), _device)
    _LIBRARY.impl("_spikes_backward", _backward(_differentiates), _device)
_LIBRARY.impl("spikes", _differentiable, "Autograd", with_keyset=True)
torch.library.register_fake("multispike::spikes", _forward(reference.forward, False))
torch.library.register_fake("multispike::_spikes_and_window", _forward(reference.forward, True))
torch.library.register_fake("multispike::_spikes_backward", _backward(reference.backward))
