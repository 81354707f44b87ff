"""The avalanche study: bounds reached exactly, conservation at sums, the recorder agrees."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from multispike import create_model
from multispike.activity import record_activity
from multispike.activity.avalanche import (
    BRANCHES,
    Avalanche,
    bound,
    calibrate,
    growth,
    record_avalanche,
)
from multispike.commands.avalanche import avalanche, study
from multispike.config.commands import AvalancheConfig
from multispike.errors import InputError
from multispike.models.blocks import ResidualBlock
from multispike.models.network import Network
from multispike.models.table import FAMILIES
from multispike.report.avalanche import study_sections
from multispike.report.terminal import avalanche_table

ROUNDING = 1e-9  # relative: sums of whole numbers in double precision
CODES = ((4, 1), (1, 4))  # timesteps, levels


def batches(samples: int = 12, size: int = 5, channels: int = 1) -> list[tuple[Tensor, Tensor]]:
    images = torch.rand(samples, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    return [(part, torch.zeros(len(part), dtype=torch.long)) for part in images.split(size)]


def network(arch: str, timesteps: int, levels: int, **options: str | float) -> Network:
    torch.manual_seed(0)
    neuron = "binary" if levels == 1 else "multilevel"
    return create_model(
        arch, in_channels=1, neuron=neuron, levels=levels, timesteps=timesteps, **options
    )  # pyright: ignore[reportArgumentType]


def drive(model: nn.Module, bias: float) -> None:
    """Make every neuron saturate (large bias) or stay silent (large negative one)."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.weight)
            nn.init.constant_(module.bias, bias)


@pytest.mark.parametrize(("timesteps", "levels"), CODES)
def test_saturated_sew_reaches_its_bound_in_every_block(timesteps: int, levels: int) -> None:
    model = network("sew_resnet20", timesteps, levels)
    drive(model, 100.0)
    found = record_avalanche(model, batches())
    for site in found.sites:
        expected = {"direct": 1, "shortcut": site.index, "out": site.index + 1}[site.branch]
        assert site.largest == site.bound == expected * levels
        assert site.spikes
        assert site.density == 1
        assert site.amplitude == timesteps * expected * levels * site.neurons
    grown = [(last.stage, factor) for last, factor in growth(found)]
    assert grown == [(1, 2.0), (2, 2.0), (3, 2.0)]  # from 2N in block 1 to 4N in block 3


@pytest.mark.parametrize(("timesteps", "levels"), CODES)
def test_saturated_sparse_never_exceeds_n(timesteps: int, levels: int) -> None:
    model = network("sparse_resnet20", timesteps, levels)
    drive(model, 100.0)
    found = record_avalanche(model, batches())
    assert all(site.largest == site.bound == levels for site in found.sites)
    assert all(factor == 1 for _, factor in growth(found))


@pytest.mark.parametrize("arch", ["sew_resnet20", "sparse_resnet20"])
def test_silent_network_carries_nothing(arch: str) -> None:
    model = network(arch, 1, 4)
    drive(model, -100.0)
    for site in record_avalanche(model, batches()).sites:
        assert (site.density, site.amplitude, site.largest, site.spikes) == (0, 0, 0, True)


@pytest.mark.parametrize(("timesteps", "levels"), CODES)
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_measured_levels_stay_within_the_bound(family: str, timesteps: int, levels: int) -> None:
    model = network(f"{family}_resnet20", timesteps, levels)
    calibrate(model, batches())
    found = record_avalanche(model, batches())
    assert len(found.sites) == 9 * len(BRANCHES)
    for site in found.sites:
        assert site.bound is None or site.largest <= site.bound * (1 + 1e-6)  # AND: products
        assert 0 <= site.density <= 1
        if site.spikes:
            assert site.largest == round(site.largest)
    if FAMILIES[family].merge == "add" and FAMILIES[family].fires_before_sum:
        assert all(site.spikes for site in found.sites)


def test_potentials_are_told_from_spikes() -> None:
    ms, spiking = (network(f"{family}_resnet20", 1, 4) for family in ("ms", "spiking"))
    for model in (ms, spiking):
        calibrate(model, batches())
    assert not any(site.spikes for site in record_avalanche(ms, batches()).sites)
    found = record_avalanche(spiking, batches())
    assert all(site.spikes for site in found.along("out"))
    assert not any(site.spikes for site in found.along("direct"))
    assert [site.spikes for site in found.along("shortcut")] == [True] * 3 + [False, True, True] * 2


def test_what_sew_sends_is_what_came_in() -> None:
    model = network("sew_resnet20", 2, 2)
    calibrate(model, batches())
    found = record_avalanche(model, batches())
    for parts in zip(*(found.along(branch) for branch in BRANCHES), strict=True):
        direct, shortcut, out = (part.amplitude for part in parts)
        assert direct + shortcut == pytest.approx(out, rel=ROUNDING)


