"""The options of a command, read off the dataclass of its settings."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any, NoReturn

from docstring_parser import parse
from jsonargparse import ActionYesNo, ArgumentParser, DefaultHelpFormatter

from multispike.config import CompareConfig, TrainConfig, recipe_file
from multispike.config.begun import as_given
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


class Parser(ArgumentParser):
    """The options of one command, in sections, with --dashed-names and --flags without a value."""

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
        self.add_argument("--config", action="config", help="YAML file, or name of a recipe.")
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

    def read(self, options: Sequence[str]) -> Settings:
        """The settings that options give; `InputError` for options or a file that won't do."""
        words = list(options)
        for place, word in enumerate(words):
            if word.startswith("--config="):
                words[place] = f"--config={self._config(word.removeprefix('--config='))}"
            elif word == "--config" and place + 1 < len(words):
                words[place + 1] = self._config(words[place + 1])
        given = self.parse_args(words).as_dict()
        del given["config"]
        if {"--seed", "--seeds"} <= {word.partition("=")[0] for word in words}:
            raise invalid("seeds", given["seeds"], "one of --seed and --seeds, not both")
        return self.settings(**given)

    def _config(self, path: str) -> str:
        """What --config is given, a file or the name of a recipe, as a file or its content."""
        path = path if os.path.exists(path) else str(recipe_file(path))
        content = as_given(read_yaml("config", path))
        compares = self.settings is CompareConfig
        of_run = hints(TrainConfig).keys() - hints(CompareConfig).keys() if compares else ()
        ignored = [name for name in content if name in of_run]
        ignored += ["out"] if ignored and "out" in content else []
        if strange := [n for n in content if n not in {*hints(self.settings), *ignored}]:
            self.error(f"unrecognized arguments: {strange[0]}")
        if ignored:
            print(f"compare ignores of {path}: {', '.join(ignored)}", file=sys.stderr)
        return yaml_text({name: v for name, v in content.items() if name not in ignored})

    def error(self, message: str | None, ex: BaseException | None = None) -> NoReturn:
        raise InputError(self._one_line(message or str(ex))) from ex

    def _one_line(self, message: str) -> str:
        """jsonargparse's message in the project's form."""
        message = message.removeprefix('Parser key "config": ')
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
