"""Entropies against closed forms; codes of equal N*T against each other."""

import math

import pytest
import torch
from torch import nn

from multispike import MultiLevelIF, create_model
from multispike.activity import record_activity
from multispike.activity.information import (
    entropy,
    information,
    quantisation_study,
)
from multispike.errors import InputError


class Neurons(nn.Module):
    """Neurons that see their inputs [T, B, F] as they are."""

    def __init__(self, neuron):
        super().__init__()
        self.fire = neuron
        self.fc = nn.Linear(1, 2)

    def forward(self, x):
        return self.fc(self.fire(x)).mean(0)


def loader(x):
    return [(x, torch.zeros(x.shape[1], dtype=torch.long))]


def recorded(model, batches, **options):
    return information(record_activity(model, batches, **options).neurons)


def test_entropy_of_uniform_and_of_certain_levels():
    assert entropy([3.0] * 8) == pytest.approx(3.0)
    assert entropy([7.0, 0.0]) == 0.0
    assert math.copysign(1, entropy([7.0])) == 1


def test_bits_per_neuron_and_event():
    """Levels 0, 1, 2, 2 of N = 3: 1.5 bits a neuron, three events for four neurons."""
    x = torch.tensor([0.0, 1 / 3, 2 / 3, 2 / 3]).view(1, 4, 1) + 0.01
    (layer,) = recorded(Neurons(MultiLevelIF(3)), loader(x))
    assert (layer.bits, layer.bits_per_step, layer.levels_used) == (1.5, 1.5, 0.75)
    assert layer.bits_per_event == pytest.approx(1.5 * 4 / 3)
    assert layer.error_relu is None


def test_many_levels_over_time_are_told_as_well():
    """N = 4 over T = 10, every sum from 0 to 40 once: log2(41) bits."""
    x = (torch.arange(41.0) / 40 + 1e-3).view(1, 41, 1).repeat(10, 1, 1)
    (layer,) = recorded(Neurons(MultiLevelIF(4, timesteps=10)), loader(x))
    assert layer.bits == pytest.approx(math.log2(41))


def test_levels_add_up_over_time():
    """Binary, T = 2, drives 0, 0.5 and 1: decoded 0, 1 and 2 of 2, so log2(3) bits."""
    x = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1).repeat(2, 1, 1)
    (layer,) = recorded(Neurons(MultiLevelIF(1, timesteps=2)), loader(x))
    assert layer.bits == pytest.approx(math.log2(3))
    assert layer.bits_per_step == pytest.approx(1.0)  # three of six are ones
    assert layer.bits_per_event == pytest.approx(math.log2(3) * 3 / 3 / 1)


@pytest.mark.parametrize("threshold", [1.0, torch.tensor([2.0])])
def test_error_against_both_relus(threshold):
    """0.3 of V_th decodes to 1/4, -1 to 0 without error, 1.5 to 1: clipped, but not by a ReLU."""
    scale = float(threshold)
    x = scale * torch.tensor([0.3, -1.0, 1.5]).view(3, 1, 1)  # [B, C, 1]
    model = nn.Sequential(MultiLevelIF(4, threshold), nn.Flatten(), nn.Linear(1, 2))
    batch = [(x, torch.zeros(3, dtype=torch.long))]
    (layer,) = recorded(model, batch, errors=True)
    assert layer.error_clipped == pytest.approx(math.sqrt(0.05**2 / 3), rel=1e-4)
    assert layer.error_relu == pytest.approx(math.sqrt((0.05**2 + 0.5**2) / 3), rel=1e-4)


def test_all_layers_of_a_network_and_no_hook_left():
    torch.manual_seed(0)
    model = create_model("sew_resnet20", levels=2, timesteps=2)
    model(torch.randn(8, 3, 8, 8))
    batch = [(torch.randn(4, 3, 8, 8), torch.zeros(4, dtype=torch.long))]
    layers = recorded(model, batch, errors=True)
    neurons = [m for m in model.modules() if isinstance(m, MultiLevelIF)]
    assert len(layers) == len(neurons) > 15
    assert all(layer.error_clipped is not None for layer in layers)
    assert all(layer.error_clipped <= layer.error_relu + 1e-9 for layer in layers)
    assert all(0 <= layer.bits <= math.log2(5) for layer in layers)
    assert all(layer.bits_per_step <= math.log2(3) for layer in layers)
    assert not any(neuron._forward_hooks for neuron in neurons)
    with pytest.raises(InputError):
        recorded(model, [])
    assert not any(neuron._forward_hooks for neuron in neurons)


def test_a_relu_network_tells_no_levels():
    model = create_model("fastnet", neuron="relu", in_channels=1)
    batch = [(torch.rand(2, 1, 8, 8), torch.zeros(2, dtype=torch.long))]
    assert recorded(model, batch) == ()


def test_constant_inputs_are_decoded_alike_by_all_codes():
    codes = quantisation_study(8, [0.0])
    assert [(code.timesteps, code.levels) for code in codes] == [(1, 8), (2, 4), (4, 2), (8, 1)]
    errors = [code.error_clipped for code in codes]
    assert errors == pytest.approx([errors[0]] * 4)
    assert [code.bits for code in codes] == pytest.approx([codes[0].bits] * 4)
    # The floor leaves up to one of eight levels, uniformly: sqrt(1/3)/8 where nothing is clipped.
    assert codes[0].error_clipped < math.sqrt(1 / 3) / 8
    events = [code.events for code in codes]
    assert events == sorted(events)
    assert events[0] < 0.5  # one event at most, and none for negative inputs


def test_rounding_neurons_halve_the_error():
    floor, rounding = (quantisation_study(4, [0.0], v_init=v)[0] for v in (0.0, 0.5))
    assert rounding.error_clipped == pytest.approx(floor.error_clipped / 2, rel=0.05)


def test_changing_inputs_cost_every_code_but_one_timestep():
    still, moving = quantisation_study(4, [0.0]), quantisation_study(4, [1.0])
    assert moving[0].error_clipped == still[0].error_clipped
    for before, after in zip(still[1:], moving[1:], strict=True):
        assert after.error_clipped > 1.1 * before.error_clipped
        assert after.bits_per_event == after.bits / after.events


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((0,), "product"), ((4, [-1.0]), "jitters"), ((4, [0.0], 0.0), "spread")],
)
def test_bad_studies(arguments, named):
    options = {"spread": arguments[2]} if len(arguments) > 2 else {}
    with pytest.raises(InputError, match=named):
        quantisation_study(*arguments[:2], **options)
