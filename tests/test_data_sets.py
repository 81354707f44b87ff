"""Splits, limits, and the table of data sets."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multispike.datasets import DATASETS, list_datasets, load_dataset
from multispike.datasets.dataset import Dataset, Split, balanced_indices
from multispike.errors import InputError


def test_names_are_known_without_heavy_imports():
    code = (
        "import sys, multispike.datasets as data; print(*data.list_datasets());"
        "print(*{'torch', 'pyarrow', 'PIL', 'sklearn', 'numpy'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, heavy = run.stdout.splitlines()
    assert names.split() == list_datasets()
    assert heavy == ""


def test_every_row_names_a_function():
    from importlib import import_module

    for name, source in DATASETS.items():
        module, function = source.load.split(":")
        assert callable(getattr(import_module(module), function)), name
        assert source.description
        assert "\n" not in source.description


def test_digits_are_whole_and_stratified():
    digits = load_dataset("digits")
    assert digits.input_shape == (1, 8, 8)
    assert digits.num_classes == 10
    assert digits.timesteps is None
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    assert digits.test.labels.bincount().tolist() == [36] * 10
    assert digits.train.labels.bincount().min() >= 138
    assert digits.train.inputs.dtype == torch.uint8
    # 17 grey levels, spread from black to white
    assert digits.train.inputs.unique().tolist() == [round(i * 255 / 16) for i in range(17)]
    pixels = digits.train.inputs.double() / 255
    assert digits.mean == pytest.approx([pixels.mean().item()])
    assert digits.std == pytest.approx([pixels.std(correction=0).item()])
    again = load_dataset("digits")
    assert torch.equal(again.test.inputs, digits.test.inputs)


def test_no_test_digit_is_a_training_digit():
    from sklearn.datasets import load_digits

    digits = load_dataset("digits")
    together = torch.cat([digits.train.inputs, digits.test.inputs]).flatten(1)
    bundled = np.rint(load_digits().data * (255 / 16)).astype(np.uint8)
    as_rows = lambda array: sorted(map(bytes, np.asarray(array)))  # noqa: E731
    assert as_rows(together) == as_rows(bundled)


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    data=st.data(),
)
@settings(deadline=None, max_examples=100)
def test_a_part_is_as_balanced_as_the_labels_permit(labels, data):
    labels = torch.tensor(labels)
    count = data.draw(st.integers(1, len(labels)))
    chosen = balanced_indices(labels, count)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(chosen) == count
    assert set(chosen.tolist()) <= set(range(len(labels)))
    taken = labels[chosen].bincount(minlength=5)
    available = labels.bincount(minlength=5)
    # A class with samples left over has at most one fewer than any other.
    for label in range(5):
        if taken[label] < available[label]:
            assert taken[label] >= taken.max() - 1
    if count > 1:
        assert set(balanced_indices(labels, count - 1).tolist()) < set(chosen.tolist())


@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=60), share=st.floats(0.01, 0.99))
@settings(deadline=None, max_examples=100)
def test_validation_is_a_share_of_every_class(labels, share):
    labels = torch.tensor(labels)
    pixels = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1)
    whole = Split(pixels, labels)
    found = Dataset("x", whole, whole, tuple("abcd"), (0.0,), (1.0,)).validated(share)
    if (labels.bincount() > 1).any():
        assert found.validation is not None
        counts = labels.bincount(minlength=4), found.validation.labels.bincount(minlength=4)
        for total, kept in zip(*map(torch.Tensor.tolist, counts), strict=True):
            assert kept == (min(max(round(share * total), 1), total - 1) if total > 1 else 0)
    parts = [found.train] + ([found.validation] if found.validation else [])
    together = torch.cat([part.inputs.flatten() for part in parts])
    assert sorted(together.tolist()) == list(range(len(labels)))
    for part in parts:
        assert torch.equal(part.labels, labels[part.inputs.flatten().long()])


def test_a_part_is_not_the_first_rows():
    labels = torch.arange(1000) % 10
    assert balanced_indices(labels, 100).float().mean() == pytest.approx(500, abs=100)


def test_limits_keep_the_statistics_of_the_whole():
    whole = load_dataset("digits")
    part = load_dataset("digits", limit_train=50, limit_test=20)
    assert (len(part.train), len(part.test)) == (50, 20)
    assert part.train.labels.bincount().tolist() == [5] * 10
    assert (part.mean, part.std) == (whole.mean, whole.std)
    assert len(load_dataset("digits", limit_train=1437).train) == 1437


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"name": "cifar11"}, "data: got 'cifar11', nearest: cifar10"),
        ({"name": "digits", "limit_train": 0}, "limit_train: got 0, .* from 1 to 1437"),
        ({"name": "digits", "limit_train": 1438}, "limit_train: got 1438, .* from 1 to 1437"),
        ({"name": "digits", "limit_test": -5}, "limit_test: got -5, .* from 1 to 360"),
        ({"name": "digits", "limit_test": 2.5}, "limit_test: got 2.5, .* an integer"),
        ({"name": "digits", "size": 8}, "option of digits: got 'size=8', allowed: none"),
        ({"name": "imagefolder", "sise": 8}, "option of imagefolder: got 'sise', nearest: size"),
        ({"name": "cifar10", "data_dir": "x" * 5000}, "data_dir: got .*File name too long"),
        ({"name": "digits", "download": True}, "download: got True, .* no download for digits"),
    ],
)
def test_bad_arguments_are_named(arguments, line):
    with pytest.raises(InputError, match=line) as raised:
        load_dataset(**arguments)
    assert "\n" not in str(raised.value)


def images(count: int, *shape: int) -> torch.Tensor:
    return torch.zeros(count, *shape, dtype=torch.uint8)


def test_event_sets_tell_their_timesteps():
    split = Split(images(2, 5, 2, 8, 9), torch.tensor([0, 1]))
    events = Dataset("events", split, split, ("a", "b"), (0.0, 0.0), (1.0, 1.0))
    assert events.timesteps == 5
    assert events.input_shape == (2, 8, 9)


@pytest.mark.parametrize(
    ("build", "line"),
    [
        (lambda: Split(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])), "inputs: got 'torch.float"),
        (lambda: Split(images(2, 8, 8), torch.tensor([0, 1])), "inputs: got"),
        (lambda: Split(images(2, 1, 8, 8), torch.tensor([0])), "labels: got"),
        (lambda: Split(images(2, 1, 8, 8), torch.tensor([0.0, 1.0])), "labels: got"),
    ],
)
def test_a_split_refuses_what_is_not_one(build, line):
    with pytest.raises(InputError, match=line):
        build()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"test": Split(images(1, 1, 8, 9), torch.tensor([0]))}, r"test inputs: got \[1, 8, 9\]"),
        ({"train": Split(images(1, 1, 8, 8), torch.tensor([2]))}, "labels of the train .* got 2"),
        ({"train": Split(images(1, 1, 8, 8), torch.tensor([-1]))}, "labels of the train .* -1"),
        (
            {"test": Split(images(0, 1, 8, 8), torch.empty(0, dtype=torch.int64))},
            "test split of x: got 0, allowed: at least one",
        ),
        ({"mean": (0.0, 0.0)}, "mean: got .* 1 values, one per channel"),
    ],
)
def test_a_data_set_refuses_parts_that_do_not_fit(change, line):
    split = Split(images(2, 1, 8, 8), torch.tensor([0, 1]))
    parts = {"train": split, "test": split, "classes": ("a", "b"), "mean": (0.0,), "std": (1.0,)}
    with pytest.raises(InputError, match=line):
        Dataset("x", **{**parts, **change})
