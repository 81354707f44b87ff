"""How fast are neurons, training steps and inference, against ReLU and against other libraries?

    python benchmarks/speed.py [--peers FOLDER | --before CHECKOUT] [--repeats 30] [--threads 2]
                               [--parts neuron,training,inference,memory,tensors] [--tune-peers]
                               [--out FILE.json [--merge]]

Our cases run in one process, those of SpikingJelly and snnTorch (with --peers, an environment made
by peers.sh) or our own at another commit (with --before, a checkout of it) in another. Their
repetitions take turns, one of each case at a time, so that whatever else the machine does meets all
of them alike. A ratio is the median over repetitions of the time of a case by that of its reference
in the same repetition, with its quartiles. Our process keeps freed memory
(`multispike.environment`), as `multispike train` does; that of the peers runs as their users have
it, unless --tune-peers gives it the same setting. Memory is the peak of three training steps in a
fresh process, less what it held before the model was made; three processes a case. How blocks
happen to fit into gaps of others is part of it. Tensors are the most bytes that the tensors of one
step need at once, by torch's own account, the same every time. Parts may be measured one after the
other: --merge keeps what FILE holds of the others, if the machine and all versions are the same.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from speed_cases import BATCH, IN_MIB, PARTS

CASES = Path(__file__).with_name("speed_cases.py")
PROCESSES = 3  # in which the memory of a case is measured
BEFORE = " before"  # ends the name of a case at the other commit

LIMITS = [  # case, reference, largest ratio that the project promises
    ("neuron/ste T=1 N=4", "neuron/relu T=1", 1.5),
    ("neuron/sigmoid T=1 N=4", "neuron/relu T=1", 3.5),
    ("neuron/ste T=1 N=4", "neuron/spikingjelly I-LIF T=1", 1 / 10),
    ("neuron/sigmoid T=1 N=4", "neuron/spikingjelly I-LIF T=1", 1 / 10),
    ("neuron/ste T=1 N=4", "neuron/spikingjelly I-LIF single step", 1 / 10),
    ("neuron/sigmoid T=1 N=4", "neuron/spikingjelly I-LIF single step", 1 / 10),
    ("neuron/ste T=4 N=1", "neuron/spikingjelly IF T=4", 1 / 5),
    ("neuron/sigmoid T=4 N=1", "neuron/spikingjelly IF T=4", 1 / 5),
    ("neuron/ste T=4 N=1", "neuron/snntorch Leaky T=4", 1 / 8),
    ("neuron/sigmoid T=4 N=1", "neuron/snntorch Leaky T=4", 1 / 8),
    ("training/vgg11 T=1 N=4", "training/vgg11 relu", 1 / 0.9),
    ("training/vgg16 T=1 N=4", "training/vgg16 relu", 1 / 0.9),
    ("training/sparse_resnet18 T=1 N=4", "training/sparse_resnet18 relu", 1 / 0.9),
    ("training/vgg11 T=4 N=1", "training/spikingjelly vgg11 T=4", 1 / 1.5),
    ("training/vgg11 T=1 N=4", "training/spikingjelly vgg11 T=4", 1 / 5),
    ("inference/vgg11 T=1 N=4", "inference/vgg11 relu", 1.1),
    ("memory/vgg11 T=4 N=1", "memory/spikingjelly vgg11 T=4", 0.6),
    ("tensors/vgg11 T=4 N=1", "tensors/spikingjelly vgg11 T=4", 0.6),
]
AGAINST_BEFORE = {"memory": 1.05, "tensors": 1.05}
"""Part -> largest ratio to the commit before; 1.03 for times."""


class Worker:
    """A process that runs cases on demand."""

    def __init__(self, command: list[str], checkout: str | None = None) -> None:
        self.command = command
        self.checkout = checkout
        self.process = subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": f"{checkout}/src"} if checkout else None,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def cases(self) -> list[str]:
        return [name + BEFORE if self.checkout else name for name in self("list")]

    def __call__(self, message: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(message.removesuffix(BEFORE), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.command[0]} ended at {message!r}, see above")
        return json.loads(answer)

    def close(self) -> None:
        self.process.communicate()


def measure(workers: list[Worker], parts: list[str], repeats: int) -> dict[str, list[float]]:
    """Seconds (or MiB, for memory and tensors) of every case, one entry a repetition."""
    homes = {name: worker for worker in workers for name in worker.cases()}
    found: dict[str, list[float]] = {}
    for part in parts:
        names = [name for name in homes if name.startswith(f"{part}/")]
        if part == "memory":
            found |= {name: [] for name in names}
            for done in range(PROCESSES):
                for name in names:
                    found[name].append(peak(homes[name], name))
                print(f"\r{part}: {done + 1}/{PROCESSES}", end="", file=sys.stderr)
            print(file=sys.stderr)
            continue
        if part == "tensors":
            for name in names:
                homes[name](f"prepare {name}")
                found[name] = [homes[name](f"tensors {name}")]
            continue
        for name in names:
            homes[name](f"prepare {name}")
        found |= {name: [] for name in names}
        for done in range(repeats):
            for name in names:
                found[name].append(homes[name](f"run {name}"))
            print(f"\r{part}: {done + 1}/{repeats}", end="", file=sys.stderr)
        print(file=sys.stderr)
    return found


def peak(home: Worker, name: str) -> float:
    """Peak memory of training steps in a process of their own, in MiB."""
    worker = Worker(home.command, home.checkout)
    worker(f"prepare {name}")
    for _ in range(2):
        worker(f"run {name}")
    answer = worker("peak")
    worker.close()
    return answer


def ratio(case: list[float], reference: list[float]) -> dict[str, float]:
    """Median and quartiles of the ratios within one repetition; ratio of the fastest repetitions.

    The last is the one to read on a machine whose cores other programs take away.
    """
    ratios = [a / b for a, b in zip(case, reference, strict=True)]
    low, median, high = statistics.quantiles(ratios * 2 if len(ratios) == 1 else ratios, n=4)
    return {"median": median, "low": low, "high": high, "fastest": min(case) / min(reference)}


def summary(found: dict[str, list[float]]) -> dict[str, Any]:
    """Medians of all cases, and the ratios that the project promises."""
    cases = {}
    for name, values in found.items():
        kind = "MiB" if name.partition("/")[0] in IN_MIB else "ms"
        median = statistics.median(values) * (1 if kind == "MiB" else 1e3)
        cases[name] = {kind: round(median, 3), "n": len(values)}
        if kind == "ms":
            cases[name]["fastest_ms"] = round(min(values) * 1e3, 3)
        if name.startswith(("training/", "inference/")):
            cases[name]["images_per_second"] = round(BATCH / statistics.median(values), 1)
    ratios = []
    before = [
        (name, name + BEFORE, AGAINST_BEFORE.get(name.partition("/")[0], 1.03)) for name in found
    ]
    for case, reference, limit in LIMITS + before:
        if case in found and reference in found:
            row = {"case": case, "reference": reference, "limit": round(limit, 3)}
            row |= {k: round(v, 3) for k, v in ratio(found[case], found[reference]).items()}
            ratios.append(row | {"holds": row["median"] <= row["limit"]})
    return {"cases": cases, "ratios": ratios}


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`new` with those parts of `old`, measured by the same software on the same machine, that it
    lacks.

    Raises:
        SystemExit: if anything but the dates differs.
    """
    before, now = (
        {key: value for key, value in result["environment"].items() if key not in ("date", "dates")}
        for result in (old, new)
    )
    if before != now:
        different = sorted(key for key in before | now if before.get(key) != now.get(key))
        raise SystemExit(f"--merge: the file has another {', '.join(different)}")

    def part(name: str) -> str:
        return name.partition("/")[0]

    fresh = {part(name) for name in new["cases"]}
    cases = {n: case for n, case in old["cases"].items() if part(n) not in fresh} | new["cases"]
    ratios = [row for row in old["ratios"] if part(row["case"]) not in fresh] + new["ratios"]
    limits = [(case, reference) for case, reference, _ in LIMITS]
    return new | {
        "commands": old["commands"] | new["commands"],
        "cases": dict(sorted(cases.items(), key=lambda item: PARTS.index(part(item[0])))),
        "ratios": sorted(ratios, key=lambda row: limits.index((row["case"], row["reference"]))),
        "environment": new["environment"]
        | {"dates": old["environment"]["dates"] | new["environment"]["dates"]},
    }


