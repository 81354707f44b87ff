"""The machine: what a figure was measured with, and how its memory is kept."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multispike import __version__

if TYPE_CHECKING:
    import torch


def environment(device: torch.device | None = None) -> dict[str, Any]:
    """The `environment` entry of result.json; `device`: where the network ran, the CPU by default.

    Of an accelerator its name, memory in GB and driver, as far as they are known.
    """
    import torch

    accelerator: dict[str, Any] = {}
    if device is not None and device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        memory = {"accelerator_gb": round(card.total_memory / 1e9, 1), "driver": driver()}
        accelerator = {"accelerator": card.name, **memory}
    elif device is not None and device.type != "cpu":
        accelerator = {"accelerator": device.type}

    return {
        "version": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        **accelerator,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cores() -> int:
    """The processor's cores that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return allowed or 1


def cpu_facts() -> dict[str, str]:
    """What Linux says of the first processor; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8", errors="replace") if info.exists() else ""
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def cpu_name() -> str:
    """The processor's model name. Virtual machines often hide it ("AMD EPYC"), so x86 processors
    are told apart by their family and model numbers as well."""
    facts = cpu_facts()
    name = facts.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in facts and "model" in facts:
        name += f" (family {facts['cpu family']}, model {facts['model']})"
    return name


def driver(file: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """Version of NVIDIA's driver, as Linux tells it; None elsewhere."""
    text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    found = re.search(r"^NVRM.*? (\d+(\.\d+)+) ", text)
    return found[1] if found else None


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of mallopt in glibc's malloc.h."""


def wait_briefly() -> None:
    """Let OpenMP threads that wait for each other sleep soon.

    GNU's library looks 300,000 times, about 15 ms, whether the others are there; where another
    program has a core, every operation may wait that long. Here it is 20,000; on a quiet machine
    that costs a few per cent at most (`benchmarks/waiting.py` measures both). The variables
    OMP_WAIT_POLICY and GOMP_SPINCOUNT go before. Call it before torch is imported; the command
    line does.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def keep_freed_memory() -> bool:
    """Let this process keep the memory that tensors free; False without glibc, where it can't.

    By default glibc maps every block above 32 MiB anew and trims its heap, so that each batch takes
    thousands of page faults for the same activations (`benchmarks/allocator.py` measures it). The
    price is memory that stays until the process ends, and fragmentation. Call it before the first
    large tensor is made; the command line does.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: Windows wants a name
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1))
    return all([mallopt(parameter, value) == 1 for parameter, value in settings])
