"""What a field of a command's settings may hold: said in its annotation, checked in one place.

`levels: Count | None = None` is an integer >= 1 or nothing. jsonargparse takes the plain type out
of the annotation, for the command line and YAML; `Settings` checks type and range of whatever the
settings are made from. A text is the help of fields that their class says nothing about.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from multispike.energy.profiles import get_profile
from multispike.errors import invalid, unknown
from multispike.files import check_target
from multispike.pretrained import PRETRAINED, find


@dataclass(frozen=True)
class Where:
    """Metadata of an `Annotated` type: `holds` is true of the values that are allowed.

    What is `late` is checked when a command starts, not when settings are made: the settings of a
    run stay readable where its data are gone. Of `names`, allowed besides, an error tells the
    nearest.
    """

    allowed: str
    holds: Callable[[Any], bool]
    late: bool = False
    names: tuple[str, ...] = ()

    def __call__(self, field: str, value: Any) -> None:
        if self.holds(value):
            return
        if self.names:
            raise unknown(field, value, [self.allowed, *self.names])
        raise invalid(field, value, self.allowed)


def parse_sensor(text: str) -> tuple[int, int]:
    """`(width, height)`.

    >>> parse_sensor("640x480")
    (640, 480)
    """
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not match:
        raise invalid("sensor", text, "WIDTHxHEIGHT in pixels, such as 640x480")
    return int(match[1]), int(match[2])


def parse_seeds(text: str | None) -> list[int]:
    """Comma-separated seeds; none at all where one of them is no seed, or there twice.

    >>> parse_seeds("0,1,2"), parse_seeds("0,0"), parse_seeds(None)
    ([0, 1, 2], [], [])
    """
    words = (text or "").split(",")
    found = (int(word) for word in words if re.fullmatch(r" *\d{1,10} *", word))
    seeds = list(dict.fromkeys(seed for seed in found if seed < 2**32))
    return seeds if len(seeds) == len(words) else []


Count = Annotated[int, Where("an integer >= 1", lambda n: n >= 1)]
Natural = Annotated[int, Where("an integer >= 0", lambda n: n >= 0)]
BatchSize = Annotated[int, Where("an integer >= 2", lambda n: n >= 2)]
Seed = Annotated[int, Where("an integer in [0, 2^32)", lambda n: 0 <= n < 2**32)]
Seeds = Annotated[
    str,
    Where("different integers in [0, 2^32), comma-separated", lambda text: bool(parse_seeds(text))),
    "One run each, comma-separated, such as 0,1,2, in place of --seed: tables and report have the"
    " mean and the sample standard deviation.",
]
Threads = Annotated[int, Where("an integer in [1, 1024]", lambda n: 1 <= n <= 1024)]
Positive = Annotated[float, Where("a number > 0", lambda x: 0 < x < math.inf)]
NonNegative = Annotated[float, Where("a number >= 0", lambda x: 0 <= x < math.inf)]
BelowOne = Annotated[float, Where("a number in [0, 1)", lambda x: 0 <= x < 1)]
Share = Annotated[float, Where("a share in [0, 1)", lambda x: 0 <= x < 1)]
Folder = Annotated[str, Where("a folder, new or not", lambda path: not Path(path).is_file())]
Sensor = Annotated[
    str,
    lambda _, text: parse_sensor(text),
    "WIDTHxHEIGHT in pixels, for recordings that don't tell it.",
]
RunPath = Annotated[
    str,
    Where("a run folder or a .ckpt file", lambda p: find(p).exists(), True, (*PRETRAINED,)),
    "Folder of the run, a checkpoint by itself, or a name of `multispike pretrained`.",
]
CheckpointName = Annotated[
    Literal["last.ckpt", "best.ckpt"], "last.ckpt (the end of the training) or best.ckpt."
]
DataDir = Annotated[
    str,
    Where("a folder or file that exists", lambda p: Path(p).expanduser().exists(), late=True),
    "Folder with the run's data, if it has moved since the training.",
]
TestLimit = Annotated[Count, "Use this many test samples only."]
ProfileName = Annotated[
    str,
    lambda _, name: get_profile(name),
    "Energy profile: lemaire2022, castagnetti2025, sram8k, qualia, spikingjelly, or a YAML file.",
]
Accelerator = Annotated[Literal["auto", "cpu", "gpu", "mps"], "auto, cpu, gpu (CUDA) or mps."]
Bits = Annotated[Literal[8, 16, 32], "Width of weights, potentials and operations: 8, 16 or 32."]
JsonFile = Annotated[
    str,
    lambda field, path: path == "-" or check_target(field, path),
    "Write the result to this file, or to standard output (-).",
]


@dataclass(frozen=True)
class Settings:
    """Base of the commands' settings, frozen dataclasses whose annotations say what is allowed: the
    first field that holds anything else is an `InputError`, as soon as settings are made."""

    sections: ClassVar[dict[str, str]] = {}
    """Field -> title of the section of the help that begins with it."""

    positional: ClassVar[dict[str, str]] = {}
    """Field without an option name, beside those without default -> "?" (optional) or "+"."""

    def __post_init__(self) -> None:
        self._check(late=False)

    def check(self) -> None:
        """Raise `InputError` for values that do not go together, or with the files there are."""
        self._check(late=True)

    def _check(self, late: bool) -> None:
        for name in hints(type(self)):
            value = getattr(self, name)
            fitting = [rules for t, *rules in kinds(type(self), name) if _is_a(t, value)]
            if not fitting or (isinstance(value, str) and "\0" in value):  # which no path may hold
                raise invalid(name, value, allowed(type(self), name))
            for rule in fitting[0]:
                if callable(rule) and getattr(rule, "late", False) == late:
                    rule(name, value)


@cache
def hints(settings: type) -> dict[str, Any]:
    """Field -> its annotation."""
    found = get_type_hints(settings, include_extras=True)
    return {field.name: found[field.name] for field in fields(settings)}


def kinds(settings: type[Settings], name: str) -> list[tuple[Any, ...]]:
    """What a field may be: plain types, each with what its annotation says of it."""
    hint = hints(settings)[name]
    alternatives = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return [get_args(k) if get_origin(k) is Annotated else (k,) for k in alternatives]


def _is_a(plain: Any, value: Any) -> bool:
    if get_origin(plain) is Literal:
        return value in get_args(plain)
    if isinstance(value, bool):
        return plain is bool
    return isinstance(value, (int, float) if plain is float else get_origin(plain) or plain)


def help_of(settings: type[Settings], name: str) -> str:
    """The help that a field's annotation has."""
    texts = (part for _, *rules in kinds(settings, name) for part in rules)
    return " ".join(text for text in texts if isinstance(text, str))


def allowed(settings: type[Settings], name: str) -> str:
    """What a field may hold, for an error or a help text.

    >>> from multispike.config import TrainConfig
    >>> allowed(TrainConfig, "devices"), allowed(TrainConfig, "learn_threshold")
    ('an integer >= 1 or auto', 'no, layer, channel')
    """
    words = {int: "an integer", float: "a number", bool: "true or false", NoneType: ""}
    found = []
    for plain, *rules in kinds(settings, name):
        literal = get_origin(plain) is Literal and ", ".join(map(str, get_args(plain)))
        where = next((rule.allowed for rule in rules if isinstance(rule, Where)), None)
        found.append(where or literal or words.get(plain, "text"))
    return " or ".join(filter(None, found))


def split_names(text: str | None) -> list[str]:
    """Comma-separated names, each once.

    >>> split_names("ann, binary-T4,ann,"), split_names(None)
    (['ann', 'binary-T4'], [])
    """
    return list(dict.fromkeys(name.strip() for name in (text or "").split(",") if name.strip()))
