"""HTTP by hand, as no client library sends it, and a server in a process of its own to send it to.

`HOSTILE` has requests whose answers are known; `broken` makes any number of others.
"""

import contextlib
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from fakes import photograph
from srgan_ray.data import images
from srgan_ray.demo import free_port
from srgan_ray.serving.protocol import Limits

SERVER = """
import sys, uvicorn
from srgan_ray.serving.api import build_api
from srgan_ray.serving.handler import Handler, ModelConfig
from srgan_ray.serving.protocol import Limits
uvicorn.run(build_api(Handler(ModelConfig({generator!r})), {limits!r}), port={port}, log_level="error")
"""


class Server(NamedTuple):
    url: str
    process: int


@contextlib.contextmanager
def served_apart(generator: str, limits: Limits) -> Iterator[Server]:
    """The API on a socket, in another process; its last words are the test's."""
    port = free_port()
    program = SERVER.format(generator=generator, limits=limits, port=port)
    running = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        while True:
            assert running.poll() is None, "the server ended"
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        yield Server(f"http://127.0.0.1:{port}", running.pid)
        assert running.poll() is None, "the server died"
    finally:
        running.terminate()
        running.wait()


def peak_mb(process: int) -> float:
    """The most resident megabytes that it ever had."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def exchange(url: str, pieces: list[bytes], timeout_s: float = 10) -> bytes:
    """What comes back for these pieces, sent one after the other, until the server closes or is silent so long."""
    place = urlsplit(url)
    reply = b""
    with socket.create_connection((place.hostname, place.port), timeout_s) as connection:
        with contextlib.suppress(ConnectionError, TimeoutError):  # a server may close before it has heard all
            for piece in pieces:
                connection.sendall(piece)
        with contextlib.suppress(ConnectionError, TimeoutError):
            while received := connection.recv(2**16):
                reply += received
    return reply


def statuses(reply: bytes) -> list[int]:
    """Of the answers in it."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", reply)]


def post(
    body: bytes,
    type: bytes = b"image/png",
    more: bytes = b"",
    length: bytes | None = None,
    target: bytes = b"/upscale",
    connection: bytes = b"close",
) -> bytes:
    """A request whose parts fit together unless told otherwise; an empty length is none."""
    length = str(len(body)).encode() if length is None else length
    headers = b"Content-Type: " + type + b"\r\nConnection: " + connection + b"\r\n" + more
    headers += b"Content-Length: " + length + b"\r\n" if length else b""
    return b"POST " + target + b" HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n" + body


def chunked(content: bytes, more: bytes = b"") -> bytes:
    """A request without a length, whose body is these chunks."""
    return post(content, more=b"Transfer-Encoding: chunked\r\n" + more, length=b"")


def form(content: bytes, parameters: bytes = b"; boundary=x") -> bytes:
    """A request with a multipart body."""
    return post(content, b"multipart/form-data" + parameters)


def part(headers: bytes) -> bytes:
    """Of a multipart body, with the photograph in it."""
    return b"--x\r\n" + headers + b"\r\n\r\n" + PNG + b"\r\n"


