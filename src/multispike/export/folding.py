"""Synapses in floating point on their way to a layer, normalisation and batch norm folded in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from multispike.errors import invalid
from multispike.export.layers import POINT, Ints, Output, Shape, Window

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Signal:
    """What a layer sends, x, and what it stands for in the float network: worth * (x - zero).

    Attributes:
        worth, zero: [C]; a zero of None is 0.
        flat: the float network's value is [C*H*W].
        padding: zeros that the float network has put around it: top, left, bottom, right.
        repeated: of its one pixel, the float network has made an image.
    """

    name: str
    sent: Output
    worth: Floats
    zero: Floats | None = None
    flat: bool = False
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    repeated: bool = False

    @property
    def shape(self) -> Shape:
        return self.sent.shape

    @property
    def potentials(self) -> bool:
        """Whether it is fixed-point potentials, not levels."""
        return self.sent.dtype == "int16"


@dataclass(frozen=True)
class Drive:
    """Synapses in floating point.

    weight: potential per unit of the source; None for an identity.
    parameter: what the float network calls its own weights; factor: what these were multiplied by.
    """

    name: str
    source: Signal
    bias: Floats
    weight: Floats | None = None
    window: Window = POINT
    groups: int = 1
    parameter: str | None = None
    factor: Floats | None = None


@dataclass(frozen=True)
class Potential:
    """A sum of drives that no layer holds yet.

    pool: of a max-pool between synapses and batch norm; sign: of the norm's scale, [C]. `shape` is
    behind it.
    """

    name: str
    shape: Shape
    drives: tuple[Drive, ...]
    pool: Window | None = None
    sign: Ints | None = None
    flat: bool = False


@dataclass(frozen=True)
class Firing:
    """Neurons' numbers; one level, V_th/N, [C] or [1]."""

    level: Floats
    levels: int
    v_init: float
    beta: float


def per_input(values: Floats, outputs: int, groups: int) -> Floats:
    """[C] as what meets each weight, [Co, C/groups]."""
    return np.repeat(values.reshape(groups, -1), outputs // groups, axis=0)


def project(
    name: str, x: Signal, weight: Floats, bias: Floats | None, window: Window, groups: int = 1,
    parameter: str | None = None,
) -> Potential:  # fmt: skip
    """A convolution of x by the float network's weights [Co, Ci/groups, Kh, Kw]."""
    factor = per_input(x.worth, len(weight), groups)[:, :, None, None]
    bias = np.zeros(len(weight)) if bias is None else bias
    drive = Drive(name, x, bias, weight * factor, window, groups, parameter, factor)
    return Potential(name, (len(weight), *window.reach(x.shape)), (drive,))


def identity(name: str, x: Signal) -> Potential:
    """x itself, added to a potential; as 1x1 weights where it is moved, or sums."""
    if x.zero is not None or x.sent.dtype == "int32":
        weight = np.ones((x.shape[0], 1, 1, 1))
        return project(name, x, weight, None, POINT, groups=x.shape[0])
    return Potential(name, x.shape, (Drive(name, x, np.zeros(x.shape[0])),), flat=x.flat)


def weighted(drive: Drive) -> Drive:
    """An identity as 1x1 weights."""
    if drive.weight is not None:
        return drive
    weight = drive.source.worth[:, None, None, None]
    return replace(drive, weight=weight, groups=len(weight))


def affine(x: Signal | Potential, scale: Floats, offset: Floats) -> Signal | Potential:
    """x * scale + offset, each [C]; behind a max-pool the scale's sign stays outside."""
    if isinstance(x, Signal):
        if not scale.all():
            raise invalid(x.name, "a scale of 0 behind it", "numbers other than 0")
        worth = x.worth * scale
        return replace(x, worth=worth, zero=(0 if x.zero is None else x.zero) - offset / worth)
    sign, outside = x.sign, scale
    if x.pool:
        assert sign is not None
        sign = np.where(scale < 0, -sign, sign).astype(np.int32)
        scale = np.abs(scale)
    each, drives = scale[:, None, None, None], []
    for drive in map(weighted, x.drives):
        assert drive.weight is not None
        factor = None if drive.factor is None else drive.factor * each
        bias = drive.bias * outside + (0 if drives else offset)
        drives.append(replace(drive, weight=drive.weight * each, factor=factor, bias=bias))
    return replace(x, drives=tuple(drives), sign=sign)
