"""Processes that are killed or interrupted, forked from one that has loaded torch once for all."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from multispike.config import TrainConfig
from multispike.training import Interrupted, fit, loop

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["multispike.training", "multispike.cli"])


def started(target: Callable[..., None], *arguments: object) -> BaseProcess:
    """A process that runs a function, named by its module."""
    process = CONTEXT.Process(target=_run, args=(target, *arguments), daemon=True)
    process.start()
    return process


def _run(target: Callable[..., None], *arguments: object) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which background jobs ignore
    target(*arguments)


def train(config: TrainConfig, step: int) -> None:
    """`fit` that `hold` stops at a step, with the exit code of the command line."""
    hold(Path(config.folder), step)
    try:
        fit(config)
    except Interrupted:
        sys.exit(130)


def hold(run: Path, step: int) -> None:
    """From now on this process waits where last.ckpt of a run has reached that step, until it is
    let go: however busy the machine is, a signal comes before the run has ended."""
    save = loop._save

    def saved(fabric, state, epoch, folder, *best):
        save(fabric, state, epoch, folder, *best)
        while folder == run and state.step >= step and not _released(run).exists():
            time.sleep(0.01)

    loop._save = saved


def let_go(run: Path) -> None:
    """End the wait of a run that a signal has been sent to."""
    _released(run).touch()


def _released(run: Path) -> Path:
    return run.with_name(f"{run.name}.go")


def wait_until(reached: Callable[[], object], alive: Callable[[], bool]) -> None:
    """Wait for something that a living process does."""
    deadline = time.monotonic() + 300
    while not reached():
        assert alive(), "the process ended before"
        assert time.monotonic() < deadline
        time.sleep(0.01)
