"""Pickles of arrays read without giving them the power that pickles have."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from multispike.errors import invalid

RECONSTRUCT = np.empty(0).__reduce__()[0]
"""The function by which a pickled array asks to be made; numpy has moved it about."""

ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): RECONSTRUCT,
}
"""All that a pickle may name. Numbers, strings, lists and dictionaries have no name to look up."""


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def unpickle(content: bytes, name: str) -> dict[Any, Any]:
    """A dictionary of plain values and numpy arrays from a pickle; Python 2's `str` as bytes.

    name: what to call it in the `InputError` for a pickle that is damaged, no dictionary, or asks
        for any other function or class. Nothing it names is imported or called.
    """
    try:
        value = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    # A damaged pickle can fail in any way that the constructors of arrays and values can.
    except Exception as error:
        raise invalid(
            "data file", name, f"a whole pickle of nothing but arrays ({error})"
        ) from None
    if not isinstance(value, dict):
        raise invalid("data file", name, f"a pickled dictionary, not {type(value).__name__}")
    return value


def read_archive(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The members of a `.tar.gz` with these base names, read without unpacking to the disk."""
    contents: dict[str, bytes] = {}
    try:
        with gzip.open(path) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    base = member.name.rsplit("/", 1)[-1]
                    if member.isfile() and base in names:
                        contents[base] = archive.extractfile(member).read()  # type: ignore
            while stream.read(1 << 20):
                pass  # gzip's checksum comes at the end, after tar's last block
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise invalid("data file", str(path), f"a whole .tar.gz archive ({error})") from None
    missing = [name for name in names if name not in contents]
    if missing:
        raise invalid("data file", str(path), f"an archive that holds {', '.join(missing)}")
    return contents
