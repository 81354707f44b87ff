"""What a trained run is measured on: the test split as in its training."""

from __future__ import annotations

import sys
from dataclasses import replace

from multispike.datasets.dataset import Dataset
from multispike.datasets.loader import BatchLoader
from multispike.errors import InputError
from multispike.training.launch import load_data
from multispike.training.run import RESULT, Run

EVALUATION_BATCH = 250


def data_of(run: Run, data_dir: str | None = None, limit_test: int | None = None) -> Dataset:
    """What a run is measured on: its own data, or those at another place or limit."""
    config = replace(
        run.config,
        data_dir=data_dir or run.config.data_dir,
        limit_test=limit_test or run.config.limit_test,
    )
    return load_data(config, config.timesteps)


def evaluation_loader(run: Run, dataset: Dataset) -> BatchLoader:
    """The test split, normalised as in training.

    Raises:
        InputError: if the data set's shape or classes are not those the run was trained on.
    """
    if list(dataset.input_shape) != list(run.data["input_shape"]):
        raise InputError(
            f"data: got images of shape {list(dataset.input_shape)},"
            f" allowed: {run.data['input_shape']}, what the run was trained on"
        )
    if list(dataset.classes) != list(run.data["classes"]):
        raise InputError(
            f"data: got classes {', '.join(dataset.classes)}, allowed:"
            f" {', '.join(run.data['classes'])}, what the run was trained on"
        )
    return BatchLoader(
        dataset.test,
        EVALUATION_BATCH,
        mean=run.data["mean"],
        std=run.data["std"],
        channels_last=run.config.channels_last,
    )


def tell_unfinished(run: Run) -> None:
    """One line where a run's training was stopped before its last epoch."""
    done = int(run.rows[-1]["epoch"]) if run.rows else 0
    if done < run.config.epochs and not (run.folder / RESULT).exists():
        print(f"{run.folder}: stopped after epoch {done} of {run.config.epochs}", file=sys.stderr)
