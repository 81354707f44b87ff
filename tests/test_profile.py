"""One call from a model to nJ."""

import json

import pytest
import torch
from torch import nn

from multispike import create_model, profile
from multispike.activity import record_activity
from multispike.energy.pricing import price_layers
from multispike.errors import InputError
from multispike.neurons import MultiLevelIF
from multispike.profiling import evaluate_run


def loader(batches=2, channels=1):
    torch.manual_seed(1)
    return [(torch.randn(4, channels, 8, 8), torch.tensor([0, 1, 2, 3])) for _ in range(batches)]


def warmed(arch="fastnet", **options):
    torch.manual_seed(0)
    model = create_model(arch, in_channels=1, **options)
    model(torch.randn(8, 1, 8, 8))
    return model


def test_is_the_price_of_the_recorded_activity():
    model = warmed(levels=2)
    report = profile(model, loader(), "sram8k", 16, fanout="exact", graded_op="repeat")
    records = record_activity(model, loader()).records
    expected = price_layers(records, "sram8k", 16, fanout="exact", graded_op="repeat")
    assert report.total_nj == expected.total_nj > 0
    assert {layer.name for layer in report.layers} == {layer.name for layer in records}
    content = report.to_json()
    assert {"energy_nj", "synops", "layers", "not_counted"} <= content.keys()
    json.dumps(content, allow_nan=False)


def test_a_plain_model_is_a_dense_ann_whatever_it_reads():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    data = loader()
    blank = [(0 * x, y) for x, y in data]
    report = profile(model, data)
    assert report.network == "ann"
    assert report.total_nj == profile(model, blank).total_nj
    assert report.layers[0].counts.mac == 6 * 6 * 4 * 9
    assert report.layers[0].counts.read_bias == 6 * 6 * 4


def test_what_was_not_counted_reaches_the_report():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.Flatten())
    assert any("activation at 1" in line for line in profile(model, loader()).not_counted)


@pytest.mark.parametrize("zeros", [(37, 97), (36, 96)], ids=["more than half", "half"])
def test_pruned_weights_are_neither_stored_nor_met(zeros):
    """Every input is active: each weight of the convolution is met at 4 x 4 places, once in the
    linear layer. The convolution has 72 weights, the linear layer 192."""
    conv, linear = nn.Conv2d(2, 4, 3, bias=False), nn.Linear(64, 3, bias=False)
    with torch.no_grad():
        for layer, count in zip((conv, linear), zeros, strict=True):
            layer.weight.fill_(1.0).view(-1)[torch.randperm(layer.weight.numel())[:count]] = 0
    model = nn.Sequential(MultiLevelIF(4), conv, MultiLevelIF(4, 0.01), nn.Flatten(), linear)
    data = [(torch.ones(2, 2, 6, 6), torch.tensor([0, 1]))]
    report = profile(model, data, fanout="exact")
    pruned = zeros[0] == 37
    stored = (35, 95) if pruned else (72, 192)
    assert [layer.memories["weights"].elements for layer in report.layers] == [*stored]
    for layer, met in zip(report.layers, (16 * stored[0], stored[1]), strict=True):
        counts = layer.counts
        assert (counts.mac, counts.read_weights) == pytest.approx((met, met))
        assert counts.write_potential == pytest.approx(met + layer.record.out_size)
    assert report.synops.effective_macs == pytest.approx(16 * stored[0] + stored[1])
    assert report.synops.dense == 16 * 72 + 192
    said = ["conv at 1: 51.4% of its weights, which are zero and not stored",
            "linear at 4: 50.5% of its weights, which are zero and not stored"]  # fmt: skip
    assert [line for line in report.not_counted if "zero" in line] == (said if pruned else [])
    again = price_layers([layer.record for layer in report.layers], network="ann")
    assert again.counts.mac == again.counts.read_weights == 16 * stored[0] + stored[1]


def test_silence_costs_less_than_activity():
    model = warmed(neuron="binary", timesteps=2)
    loud = profile(model, loader()).total_nj
    with torch.no_grad():
        model.stem.bn0.bias -= 100
    assert profile(model, loader()).total_nj < loud


def test_limits_and_errors():
    model = warmed()
    first = profile(model, loader(1)).total_nj
    assert profile(model, loader(2), max_batches=1).total_nj == first
    with pytest.raises(InputError, match="bits"):
        profile(model, loader(), bits=12)
    with pytest.raises(InputError, match="loader"):
        profile(model, [])
    for name in (None, 3, ["lemaire2022"], "lemair"):
        with pytest.raises(InputError, match=r"^energy: got "):
            profile(model, loader(), name)
    for limit in (0, 1.5, "1", True):
        with pytest.raises(InputError, match=r"^max_batches: got "):
            profile(model, loader(), max_batches=limit)


@pytest.mark.parametrize("arch", ["fastnet", "sew_resnet20"])
def test_measures_all_that_a_result_holds(arch):
    result = evaluate_run(warmed(arch, levels=2), loader())
    json.dumps(result.to_json(), allow_nan=False)
    assert result.accuracy is not None
    assert 0 <= result.accuracy <= 1
    assert result.confusion
    assert sum(map(sum, result.confusion)) == result.samples == 8
    assert result.events_per_inference == sum(row.events for row in result.neurons)
    assert result.baselines
    assert result.crossover
    assert result.baselines.keys() == result.crossover.keys() == {"ann", "qann", "qann_skip"}
    dense = evaluate_run(warmed(arch, neuron="relu"), loader())
    assert dense.baselines is None
    assert "baselines" not in dense.to_json()
    assert dense.energy_nj.total == pytest.approx(result.baselines["ann"].total)


@pytest.mark.parametrize("arch", ["fastnet", "vgg11", "sew_resnet20"])
def test_event_frames_do_not_make_an_ann_spike(arch):
    """Counts are whole numbers, as levels are, but no neuron sends them."""
    frames = torch.randint(0, 4, (3, 4, 2, 8, 8)).float()
    labels = torch.tensor([0, 1, 2, 3])
    torch.manual_seed(0)
    ann = create_model(arch, in_channels=2, neuron="relu", timesteps=3)
    report = profile(ann, [(frames, labels)])
    assert report.network == "ann_stepwise"
    one = profile(create_model(arch, in_channels=2, neuron="relu"), [(frames[:1], labels)])
    assert one.network == "ann"
    assert report.total_nj == pytest.approx(3 * one.total_nj)
    assert report.counts.mac == 3 * one.counts.mac
    assert evaluate_run(ann, [(frames, labels)]).baselines is None


def test_event_frames_are_graded_events_for_every_spiking_network():
    """The same events in one frame or in many: each count that is not zero is one event."""
    torch.manual_seed(0)
    frames = (torch.rand(4, 2, 2, 8, 8) < 0.1).float() * torch.randint(1, 4, (4, 2, 2, 8, 8))
    frames[0, 0, 0, 0, 0] = 3.0
    labels = torch.tensor([0, 1])
    for x, neuron in ((frames, "binary"), (frames.sum(0, keepdim=True), "multilevel")):
        model = create_model("vgg11", in_channels=2, neuron=neuron, timesteps=len(x))
        first = profile(model, [(x / 1.7, labels)]).layers[0]
        assert first.record.input.levels == x.max()
        assert first.counts.read_input == (x != 0).sum() / 2
        assert first.record.input.amplitude == x.sum() / 2
        assert first.counts.mac == first.counts.read_input * 64 * 9
        payload = int(x.max()).bit_length()
        assert first.memories["inputs"].bits == 7 + payload  # 2x8x8 addresses
