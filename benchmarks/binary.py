"""What suits the binary SNN that graded spikes are compared with? A short training of each.

    python benchmarks/binary.py RECIPE.yaml --data-dir DIR --work FOLDER [--epochs 5]
                                [--timesteps 4] [--limit-train 10000] [--only NAME,...]
                                [--out FILE.json]

A gradient, threshold and rate chosen for T = 1, N = 4 need not suit T > 1, N = 1, and a comparison
with a badly trained network says nothing. Every row is the recipe with binary neurons, so many
timesteps and training images, and the options of `CHANGES`. The binary rows of `multispike
reproduce` take what is best.
"""

from __future__ import annotations

from short_runs import ablate

CHANGES = {
    "recipe": "",
    **{
        f"{surrogate} V_th {value}": f"--surrogate {surrogate} --threshold {value}"
        for surrogate, values in (("ste", (1, 2)), ("clip", (1,)), ("sigmoid", (1, 2, 3)))
        for value in values
    },
    "v_init 0": "--v-init 0",
    **{f"lr {rate}": f"--lr {rate}" for rate in (0.1, 0.01, 0.003)},
}

if __name__ == "__main__":
    ablate(
        __doc__, "binary", CHANGES, epochs=5,
        shared="--neuron binary --levels null --limit-test 2000",
        numbers={"--timesteps": 4, "--limit-train": 10_000},
    )  # fmt: skip
