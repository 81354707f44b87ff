"""Fetch one file over HTTP: resumed where it broke off, kept only if its checksum is right."""

from __future__ import annotations

import http.client
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock
from rich.progress import Progress, TaskID

from multispike.errors import InputError, RunError, invalid
from multispike.files import sha256 as sha256_of
from multispike.progress import progress_bar

PATIENCE = 3
"""Attempts in a row that may get no further than all before, until the download is given up."""

PAUSE_SECONDS = 1.0
TIMEOUT_SECONDS = 30.0
CHUNK = 1 << 18


class _BrokenOff(Exception):
    """The connection gave less than it promised, or nothing at all; trying again may help."""


def fetch(url: str, target: Path, *, sha256: str, progress: bool = True) -> Path:
    """Download `url` to `target`, unless it is there already, and return `target`.

    What has arrived is kept as `NAME.part` beside it. A later attempt, in this call or the next,
    asks the server for the rest only. Processes that fetch the same file wait for each other.

    sha256: hexadecimal SHA-256 of the whole file.

    Raises `InputError` if the content has another checksum (then the partial file is removed) or
    the folder can't be written, and `RunError` if the server can't be reached or breaks off.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f".{target.name}.lock"))
        with lock:
            if not target.exists():
                partial = target.with_name(f"{target.name}.part")
                _download(url, partial, progress)
                _verify(url, partial, sha256)
                os.replace(partial, target)
    except OSError as error:
        raise invalid(
            "download folder", str(target.parent), f"a writable folder ({error.strerror or error})"
        ) from None
    return target


def _verify(url: str, partial: Path, expected: str) -> None:
    found = sha256_of(partial)
    if found != expected:
        partial.unlink()
        raise InputError(
            f"{url}: SHA-256 of the download is {found}, allowed: {expected};"
            " the partial file was removed"
        )


def _download(url: str, partial: Path, progress: bool) -> None:
    """Bring `partial` to its full length."""
    with progress_bar(progress, bytes=True) as bar, open(partial, "ab") as stream:
        task = bar.add_task(url.rsplit("/", 1)[-1], total=None)
        fruitless, furthest = 0, stream.tell()
        while True:
            try:
                _receive(url, stream, bar, task)
                break
            except _BrokenOff as error:
                # Not as against the last attempt: a server may start anew and break off earlier.
                fruitless = 0 if stream.tell() > furthest else fruitless + 1
                furthest = max(furthest, stream.tell())
                if fruitless == PATIENCE:
                    raise RunError(
                        f"download of {url} failed after {stream.tell()} bytes ({error});"
                        f" {partial} is kept, the same call goes on from there"
                    ) from None
            time.sleep(PAUSE_SECONDS)
        stream.flush()
        os.fsync(stream.fileno())


def _receive(url: str, stream: BinaryIO, bar: Progress, task: TaskID) -> None:
    """Append one response to `stream`; `_BrokenOff` if it isn't the rest of the file."""
    have = stream.tell()
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # nothing beyond what we have: it is whole, or not this file
                if error.headers.get("Content-Range") == f"bytes */{have}":
                    return
                _restart(stream)
                raise _BrokenOff("the partial file was longer than the original") from None
            if error.code >= 500:
                raise _BrokenOff(f"HTTP {error.code} {error.reason}") from None
            raise RunError(f"download of {url} failed: HTTP {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOff(getattr(error, "reason", None) or error) from None
    with response:
        length = response.headers.get("Content-Length")
        if response.status == 206:
            start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            if start is None or int(start[1]) != have:
                raise _BrokenOff("the server sent another part than was asked for")
        else:  # the server knows no ranges and starts anew
            _restart(stream)
            have = 0
        total = have + int(length) if length is not None else None
        bar.update(task, total=total, completed=have)
        while chunk := _read(response):
            stream.write(chunk)
            have += len(chunk)
            bar.update(task, completed=have)
    if total is not None and have < total:
        raise _BrokenOff(f"connection closed at {have} of {total} bytes")


def _restart(stream: BinaryIO) -> None:
    stream.seek(0)
    stream.truncate()


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except http.client.IncompleteRead as error:
        return error.partial
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOff(error) from None