def show(result: dict[str, Any]) -> None:
    """Tables of 80 columns: a part's ratios under its cases."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=80)
    for part in dict.fromkeys(name.partition("/")[0] for name in result["cases"]):
        cases = Table("case", box=box.SIMPLE_HEAD, title=part, title_justify="left")
        unit = "MiB" if part in IN_MIB else "ms"
        for column in (unit, "fastest", "images/s", "n"):
            cases.add_column(column, justify="right")
        for name, case in result["cases"].items():
            if name.startswith(f"{part}/"):
                figures = (case[unit], case.get("fastest_ms"), case.get("images_per_second"))
                row = ["-" if figure is None else f"{figure:,.1f}" for figure in figures]
                cases.add_row(name.partition("/")[2], *row, str(case["n"]))
        console.print(cases)
        ratios = Table("case", "over", box=box.SIMPLE_HEAD)
        for column in ("ratio", "quartiles", "at most", "holds"):
            ratios.add_column(column, justify="right", no_wrap=True)
        for row in result["ratios"]:
            if row["case"].startswith(f"{part}/"):
                ratios.add_row(
                    row["case"].partition("/")[2],
                    "before" if row["reference"] == row["case"] + BEFORE
                    else row["reference"].partition("/")[2],
                    f"{row['median']:.3f}", f"{row['low']:.3f}-{row['high']:.3f}",
                    f"{row['limit']:.3f}", "yes" if row["holds"] else "NO",
                )  # fmt: skip
        if ratios.row_count:
            console.print(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", help="environment made by peers.sh")
    parser.add_argument("--before", metavar="CHECKOUT", help="a checkout of another commit")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tune-peers", action="store_true", help="our allocator setting for all")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--merge", action="store_true", help="keep other parts of this file")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if not set(parts) <= set(PARTS):
        parser.error(f"parts: got {arguments.parts!r}, allowed: {','.join(PARTS)}")
    old = None
    if arguments.merge:
        if arguments.out is None or not arguments.out.is_file():
            parser.error(f"merge: got out = {arguments.out}, allowed: a file of this benchmark")
        old = json.loads(arguments.out.read_text())
    pythons = {"ours": sys.executable}
    if arguments.peers:
        pythons["peers"] = str(Path(arguments.peers) / "bin" / "python")
    rest = ["--threads", str(arguments.threads)] + ["--tune"] * arguments.tune_peers
    workers = [Worker([p, str(CASES), kind, *rest]) for kind, p in pythons.items()]
    if arguments.before:
        cases = f"{arguments.before}/benchmarks/speed_cases.py"
        pythons["before"] = sys.executable
        workers.append(Worker([sys.executable, cases, "ours", *rest], arguments.before))
    result = summary(measure(workers, parts, arguments.repeats))
    versions: dict[str, Any] = {}
    for kind, worker in zip(pythons, workers, strict=True):
        versions[kind] = worker("versions")
        worker.close()

    from multispike.environment import environment

    command = ["python benchmarks/speed.py", *["--peers FOLDER"] * bool(arguments.peers)]
    command += ["--before CHECKOUT"] * bool(arguments.before)
    for name in ("parts", "repeats", "threads"):
        value = getattr(arguments, name)
        command += [f"--{name} {value}"] * (value != parser.get_default(name))
    command += ["--tune-peers"] * arguments.tune_peers + ["--merge"] * arguments.merge
    result["commands"] = dict.fromkeys(parts, " ".join([*command, "--out FILE"]))
    result["environment"] = environment() | {
        "threads": arguments.threads,
        "tuned_peers": arguments.tune_peers,
        "versions": versions,
    }
    result["environment"]["dates"] = dict.fromkeys(parts, result["environment"]["date"])
    show(result)
    if arguments.out:
        from multispike.files import write_json

        write_json(arguments.out, merged(old, result) if old else result)


if __name__ == "__main__":
    main()
