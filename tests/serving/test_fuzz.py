"""Ten thousand requests that are no good, or hardly: never a 500, never more memory than was stated."""

import io
import json
import random
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image

from fakes import photograph
from hostile import broken as broken_request
from hostile import exchange, peak_mb, post, served_apart, statuses
from profiles import cmyk_profile, grey_profile
from srgan_ray.serving.protocol import PROBLEM_TYPE, Limits

pytestmark = pytest.mark.slow

NUM_REQUESTS, NUM_CLIENTS = 10_000, 8
BROKEN_HTTP_SHARE = 0.2
LIMITS = Limits(max_mb=5, max_megapixels=0.5, max_megapixels_at_once=0.5, receive_limit_s=1)
MAX_GROWTH_MB = 50  # beyond what the largest pictures that are allowed take
PATIENCE_S, SILENCE_S = 150, 2  # where HTTP itself is broken, there may be no answer
MAKE, WIDTH, EXIF_IFD, EXPOSURE, GPS_IFD = 0x010F, 0x0100, 0x8769, 0x829A, 0x8825
TYPES = ["image/png", "image/jpeg", "image/webp", "image/tiff", "image/gif", "image/x-unknown", "image/"]
BOUNDARY = b"fuzz"
FORM = f"multipart/form-data; boundary={BOUNDARY.decode()}"
TARGETS = ["", "", "?format=jpeg", "?format=webp", "?fidelity=0.5", "?format=tiff", "?fidelity=a"]
Body = tuple[bytes, str]
Request = tuple[list[bytes], bool]  # in pieces; whether its HTTP is whole


def whole_files() -> list[bytes]:
    """Small files of every kind that is read, and of some that are not."""
    rgb, alpha = photograph(0, 18, 22), np.linspace(0, 255, 18 * 22).astype(np.uint8).reshape(18, 22)
    kinds = {
        "RGB": Image.fromarray(rgb),
        "L": Image.fromarray(rgb[..., 0]),
        "RGBA": Image.fromarray(np.dstack([rgb, alpha])),
        "LA": Image.fromarray(np.dstack([rgb[..., 0], alpha]), "LA"),
    }
    kinds |= {"P": kinds["RGB"].quantize(16), "1": kinds["L"].convert("1"), "CMYK": kinds["RGB"].convert("CMYK")}
    exif = Image.Exif()
    exif[MAKE], exif[WIDTH] = "maker", 22
    exif.get_ifd(EXIF_IFD)[EXPOSURE], exif.get_ifd(GPS_IFD)[1] = 0.01, "N"
    profiles = {"L": grey_profile(2.2), "CMYK": cmyk_profile(np.full((2, 2, 2, 2, 3), 50))}
    files = []
    for kind, image in kinds.items():
        for format in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"):
            buffer = io.BytesIO()
            try:
                image.save(buffer, format, dpi=(72, 72), exif=exif.tobytes(), icc_profile=profiles.get(kind))
            except (OSError, ValueError):  # a kind that this format has no place for
                continue
            files.append(buffer.getvalue())
    deep = rgb.astype(np.uint16) * 257
    transparent = np.dstack([deep, deep[..., :1]])
    for extension, pixels in ((".png", deep), (".tiff", deep), (".png", deep[..., 0]), (".png", transparent)):
        files.append(cv2.imencode(extension, pixels)[1].tobytes())
    return files


def largest_file() -> bytes:
    """As many pixels as are allowed, of 16 bit and with transparency."""
    return cv2.imencode(".png", np.random.default_rng(0).integers(0, 2**16, (700, 714, 4), np.uint16))[1].tobytes()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def lying_png(dice: random.Random) -> bytes:
    """A PNG whose header tells of more, fewer or no pixels, all in order otherwise."""
    side = [0, 1, 2, 7, 700, 715, 10_000, 100_000, 2**31 - 1, 2**32 - 1]
    depth, colour = dice.choice([1, 2, 4, 8, 16, 0, 77]), dice.choice([0, 2, 3, 4, 6, 1, 200])
    header = struct.pack(">IIBBBBB", dice.choice(side), dice.choice(side), depth, colour, 0, 0, dice.choice([0, 0, 1]))
    rows = zlib.compress(bytes(dice.choice([0, 10, 1000, 1_000_000])))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def zeros(size: int) -> bytes:
    """So many bytes of 0, compressed; this process never holds them."""
    compressor = zlib.compressobj()
    return b"".join(compressor.compress(bytes(2**20)) for _ in range(size // 2**20)) + compressor.flush()


def bombs() -> list[bytes]:
    """400 megapixels in a few kilobytes, and a text and a profile that inflate to 64 MB."""
    large, small = (struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0) for side in (20_000, 8))
    rows = zlib.compress(bytes(2 * 8))
    pngs = [
        [(b"IHDR", large), (b"IDAT", zeros(51 * 2**20))],
        [(b"IHDR", small), (b"zTXt", b"name\0\0" + zeros(64 * 2**20)), (b"IDAT", rows)],
        [(b"IHDR", small), (b"iCCP", b"name\0\0" + zeros(64 * 2**20)), (b"IDAT", rows)],
    ]
    return [b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in [*png, (b"IEND", b"")]) for png in pngs]


