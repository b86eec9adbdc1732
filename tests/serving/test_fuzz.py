"""Ten thousand bodies that are no good, or hardly: never a 500, never more memory than was stated."""

import io
import random
import resource
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from fakes import photograph
from srgan_ray.serving.api import build_api
from srgan_ray.serving.handler import Handler, ModelConfig
from srgan_ray.serving.protocol import Limits

pytestmark = pytest.mark.slow

NUM_BODIES = 10_000
LIMITS = Limits(max_mb=5, max_megapixels=0.5, max_megapixels_at_once=0.5)
MAX_GROWTH_MB = 50  # beyond what the largest picture that is allowed takes
TYPES = ["image/png", "image/jpeg", "image/webp", "image/tiff", "image/gif", "image/x-unknown", "image/"]
BOUNDARY = b"fuzz"
FORM = f"multipart/form-data; boundary={BOUNDARY.decode()}"
Body = tuple[bytes, str]


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
    files = []
    for image in kinds.values():
        for format in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"):
            buffer = io.BytesIO()
            try:
                image.save(buffer, format, dpi=(72, 72), exif=Image.Exif())
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
            dice.choice([*TYPES, "text/plain", "", "multipart/form-data", "image/png; a=\x7f"]),
        ),
        lambda: (dice.randbytes(dice.choice([0, 1, 10, 1000])), dice.choice([*TYPES, FORM])),
    ]
    for number in range(NUM_BODIES):
        yield (dice.choice(explosive), "image/png") if number % 100 == 0 else dice.choice(makers)()


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_no_body_is_answered_with_an_error_of_ours(generator_file: str) -> None:
    dice = random.Random(0)
    answers: Counter[int] = Counter()
    with TestClient(build_api(Handler(ModelConfig(generator_file)), LIMITS), raise_server_exceptions=False) as client:
        for file in [*whole_files(), largest_file()]:
            client.post("/upscale", content=file, headers={"content-type": "image/png"})
        before = peak_mb()
        for body, content_type in bodies(dice):
            query = dice.choice(
                ["", "", "?format=jpeg", "?format=webp", "?fidelity=0.5", "?format=tiff", "?fidelity=a"]
            )
            response = client.post(f"/upscale{query}", content=body, headers={"content-type": content_type})
            answers[response.status_code] += 1
            assert response.status_code in (200, 400, 413, 415, 422), (response.text, body[:200], content_type)
            if response.status_code != 200:
                assert response.headers["content-type"] == "application/problem+json"
                assert response.json()["status"] == response.status_code
                assert response.json()["detail"]
        assert client.get("/healthz").json()["status"] == "ok"
    assert peak_mb() - before < MAX_GROWTH_MB
    assert set(answers) == {200, 400, 413, 415, 422}
