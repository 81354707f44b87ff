"""Lists on the command line."""

from __future__ import annotations


def split_names(text: str) -> list[str]:
    """Comma-separated names, each once.

    >>> split_names("ann, binary-T4, ann,")
    ['ann', 'binary-T4']
    """
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
