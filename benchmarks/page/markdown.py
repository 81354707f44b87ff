"""Pieces of a Markdown page: tables, and the line below each that says where it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column to the left, all others to the right.

    >>> print(table(["row", "accuracy"], [["ann", "94.1"]]))
    | row | accuracy |
    |---|---:|
    | ann | 94.1 |
    """
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    text = ["| " + " | ".join(line) + " |" for line in lines]
    text[1] = text[1].replace(" ", "")
    return "\n".join(text)


def bullets(lines: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"- {line}" for line in lines)


def figure(name: str, description: str) -> str:
    """A picture of the page's folder of figures."""
    return f"![{description}](figures/{name}.png)"


def source(file: str, command: str, remarks: Iterable[str], *environments: Any) -> str:
    """Which command wrote the table above, with which versions, where and when."""
    parts = [f"`{command}` wrote [`results/{file}`](../results/{file})", *remarks]
    return "*" + "; ".join([*parts, *made_with(environments)]) + ".*"


_VERSIONS = (
    "multispike", "torch", "onnxruntime", "openvino", "nncf", "spikingjelly", "snntorch",
    "neurobench", "timm", "norse", "sinabs", "qualia-core", "qualia-plugin-snn",
)  # fmt: skip


def made_with(environments: Sequence[Mapping[str, Any]]) -> list[str]:
    """Machine, versions and dates of one or more `environment` entries, each thing once.

    >>> made_with([{"version": "0.1.0", "cpu": "x", "threads": 2, "date": "2026-11-24T10:00:00"}])
    ['x, 2 threads', 'multispike 0.1.0', '2026-11-24']
    >>> made_with([{"versions": {"ours": {"torch": "2.13"}, "peers": {"torch": "2.14"}}}])
    ['torch 2.13 (ours), 2.14 (peers)']
    """
    found: dict[str, list[str]] = {}
    for environment in environments:
        alone = {"multispike": environment.get("version"), **environment}
        sides = environment.get("versions", {"": alone})
        machine = environment.get("cpu") or environment.get("machine")
        threads = environment.get("threads")
        texts = {
            "machine": f"{machine}, {threads} thread{'s' * (threads != 1)}"
            if machine and threads
            else machine,
            "compiler": environment.get("compiler"),
            **{name: _version(name, sides) for name in _VERSIONS},
            "python": environment.get("python") and f"Python {environment['python']}",
        }
        for key, text in texts.items():
            if text and text not in found.setdefault(key, []):
                found[key].append(text)
    dates = sorted(
        date[:10]
        for environment in environments
        for date in (environment.get("dates") or {"": environment.get("date", "")}).values()
        if date
    )
    span = [" to ".join(dict.fromkeys([dates[0], dates[-1]]))] if dates else []
    return [*(" and ".join(texts) for texts in found.values()), *span]


def _version(name: str, sides: Mapping[str, Mapping[str, str | None]]) -> str | None:
    """A library's version, with the sides of a comparison that had it where they differ."""
    having: dict[str, list[str]] = {}
    for side, versions in sides.items():
        if version := versions.get(name):
            having.setdefault(version, []).append(side)
    texts = [
        f"{version} ({' and '.join(sides)})" if len(having) > 1 else version
        for version, sides in having.items()
    ]
    return f"{name} {', '.join(texts)}" if texts else None


def verdict(aim: str, measured: str, holds: bool) -> str:
    """An aim, what was measured, and whether it holds.

    >>> verdict("at most half", "0.4", True)
    'Aim: at most half. Measured: 0.4. **Holds.**'
    """
    return f"Aim: {aim}. Measured: {measured}. **{'Holds' if holds else 'Does not hold'}.**"


def whole(number: float) -> str:
    """A count.

    >>> whole(1234.6)
    '1,235'
    """
    return f"{number:,.0f}"
