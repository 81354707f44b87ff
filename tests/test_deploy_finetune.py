"""Fine-tuning sees what the integer network computes, and helps it."""

import numpy as np
import pytest
import torch
from test_deploy_integer import (
    CASES,
    MEAN,
    NAMES,
    SHAPE,
    STD,
    images,
    integer,
    normalised,
    realistic,
    thin,
)

from multispike.datasets import load_dataset
from multispike.errors import RunError
from multispike.export import rounding
from multispike.export.quantise import Quantiser, finetune, quantise, rounded_to


@pytest.mark.parametrize(("arch", "options"), CASES, ids=NAMES)
def test_rounded_weights_are_those_of_the_integer_network(arch, options):
    """Put into the float network, they quantise to the same integers again."""
    model, network = realistic(arch, **options), integer(arch, **options)
    with torch.no_grad():
        for name, grid in Quantiser(model, MEAN, STD, SHAPE).walk().builder.grids.items():
            weight = model.get_parameter(name)
            rounded = rounded_to(grid, weight)
            assert not torch.equal(weight, rounded)
            weight.copy_(rounded)
    again = quantise(model, MEAN, STD, SHAPE)
    same = []
    for before, after in zip(network.layers, again.layers, strict=True):
        for a, b in zip(
            getattr(before, "synapses", ()), getattr(after, "synapses", ()), strict=True
        ):
            if a.weight is not None:
                # A channel whose largest weight was rounded to 126 or less is scaled anew.
                same.append((a.weight == b.weight).mean())
    assert np.mean(same) > 0.5


def test_fine_tuning_leaves_unrounded_weights_and_statistics():
    model = realistic("sparse_resnet")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = (normalised(images(16)), torch.arange(16) % 5)
    losses = finetune(model, [batch], MEAN, STD, SHAPE, lr=0.0)
    after = model.state_dict()
    assert len(losses) == 1
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_the_network_is_walked_once(monkeypatch):
    walks, walk = [], Quantiser.walk
    monkeypatch.setattr(Quantiser, "walk", lambda self: walks.append(1) or walk(self))
    batch = (normalised(images(4)), torch.arange(4) % 5)
    assert len(finetune(realistic("sparse_resnet"), [batch] * 3, MEAN, STD, SHAPE)) == 3
    assert len(walks) == 1


def test_a_loss_that_is_not_finite_says_what_an_export_can_do_instead():
    model = realistic("sparse_resnet")
    batch = (torch.full((4, *SHAPE), torch.nan), torch.arange(4))
    with pytest.raises(
        RunError, match=r"^finetune: got a loss of nan in step 0.*--finetune"
    ) as caught:
        finetune(model, [batch], MEAN, STD, SHAPE)
    assert "lr" not in str(caught.value)


def test_fine_tuning_makes_up_for_coarse_weights(monkeypatch):
    """With weights of -7..7 rounding hurts at once, not only networks as large as CIFAR's."""
    monkeypatch.setattr(rounding, "WEIGHT_MAX", 7)
    digits = load_dataset("digits", progress=False)
    mean, std = [float(v) for v in digits.mean], [float(v) for v in digits.std]
    pixels, labels = digits.train.inputs[:256], digits.train.labels[:256]
    inputs = (pixels.float() / 255 - mean[0]) / std[0]

    def batches(epochs):
        parts = torch.arange(256).repeat(epochs).split(64)
        return [(inputs[part], labels[part]) for part in parts]

    def integer_loss(model) -> float:
        network = quantise(model.eval(), mean, std, (1, 8, 8))
        logits = torch.from_numpy(network.forward(pixels)).double() * network.logit_scale
        return torch.nn.functional.cross_entropy(logits, labels).item()

    before, after = [], []
    for seed in range(3):
        torch.manual_seed(seed)
        model = thin("sparse_resnet", in_channels=1)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for part, target in batches(20):
            loss = torch.nn.functional.cross_entropy(model.train()(part), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        before.append(integer_loss(model))
        assert len(finetune(model, batches(5), mean, std, (1, 8, 8), lr=0.005)) == 20
        after.append(integer_loss(model))
    assert np.mean(after) < 0.9 * np.mean(before)
