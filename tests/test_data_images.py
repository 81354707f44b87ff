"""Image folders, Fashion-MNIST's idx files, and the statistics of channels."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from multispike.cli import main
from multispike.config import TrainConfig
from multispike.datasets import image_sets, load_dataset
from multispike.datasets.dataset import statistics
from multispike.datasets.source_files import fitted
from multispike.errors import InputError
from multispike.training.data import load_data


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


def test_what_is_transparent_shows_the_background(load, pictures):
    """White unless said otherwise; a palette's transparency is read without a warning."""
    path = pictures / "train" / "cat" / "0.png"
    image = Image.fromarray(random_image(5, 6, 8)).quantize(4)
    image.save(path, transparency=bytes([0, 128, 255, 255]))
    with Image.open(path) as opened:
        rgba = np.asarray(opened.convert("RGBA")).astype(float).transpose(2, 0, 1)
    for background, level in (({}, 255), ({"background": "black"}, 0)):
        found = load("imagefolder", pictures, **background).train.inputs[0].numpy()
        share = rgba[3] / 255
        np.testing.assert_allclose(found, share * rgba[:3] + (1 - share) * level, atol=1)
        assert len(np.unique(rgba[3])) > 1
    Image.fromarray(np.zeros((6, 8, 4), np.uint8), "RGBA").save(path)
    green = load("imagefolder", pictures, background="#00ff00").train.inputs[0]
    assert green.flatten(1).unique(dim=1).tolist() == [[0], [255], [0]]


def test_16_bit_grey_is_scaled(load, pictures):
    deep = np.arange(0, 65536, 1366).astype(np.uint16).reshape(6, 8)
    for suffix in (".png", ".tif"):
        (pictures / "train" / "cat" / "0.png").unlink(missing_ok=True)
        Image.fromarray(deep).save(pictures / "train" / "cat" / f"0{suffix}")
        found = load("imagefolder", pictures).train.inputs[0].numpy()
        np.testing.assert_array_equal(found, np.rint(deep / 257)[None].repeat(3, 0))
    Image.fromarray(deep).save(path := pictures / "train" / "cat" / "0.png", transparency=1366 * 5)
    path.with_suffix(".tif").unlink()
    clear = np.where(deep == 1366 * 5, 255, np.rint(deep / 257))
    assert np.array_equal(load("imagefolder", pictures).train.inputs[0, 0], clear)


