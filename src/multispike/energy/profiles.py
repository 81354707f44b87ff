"""What one operation and one memory access cost: constants, each with the source it is from.

A profile is a YAML file, a built-in one (folder `builtin`) like a user's own:

    name: my_chip
    constants:
      add_8bit_pj: {value: 0.03, source: Horowitz 2014}
      ...            what `REQUIRED` lists, and those of `OPTIONAL` that apply

A memory access costs, for a memory of n elements that are read `bits` wide, with the terms of a
profile (those that it has not are 0),

    access_pj + access_pj_per_memory_bit · n · bits + access_pj_per_memory_element · n
              + access_pj_per_word_bit · bits + bits / 32 · curve(n · bits)

where `curve` is linear between 0 at no size, access_pj_at_8kib, _32kib and _1mib, and flat beyond.
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from multispike.errors import InputError, invalid, unknown
from multispike.files import read_yaml

BITS = (8, 16, 32)

REQUIRED = ("add_8bit_pj", "add_32bit_pj", "mul_8bit_pj", "mul_32bit_pj", "fifo_elements")
"""Operations, and the depth of the queue that holds a layer's incoming or outgoing events."""
OPTIONAL = (
    "add_16bit_pj",
    "mul_16bit_pj",
    "access_pj",
    "access_pj_per_memory_bit",
    "access_pj_per_memory_element",
    "access_pj_per_word_bit",
    "access_pj_at_8kib",
    "access_pj_at_32kib",
    "access_pj_at_1mib",
    "event_is_word",
    "stem_each_timestep",
)
"""Operations of 16 bits that follow no power law; terms of an access; 1 where an event in a queue
takes `bits` instead of address and payload; 1 where the events of a directly coded stem access
potentials at every timestep."""

_FOLDER = Path(__file__).parent / "builtin"


@dataclass(frozen=True)
class Constant:
    """A number and where it is from."""

    value: float
    source: str


@dataclass(frozen=True)
class Profile:
    """Energy constants in pJ. See the module's docstring for the formula of an access."""

    name: str
    constants: dict[str, Constant]

    def __post_init__(self) -> None:
        for name, constant in self.constants.items():
            where, value = f"{self.name}.{name}", constant.value
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise invalid(where, value, "a number >= 0 (3e-2 is text in YAML, 3.0e-2 a number)")
            if not 0 <= value <= sys.float_info.max:
                shown = value if len(str(value)) < 40 else f"{value!s:.20}..."
                raise invalid(where, shown, "a finite number >= 0")
            if name == "fifo_elements" and value % 1:
                raise invalid(where, value, "a whole number")
            if not isinstance(constant.source, str) or not constant.source.strip():
                raise invalid(f"{where}.source", constant.source, "where the value is from")

    def value(self, name: str) -> float:
        """A constant's value; 0 where the profile has no such term."""
        return self._values.get(name, 0.0)

    @cached_property
    def _values(self) -> dict[str, float]:
        return {name: constant.value for name, constant in self.constants.items()}

    def add(self, bits: int) -> float:
        """pJ of one addition.

        >>> get_profile("lemaire2022").add(32)
        0.1
        """
        return self._operation("add", bits)

    def mul(self, bits: int) -> float:
        """pJ of one multiplication."""
        return self._operation("mul", bits)

    def mac(self, bits: int) -> float:
        """pJ of one multiply-accumulate."""
        return self.mul(bits) + self.add(bits)

    def _operation(self, name: str, bits: int) -> float:
        """Horowitz gives integers at 8 and 32 bits only: an addition grows as bits^0.87 and a
        multiplication as bits^1.98. Between the two, where a profile has no value of its own, the
        power law through them: one of 16 bits is 0.79 pJ, where a straight line has 1.17.
        """
        if (own := f"{name}_{bits}bit_pj") in self.constants:
            return self.value(own)
        at_8, at_32 = self.value(f"{name}_8bit_pj"), self.value(f"{name}_32bit_pj")
        if at_8 == 0 or at_32 == 0:  # no power law through zero
            return at_8 + (at_32 - at_8) / 3
        return math.sqrt(at_8 * at_32)  # at 16 bits

    def access(self, elements: float, bits: float) -> float:
        """pJ to read or write one element of `bits` in a memory of `elements` of them.

        >>> round(get_profile("spikingjelly").access(elements=4096, bits=32), 2)  # 16 KiB
        13.33
        """
        return (
            self.value("access_pj")
            + self.value("access_pj_per_memory_bit") * elements * bits
            + self.value("access_pj_per_memory_element") * elements
            + self.value("access_pj_per_word_bit") * bits
            + bits / 32 * self._curve(elements * bits / 8 / 1024)
        )

    def _curve(self, kib: float) -> float:
        """pJ of a 32-bit access of a memory of that size."""
        low, at_low = 0, 0.0
        for name, high in (("8kib", 8), ("32kib", 32), ("1mib", 1024)):
            at_high = self.value(f"access_pj_at_{name}")
            if kib <= high:
                return at_low + (at_high - at_low) * (kib - low) / (high - low)
            low, at_low = high, at_high
        return at_low

    def to_dict(self) -> dict[str, Any]:
        """Name and constants with their sources, as in a file."""
        return asdict(self)


