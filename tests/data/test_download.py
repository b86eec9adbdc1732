"""Against a real server that behaves well, breaks off, knows no ranges, serves something else, or is gone."""

import fcntl
import hashlib
import http.server
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from srgan_ray.data import download as module
from srgan_ray.data.download import STANFORD_DOGS, Archive, download
from srgan_ray.errors import InputError

CONTENT = np.random.default_rng(0).bytes(400_000)


class Server(http.server.ThreadingHTTPServer):
    content, ranges, breaks_after, status, delay_s = CONTENT, True, 0, 0, 0.0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.num_sent = 0

    @property
    def archive(self) -> Archive:
        url = f"http://127.0.0.1:{self.server_port}/images.tar"
        return Archive("images.tar", url, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.asked.append(wanted)
        if self.server.status:
            self.send_error(self.server.status)
            return
        start = int(re.findall(r"\d+", wanted)[0]) if wanted and self.server.ranges else 0
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for offset in range(0, len(body), 20_000):
            if self.server.breaks_after and offset >= self.server.breaks_after:
                return
            self.wfile.write(body[offset : offset + 20_000])
            self.server.num_sent += len(body[offset : offset + 20_000])
            time.sleep(self.server.delay_s)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.01)
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_the_archive_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    path = download(server.archive, tmp_path / "new" / "cache")
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["images.tar"]
    assert download(server.archive, path.parent) == path
    assert server.asked == [""]


def test_a_mirror_is_taken_instead(server: Server, tmp_path: Path) -> None:
    original = Archive("images.tar", "http://127.0.0.1:9/gone", len(CONTENT), server.archive.sha256)
    assert download(original, tmp_path, server.archive.url).read_bytes() == CONTENT


def test_a_download_that_breaks_off_goes_on(server: Server, tmp_path: Path) -> None:
    server.breaks_after = 100_000
    assert download(server.archive, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["", "bytes=100000-", "bytes=200000-", "bytes=300000-"]
    assert server.num_sent == len(CONTENT)


def test_without_ranges_it_starts_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "images.tar.part").write_bytes(CONTENT[:50_000])
    server.ranges = False
    assert download(server.archive, tmp_path).read_bytes() == CONTENT


def test_what_a_killed_process_left_is_used(server: Server, tmp_path: Path) -> None:
    server.delay_s = 0.05
    code = "import sys; from srgan_ray.data.download import *; download(Archive(*eval(sys.argv[1])), Path(sys.argv[2]))"
    archive = server.archive
    arguments = repr((archive.file_name, archive.url, archive.size, archive.sha256))
    process = subprocess.Popen([sys.executable, "-c", code, arguments, str(tmp_path)])
    part = tmp_path / "images.tar.part"
    while not (part.is_file() and part.stat().st_size > 0):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = part.stat().st_size
    assert 0 < kept < len(CONTENT)
    assert download(archive, tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == f"bytes={kept}-"


def test_a_wrong_file_is_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[::-1]
    with pytest.raises(InputError, match=f"wanted {server.archive.sha256}"):
        download(server.archive, tmp_path)
    assert not list(tmp_path.iterdir())
    server.content = CONTENT
    assert download(server.archive, tmp_path).read_bytes() == CONTENT


def test_a_spoiled_part_is_not_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "images.tar.part").write_bytes(b"x" * 1000)
    with pytest.raises(InputError, match="SHA-256"):
        download(server.archive, tmp_path)
    assert download(server.archive, tmp_path).read_bytes() == CONTENT


def test_another_size_is_refused_before_it_is_downloaded(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT * 3
    with pytest.raises(InputError, match=f"1200000 bytes; wanted images.tar with {len(CONTENT)}"):
        download(server.archive, tmp_path)


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_server_that_refuses_is_named(server: Server, tmp_path: Path, status: int) -> None:
    server.status = status
    with pytest.raises(InputError, match=f"images.tar answers {status}.*--mirror"):
        download(server.archive, tmp_path)


def test_a_server_that_is_gone_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(InputError, match=rf"127.0.0.1:{port}.*cannot be reached.*--mirror"):
        download(STANFORD_DOGS, tmp_path, f"http://127.0.0.1:{port}/images.tar")


def test_it_gives_up_on_a_server_that_brings_nothing(server: Server, tmp_path: Path) -> None:
    (tmp_path / "images.tar.part").write_bytes(CONTENT[:1000])
    server.breaks_after = -1
    with pytest.raises(InputError, match=f"1000 of {len(CONTENT)} bytes are kept"):
        download(server.archive, tmp_path)
    assert len(server.asked) == module.MAX_FRUITLESS
    assert (tmp_path / "images.tar.part").read_bytes() == CONTENT[:1000]


def test_two_at_once_are_kept_apart(server: Server, tmp_path: Path) -> None:
    with open(tmp_path / "images.tar.part", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process"):
            download(server.archive, tmp_path)


@pytest.mark.parametrize(("mirror", "message"), [("ftp://x/y", "http"), ("file:///etc/passwd", "http")])
def test_other_schemes_are_refused(tmp_path: Path, mirror: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        download(STANFORD_DOGS, tmp_path, mirror)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--cache"):
        download(STANFORD_DOGS, tmp_path / "file" / "below")
