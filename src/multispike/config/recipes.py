"""Settings that are worth a name, as YAML files: `--config NAME`, or `recipe(name)`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from multispike.config import TrainConfig
from multispike.errors import unknown
from multispike.files import read_yaml

RECIPES = Path(__file__).parent.parent / "recipes"


def list_recipes() -> list[str]:
    """The names that `recipe` and `--config` take, sorted.

    >>> "cifar10-fast" in list_recipes()
    True
    """
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_file(name: str) -> Path:
    """Where the settings of a recipe stand; `InputError` for a name that none has."""
    if name not in list_recipes():
        raise unknown("config", name, ["a YAML file", *list_recipes()])
    return RECIPES / f"{name}.yaml"


@cache
def recipe(name: str) -> TrainConfig:
    """A recipe's settings.

    >>> recipe("cifar10-fast").arch
    'fastnet'
    """
    return TrainConfig(**read_yaml("config", recipe_file(name)))
