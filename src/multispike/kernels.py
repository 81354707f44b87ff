"""Neurons fused in C: one pass over memory for all timesteps, built once on the user's machine.

`kernels.c` is compiled at the first use (about a second), kept in the cache folder under a name
that hashes source, compiler, flags and processor, and called through ctypes. Spikes and potentials
are bit for bit those of the eager code in `multispike.neurons`; gradients agree within rounding.
Drives and spikes are float32 or bfloat16; what is computed in between is float32.
Where there is no C compiler, one warning says so and the eager code does the work.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
import warnings
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from multispike.files import default_cache_dir, replacing
from multispike.surrogate import WINDOWS

if TYPE_CHECKING:
    from multispike.surrogate import NeuronSpec

SOURCE = Path(__file__).with_suffix(".c")

FLAGS = (
    *("-std=c11", "-O3", "-march=native", "-fPIC"),
    # Exactness: no fused multiply-add but where the source asks for it.
    "-ffp-contract=off",
    # These two change no value; without them conditionals and floorf are not vectorised.
    *("-fno-trapping-math", "-fno-math-errno"),
)

MAX_LEVELS = 2**16
"""Largest N of the kernel: its guess of the level is off by less than one up to here."""

SERIAL = 2**15
"""Element-steps below which a second thread costs more than it brings."""

_NEGLIGIBLE = 16.2
"""A bump that is further away than this, in units of 1/alpha, adds less than 1e-7 to the slope."""

_RANGE = 40.0
"""Largest alpha times half a window; beyond, the constants of the sum leave the floats' range."""


_building = threading.Lock()


class _Layer(ctypes.Structure):
    """`Layer` of kernels.c."""

    _fields_ = (
        *[
            (name, ctypes.c_int64)
            for name in (
                "elements", "steps", "channels", "inner", "levels", "window", "detach", "bfloat16",
                "threads",
            )
        ],
        *[(name, ctypes.c_float) for name in ("alpha", "beta", "reach")],
        *[(name, ctypes.c_void_p) for name in ("constants", "rise", "fall")],
    )  # fmt: skip


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None (after one warning) where they can't be built or loaded.

    The compiler is $CC, else the first of cc, gcc and clang that exists. OpenMP's functions stay
    undefined in the object and bind to the runtime that torch has loaded already: two runtimes
    would each keep a thread a core spinning. Where that fails the kernels run on one thread.
    """
    errors = []
    compiler = _compiler()
    if compiler is None:
        errors.append("no C compiler found (cc, gcc, clang or $CC)")
    else:
        for parallel in ("-fopenmp", "-fopenmp-simd"):
            try:
                with _building:
                    path = _built(compiler, (*FLAGS, parallel))
                return _declared(ctypes.CDLL(os.fspath(path)))
            except (OSError, subprocess.SubprocessError) as error:
                errors.append(_reason(error))
    warnings.warn(
        f"neurons run several times slower, without their compiled kernels: {errors[0]}",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


def _compiler() -> list[str] | None:
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    return next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


def _built(compiler: list[str], flags: tuple[str, ...]) -> Path:
    """The shared library for this source, compiler and processor, compiled if not in the cache.

    It is made beside its place and renamed: whole or absent, whoever is killed and however many
    processes build it at once.
    """
    version = subprocess.run([*compiler, "--version"], check=True, capture_output=True).stdout
    key = hashlib.sha256(SOURCE.read_bytes() + version)
    key.update(repr((compiler, flags, _processor())).encode())
    target = _folder() / f"{key.hexdigest()[:32]}.so"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory() as folder, replacing(target) as library_file:
        made = Path(folder, "kernels.o")
        for command in (
            [*compiler, *flags, "-c", "-o", made, SOURCE],
            # Linked without -fopenmp, which would bring a runtime of its own.
            [*compiler, "-shared", "-o", library_file, made, "-lm"],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True)
    return target


def _folder() -> Path:
    """Below `$MULTISPIKE_CACHE`, or else `~/.cache/multispike`; where that can't be written, a
    folder that lasts as long as this process."""
    folder = default_cache_dir() / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(_own_folder().name)
    return folder if os.access(folder, os.W_OK) else Path(_own_folder().name)


@cache
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="multispike-")


def _processor() -> str:
    """What -march=native depends on: a cache may lie on a disk that several machines share."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    names = ("vendor_id", "cpu family", "model", "flags", "CPU", "Features")
    return "\n".join(line for line in lines if line.startswith(names))


