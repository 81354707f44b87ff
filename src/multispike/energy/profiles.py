"""What one operation and one memory access cost: constants, each with the source it is from.

A memory access costs, for a memory of n elements that are read `bits` wide,

    access_pj + access_pj_per_memory_bit · n · bits + access_pj_per_memory_element · n
              + access_pj_per_word_bit · bits

so that a profile is nine numbers. A user's profile is a YAML file:

    name: my_chip
    constants:
      add_8bit_pj: {value: 0.03, source: Horowitz 2014}
      ...            all nine, zero where a term does not apply
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from multispike.errors import InputError, invalid, unknown

BITS = (8, 16, 32)

_HOROWITZ = "Horowitz, ISSCC 2014, 45 nm, 0.9 V, integer"
_FIT = (
    "line through 10, 20, 100 pJ per access of 8 KiB, 32 KiB, 1 MiB SRAM (Horowitz, ISSCC 2014) "
    "as used by Lemaire et al. 2022"
)
_NOT_APPLICABLE = "no such term in this profile"


@dataclass(frozen=True)
class Constant:
    """A number and where it is from."""

    value: float
    source: str


@dataclass(frozen=True)
class Profile:
    """Energy constants in pJ. See the module's docstring for the formula of an access."""

    name: str
    add_8bit_pj: Constant
    add_32bit_pj: Constant
    mul_8bit_pj: Constant
    mul_32bit_pj: Constant
    access_pj: Constant
    access_pj_per_memory_bit: Constant
    access_pj_per_memory_element: Constant
    access_pj_per_word_bit: Constant
    fifo_elements: Constant
    """Depth of the queue that holds a layer's incoming or outgoing events."""

    def __post_init__(self) -> None:
        for name, constant in self.constants().items():
            _check_constant(f"{self.name}.{name}", constant)
        if self.fifo_elements.value % 1:
            raise invalid(f"{self.name}.fifo_elements", self.fifo_elements.value, "a whole number")

    def constants(self) -> dict[str, Constant]:
        """All constants by name."""
        return {name: getattr(self, name) for name in _CONSTANTS}

    def add(self, bits: int) -> float:
        """pJ of one addition.

        >>> get_profile("lemaire2022").add(32)
        0.1
        """
        return _between(bits, self.add_8bit_pj.value, self.add_32bit_pj.value)

    def mul(self, bits: int) -> float:
        """pJ of one multiplication."""
        return _between(bits, self.mul_8bit_pj.value, self.mul_32bit_pj.value)

    def mac(self, bits: int) -> float:
        """pJ of one multiply-accumulate."""
        return self.mul(bits) + self.add(bits)

    def access(self, elements: float, bits: float) -> float:
        """pJ to read or write one element of `bits` in a memory of `elements` of them."""
        return (
            self.access_pj.value
            + self.access_pj_per_memory_bit.value * elements * bits
            + self.access_pj_per_memory_element.value * elements
            + self.access_pj_per_word_bit.value * bits
        )

    def to_dict(self) -> dict[str, Any]:
        """Name and constants with their sources."""
        constants = {
            name: {"value": constant.value, "source": constant.source}
            for name, constant in self.constants().items()
        }
        return {"name": self.name, "constants": constants}


_CONSTANTS = tuple(field.name for field in fields(Profile) if field.name != "name")


def _between(bits: int, at_8: float, at_32: float) -> float:
    """Power law through the values at 8 and 32 bits, exact at both.

    Horowitz gives integers at 8 and 32 bits only. With his numbers an addition grows as
    bits^0.87 (an adder is a row of cells) and a multiplication as bits^1.98 (a square of them),
    which a straight line would miss: 16-bit multiplication 0.79 pJ, not 1.17. Tables that add a
    16-bit addition put it at 0.05 pJ; here it is 0.055.
    """
    if bits == 32 or at_8 == at_32:
        return at_32
    if bits == 8:
        return at_8
    if at_8 == 0 or at_32 == 0:  # no power law through zero
        return at_8 + (at_32 - at_8) * (bits - 8) / 24
    return at_8 * (at_32 / at_8) ** (math.log2(bits / 8) / 2)


def _check_constant(argument: str, constant: Constant) -> None:
    value = constant.value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid(argument, value, "a number >= 0 (3e-2 is text in YAML, 3.0e-2 a number)")
    if not 0 <= value <= sys.float_info.max:
        shown = value if len(str(value)) < 40 else f"{value!s:.20}..."
        raise invalid(argument, shown, "a finite number >= 0")
    if not isinstance(constant.source, str) or not constant.source.strip():
        raise invalid(f"{argument}.source", constant.source, "where the value is from")