@pytest.mark.parametrize(("timesteps", "levels"), [*CODES, (2, 3)])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_tensor_at_every_sum_is_what_the_study_says(
    family: str, timesteps: int, levels: int
) -> None:
    """Both inputs of each sum and the block's output, caught and measured one by one."""
    model = network(f"{family}_resnet20", timesteps, levels, threshold=0.75)
    calibrate(model, batches())
    caught: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, ResidualBlock):
            module.merge.register_forward_pre_hook(lambda _, args: caught.extend(args))
            module.register_forward_hook(lambda _, args, out: caught.append(out))
    ((images, targets),) = batches(size=12)
    found = record_avalanche(model, [(images, targets)])
    assert len(caught) == len(found.sites) == 9 * len(BRANCHES)
    for site, tensor in zip(found.sites, caught, strict=True):
        z = (tensor / (0.75 / levels)).double().abs()
        assert site.neurons == tensor[0].numel()
        assert site.density == pytest.approx(float((z != 0).double().mean()), rel=ROUNDING)
        assert site.amplitude == pytest.approx(float(z.sum()) / 12, rel=1e-5, abs=1e-5)
        assert site.largest == pytest.approx(float(z.max()), rel=1e-5, abs=1e-5)
        assert site.spikes == bool((z - z.round()).abs().max() < 1e-3)


@pytest.mark.parametrize("family", ["ms", "spiking"])
def test_potentials_are_in_levels_of_the_neuron_behind_the_sum(family: str) -> None:
    """Doubling the threshold of that neuron halves |v|."""
    model = network(f"{family}_resnet20", 1, 4, learn_threshold="channel")
    calibrate(model, batches())
    before = record_avalanche(model, batches()).along("direct")[0]
    behind = model.get_submodule(
        "body.stage1_block1.after" if family == "spiking"
        else "body.stage1_block2.path.neuron1"
    )  # fmt: skip
    with torch.no_grad():
        behind.threshold *= 2
    after = record_avalanche(model, batches()).along("direct")[0]
    assert after.amplitude == pytest.approx(before.amplitude / 2)
    assert after.largest == pytest.approx(before.largest / 2)
    assert record_activity(model, batches()).sums[0].direct is None


def test_batches_of_any_size_give_the_same_means() -> None:
    model = network("sew_resnet20", 1, 4)
    calibrate(model, batches())
    small, large = (record_avalanche(model, batches(size=size)) for size in (1, 12))
    for a, b in zip(small.sites, large.sites, strict=True):
        assert a.amplitude == pytest.approx(b.amplitude, rel=1e-3)  # a float sum at a level's edge
        assert (a.block, a.branch, a.neurons, a.largest) == (
            b.block,
            b.branch,
            b.neurons,
            b.largest,
        )


def test_learned_thresholds_per_channel_still_give_whole_levels() -> None:
    model = network("sew_resnet20", 1, 4, learn_threshold="channel")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "threshold" in name:
                parameter.uniform_(0.5, 2.0)
    calibrate(model, batches())
    assert all(site.spikes for site in record_avalanche(model, batches()).sites)


def test_calibration_leaves_evaluation_mode_and_the_momentum_as_it_was() -> None:
    model = network("sew_resnet20", 1, 4)
    calibrate(model, batches())
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert not model.training
    assert {norm.momentum for norm in norms} == {0.1}
    assert all(norm.running_mean is not None and norm.running_mean.any() for norm in norms)


