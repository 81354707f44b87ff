"""The spike avalanche: how much activity a residual network carries along its depth.

Amplitudes are in levels, that is divided by V_th/N; where a path carries potentials (MS-ResNet; the
direct path of a Spiking ResNet), they are magnitudes |v| in the same unit, and marked so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from multispike.activity import record_activity
from multispike.errors import invalid
from multispike.models.network import Network
from multispike.models.table import ARCHITECTURES, Family, ResNet
from multispike.results import SpikeLayer

Branch = Literal["direct", "shortcut", "out"]
TITLES: dict[Branch, str] = {"direct": "direct path", "shortcut": "shortcut", "out": "block output"}
"""What the block computed, what bypassed it, and what leaves the block after sum and barrier."""
BRANCHES = tuple(TITLES)

_CALIBRATION = 4
"""Batches whose statistics untrained batch normalisations take, all weighted equally."""


@dataclass(frozen=True)
class Site:
    """One branch of one residual sum; counts are means per inference, summed over timesteps."""

    block: str
    stage: int
    index: int
    """k: the sums of this stage up to and including this one."""
    branch: Branch
    spikes: bool
    """Whole levels; False for potentials, and for graded AND and IAND."""
    neurons: int
    density: float
    """Share of elements that are not zero, per timestep."""
    amplitude: float
    """Σz; Σ|v| in levels where it is no spikes."""
    largest: float
    """The largest z, or |v| in levels."""
    bound: int | None
    """What z cannot exceed by construction; None where there is no such bound."""

    @property
    def place(self) -> str:
        """Stage and block: '2.1'."""
        return f"{self.stage}.{self.index}"

    @property
    def per_neuron(self) -> float:
        """Σz per neuron and inference, comparable between stages of different size."""
        return self.amplitude / self.neurons


@dataclass(frozen=True)
class Avalanche:
    """One network's activity along its depth."""

    arch: str
    levels: int
    timesteps: int
    trained: bool
    sites: tuple[Site, ...]
    run: str = ""
    """Which one of several trained runs of one architecture and code."""

    @property
    def name(self) -> str:
        """Architecture and code, e.g. 'sew_resnet18 T1 N4'."""
        return f"{self.arch} T{self.timesteps} N{self.levels}"

    @property
    def title(self) -> str:
        """The name, whether it is trained, and by which of several runs."""
        parts = (self.name, "trained" if self.trained else "", self.run)
        return " ".join(part for part in parts if part)

    @property
    def family(self) -> str:
        """How its blocks are wired, a name of `multispike.models.table.FAMILIES`."""
        return self.arch.rpartition("_")[0]

    def along(self, branch: Branch) -> list[Site]:
        """The sites of one branch in the order of depth."""
        return [site for site in self.sites if site.branch == branch]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Avalanche:
        """What `to_dict` gave, also after a way through JSON."""
        return cls(**{**plain, "sites": tuple(Site(**site) for site in plain["sites"])})


def record_avalanche(network: Network, loader: Iterable[tuple[Tensor, Tensor]]) -> Avalanche:
    """Activity at every residual sum, over all samples of the loader.

    Raises:
        InputError: for a network without residual sums or spikes, and as `record_activity`.
    """
    config = network.config
    row = residual_row(config["arch"], config["neuron"])
    if row is None:
        raise invalid("arch", config["arch"], "a residual network with spiking neurons")
    activity = record_activity(network, loader, potentials=True)
    sent = {layer.name: layer for layer in activity.neurons}
    sites = []
    for item in activity.sums:  # "body.stage2_block1.merge"
        block = item.name.split(".")[-2]
        stage, index = (int(part[5:]) for part in block.split("_"))
        inside = row.family.after_sum and item.neuron  # MS: that of the next block
        out = sent[inside] if inside else item.total
        for branch, found in zip(BRANCHES, (item.direct, item.shortcut, out), strict=True):
            assert found is not None
            limit = bound(row.family, branch, index, config["levels"])
            spiking = isinstance(found, SpikeLayer)
            # Products of graded spikes are whole steps too, but finer ones than V_th/N.
            steps = found.levels // limit if spiking and limit else 1
            site = Site(
                block=block,
                stage=stage,
                index=index,
                branch=branch,
                spikes=spiking and steps == 1,
                neurons=found.neurons,
                density=found.density,
                amplitude=found.amplitude / steps,
                largest=found.max_level / steps if spiking else found.largest,
                bound=limit,
            )
            sites.append(site)
    return Avalanche(config["arch"], config["levels"], config["timesteps"], False, tuple(sites))


def residual_row(arch: str, neuron: str) -> ResNet | None:
    """The row of a residual network with spiking neurons; None for all others."""
    row = ARCHITECTURES.get(arch)
    return row if isinstance(row, ResNet) and neuron != "relu" else None


def bound(family: Family, branch: Branch, index: int, levels: int) -> int | None:
    """The largest level a branch can carry at the k-th sum of a stage, k = `index`; None: any.

    SEW-ADD sends (k+1)·N on; a neuron or barrier after the sum, and AND and IAND, keep N.

    >>> from multispike.models.table import FAMILIES
    >>> [bound(FAMILIES["sew"], "out", k, 4) for k in (1, 2, 3)]
    [8, 12, 16]
    >>> [bound(FAMILIES["sparse"], branch, 3, 4) for branch in ("direct", "shortcut", "out")]
    [4, 4, 4]
    >>> bound(FAMILIES["ms"], "shortcut", 3, 4) is None
    True
    """
    if not family.fires_before_sum:
        return levels if branch == "out" and family.after_sum else None
    if not piles_up(family) or branch == "direct":
        return levels
    return (index + 1 if branch == "out" else index) * levels


def piles_up(family: Family) -> bool:
    """Whether levels add up along the shortcut: SEW with ADD."""
    return family.fires_before_sum and family.merge == "add" and family.after_sum is None


def growth(study: Avalanche) -> list[tuple[Site, float]]:
    """The output of each stage's last block, and how many times the Σz per neuron of the first
    block's that is: 1 is no avalanche."""
    stages: dict[int, list[Site]] = {}
    for site in study.along("out"):
        stages.setdefault(site.stage, []).append(site)
    ends = [(sites[0], sites[-1]) for _, sites in sorted(stages.items())]
    return [(last, last.per_neuron / max(first.per_neuron, 1e-12)) for first, last in ends]


def calibrate(network: nn.Module, loader: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Give the batch normalisations of an untrained network the statistics of real activity.

    Without it activity would die out or explode with depth for a reason that no trained network
    has. Leaves evaluation mode behind.
    """
    update_bn(islice(loader, _CALIBRATION), network)
    network.eval()
