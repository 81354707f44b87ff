"""CIFAR from parquet, from the official archive (made small here), and from a download."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import http.server
import io
import os
import pickle
import struct
import tarfile
import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from processes import started

from multispike.datasets import image_sets, load_dataset
from multispike.datasets.source_files import unpickle
from multispike.errors import InputError


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 wrote, as in the official files: byte strings as its `str`."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_str(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_str

    def save_global(self, obj, name=None):
        module = "numpy" if obj in (np.ndarray, np.dtype) else "numpy.core.multiarray"
        self.write(pickle.GLOBAL + f"{module}\n{obj.__name__}\n".encode())
        self.memoize(obj)


def python2_pickle(value) -> bytes:
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(value)
    return stream.getvalue()


def random_images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def official(name: str) -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    """The official pickles with 4 images each; all training images and labels, in order."""
    release = image_sets.RELEASES[name]
    files: dict[str, bytes] = {}
    images, labels = [], []
    for seed, file in enumerate((*release.train, *release.test)):
        pixels = random_images(4, seed)
        some = np.random.default_rng(seed).integers(0, release.classes, 4)
        batch = {b"data": pixels.reshape(4, -1), release.label_key: [int(each) for each in some]}
        files[file] = python2_pickle(batch)
        if file in release.train:
            images.append(pixels)
            labels.append(some)
    names = [f"class {number}".encode() for number in range(release.classes)]
    files[release.meta] = python2_pickle({release.names_key: names})
    return files, np.concatenate(images), np.concatenate(labels)


def archive_of(name: str, files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for file, content in files.items():
            member = tarfile.TarInfo(f"{image_sets.RELEASES[name].folder}/{file}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def encoded(image: np.ndarray, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(stream, kind, **options)
    return stream.getvalue()


def write_parquet(path: Path, pictures: list[bytes | None], labels, column="label", names=None):
    table = pa.table(
        {
            "img": pa.array(
                [{"bytes": picture, "path": f"{row}"} for row, picture in enumerate(pictures)],
                type=pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
            ),
            column: labels,
        }
    )
    if names:
        table = table.replace_schema_metadata({"class_names": "\n".join(names)})
    pq.write_table(table, path, compression="none", write_page_checksum=True)


@pytest.fixture
def parquet(tmp_path):
    """A small CIFAR-10 as parquet; the folder."""
    folder = tmp_path / "parquet"
    folder.mkdir()
    names = [f"name {number}" for number in range(10)]
    for half, seed in (("train", 0), ("test", 1)):
        pictures = [encoded(image) for image in random_images(12, seed)]
        write_parquet(folder / f"{half}.parquet", pictures, [*range(10), 3, 4], names=names)
    return folder


@pytest.fixture
def load(tmp_path):
    def load(name: str, folder: Path | None, **options):
        return load_dataset(name, folder, cache_dir=tmp_path / "cache", **options)

    return load


def expect(load, name, folder, line, **options):
    """Loading fails with one line, leaves no entry, and fails again in the same way."""
    for _ in range(2):
        with pytest.raises(InputError, match=line) as raised:
            load(name, folder, **options)
        assert "\n" not in str(raised.value)


def test_parquet_is_read_exactly_and_then_from_the_cache(load, parquet):
    for _ in range(2):
        found = load("cifar10", parquet)
        assert found.train.inputs.numpy().tobytes() == random_images(12, 0).tobytes()
        assert found.test.inputs.numpy().tobytes() == random_images(12, 1).tobytes()
        assert found.train.labels.tolist() == [*range(10), 3, 4]
        assert found.classes == tuple(f"name {number}" for number in range(10))
        pixels = random_images(12, 0) / 255
        assert found.mean == pytest.approx(pixels.mean((0, 2, 3)))
        assert found.std == pytest.approx(pixels.std((0, 2, 3)))


@pytest.mark.parametrize("kind", [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {})])
def test_any_lossless_format_will_do(load, tmp_path, kind):
    for half in ("train", "test"):
        pictures = [encoded(image, kind[0], **kind[1]) for image in random_images(3)]
        write_parquet(tmp_path / f"{half}.parquet", pictures, [99, 0, 1], "fine_label")
    found = load("cifar100", tmp_path)
    assert found.train.inputs.numpy().tobytes() == random_images(3).tobytes()
    assert found.num_classes == 100  # without names in the file, numbers stand for them


def test_new_content_is_never_served_from_the_old_entry(load, parquet):
    load("cifar10", parquet)
    pictures = [encoded(image) for image in random_images(12, 5)]
    write_parquet(parquet / "train.parquet", pictures, [*range(10), 3, 4])
    found = load("cifar10", parquet)
    assert found.train.inputs.numpy().tobytes() == random_images(12, 5).tobytes()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("form", ["archive", "archive itself", "unpacked", "unpacked itself"])
def test_the_official_files_in_every_form(load, tmp_path, name, form):
    files, images, labels = official(name)
    release = image_sets.RELEASES[name]
    place = tmp_path
    if form.startswith("archive"):
        (tmp_path / release.archive).write_bytes(archive_of(name, files))
        place = tmp_path / release.archive if form == "archive itself" else tmp_path
    else:
        (tmp_path / release.folder).mkdir()
        for file, content in files.items():
            (tmp_path / release.folder / file).write_bytes(content)
        place = tmp_path / release.folder if form == "unpacked itself" else tmp_path
    found = load(name, place)
    assert found.train.inputs.numpy().tobytes() == images.tobytes()
    assert found.train.labels.tolist() == labels.tolist()
    assert len(found.test) == 4
    assert found.classes == tuple(f"class {number}" for number in range(release.classes))


def test_a_missing_source_says_what_is_looked_for(load, tmp_path):
    line = r"data_dir: got .*nowhere.*train\.parquet and test\.parquet.*cifar-10-python\.tar\.gz"
    expect(load, "cifar10", tmp_path / "nowhere", line)
    expect(load, "cifar10", None, r"data_dir: got None.*download=True")


def test_one_parquet_file_is_not_enough(load, parquet):
    (parquet / "test.parquet").unlink()
    expect(load, "cifar10", parquet, r"train\.parquet and test\.parquet.*none of them whole")


@pytest.mark.parametrize("keep", [0, 3, 100, 0.5, 0.99])
def test_a_truncated_parquet_file_is_named(load, parquet, keep):
    path = parquet / "test.parquet"
    size = path.stat().st_size
    os.truncate(path, keep if isinstance(keep, int) else int(size * keep))
    expect(load, "cifar10", parquet, r"data file: got .*test\.parquet.* a whole parquet file")


def test_a_flipped_byte_in_a_page_is_noticed(load, parquet):
    path = parquet / "train.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    expect(load, "cifar10", parquet, r"data file: got .*train\.parquet.*CRC")


def test_the_parquet_of_the_other_set_is_refused(load, parquet):
    expect(load, "cifar100", parquet, r"train\.parquet.* columns img: .* and fine_label: integer")


@pytest.mark.parametrize(
    ("picture", "line"),
    [
        (b"no image", r"image: got '.*train\.parquet row 2', .*readable image \(unknown format\)"),
        (None, r"image: got '.*train\.parquet row 2', .*unknown format"),
        (encoded(random_images(1)[0])[:-900], r"image: got '.*train\.parquet row 2', .*truncated"),
        (
            encoded(np.zeros((3, 16, 16), np.uint8)),
            r"image: got '.*train\.parquet row 2 of 16x16', allowed: 32x32",
        ),
    ],
)
def test_a_damaged_image_is_named_by_its_row(load, parquet, picture, line):
    pictures: list[bytes | None] = [encoded(image) for image in random_images(4)]
    pictures[2] = picture
    write_parquet(parquet / "train.parquet", pictures, [0, 1, 2, 3])
    expect(load, "cifar10", parquet, line)


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        ([0, 10], r"labels of the train split of cifar10: got 10, .* 0 to 9"),
        ([-1, 0], "labels of the train split of cifar10: got -1"),
        (["a", "b"], r"columns img: .* and label: integer"),
        (pa.array([1, None]), r"data file: got .*train\.parquet"),
    ],
)
def test_bad_labels_are_refused(load, parquet, labels, line):
    pictures = [encoded(image) for image in random_images(2)]
    write_parquet(parquet / "train.parquet", pictures, labels)
    expect(load, "cifar10", parquet, line)


def test_a_parquet_file_of_no_rows_is_refused(load, parquet):
    write_parquet(parquet / "train.parquet", [], pa.array([], pa.int64()))
    expect(
        load, "cifar10", parquet, r"train split of cifar10: got \[0, 3, 32, 32\], .*at least one"
    )


@pytest.mark.parametrize("name", [b"label", b"bytes", b"img", b"ARROW:schema", b"path"])
def test_names_that_are_no_text_are_one_line(load, parquet, name):
    path = parquet / "train.parquet"
    content = path.read_bytes()
    path.write_bytes(content.replace(name, name[:1] + b"\xff" + name[2:]))
    if name == b"ARROW:schema":  # not needed
        assert len(load("cifar10", parquet).train) == 12
    else:
        expect(load, "cifar10", parquet, r"data file: got '.*train\.parquet', allowed: ")


def test_names_of_classes_that_are_no_text_are_read(load, parquet):
    path = parquet / "train.parquet"
    path.write_bytes(path.read_bytes().replace(b"name 3", b"n\xffme 3"))
    assert load("cifar10", parquet).classes[2:5] == ("name 2", "n\ufffdme 3", "name 4")


def parquet_bomb(kind: str) -> tuple[pa.Array, dict, str]:
    """A column of images that decodes to far more than its file has."""
    record = pa.struct([("bytes", pa.binary())])
    if kind == "lists":
        cells = [[{"bytes": b""}] * 1000] * 1000
        return pa.array(cells, type=pa.list_(record)), {}, r"columns img: \{bytes, path\}"
    if kind == "dictionary":
        values = pa.DictionaryArray.from_arrays(pa.array([0] * 2000), [bytes(900_000)])
        return pa.StructArray.from_arrays([values], ["bytes"]), {}, "2000 damaged files: .*unknown"
    values = [b""] * 400_000 if kind == "rows" else [bytes(1 << 21)] * 9
    line = r"at most 16,777,216 bytes of images, not 1[,\d]+ of (9|400,000) images"
    cells = [{"bytes": value} for value in values]
    return pa.array(cells, type=record), {"use_dictionary": False}, line


@pytest.mark.parametrize("kind", ["dictionary", "zeros", "rows", "lists"])
def test_parquet_that_decodes_to_gigabytes_is_refused(load, parquet, kind, monkeypatch):
    """By what it says of itself; a value that a dictionary repeats is held once."""
    images, options, line = parquet_bomb(kind)
    table = pa.table({"img": images, "label": pa.array([0] * len(images))})
    path = parquet / "train.parquet"
    pq.write_table(table, path, compression="zstd", store_schema=False, **options)
    assert path.stat().st_size < 200_000
    monkeypatch.setattr(image_sets, "LARGEST", 1 << 24)
    with pytest.raises(InputError, match=line):
        load("cifar10", parquet)
    if kind == "dictionary":
        assert image_sets._parquet_table(path, "label").nbytes < 1_000_000


def test_an_archive_that_announces_gigabytes_is_refused(load, tmp_path):
    member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    member.size = 1 << 33
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(gzip.compress(member.tobuf() + bytes(1 << 20)))
    expect(load, "cifar10", tmp_path, r"data_batch_1 has 8,589,934,592 bytes")


@pytest.mark.parametrize("keep", [0, 10, 0.3, 0.999])
def test_a_truncated_archive_is_named(load, tmp_path, keep):
    content = archive_of("cifar10", official("cifar10")[0])
    content = content[: keep if isinstance(keep, int) else int(len(content) * keep)]
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(content)
    expect(load, "cifar10", tmp_path, r"data file: got .*cifar-10-python\.tar\.gz.* a whole \.tar")


def test_a_damaged_archive_is_named(load, tmp_path):
    files, _, _ = official("cifar10")
    plain = io.BytesIO(gzip.decompress(archive_of("cifar10", files)))
    stored = bytearray(gzip.compress(plain.getvalue(), compresslevel=0))
    stored[5000] ^= 0xFF  # inside the stored pixels: only gzip's checksum at the end tells
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(stored)
    expect(load, "cifar10", tmp_path, "CRC check failed")


def test_an_archive_without_all_files_is_refused(load, tmp_path):
    files, _, _ = official("cifar10")
    del files["data_batch_4"]
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(archive_of("cifar10", files))
    expect(load, "cifar10", tmp_path, "an archive that holds data_batch_4")


@pytest.mark.parametrize(
    "batch",
    [
        {b"data": np.zeros((2, 3072), np.uint8)},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 1.5]},
        {b"data": np.zeros((2, 3071), np.uint8), b"labels": [1, 2]},
        {b"data": [0] * 3072, b"labels": [1]},
    ],
)
def test_a_pickle_that_is_no_batch_is_refused(load, tmp_path, batch):
    files, _, _ = official("cifar10")
    files["data_batch_2"] = python2_pickle(batch)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(archive_of("cifar10", files))
    expect(load, "cifar10", tmp_path, r"tar\.gz/data_batch_2', allowed: a CIFAR batch")


class Attack:
    """Pickled, it runs a command that leaves a mark."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_malicious_pickle_is_refused(load, tmp_path, protocol):
    mark = tmp_path / "mark"
    files, _, _ = official("cifar10")
    attack = pickle.dumps({"data": Attack(os.system, f"touch {mark}")}, protocol=protocol)
    pickle.loads(attack)  # it is one
    assert mark.exists()
    mark.unlink()
    files["data_batch_1"] = attack
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(archive_of("cifar10", files))
    expect(load, "cifar10", tmp_path, r"data_batch_1', .*asks for \w+\.system")
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Attack(eval, "1")),
        pickle.dumps(Attack(getattr, "text", "join")),
        pickle.dumps(Attack(np.load, "file")),
        b"cnumpy\nndarray.tofile\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        b"",
        b"\x80\x04",
        pickle.dumps([1, 2]),
    ],
)
def test_only_dictionaries_of_arrays_are_unpickled(content):
    with pytest.raises(InputError, match="data file: got 'it'"):
        unpickle(content, "it")


