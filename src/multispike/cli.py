"""The command line: one table of commands, each a typed dataclass and a function loaded on use."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

from jsonargparse import ActionYesNo, ArgumentParser, DefaultHelpFormatter

from multispike.config import CompareConfig, TrainConfig
from multispike.config.commands import (
    AvalancheConfig,
    BenchConfig,
    EnergyConfig,
    EvaluateConfig,
    ExportConfig,
    ModelsConfig,
    ReportConfig,
    StreamConfig,
    ViewConfig,
)
from multispike.config.types import Settings, allowed
from multispike.environment import keep_freed_memory
from multispike.errors import InputError, RunError, invalid
from multispike.reproduce.studies import ReproduceConfig


@dataclass(frozen=True)
class Command:
    """A row of the table.

    Attributes:
        function: "module:function", called with the settings; its return value, if any, is the
            exit code.
        settings: dataclass whose fields are the options; those that have no default are given
            without an option name, in order.
        help: one line.
        examples: command lines shown below the options.
        optional: fields with a default that are given without an option name, with their help.
    """

    function: str
    settings: type[Settings]
    help: str
    examples: tuple[str, ...]
    optional: Mapping[str, str] = field(default_factory=dict)


COMMANDS = {
    "models": Command(
        "multispike.commands.models:show",
        ModelsConfig,
        "List the architectures with their parameters and MACs.",
        ("multispike models", "multispike models --json models.json"),
    ),
    "train": Command(
        "multispike.commands.train:train",
        TrainConfig,
        "Train one network.",
        (
            "multispike train --arch fastnet --data digits --epochs 10",
            "multispike train --arch vgg16 --data cifar10 --data-dir DIR --levels 4 --out RUN",
            "multispike train --config RUN/config.yaml --out RUN --resume",
        ),
    ),
    "evaluate": Command(
        "multispike.commands.evaluate:evaluate",
        EvaluateConfig,
        "Measure a trained run on its test set.",
        (
            "multispike evaluate RUN",
            "multispike evaluate RUN --checkpoint best.ckpt --json out.json",
        ),
    ),
    "report": Command(
        "multispike.commands.evaluate:report",
        ReportConfig,
        "Put trained runs into one HTML report, under any energy profile.",
        (
            "multispike report RUN",
            "multispike report RUN1,RUN2 --profile mine.yaml --bits 8 --out DIR",
        ),
    ),
    "energy": Command(
        "multispike.commands.evaluate:energy",
        EnergyConfig,
        "Price a trained run, or an architecture at an assumed activity.",
        (
            "multispike energy RUN --profile castagnetti2025",
            "multispike energy vgg16 --density 0.2 --levels 4 --bits 8 --json vgg16.json",
        ),
    ),
    "avalanche": Command(
        "multispike.commands.avalanche:avalanche",
        AvalancheConfig,
        "Measure how activity grows along the depth of residual networks.",
        (
            "multispike avalanche --arch sparse_resnet18,sew_resnet18 --levels 4 --out DIR",
            "multispike avalanche --runs RUN1,RUN2 --out DIR",
        ),
    ),
    "export": Command(
        "multispike.commands.export:export",
        ExportConfig,
        "Ship a run as an exact integer program: C99, ONNX, OpenVINO or NIR.",
        (
            "multispike export RUN --format c --out DIR",
            "multispike export RUN --format onnx --out DIR --overwrite",
            "multispike export RUN --evaluate",
            "multispike export RUN --finetune 1 --data-dir DIR",
        ),
    ),
    "bench": Command(
        "multispike.commands.export:bench",
        BenchConfig,
        "Time a run in torch, ONNX Runtime, OpenVINO and C.",
        ("multispike bench RUN", "multispike bench RUN --threads 1 --json bench.json"),
    ),
    "view": Command(
        "multispike.commands.view:view",
        ViewConfig,
        "Show a recording of an event camera as PNG, GIF or HTML.",
        (
            "multispike view recording.raw --out frames.png",
            "multispike view recording.raw --out film.gif --window-us 10000",
        ),
    ),
    "stream": Command(
        "multispike.commands.stream:stream",
        StreamConfig,
        "Classify a recording, or what a camera sends, slice by slice.",
        (
            "multispike stream RUN recording.raw",
            "multispike stream RUN recording.raw --count 5000 --overlap 2500 --json -",
            "camera | multispike stream RUN - --realtime --view",
        ),
    ),
    "compare": Command(
        "multispike.commands.train:compare",
        CompareConfig,
        "Train several neurons under one recipe and compare them.",
        (
            "multispike compare --arch fastnet --data digits --epochs 10 --out DIR",
            "multispike compare --data cifar10 --data-dir DIR --variants ann,multilevel-T1-N4",
        ),
    ),
    "reproduce": Command(
        "multispike.reproduce.training:reproduce",
        ReproduceConfig,
        "Measure a study of docs/results.md, training what is missing.",
        (
            "multispike reproduce",
            "multispike reproduce table-cifar10 --data-dir DIR",
            "multispike reproduce table-cifar10 --data-dir DIR --rows ann,binary-T4 --seeds 1",
        ),
        optional={"study": "name of a study; without one, they are listed"},
    ),
}


class HelpFormatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """jsonargparse's help with the examples' line ends kept."""


class Parser(ArgumentParser):
    """jsonargparse with --dashed-names, --flags without a value, and one-line errors."""

    settings: type[Settings]
    """Of a command's parser."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.commands: dict[str, Parser] = {}
        super().__init__(*args, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        if args and args[0].startswith("--"):
            if kwargs.get("type") is bool:
                del kwargs["type"]
                kwargs["action"] = ActionYesNo(no_prefix="no-")
            if "_" in args[0] and args[0] != "--print_config":
                args = (args[0].replace("_", "-"), args[0])
        return super().add_argument(*args, **kwargs)

    def error(self, message: str | None, ex: BaseException | None = None) -> NoReturn:
        print(f"multispike: {self._one_line(message or str(ex))}", file=sys.stderr)
        raise SystemExit(2)

    def _one_line(self, message: str) -> str:
        parsers = [self, *self.commands.values()]
        names = [name for parser in parsers for a in parser._actions for name in a.option_strings]
        unknown = re.search(
            r"(?:unrecognized arguments: |Key '|accept option ')(\S+?)(?:'| |=|$)", message
        )
        if unknown:
            name = "--" + unknown[1].lstrip("-").replace("_", "-")
            near = get_close_matches(name, names, n=3, cutoff=0.5)
            hint = f"nearest: {', '.join(dict.fromkeys(near))}; " if near else ""
            return f"{unknown[1]}: no such setting, {hint}see --help"
        key = re.search(r'Parser key "([^"]+)"', message)
        value = re.search(r"(?:Given value|Got value): (.*)$", message, re.MULTILINE)
        if key and value:
            return str(invalid(key[1], value[1], allowed(self.settings, key[1])))
        return " ".join(line.strip() for line in message.splitlines() if line.strip())


def build_parser(only: str | None = None) -> Parser:
    """The parser of `multispike`, with one sub-parser a command; all but `only`, if that is given,
    are left without options, which takes most of the time."""
    from multispike import __version__

    parser = Parser(
        prog="multispike",
        description="One-timestep spiking networks with graded spikes: train, price, ship.",
        version=__version__,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subcommands(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        examples = "\n".join(f"  {line}" for line in command.examples)
        sub = Parser(description=command.help, epilog=f"examples:\n{examples}")
        sub.settings = command.settings
        commands.add_subcommand(name, sub, help=command.help)
        # Adding a sub-parser gives it a name with "[options]" and its parent's formatter.
        sub.prog, sub.formatter_class = f"multispike {name}", HelpFormatter
        if only in (None, name):
            parser.commands[name] = sub
            sub.add_argument("--config", action="config", help="settings as YAML")
            for optional, text in command.optional.items():
                sub.add_argument(optional, nargs="?", type=str, help=text)
            skip: set[str | int] = {*command.optional}
            sub.add_class_arguments(command.settings, as_group=False, as_positional=True, skip=skip)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code: 0, 1 for a failed run, 2 for bad usage or input."""
    arguments = sys.argv[1:] if arguments is None else arguments
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    named = next((word for word in arguments if word in COMMANDS), "")
    parsed = build_parser(named).parse_args(arguments)
    command = COMMANDS[parsed.subcommand]
    options = parsed[parsed.subcommand].as_dict()
    options.pop("config", None)
    try:
        settings = command.settings(**options)
        settings.check()
        keep_freed_memory()
        module, function = command.function.split(":")
        return getattr(import_module(module), function)(settings) or 0
    except (InputError, RunError, OSError, KeyboardInterrupt) as error:
        if parsed.debug:
            raise
        if isinstance(error, KeyboardInterrupt):
            print("multispike: interrupted", file=sys.stderr)
            return 130
        if isinstance(error, OSError) and error.filename is not None:  # full disk, no such folder
            error = RunError(f"{error.filename}: {error.strerror}")
        print(f"multispike: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1


if __name__ == "__main__":
    sys.exit(main())