def _profile(name: str, **access: Constant) -> Profile:
    """A built-in profile: Horowitz's operations, and the given terms of a memory access."""
    terms = {term: Constant(0.0, _NOT_APPLICABLE) for term in _CONSTANTS if "access" in term}
    return Profile(
        name=name,
        add_8bit_pj=Constant(0.03, _HOROWITZ),
        add_32bit_pj=Constant(0.1, _HOROWITZ),
        mul_8bit_pj=Constant(0.2, _HOROWITZ),
        mul_32bit_pj=Constant(3.1, _HOROWITZ),
        fifo_elements=Constant(
            2048, "our choice: the smallest memory in Horowitz's table, 8 KiB, in 32-bit words"
        ),
        **{**terms, **access},
    )


_PROFILES = {
    profile.name: profile
    for profile in (
        _profile(
            "lemaire2022",
            access_pj=Constant(13.2, _FIT),
            access_pj_per_memory_bit=Constant(1.09e-5, _FIT),
        ),
        _profile(
            "sram8k",
            access_pj_per_word_bit=Constant(
                10 / 64,
                "10 pJ per 64-bit access of an 8 KiB SRAM (Horowitz, ISSCC 2014), words packed "
                "with data; larger memories are banks of it",
            ),
        ),
        _profile(
            "castagnetti2025",
            access_pj=Constant(13.2, _FIT),
            access_pj_per_memory_element=Constant(
                1.09e-5,
                "inferred, not stated: the slope of Lemaire et al. 2022 applied to elements "
                "instead of bits gives the 12.9e6 nJ that Castagnetti et al. (arXiv 2510.24637) "
                "report for the ANN VGG-16 on CIFAR-10",
            ),
        ),
    )
}


def list_profiles() -> list[str]:
    """Names of the built-in profiles.

    >>> list_profiles()
    ['castagnetti2025', 'lemaire2022', 'sram8k']
    """
    return sorted(_PROFILES)


def get_profile(profile: str | os.PathLike[str] | Profile, argument: str = "profile") -> Profile:
    """A built-in profile by name, or a file's where the name ends in .yaml or .yml.

    Raises `InputError`, naming `argument`, where it is neither.
    """
    if isinstance(profile, Profile):
        return profile
    if not isinstance(profile, (str, os.PathLike)):
        raise invalid(argument, profile, f"{', '.join(_PROFILES)}, a .yaml file or a Profile")
    name = os.fspath(profile)
    if name in _PROFILES:
        return _PROFILES[name]
    if Path(name).suffix in (".yaml", ".yml"):
        return load_profile(name)
    raise unknown(argument, name, [*_PROFILES, "a .yaml file"])


def load_profile(path: str | os.PathLike[str]) -> Profile:
    """A profile from a YAML file; every constant needs a value and a source.

    Raises `InputError` where the file is absent or not YAML, where a constant is missing,
    unknown, negative or not a number, and where a source is missing.
    """
    import yaml  # here, so that a help text need not wait for it

    file = os.fspath(path)
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"profile: got {file!r}, {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"profile: got {file!r}, not a YAML file: {reason}") from error
    _check_keys(file, content, ("name", "constants"))
    name, constants = content["name"], content["constants"]
    if not isinstance(name, str) or not name or name in _PROFILES:
        raise invalid(f"{file}: name", name, "a name that no built-in profile has")
    _check_keys(f"{file}: constants", constants, _CONSTANTS)
    for key, entry in constants.items():
        _check_keys(f"{file}: {key}", entry, ("value", "source"))
    return Profile(
        name=name,
        **{key: Constant(entry["value"], entry["source"]) for key, entry in constants.items()},
    )


def _check_keys(where: str, mapping: object, wanted: tuple[str, ...]) -> None:
    """Raise `InputError` unless `mapping` is one that has exactly the `wanted` keys."""
    if not isinstance(mapping, dict):
        raise invalid(where, mapping, f"the keys {', '.join(wanted)}")
    for key in mapping:
        if key not in wanted:
            raise unknown(where, str(key), wanted)
    missing = [key for key in wanted if key not in mapping]
    if missing:
        raise InputError(f"{where}: missing {', '.join(missing)}")
