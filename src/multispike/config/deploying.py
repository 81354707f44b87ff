"""Settings of the commands that ship: export and bench."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from multispike.errors import invalid, require_counts

CheckpointName = Literal["last.ckpt", "best.ckpt"]


@dataclass(frozen=True)
class ExportConfig:
    """What to ship of a trained run, and as what.

    Args:
        run: Folder of the run.
        format: c (C99, event-driven), onnx, openvino or nir.
        out: Folder to write to, new or empty; by default RUN/FORMAT.
        checkpoint: last.ckpt (the end of the training) or best.ckpt.
        overwrite: Replace files of the format's names there, and what exports of others left.
        evaluate: Measure the integer network on the test set, beside the float one.
        finetune: Epochs of training with rounded weights, on the run's own data, before the export;
            advised where rounding costs more than 0.3 points. Implies --evaluate.
        data_dir: Folder with the run's data, if it has moved since the training.
        limit_test: Evaluate on this many test samples only.
        json: Write what was exported (sizes, bounds, accuracy) to this file.
    """

    run: str
    format: Literal["c", "onnx", "openvino", "nir"] = "c"
    out: str | None = None
    checkpoint: CheckpointName = "last.ckpt"
    overwrite: bool = False
    evaluate: bool = False
    finetune: int = 0
    data_dir: str | None = None
    limit_test: int | None = None
    json: str | None = None

    def check(self) -> None:
        """Raise `InputError` for the first value that is not allowed."""
        if self.finetune < 0:
            raise invalid("finetune", self.finetune, "a number of epochs >= 0")
        require_counts(self, "limit_test")
        if self.limit_test is not None and not (self.evaluate or self.finetune):
            raise invalid("limit_test", self.limit_test, "only with --evaluate or --finetune")


@dataclass(frozen=True)
class BenchConfig:
    """How to time a trained run in torch, ONNX Runtime, OpenVINO and C.

    Args:
        run: Folder of the run.
        checkpoint: last.ckpt (the end of the training) or best.ckpt.
        threads: Threads of torch, ONNX Runtime and OpenVINO; the C program has one.
        seconds: Time spent on each engine and batch size.
        data_dir: Folder with the run's data, if it has moved since the training.
        json: Write the result to this file.
    """

    run: str
    checkpoint: CheckpointName = "last.ckpt"
    threads: int = 2
    seconds: float = 5.0
    data_dir: str | None = None
    json: str | None = None

    def check(self) -> None:
        """Raise `InputError` for the first value that is not allowed."""
        require_counts(self, "threads")
        if not 0 < self.seconds < float("inf"):
            raise invalid("seconds", self.seconds, "a number of seconds > 0")
