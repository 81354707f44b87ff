"""What several benchmarks ask of the machine: versions of programs, memory of this process."""

from __future__ import annotations

import subprocess
from pathlib import Path


def version_of(tool: str) -> str:
    """The first line of what a tool says of itself."""
    done = subprocess.run([tool, "--version"], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()[0]


def resident_mb(field: str) -> float:
    """Of this process, as Linux has it: VmRSS is now, VmHWM the most ever.

    `getrusage` will not do in a child: its peak begins with what the parent held at the fork.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = [line for line in status.splitlines() if line.startswith(field)]
    return int(line.split()[1]) * 1024 / 1e6
