"""Settings of the commands that ship: export and bench."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from multispike.errors import invalid

CheckpointName = Literal["last.ckpt", "best.ckpt"]


@dataclass(frozen=True)
class ExportConfig:
    """What to ship of a trained run, and as what.

    Args:
        run: Folder of the run.
        format: c (C99, event-driven), onnx, openvino or nir.
        out: Folder to write to, new or empty; by default RUN/FORMAT.
        checkpoint: last.ckpt (the end of the training) or best.ckpt.
        overwrite: Replace what an earlier export left in that folder.
        json: Write what was exported (sizes, bounds) to this file.
    """

    run: str
    format: Literal["c", "onnx", "openvino", "nir"] = "c"
    out: str | None = None
    checkpoint: CheckpointName = "last.ckpt"
    overwrite: bool = False
    json: str | None = None

    def check(self) -> None:
        """Every value is allowed."""


@dataclass(frozen=True)
class BenchConfig:
    """How to time a trained run in torch, ONNX Runtime, OpenVINO and C.

    Args:
        run: Folder of the run.
        checkpoint: last.ckpt (the end of the training) or best.ckpt.
        threads: Threads of torch, ONNX Runtime and OpenVINO; the C program has one.
        seconds: Time spent on each engine and batch size.
        json: Write the result to this file.
    """

    run: str
    checkpoint: CheckpointName = "last.ckpt"
    threads: int = 2
    seconds: float = 5.0
    json: str | None = None

    def check(self) -> None:
        """Raise `InputError` for the first value that is not allowed."""
        if self.threads < 1:
            raise invalid("threads", self.threads, "an integer >= 1")
        if not 0 < self.seconds < float("inf"):
            raise invalid("seconds", self.seconds, "a number of seconds > 0")
