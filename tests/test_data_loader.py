"""Batches: order, resume, sharing between processes, normalisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multispike.datasets.augment import Augmentation
from multispike.datasets.dataset import Split
from multispike.datasets.loader import BatchLoader
from multispike.errors import InputError

ALL = Augmentation(flip="alternate", shift=2, cutout=3, mixup=0.4)


def numbered(count: int, timesteps: int | None = None, size: int = 6) -> Split:
    """Random images; label i marks image i, so a batch tells which samples it holds."""
    lead = (count,) if timesteps is None else (count, timesteps)
    pixels = np.random.default_rng(7).integers(0, 256, (*lead, 2, size, size), dtype=np.uint8)
    return Split(torch.from_numpy(pixels), torch.arange(count))


def loader(split: Split, batch_size: int, **options) -> BatchLoader:
    options = {"mean": [0.0, 0.0], "std": [1.0, 1.0], "num_classes": len(split), **options}
    return BatchLoader(split, batch_size, **options)


def same(first, second) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, c) and torch.equal(b, d)
        for (a, b), (c, d) in zip(first, second, strict=True)
    )


def test_batches_cover_the_split_in_order():
    batches = list(loader(numbered(10), 4))
    assert [targets.tolist() for _, targets in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [inputs.shape[0] for inputs, _ in batches] == [4, 4, 2]


@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 12),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 100),
    done=st.integers(0, 40),
    augmentation=st.sampled_from([None, Augmentation(flip=True), ALL]),
)
@settings(deadline=None, max_examples=60)
def test_a_resumed_epoch_gives_exactly_the_rest(count, batch_size, seed, epoch, done, augmentation):
    options = {"shuffle": True, "seed": seed, "augmentation": augmentation}
    whole = loader(numbered(count), batch_size, **options)
    whole.set_epoch(epoch)
    expected = list(whole)
    done = min(done, len(whole))

    # Another process, whose global generators are anywhere.
    torch.manual_seed(done)
    np.random.seed(done)
    resumed = loader(numbered(count), batch_size, **options)
    resumed.set_epoch(epoch, done)
    assert same(list(resumed), expected[done:])
    assert same(list(resumed), expected)  # the place counts for one iteration only


def test_the_next_epoch_starts_anew_after_a_resume():
    split, options = numbered(12), {"shuffle": True, "augmentation": ALL}
    resumed = loader(split, 4, **options)
    resumed.set_epoch(3, 2)
    resumed.set_epoch(4)
    fresh = loader(split, 4, **options)
    fresh.set_epoch(4)
    assert same(list(resumed), list(fresh))


def test_leaving_an_iteration_does_not_skip_batches():
    batches = loader(numbered(12), 4, shuffle=True)
    first = next(iter(batches))
    assert same([first], list(batches)[:1])


def test_a_trainer_may_make_the_iterator_before_it_says_the_epoch():
    early = loader(numbered(12), 4, shuffle=True)
    iterator = iter(early)
    early.set_epoch(5)
    late = loader(numbered(12), 4, shuffle=True)
    late.set_epoch(5)
    assert same(list(iterator), list(late))


def test_global_generators_are_left_alone():
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tobytes()
    list(loader(numbered(12), 4, shuffle=True, augmentation=ALL))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tobytes()


def test_order_and_draws_change_with_epoch_seed_and_batch():
    def order(seed: int, epoch: int) -> list[int]:
        batches = loader(numbered(40), 8, shuffle=True, seed=seed)
        batches.set_epoch(epoch)
        return torch.cat([targets for _, targets in batches]).tolist()

    orders = [order(0, 0), order(0, 1), order(1, 0), order(1, 1)]
    assert len({tuple(each) for each in orders}) == 4
    assert all(sorted(each) == list(range(40)) for each in orders)

    # The same image in every place: what differs between batches is the draw alone.
    image = numbered(1).inputs.expand(16, -1, -1, -1)
    batches = loader(Split(image, torch.arange(16)), 8, augmentation=Augmentation(shift=2))
    (first, _), (second, _) = batches
    assert not torch.equal(first, second)


@given(
    count=st.integers(4, 40), share=st.integers(1, 4), world=st.integers(1, 4), drop=st.booleans()
)
@settings(deadline=None, max_examples=60)
def test_ranks_share_every_training_batch(count, share, world, drop):
    batch_size = share * world
    if drop and count < batch_size:
        return
    augmentation = Augmentation(flip="alternate", shift=2, cutout=3)
    options = {"shuffle": True, "drop_last": drop, "augmentation": augmentation}
    alone = list(loader(numbered(count), batch_size, **options))
    ranks = [
        list(loader(numbered(count), batch_size, rank=rank, world_size=world, **options))
        for rank in range(world)
    ]
    assert {len(batches) for batches in ranks} == {len(alone)}
    for index, (inputs, targets) in enumerate(alone):
        shares = [batches[index] for batches in ranks]
        assert len({len(labels) for _, labels in shares}) == 1
        # Put together again: the sample at place p of the batch is with rank p % world.
        images = torch.stack([images for images, _ in shares], 1).flatten(0, 1)
        labels = torch.stack([labels for _, labels in shares], 1).flatten()
        assert torch.equal(labels[: len(targets)], targets)
        assert torch.equal(images[: len(targets)], inputs)
        assert len(labels) - len(targets) < world  # no more than equal shares need


@pytest.mark.parametrize("world", [1, 2, 3])
def test_events_of_a_sample_are_lost_alike_on_every_rank(world):
    split = numbered(12, timesteps=3)
    options = {"shuffle": True, "augmentation": Augmentation(drop=0.3, shift=1, flip=True)}

    def samples(epoch: int, rank: int = 0, world_size: int = 1) -> dict[int, torch.Tensor]:
        batches = loader(split, 6, rank=rank, world_size=world_size, **options)
        batches.set_epoch(epoch)
        return {
            int(label): sample
            for inputs, labels in batches
            for sample, label in zip(inputs.transpose(0, 1), labels, strict=True)
        }

    alone = samples(0)
    shared = {
        label: sample for rank in range(world) for label, sample in samples(0, rank, world).items()
    }
    assert shared.keys() == alone.keys()
    assert all(torch.equal(sample, shared[label]) for label, sample in alone.items())
    later = samples(1)
    assert not any(torch.equal(sample, later[label]) for label, sample in alone.items())


def test_shifts_differ_between_samples_but_not_between_their_timesteps():
    one = numbered(1, size=9).inputs
    split = Split(one[:, None].expand(40, 4, -1, -1, -1), torch.arange(40))
    ((inputs, _),) = loader(split, 40, augmentation=Augmentation(shift=2, flip=True))
    steps = inputs.unbind(0)
    assert all(torch.equal(step, steps[0]) for step in steps)
    assert len({sample.numpy().tobytes() for sample in steps[0]}) > 20  # of 50 there are


@given(count=st.integers(1, 60), batch_size=st.integers(1, 16), world=st.integers(1, 5))
@settings(deadline=None, max_examples=100)
def test_evaluation_covers_each_sample_once_in_equally_many_batches(count, batch_size, world):
    if count < world:
        with pytest.raises(InputError, match="world_size: got"):
            loader(numbered(count), batch_size, rank=0, world_size=world)
        return
    ranks = [
        loader(numbered(count), batch_size, rank=rank, world_size=world) for rank in range(world)
    ]
    seen = [[targets for _, targets in batches] for batches in ranks]
    assert sorted(torch.cat([t for targets in seen for t in targets]).tolist()) == [*range(count)]
    assert {len(targets) for targets in seen} == {len(ranks[0])}
    assert min(len(t) for targets in seen for t in targets) >= 1
    assert max(len(t) for targets in seen for t in targets) <= -(-batch_size // world) + 1


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("timesteps", [None, 3])
def test_normalisation_is_the_documented_formula(timesteps, channels_last):
    split = numbered(5, timesteps)
    mean, std = (0.4, 0.5), (0.2, 0.3)
    batches = loader(split, 5, mean=mean, std=std, channels_last=channels_last)
    ((inputs, targets),) = batches
    shape = (2, 1, 1)
    expected = (split.inputs.double() / 255 - torch.tensor(mean).view(shape)) / torch.tensor(
        std
    ).view(shape)
    if timesteps is not None:
        expected = expected.transpose(0, 1)
    assert inputs.dtype == torch.float32
    assert inputs.shape == expected.shape
    assert targets.tolist() == [0, 1, 2, 3, 4]
    # One float32 rounding each of scale, offset and result, of magnitude 5.
    torch.testing.assert_close(inputs, expected.float(), rtol=0, atol=2e-6)
    one_step = inputs if timesteps is None else inputs[0]
    assert one_step.is_contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )


def test_no_event_stays_exactly_zero():
    counts = torch.zeros(4, 3, 2, 6, 6, dtype=torch.uint8)
    counts[:, :, :, 0, 0] = 2
    split = Split(counts, torch.arange(4))
    ((inputs, _),) = loader(split, 4, std=[2 / 255, 2 / 255])
    assert inputs.unique().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("timesteps", [None, 3])
def test_batches_are_made_where_the_split_is(timesteps):
    """The meta device stands in for an accelerator: a tensor left on the CPU would be refused."""
    split = numbered(8, timesteps)
    there = Split(split.inputs.to("meta"), split.labels.to("meta"))
    options = {"shuffle": True, "augmentation": ALL, "channels_last": True}
    for (inputs, targets), (expected, _) in zip(
        loader(there, 4, **options), loader(split, 4, **options), strict=True
    ):
        assert inputs.device.type == targets.device.type == "meta"
        assert inputs.shape == expected.shape


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("timesteps", [None, 3])
def test_augmented_batches_keep_shape_and_layout(timesteps, channels_last):
    split = numbered(8, timesteps)
    options = {"shuffle": True, "augmentation": ALL, "channels_last": channels_last}
    inputs, targets = next(iter(loader(split, 8, **options)))
    assert inputs.shape == ((8, 2, 6, 6) if timesteps is None else (3, 8, 2, 6, 6))
    assert targets.shape == (8, 8)
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets.sum(1), torch.ones(8))
    one_step = inputs if timesteps is None else inputs[0]
    assert one_step.is_contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )


def test_alternate_flip_shows_each_image_both_ways_in_two_epochs():
    split = numbered(32)
    batches = loader(split, 32, augmentation=Augmentation(flip="alternate"))
    plain = split.inputs.float() / 255
    flipped = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        ((inputs, _),) = batches
        as_is = torch.isclose(inputs, plain).flatten(1).all(1)
        mirrored = torch.isclose(inputs, plain.flip(-1)).flatten(1).all(1)
        assert (as_is ^ mirrored).all()
        flipped.append(mirrored)
    assert torch.equal(flipped[0], ~flipped[1])
    assert torch.equal(flipped[0], flipped[2])
    assert 0 < flipped[0].sum() < 32


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"batch_size": 0}, "batch_size: got 0, allowed: an integer >= 1"),
        ({"seed": -1}, "seed: got -1, allowed: an integer >= 0"),
        ({"std": [1.0, 0.0]}, r"std: got \[1.0, 0.0\], allowed: values > 0"),
        ({"mean": [1.0]}, r"mean: got \[1.0\], allowed: 2 values"),
        ({"rank": 2, "world_size": 2}, "rank: got 2, allowed: from 0 to 1"),
        ({"batch_size": 5, "world_size": 2, "shuffle": True}, "batch_size: got 5, .* the 2 proc"),
        ({"batch_size": 11, "drop_last": True}, "batch_size: got 11, allowed: at most the 10"),
        ({"augmentation": ALL, "num_classes": None}, "num_classes: got None, allowed: the number"),
        ({"augmentation": Augmentation(shift=6)}, "shift: got 6, allowed: less than the image"),
        ({"augmentation": Augmentation(cutout=7)}, "cutout: got 7, allowed: at most the image"),
    ],
)
def test_bad_arguments_are_named(options, line):
    options = {"batch_size": 4, **options}
    with pytest.raises(InputError, match=line):
        loader(numbered(10), **options)


def test_a_place_of_another_loader_is_refused():
    with pytest.raises(InputError, match="batch: got 4, allowed: from 0 to the 3"):
        loader(numbered(12), 4).set_epoch(0, 4)
    with pytest.raises(InputError, match="epoch: got -1"):
        loader(numbered(12), 4).set_epoch(-1)
