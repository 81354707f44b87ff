"""Programs beside Python that the deployment benchmarks run."""

from __future__ import annotations

import subprocess


def version_of(tool: str) -> str:
    """The first line of what a tool says of itself."""
    done = subprocess.run([tool, "--version"], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()[0]
