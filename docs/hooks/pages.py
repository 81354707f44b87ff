"""Hooks of mkdocs: the page of the command line, and links to files that are not on the site."""

from __future__ import annotations

import io
import os
import posixpath
import re
from contextlib import redirect_stdout, suppress
from typing import Any

from mkdocs.structure.files import File

from multispike.cli import COMMANDS, main

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
"""Of colours in a terminal."""


def command_line() -> str:
    """Markdown: every subcommand's `--help`, in the order of the program's own."""
    os.environ |= {"COLUMNS": "76", "NO_COLOR": "1"}
    parts = ["# Command line\n\nWhat `multispike COMMAND --help` prints.\n"]
    for name in COMMANDS:
        text = io.StringIO()
        with redirect_stdout(text), suppress(SystemExit):
            main([name, "--help"])
        shown = ESCAPES.sub("", text.getvalue()).strip()
        parts.append(f"## multispike {name}\n\n```text\n{shown}\n```\n")
    return "\n".join(parts)


def on_files(files: Any, config: Any) -> Any:
    files.append(File.generated(config, "reference/cli.md", content=command_line()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links that leave docs/ lead to the repository."""
    folder = posixpath.dirname(page.file.src_uri)

    def absolute(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[1]))
        outside = target.startswith("../")
        return f"]({config.repo_url}blob/main/{target[3:]})" if outside else link[0]

    return re.sub(r"\]\((\.\./[^)#:]+)\)", absolute, markdown)
