"""Downloads from a real HTTP server on this machine, with the faults that servers have."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from multispike.datasets.source_files import fetch
from multispike.errors import InputError, RunError

CONTENT = bytes(range(256)) * 4000  # about 1 MB, several chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content`; of the first responses, as many bytes as `cuts` say, one each."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.cuts: list[int] = []
        self.announced = True
        self.statuses: list[int] = []
        self.requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/set.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server = self.server
        server.requests += 1
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        self.send_response(200)
        if server.announced:
            self.send_header("Content-Length", str(len(server.content)))
        self.end_headers()
        self.wfile.write(server.content[: server.cuts.pop(0) if server.cuts else None])
        self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "data" / "set.tar.gz"


def left_in(folder) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.endswith(".lock")]


def test_a_whole_file_is_fetched_once(server, target):
    assert fetch(server.url, target, sha256=SHA256) == target
    assert target.read_bytes() == CONTENT
    fetch(server.url, target, sha256=SHA256)
    assert server.requests == 1
    assert left_in(target.parent) == [target.name]


def test_a_server_that_announces_no_length(server, target):
    server.announced = False
    fetch(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT


def test_a_cut_connection_is_tried_again(server, target):
    server.cuts = [400_000, 700_000]
    fetch(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert server.requests == 3


def test_a_connection_that_is_always_cut_is_given_up(server, target):
    server.cuts = [400_000] * 3
    with pytest.raises(RunError, match=r"download of http.* failed: ") as raised:
        fetch(server.url, target, sha256=SHA256)
    assert "\n" not in str(raised.value)
    assert left_in(target.parent) == []
    fetch(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT


def test_wrong_bytes_are_removed_and_told(server, target):
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(InputError, match=f"SHA-256 .* allowed: {SHA256}; the partial") as raised:
        fetch(server.url, target, sha256=SHA256)
    assert "\n" not in str(raised.value)
    assert server.url in str(raised.value)
    assert hashlib.sha256(server.content).hexdigest() in str(raised.value)
    assert left_in(target.parent) == []


def test_a_busy_server_is_asked_again(server, target):
    server.statuses = [503, 500]
    fetch(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT


def test_a_missing_file_is_told(server, target):
    server.statuses = [404] * 3
    with pytest.raises(RunError, match="404 Client Error: Not Found"):
        fetch(server.url, target, sha256=SHA256)


def test_no_server_at_all(server, target):
    url = server.url.replace(str(server.server_address[1]), "1")
    with pytest.raises(RunError, match=r"download of http.* failed: .*refused"):
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
    assert server.requests == 1
