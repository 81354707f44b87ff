"""Training on Lightning Fabric: settings in, a run folder out."""

from multispike.training.data import load_data
from multispike.training.launch import fit
from multispike.training.loop import Interrupted
from multispike.training.run import RESULT, Run, load_run

__all__ = ["RESULT", "Interrupted", "Run", "fit", "load_data", "load_run"]
