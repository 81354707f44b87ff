"""Networks and data sets of others: a function in a file or in an installed package.

    my_net.py:build     a function in a file
    mypackage.nets:tiny a function in an installed module
    tinynet             a name that an installed package gives a function, as an entry point

A run keeps where its functions are, and needs them again where it is loaded. What they are asked
for runs their code, as importing a module does.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Collection
from functools import cache
from hashlib import sha256
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any

from multispike.errors import InputError, invalid, unknown

GROUPS = {"arch": "multispike.models", "data": "multispike.datasets"}
GROUPS |= {"target": GROUPS["arch"], "against": GROUPS["arch"]}
"""Entry points by what they are for."""


@cache
def installed(argument: str) -> dict[str, str]:
    """The names that installed packages add: name -> "module:function"."""
    return {entry.name: entry.value for entry in metadata.entry_points(group=GROUPS[argument])}


def absolute(name: str) -> str:
    """The same place from any folder; other names as they are."""
    path, _, function = name.rpartition(":")
    return f"{Path(path).resolve()}:{function}" if path.endswith(".py") else name


def label(name: str) -> str:
    """A name for tables and folders.

    >>> label("/home/me/my_net.py:build"), label("nets.small:tiny"), label("vgg11"), label(":Net")
    ('my_net', 'nets.small-tiny', 'vgg11', 'Net')
    """
    path, _, function = name.rpartition(":")
    path = Path(path).stem if path.endswith(".py") else path
    return path if function in ("build", "load") else f"{path}-{function}" if path else function


def check_name(argument: str, name: str, table: Collection[str]) -> None:
    """Raise `InputError` for a name that neither the table, a place nor a package has."""
    if name not in table and ":" not in name and name not in installed(argument):
        places = ["FILE.py:FUNCTION", "MODULE:FUNCTION"]
        raise unknown(argument, name, [*table, *installed(argument), *places])


def check_there(argument: str, name: str) -> None:
    """Raise `InputError` for a file that is gone, without running anything; and for what has no
    place but a name, as ":Net", since `multispike.fit` was given the thing itself."""
    path, _, title = name.rpartition(":")
    if name.startswith(":"):
        allowed = f"what can be made again; Python has it: load_run(RUN, model={title})"
        allowed = allowed if argument == "arch" else "what can be read again, which fit was given"
        raise invalid(argument, title, allowed)
    if path.endswith(".py") and not Path(path).is_file():
        raise invalid(argument, name, "a function of a file that exists")


def load(argument: str, name: str) -> Callable[..., Any]:
    """The function of a name; `InputError` if it is gone, or its module fails when imported."""
    place = name if ":" in name else installed(argument).get(name)
    if place is None:
        raise invalid(argument, name, "one that is installed: the package that has it is gone")
    check_there(argument, place)
    path, _, function = place.rpartition(":")
    try:
        module = _from_file(Path(path)) if path.endswith(".py") else import_module(path)
    except Exception as error:  # whatever the code of others raises
        raise failed(argument, name, "imported", error) from error
    found = getattr(module, function, None)
    if not callable(found):
        raise invalid(argument, name, f"a function that {path} has")
    return found


def _from_file(path: Path) -> Any:
    """A file as a module that finds what lies beside it; the same one while it is unchanged."""
    name = f"multispike_{sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module


def failed(argument: str, name: str, what: str, error: Exception) -> InputError:
    """That a user's code raised something, with the place in it that did."""
    where = ""
    if isinstance(error, SyntaxError):
        where = f" in {error.filename}, line {error.lineno}"
    elif frames := traceback.extract_tb(error.__traceback__):
        path, _, _ = name.rpartition(":")
        own = [frame for frame in frames if frame.filename == str(Path(path))] or frames[-1:]
        where = f" in {own[-1].filename}, line {own[-1].lineno}"
    reason = (str(error) or "no message").splitlines()[0]
    kind = type(error).__name__
    return InputError(f"{argument}: got {name!r}, which can't be {what}: {kind}{where}: {reason}")
