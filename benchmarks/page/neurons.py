"""The sections about neurons and residual sums: transfer function and avalanche."""

from __future__ import annotations

from typing import Any

from multispike.activity.avalanche import Avalanche, growth
from page.markdown import bullets, figure, source, table, verdict


def transfer(content: dict[str, Any]) -> list[str]:
    """`transfer`: N·T + 1 levels, whatever T."""
    codes = content["codes"]
    rows, right = [], True
    for code in codes:
        product = code["timesteps"] * code["levels"]
        reference = next(
            c["outputs"] for c in codes if c["timesteps"] == 1 and c["levels"] == product
        )
        largest = max(abs(a - b) for a, b in zip(code["outputs"], reference, strict=True))
        right &= code["distinct"] == product + 1 and largest == 0
        rows.append(
            [
                f"T={code['timesteps']} N={code['levels']}",
                str(product),
                str(code["distinct"]),
                f"{largest:g}",
            ]
        )
    inputs = content["inputs"]
    return [
        "What the neuron's output decodes to, y = (1/T) Σ s[t], for a constant input x:",
        table(["code", "N·T", "levels of y", "largest difference to T=1, N=N·T"], rows),
        source(
            "transfer.json",
            content["command"],
            [
                f"n = {len(inputs)} inputs from {inputs[0]:g} to {inputs[-1]:g} V_th; nothing"
                f" random in it; v_init {content['v_init']:g}"
            ],
            content["environment"],
        ),
        bullets(
            [
                verdict(
                    "exactly N·T + 1 levels, and the same function for all codes of one N·T",
                    "see the table",
                    right,
                )
            ]
        ),
        figure("transfer", "Decoded output against constant input for codes of equal N·T"),
    ]


def avalanche(content: dict[str, Any]) -> list[str]:
    """`avalanche`: what piles up along the shortcuts."""
    networks = [Avalanche.from_dict(network) for network in content["networks"]]
    return [
        "What leaves the last block of each network, and how activity grows within a stage"
        " (Σz per neuron of its last block over that of its first; 1 is no avalanche). The largest"
        " z and its bound are those of all blocks. Where potentials leave a block instead of"
        " spikes, ~ marks |v| in levels.",
        table(
            ["network", "weights", "density", "Σz per neuron", "growth by stage", "largest z",
             "bound"],
            [_row(network) for network in networks],
        ),
        source(
            "avalanche.json",
            content["command"],
            [
                f"n = {content['images']:,} test images of {content['data']}; untrained networks"
                f" from seed {content['seed']}, their batch normalisation with the statistics of"
                " real batches; trained ones are those of the table of families, seed 0"
            ],
            content["environment"],
        ),
        bullets(_bounds(networks)),
        figure("avalanche", "Amplitude and largest level along the blocks of ResNet-20"),
    ]  # fmt: skip


def _row(network: Avalanche) -> list[str]:
    outs = network.along("out")
    last, peak = outs[-1], max(outs, key=lambda site: site.largest)
    near = "" if last.spikes else "~"
    bounds = [site.bound for site in outs if site.bound is not None]
    return [
        network.name,
        "trained" if network.trained else "random",
        f"{last.density:.3f}",
        f"{near}{last.per_neuron:.3f}",
        ", ".join(f"{factor:.2f}" for _, factor in growth(network)),
        f"{near}{peak.largest:.4g}",
        str(max(bounds)) if bounds else "-",
    ]


def _bounds(networks: list[Avalanche]) -> list[str]:
    """The bounds by construction, over all blocks of all networks of a family."""
    lines = []
    for family, law in (("sew", "SEW-ADD sends at most (k+1)·N after k blocks of a stage"),
                        ("sparse", "Sparse never sends more than N")):  # fmt: skip
        sites = [s for n in networks if n.family == family for s in n.along("out")]
        bounded = [site for site in sites if site.bound is not None]
        if bounded:
            closest = max(site.largest / (site.bound or 1) for site in bounded)
            lines.append(
                verdict(law, f"at most {closest:.2f} of the bound in any block", closest <= 1)
            )
    return lines
