"""Image folders, Fashion-MNIST's idx files, and the statistics of channels."""

from __future__ import annotations

import gzip
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from multispike.datasets import image_sets, load_dataset
from multispike.datasets.dataset import statistics
from multispike.datasets.image_files import fitted
from multispike.errors import InputError


def random_image(seed: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def load(tmp_path):
    def load(name, folder, **options):
        return load_dataset(name, folder, cache_dir=tmp_path / "cache", **options)

    return load


@pytest.fixture
def expect(load):
    def expect(name, folder, line, **options):
        with pytest.raises(InputError, match=line) as raised:
            load(name, folder, **options)
        assert "\n" not in str(raised.value)

    return expect


@pytest.fixture
def pictures(tmp_path):
    """Two classes, three training images each and one test image, all 6x8; the folder."""
    folder = tmp_path / "pictures"
    for half, count in (("train", 3), ("test", 1)):
        for label, name in enumerate(("cat", "dog")):
            place = folder / half / name
            place.mkdir(parents=True)
            for number in range(count):
                image = random_image(10 * label + number, 6, 8)
                Image.fromarray(image).save(place / f"{number}.png")
    return folder


def test_a_folder_of_equal_images_is_read_exactly(load, pictures):
    (pictures / "train" / "cat" / "notes.txt").write_text("not an image")
    (pictures / "train" / ".hidden").mkdir()
    for _ in range(2):  # decoded, then from the cache
        found = load("imagefolder", pictures)
        assert found.classes == ("cat", "dog")
        assert found.input_shape == (3, 6, 8)
        assert found.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert found.test.labels.tolist() == [0, 1]
        for image, seed in zip(found.train.inputs, (0, 1, 2, 10, 11, 12), strict=True):
            assert np.array_equal(image, random_image(seed, 6, 8).transpose(2, 0, 1))


def test_val_stands_in_for_test(load, pictures):
    (pictures / "test").rename(pictures / "val")
    assert len(load("imagefolder", pictures).test) == 2


def test_changed_images_and_names_are_seen(load, pictures):
    load("imagefolder", pictures)
    Image.fromarray(random_image(77, 6, 8)).save(pictures / "train" / "cat" / "0.png")
    found = load("imagefolder", pictures)
    assert np.array_equal(found.train.inputs[0], random_image(77, 6, 8).transpose(2, 0, 1))
    for half in ("train", "test"):
        (pictures / half / "cat").rename(pictures / half / "elk")  # now sorted after dog
    found = load("imagefolder", pictures)
    assert found.classes == ("dog", "elk")
    assert np.array_equal(found.train.inputs[0], random_image(10, 6, 8).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("size", "shape"), [(4, (3, 4, 4)), ((5, 9), (3, 5, 9)), ([5, 9], (3, 5, 9))]
)
def test_size_makes_all_images_alike(load, pictures, size, shape):
    Image.fromarray(random_image(1, 20, 11)).save(pictures / "train" / "dog" / "other.jpg")
    assert load("imagefolder", pictures, size=size).input_shape == shape


def test_an_image_is_scaled_to_cover_and_cut_at_the_centre():
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = 200  # the central square
    assert (fitted(Image.fromarray(wide), 4, 4) == 200).all()
    assert (fitted(Image.fromarray(wide[:, 4:8]), 8, 8) == 200).all()
    assert (fitted(Image.fromarray(wide.transpose(1, 0, 2)), 4, 4) == 200).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_8_bit_mode_becomes_rgb(load, pictures, mode):
    path = pictures / "train" / "cat" / ("0.tif" if mode == "CMYK" else "0.png")
    (pictures / "train" / "cat" / "0.png").unlink()
    grey = Image.fromarray(np.full((6, 8), 255, np.uint8))
    grey.convert("RGB").convert(mode).save(path)
    assert (load("imagefolder", pictures).train.inputs[0] == 255).all()


def test_a_palette_with_transparency_is_read_without_a_warning(load, pictures):
    image = Image.fromarray(random_image(5, 6, 8)).quantize(4)
    image.save(pictures / "train" / "cat" / "0.png", transparency=bytes([0, 128, 255, 255]))
    expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(load("imagefolder", pictures).train.inputs[0], expected)


def test_deep_images_are_refused_not_clipped(expect, pictures):
    deep = Image.fromarray(np.full((6, 8), 60_000, np.uint16))
    deep.save(pictures / "train" / "cat" / "0.png")
    expect("imagefolder", pictures, r"image: got '.*0\.png', allowed: at most 8 bits per channel")


def test_images_of_two_sizes_need_the_option(expect, pictures):
    Image.fromarray(random_image(1, 7, 8)).save(pictures / "train" / "dog" / "2.png")
    line = r"size: got None, .*0\.png is 6x8, .*dog.2\.png is 7x8"
    expect("imagefolder", pictures, line)


@pytest.mark.parametrize("size", [0, -3, 2.5, (4, 0), (1, 2, 3), "large", True])
def test_a_bad_size_is_refused(expect, pictures, size):
    expect("imagefolder", pictures, "size: got .*, allowed: an integer >= 1 or", size=size)


@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("damage", ["empty", "text", "truncated"])
def test_a_damaged_image_is_named(expect, pictures, damage, size):
    path = pictures / "train" / "dog" / "1.png"
    if damage == "truncated":
        os.truncate(path, path.stat().st_size - 30)
    else:
        path.write_bytes(b"" if damage == "empty" else b"this is a text")
    line = r"image: got '.*train.dog.1\.png', allowed: a whole, readable image"
    expect("imagefolder", pictures, line, size=size)


def test_what_is_missing_in_a_folder_is_told(expect, pictures, tmp_path):
    expect("imagefolder", None, r"data_dir: got None, .*train/CLASS and test/CLASS")
    expect("imagefolder", tmp_path / "nowhere", r"data_dir: got .*nowhere is missing")
    expect("imagefolder", pictures / "train", r"train.train is missing")
    (pictures / "train" / "owl").mkdir()
    expect("imagefolder", pictures, r"data_dir: got '.*owl', allowed: a folder with png/jpg")
    (pictures / "train" / "owl").rmdir()
    (pictures / "test" / "owl").mkdir()
    expect("imagefolder", pictures, r"data_dir: got '.*test.owl', allowed: only classes that")


def write_idx(folder, name: str, array: np.ndarray, compress: bool) -> None:
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    path = folder / (f"{name}.gz" if compress else name)
    path.write_bytes(gzip.compress(content) if compress else content)


@pytest.fixture(params=[False, True], ids=["plain", "gz"])
def fashion(request, tmp_path):
    """A small Fashion-MNIST; the folder, and whether it is compressed."""
    folder = tmp_path / "fashion"
    folder.mkdir()
    for half, seed in (("train", 0), ("test", 1)):
        images = random_image(seed, 12, 28 * 28, 1).reshape(12, 28, 28)
        labels = np.arange(12, dtype=np.uint8) % 10
        write_idx(folder, image_sets.IDX_FILES[f"{half}_inputs"], images, request.param)
        write_idx(folder, image_sets.IDX_FILES[f"{half}_labels"], labels, request.param)
    return folder, request.param


def test_idx_files_are_read_exactly(load, fashion):
    for _ in range(2):
        found = load("fashion_mnist", fashion[0])
        assert found.input_shape == (1, 28, 28)
        assert found.train.inputs.numpy().tobytes() == random_image(0, 12, 784, 1).tobytes()
        assert found.test.inputs.numpy().tobytes() == random_image(1, 12, 784, 1).tobytes()
        assert found.train.labels.tolist() == [*range(10), 0, 1]
        assert found.classes[9] == "Ankle boot"


def test_fashion_mnist_is_looked_for_where_debian_puts_it(load, fashion, monkeypatch):
    monkeypatch.setattr(image_sets, "DEBIAN", fashion[0])
    assert len(load("fashion_mnist", None).train) == 12


def test_a_missing_idx_file_is_named(expect, fashion, tmp_path, monkeypatch):
    monkeypatch.setattr(image_sets, "DEBIAN", tmp_path / "nowhere")
    expect("fashion_mnist", None, r"data_dir: got None, allowed: .*nowhere.train-images-idx3")
    for path in fashion[0].glob("t10k-labels*"):
        path.unlink()
    expect("fashion_mnist", fashion[0], r"data_dir: got .*t10k-labels-idx1-ubyte is missing")


@pytest.mark.parametrize("keep", [0, 3, 9, 0.5, -1])
def test_a_truncated_idx_file_is_named(expect, fashion, keep):
    (path,) = fashion[0].glob("train-images*")
    size = path.stat().st_size
    os.truncate(path, int(size * keep) if isinstance(keep, float) else keep % size)
    expect("fashion_mnist", fashion[0], r"data file: got '.*train-images.*', allowed: an? ")


def test_what_is_no_idx_file_is_named(expect, fashion):
    folder, compressed = fashion
    write_idx(folder, image_sets.IDX_FILES["train_labels"], np.zeros((12, 2), np.uint8), compressed)
    line = r"data file: got '.*train-labels.*', allowed: an idx file of bytes in 1 dim"
    expect("fashion_mnist", folder, line)
    write_idx(folder, image_sets.IDX_FILES["train_labels"], np.zeros(11, np.uint8), compressed)
    expect("fashion_mnist", folder, r"labels in .*train-labels.*: got 11, allowed: 12")


@given(
    images=arrays.arrays(
        np.uint8,
        arrays.array_shapes(min_dims=4, max_dims=4, max_side=5),
        elements=st.integers(0, 255),
    )
)
@settings(deadline=None, max_examples=50)
def test_statistics_are_those_of_numpy(images):
    mean, std = statistics(images)
    assert mean == pytest.approx(images.mean((0, 2, 3)) / 255)
    expected = images.std((0, 2, 3)) / 255
    assert std == pytest.approx(np.where(expected > 0, expected, 1.0))


def test_statistics_of_more_images_than_one_piece():
    images = random_image(3, 2500 * 2, 4, 1).reshape(2500, 2, 2, 2)
    mean, std = statistics(images)
    assert mean == pytest.approx(images.mean((0, 2, 3)) / 255)
    assert std == pytest.approx(images.std((0, 2, 3)) / 255)
