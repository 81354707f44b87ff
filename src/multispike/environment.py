"""The machine: what a figure was measured with, and how its memory is kept."""

from __future__ import annotations

import ctypes
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def environment() -> dict[str, Any]:
    """The `environment` entry of result.json."""
    import torch

    from multispike import __version__

    return {
        "version": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cpu_name() -> str:
    """The processor's model name, as the system gives it.

    Virtual machines often hide the model ("AMD EPYC"), so x86 processors are told apart by their
    family and model numbers as well.
    """
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    first = info.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    facts = {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in first.splitlines())
    }
    name = facts.get("model name") or platform.machine()
    if "cpu family" in facts and "model" in facts:
        name += f" (family {facts['cpu family']}, model {facts['model']})"
    return name


# Parameters of mallopt in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let this process keep the memory that tensors free, instead of handing it back.

    By default glibc maps every block above 32 MiB anew and trims its heap, so that each batch takes
    thousands of page faults for the same activations (`benchmarks/allocator.py` measures what that
    costs). The price is that memory once used stays with the process until it ends, and
    fragmentation. Call it before the first large tensor is made; the command line does.

    Returns:
        Whether it took effect: False without glibc (macOS, Windows, musl), where nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: Windows wants a name
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1))
    return all([mallopt(parameter, value) == 1 for parameter, value in settings])
