"""Settings of a sweep, and the trainings that they stand for. Torch-free."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields, replace
from itertools import product
from random import Random
from typing import Annotated, Any, Literal

from multispike.config import TrainConfig
from multispike.config.types import Count, Folder, Seed, Settings, Where, kinds
from multispike.errors import invalid, unknown

OF_TRIALS = {field.name for field in fields(TrainConfig)} - {"name", "out", "resume", "overwrite"}

Part = Annotated[
    dict[str, Any],
    Where("settings of `multispike train`", lambda part: all(isinstance(k, str) for k in part)),
]
PLACE = re.compile(r"auto|[^\s/]+:[1-9]\d{0,4}")
Address = Annotated[str, Where("auto or HOST:PORT", lambda text: bool(PLACE.fullmatch(text)))]


@dataclass(frozen=True)
class SweepConfig(Settings):
    """Train over many settings, several runs at a time: pip install 'multispike[ray]'.

    Args:
        train: Settings of `multispike train` that all trials have.
        search: Settings to try, each with a list of values, of which all combinations are tried, or
            {choice: [A, B, C]}, {uniform: [LOW, HIGH]} or {loguniform: [LOW, HIGH]}, which are
            drawn. "seed: [0, 1, 2]" repeats everything with three seeds.
        trials: How many times to draw; each draw is tried with all combinations of the lists.
        scheduler: asha stops trials that are less accurate than most others after as many epochs;
            with none, all are trained to their end.
        seed: Of what is drawn.
        workers: Trials at a time; by default one a GPU, or one a core (a core is then all that it
            has, unless train says more threads).
        address: Ray cluster, auto for the one that this machine belongs to; by default processes of
            this machine. DIR and the data have to be on a file system that all machines share.
        out: Folder of the sweep: a run folder a trial, results.json and report.html.

    Examples:
        multispike sweep --config sweep.yaml --out DIR
        multispike sweep --config sweep.yaml --out DIR --address auto --workers 16
        sweep.yaml is for instance:
        train: {arch: fastnet, data: digits, epochs: 5}
        search: {levels: [2, 4], activity_penalty: {loguniform: [0.001, 0.1]}}
        trials: 4
    """

    train: Part | None = None
    search: Part | None = None
    trials: Count = 1
    scheduler: Literal["none", "asha"] = "none"
    seed: Seed = 0
    workers: Count | None = None
    address: Address | None = None
    out: Folder = "runs/sweep"

    def check(self) -> None:
        super().check()
        for run in self.runs():
            run.check()

    def runs(self) -> list[TrainConfig]:
        """One run a trial, the same ones each time. Names tell what they have of the search, the
        seed last, as in a `compare` of several seeds.

        >>> sweep = SweepConfig(search={"seed": [0, 1], "lr": {"uniform": [0.1, 0.2]}}, trials=2)
        >>> [run.name for run in sweep.runs()]
        ['lr=0.1922-s0', 'lr=0.1922-s1', 'lr=0.1233-s0', 'lr=0.1233-s1']
        """
        shared, search = self.train or {}, self.search or {}
        for part, names in (("train", shared), ("search", search)):
            for name in names:
                if name not in OF_TRIALS:
                    raise unknown(part, name, OF_TRIALS, "settings of `multispike train`")
        if twice := shared.keys() & search.keys():
            raise invalid("search", min(twice), "settings that train does not fix")
        if not search:
            raise invalid("search", self.search, "one setting or more, with what to try")
        lists = {name: rule for name, rule in search.items() if isinstance(rule, list) and rule}
        if self.trials > 1 and lists.keys() == search.keys():
            raise invalid("trials", self.trials, "1, as nothing is drawn")
        found: dict[str, TrainConfig] = {}
        for number in range(self.trials):
            drawn = {
                name: _drawn(name, rule, Random(f"{self.seed} {number} {name}"))
                for name, rule in search.items()
                if name not in lists
            }
            for values in product(*lists.values()):
                tried = drawn | dict(zip(lists, values, strict=True))
                run = TrainConfig(**shared | tried)
                words = {key: re.sub(r"[^\w.+-]+", "-", str(tried[key])) for key in search}
                seed = f"-s{words.pop('seed')}" if "seed" in words else ""
                name = "+".join(f"{key}={word}" for key, word in words.items()) or run.variant
                found[name + seed] = replace(run, name=name + seed, out=f"{self.out}/{name}{seed}")
        return [*found.values()]


def _drawn(name: str, rule: Any, random: Random) -> Any:
    """A value of a setting by what `search` has of it, of numbers four digits."""
    match [*rule.items()] if isinstance(rule, dict) else rule:
        case [("choice", [_, *_] as values)]:
            return random.choice(values)
        case [("uniform" | "loguniform" as kind, [int() | float() as low, int() | float() as top])]:
            there, back, least = float, float, -math.inf
            if kind == "loguniform":
                there, back, least = math.log, math.exp, 0.0
            if least < low < top < math.inf:
                value = back(random.uniform(there(low), there(top)))
                whole = all(plain is not float for plain, *_ in kinds(TrainConfig, name))
                return min(max(round(value) if whole else float(f"{value:.4g}"), low), top)
    allowed = "[A, B], {choice: [A, B]}, {uniform: [LOW, HIGH]} or {loguniform: [LOW, HIGH]}"
    raise invalid(f"search.{name}", rule, f"{allowed}, 0 < LOW of the last")