@pytest.mark.parametrize("largest", [15, 255, 1023, 4095, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_pgm_is_scaled_by_its_largest_value(load, pictures, largest, plain):
    values = np.rint(np.linspace(0, largest, 48)).astype(int).reshape(6, 8)
    content = values.astype(">u2" if largest > 255 else "u1").tobytes()
    if plain:
        content = " ".join(map(str, values.ravel())).encode()
    (pictures / "train" / "cat" / "0.png").unlink()
    path = pictures / "train" / "cat" / "0.pgm"
    path.write_bytes(f"{'P2' if plain else 'P5'}\n8 6\n{largest}\n".encode() + content)
    found = load("imagefolder", pictures).train.inputs[0].numpy()
    np.testing.assert_allclose(found, 255 / largest * values[None].repeat(3, 0), atol=0.51)


def test_deeper_images_are_refused_not_clipped(expect, pictures):
    (pictures / "train" / "cat" / "0.png").unlink()
    Image.fromarray(np.full((6, 8), 0.5, np.float32)).save(pictures / "train" / "cat" / "0.tif")
    expect("imagefolder", pictures, r"image: got '.*0\.tif', allowed: at most 16 bits per channel")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_images_are_upright(load, pictures, orientation, suffix):
    """Their metadata tell how the camera was held; a JPEG's lines and columns are then swapped. Of
    TIFF, Pillow turns the size before it turns the image."""
    upright = random_image(3, 6, 8)
    lying = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.swapaxes(0, 1), 6: upright.swapaxes(0, 1)[::-1],
        7: upright.swapaxes(0, 1)[::-1, ::-1], 8: upright.swapaxes(0, 1)[:, ::-1],
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    (pictures / "train" / "cat" / "0.png").unlink()
    path = pictures / "train" / "cat" / f"0{suffix}"
    Image.fromarray(np.ascontiguousarray(lying[orientation])).save(path, exif=exif)
    found = load("imagefolder", pictures)
    assert np.array_equal(found.train.inputs[0], upright.transpose(2, 0, 1))


def spoil(pictures, *names: str) -> None:
    for name in names:
        path = pictures / name
        path.write_bytes(path.read_bytes()[:-30])


DAMAGED = ("train/cat/1.png", "train/dog/0.png", "test/dog/0.png")


@pytest.mark.parametrize("size", [None, 4])
def test_one_run_names_all_damaged_images(expect, pictures, size):
    spoil(pictures, *DAMAGED)
    (pictures / "train" / "cat" / "2.png").write_bytes(b"no image")
    message = (
        r"^4 damaged files: image: got .*cat.1\.png'.*cat.2\.png'.*dog.0\.png'.*test.dog.0\.png'"
    )
    expect("imagefolder", pictures, message, size=size)


@pytest.mark.parametrize("size", [None, 4])
def test_damaged_images_are_skipped_and_listed(load, pictures, size, caplog):
    spoil(pictures, *DAMAGED[:2])
    for _ in range(2):  # decoded, then from the cache
        caplog.clear()
        found = load("imagefolder", pictures, size=size, skip_damaged=True)
        assert found.train.labels.tolist() == [0, 0, 1, 1]
        seeds = (0, 2, 11, 12)
        images = [fitted(Image.fromarray(random_image(seed, 6, 8)), size or 6, size or 8)
                  for seed in seeds]  # fmt: skip
        np.testing.assert_array_equal(found.train.inputs.numpy(), images)
        mean, _ = statistics(np.stack(images))
        assert found.mean == pytest.approx(mean)
        (record,) = caplog.records
        assert record.getMessage().startswith("imagefolder: 2 damaged files skipped: image: got '")
    with pytest.raises(InputError, match=r"; --skip-damaged leaves such files out$"):
        load("imagefolder", pictures, size=size)
    spoil(pictures, "test/cat/0.png", "test/dog/0.png")
    with pytest.raises(InputError, match="4 damaged files"):  # no test image would be left
        load("imagefolder", pictures, size=size, skip_damaged=True)


@pytest.mark.parametrize("inside", [True, False])
def test_a_share_of_the_images_can_be_the_test(load, expect, pictures, inside):
    expect("imagefolder", pictures, r"test_share: got 0\.3, .*test", test_share=0.3)
    for path in (pictures / "test").rglob("*.png"):
        path.unlink()
    for name in ("test/cat", "test/dog", "test"):
        (pictures / name).rmdir()
    if not inside:
        for name in ("cat", "dog"):
            (pictures / "train" / name).rename(pictures / name)
        (pictures / "train").rmdir()
    expect("imagefolder", pictures, "data_dir: got .* is missing")
    found = load("imagefolder", pictures, test_share=0.3)
    assert found.train.labels.tolist() == [0, 0, 1, 1]
    assert found.test.labels.tolist() == [0, 1]
    images = {image.numpy().tobytes() for split in found.splits.values() for image in split.inputs}
    assert len(images) == 6


def test_classes_whose_names_are_no_text_can_be_written(load, pictures):
    """A name in Latin-1, as old archives have them; of JSON and pages, all is UTF-8."""
    for half in ("train", "test"):
        os.rename(pictures / half / "cat", os.fsencode(pictures / half) + b"/caf\xe9")
    found = load("imagefolder", pictures)
    assert found.classes == (r"caf\udce9", "dog")
    assert len(found.train) == 6


def test_a_folder_beside_the_test_is_for_validation(load, pictures):
    shutil.copytree(pictures / "train", pictures / "val")
    found = load("imagefolder", pictures)
    assert {part: len(split) for part, split in found.splits.items()} == {
        "train": 6, "test": 2, "validation": 6,
    }  # fmt: skip
    assert found.validated(0.5) is found
    assert found.validation is not None
    assert torch.equal(found.validation.inputs, found.train.inputs)


@pytest.fixture
def many(tmp_path):
    """Two classes of 20 training images and three test images of 8x8, bright or dark."""
    folder = tmp_path / "many"
    for half, count in (("train", 20), ("test", 3)):
        for label, name in enumerate(("dark", "light")):
            (folder / half / name).mkdir(parents=True)
            for number in range(count):
                image = random_image(100 * label + number, 8, 8) // 2 + 127 * label
                Image.fromarray(image).save(folder / half / name / f"{number}.png")
    return folder


def test_a_share_of_a_folder_is_for_validation(many, monkeypatch, tmp_path):
    monkeypatch.setenv("MULTISPIKE_CACHE", str(tmp_path / "cache"))
    settings = {"data": "imagefolder", "data_dir": str(many)}
    by_default = load_data(TrainConfig(**settings))
    assert {part: len(split) for part, split in by_default.splits.items()} == {
        "train": 36, "test": 6, "validation": 4,
    }  # fmt: skip
    assert by_default.validation is not None
    assert by_default.validation.labels.tolist() == [0, 0, 1, 1]
    none = load_data(TrainConfig(**settings, val_share=0.0))
    assert (len(none.train), none.validation) == (40, None)
    digits = load_data(TrainConfig(data="digits"))  # published: its results are those of the test
    assert (len(digits.train), digits.validation) == (1437, None)
    assert len(load_data(TrainConfig(data="digits", val_share=0.2)).train) == 1437 - 287


def test_validation_judges_the_epochs_and_the_test_the_run(many, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MULTISPIKE_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "run"
    assert main([
        "train", "--data", "imagefolder", "--data-dir", str(many), "--epochs", "2",
        "--threads", "1",
        "--batch-size", "12", "--accelerator", "cpu", "--out", str(out),
    ]) == 0  # fmt: skip
    assert "validation accuracy" in capsys.readouterr().err
    with open(out / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert "test_accuracy" not in rows[0]
    accuracies = [float(row["val_accuracy"]) for row in rows]
    assert {4 * accuracy % 1 for accuracy in accuracies} == {0.0}
    result = json.loads((out / "result.json").read_text())
    assert result["samples"] == 6
    assert result["best_accuracy"] == max(accuracies)
    assert main(["report", str(out), "--out", str(tmp_path / "report")]) == 0
    assert "Validation accuracy by epoch" in (tmp_path / "report" / "report.html").read_text()
    best = torch.load(out / "best.ckpt", weights_only=True)
    assert best["epoch"] == int(np.argmax(accuracies))


def bomb(place) -> str:
    """A palette PNG of 13,000 x 13,000 pixels in 20 kB, which would take 0.7 GB as RGB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 13_000, 13_000, 1, 3, 0, 0, 0)
    pixels = zlib.compress(bytes(13_000 * (1 + 13_000 // 8)), 9)
    place.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"PLTE", bytes(6))
        + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )  # fmt: skip
    return r"0\.png', allowed: a whole, readable image \(Image size \(169000000 pixels\)"


@pytest.mark.parametrize("size", [None, 4])
def test_an_image_too_large_is_refused_by_its_header(expect, pictures, size):
    message = bomb(pictures / "train" / "cat" / "0.png")
    tracemalloc.start()
    try:
        expect("imagefolder", pictures, message, size=size)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("color", ["", "no colour", "#12", "rgb(1)"])
def test_a_bad_background_is_refused(expect, pictures, color):
    expect("imagefolder", pictures, "background: got .*, allowed: a colour", background=color)


def test_images_of_two_sizes_need_the_option(expect, pictures):
    Image.fromarray(random_image(1, 7, 8)).save(pictures / "train" / "dog" / "2.png")
    line = r"size: got None, .*0\.png is 6x8, .*dog.2\.png is 7x8"
    expect("imagefolder", pictures, line)


@pytest.mark.parametrize("size", [0, -3, 2.5, (4, 0), (1, 2, 3), "large", True])
def test_a_bad_size_is_refused(expect, pictures, size):
    expect("imagefolder", pictures, "size: got .*, allowed: an integer >= 1 or", size=size)


def test_a_size_is_refused_before_memory_is_taken(expect, pictures):
    line = r"size: got \[3, 20000, 20000\], allowed: at most 67,108,864 values a sample"
    expect("imagefolder", pictures, line, size=20_000)


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


@pytest.mark.parametrize("shape", [(12, 28, 28), (2**31, 28, 28)])
def test_an_idx_file_of_any_length_costs_no_more_than_its_header_says(expect, fashion, shape):
    folder, compressed = fashion
    (path,) = folder.glob("train-images*")
    content = struct.pack(">HBB3I", 0, 8, 3, *shape) + bytes(1 << 26)
    path.write_bytes(gzip.compress(content, 1) if compressed else content)
    message = "for its shape .*, not more" if shape[0] == 12 else "at most 1,073,741,824 bytes"
    tracemalloc.start()
    try:
        expect("fashion_mnist", folder, message)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(0, 28, 28), (12, 0, 28)])
def test_an_idx_file_of_no_pixels_is_refused(expect, fashion, shape):
    folder, compressed = fashion
    images = np.zeros(shape, np.uint8)
    write_idx(folder, image_sets.IDX_FILES["train_inputs"], images, compressed)
    labels = np.zeros(len(images), np.uint8)
    write_idx(folder, image_sets.IDX_FILES["train_labels"], labels, compressed)
    expect("fashion_mnist", folder, "at least one sample|the shape of the training inputs")


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
    varies = np.ptp(images, (0, 2, 3)) > 0
    assert std == pytest.approx(np.where(varies, images.std((0, 2, 3)) / 255, 1.0))


def test_a_channel_of_one_value_has_deviation_1():
    assert statistics(np.full((1, 1, 1, 5), 31, np.uint8))[1] == [1.0]


def test_statistics_of_more_images_than_one_piece():
    images = random_image(3, 2500 * 2, 4, 1).reshape(2500, 2, 2, 2)
    mean, std = statistics(images)
    assert mean == pytest.approx(images.mean((0, 2, 3)) / 255)
    assert std == pytest.approx(images.std((0, 2, 3)) / 255)