@pytest.mark.parametrize("kind", [np.int64, np.float32, "O", "S1", "?"])
def test_arrays_of_anything_but_bytes_are_refused(kind):
    content = python2_pickle({b"data": np.zeros((2, 3072), kind)})
    with pytest.raises(InputError, match=r"data file: got 'it', .*nothing but uint8 arrays"):
        unpickle(content, "it")


FORGED = b"cnumpy\nndarray\n((K\x01tcnumpy\ndtype\n(X\x01\x00\x00\x00OtRC\x08AAAAAAAAtR"
"""An array of objects whose one pointer comes from the file: `ndarray((1,), "O", b"AAAAAAAA")`."""


@pytest.mark.parametrize(
    "use",
    [
        FORGED,
        b"cnumpy\nndarray\n(" + FORGED + b"tR",  # as a shape: its object is looked at
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
        b"(K\x01(K\x01tcnumpy\ndtype\n(X\x01\x00\x00\x00OtR\x89C\x08AAAAAAAAtb",
    ],
)
def test_a_pickle_can_not_forge_pointers(use):
    """In a process of its own, which a pointer from the file would kill."""
    process = started(refused, b"\x80\x03}X\x01\x00\x00\x00a" + use + b"s.")
    process.join()
    assert process.exitcode == 0


