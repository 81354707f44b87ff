"""The progress bar of downloads and decoding."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


def progress_bar(show: bool, *, bytes: bool = False) -> Progress:
    """A bar on standard error with the time that is left; silent if that is not a terminal.

    bytes: count bytes and show their rate, instead of pieces.
    """
    amounts = (DownloadColumn(), TransferSpeedColumn()) if bytes else (MofNCompleteColumn(),)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *amounts,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not (show and sys.stderr.isatty()),
    )
