"""What a figure was measured with: versions, processor, threads, date."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from pathlib import Path

from multispike import __version__


def environment() -> dict[str, str | int]:
    """The `environment` entry of result.json."""
    import torch

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
