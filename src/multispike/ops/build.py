"""The compiled library: built once on the user's machine, kept in the cache folder."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from multispike.environment import cpu_facts
from multispike.files import default_cache_dir, replacing

SOURCES = Path(__file__).parent / "c"

FLAGS = (
    *("-std=c11", "-O3", "-march=native", "-fPIC"),
    # Exactness: no fused multiply-add but where the source asks for it.
    "-ffp-contract=off",
    # These two change no value; without them conditionals and floorf are not vectorised.
    *("-fno-trapping-math", "-fno-math-errno"),
)

_P = ctypes.c_void_p
_SIGNATURES = {
    "multispike_forward": [_P, _P, ctypes.c_int64, *[_P] * 4],
    "multispike_backward": [_P] * 2,
    "multispike_count": [_P] * 5,
    "multispike_pool": [_P] * 4,
    "multispike_pool_backward": [_P] * 4,
}
"""Arguments of the functions, which return nothing."""

_building = threading.Lock()


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None (after one warning) where they can't be built or loaded.

    OpenMP's functions stay undefined in the object and bind to the runtime that torch has loaded
    already: two runtimes would each keep a thread a core spinning. Where that fails the kernels run
    on one thread.
    """
    errors = []
    for parallel in ("-fopenmp", "-fopenmp-simd"):
        try:
            with _building:
                loaded = ctypes.CDLL(os.fspath(_built((*FLAGS, parallel))))
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            errors.append(_reason(error))
            continue
        for name, arguments in _SIGNATURES.items():
            function = getattr(loaded, name)
            function.argtypes, function.restype = arguments, None
        return loaded
    warnings.warn(
        f"neurons run several times slower, without their compiled kernels: {errors[0]}",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


def _compiler() -> list[str]:
    """$CC, else the first of cc, gcc and clang that exists."""
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    raise FileNotFoundError("no C compiler found (cc, gcc, clang or $CC)")


def _built(flags: tuple[str, ...]) -> Path:
    """The shared library for this source, compiler and processor (on whose facts -march=native
    depends; machines may share a cache), compiled if not in the cache."""
    compiler, facts = _compiler(), cpu_facts()
    names = ("vendor_id", "cpu family", "model", "flags", "CPU part", "Features")
    processor = [platform.machine(), platform.processor(), *map(facts.get, names)]
    version = subprocess.run([*compiler, "--version"], check=True, capture_output=True).stdout
    key = hashlib.sha256(version)
    for source in sorted(SOURCES.iterdir()):
        key.update(source.read_bytes())
    key.update(repr((compiler, flags, processor)).encode())
    target = _folder() / f"{key.hexdigest()[:32]}.so"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory() as folder, replacing(target) as library_file:
        made = {source: Path(folder, f"{source.stem}.o") for source in SOURCES.glob("*.c")}
        for command in (
            *([*compiler, *flags, "-c", "-o", to, source] for source, to in made.items()),
            # Linked without -fopenmp, which would bring a runtime of its own.
            [*compiler, "-shared", "-o", library_file, *made.values(), "-lm"],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True)
    return target


def _folder() -> Path:
    """Below `$MULTISPIKE_CACHE`, or else `~/.cache/multispike`; where that can't be written, a
    folder that lasts as long as this process."""
    folder = default_cache_dir() / "kernels"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder if os.access(folder, os.W_OK) else Path(_own_folder().name)


@cache
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="multispike-")


def _reason(error: Exception) -> str:
    """The one line of a failed command or load that says what was wrong."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = str(error.stderr or "").strip().splitlines()
        return f"{error.cmd[0]}: {lines[0] if lines else error}"
    if isinstance(error, ValueError):  # of shlex
        return f"CC: got {os.environ['CC']!r}, allowed: a command ({error})"
    return str(error)


SERIAL = 2**15
"""Elements below which a second thread costs more than it brings."""


def threads_for(elements: int) -> int:
    """How many threads share so many elements: torch's, or one where they are few."""
    return torch.get_num_threads() if elements > SERIAL else 1


def pointer(tensor: Tensor | None) -> int:
    """The address of a tensor's memory, or NULL."""
    return 0 if tensor is None else tensor.data_ptr()


def zeros(*shape: int) -> Tensor:
    """Sums to begin with, float64 on the CPU, whatever torch's defaults are."""
    return torch.zeros(shape, dtype=torch.float64, device="cpu")
