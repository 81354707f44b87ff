"""The cache: never stale, never half-built, never needed."""

from __future__ import annotations

import logging
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from multispike.datasets import cache as cache_module
from multispike.datasets.cache import Cache
from multispike.errors import InputError


class Decoder:
    """A builder that copies the bytes of a file and counts how often it had to."""

    def __init__(self, source):
        self.source = source
        self.calls = 0

    def __call__(self, allocate):
        self.calls += 1
        content = self.source.read_bytes()
        allocate("pixels", (len(content),), np.uint8)[:] = np.frombuffer(content, np.uint8)
        return {"classes": ["a", "b"]}


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.bin"
    path.write_bytes(b"first content")
    return path


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def settled(monkeypatch):
    """Let files count as settled at once, so that their hashes are remembered."""
    monkeypatch.setattr(cache_module, "SETTLED_NS", 0)


def fetch(folder, source, decoder=None, *, version=1, **options):
    """The decoded content; `decoder` tells afterwards whether it came from the cache."""
    decoder = decoder or Decoder(source)
    arrays, meta = Cache(folder).fetch("set", [source], decoder, version=version, options=options)
    assert meta == {"classes": ["a", "b"]}
    return arrays["pixels"].tobytes()


def entries(folder):
    return [path for path in folder.iterdir() if path.name.startswith("set-")]


def test_decoded_once(folder, source):
    decoder = Decoder(source)
    assert fetch(folder, source, decoder) == fetch(folder, source, decoder) == b"first content"
    assert decoder.calls == 1
    assert len(entries(folder)) == 1


def test_writing_to_the_arrays_changes_no_file(folder, source):
    arrays, _ = Cache(folder).fetch("set", [source], Decoder(source), version=1, options={})
    arrays["pixels"][:] = 0
    assert fetch(folder, source) == b"first content"


@pytest.mark.usefixtures("settled")
def test_an_unchanged_source_is_not_hashed_again(folder, source, monkeypatch):
    time.sleep(0.01)
    fetch(folder, source)

    def refuse(path):
        raise AssertionError(f"{path} was hashed again")

    monkeypatch.setattr(cache_module, "sha256", refuse)
    assert fetch(folder, source) == b"first content"


@pytest.mark.usefixtures("settled")
def test_same_size_and_restored_times_are_seen_through(folder, source):
    time.sleep(0.01)
    status = source.stat()
    assert fetch(folder, source) == b"first content"
    time.sleep(0.05)  # more than a tick of the file system's clock
    source.write_bytes(b"other content")
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert source.stat().st_mtime_ns == status.st_mtime_ns
    assert fetch(folder, source) == b"other content"


def test_a_change_within_a_tick_of_the_clock_is_seen(folder, source):
    for round_number in range(20):
        content = b"content %05d" % round_number
        source.write_bytes(content)
        assert fetch(folder, source) == content


@pytest.mark.usefixtures("settled")
def test_a_replaced_source_is_seen(folder, source, tmp_path):
    time.sleep(0.01)
    fetch(folder, source)
    other = tmp_path / "other.bin"
    other.write_bytes(b"other content")
    os.utime(other, ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns))
    os.replace(other, source)
    assert fetch(folder, source) == b"other content"


def test_content_decides_not_the_place(folder, source, tmp_path):
    fetch(folder, source)
    moved = tmp_path / "elsewhere" / "source.bin"
    moved.parent.mkdir()
    source.rename(moved)
    decoder = Decoder(moved)
    assert fetch(folder, moved, decoder) == b"first content"
    assert decoder.calls == 0


def test_version_and_options_are_part_of_the_key(folder, source):
    decoder = Decoder(source)
    fetch(folder, source, decoder)
    fetch(folder, source, decoder, version=2)
    fetch(folder, source, decoder, size=32)
    fetch(folder, source, decoder, size=32)
    assert decoder.calls == 3


def test_a_source_that_changes_while_it_is_read_is_refused(folder, source):
    def build(allocate):
        meta = Decoder(source)(allocate)
        source.write_bytes(b"written meanwhile")
        return meta

    with pytest.raises(InputError, match=r"source of set: got .*source\.bin.* do not change"):
        fetch(folder, source, build)
    assert entries(folder) == []


