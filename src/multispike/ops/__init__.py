"""The operators of the package, and their kernels in C: one pass over memory, where torch's
operations need several.

The sources in `c/` are compiled at the first use (about a second), kept in the cache folder under a
name that hashes sources, compiler, flags and processor, and called through ctypes. Values are
float32 or bfloat16; what is computed in between is float32. Spikes and potentials are bit for bit
those of `reference`; gradients agree within rounding. Where there is no C compiler, one warning
says so and torch's operations do the work.
"""
