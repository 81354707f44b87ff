"""The section on networks and profilers of others: their counts and prices beside ours."""

from __future__ import annotations

from statistics import median
from typing import Any

from page.markdown import bullets, source, table, whole


def referee(content: dict[str, Any], file: str) -> list[str]:
    """`benchmarks/referee.py`."""
    rows = content["rows"]
    layers = [row for row in rows if "uj_by_spikingjelly" in row]
    networks = [row for row in rows if row not in layers]
    ran = [row for row in networks if "failed" not in row]
    counted = [
        [
            row["network"],
            row["priced_as"].upper(),
            whole(row.get("macs", row.get("met"))),
            whole(row.get("macs_by_flop_counter", row.get("met_by_hooks"))),
            "yes" if row["equal"] else "**no**",
            str(len(row["not_counted"])),
            f"{row['times_a_forward']:.1f}" if "times_a_forward" in row else "-",
        ]
        for row in ran
    ]
    equal = sum(row["equal"] for row in ran)
    costs = [row["times_a_forward"] for row in ran if "times_a_forward" in row]
    said = [
        f"{len(ran)} of {len(networks)} networks ran unmodified; {equal} of them count the same as"
        " the independent counter, to the last operation.",
        *(f"{row['network']}: {row['explained']}." for row in ran if row.get("explained")),
        *(f"{row['network']} did not run: {row['failed']}" for row in networks if "failed" in row),
    ]
    if costs:
        said.append(f"`profile` of a dense one takes {median(costs):.1f} forwards (median).")
    return [
        "Networks of timm, SpikingJelly, snnTorch, norse and sinabs as they are, with random"
        " weights. Dense ones: multiply-accumulates, against torch's own counter. Spiking ones: how"
        " many weights the non-zero inputs of convolutions and linear layers meet, against forward"
        " hooks. Not counted: lines of what `profile` names and leaves out of the price.",
        table(
            ["network", "as", "ours", "theirs", "equal", "not counted", "times a forward"], counted
        ),
        bullets(said),
        "One 3x3 convolution, the same places once as binary spikes and once as levels 1 to 4."
        " SpikingJelly's profiler takes what is not binary for dense activations:",
        table(
            ["layer", "weights met", "µJ, profile spikingjelly", "µJ, lemaire2022",
             "µJ by SpikingJelly", "its multiplications"],
            [
                [
                    row["network"],
                    whole(row["met"]),
                    f"{row['uj']['spikingjelly']:.1f}",
                    f"{row['uj']['lemaire2022']:.1f}",
                    f"{row['uj_by_spikingjelly']:.1f}",
                    whole(row["multiplications_by_spikingjelly"]),
                ]
                for row in layers
            ],
        ),
        source(file, content["command"], [], content["environment"]),
    ]  # fmt: skip


def qualia(content: dict[str, Any], file: str) -> list[str]:
    """`benchmarks/qualia.py`."""
    rows = content["rows"]
    reasons = dict.fromkeys(reason for row in rows for reason in row["differences_nj"])
    ours, theirs = "ours, profile `qualia`", "Qualia's `EnergyEstimationMetric`"
    lines = [
        [ours, *(f"{row['nj']:,.3f}" for row in rows)],
        *(
            [reason, *(f"{row['differences_nj'].get(reason, 0):+,.3f}" for row in rows)]
            for reason in reasons
        ),
        [theirs, *(f"{row['nj_by_qualia']:,.3f}" for row in rows)],
    ]
    return [
        "Four small networks at 32 bits, nJ per inference, by Qualia's own profiler and by ours,"
        " with the same weights and inputs. What theirs counts differently lies between the two:",
        table(["", *(row["network"] for row in rows)], lines),
        source(file, content["command"], [], content["environment"]),
    ]
