"""Files are whole or absent; links, pipes and devices stay what they are."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from multispike.errors import InputError
from multispike.files import read_yaml, replacing, write_json, write_text


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "x").write_text("old")

    def fail() -> None:
        with replacing(tmp_path / "x") as temporary:
            temporary.write_text("half")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught:
        write_text("/dev/full", "x")
    assert caught.value.filename == "/dev/full"

    def fill() -> None:
        with replacing(tmp_path / "x"), open("/dev/full", "w", buffering=1) as stream:
            stream.write("x\n")

    with pytest.raises(OSError, match="No space left") as caught:
        fill()
    assert caught.value.filename == str(tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("there", [True, False])
def test_of_a_link_the_file_behind_it_is_replaced(tmp_path, there):
    (tmp_path / "folder").mkdir()
    if there:
        (tmp_path / "folder" / "x").write_text("old")
    (tmp_path / "link").symlink_to("folder/x")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "x").read_text() == "new"


def test_a_pipe_gets_what_is_written(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit((tmp_path / "pipe").read_text)
        write_json(tmp_path / "pipe", {"a": 1})
        assert read.result(timeout=60) == '{\n  "a": 1\n}\n'
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_device_stays_one(tmp_path):
    (tmp_path / "null").symlink_to(os.devnull)
    write_json(tmp_path / "null", [1])
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


BOMB = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a0: &a0 [x]\n" + BOMB, "not a YAML file: an alias in what has a name, line 2"),
        ("a: " + "[" * 100 + "]" * 100, "not a YAML file: more than 20 levels, line 1"),
        ("a: [", "not a YAML file: "),
        ("- 1", "allowed: a mapping of settings"),
        ("", "allowed: a mapping of settings"),
    ],
)
def test_yaml_that_explodes_or_is_none_is_refused(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        read_yaml("config", tmp_path / "a.yaml")
    assert str(error.value).startswith(f"config: got '{tmp_path}/a.yaml', {message}")
    assert "\n" not in str(error.value)


def test_yaml_may_say_a_thing_once(tmp_path):
    """As PyYAML itself writes equal objects."""
    (tmp_path / "a.yaml").write_text("a: &one {x: 1}\nb: *one\n")
    assert read_yaml("config", tmp_path / "a.yaml") == {"a": {"x": 1}, "b": {"x": 1}}


@pytest.mark.parametrize(
    "line", ["epochs: " + "9" * 6000, "epochs: 0x" + "f" * 6000, "epochs: 2024-13-45"]
)
def test_yaml_that_python_can_not_hold_is_refused(line, tmp_path):
    (tmp_path / "a.yaml").write_text(line)
    with pytest.raises(InputError, match=r"^config: got '.*a\.yaml', not a YAML file: "):
        read_yaml("config", tmp_path / "a.yaml")