PNG = images.encode(photograph(0, 4, 5), "png")
GOOD, ALIVE = post(PNG), post(PNG, connection=b"keep-alive")
SIZE = len(PNG)
CHUNK = hex(SIZE)[2:].encode() + b"\r\n" + PNG
FILE = b'Content-Disposition: form-data; name="file"; filename="a.png"'
LAST = b"\r\n0\r\n\r\n"
FIELD = b'Content-Disposition: form-data; name="a"'
END = b"--x--\r\n"
LINE = b"POST /upscale HTTP/1.1\r\n"
UPGRADE = (
    b"GET /upscale HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
# answers that are wanted, and the requests; 408 comes after the receive limit, nothing where no header ends
HOSTILE: dict[str, tuple[list[int], list[bytes]]] = {
    "good": ([200], [GOOD]),
    "length too long": ([408], [post(PNG, length=b"%d" % (SIZE + 100))]),
    "length too short": ([400], [post(PNG, length=b"%d" % (SIZE - 50))]),
    "length 0": ([400], [post(PNG, length=b"0")]),
    "length negative": ([400], [post(PNG, length=b"-1")]),
    "length a word": ([400], [post(PNG, length=b"many")]),
    "length with a sign": ([400], [post(PNG, length=b"+5")]),
    "length a list": ([400], [post(PNG, length=b"5, 6")]),
    "length hexadecimal": ([400], [post(PNG, length=b"0x10")]),
    "length of 30 digits": ([400], [post(PNG, length=b"9" * 30)]),
    "length beyond 63 bits": ([413], [post(PNG, length=b"%d" % 2**63)]),
    "length of 3 GB": ([413], [post(PNG, length=b"3000000000")]),
    "length with _": ([400], [post(PNG, length=b"1_0")]),
    "length in other digits": ([400], [post(PNG, length="٣".encode())]),
    "two unlike lengths": ([400], [post(PNG, more=b"Content-Length: 5\r\n")]),
    "two like lengths": ([400], [post(PNG, more=b"Content-Length: %d\r\n" % SIZE)]),
    "no length": ([400], [post(PNG, length=b"")]),
    "chunks": ([200], [chunked(CHUNK + LAST)]),
    "chunk size no number": ([400], [chunked(b"zz\r\n" + PNG)]),
    "chunk size negative": ([400], [chunked(b"-5\r\n" + PNG)]),
    "chunk size of 64 bits": ([408], [chunked(b"f" * 16 + b"\r\n" + PNG)]),
    "chunk size of 160 bits": ([400], [chunked(b"f" * 40 + b"\r\n" + PNG)]),
    "chunk without its end": ([400], [chunked(CHUNK + b"0\r\n\r\n")]),
    "chunk cut off": ([408], [chunked(CHUNK[:50])]),
    "chunks without an end": ([408], [chunked(CHUNK + b"\r\n")]),
    "chunk with a long extension": ([200], [chunked(CHUNK.replace(b"\r", b";" + 10**5 * b"b" + b"\r", 1) + LAST)]),
    "chunks with a trailer": ([200], [chunked(CHUNK + b"\r\n0\r\nX: y\r\n\r\n")]),
    "more chunks than allowed": ([413], [chunked(b""), *[b"10000\r\n" + bytes(2**16) + b"\r\n"] * 100]),
    "chunks and a length": ([400], [post(CHUNK + LAST, more=b"Transfer-Encoding: chunked\r\n")]),
    "chunked twice": ([400], [chunked(CHUNK + LAST, b"Transfer-Encoding: chunked\r\n")]),
    "unknown encoding": ([400], [post(PNG, more=b"Transfer-Encoding: foo\r\n", length=b"")]),
    "header without an end": ([], [LINE + b"X: " + b"a" * 10**5]),
    "headers without an end": ([], [LINE + b"X: a\r\n" * 10**4]),
    "many headers": ([200], [post(PNG, more=b"X: a\r\n" * 10**4)]),
    "long header": ([200], [post(PNG, more=b"X: " + b"a" * 10**6 + b"\r\n")]),
    "header with a zero": ([400], [post(PNG, more=b"X: a\0b\r\n")]),
    "header that is no text": ([200], [post(PNG, more=b"X: \xff\xfe\r\n")]),
    "space in a header's name": ([400], [post(PNG, more=b"X Y: a\r\n")]),
    "space behind a header's name": ([400], [post(PNG, more=b"X : a\r\n")]),
    "folded header": ([400], [post(PNG, more=b"X: a\r\n b\r\n")]),
    "header without a name": ([400], [post(PNG, more=b": a\r\n")]),
    "lines without CR": ([400], [GOOD.replace(b"\r\n", b"\n", 5)]),
    "two types": ([200], [post(PNG, more=b"Content-Type: text/plain\r\n")]),
    "no type": ([415], [GOOD.replace(b"Content-Type", b"X")]),
    "type no text": ([200], [post(PNG, b"image/\xff; =;;")]),
    "100-continue": ([100, 200], [post(b"", more=b"Expect: 100-continue\r\n", length=b"%d" % SIZE), PNG]),
    "100-continue and nothing": ([100, 408], [post(b"", more=b"Expect: 100-continue\r\n", length=b"%d" % SIZE)]),
    "100-continue too large": ([413], [post(b"", more=b"Expect: 100-continue\r\n", length=b"60000000")]),
    "pipeline": ([200, 200, 200], [ALIVE + ALIVE + GOOD]),
    "pipeline with a bad one": ([200, 400, 200], [ALIVE + post(b"no", connection=b"keep-alive") + GOOD]),
    "no request": ([400], [b"POST\r\n\r\n"]),
    "HTTP/9.9": ([400], [GOOD.replace(b"/1.1", b"/9.9")]),
    "HTTP/2": ([400], [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]),
    "HTTP/1.0": ([200], [GOOD.replace(b"/1.1", b"/1.0")]),
    "TLS": ([400], [bytes.fromhex("16030100f8010000f40303") + bytes(200)]),
    "zeros": ([400], [bytes(1000)]),
    "empty lines before": ([200], [b"\r\n\r\n\r\n" + GOOD]),
    "long target": ([400], [post(PNG, target=b"/upscale?a=" + b"b" * 10**6)]),
    "zero in the target": ([404], [post(PNG, target=b"/upscale%00")]),
    "target up the tree": ([404], [post(PNG, target=b"/../../etc/passwd")]),
    "target no text": ([422], [post(PNG, target=b"/upscale?format=%ff%fe%00")]),
    "two formats": ([422], [post(PNG, target=b"/upscale?format=png&format=exe")]),
    "fidelity of 10,000 digits": ([422], [post(PNG, target=b"/upscale?fidelity=" + b"1" * 10**4)]),
    "another method": ([405], [GOOD.replace(b"POST", b"PUT")]),
    "no method": ([400], [GOOD.replace(b"POST", b"FOO")]),
    "CONNECT": ([400], [b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"]),
    "websocket": ([403], [UPGRADE]),
    "form": ([200], [form(part(FILE) + END)]),
    "form with a text as the file": ([400], [form(part(FIELD.replace(b'"a"', b'"file"')) + END)]),
    "form without an end": ([400], [form(part(FILE))]),
    "form without a boundary": ([400], [form(part(FILE) + END, b"")]),
    "form with an empty boundary": ([400], [form(part(FILE) + END, b"; boundary=")]),
    "form with another boundary": ([400], [form(part(FILE) + END, b"; boundary=y")]),
    "form with a boundary that is no text": ([400], [form(part(FILE) + END, b"; boundary=\xff\xfe")]),
    "form with half a quotation": ([400], [form(part(FILE) + END, b'; boundary="x')]),
    "form of an unknown charset": ([200], [form(part(FILE) + END, b"; boundary=x; charset=foo")]),
    "form with a header without an end": ([400], [form(b"--x\r\n" + FILE)]),
    "form with a long header": ([400], [form(part(FILE + b"\r\nX: " + b"a" * 10**6) + END)]),
    "form with many headers": ([400], [form(part(FILE + b"\r\nX: a" * 10**5) + END)]),
    "form without a disposition": ([400], [form(part(b"X: y") + END)]),
    "form without a name": ([400], [form(part(b"Content-Disposition: form-data") + END)]),
    "form with a file name up the tree": ([200], [form(part(FILE.replace(b"a.png", b"../../../etc/passwd")) + END)]),
    "form with a file name that is no text": ([200], [form(part(FILE.replace(b"a.png", b"\xff\xfe")) + END)]),
    "form with a name that is no text": ([400], [form(part(FILE.replace(b'"file"', b'"\xff"')) + END)]),
    "form with 1000 files": ([400], [form(part(FILE) * 1000 + END)]),
    "form with 100 fields": ([400], [form(part(FIELD) * 100 + END)]),
    "form with a long field": ([400], [form(b"--x\r\n" + FIELD + b"\r\n\r\n" + bytes(3 * 10**6) + b"\r\n" + END)]),
    "form of lines without CR": ([400], [form((part(FILE) + END).replace(b"\r\n", b"\n"))]),
    "form with more behind it": ([200], [form(part(FILE) + END + bytes(10**5))]),
    "form with more before it": ([400], [form(b"hello\r\n" + part(FILE) + END)]),
}  # fmt: skip


def broken(request: bytes, dice: random.Random) -> list[bytes]:
    """The request with other bytes in places, mostly in its headers; often cut off, or in two pieces."""
    content, end = bytearray(request), request.index(b"\r\n\r\n") + 4
    for _ in range(dice.choice([1, 1, 2, 5])):
        place = dice.randrange(min(len(content), dice.choice([end, end, len(content)])) + 1)
        line_end = content.find(b"\r\n", place) + 2
        match dice.randrange(5):
            case 0:
                content[place : place + 1] = dice.choice([b"\r\n", b"\0", b":", b" ", b"\xff", b"9", b"", b"a" * 5000])
            case 1:
                content[place : place + dice.choice([1, 3, 20])] = b""
            case 2:
                content[place:place] = content[place:line_end] * dice.choice([1, 2, 50])
            case 3:
                content[place:line_end] = dice.randbytes(dice.choice([1, 10]))
            case 4:
                content[place:] = b"" if dice.random() < 0.3 else content[place:]
    middle = dice.randrange(len(content) + 1)
    return [bytes(content[:middle]), bytes(content[middle:])] if dice.random() < 0.3 else [bytes(content)]
