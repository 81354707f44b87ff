"""The project's own rules: imports point one way, modules stay short, nothing heavy at start."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"

ROOMS = (
    "errors", "plugins", "pretrained", "files", "progress", "device", "environment",
    "surrogate", "ops", "neurons", "activation_sites", "conversion", "layer_record",
    "energy", "results", "models", "events", "datasets", "config",
    "training", "activity", "profiling",
    "report", "export", "inference", "commands", "fitting", "reproduce", "cli",
)  # fmt: skip
"""From the ground up: a module imports from its own room and from those before it. The package's
own `__init__` names what the rooms define, and is none."""


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def imported(name: str) -> set[str]:
    """The modules of the package that a file imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are written with their full names"
            parts = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {part if part in MODULES else str(node.module) for part in parts}
    return found & MODULES.keys() - {name, "multispike"}


IMPORTS = {name: imported(name) for name in MODULES if name != "multispike"}


def test_rooms_import_downwards_only():
    rank = {room: index for index, room in enumerate(ROOMS)}
    room_of = {name: name.split(".")[1] for name in IMPORTS}
    assert {*room_of.values()} <= rank.keys(), "a new room: give it a place in ROOMS"
    upwards = {
        (name, other)
        for name, others in IMPORTS.items()
        for other in others
        if rank[room_of[other]] > rank[room_of[name]]
    }
    assert not upwards


def test_no_circle_of_files():
    TopologicalSorter(IMPORTS).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("name", MODULES)
def test_modules_stay_short(name):
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= 400


def test_the_command_line_starts_without_heavy_imports():
    code = (
        "import sys; from multispike.cli import COMMANDS, Parser;"
        "[Parser(name, settings) for name, (_, settings) in COMMANDS.items()];"
        "heavy = {'torch', 'lightning', 'numpy', 'plotly', 'matplotlib', 'pyarrow', 'sklearn'};"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_torch_free_energy():
    code = "import sys, multispike.energy; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