def broken(file: bytes, dice: random.Random) -> bytes:
    """Cut, with other bytes in places, with parts twice, with something behind."""
    content = bytearray(file)
    for _ in range(dice.choice([1, 1, 2, 8])):
        place, length = dice.randrange(len(content) + 1), dice.choice([1, 2, 4, 30])
        match dice.randrange(5):
            case 0:
                del content[place:]
            case 1:
                del content[place : place + length]
            case 2:
                content[place : place + length] = dice.randbytes(length)
            case 3:
                content[place:place] = content[place : place + length]
            case 4:
                content += dice.randbytes(length)
    return bytes(content)


def form(file: bytes, dice: random.Random) -> bytes:
    """A multipart body, often not quite one."""
    name = dice.choice([b'name="file"', b'name="picture"', b"name=file", b"", b'name="file"; name="file"'])
    file_name = dice.choice([b'; filename="../../etc/passwd"', b'; filename="a.png"', b"", b'; filename="\x00"'])
    start = dice.choice([b"--" + BOUNDARY, b"--other", b"", b"--" + BOUNDARY + b"--"])
    end = dice.choice([b"\r\n--" + BOUNDARY + b"--\r\n", b"", b"\r\n--" + BOUNDARY])
    gap = dice.choice([b"\r\n\r\n", b"\r\n", b"\n\n", b""])
    disposition = b"Content-Disposition: form-data; " + name + file_name
    parts = (start + b"\r\n" + disposition + gap + file) * dice.choice([1, 1, 1, 3, 12])
    return broken(parts + end, dice) if dice.random() < 0.3 else parts + end


def bodies(dice: random.Random) -> Iterator[Body]:
    files, explosive = whole_files(), bombs()
    makers: list[Callable[[], Body]] = [
        lambda: (broken(dice.choice(files), dice), dice.choice(TYPES)),
        lambda: (broken(dice.choice(files), dice), dice.choice(TYPES)),
        lambda: (broken(dice.choice(files), dice), dice.choice(TYPES)),
        lambda: (lying_png(dice), dice.choice(TYPES)),
        lambda: (form(dice.choice(files), dice), FORM),
        lambda: (
            dice.choice(files),
            dice.choice([*TYPES, "text/plain", "", "multipart/form-data", "image/png; a=é"]),
        ),
        lambda: (dice.randbytes(dice.choice([0, 1, 10, 1000])), dice.choice([*TYPES, FORM])),
    ]
    for number in range(NUM_REQUESTS):
        yield (dice.choice(explosive), "image/png") if number % 100 == 0 else dice.choice(makers)()


def requests(dice: random.Random) -> Iterator[Request]:
    for body, content_type in bodies(dice):
        request = post(body, content_type.encode(), target=b"/upscale" + dice.choice(TARGETS).encode())
        is_whole = dice.random() > BROKEN_HTTP_SHARE
        yield [request] if is_whole else broken_request(request, dice), is_whole


def check(reply: bytes, is_whole: bool) -> int:
    """That the answer is one of those that are meant; its status, 0 where broken HTTP has none."""
    found = statuses(reply)
    if not is_whole:
        assert set(found) <= {100, 200, 400, 404, 405, 408, 413, 415, 422}, reply[:500]
        return found[-1] if found else 0
    [status] = found
    assert status in (200, 400, 413, 415, 422), reply[:500]
    if status != 200:
        head, body = reply.split(b"\r\n\r\n")
        assert PROBLEM_TYPE.encode() in head
        assert json.loads(body)["status"] == status
        assert json.loads(body)["detail"]
    return status


@pytest.mark.timeout(3600)
def test_no_request_is_answered_with_an_error_of_ours(generator_file: str) -> None:
    with served_apart(generator_file, LIMITS) as server, ThreadPoolExecutor(NUM_CLIENTS) as executor:

        def send(request: Request) -> int:
            pieces, is_whole = request
            return check(exchange(server.url, pieces, PATIENCE_S if is_whole else SILENCE_S), is_whole)

        good = [([post(file)], True) for file in [*whole_files(), largest_file()]]
        list(executor.map(send, good))
        before = peak_mb(server.process)
        answers = Counter(executor.map(send, requests(random.Random(0))))
        assert peak_mb(server.process) - before < MAX_GROWTH_MB
        assert set(map(send, good)) == {200, 415}
    assert set(answers) >= {0, 200, 400, 408, 413, 415, 422}
