"""Transforms of batches against their plain definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multispike.config import Recipe
from multispike.datasets import DATASETS
from multispike.datasets.augment import Augmentation, Draws
from multispike.datasets.dataset import Dataset, Split
from multispike.errors import InputError
from multispike.training.data import augmentation_of


def draws_of(augmentation: Augmentation, count: int, height: int, width: int, seed=0) -> Draws:
    flips = np.random.default_rng(99).random(count) < 0.5
    return augmentation.draw(np.random.default_rng(seed), count, flips, height, width)


def pixels(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8))


@given(
    count=st.integers(1, 6),
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    shift=st.integers(0, 8),
    flip=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=80)
def test_warp_is_flip_then_crop_of_the_reflected_image(count, height, width, shift, flip, seed):
    shift = min(shift, height - 1, width - 1)
    augmentation = Augmentation(flip=flip, shift=shift)
    draws = draws_of(augmentation, count, height, width, seed)
    images = pixels(count, 3, height, width)
    expected = []
    for image, flipped, down, right in zip(images, draws.flipped, *draws.shifts, strict=True):
        image = image.flip(-1) if flipped else image
        padded = torch.nn.functional.pad(image.float(), (shift,) * 4, mode="reflect")
        top, left = shift + down, shift + right
        expected.append(padded[:, top : top + height, left : left + width].to(torch.uint8))
    assert torch.equal(augmentation.warp(images, draws), torch.stack(expected))


def test_shifts_reach_both_ends_and_flips_are_even():
    draws = draws_of(Augmentation(flip=True, shift=2), 2000, 8, 8)
    assert set(draws.shifts[0]) == set(draws.shifts[1]) == {-2, -1, 0, 1, 2}
    assert 900 < draws.flipped.sum() < 1100


def test_all_timesteps_get_the_same_transform():
    augmentation = Augmentation(flip=True, shift=2, cutout=3)
    draws = draws_of(augmentation, 5, 8, 8)
    images = pixels(5, 2, 8, 8)
    events = images[:, None].expand(-1, 4, -1, -1, -1)
    warped = augmentation.warp(images, draws)
    assert torch.equal(augmentation.warp(events, draws), warped[:, None].expand(-1, 4, -1, -1, -1))
    labels = torch.zeros(5, dtype=torch.int64)
    cut, _ = augmentation.finish(warped.float(), labels, draws, None)
    steps, _ = augmentation.finish(warped.float().repeat(4, 1, 1, 1, 1), labels, draws, None)
    assert torch.equal(steps, cut.expand(4, -1, -1, -1, -1))


@pytest.mark.parametrize("side", [1, 2, 3, 6])
def test_cutout_blanks_one_clipped_square(side):
    augmentation = Augmentation(cutout=side)
    draws = draws_of(augmentation, 300, 6, 7)
    ones = torch.ones(300, 2, 6, 7)
    cut, _ = augmentation.finish(ones, torch.zeros(300, dtype=torch.int64), draws, None)
    assert torch.equal(cut[:, 0], cut[:, 1])
    for image, row, column in zip(cut[:, 0], *draws.centres, strict=True):
        top, left = row - side // 2, column - side // 2
        expected = torch.ones(6, 7)
        expected[max(top, 0) : top + side, max(left, 0) : left + side] = 0
        assert torch.equal(image, expected)
    # Every pixel is a centre somewhere, and the largest square there is is a whole one.
    assert {*zip(*draws.centres.tolist(), strict=True)} == {
        (row, column) for row in range(6) for column in range(7)
    }
    assert (cut[:, 0] == 0).sum((1, 2)).max() == side * side


@pytest.mark.parametrize("timesteps", [None, 3])
def test_mixup_blends_neighbours_and_their_targets_alike(timesteps):
    augmentation = Augmentation(mixup=0.5)
    draws = draws_of(augmentation, 4, 2, 2)
    assert 0 <= draws.weight <= 1
    labels = torch.tensor([0, 1, 2, 2])
    lead = (4,) if timesteps is None else (timesteps, 4)
    inputs = torch.rand(*lead, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    samples = -4
    expected = draws.weight * inputs + (1 - draws.weight) * inputs.roll(1, samples)
    mixed, targets = augmentation.finish(inputs.clone(), labels, draws, 3)
    torch.testing.assert_close(mixed, expected)
    one_hot = torch.eye(3)[labels]
    torch.testing.assert_close(
        targets, draws.weight * one_hot + (1 - draws.weight) * one_hot.roll(1, 0)
    )


def test_weights_of_mixup_follow_the_beta_distribution():
    augmentation = Augmentation(mixup=2.0)
    weights = [draws_of(augmentation, 1, 2, 2, seed).weight for seed in range(500)]
    assert np.mean(weights) == pytest.approx(0.5, abs=0.04)  # 4 standard errors
    assert np.var(weights) == pytest.approx(1 / (4 * (2 * 2.0 + 1)), rel=0.25)


def test_a_short_batch_gets_the_first_numbers_of_a_full_one():
    augmentation = Augmentation(flip=True, shift=3, cutout=2, mixup=1.0)
    flips = np.zeros(8, dtype=bool)
    whole = augmentation.draw(np.random.default_rng(3), 8, flips, 9, 9)
    short = augmentation.draw(np.random.default_rng(3), 8, flips[:5], 9, 9)
    assert short.flipped.tolist() == whole.flipped[:5].tolist()
    assert short.shifts.tolist() == whole.shifts[:, :5].tolist()
    assert short.centres.tolist() == whole.centres[:, :5].tolist()
    assert short.weight == whole.weight


def test_lost_events_are_those_of_single_samples():
    frames = pixels(6, 3, 2, 8, 8)
    kept = Augmentation(drop=0.25).lose(frames, [np.random.default_rng(i) for i in range(6)])
    assert kept.dtype == frames.dtype
    assert (kept <= frames).all()
    # 4 standard deviations of the binomial
    total = int(frames.sum())
    assert int(kept.sum()) == pytest.approx(0.75 * total, abs=4 * (total * 0.75 * 0.25) ** 0.5)
    again = Augmentation(drop=0.25).lose(frames[4:], [np.random.default_rng(i) for i in (4, 5)])
    assert torch.equal(again, kept[4:])
    assert not torch.equal(kept[0] != frames[0], kept[1] != frames[1])


def test_without_transforms_nothing_is_touched():
    augmentation = Augmentation()
    images = pixels(3, 1, 4, 4)
    draws = draws_of(augmentation, 3, 4, 4)
    assert augmentation.warp(images, draws) is images
    assert augmentation.lose(images, []) is images
    labels = torch.tensor([0, 1, 2])
    inputs, targets = augmentation.finish(images.float(), labels, draws, None)
    assert torch.equal(inputs, images.float())
    assert targets is labels


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"flip": "sometimes"}, "flip: got 'sometimes', allowed: true, false or 'alternate'"),
        ({"shift": -1}, "shift: got -1, allowed: an integer >= 0"),
        ({"shift": 1.5}, "shift: got 1.5, allowed: an integer >= 0"),
        ({"cutout": -2}, "cutout: got -2, allowed: an integer >= 0"),
        ({"mixup": -0.1}, "mixup: got -0.1, allowed: a number >= 0"),
        ({"drop": 1.0}, r"drop: got 1.0, allowed: a share in \[0, 1\)"),
        ({"mixup": float("nan")}, "mixup: got nan, allowed: a number >= 0"),
    ],
)
def test_bad_arguments_are_named(options, line):
    with pytest.raises(InputError, match=line):
        Augmentation(**options)


KEEPS_ITS_LABEL = {
    "cifar10", "cifar100", "imagefolder", "cifar10dvs",
    "cifar10-dvs-sim", "cifar100-dvs-sim", "imagefolder-dvs-sim",
}  # fmt: skip


@pytest.mark.parametrize("name", DATASETS)
def test_mirrored_by_default_is_what_keeps_its_label(name):
    """A right hand's wave, mirrored, is a left hand's; digits are not read in a mirror."""
    split = Split(torch.zeros(1, 2, 8, 8, dtype=torch.uint8), torch.zeros(1, dtype=torch.long))
    dataset = Dataset(name, split, split, ("only",), mean=(0.0, 0.0), std=(1.0, 1.0))
    assert augmentation_of(Recipe(), dataset).flip is (name in KEEPS_ITS_LABEL)
    assert augmentation_of(Recipe(flip="random"), dataset).flip is True
    assert augmentation_of(Recipe(flip="none"), dataset).flip is False
