"""docs/results.md: a pure function of the files in results/, section by section."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from multispike.errors import InputError
from multispike.reproduce.studies import STUDIES
from multispike.results import read_json
from page import learning, machine, neurons, speed, studies
from page.referee import qualia, referee
from page.rows import read_study


@dataclass(frozen=True)
class Part:
    """What one file of results/ says.

    Attributes:
        file: its name, or a pattern for several.
        command: what writes it, for the line that stands in its place as long as it is missing.
        render: its content -> blocks of Markdown. Benchmarks' take the file's name as well.
    """

    file: str
    command: str
    render: Callable[..., list[str]]
    named: bool = True


def _study(name: str, render: Callable[..., list[str]], data: str = " --data-dir DIR") -> Part:
    return Part(f"{name}.json", f"multispike reproduce {name}{data}", render, named=False)


SECTIONS: dict[str, tuple[Part, ...]] = {
    "CIFAR-10": (_study("table-cifar10", studies.cifar10),),
    "Fronts": (_study("front", studies.front),),
    "CIFAR-100": (_study("table-cifar100", studies.cifar100),),
    "Residual families": (_study("families", studies.families),),
    "VGG-16": (_study("table-vgg16", studies.vgg16),),
    "Conversion": (
        _study("conversion", studies.conversion),
        _study("conversion-digits", studies.conversion, ""),
    ),
    "Event data": (_study("table-dvs", studies.dvs),),
    "Recorded events": (
        _study("table-nmnist", studies.nmnist),
        Part("nmnist-folds.json", "python benchmarks/nmnist_folds.py DIR", studies.folds),
    ),
    "Transfer function": (_study("transfer", neurons.transfer, ""),),
    "Spike avalanche": (_study("avalanche", neurons.avalanche),),
    "Ablation": (
        Part("ablation*.json", "python benchmarks/ablation.py RECIPE.yaml --data-dir DIR"
             " --work FOLDER", learning.ablation),
        Part("binary*.json", "python benchmarks/binary.py RECIPE.yaml --data-dir DIR"
             " --work FOLDER", learning.binary),
        Part("barrier.json", "python benchmarks/barrier.py RECIPE.yaml --data-dir DIR"
             " --work FOLDER", learning.barrier),
    ),
    "Time to accuracy": (
        Part("time_to_accuracy*.json", "python benchmarks/time_to_accuracy.py",
             learning.time_to_accuracy),
    ),
    "Speed": (
        Part("speed.json", "python benchmarks/speed.py --peers FOLDER --out results/speed.json",
             speed.speed),
        Part("allocator.json", "python benchmarks/allocator.py", speed.allocator),
        Part("waiting.json", "python benchmarks/waiting.py", speed.waiting),
        Part("data.json", "python benchmarks/data.py DIR", speed.loading),
    ),
    "Streaming": (Part("stream.json", "python benchmarks/stream.py", speed.streaming),),
    "Deployment": (
        Part("deploy_exact.json", "python benchmarks/deploy_exact.py RUN ...", machine.exact),
        Part("own_networks.json", "sh benchmarks/own_networks.sh FOLDER DATA-DIR",
             machine.own_networks),
        Part("deploy_speed.json", "python benchmarks/deploy_speed.py --nncf FOLDER",
             machine.engines),
        Part("deploy_callgrind.json", "python benchmarks/deploy_callgrind.py RUN",
             machine.instructions),
        Part("deploy_arm.json", "python benchmarks/deploy_arm.py RUN ...", machine.microcontroller),
    ),
    "Energy model": (
        Part("energy_overhead.json", "python benchmarks/energy_overhead.py DIR",
             machine.overhead),
        Part("neurobench.json", "sh benchmarks/neurobench.sh FOLDER", machine.neurobench),
    ),
    "Networks of others": (
        Part("referee.json", "sh benchmarks/referee.sh FOLDER", referee),
        Part("qualia.json", "sh benchmarks/qualia.sh FOLDER", qualia),
    ),
}  # fmt: skip

INTRODUCTION = """\
# Results

`python benchmarks/make_page.py` writes this page from the JSON files in [`results/`](../results);
each was written by the command below its table. Accuracies are those of the test split after the
last epoch: no epoch and no seed was chosen by them. Thresholds, gradients, learning rates and
barriers of the recipes were, in short trainings, of which [Ablation](#ablation) has those that were
kept; no part of the training images was held out for that.
Events, amplitudes and energies are means per inference. Energies follow Lemaire et al. (2022) with
weights and potentials of 32 bits, in two readings of the memory's price
(`multispike.energy.profiles`). They are computed, not measured on a chip, and `multispike energy`
lists what they leave out."""


def page(results: str | Path) -> str:
    """The whole page from a folder of results.

    Raises:
        InputError: for a file that is no JSON object or lacks what its section reads.
    """
    blocks = [INTRODUCTION]
    for title, parts in SECTIONS.items():
        blocks += [f"## {title}", *(block for part in parts for block in _blocks(part, results))]
    return "\n\n".join(block for block in blocks if block) + "\n"


def contents(results: str | Path, pattern: str) -> Iterator[tuple[str, Any]]:
    """Name and content of the files that match, sorted; `StudyRuns` of studies that train.

    Raises:
        InputError: for a file that is no JSON object, or holds no runs of this version.
    """
    for path in sorted(Path(results).glob(pattern), key=lambda path: path.stem):
        trains = path.stem in STUDIES and STUDIES[path.stem].rows
        yield path.name, read_study(path) if trains else read_json(path)


def _blocks(part: Part, results: str | Path) -> list[str]:
    blocks = []
    for file, content in contents(results, part.file):
        render = partial(part.render, file=file) if part.named else part.render
        try:
            blocks += render(content)
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise InputError(
                f"results: got {file}, which the page can't read ({error!r}); allowed: what"
                f" `{part.command}` of this version writes"
            ) from error
    return blocks or [f"*Not measured yet: `{part.command}` writes `results/{part.file}`.*"]
