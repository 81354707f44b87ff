"""One-timestep spiking neural networks with graded spikes: train them, price them, ship them.

The public names load on first use, so that the command line need not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multispike.conversion import convert
    from multispike.fitting import fit
    from multispike.inference import load_run
    from multispike.models import create_model, list_models
    from multispike.neurons import MultiLevelIF
    from multispike.profiling import profile

__version__ = "0.2.0"
__all__ = [
    "MultiLevelIF", "__version__", "convert", "create_model", "fit", "list_models",
    "load_run", "profile",
]  # fmt: skip

_HOMES = {
    "MultiLevelIF": "multispike.neurons",
    "convert": "multispike.conversion",
    "create_model": "multispike.models",
    "fit": "multispike.fitting",
    "list_models": "multispike.models",
    "load_run": "multispike.inference",
    "profile": "multispike.profiling",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'multispike' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
