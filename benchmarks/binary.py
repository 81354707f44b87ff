"""What suits the binary SNN that graded spikes are compared with? A short training of each.

    python benchmarks/binary.py RECIPE.yaml --data-dir DIR --work FOLDER [--epochs 5]
                                [--only NAME,...] [--out FILE.json]

A gradient, threshold and learning rate chosen for T = 1, N = 4 need not suit T = 4, N = 1, and a
comparison with a badly trained network says nothing. Every row is SEW-ResNet-20 of the recipe with
binary neurons, T = 4, and the options of `CHANGES`, on a fifth of the training images. The binary
rows of `multispike reproduce` take the best.
"""

from __future__ import annotations

from short_runs import ablate

BINARY = (
    "--arch sew_resnet20 --neuron binary --levels null --timesteps 4"
    " --limit-train 10000 --limit-test 2000"
)
CHANGES = {
    "recipe": "",
    "clip V_th 1": "--threshold 1",
    "ste V_th 1": "--surrogate ste --threshold 1",
    "sigmoid": "--surrogate sigmoid",
    "sigmoid V_th 1": "--surrogate sigmoid --threshold 1",
    "sigmoid V_th 3": "--surrogate sigmoid --threshold 3",
    "sigmoid V_th 1 lr 0.1": "--surrogate sigmoid --threshold 1 --lr 0.1",
    "ste V_th 1 lr 0.1": "--surrogate ste --threshold 1 --lr 0.1",
}

if __name__ == "__main__":
    ablate(__doc__, "binary", CHANGES, epochs=5, shared=BINARY)
