"""The two kinds of failure a user meets, and how their one line is written.

Every message names the argument, the value received and what is allowed.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from math import prod

LARGEST_SAMPLE = 2**26
"""Values of an image, or of all frames of a recording."""


class InputError(ValueError):
    """Bad usage or bad input: the command line prints its one line and exits with 2."""


class Missing(InputError):
    """An optional package or a tool that is not installed."""


class RunError(RuntimeError):
    """A run that started well and failed (diverged, disk full): exit code 1."""


def invalid(argument: str, value: object, allowed: str) -> InputError:
    """An `InputError` in the project's one form.

    >>> str(invalid("levels", 0, "an integer >= 1"))
    'levels: got 0, allowed: an integer >= 1'
    """
    return InputError(f"{argument}: got {value!r}, allowed: {allowed}")


def is_count(value: object) -> bool:
    """Whether an argument is an integer >= 1.

    >>> [is_count(value) for value in (1, 0, 1.0, "1", True)]
    [True, False, False, False, False]
    """
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_sample(argument: str, shape: Iterable[int]) -> None:
    """Raise `InputError` for samples larger than `LARGEST_SAMPLE`, before memory is taken."""
    if prod(shape := [*shape]) > LARGEST_SAMPLE:
        raise invalid(argument, shape, f"at most {LARGEST_SAMPLE:,} values a sample")


def unknown(
    argument: str, value: object, names: Iterable[str], allowed: str | None = None
) -> InputError:
    """An `InputError` for a name that is not in a table, with the nearest names first; `allowed`
    stands for the names where they are many.

    >>> str(unknown("arch", "vgg12", ["vgg11", "vgg16", "fastnet"]))
    "arch: got 'vgg12', nearest: vgg16, vgg11; allowed: fastnet, vgg11, vgg16"
    """
    names = sorted(names)
    near = get_close_matches(str(value), names, n=3, cutoff=0.6)
    nearest = f"nearest: {', '.join(near)}; " if near else ""
    return InputError(f"{argument}: got {value!r}, {nearest}allowed: {allowed or ', '.join(names)}")
