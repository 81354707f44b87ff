"""The spike avalanche: how much activity a residual network carries along its depth (DESIGN 2.6).

Where a block's path and its shortcut meet, three tensors are measured: what the direct path
brings, what the shortcut brings, and what leaves the block. All amplitudes are in levels, that is
divided by V_th/N; where a path carries potentials instead of spikes (MS-ResNet; the direct path of
a Spiking ResNet), they are magnitudes |v| in the same unit, and marked so.

Torch is imported on use: the command line takes `AvalancheConfig` from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from multispike.config import AvalancheConfig, TrainConfig
from multispike.errors import InputError, invalid
from multispike.models.table import ARCHITECTURES, Family, ResNet

if TYPE_CHECKING:
    from torch import Tensor, nn

    from multispike.data.loader import BatchLoader
    from multispike.data.sets import Dataset
    from multispike.models.network import Network

Branch = Literal["direct", "shortcut", "out"]
BRANCHES: tuple[Branch, ...] = ("direct", "shortcut", "out")
"""What the block computed, what bypassed it, and what leaves the block after sum and barrier."""

_WHOLE = 1e-3  # of a level: rounding of float sums of steps, not a potential
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

    @property
    def name(self) -> str:
        """Architecture and code, e.g. 'sew_resnet18 T1 N4'."""
        return f"{self.arch} T{self.timesteps} N{self.levels}"

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


def run(settings: AvalancheConfig) -> None:
    """Measure, print the table, write avalanche.json, avalanche.png and avalanche.html."""
    import sys

    from rich.console import Console

    from multispike.report.avalanche import terminal_table, write_files

    studies = list(study(settings))
    Console().print(terminal_table(studies))
    page = write_files(Path(settings.out), studies, settings)
    print(f"report: {page}", file=sys.stderr)


def study(settings: AvalancheConfig) -> Iterator[Avalanche]:
    """Every architecture, binary and graded, untrained; then every given run.

    Raises:
        InputError: for a run without residual sums or without spikes, or unreadable data.
    """
    from multispike.training.fit import build_network, load_data
    from multispike.training.run import load_run

    trained = [load_run(folder) for folder in settings.run_folders]
    for item in trained:
        if item.config.neuron == "relu" or not _sums(item.network):
            raise invalid(
                "runs", str(item.folder), "runs of residual networks with spiking neurons"
            )
    if settings.architectures:
        graded = TrainConfig(
            data=settings.data,
            data_dir=settings.data_dir,
            seed=settings.seed,
            levels=settings.levels,
        )
        binary = replace(graded, neuron="binary", levels=1, timesteps=settings.timesteps)
        for name in settings.architectures:
            for config in (replace(binary, arch=name), replace(graded, arch=name)):
                dataset = load_data(config, config.timesteps)
                network = build_network(config, dataset)
                calibrate(network, _loader(dataset, settings, "train"))
                yield measure(network, _loader(dataset, settings, "test"))
    for item in trained:
        own = item.config
        if settings.data_dir and own.data == settings.data:
            own = replace(own, data_dir=settings.data_dir)
        dataset = load_data(own, own.timesteps)
        yield replace(measure(item.network, _loader(dataset, settings, "test")), trained=True)


def calibrate(network: nn.Module, loader: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Give the batch normalisations of an untrained network the statistics of real activity.

    Without it their means are 0 and variances 1, whatever comes in, and activity would die out or
    explode with depth for a reason that no trained network has. Leaves evaluation mode behind.
    """
    import torch
    from torch import nn

    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # mean over all batches
    network.train()
    with torch.no_grad():
        for (inputs, _), _ in zip(loader, range(_CALIBRATION), strict=False):
            network(inputs)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    network.eval()


def measure(network: Network, loader: Iterable[tuple[Tensor, Tensor]]) -> Avalanche:
    """Activity at every residual sum, over all samples of the loader. Keeps no tensor.

    Raises:
        InputError: for a network without residual sums or spikes, or a loader without samples.
    """
    import torch

    config = network.config
    sums = _sums(network)
    if not sums or config["neuron"] == "relu":
        raise invalid("arch", config["arch"], "a residual network with spiking neurons")
    samples = 0
    network.eval()
    with torch.no_grad(), _meters(sums, config["levels"]) as meters:
        for inputs, _ in loader:
            network(inputs)
            samples += inputs.shape[-4]
    if not samples:
        raise InputError("loader: got no samples, allowed: at least one")
    row = ARCHITECTURES[config["arch"]]
    assert isinstance(row, ResNet)
    sites = []
    for name, block in meters.items():
        stage, index = (int(part[5:]) for part in name.split("_"))
        for branch in BRANCHES:
            meter = block[branch]
            sites.append(
                Site(
                    block=name,
                    stage=stage,
                    index=index,
                    branch=branch,
                    spikes=meter.whole,
                    neurons=meter.neurons,
                    density=meter.events / meter.elements,
                    amplitude=meter.amplitude / samples,
                    largest=meter.largest,
                    bound=bound(row.family, branch, index, config["levels"]),
                )
            )
    return Avalanche(config["arch"], config["levels"], config["timesteps"], False, tuple(sites))


