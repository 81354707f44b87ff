"""The project's own rules: imports point one way, modules stay short, nothing heavy at start."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "multispike"

LAYERS = [
    {"errors", "files", "allocator"},
    {"records"},
    {"energy"},
    {"surrogate", "kernels"},
    {"neurons"},
    {"models", "data"},
    {"config", "environment"},
    {"training", "recipes"},
    {"activity"},
    {"profiling"},
    {"report", "avalanche"},
    {"experiment", "deploy"},
    {"live", "stream", "viewer", "reproduce"},
    {"cli"},
]
"""From the ground up: a module may import from its own set and from those before it."""


def imports_of(path: Path) -> set[str]:
    """First-level modules of multispike that a file imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        found |= {name.split(".")[1] for name in names if name.startswith("multispike.")}
    return found


def home(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize(
    "path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE))
)
def test_imports_point_one_way(path):
    rank = {name: index for index, layer in enumerate(LAYERS) for name in layer}
    if home(path) == "__init__":
        return
    assert home(path) in rank, "a new module: give it a place in LAYERS"
    wrong = {name for name in imports_of(path) if rank[name] > rank[home(path)]}
    assert not wrong, f"{home(path)} must not import {wrong}"


@pytest.mark.parametrize(
    "path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE))
)
def test_modules_stay_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_the_command_line_starts_without_heavy_imports():
    code = (
        "import sys; from multispike.cli import build_parser; build_parser();"
        "heavy = {'torch', 'lightning', 'numpy', 'plotly', 'matplotlib', 'pyarrow', 'sklearn'};"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_torch_free_energy():
    code = "import sys, multispike.energy; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
