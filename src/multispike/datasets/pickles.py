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


class _Type:
    """Stands for a type of numbers; its name is all that is looked at."""

    def __init__(self, name: object) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment, which bytes don't have."""


class _Array:
    """Stands for an array, which comes out as the bytes it is: uint8, of a shape."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, content = state
        if not isinstance(kind, _Type) or kind.name not in (b"u1", "u1"):
            raise pickle.UnpicklingError("an array of something else than uint8")
        flat = np.frombuffer(content, np.uint8)
        self.values = flat.reshape(shape, order="F" if fortran else "C")


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for each name that a pickled array needs: no part of numpy.

        Numbers, strings, lists and dictionaries have no name to look up.
        """
        # Made anew for each pickle, which can give a function attributes, and nothing more.
        if (module, name) == ("numpy", "dtype"):
            return lambda kind, *_: _Type(kind)
        if (module, name) == ("numpy", "ndarray"):
            return None  # what `_reconstruct` is to make; it makes nothing else
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return lambda *_: _Array()
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def unpickle(content: bytes, name: str) -> dict[Any, Any]:
    """A dictionary of plain values and uint8 arrays from a pickle; Python 2's `str` as bytes.

    name: what to call it in the `InputError` for a pickle that is damaged, no dictionary, or asks
        for any other function or class. Nothing it names is imported or called.
    """
    try:
        value = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        if isinstance(value, dict):
            return {
                key: each.values if isinstance(each, _Array) else each
                for key, each in value.items()
            }
    # A damaged pickle can fail in any way that the making of arrays and values can.
    except Exception as error:
        raise invalid(
            "data file", name, f"a whole pickle of nothing but uint8 arrays ({error})"
        ) from None
    raise invalid("data file", name, f"a pickled dictionary, not {type(value).__name__}")


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
