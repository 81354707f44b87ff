"""The command line: one table of commands, each a typed dataclass and a function loaded on use."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from io import TextIOWrapper

from multispike import __version__
from multispike.config import CompareConfig, commands
from multispike.config.energy import EnergyConfig
from multispike.config.parser import Parser
from multispike.config.sweep import SweepConfig
from multispike.config.types import Settings
from multispike.environment import keep_freed_memory, wait_briefly
from multispike.errors import InputError, RunError, unknown
from multispike.progress import telling
from multispike.reproduce.studies import ReproduceConfig

COMMANDS: dict[str, tuple[str, type[Settings]]] = {
    "models": ("multispike.commands.models:models", commands.ModelsConfig),
    "pretrained": ("multispike.commands.models:pretrained", commands.PretrainedConfig),
    "predict": ("multispike.commands.predict:predict", commands.PredictConfig),
    "train": ("multispike.commands.train:train", commands.TrainRuns),
    "evaluate": ("multispike.commands.evaluate:evaluate", commands.EvaluateConfig),
    "report": ("multispike.commands.evaluate:report", commands.ReportConfig),
    "energy": ("multispike.commands.energy:energy", EnergyConfig),
    "avalanche": ("multispike.commands.avalanche:avalanche", commands.AvalancheConfig),
    "export": ("multispike.commands.export:export", commands.ExportConfig),
    "bench": ("multispike.commands.export:bench", commands.BenchConfig),
    "view": ("multispike.commands.stream:view", commands.ViewConfig),
    "stream": ("multispike.commands.stream:stream", commands.StreamConfig),
    "compare": ("multispike.commands.train:compare", CompareConfig),
    "sweep": ("multispike.commands.sweep:sweep", SweepConfig),
    "reproduce": ("multispike.reproduce.archive:reproduce", ReproduceConfig),
}
"""What each command does, "module:function" that is given the settings and may return an exit code;
and the settings, whose docstring has the command's help and examples."""


def overview() -> str:
    """The help of `multispike` itself."""
    lines = [
        f"  {name:<10}  {(settings.__doc__ or '').splitlines()[0]}"
        for name, (_, settings) in COMMANDS.items()
    ]
    return "\n".join(
        (
            "usage: multispike COMMAND [options]\n",
            "One-timestep spiking networks with graded spikes: train, price, ship.\n",
            *lines,
            "\nmultispike COMMAND --help   options and examples",
            "multispike --version        the version",
            "--debug, anywhere           the traceback of an error",
        )
    )


def run(arguments: Sequence[str]) -> int:
    """Run one command; what it refuses or fails at is raised."""
    name = arguments[0] if arguments else ""
    if name in ("--help", "-h", "--version"):
        print(__version__ if name == "--version" else overview())
        return 0
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    place, kind = COMMANDS[name]
    settings = Parser(name, kind).read(arguments[1:])
    settings.check()
    keep_freed_memory()
    wait_briefly()
    module, function = place.split(":")
    with telling("loading"):
        call = getattr(import_module(module), function)
    return call(settings) or 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0, 1 for a failed run, 2 for bad usage or input, 130
    after Ctrl-C or SIGTERM."""
    if arguments is None:
        arguments = sys.argv[1:]
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM stops as Ctrl-C does
        # Names of files and classes may hold what no encoding has; standard error shows it so, too.
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    try:
        code = run([word for word in arguments if word != "--debug"])
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of standard output has enough, as `head` has
        # What is left in the buffer would fail again when the interpreter ends.
        with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return 0
    except (InputError, RuntimeError, OSError, MemoryError, KeyboardInterrupt) as error:
        lacking = re.search("out of memory|can't allocate memory", str(error))
        torchs = isinstance(error, RuntimeError) and not isinstance(error, RunError)
        if "--debug" in arguments or (torchs and not lacking):
            raise
        if isinstance(error, MemoryError) or (torchs and lacking):
            error = RunError(" ".join(f"no memory: {error}".split("\n")[0].split()))
        if isinstance(error, KeyboardInterrupt):
            print("multispike: interrupted", file=sys.stderr)
            return 130
        if isinstance(error, OSError) and error.filename is not None:  # full disk, no such folder
            error = RunError(f"{error.filename}: {error.strerror}")
        print(f"multispike: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1


if __name__ == "__main__":
    sys.exit(main())
