"""The program's counts against the activity that the energy model reads, exactly.

Both must see the same levels, so the float networks here are ones that 8-bit weights carry without
any rounding: every weight a whole number of units, and half a unit of initial potential, which
keeps float32 sums away from the edges.
"""

import numpy as np
import pytest
import torch
from test_deploy_c import logits, make, needs_cc, run
from test_deploy_integer import CASES, NAMES, SHAPE, THIN, images

from multispike.activity import record_activity
from multispike.export.c import export_c
from multispike.export.layers import POTENTIAL_LEVEL, Neurons
from multispike.export.network import count
from multispike.export.quantise import quantise
from multispike.layer_record import Stream
from multispike.models import create_model
from multispike.models.network import Network
from multispike.models.table import ARCHITECTURES, FAMILIES, ResNet

BATCH = 4
MEAN, STD = [0.0, 0.0], [1 / 255, 1 / 255]  # the network sees the pixels as they are
# One stage: the shortcut convolution of further ones rounds potentials, as no float network does.
ROWS = THIN | {"ms_resnet": ResNet(FAMILIES["ms"], (6,), (2,))}


def on_the_grid(arch: str, timesteps: int, levels: int, **options) -> Network:
    """A float network that int8 carries exactly: D units a level, weights up to 127 of them."""
    units = POTENTIAL_LEVEL if arch.startswith("ms") else 127
    torch.manual_seed(1)
    with pytest.MonkeyPatch.context() as patch:
        for name, row in ROWS.items():
            patch.setitem(ARCHITECTURES, name, row)
        model = create_model(
            arch, num_classes=5, in_channels=2, neuron="binary" if levels == 1 else "multilevel",
            levels=levels, timesteps=timesteps, v_init=0.5 / units, **options,
        )  # fmt: skip
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Conv2d):
                largest = 3 if name.startswith("stem") else 40
                whole = torch.randint(-largest, largest + 1, module.weight.shape).float()
                whole.flatten(1)[:, 0] = 127 * torch.randn(len(whole)).sign()
                # A pixel drives in units; a level brings `levels` of them to each of its own.
                module.weight.copy_(whole / units / (levels if name.startswith("stem") else 1))
            if isinstance(module, torch.nn.Linear) and "hidden" in name:
                # What the first one reads are means over the 2x1 pixels that three pools leave.
                pixels = 2 if name.endswith("hidden1") else 1
                whole = torch.randint(-40, 41, module.weight.shape).float()
                whole[:, 0] = 127 * torch.randn(len(whole)).sign()
                module.weight.copy_(whole * pixels / units)
                module.bias.copy_(torch.randint(0, 90, module.bias.shape) / units / levels)
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eps = 0.0
                drawn = torch.randint(0, 90, module.bias.shape)
                module.bias.copy_(drawn / units / levels)
    return model.eval()


@pytest.fixture
def pixels() -> torch.Tensor:
    drawn = images(BATCH, seed=9)
    drawn[drawn < 100] = 0
    return drawn


@pytest.mark.parametrize(("timesteps", "levels"), [(1, 4), (4, 1), (2, 2)])
@pytest.mark.parametrize(("arch", "options"), CASES, ids=NAMES)
def test_counts_equal_the_recorded_activity(arch, options, timesteps, levels, pixels):
    if "and" in arch:
        levels = 1
    model = on_the_grid(arch, timesteps, levels, **options)
    network = quantise(model, MEAN, STD, SHAPE)
    counts = count(network, pixels)
    labels = torch.zeros(BATCH, dtype=torch.long)
    records = record_activity(model, [(pixels.float(), labels)]).records

    compared = 0
    for record in records:
        if record.kind in ("conv", "linear"):
            events, amplitude, synops = counts["synapses", record.name]
            assert events == round(BATCH * record.input.events), record.name
            assert synops == round(BATCH * record.input.taps * record.fan), record.name
            if record.input.levels > 0:
                assert amplitude == round(BATCH * record.input.amplitude), record.name
            compared += 1
        elif record.kind == "add" and ("synapses", f"{record.name}.shortcut") in counts:
            if isinstance(record.shortcut, Stream):
                events = counts["synapses", f"{record.name}.shortcut"][0]
                assert events == round(BATCH * record.crossing.events), record.name
            if record.input.levels > 0:
                events = counts["synapses", f"{record.name}.path"][0]
                assert events == round(BATCH * record.input.events), record.name
    every = [one for layer in network.layers for one in getattr(layer, "synapses", ())]
    assert compared == sum(one.weight is not None for one in every)

    sent = sum(record.output.events for record in records if record.neuron)
    fired = sum(values[0] for (kind, _), values in counts.items() if kind == "neurons")
    assert fired == round(BATCH * sent)
    for layer in network.layers:
        if isinstance(layer, Neurons):
            assert counts["neurons", layer.name][2] == BATCH * timesteps * np.prod(layer.shape)


@needs_cc
def test_the_running_program_counts_what_the_energy_model_reads(pixels, tmp_path):
    model = on_the_grid("sew_resnet", 3, 1)
    export_c(quantise(model, MEAN, STD, SHAPE), tmp_path / "c")
    done = run(make(tmp_path / "c", "count"), stdin=pixels.numpy().tobytes())
    assert len(logits(done)) == BATCH
    lines = [line.split() for line in done.stderr.decode().splitlines()]
    synops = {name: int(values[-1]) for kind, name, *values in lines if kind == "synapses"}
    labels = torch.zeros(BATCH, dtype=torch.long)
    records = record_activity(model, [(pixels.float(), labels)]).records
    expected = {
        record.name: round(BATCH * record.input.taps * record.fan)
        for record in records
        if record.kind in ("conv", "linear")
    }
    assert synops == expected