def refused(content: bytes) -> None:
    with pytest.raises(InputError, match=r"^data file: got 'it', allowed: a whole pickle"):
        repr(unpickle(content, "it"))


def test_what_a_pickle_names_has_no_power():
    """Neither numpy's functions nor anything that outlives the pickle."""
    attribute = b"}X\x01\x00\x00\x00aK\x01sb"  # set attribute a
    for name in (b"numpy\ndtype", b"numpy.core.multiarray\n_reconstruct"):
        content = b"\x80\x03}K\x00c" + name + b"\n%bs."
        stand_in = unpickle(content % attribute, "it")[0]
        assert stand_in.a == 1
        again = unpickle(content % b"", "it")[0]
        assert not hasattr(again, "a")
        assert not (again.__module__ or "").startswith("numpy")


@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_pickled_by_todays_numpy_are_read(protocol):
    pixels = random_images(1)
    if protocol == 2:
        content = python2_pickle({b"data": pixels})
    else:
        content = pickle.dumps({b"data": pixels}, protocol=protocol)
    assert np.array_equal(unpickle(content, "it")[b"data"], pixels)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A server with a small official archive whose checksum is the known one."""
    content = archive_of("cifar10", official("cifar10")[0])
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "cifar-10-python.tar.gz").write_bytes(content)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *arguments):
            pass

    known = dataclasses.replace(
        image_sets.RELEASES["cifar10"], sha256=hashlib.sha256(content).hexdigest()
    )
    monkeypatch.setitem(image_sets.RELEASES, "cifar10", known)
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(image_sets, "OFFICIAL", f"http://127.0.0.1:{server.server_address[1]}/")
        yield folder
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("named", [True, False])
def test_download_fetches_verifies_and_loads(load, tmp_path, mirror, named):
    folder = tmp_path / "data" if named else None
    found = load("cifar10", folder, download=True)
    assert found.train.inputs.numpy().tobytes() == official("cifar10")[1].tobytes()
    place = folder or tmp_path / "cache" / "downloads"
    assert (place / "cifar-10-python.tar.gz").exists()
    (mirror / "cifar-10-python.tar.gz").unlink()
    assert torch.equal(load("cifar10", folder).train.inputs, found.train.inputs)


def test_a_download_with_a_wrong_checksum_is_removed(load, tmp_path, mirror):
    with open(mirror / "cifar-10-python.tar.gz", "ab") as stream:
        stream.write(b"?")
    expect(load, "cifar10", tmp_path / "data", "SHA-256 of the download is", download=True)
    assert [path.name for path in (tmp_path / "data").iterdir() if path.name[0] != "."] == []


def test_the_complete_cifar10(shared_data):
    found = load_dataset("cifar10", shared_data / "cifar10")
    assert found.train.inputs.shape == (50_000, 3, 32, 32)
    assert found.train.labels.bincount().tolist() == [5_000] * 10
    assert found.test.labels.bincount().tolist() == [1_000] * 10
    # The figures that everybody uses, to their last digit.
    assert found.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=5e-5)
    assert found.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=5e-5)
    assert found.classes[0] == "airplane"
