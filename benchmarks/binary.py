"""What suits the binary SNN that graded spikes are compared with? A short training of each.

    python benchmarks/binary.py RECIPE.yaml --data-dir DIR --work FOLDER [--epochs 5]
                                [--only NAME,...] [--out FILE.json]

A gradient and threshold chosen for T = 1, N = 4 need not suit T = 4, N = 1, and a comparison with a
badly trained network says nothing. Every row is the recipe with binary neurons, T = 4, and the
options of `CHANGES`, on a fifth of CIFAR-10's training images. The binary rows of `multispike
reproduce` take what is best.
"""

from __future__ import annotations

from short_runs import ablate

BINARY = "--neuron binary --levels null --timesteps 4 --limit-train 10000 --limit-test 2000"
CHANGES = {
    "recipe": "",
    **{
        f"{surrogate} V_th {value}": f"--surrogate {surrogate} --threshold {value}"
        for surrogate, values in (("ste", (1, 2)), ("clip", (1,)), ("sigmoid", (1, 2, 3)))
        for value in values
    },
    "lr 0.1": "--lr 0.1",
}

if __name__ == "__main__":
    ablate(__doc__, "binary", CHANGES, epochs=5, shared=BINARY)