def test_a_missing_source_is_named(folder, tmp_path):
    with pytest.raises(InputError, match=r"data file: got .*nothing\.bin.*No such file"):
        fetch(folder, tmp_path / "nothing.bin")


def test_a_failed_build_leaves_nothing_behind(folder, source):
    def build(allocate):
        allocate("pixels", (10,), np.uint8)
        raise InputError("damaged")

    with pytest.raises(InputError, match="damaged"):
        fetch(folder, source, build)
    assert not [path for path in folder.iterdir() if path.is_dir()]
    assert fetch(folder, source) == b"first content"


@pytest.mark.parametrize("damage", ["truncated", "missing array", "no meta", "meta"])
def test_a_damaged_entry_is_built_again(folder, source, damage, caplog):
    fetch(folder, source)
    (entry,) = entries(folder)
    if damage == "truncated":
        os.truncate(entry / "pixels.npy", 100)
    elif damage == "missing array":
        (entry / "pixels.npy").unlink()
    elif damage == "no meta":
        (entry / "meta.json").unlink()
    else:
        (entry / "meta.json").write_text('{"classes": ')
    decoder = Decoder(source)
    assert fetch(folder, source, decoder) == b"first content"
    assert decoder.calls == 1
    (record,) = caplog.records
    assert record.getMessage() == f"cache: {entry} is damaged: decoding again"
    assert fetch(folder, source, decoder) == b"first content"
    assert decoder.calls == 1


def test_a_damaged_memo_is_no_harm(folder, source, monkeypatch):
    monkeypatch.setattr(cache_module, "SETTLED_NS", 0)
    time.sleep(0.01)
    fetch(folder, source)
    (memo,) = (folder / "sources").iterdir()
    memo.write_text("[")
    assert fetch(folder, source) == b"first content"


def test_an_unwritable_cache_costs_one_line(tmp_path, source, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        assert fetch(blocked / "cache", source) == b"first content"
    (record,) = caplog.records
    assert "can't be written" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_a_full_disk_costs_one_line(folder, source, caplog):
    source.write_bytes(bytes(range(256)) * 400)
    folder.mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        content = fetch(folder, source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert content == source.read_bytes()
    (record,) = caplog.records
    assert "can't be written" in record.getMessage()
    assert entries(folder) == []


BUILD = """
import os, signal, sys, time
import numpy as np
from pathlib import Path
from multispike.datasets.cache import Cache

folder, source, mode = sys.argv[1:]

def build(allocate):
    pixels = allocate("pixels", (13,), np.uint8)
    pixels[:5] = 1
    print("building", flush=True)
    if mode == "hang":
        time.sleep(60)
    time.sleep(0.3)
    pixels[:] = np.frombuffer(Path(source).read_bytes(), np.uint8)
    return {"classes": ["a", "b"]}

arrays, _ = Cache(folder).fetch("set", [Path(source)], build, version=1, options={})
print("content", arrays["pixels"].tobytes().decode(), flush=True)
"""


def start(folder, source, mode):
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(folder), str(source), mode],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_build_is_not_mistaken_for_a_whole_one(folder, source):
    process = start(folder, source, "hang")
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert [path for path in folder.iterdir() if path.is_dir()], "it left its unfinished folder"
    assert entries(folder) == []
    decoder = Decoder(source)
    assert fetch(folder, source, decoder) == b"first content"
    assert decoder.calls == 1
    folders = {path.name for path in folder.iterdir() if path.is_dir()}
    assert folders - {"sources"} == {entries(folder)[0].name}  # "sources": remembered hashes


def test_processes_that_build_at_once_share_one_build(folder, source):
    processes = [start(folder, source, "run") for _ in range(3)]
    outputs = [process.communicate(timeout=60)[0].splitlines() for process in processes]
    assert [output[-1] for output in outputs] == ["content first content"] * 3
    assert sum("building" in output for output in outputs) == 1
    assert len(entries(folder)) == 1


def test_the_default_place_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MULTISPIKE_CACHE", str(tmp_path))
    assert Cache().folder == tmp_path
    monkeypatch.delenv("MULTISPIKE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Cache().folder == tmp_path / ".cache" / "multispike"
