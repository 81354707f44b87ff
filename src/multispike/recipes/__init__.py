"""Recipes as YAML files, what `multispike train --config` takes. `recipe(name)` reads one."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jsonargparse import ArgumentParser

from multispike.config import TrainConfig
from multispike.errors import unknown

FOLDER = Path(__file__).parent


def list_recipes() -> list[str]:
    """The names of the recipes, sorted.

    >>> "cifar10-fast" in list_recipes()
    True
    """
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@cache
def recipe(name: str) -> TrainConfig:
    """A recipe's settings, read with the types of the command line.

    Raises:
        InputError: for a name that is not in `list_recipes()`.

    >>> recipe("cifar10-fast").arch
    'fastnet'
    """
    if name not in list_recipes():
        raise unknown("recipe", name, list_recipes())
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TrainConfig, as_group=False)
    settings = parser.parse_path(str(FOLDER / f"{name}.yaml"))
    return TrainConfig(**settings.as_dict())
