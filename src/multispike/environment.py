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
    """The processor's model name, as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