def test_hooks_are_gone_and_no_tensor_is_kept() -> None:
    model = network("sparse_resnet20", 1, 4)
    record_avalanche(model, batches())
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("sew", ([4, 4, 4], [4, 8, 12], [8, 12, 16])),
        ("sew_and", ([4] * 3, [4] * 3, [4] * 3)),
        ("sparse", ([4] * 3, [4] * 3, [4] * 3)),
        ("spiking", ([None] * 3, [None] * 3, [4] * 3)),
        ("ms", ([None] * 3, [None] * 3, [None] * 3)),
    ],
)
def test_bounds_by_construction(family: str, expected: tuple[list[int | None], ...]) -> None:
    for branch, values in zip(BRANCHES, expected, strict=True):
        assert [bound(FAMILIES[family], branch, k, 4) for k in (1, 2, 3)] == values


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arch": "vgg11"}, "arch: got 'vgg11'"),
        ({"arch": "sew_resnet19"}, "nearest: "),
        ({"arch": " , "}, "or --runs"),
        ({"data": "mnist"}, "data: got 'mnist'"),
        ({"levels": 0}, "levels: got 0"),
        ({"timesteps": 0}, "timesteps: got 0"),
        ({"limit": 0}, "limit: got 0"),
        ({"batch_size": 1}, "batch_size: got 1"),
        ({"seed": -1}, "seed: got -1"),
        ({"out": __file__}, "out: got .*, allowed: a folder"),
    ],
)
def test_bad_settings_are_named(change: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        replace(AvalancheConfig(), **change).check()  # pyright: ignore[reportArgumentType]


def test_networks_without_sums_or_spikes_and_empty_loaders_are_refused() -> None:
    for model in (network("fastnet", 1, 4), create_model("sew_resnet20", neuron="relu")):
        with pytest.raises(InputError, match="residual network with spiking neurons"):
            record_avalanche(model, batches())
    with pytest.raises(InputError, match="loader: got 'no batches'"):
        record_avalanche(network("sew_resnet20", 1, 4), [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes for two families, and for one trained run."""
    from multispike.config import TrainConfig
    from multispike.training import fit

    base = tmp_path_factory.mktemp("avalanche")
    fit(
        TrainConfig(
            arch="sew_resnet20", data="digits", epochs=1, limit_train=64, limit_test=20,
            batch_size=32, levels=2, out=str(base / "run"), threads=1,
        )
    )  # fmt: skip
    avalanche(
        AvalancheConfig(
            arch="sew_resnet20,sparse_resnet20", limit=24, runs=str(base / "run"),
            out=str(base / "out"),
        )
    )  # fmt: skip
    return base / "out"


def test_command_writes_numbers_figure_and_page(folder: Path) -> None:
    content = json.loads((folder / "avalanche.json").read_text(encoding="utf-8"))
    listed = [
        (net["arch"], net["timesteps"], net["levels"], net["trained"])
        for net in content["networks"]
    ]
    assert listed == [
        ("sew_resnet20", 4, 1, False),
        ("sew_resnet20", 1, 4, False),
        ("sparse_resnet20", 4, 1, False),
        ("sparse_resnet20", 1, 4, False),
        ("sew_resnet20", 1, 2, True),
    ]
    page = (folder / "avalanche.html").read_text(encoding="utf-8")
    assert "bound (k+1)·N held in every block" in page
    assert "bound N = 4 held in every block" in page
    assert "BROKEN" not in page


def test_untrained_sew_grows_and_sparse_does_not_beyond_n() -> None:
    settings = AvalancheConfig(arch="sew_resnet20,sparse_resnet20", limit=32)
    found: dict[str, Avalanche] = {item.name: item for item in study(settings)}
    graded = found["sew_resnet20 T1 N4"], found["sparse_resnet20 T1 N4"]
    for (_, sew), (_, sparse) in zip(*map(growth, graded), strict=True):
        assert sew > sparse > 0
    assert max(site.largest for site in graded[0].along("out")) > 4
    assert max(site.largest for site in graded[1].along("out")) == 4


def test_runs_of_one_architecture_are_told_apart(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder.parent / "run", tmp_path / "seed1")
    both = f"{folder.parent / 'run'},{tmp_path / 'seed1'}"
    found = list(study(AvalancheConfig(arch="", runs=both, limit=8)))
    assert [item.title for item in found] == [
        "sew_resnet20 T1 N2 trained run", "sew_resnet20 T1 N2 trained seed1"
    ]  # fmt: skip
    checkpoints = ",".join(str(tmp_path / "seed1" / f"{name}.ckpt") for name in ("last", "best"))
    found = list(study(AvalancheConfig(arch="", runs=checkpoints, limit=8)))
    assert [item.run for item in found] == ["last.ckpt", "best.ckpt"]


def test_bounds_are_drawn_along_depth(folder: Path) -> None:
    content = json.loads((folder / "avalanche.json").read_text(encoding="utf-8"))
    studies = [Avalanche.from_dict(net) for net in content["networks"]]
    plots = [plot for section in study_sections(studies) for plot in section.plots]
    [plot] = [plot for plot in plots if plot.title.startswith("Largest level")]
    drawn = {
        (title, "".join(trace.text)): list(trace.y)
        for title, figure in plot.panels.items()
        for trace in figure.data
        if trace.mode == "lines+text"
    }
    assert drawn["sew_resnet20 T1 N4", "(k+1)·N"] == [8, 12, 16] * 3
    assert drawn["sparse_resnet20 T1 N4", "N"] == [4] * 9
    assert len(drawn) == len(studies)


def test_terminal_table_has_both_paths_in_80_columns(folder: Path) -> None:
    content = json.loads((folder / "avalanche.json").read_text(encoding="utf-8"))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(avalanche_table([Avalanche.from_dict(net) for net in content["networks"]]))
    printed = console.export_text()
    for path in ("direct path", "shortcut", "block output"):
        assert printed.count(f" {path} ") == 5 * 3
    assert "…" not in printed


def test_run_of_an_ann_is_refused(tmp_path: Path) -> None:
    from multispike.config import TrainConfig
    from multispike.training import fit

    out = str(tmp_path / "ann")
    fit(
        TrainConfig(
            arch="sew_resnet20", neuron="relu", epochs=1, limit_train=64, limit_test=10,
            batch_size=32, out=out, threads=1,
        )
    )  # fmt: skip
    with pytest.raises(InputError, match="runs of residual networks with spiking neurons"):
        next(study(AvalancheConfig(runs=out)))


def test_settings_load_without_torch() -> None:
    code = "import sys, multispike.config.commands; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
