"""Kernels in C, mostly for training: one pass over memory where torch's operations need several.

The sources in `c/` are compiled at the first use (about a second), kept in the cache folder under a
name that hashes sources, compiler, flags and processor, and called through ctypes. Values are
float32 or bfloat16; what is computed in between is float32. Spikes and potentials are bit for bit
those of the eager code in `multispike.neurons`; gradients agree within rounding.
Where there is no C compiler, one warning says so and torch's operations do the work.
"""

from multispike.ops.build import library
from multispike.ops.counts import Counts, count_levels
from multispike.ops.layer import empty_like_steps, traced
from multispike.ops.levels import spikes_kept_as_bytes
from multispike.ops.norm import FusedNormSpikes, norm_usable
from multispike.ops.pool import FusedMaxPool, pool_usable
from multispike.ops.spikes import FusedSpikes, usable

__all__ = [
    "Counts",
    "FusedMaxPool",
    "FusedNormSpikes",
    "FusedSpikes",
    "count_levels",
    "empty_like_steps",
    "library",
    "norm_usable",
    "pool_usable",
    "spikes_kept_as_bytes",
    "traced",
    "usable",
]
