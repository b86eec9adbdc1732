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
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from srgan_ray.data import download as module
from srgan_ray.data.download import STANFORD_DOGS, Archive, download
from srgan_ray.errors import InputError

CONTENT = np.random.default_rng(0).bytes(400_000)
STEP = 20_000  # bytes that the server sends at once
DOWNLOAD = (
    "import sys; from pathlib import Path; from srgan_ray.data.download import Archive, download; "
    "download(Archive(*eval(sys.argv[1])), Path(sys.argv[2]))"
)


class Server(http.server.ThreadingHTTPServer):
    content, ranges, breaks_after, statuses, delay_s, stalls_s, location = CONTENT, True, [], [], 0.0, 0.0, ""
    content_range = ""  # instead of the right one
    tells_size = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.num_sent = 0

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are what is tested."""

    @property
    def archive(self) -> Archive:
        url = f"http://127.0.0.1:{self.server_port}/images.tar"
        return Archive("images.tar", url, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.asked.append(wanted)
        attempt = len(self.server.asked) - 1
        status = self.server.statuses[min(attempt, len(self.server.statuses) - 1)] if self.server.statuses else 0
        if status:
            self.send_error(status)
        elif self.server.location:
            self.send_response(302)
            self.send_header("Location", self.server.location)
            self.end_headers()
        else:
            self.send_file(int(re.findall(r"\d+", wanted)[0]) if wanted and self.server.ranges else 0, attempt)

    def send_file(self, start: int, attempt: int) -> None:
        server = self.server
        total, body = len(server.content), server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", server.content_range or f"bytes {start}-{total - 1}/{total}")
        if server.tells_size:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        breaks = server.breaks_after[attempt % len(server.breaks_after)] if server.breaks_after else total
        for offset in range(0, min(len(body), breaks), STEP):
            self.wfile.write(body[offset : offset + STEP])
            server.num_sent += len(body[offset : offset + STEP])
            time.sleep(server.delay_s)
        if breaks < len(body):
            time.sleep(server.stalls_s)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.001)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def leave_part(folder: Path, content: bytes) -> Path:
    part = folder / "images.tar.part"
    part.write_bytes(content)
    return part


def test_the_archive_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    path = download(server.archive, tmp_path / "new" / "cache")
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["images.tar"]
    assert download(server.archive, path.parent) == path
    assert server.asked == [""]


def test_what_has_the_name_and_another_size_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "images.tar").write_bytes(CONTENT[:-1])
    assert download(server.archive, tmp_path).read_bytes() == CONTENT


def test_a_mirror_is_taken_instead(server: Server, tmp_path: Path) -> None:
    original = Archive("images.tar", "http://127.0.0.1:9/gone", len(CONTENT), server.archive.sha256)
    assert download(original, tmp_path, server.archive.url).read_bytes() == CONTENT


def test_a_download_that_breaks_off_goes_on(server: Server, tmp_path: Path) -> None:
    server.breaks_after = [100_000]
    assert download(server.archive, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["", "bytes=100000-", "bytes=200000-", "bytes=300000-"]
    assert server.num_sent == len(CONTENT)


def test_a_server_that_falls_silent_is_asked_again(server: Server, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)
    server.breaks_after, server.stalls_s = [100_000, 400_000], 2
    assert download(server.archive, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["", "bytes=100000-"]


def test_without_a_stated_size_it_is_read_to_the_end(server: Server, tmp_path: Path) -> None:
    server.tells_size = False
    assert download(server.archive, tmp_path).read_bytes() == CONTENT


def test_without_ranges_it_starts_again(server: Server, tmp_path: Path) -> None:
    leave_part(tmp_path, CONTENT[:50_000])
    server.ranges = False
    assert download(server.archive, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=50000-"]


def test_without_ranges_it_gives_up_where_it_gets_no_further(server: Server, tmp_path: Path) -> None:
    """Also where one attempt in two gets further than the one before."""
    server.ranges, server.breaks_after = False, [200_000, 100_000]
    assert "broke off 5 times" in refused(lambda: download(server.archive, tmp_path))
    assert len(server.asked) == 1 + module.MAX_FRUITLESS


def test_a_range_that_is_not_satisfiable_is_dropped_once(server: Server, tmp_path: Path) -> None:
    leave_part(tmp_path, CONTENT[:1000])
    server.statuses = [416, 0]
    assert download(server.archive, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-", ""]


def test_a_server_that_satisfies_nothing_is_named(server: Server, tmp_path: Path) -> None:
    part = leave_part(tmp_path, CONTENT[:1000])
    server.statuses = [416]
    assert "answers 416" in refused(lambda: download(server.archive, tmp_path))
    assert (len(server.asked), part.stat().st_size) == (2, 1000)


@pytest.mark.parametrize("content_range", ["bytes 0-398999/400000", "bytes 1000-399999/500000", "elephants"])
def test_another_range_than_asked_for_is_refused(server: Server, tmp_path: Path, content_range: str) -> None:
    part = leave_part(tmp_path, CONTENT[:1000])
    server.content_range = content_range
    message = refused(lambda: download(server.archive, tmp_path))
    assert ("500000" if "500000" in content_range else f"{content_range}; wanted bytes 1000-") in message
    assert part.read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("killed_by", [signal.SIGKILL, signal.SIGINT])
def test_what_a_killed_process_left_is_used(server: Server, tmp_path: Path, killed_by: signal.Signals) -> None:
    server.delay_s = 0.05
    archive = server.archive
    arguments = repr((archive.file_name, archive.url, archive.size, archive.sha256))
    command = [sys.executable, "-c", DOWNLOAD, arguments, str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    part = tmp_path / "images.tar.part"
    deadline = time.monotonic() + 30
    while not (part.is_file() and part.stat().st_size > 2 * STEP) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(killed_by)
    process.wait()
    kept = part.stat().st_size
    assert 0 < kept < len(CONTENT)
    assert part.read_bytes() == CONTENT[:kept]
    server.delay_s = 0.0
    time.sleep(0.2)  # the thread that still serves the dead process finds out
    server.num_sent = 0
    assert download(archive, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["", f"bytes={kept}-"]
    assert server.num_sent == len(CONTENT) - kept


def test_a_wrong_file_is_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[::-1]
    message = refused(lambda: download(server.archive, tmp_path))
    assert hashlib.sha256(server.content).hexdigest() in message
    assert f"wanted {len(CONTENT)} with {server.archive.sha256}" in message
    assert not list(tmp_path.iterdir())
    server.content = CONTENT
    assert download(server.archive, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("num_bytes", [1000, len(CONTENT), len(CONTENT) + 1])
def test_a_spoiled_part_is_not_kept(server: Server, tmp_path: Path, num_bytes: int) -> None:
    part = leave_part(tmp_path, b"x" * num_bytes)
    assert "SHA-256" in refused(lambda: download(server.archive, tmp_path))
    assert not part.exists()
    assert download(server.archive, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("factor", [0, 3])
def test_another_size_is_refused_before_it_is_downloaded(server: Server, tmp_path: Path, factor: int) -> None:
    """What an earlier attempt left is not given up for it."""
    part = leave_part(tmp_path, CONTENT[:1000])
    server.content, server.ranges = CONTENT * factor, False
    message = refused(lambda: download(server.archive, tmp_path))
    assert f"has {len(server.content)} bytes; wanted {len(CONTENT)}" in message
    assert part.read_bytes() == CONTENT[:1000]


def test_more_than_the_archive_is_refused_where_no_size_is_told(server: Server, tmp_path: Path) -> None:
    server.content, server.tells_size, server.delay_s = CONTENT * 3, False, 0.01
    assert f"wanted {len(CONTENT)}" in refused(lambda: download(server.archive, tmp_path))
    assert server.num_sent < len(server.content)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_server_that_refuses_is_named(server: Server, tmp_path: Path, status: int) -> None:
    server.statuses = [status]
    message = refused(lambda: download(server.archive, tmp_path))
    assert f"{server.archive.url} answers {status}" in message
    assert "--mirror, or give the path of images.tar as SOURCE" in message
    assert len(server.asked) == 1


@pytest.mark.parametrize("location", ["ftp://127.0.0.1:9/images.tar", "file:///etc/passwd", "/images.tar"])
def test_redirections_go_to_http_and_end(server: Server, tmp_path: Path, location: str) -> None:
    """urllib's words on redirections without end have several lines."""
    server.location = location
    assert "answers 302" in refused(lambda: download(server.archive, tmp_path))


