"""The figures of docs/concepts: drawn from the library's own neurons and gradients, and from its
table of families; no file of results/ is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from multispike import MultiLevelIF
from multispike.models.table import FAMILIES
from multispike.report.style import PAGE, marks
from multispike.surrogate import SURROGATES
from page.paper import blank, paper_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INPUT = 0.8
"""The constant input of both neurons, in units of V_th."""

_TEXT, _MUTED, _ACCENT = (PAGE[name][0] for name in ("text", "muted", "accent"))
_CHARGED, _SENT, _KEPT = (mark.colour for mark in marks(["charged", "sent", "kept"]).values())


def course(levels: int, timesteps: int, x: float = INPUT) -> list[tuple[float, float, float]]:
    """(H[t], s[t], V[t]) of a neuron with V_th = 1 under a constant input.

    >>> course(levels=4, timesteps=1, x=0.8125)
    [(0.8125, 0.75, 0.0625)]
    >>> [s for _, s, _ in course(levels=1, timesteps=4, x=0.8125)]
    [0.0, 1.0, 1.0, 1.0]
    """
    neuron, v, steps = MultiLevelIF(levels), None, []
    for _ in range(timesteps):
        before = 0.0 if v is None else v.item()
        s, v = neuron.step(torch.tensor([x]), v)
        steps.append((before + x, s.item(), v.item()))
    return steps


def neuron() -> Figure:
    """One input, two codes: binary over four timesteps, and four levels in one."""
    figure = blank(9, 3.9)
    panels = figure.subplots(1, 2, sharey=True, width_ratios=(2.4, 1))
    for panel, levels, timesteps in zip(panels, (1, 4), (4, 1), strict=True):
        _course(panel, levels, timesteps)
    panels[0].set_ylabel("potential / V_th")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _course(panel: Axes, levels: int, timesteps: int) -> None:
    steps = course(levels, timesteps)
    for k in range(1, levels + 1):
        panel.axhline(k / levels, color=PAGE["line"][0], linewidth=1, zorder=0)
        panel.text(
            timesteps + 0.62, k / levels, f"level {k}", va="center", fontsize=8, color=_MUTED
        )
    for t, (h, s, v) in enumerate(steps, 1):
        first = t == 1
        panel.bar(t - 0.22, h, 0.3, color=_CHARGED, label="charged: H = V + x" if first else "")
        panel.bar(t + 0.12, s, 0.3, bottom=v, color=_SENT, label="sent: s" if first else "")
        panel.bar(t + 0.12, v, 0.3, color=_KEPT, label="kept: V = H − s" if first else "")
        z = round(s * levels)
        panel.text(t, 1.72, f"z = {z}", ha="center", fontsize=10, color=_TEXT)
    total = sum(s for _, s, _ in steps)
    panel.set_title(
        f"T = {timesteps}, N = {levels}:  Σ s / T = {total / timesteps:g} V_th", fontsize=10
    )
    panel.set_xticks(range(1, timesteps + 1), [f"t = {t}" for t in range(1, timesteps + 1)])
    panel.set_xlim(0.4, timesteps + 1.15)
    panel.set_ylim(0, 1.9)


def transfer() -> Figure:
    """Decoded output by input: N·T + 1 levels, whichever way they are split."""
    figure = blank(5.5, 3.6)
    panel: Axes = figure.subplots()
    inputs = torch.linspace(-0.1, 1.3, 561).tolist()
    codes = {"T = 1, N = 4": (4, 1), "T = 4, N = 1": (1, 4), "T = 2, N = 2": (2, 2)}
    for place, (mark, (levels, timesteps)) in enumerate(
        zip(marks(list(codes)).values(), codes.values(), strict=True)
    ):
        outputs = [sum(s for _, s, _ in course(levels, timesteps, x)) / timesteps for x in inputs]
        look = paper_line(mark) | {"linestyle": "none", "markevery": (12 * place, 36)}
        if timesteps == 1:
            look |= {"marker": None, "linestyle": "-", "drawstyle": "steps-post"}
        panel.plot(inputs, outputs, **look)
    clipped = [min(max(x, 0), 1) for x in inputs]
    panel.plot(inputs, clipped, color=_MUTED, linewidth=1, linestyle=":", label="clipped ReLU")
    panel.set_xlabel("constant input / V_th")
    panel.set_ylabel("decoded output / V_th")
    panel.grid(alpha=0.3)
    panel.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def gradients() -> Figure:
    """The spike by potential, and the stand-ins for its derivative, N = 4."""
    figure = blank(8, 3.2)
    left, right = figure.subplots(1, 2)
    h = torch.linspace(-0.4, 1.8, 441)
    left.plot(h, MultiLevelIF(4).step(h)[0], color=_CHARGED, drawstyle="steps-post")
    left.set_ylabel("s / V_th")
    for name, mark in marks(list(SURROGATES)).items():
        slope = SURROGATES[name](h, 1.0, 4, 5.0).float()
        right.plot(h, slope, **(paper_line(mark) | {"marker": None}))
    right.set_ylabel("gradient used in training")
    right.legend(frameon=False, fontsize=9)
    for panel in (left, right):
        panel.set_xlabel("potential H / V_th")
        panel.grid(alpha=0.3)
    return figure


_SHORTCUT = {
    "spiking": "levels 0 to N",
    "sew": "integers that grow",
    "ms": "potentials",
    "sparse": "levels 0 to N",
}


def families() -> Figure:
    """The block of each residual family, from its row of the table; what crosses the shortcut."""
    figure = blank(9, 4.6)
    for panel, (name, crosses) in zip(figure.subplots(1, 4), _SHORTCUT.items(), strict=True):
        family = FAMILIES[name]
        branch = ["conv + BN", "neuron", "conv + BN"]
        if family.pre_activation:
            branch = ["neuron", *branch]
        elif family.fires_before_sum:
            branch = [*branch, "neuron"]
        _block(panel, branch, family.after_sum)
        panel.set_title(f"{name}\nshortcut: {crosses}", fontsize=9)
    return figure


def _block(panel: Axes, branch: list[str], after: str | None) -> None:
    """Boxes from bottom to top: the branch at the left, the shortcut at the right, the sum."""
    panel.set(xlim=(-1.5, 2.2), ylim=(-0.8, 7.4))
    panel.set_axis_off()
    line = {"arrowstyle": "-|>", "color": _MUTED, "linewidth": 1.2}
    colours = {"neuron": _SENT, "barrier": _KEPT}
    top = 5.0
    heights = [0.6 + i * (top - 0.6) / len(branch) for i in range(len(branch))]
    for name, y, above in zip(branch, heights, [*heights[1:], top], strict=True):
        _box(panel, name, 0, y, colours.get(name, _MUTED))
        panel.annotate("", (0, above - 0.28), (0, y + 0.28), arrowprops=line)
    panel.annotate("", (0, heights[0] - 0.28), (0, -0.7), arrowprops=line)
    panel.plot([0, 1.6, 1.6], [-0.35, -0.35, top], color=_ACCENT, linewidth=1.6)
    panel.annotate("", (0.25, top), (1.6, top), arrowprops=line | {"color": _ACCENT})
    _box(panel, "+", 0, top, _TEXT, "circle,pad=0.15")
    if after:
        panel.annotate("", (0, 5.85), (0, top + 0.28), arrowprops=line)
        _box(panel, after, 0, 6.15, colours[after])
    panel.annotate("", (0, 7.3), (0, (6.15 if after else top) + 0.28), arrowprops=line)


def _box(
    panel: Axes, name: str, x: float, y: float, colour: str, shape: str = "round,pad=0.3"
) -> None:
    box = {"boxstyle": shape, "facecolor": "white", "edgecolor": colour, "linewidth": 1.6}
    panel.text(x, y, name, ha="center", va="center", fontsize=9, color=_TEXT, bbox=box)


CONCEPTS: dict[str, Callable[[], Figure]] = {
    "concept-neuron": neuron,
    "concept-transfer": transfer,
    "concept-gradients": gradients,
    "concept-families": families,
}
"""Name in docs/figures -> how it is drawn."""
