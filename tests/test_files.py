"""Files are whole or absent; links, pipes and devices stay what they are."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from multispike.files import replacing, write_json, write_text


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
