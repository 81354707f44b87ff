"""What one change of a recipe does to its accuracy: a short training of each, same seed.

    python benchmarks/ablation.py RECIPE.yaml --data-dir DIR --work FOLDER [--epochs 6]
                                  [--only NAME,...] [--out FILE.json]

Each row is `multispike train --config RECIPE.yaml` with the options of `CHANGES` added. Run folders
stay in FOLDER, so a killed study goes on where it was; rows of another study in FILE stay.
"""

from __future__ import annotations

from short_runs import ablate

CHANGES = {
    "recipe": "",
    "lr 0.15": "--lr 0.15",
    "lr 0.6": "--lr 0.6",
    "no whitening": "--no-whiten",
    "flip random": "--flip random",
    "bias_lr 1": "--bias-lr 1",
    "bias_lr 8": "--bias-lr 8",
    "bias_lr 32": "--bias-lr 32",
    "label_smoothing 0": "--label-smoothing 0",
    "weight_decay 0.0015": "--weight-decay 0.0015",
    "ema 0.99": "--ema 0.99",
    "ste": "--surrogate ste",
    "sigmoid": "--surrogate sigmoid",
    "v_init 0": "--v-init 0",
    "threshold 2": "--threshold 2",
    "threshold 4": "--threshold 4",
    "learn_threshold layer": "--learn-threshold layer",
    "learn_threshold channel": "--learn-threshold channel",
}


if __name__ == "__main__":
    ablate(__doc__, "ablation", CHANGES, epochs=6)
