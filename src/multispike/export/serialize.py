"""Integer networks on disk: one zip (npz) of plain arrays and a JSON description, no pickle.

    network.json      uint8 array with UTF-8 JSON: {"format", and the fields of `IntegerNetwork`,
                      "layers": [{"type": "Neurons", ...}, ...]}; where a field holds an array, the
                      JSON has {"array": KEY}
    KEY.npy           one array each; KEY is its place in the JSON, "layers/3/synapses/0/weight"

Reading checks the zip's checksums, each field's type, and the network as if it had just been made
(`validate`): a damaged file is refused, never run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import types
import zipfile
import zlib
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from multispike.errors import InputError, invalid
from multispike.export import layers
from multispike.export.network import IntegerNetwork
from multispike.files import check_stored, parse_json, replacing

FORMAT = "multispike-integer-2"
_FIRST = "multispike-integer-1"
_HEADER = "network.json"
_KINDS = ("Neurons", "Potentials", "Merge", "MaxPool", "SumPool", "Concat", "Readout")
_DAMAGE = (
    *(OSError, EOFError, MemoryError, ValueError, KeyError, AttributeError, TypeError),
    # What zipfile raises for a method, a version and an encryption that it doesn't know, and zlib.
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error),
)
"""What reading a damaged file may raise."""


def save(network: IntegerNetwork, path: str | os.PathLike[str]) -> None:
    """Write `network` to `path`, whole or not at all."""
    arrays: dict[str, np.ndarray] = {}
    header = {"format": FORMAT, **_pack(network, "", arrays)}
    arrays[_HEADER] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)  # pyright: ignore[reportArgumentType]


def load(path: str | os.PathLike[str]) -> IntegerNetwork:
    """The network that `save` wrote.

    Raises:
        InputError: if the file is missing, truncated, damaged, or of another format.
    """
    try:
        # An open stream, since np.load leaves a damaged file open that it opened by itself.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            check_stored(archive.zip, path)
            arrays = {name: archive[name] for name in archive.files}
        header = parse_json(arrays.pop(_HEADER).tobytes())
    except FileNotFoundError:
        raise InputError(f"path: got {str(path)!r}, allowed: an existing file") from None
    except _DAMAGE as error:
        raise InputError(f"path: got {str(path)!r}, damaged or no {FORMAT}: {error}") from error
    found = header.pop("format", None) if isinstance(header, dict) else header
    if found not in (FORMAT, _FIRST):
        raise invalid("format", found, FORMAT)
    try:
        if found == _FIRST:
            _upgrade(header, arrays)
        return _unpack(IntegerNetwork, header, arrays)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise InputError(f"path: got {str(path)!r}, contradicts itself: {error!r}") from error


def _upgrade(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """A description of the first format, which had square windows, 2x2 max-pools and sums over
    the whole image only, as one of this."""
    shapes = {layers.IMAGE: header["input_shape"]}
    halving = dataclasses.asdict(layers.HALVING)
    for layer in header["layers"]:
        shapes[layer["name"]] = layer["shape"]
        for one in layer.get("synapses", ()):
            kernel = (1, 1) if one["weight"] is None else arrays[one["weight"]["array"]].shape[2:]
            stride, padding = [one.pop("stride")] * 2, [one.pop("padding")] * 2
            window = {"kernel": kernel, "stride": stride, "before": padding, "after": padding}
            one["window"] = window
        if layer.get("sign") is not None:
            layer["pool"] = halving
        if layer["type"] == "GlobalSum":
            layer |= {"type": "SumPool", "window": {"kernel": shapes[layer["source"]][1:]}}


def _pack(value: Any, place: str, arrays: dict[str, np.ndarray]) -> Any:
    """`value` as JSON; arrays go to `arrays` and leave their key."""
    if isinstance(value, np.ndarray):
        arrays[place] = value
        return {"array": place}
    if dataclasses.is_dataclass(value):
        packed = {"type": type(value).__name__} if isinstance(value, layers.Layer) else {}
        for field in dataclasses.fields(value):
            name = f"{place}/{field.name}".lstrip("/")
            packed[field.name] = _pack(getattr(value, field.name), name, arrays)
        return packed
    if isinstance(value, tuple):
        return [_pack(item, f"{place}/{index}", arrays) for index, item in enumerate(value)]
    return value


def _unpack(kind: Any, value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The object of type `kind` that `_pack` wrote as `value`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is types.UnionType:
        return None if value is None else _unpack(arguments[0], value, arrays)
    if origin is np.ndarray:
        array = arrays[value["array"]]
        wanted = get_args(arguments[1])[0]
        if array.dtype != wanted:
            raise TypeError(f"{value['array']}: {array.dtype}, not {wanted.__name__}")
        return array
    if origin is tuple:
        return tuple(_unpack(arguments[0], item, arrays) for item in value)
    if dataclasses.is_dataclass(kind):
        if kind is layers.Layer:
            kind = getattr(layers, _KINDS[_KINDS.index(value.pop("type"))])
        hints = get_type_hints(kind)
        return kind(**{name: _unpack(hints[name], item, arrays) for name, item in value.items()})  # pyright: ignore[reportCallIssue]
    if not isinstance(value, kind):
        raise TypeError(f"{value!r}, not {kind.__name__}")
    return value
