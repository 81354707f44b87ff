"""Settings of the commands as typed dataclasses, each with a `check()`.

Torch-free, so that bad usage answers at once; and no module here may have a TYPE_CHECKING block,
since jsonargparse imports what stands in it.
"""

from multispike.config.deploying import BenchConfig, ExportConfig
from multispike.config.measuring import AvalancheConfig, EnergyConfig, EvaluateConfig, ReportConfig
from multispike.config.streaming import StreamConfig
from multispike.config.training import (
    CompareConfig,
    Recipe,
    TrainConfig,
    deciding,
    differing,
    parse_variant,
    same_run,
)
from multispike.config.viewing import ViewConfig

__all__ = [
    "AvalancheConfig",
    "BenchConfig",
    "CompareConfig",
    "EnergyConfig",
    "EvaluateConfig",
    "ExportConfig",
    "Recipe",
    "ReportConfig",
    "StreamConfig",
    "TrainConfig",
    "ViewConfig",
    "deciding",
    "differing",
    "parse_variant",
    "same_run",
]
