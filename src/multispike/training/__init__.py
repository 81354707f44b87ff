"""Training on Lightning: settings in, a run folder out."""

from multispike.training.callbacks import Interrupted
from multispike.training.fit import fit, load_data
from multispike.training.run import RESULT, Run, load_run

__all__ = ["RESULT", "Interrupted", "Run", "fit", "load_data", "load_run"]
