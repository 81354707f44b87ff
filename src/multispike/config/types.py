"""What a field of a command's settings may hold: said in its annotation, checked in one place.

    levels: Count | None = None

is an integer >= 1 or nothing. jsonargparse takes the plain type out of the annotation, for the
command line and YAML; `Settings` checks type and range of whatever the settings are made from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from multispike.energy.profiles import get_profile
from multispike.errors import invalid, unknown
from multispike.files import check_target


@dataclass(frozen=True)
class Where:
    """Metadata of an `Annotated` type: `holds` is true of the values that are allowed."""

    allowed: str
    holds: Callable[[Any], bool]

    def __call__(self, field: str, value: Any) -> None:
        if not self.holds(value):
            raise invalid(field, value, self.allowed)


@dataclass(frozen=True)
class OneOf:
    """Metadata of an `Annotated` type: the value is a name of a table."""

    names: Collection[str]

    def __call__(self, field: str, value: str) -> None:
        if value not in self.names:
            raise unknown(field, value, self.names)


def parse_sensor(text: str) -> tuple[int, int]:
    """`(width, height)`.

    >>> parse_sensor("640x480")
    (640, 480)
    """
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not match:
        raise invalid("sensor", text, "WIDTHxHEIGHT in pixels, such as 640x480")
    return int(match[1]), int(match[2])


Count = Annotated[int, Where("an integer >= 1", lambda n: n >= 1)]
Natural = Annotated[int, Where("an integer >= 0", lambda n: n >= 0)]
BatchSize = Annotated[int, Where("an integer >= 2", lambda n: n >= 2)]
Seed = Annotated[int, Where("an integer in [0, 2^32)", lambda n: 0 <= n < 2**32)]
Positive = Annotated[float, Where("a number > 0", lambda x: 0 < x < math.inf)]
NonNegative = Annotated[float, Where("a number >= 0", lambda x: 0 <= x < math.inf)]
BelowOne = Annotated[float, Where("a number in [0, 1)", lambda x: 0 <= x < 1)]
Share = Annotated[float, Where("a share in [0, 1)", lambda x: 0 <= x < 1)]
Sensor = Annotated[str, lambda _, text: parse_sensor(text)]
Folder = Annotated[str, Where("a folder, new or not", lambda path: not Path(path).is_file())]
JsonFile = Annotated[str, lambda field, path: path == "-" or check_target(field, path)]
"""A file to write, or - for standard output."""
ProfileName = Annotated[str, lambda _, name: get_profile(name)]
Bits = Literal[8, 16, 32]
CheckpointName = Literal["last.ckpt", "best.ckpt"]


class Settings:
    """Base of the commands' settings, frozen dataclasses whose annotations say what is allowed.

    Raises:
        InputError: when settings are made, for the first field that its annotation does not allow.
    """

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            _check(name, getattr(self, name), hint)

    def check(self) -> None:
        """Raise `InputError` for values that do not go together, or with the files there are."""


@cache
def _hints(settings: type) -> dict[str, Any]:
    hints = get_type_hints(settings, include_extras=True)
    return {field.name: hints[field.name] for field in fields(settings)}


def _check(name: str, value: Any, hint: Any) -> None:
    """Raise `InputError` unless the value has the annotated type and range."""
    for kind in _alternatives(hint):
        plain, *rules = get_args(kind) if get_origin(kind) is Annotated else (kind,)
        if _is_a(plain, value):
            for rule in rules:
                rule(name, value)
            return
    raise invalid(name, value, _words(hint))


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_a(plain: Any, value: Any) -> bool:
    if get_origin(plain) is Literal:
        return value in get_args(plain)
    if isinstance(value, bool):
        return plain is bool
    return isinstance(value, (int, float) if plain is float else plain)


def allowed(settings: type[Settings], name: str) -> str:
    """What a field may hold, for an error.

    >>> from multispike.config import TrainConfig
    >>> allowed(TrainConfig, "devices"), allowed(TrainConfig, "learn_threshold")
    ('an integer >= 1 or auto', 'no, layer, channel')
    """
    return _words(_hints(settings)[name])


def _words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(map(str, get_args(hint)))
    if get_origin(hint) is Annotated:
        plain, rule = get_args(hint)
        return rule.allowed if isinstance(rule, Where) else _words(plain)
    if kinds := [kind for kind in _alternatives(hint) if kind not in (hint, NoneType)]:
        return " or ".join(map(_words, kinds))
    return {int: "an integer", float: "a number", bool: "true or false"}.get(hint, "text")


def split_names(text: str) -> list[str]:
    """Comma-separated names.

    >>> split_names("ann, binary-T4,")
    ['ann', 'binary-T4']
    """
    return [name.strip() for name in text.split(",") if name.strip()]