def bound(family: Family, branch: Branch, index: int, levels: int) -> int | None:
    """The largest level a branch can carry at the k-th sum of a stage, k = `index`; None: any.

    SEW-ADD sends (k+1)·N on: every block adds a neuron's N to what came before, and a stage starts
    at N. A neuron or barrier after the sum, and AND and IAND, keep N.

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
    grows = family.merge == "add" and family.after_sum is None
    if not grows or branch == "direct":
        return levels
    return (index + 1 if branch == "out" else index) * levels


def growth(study: Avalanche) -> list[tuple[int, float]]:
    """Per stage: how many times Σz per neuron its last block sends on what its first one does.

    1 is no avalanche.
    """
    factors = []
    outs = study.along("out")
    for stage in sorted({site.stage for site in outs}):
        inside = [site for site in outs if site.stage == stage]
        factors.append((stage, inside[-1].per_neuron / max(inside[0].per_neuron, 1e-12)))
    return factors


class _Meter:
    """Running totals of one branch; tensors are read, not kept."""

    def __init__(self) -> None:
        self.elements = 0
        self.neurons = 0
        self.events = 0
        self.amplitude = 0.0
        self.largest = 0.0
        self.whole = True

    def read(self, values: Tensor, step: Tensor | float) -> None:
        """Add values [T*B, C, H, W], whose levels are `step` apart."""
        z = values / step
        self.elements += z.numel()
        self.neurons = z[0].numel()
        self.events += int(z.count_nonzero())
        if self.whole:
            nearest = z.round()
            self.whole = bool((z - nearest).abs().max() < _WHOLE) and bool(z.min() > -_WHOLE)
            z = nearest if self.whole else z
        magnitude = z.abs()
        self.amplitude += float(magnitude.double().sum())
        self.largest = max(self.largest, float(magnitude.max()))


@contextmanager
def _meters(
    sums: dict[str, tuple[nn.Module, nn.Module]], levels: int
) -> Iterator[dict[str, dict[Branch, _Meter]]]:
    """Meters on both inputs of every sum and on the output of its block, within the context."""
    meters: dict[str, dict[Branch, _Meter]] = {}
    hooks = []
    for name, (block, merge) in sums.items():
        own = meters[name] = {branch: _Meter() for branch in BRANCHES}

        def before(module: Any, inputs: Any, own: dict[Branch, _Meter] = own) -> None:
            step = _step(module.threshold, levels)
            own["direct"].read(inputs[0], step)
            own["shortcut"].read(inputs[1], step)

        def after(
            module: Any, inputs: Any, output: Tensor, own: dict[Branch, _Meter] = own
        ) -> None:
            own["out"].read(output, _step(module.merge.threshold, levels))

        hooks += [merge.register_forward_pre_hook(before), block.register_forward_hook(after)]
    try:
        yield meters
    finally:
        for hook in hooks:
            hook.remove()


def _step(threshold: Any, levels: int) -> Any:
    """V_th/N, broadcastable against [T*B, C, H, W]."""
    from torch import Tensor

    if isinstance(threshold, Tensor) and threshold.dim():
        threshold = threshold.view(-1, 1, 1)
    return threshold / levels


def _sums(network: nn.Module) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Residual blocks of a network by name, each with the sum in it."""
    from multispike.models.resnet import ResidualBlock

    return {
        name.rpartition(".")[2]: (module, module.merge)
        for name, module in network.named_modules()
        if isinstance(module, ResidualBlock)
    }


def _loader(dataset: Dataset, settings: AvalancheConfig, split: str) -> BatchLoader:
    """Normalised samples of a split, at most `settings.limit` of them."""
    from multispike.data.loader import BatchLoader

    size = min(settings.limit, len(getattr(dataset, split)))
    limited = dataset.limited(**{f"limit_{split}": size})
    return BatchLoader(
        getattr(limited, split), settings.batch_size, mean=dataset.mean, std=dataset.std
    )
