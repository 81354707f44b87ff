"""results/STUDY.json: the finished runs of a study, each with the settings that made it.

A row found in it is finished on every machine. It is written after each run, so two machines that
train different rows merge by adding lists.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from multispike.config import TrainConfig, deciding, differing
from multispike.results import RunResult, read_runs, write_runs

CHECKPOINT_BYTES = 5_000_000
"""Weights up to this size are kept beside the results."""


class Archive:
    """The runs of one study in `path`, RESULTS/STUDY.json; read anew whenever asked for, since
    others may bring in their runs during a training."""

    def __init__(self, results: str | Path, study: str) -> None:
        self.study = study
        self.path = Path(results) / f"{study}.json"

    @property
    def runs(self) -> list[RunResult]:
        """Results with "settings"; "name" is the row's label."""
        return read_runs(self.path) if self.path.exists() else []

    def finished(self, label: str, config: TrainConfig) -> bool:
        """Whether the row's run is here and was made under the same settings."""
        found = [run for run in self.runs if (run.name, run.seed) == (label, config.seed)]
        return bool(found) and not differing(found[0].settings or {}, config)

    def remove(self, label: str, seed: int) -> None:
        """Forget a run."""
        others = self._without(label, seed)
        if len(others) < len(self.runs):
            self._write(others)

    def add(self, label: str, config: TrainConfig, result: RunResult) -> None:
        """Put a finished run in the place of an older one, and write the file."""
        others = self._without(label, config.seed)
        entry = replace(result, name=label, settings=deciding(asdict(config)))
        self._write(sorted([*others, entry], key=lambda run: (run.name, run.seed)))

    def _without(self, label: str, seed: int) -> list[RunResult]:
        return [run for run in self.runs if (run.name, run.seed) != (label, seed)]

    def _write(self, runs: list[RunResult]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        command = f"multispike reproduce {self.study} --data-dir DIR"
        write_runs(self.path, runs, study=self.study, command=command)

    def checkpoint(self, label: str, seed: int) -> Path:
        """Where the weights of a run are kept, if they are small."""
        return self.path.parent / "checkpoints" / f"{self.study}-{label}-s{seed}.ckpt"

    def keep_weights(self, label: str, config: TrainConfig) -> None:
        """Keep the weights at the end of a run, and only them, if they are small.

        The file is one for `load_run`; of its settings, paths of this machine are left out.
        """
        from multispike.training.run import read_checkpoint, weights_of, write_checkpoint

        content = read_checkpoint(Path(config.folder) / "last.ckpt")
        size = sum(v.numel() * v.element_size() for v in content["state_dict"].values())
        target = self.checkpoint(label, config.seed)
        if size > CHECKPOINT_BYTES:
            target.unlink(missing_ok=True)
            return
        kept = weights_of(content)
        portable = asdict(replace(config, data_dir=None, out=None, resume=False, overwrite=False))
        kept["multispike"] = {**content["multispike"], "config": portable}
        target.parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(target, kept)
