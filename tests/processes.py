"""Processes that are killed or interrupted, forked from one that has loaded torch once for all."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from multispike.cli import main
from multispike.config import TrainConfig
from multispike.training import Interrupted, fit, loop

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["multispike.training", "multispike.cli"])


def started(target: Callable[..., None], *arguments: object, daemon: bool = True) -> BaseProcess:
    """A process that runs a function, named by its module; as a daemon it has no children."""
    process = CONTEXT.Process(target=_run, args=(target, *arguments), daemon=daemon)
    process.start()
    return process


def _run(target: Callable[..., None], *arguments: object) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which background jobs ignore
    target(*arguments)


class Command:
    """The command line as a process: `python -m multispike.cli`, with pipes at its ends."""

    def __init__(self, *words: str, before: Callable[[], None] | None = None) -> None:
        """`before`: what changes the process first."""
        pipes = [CONTEXT.Pipe(duplex=False) for _ in range(3)]
        theirs, ours = zip(pipes[0], *(pipe[::-1] for pipe in pipes[1:]), strict=True)
        self.process = started(_command, words, before, *theirs, daemon=False)
        self.stdin, self.stdout, self.stderr = (
            os.fdopen(os.dup(end.fileno()), mode)
            for end, mode in zip(ours, ("wb", "rb", "rb"), strict=True)
        )
        for end in (*theirs, *ours):
            end.close()

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()
        for end in (self.stdin, self.stdout, self.stderr):
            with suppress(BrokenPipeError):
                end.close()

    def send(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def ended(self) -> tuple[int | None, str, str]:
        """Exit code, and what it has printed; its source stays open until its end."""
        output, errors = self.stdout.read().decode(), self.stderr.read().decode()
        self.process.join()
        return self.process.exitcode, output, errors


def _command(words: tuple[str, ...], before: Callable[[], None] | None, *ends: Connection) -> None:
    for number, end in enumerate(ends):
        os.dup2(end.fileno(), number)
        end.close()
    modes = enumerate(("r", "w", "w"))
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, mode, closefd=False) for n, mode in modes)
    sys.argv = ["multispike", *words]
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("multispike.cli")
    if before is not None:
        before()
    sys.exit(main())


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
