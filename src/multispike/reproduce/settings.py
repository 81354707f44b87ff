"""Settings of `multispike reproduce`. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from multispike.config.types import Count, Settings, split_names
from multispike.errors import invalid, unknown
from multispike.reproduce.studies import STUDIES


@dataclass(frozen=True)
class ReproduceConfig(Settings):
    """What to reproduce, and where results are kept.

    Args:
        study: Name of a study; without one they are listed.
        data_dir: Folder with the study's data set.
        download: Fetch the official archive into data_dir if it is not there.
        results: Folder of STUDY.json; rows that it has under the same settings are not trained.
        work: Folder of the runs, WORK/STUDY/LABEL-sSEED; a run begun there goes on.
        rows: Labels of the rows to make, comma-separated; by default all.
        seeds: At most this many seeds a row.
        retrain: Forget what is there of these rows first.
    """

    study: str | None = None
    data_dir: str | None = None
    download: bool = False
    results: str = "results"
    work: str = "runs/reproduce"
    rows: str | None = None
    seeds: Count | None = None
    retrain: bool = False

    @property
    def labels(self) -> list[str]:
        """The labels in `rows`; of all rows where there are none given."""
        every = [row.label for row in STUDIES[self.study].rows] if self.study in STUDIES else []
        return split_names(self.rows) if self.rows else every

    def check(self) -> None:
        if self.study is None:
            return
        if self.study not in STUDIES:
            raise unknown("study", self.study, STUDIES)
        known = [row.label for row in STUDIES[self.study].rows]
        for label in self.labels:
            if label not in known:
                raise unknown("rows", label, known)
        if known and not self.labels:
            raise invalid("rows", self.rows, f"some of {', '.join(known)}")
