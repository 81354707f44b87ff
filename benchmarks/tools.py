"""What several benchmarks share: versions of programs, memory of this process, spreads."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path


def version_of(tool: str) -> str:
    """The first line of what a tool says of itself."""
    done = subprocess.run([tool, "--version"], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()[0]


def spread(ratios: Sequence[float]) -> dict[str, float]:
    """Median, least and largest of repetitions."""
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def resident_mb(field: str) -> float:
    """Of this process, as Linux has it: VmRSS is now, VmHWM the most ever.

    `getrusage` will not do in a child: its peak begins with what the parent held at the fork.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = [line for line in status.splitlines() if line.startswith(field)]
    return int(line.split()[1]) * 1024 / 1e6
