"""Runs of one setting that differ in their seed: as one group, with means and spreads.

Groups are derived where tables are made; results.json keeps every run.

    groups = grouped(read_runs(Path("DIR/results.json")))
    groups[0].name, groups[0].seeds          # 'ann', [0, 1, 2]
    groups[0].mean                           # a RunResult; its numbers, `Mean` if there are several
    groups[0].mean.accuracy.spread           # sample standard deviation
    write_runs(path, runs, **summary(runs))  # means and spreads beside the runs
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from functools import cached_property
from itertools import zip_longest
from typing import Any, TypeVar

from multispike.config.begun import deciding
from multispike.report.document import Mean
from multispike.results import RunResult

Item = TypeVar("Item")


@dataclass(frozen=True)
class Group:
    """The runs of one setting, by seed."""

    name: str
    """Theirs without -sSEED."""
    runs: tuple[RunResult, ...]

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    def of(self, read: Callable[[RunResult], Item]) -> Item:
        """What `read` finds in the run, or the average of what it finds in the runs: of a number a
        `Mean`; of tuples, dicts and dataclasses that of their parts; of other integers the largest,
        and None where one is None."""
        return averaged([read(run) for run in self.runs])

    @cached_property
    def mean(self) -> RunResult:
        """The group as one result; its confusion matrix has the images of all runs."""
        mean = self.of(lambda run: replace(run, name=self.name))
        if mean.confusion:
            counts = zip(*(run.confusion or () for run in self.runs), strict=True)
            rows = (tuple(map(sum, zip(*rows, strict=True))) for rows in counts)
            mean = replace(mean, confusion=tuple(rows))
        return mean


def averaged(values: Sequence[Any]) -> Any:
    """One value for those of several seeds, see `Group.of`.

    >>> averaged([{"a": (1.0, 3)}, {"a": (2.0, 5)}]), averaged([0.5]), averaged([0.5, None])
    ({'a': (1.5, 5)}, 0.5, None)
    """
    first = values[0]
    if len(values) == 1:
        return first
    if any(value is None for value in values):
        return None
    if isinstance(first, float):
        return Mean(values)
    if isinstance(first, dict):
        shared = [key for key in first if all(key in value for value in values)]
        return {key: averaged([value[key] for value in values]) for key in shared}
    if isinstance(first, (tuple, list)):  # of unequal length: shares of levels that one did not see
        return type(first)(map(averaged, zip_longest(*values, fillvalue=0.0)))
    if all(value == first for value in values):
        return first
    if is_dataclass(first):
        return type(first)(**averaged([vars(value) for value in values]))
    return max(values) if isinstance(first, int) else first


def grouped(runs: Iterable[RunResult]) -> list[Group]:
    """Runs in groups, in the order of their first ones: together are those whose settings are equal
    but for the seed, and whose names are but for -sSEED. A run whose file does not say its
    settings, or whose seed the group has, is alone.

    >>> from types import SimpleNamespace as Run
    >>> runs = [Run(name=f"ann-s{seed}", seed=seed, settings={"lr": 0.1, "seed": seed})
    ...         for seed in (0, 1)]
    >>> [(group.name, group.seeds) for group in grouped(runs)]
    [('ann', [0, 1])]
    """
    found: dict[tuple[str, str | int], list[RunResult]] = {}
    for run in runs:
        name = run.name.removesuffix(f"-s{run.seed}")
        key = name, str({**deciding(run.settings or {}), "seed": None})
        if not run.settings or run.seed in [other.seed for other in found.get(key, ())]:
            key = name, id(run)
        found.setdefault(key, []).append(run)
    by_seed = [(name, sorted(same, key=lambda run: run.seed)) for (name, _), same in found.items()]
    return [Group(name, tuple(same)) for name, same in by_seed]


def count(mean: RunResult) -> int:
    """How many runs a group's mean is of."""
    return len(mean.accuracy.values) if isinstance(mean.accuracy, Mean) else 1


_SUMMED_UP = (
    "accuracy", "loss", "events_per_inference", "amplitude_per_inference", "density",
    "train_seconds", "images_per_second", "total_nj",
)  # fmt: skip


def summary(runs: Sequence[RunResult]) -> dict[str, Any]:
    """What results.json has beside its runs where there are several seeds of one setting: name,
    seeds, and of each number {"mean", "spread"}."""
    found = []
    for group in grouped(runs):
        numbers = {name: getattr(group.mean, name) for name in _SUMMED_UP}
        known = {name: number for name, number in numbers.items() if isinstance(number, Mean)}
        means = {name: {"mean": float(m), "spread": m.spread} for name, m in known.items()}
        found += [{"name": group.name, "seeds": group.seeds, **means}] if means else []
    return {"groups": found} if found else {}
