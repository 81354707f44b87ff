"""Lists on the command line."""

from __future__ import annotations


def split_names(text: str) -> list[str]:
    """Comma-separated names.

    >>> split_names("ann, binary-T4,")
    ['ann', 'binary-T4']
    """
    return [name.strip() for name in text.split(",") if name.strip()]


def distinct_names(text: str) -> list[str]:
    """The same, each once.

    >>> distinct_names("ann, binary-T4, ann")
    ['ann', 'binary-T4']
    """
    return list(dict.fromkeys(split_names(text)))
