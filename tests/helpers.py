"""Tolerances, each with its reason, and small reference implementations."""

import gzip
import re

import numpy as np
import torch

from multispike.models.table import FAMILIES

KINDS = ("fastnet", "fastnet_l", "vgg11", *(f"{name}_resnet20" for name in FAMILIES),
         "sparse_resnet34")  # fmt: skip
"""Every block and wiring of the table, and one deep network of four stages; what else is in it
repeats the same blocks in other numbers and widths."""

FLOAT_SUM = dict(rtol=1e-5, atol=1e-6)
"""A few hundred float32 additions in another order."""

EDGE = 1e-4
"""Relative distance from a level edge beyond which float32 rounding can't reach the next level."""


def binary_if(x: torch.Tensor, threshold: float) -> torch.Tensor:
    """A binary IF neuron with soft reset, written plainly; x [T, ...] -> 0 or threshold."""
    v = torch.zeros_like(x[0])
    spikes = []
    for x_t in x:
        v = v + x_t
        fired = v >= threshold
        v = v - fired * threshold
        spikes.append(fired * threshold)
    return torch.stack(spikes)


def unpacked(page: str, name: str = "data") -> str:
    """What a report packs into a script element: characters of seven bits, of a gzip file."""
    found = re.search(rf'<script type="text/plain" id="{name}">(.*?)</script>', page, re.DOTALL)
    assert found
    sevens = np.array([ord(character) & 127 for character in found[1]], np.uint8)
    bits = np.unpackbits(sevens[:, None], axis=1)[:, 1:].ravel()
    return gzip.decompress(np.packbits(bits[: len(bits) // 8 * 8]).tobytes()).decode()
