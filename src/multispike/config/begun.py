"""Settings of a run that has begun, as its config.yaml has them, beside those that it is to go on
with. Torch-free."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from multispike.config import TrainConfig
from multispike.errors import InputError


def as_given(content: dict[str, Any]) -> dict[str, Any]:
    """The settings of a config.yaml as its run was told them: what it lists as automatic, with the
    values used, was left open.

    >>> as_given({"lr": 0.2, "epochs": 3, "automatic": ["lr"]})
    {'lr': None, 'epochs': 3}
    """
    automatic = content.get("automatic") or ()
    settings = {name: value for name, value in content.items() if name != "automatic"}
    return {name: None if name in automatic else value for name, value in settings.items()}


_FREE = {
    "out", "resume", "overwrite", "name", "data_dir", "download", "threads",
    "checkpoint_seconds", "accelerator", "devices", "strategy", "num_nodes",
    "logger",
}  # fmt: skip
"""Settings that decide where and how fast a run is computed, not what."""


def deciding(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a config.yaml, or of a `TrainConfig`, that decide what a run computes; what
    they don't have gets its default."""
    known = {field.name: settings.get(field.name, field.default) for field in fields(TrainConfig)}
    filled = asdict(TrainConfig(**known).resolved())
    return {name: value for name, value in filled.items() if name not in _FREE}


def differing(old: dict[str, Any], new: TrainConfig) -> list[tuple[str, Any, Any]]:
    """The deciding settings that `old`, as of a config.yaml, has otherwise than `new`, and both
    values.

    >>> differing({"lr": 0.1, "threads": 4}, TrainConfig(lr=0.2, threads=1))
    [('lr', 0.1, 0.2)]
    """
    before, now = deciding(old), deciding(asdict(new))
    return [(name, before[name], now[name]) for name in now if before[name] != now[name]]


def same_run(old: dict[str, Any], new: TrainConfig) -> None:
    """Refuse to go on with a run under other settings than those it began with."""
    for name, before, now in differing(old, new):
        raise InputError(
            f"{name}: got {now!r}, but the run in {new.folder} began with {before!r}; allowed:"
            f" the same value (--config {new.folder}/config.yaml has them all), or --overwrite"
        )