def list_profiles() -> list[str]:
    """Names of the built-in profiles.

    >>> list_profiles()
    ['castagnetti2025', 'lemaire2022', 'qualia', 'spikingjelly', 'sram8k']
    """
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def get_profile(profile: str | os.PathLike[str] | Profile, argument: str = "profile") -> Profile:
    """A built-in profile by name, or a file's where the name ends in .yaml or .yml. Raises
    `InputError`, naming `argument`, where it is neither."""
    if isinstance(profile, Profile):
        return profile
    names = list_profiles()
    if not isinstance(profile, (str, os.PathLike)):
        raise invalid(argument, profile, f"{', '.join(names)}, a .yaml file or a Profile")
    name = os.fspath(profile)
    if name in names:
        return _built_in(name)
    if Path(name).suffix in (".yaml", ".yml"):
        return load_profile(name)
    raise unknown(argument, name, [*names, "a .yaml file"])


@cache
def _built_in(name: str) -> Profile:
    return _read(_FOLDER / f"{name}.yaml")


def load_profile(path: str | os.PathLike[str]) -> Profile:
    """A profile from a YAML file; every constant needs a value and a source.

    Raises `InputError` where the file is absent or not YAML, where a constant is missing,
    unknown, negative or not a number, and where a source is missing.
    """
    profile = _read(path)
    if profile.name in list_profiles():
        raise invalid(f"{path}: name", profile.name, "a name that no built-in profile has")
    return profile


def _read(path: str | os.PathLike[str]) -> Profile:
    file, content = os.fspath(path), read_yaml("profile", path, "the keys name, constants")
    _check_keys(file, content, ("name", "constants"))
    name, constants = content["name"], content["constants"]
    if not isinstance(name, str) or not name:
        raise invalid(f"{file}: name", name, "a name")
    _check_keys(f"{file}: constants", constants, REQUIRED, OPTIONAL)
    for key, entry in constants.items():
        _check_keys(f"{file}: {key}", entry, ("value", "source"))
    return Profile(name, {key: Constant(**entry) for key, entry in constants.items()})


def _check_keys(
    where: str, mapping: object, wanted: tuple[str, ...], spare: tuple[str, ...] = ()
) -> None:
    """Raise `InputError` unless `mapping` has the `wanted` keys, and no others but `spare` ones."""
    if not isinstance(mapping, dict):
        raise invalid(where, mapping, f"the keys {', '.join(wanted)}")
    for key in mapping:
        if key not in wanted + spare:
            raise unknown(where, str(key), wanted + spare)
    missing = [key for key in wanted if key not in mapping]
    if missing:
        raise InputError(f"{where}: missing {', '.join(missing)}")
