"""The one table of architectures. Torch-free, so that names can be listed and checked at once."""

from __future__ import annotations

from dataclasses import dataclass

NEURONS = ("relu", "binary", "multilevel")
"""What may stand after a convolution: the ANN's ReLU, the binary IF or the multi-level IF."""

STEMS = {"cifar": (3, 1, False), "imagenet": (7, 2, True)}
"""Kernel, stride, and whether a max-pool follows. Event cameras take either with 2 channels."""


@dataclass(frozen=True)
class Family:
    """How a residual block is wired; what crosses the shortcut follows from it.

    Attributes:
        pre_activation: neuron before each convolution (MS-ResNet), else after it.
        fires_before_sum: both paths end in a neuron, so levels are added, not potentials.
        merge: "add", "and" or "iand" (the g of SEW-ResNet).
        after_sum: None, "neuron" or "barrier".
    """

    pre_activation: bool = False
    fires_before_sum: bool = False
    merge: str = "add"
    after_sum: str | None = None


FAMILIES = {
    "spiking": Family(after_sum="neuron"),
    "sew": Family(fires_before_sum=True),
    "sew_and": Family(fires_before_sum=True, merge="and"),
    "sew_iand": Family(fires_before_sum=True, merge="iand"),
    "ms": Family(pre_activation=True),
    "sparse": Family(fires_before_sum=True, after_sum="barrier"),
}


@dataclass(frozen=True)
class Vgg:
    """Convolutions by width; "M" is a max-pool on spikes (after the neuron).

    "P" is a max-pool between convolution and BN, so that BN and neuron run on a quarter of the
    elements; "R" is a Sparse residual block of the width before it; `dirac` starts every body
    convolution near the identity on its first channels.
    """

    layout: tuple[int | str, ...]
    dirac: bool = False


@dataclass(frozen=True)
class ResNet:
    """Basic blocks: `widths[i]` channels in each of the `depths[i]` blocks of stage i."""

    family: Family
    widths: tuple[int, ...]
    depths: tuple[int, ...]


_VGG11 = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
_VGG16 = (64, 64, "M", 128, 128, "M", *(256,) * 3, "M", *(512,) * 3, "M", *(512,) * 3, "M")
_FAST = (24, 64, "P", 64, 256, "P", 256, 256, "P", 256)
_FAST_M = (24, 128, "P", 128, 384, "P", 384, 384, "P", 384)
_FAST_L = (24, 128, "P", "R", 512, "P", "R", 512, "P", "R")
_DEPTHS = {
    "resnet18": ((64, 128, 256, 512), (2, 2, 2, 2)),
    "resnet20": ((16, 32, 64), (3, 3, 3)),
    "resnet34": ((64, 128, 256, 512), (3, 4, 6, 3)),
}

ARCHITECTURES: dict[str, Vgg | ResNet] = {
    "fastnet": Vgg(_FAST, dirac=True),
    "fastnet_m": Vgg(_FAST_M, dirac=True),
    "fastnet_l": Vgg(_FAST_L, dirac=True),
    "vgg11": Vgg(_VGG11),
    "vgg16": Vgg(_VGG16),
    **{
        f"{family}_{depth}": ResNet(row, *shape)
        for family, row in FAMILIES.items()
        for depth, shape in _DEPTHS.items()
    },
}
