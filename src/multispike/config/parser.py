"""The options of a command, read off the dataclass of its settings."""

from __future__ import annotations

import argparse
import os
import re
import sys
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any, NoReturn

from docstring_parser import parse
from jsonargparse import ActionConfigFile, ActionYesNo, ArgumentParser, DefaultHelpFormatter

from multispike.config import CompareConfig, TrainConfig, as_given
from multispike.config.recipes import recipe_file
from multispike.config.types import Settings, allowed, help_of, hints
from multispike.errors import InputError, invalid
from multispike.files import read_yaml, yaml_text


class HelpFormatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """jsonargparse's help with line ends kept, and without Python's names of types."""

    def _get_help_string(self, action: argparse.Action) -> str:
        return action.help or ""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        text = super()._format_action_invocation(action)
        return re.sub(r"( \S+)?, --[a-z]+_[a-z_]+", "", text)  # the same name as in YAML


class ConfigFile(ActionConfigFile):
    """--config takes a YAML file or the name of a recipe."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        path = values if os.path.exists(values) else str(recipe_file(values))
        written = read_yaml("config", path)
        content = as_given(written)
        known = {field.name for field in fields(parser.settings)}
        ignored: list[str] = []
        if parser.settings is CompareConfig:
            of_run = {field.name for field in fields(TrainConfig)} - known
            ignored = [name for name in content if name in of_run]
            ignored += ["out"] if ignored and "out" in content else []
        if strange := [name for name in content if name not in {*known, *ignored}]:
            parser.error(f"unrecognized arguments: {strange[0]}")
        if ignored:
            print(f"compare ignores of {path}: {', '.join(ignored)}", file=sys.stderr)
        if ignored or content != written:
            path = yaml_text({k: v for k, v in content.items() if k not in ignored})
        super().__call__(parser, cfg, path, option_string)


class Parser(ArgumentParser):
    """The options of one command, in sections, with --dashed-names and --flags without a value.

    Raises:
        InputError: by `parse_args`, for options or a file that won't do.
    """

    def __init__(self, name: str, settings: type[Settings]) -> None:
        self.settings = settings
        about = [parse(base.__doc__ or "") for base in reversed(settings.__mro__)]
        texts = {param.arg_name: param.description for doc in about for param in doc.params}
        examples = [
            line
            for example in about[-1].examples
            for line in (example.description or "").splitlines()
        ]
        super().__init__(
            prog=f"multispike {name}",
            description=about[-1].short_description,
            epilog="\n  ".join(("examples:", *examples)),
            formatter_class=HelpFormatter,
        )
        self.add_argument("--config", action=ConfigFile, help="YAML file, or name of a recipe.")
        sections: dict[str, Any] = {"": self}
        title = ""
        for field in fields(settings):
            title = settings.sections.get(field.name, title)
            if title not in sections:
                sections[title] = self.add_argument_group(title)
            text = (texts.get(field.name) or help_of(settings, field.name)).replace("\n", " ")
            words, named = allowed(settings, field.name), field.name.replace("_", "-")
            facts = [words] if words.startswith(("a number", "an integer")) else []
            facts += [f"default: {field.default}"] if field.default not in _UNSAID else []
            more: dict[str, Any] = {"help": text + (f" ({'; '.join(facts)})" if facts else "")}
            if nargs := settings.positional.get(field.name):
                sections[title].add_argument(field.name, nargs=nargs, type=str, **more)
                continue
            hint = hints(settings)[field.name]
            more |= {"action": ActionYesNo(no_prefix="no-")} if hint is bool else {"type": hint}
            if field.default is MISSING:
                sections[title].add_argument(field.name, **more)
            else:
                names = dict.fromkeys((f"--{named}", f"--{field.name}"))
                sections[title].add_argument(*names, default=field.default, **more)
        given = [a for a in self._actions if not a.option_strings]
        names = [f"[{a.dest.upper()}]" if a.nargs == "?" else a.dest.upper() for a in given]
        self.usage = " ".join(("%(prog)s", *names, "[options]"))

    def error(self, message: str | None, ex: BaseException | None = None) -> NoReturn:
        raise InputError(self._one_line(message or str(ex))) from ex

    def _one_line(self, message: str) -> str:
        """jsonargparse's message in the project's form."""
        if found := re.search(r"unrecognized arguments: ([^ =]+)", message):
            known = [name for action in self._actions for name in action.option_strings]
            names = [name for name in known if "_" not in name]
            name = "--" + found[1].lstrip("-").replace("_", "-")
            near = get_close_matches(name, names, n=3, cutoff=0.5)
            hint = f"nearest: {', '.join(near)}; " if near else ""
            return f"{found[1]}: no such setting, {hint}see {self.prog} --help"
        key = re.search(r'Parser key "([^"]+)"', message)
        value = re.search(r"(?:Given value|Got value): (.*)$", message, re.MULTILINE)
        if key and value and key[1] in hints(self.settings):
            return str(invalid(key[1], value[1], allowed(self.settings, key[1])))
        return " ".join(line.strip() for line in message.splitlines() if line.strip())


_UNSAID = (None, False, MISSING)
"""Defaults that no help mentions."""