def _reason(error: Exception) -> str:
    """The one line of a failed command or load that says what was wrong."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = str(error.stderr or "").strip().splitlines()
        return f"{shlex.join(map(str, error.cmd[:1]))}: {lines[0] if lines else error}"
    return str(error)


def _declared(loaded: ctypes.CDLL) -> ctypes.CDLL:
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    layer = ctypes.POINTER(_Layer)
    loaded.multispike_forward.argtypes = [layer, pointer, integer, *[pointer] * 4]
    loaded.multispike_backward.argtypes = [
        *(layer, pointer, integer, pointer, pointer),
        *(pointer, integer, pointer, pointer, pointer, pointer, pointer),
    ]
    loaded.multispike_forward.restype = loaded.multispike_backward.restype = None
    return loaded


def usable(x: Tensor, v: Tensor | None, threshold: float | Tensor, spec: NeuronSpec) -> bool:
    """Whether `FusedSpikes` takes these inputs: plain tensors on the CPU, run eagerly; float32, but
    for x, which may be bfloat16.

    Under `torch.compile` and in exports the traceable code is wanted, which Inductor fuses with
    the batch norm before it.
    """
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return False
    tensors = [t for t in (x, v, threshold) if isinstance(t, Tensor)]
    plain = all(
        type(t) in (Tensor, torch.nn.Parameter)
        and (t.dtype == torch.float32 or (t is x and t.dtype == torch.bfloat16))
        and t.device.type == "cpu"
        and t.layout == torch.strided
        for t in tensors
    )
    if not plain or spec.levels > MAX_LEVELS or _window(spec) is None:
        return False
    if isinstance(threshold, Tensor) and threshold.numel() != 1:
        channels = (x.shape[2], *[1] * (x.dim() - 3)) if x.dim() > 2 else None
        if threshold.shape != channels:
            return False
    return library() is not None


@cache
def _window(spec: NeuronSpec) -> Tensor | None:
    """`rise` and `fall` of the sigmoid's sum, [2, bumps that can reach an element].

    None where they leave the floats' range (alpha beyond 24, unless there are few levels); empty
    for a gradient that is no sum.
    """
    if spec.surrogate != "sigmoid":
        return torch.empty(2, 0)
    reach = math.ceil(_NEGLIGIBLE / spec.alpha)
    size = min(spec.levels, 2 * reach + 1)
    if spec.alpha * (size - 1) / 2 > _RANGE:
        return None
    exponents = spec.alpha * ((size - 1) / 2 - torch.arange(size, dtype=torch.float64))
    return torch.stack([exponents, -exponents]).exp().float()


def empty_like_steps(x: Tensor, dtype: torch.dtype) -> Tensor:
    """An empty tensor of x's shape, dense over time, each step in the memory layout of x[0].

    `empty_like` will not do: the stem's drive is one step *expanded* over T, and layouts such as
    channels_last have to survive for the next convolution.
    """
    step = torch.empty_like(x[0], device="meta")
    strides = (step.numel(), *step.stride())
    return torch.empty_strided(x.shape, strides, dtype=dtype, device=x.device)


def _laid_out(tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    """`tensor`, a step or [T, a step], copied only if its steps do not have these strides."""
    if tensor.stride()[-len(strides) :] == strides:
        return tensor
    size = math.prod(tensor.shape[-len(strides) :])
    strides = (size, *strides)[-tensor.dim() :]
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor)


def _layer(like: Tensor, constants: Tensor, spec: NeuronSpec) -> _Layer:
    """The arguments that both kernels share; `like` is [T, ...] as `empty_like_steps` makes it.

    It points into `constants`, which have to outlive it.
    """
    steps, channels = like.shape[0], constants.shape[1]
    elements = math.prod(like.shape[1:])
    window = _window(spec)
    assert window is not None  # `usable` has asked
    return _Layer(
        elements=elements,
        steps=steps,
        channels=channels,
        inner=like.stride(2) if channels > 1 else max(elements, 1),
        levels=spec.levels,
        window=window.shape[1],
        detach=spec.detach_reset,
        bfloat16=like.dtype == torch.bfloat16,
        threads=torch.get_num_threads() if elements * steps > SERIAL else 1,
        alpha=spec.alpha,
        beta=spec.beta,
        reach=1 + WINDOWS.get(spec.surrogate, 0) / spec.levels,
        constants=constants.data_ptr(),
        rise=window[0].data_ptr(),
        fall=window[1].data_ptr(),
    )


def _constants(threshold: float | Tensor, spec: NeuronSpec) -> Tensor:
    """`Constants` of kernels.c for every threshold, float32 [4, channels]."""
    rest = torch.as_tensor(threshold * (spec.beta * spec.v_init / spec.levels)).flatten()
    threshold = torch.as_tensor(threshold, dtype=torch.float32).flatten()
    scale = spec.levels / threshold.double()
    rounded = scale.float()
    return torch.stack([threshold, rest.float(), rounded, (scale - rounded).float()])


@lru_cache(maxsize=256)
def _fixed_constants(threshold: float, spec: NeuronSpec) -> Tensor:
    """For thresholds that are numbers: small layers would notice the twenty microseconds.

    Kept as ordinary tensors whatever mode asks first: a training may be the next to use them.
    """
    with torch.inference_mode(False):
        return _constants(threshold, spec)


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


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
        x = _laid_out(x, strides)
        v = None if v is None else _laid_out(v, strides)
        masked = spec.surrogate in WINDOWS and not ctx.needs_input_grad[2]
        mask = None
        if masked and any(ctx.needs_input_grad):
            mask = torch.empty_strided(spikes.shape, spikes.stride(), dtype=torch.uint8)
        state = torch.empty_strided(x.shape[1:], strides, dtype=torch.float32) if last else None
        learned = isinstance(threshold, Tensor)
        constants = _constants(threshold, spec) if learned else _fixed_constants(threshold, spec)
        layer = _layer(spikes, constants, spec)
        kernels.multispike_forward(
            layer, x.data_ptr(), x.stride(0), _pointer(v), *map(_pointer, (spikes, mask, state))
        )
        ctx.spec, ctx.strides = spec, spikes.stride()
        ctx.threshold_shape = threshold.shape if learned else None
        ctx.save_for_backward(mask, None if masked else x, None if masked else v, constants)
        return spikes, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor, grad_last: Tensor | None) -> Any:
        kernels = library()
        assert kernels is not None
        spec: NeuronSpec = ctx.spec
        mask, x, v, constants = ctx.saved_tensors
        strides = ctx.strides[1:]
        grad_spikes = _laid_out(grad_spikes, strides)
        grad_last = None if grad_last is None else _laid_out(grad_last, strides)
        grad_x = torch.empty_strided(grad_spikes.shape, ctx.strides, dtype=grad_spikes.dtype)
        layer = _layer(grad_x, constants, spec)
        sums = grad_v = room = None
        if ctx.needs_input_grad[1]:
            grad_v = torch.empty_strided(grad_x.shape[1:], strides, dtype=torch.float32)
        if ctx.needs_input_grad[2]:
            sums = torch.zeros(layer.threads, layer.channels, dtype=torch.float64)
        if mask is None:
            block = ctypes.c_int64.in_dll(kernels, "multispike_block").value
            size = layer.threads * layer.steps * min(block, layer.elements)
            room = torch.empty(size, dtype=torch.float32)
        kernels.multispike_backward(
            layer,
            *(_pointer(x), 0 if x is None else x.stride(0), _pointer(v), _pointer(mask)),
            *(grad_spikes.data_ptr(), grad_spikes.stride(0), _pointer(grad_last)),
            *(grad_x.data_ptr(), _pointer(grad_v), _pointer(sums), _pointer(room)),
        )
        grad_threshold = None if sums is None else sums.sum(0).float().view(ctx.threshold_shape)
        return grad_x, grad_v, grad_threshold, None, None
