"""Files that are either whole or absent: write beside the target, fsync, rename."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from multispike.errors import InputError, invalid


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Give an `OSError` of no file, as of a full disk, the name of the one that was written."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), os.fspath(path)) from error


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, else it is removed.

    What stood there stays valid until the new file is whole and on the disk. Of a link, the file
    that it leads to is replaced; a pipe or device gets the content written.
    """
    if Path(path).exists() and not Path(path).is_file():
        from tempfile import TemporaryDirectory

        with TemporaryDirectory() as folder:
            temporary = Path(folder) / Path(path).name
            yield temporary
            with naming(path):
                Path(path).write_bytes(temporary.read_bytes())
        return
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            yield temporary
            with open(temporary, "rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, target)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def check_target(argument: str, path: str | os.PathLike[str]) -> None:
    """Raise `InputError` where no file could be written, before the work that fills it."""
    target = Path(path)
    if target.is_dir() or not target.parent.is_dir():
        raise invalid(argument, os.fspath(path), "a file in a folder that exists")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace `path` by `text` (UTF-8), whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Replace `path` by `value` as indented JSON without NaN, or print it where the path is "-"."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
    else:
        write_text(path, text)


def read_yaml(
    argument: str, path: str | os.PathLike[str], keys: str = "a mapping of settings"
) -> dict[str, Any]:
    """The mapping in a YAML file; `argument` and `keys` are what errors call it and its keys.

    Raises `InputError` if the file is absent, no YAML, or no mapping; for aliases of what has
    aliases, which some lines multiply to gigabytes, and for more than 20 levels.
    """
    import yaml  # here, so that a help text need not wait for it

    file = os.fspath(path)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = Path(path).read_text(encoding="utf-8")
        named: list[bool] = []  # of the collections around an event, whether an alias can mean them
        for event in yaml.parse(text, loader):
            if isinstance(event, yaml.CollectionStartEvent):
                named.append(event.anchor is not None)
            elif isinstance(event, yaml.CollectionEndEvent):
                named.pop()
            multiplies = isinstance(event, yaml.AliasEvent) and any(named)
            if multiplies or len(named) > 20:
                what = "an alias in what has a name" if multiplies else "more than 20 levels"
                raise yaml.YAMLError(f"{what}, line {event.start_mark.line + 1}")
        content = yaml.load(text, loader)
        str(content)  # a ValueError of integers that are too long to be written
    except OSError as error:
        raise InputError(f"{argument}: got {file!r}, {error.strerror or error}") from error
    except (ValueError, yaml.YAMLError) as error:  # no UTF-8, no such day, no YAML
        reason = " ".join(str(error).split())
        raise InputError(f"{argument}: got {file!r}, not a YAML file: {reason}") from error
    if not isinstance(content, dict):
        raise InputError(f"{argument}: got {file!r}, allowed: {keys}")
    return content


def yaml_text(settings: dict[str, Any]) -> str:
    """Settings as YAML, in their order."""
    import yaml

    return yaml.safe_dump(settings, sort_keys=False)


def parse_json(text: str | bytes) -> Any:
    """What JSON says; `ValueError` for what is none, is nested too deep, or can't be written again,
    as NaN and halves of characters."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("nested too deep") from None
    return value


def check_stored(archive: zipfile.ZipFile, path: str | os.PathLike[str]) -> None:
    """Raise `OSError` where a zip announces more bytes than it has: its members are compressed, or
    lie over each other, and could take any memory."""
    announced = sum(member.file_size for member in archive.infolist())
    if announced > os.stat(path).st_size:
        raise OSError(f"it announces {announced:,} bytes, more than it has")


def to_plain(value: Any) -> Any:
    """A result as its file has it: dataclasses as dicts, tuples as lists."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if is_dataclass(value):
        return plain_fields(value)
    if isinstance(value, dict):
        return {key: to_plain(part) for key, part in value.items()}
    return [to_plain(part) for part in value] if isinstance(value, (tuple, list)) else value


def plain_fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, each as `to_plain` gives it."""
    return {each.name: to_plain(getattr(value, each.name)) for each in fields(value)}


def known_fields(value: Any) -> dict[str, Any]:
    """The same without what is None."""
    return {name: part for name, part in plain_fields(value).items() if part is not None}


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content as hexadecimal digits, read in chunks."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def default_cache_dir() -> Path:
    """`$MULTISPIKE_CACHE`, or else `~/.cache/multispike`."""
    return Path(os.environ.get("MULTISPIKE_CACHE") or Path.home() / ".cache" / "multispike")
