"""Downloads from a real HTTP server on this machine, with the faults that servers have."""

from __future__ import annotations

import hashlib
import itertools
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from multispike.datasets import download
from multispike.datasets.download import fetch
from multispike.errors import InputError, RunError

CONTENT = bytes(range(256)) * 4000  # about 1 MB, several chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content`; `cut` (or one of `cuts`) bytes at most per response, ranges if `ranges`."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.cut: int | None = None
        self.cuts: Iterator[int] | None = None
        self.ranges = True
        self.announced = True
        self.statuses: list[int] = []
        self.requests: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/set.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.requests.append(asked)
        if len(server.requests) > 20:
            self.send_error(410)  # what asks on and on is told at once
            return
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and server.ranges else 0
        total = len(server.content)
        if start >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if server.announced:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: next(server.cuts) if server.cuts else server.cut])
        self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.0)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "data" / "set.tar.gz"


@pytest.fixture
def partial(target):
    target.parent.mkdir()
    return target.with_name("set.tar.gz.part")


def test_a_whole_file_is_fetched_once(server, target):
    assert fetch(server.url, target, sha256=SHA256) == target
    assert target.read_bytes() == CONTENT
    fetch(server.url, target, sha256=SHA256)
    assert server.requests == [None]
    assert not target.with_name("set.tar.gz.part").exists()


def test_a_server_that_announces_no_length(server, target):
    server.announced = False
    fetch(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT


def test_a_partial_file_is_continued(server, target, partial):
    partial.write_bytes(CONTENT[:300_000])
    fetch(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert server.requests == ["bytes=300000-"]


def test_a_server_without_ranges_starts_anew(server, target, partial):
    server.ranges = False
    partial.write_bytes(b"x" * 300_000)
    fetch(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT


def test_a_cut_connection_is_continued(server, target):
    server.cut = 400_000
    fetch(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert server.requests == [None, "bytes=400000-", "bytes=800000-"]


def test_a_connection_that_never_gets_further_is_given_up(server, target):
    server.cut, server.ranges = 400_000, False
    with pytest.raises(RunError, match=r"failed after 400000 bytes .*\.part is kept") as raised:
        fetch(server.url, target, sha256=SHA256)
    assert "\n" not in str(raised.value)
    assert not target.exists()
    assert target.with_name("set.tar.gz.part").read_bytes() == CONTENT[:400_000]
    # The next call goes on from there.
    server.cut, server.ranges = None, True
    fetch(server.url, target, sha256=SHA256)
    assert server.requests[-1] == "bytes=400000-"
    assert target.read_bytes() == CONTENT


def test_a_server_that_starts_anew_and_breaks_off_here_and_there_is_given_up(server, target):
    server.ranges = False
    server.cuts = itertools.cycle([500_000, 300_000])
    with pytest.raises(RunError, match=r"failed after \d+ bytes"):
        fetch(server.url, target, sha256=SHA256)
    assert len(server.requests) == 1 + download.PATIENCE


def test_a_partial_file_that_is_whole_already(server, target, partial):
    partial.write_bytes(CONTENT)
    fetch(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT


def test_a_partial_file_longer_than_the_original_is_dropped(server, target, partial):
    partial.write_bytes(CONTENT + b"more")
    fetch(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("resumed", [False, True])
def test_wrong_bytes_are_removed_and_told(server, target, partial, resumed):
    if resumed:
        partial.write_bytes(b"x" * 300_000)
    else:
        server.content = CONTENT[:-1] + b"?"
    with pytest.raises(InputError, match=f"SHA-256 .* allowed: {SHA256}; the partial") as raised:
        fetch(server.url, target, sha256=SHA256)
    assert "\n" not in str(raised.value)
    assert server.url in str(raised.value)
    assert not target.exists()
    assert not partial.exists()


def test_a_busy_server_is_asked_again(server, target):
    server.statuses = [503, 500]
    fetch(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT


def test_a_missing_file_is_told_at_once(server, target):
    server.statuses = [404]
    with pytest.raises(RunError, match="HTTP 404 Not Found"):
        fetch(server.url, target, sha256=SHA256)
    assert server.requests == [None]


def test_no_server_at_all(server, target):
    url = server.url.replace(str(server.server_address[1]), "1")
    with pytest.raises(RunError, match=r"failed after 0 bytes .*refused"):
        fetch(url, target, sha256=SHA256)


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"download folder: got .*a writable folder"):
        fetch(server.url, tmp_path / "file" / "set.tar.gz", sha256=SHA256)


def test_threads_that_fetch_at_once_fetch_once(server, target):
    threads = [
        threading.Thread(target=fetch, args=(server.url, target), kwargs={"sha256": SHA256})
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == CONTENT
    assert server.requests == [None]
