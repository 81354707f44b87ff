"""The progress bar of whatever takes its time, and the line before there is one."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


def progress_bar(show: bool) -> Progress:
    """A bar on standard error with the time that is left; silent if that is not a terminal."""
    from rich import console, progress

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        console=console.Console(stderr=True),
        speed_estimate_period=600,  # s: a slow epoch may move the bar once a minute
        transient=True,
        disable=not (show and sys.stderr.isatty()),
    )


def time_left(since: float, before: int, done: int, total: int) -> str:
    """For a line where there is no bar, '2:05 left': at the pace since `time.monotonic` said
    `since`, when `before` were done."""
    pace = (time.monotonic() - since) / (done - before)
    minutes, rest = divmod(round(pace * (total - done)), 60)
    return f"{minutes}:{rest:02d} left"


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Show `what` on standard error, if that is a terminal, while something blocks."""
    show = sys.stderr.isatty()
    if show:
        print(f"{what} ...", end="\r", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if show:
            print("\x1b[K", end="", file=sys.stderr, flush=True)