def test_a_redirection_keeps_the_range(server: Server, tmp_path: Path) -> None:
    leave_part(tmp_path, CONTENT[:1000])
    with Server() as front:
        front.location = server.archive.url
        threading.Thread(target=front.serve_forever, args=(0.01,), daemon=True).start()
        assert download(front.archive, tmp_path).read_bytes() == CONTENT
        front.shutdown()
    assert server.asked == ["bytes=1000-"]


@pytest.mark.parametrize("kept", [0, 1000])
def test_a_server_that_is_gone_is_named(tmp_path: Path, kept: int) -> None:
    part = leave_part(tmp_path, CONTENT[:kept])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    message = refused(lambda: download(STANFORD_DOGS, tmp_path, f"http://127.0.0.1:{port}/images.tar"))
    assert f"127.0.0.1:{port}" in message
    assert "refused" in message
    assert "--mirror, or give the path of images.tar as SOURCE" in message
    assert part.read_bytes() == CONTENT[:kept]


@pytest.mark.parametrize("kept", [0, 1000])
def test_it_gives_up_on_a_server_that_brings_nothing(server: Server, tmp_path: Path, kept: int) -> None:
    part = leave_part(tmp_path, CONTENT[:kept])
    server.breaks_after = [0]
    message = refused(lambda: download(server.archive, tmp_path))
    assert f"(it ended early); {kept} of {len(CONTENT)} bytes are kept: run it again to go on" in message
    assert len(server.asked) == module.MAX_FRUITLESS
    assert part.read_bytes() == CONTENT[:kept]


def test_two_at_once_are_kept_apart(server: Server, tmp_path: Path) -> None:
    with open(tmp_path / "images.tar.part", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another process" in refused(lambda: download(server.archive, tmp_path))
    assert not server.asked
    assert download(server.archive, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("mirror", ["ftp://x/y", "file:///etc/passwd", "x/images.tar", "http://[x", "http://x:y/z"])
def test_other_mirrors_are_refused(tmp_path: Path, mirror: str) -> None:
    message = refused(lambda: download(STANFORD_DOGS, tmp_path, mirror))
    assert message.startswith(f"--mirror {mirror}")
    assert message.endswith("wanted http(s)://…/images.tar")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = refused(lambda: download(STANFORD_DOGS, tmp_path / "file" / "below"))
    assert message.startswith(f"{tmp_path / 'file' / 'below'}: Not a directory")
    assert message.endswith("--cache")


def test_a_full_disk_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "images.tar.part").symlink_to("/dev/full")
    message = refused(lambda: download(server.archive, tmp_path))
    assert f"{tmp_path}: No space left on device; wanted room for {len(CONTENT)} bytes" in message
    assert message.endswith("--cache")
    assert len(server.asked) == 1
