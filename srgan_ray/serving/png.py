"""PNG files of 8 and 16 bit, in a quarter of the CPU time of OpenCV's fastest."""

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from isal import isal_zlib

# Intel's deflate at level 1 with one filter for all rows: on SR of photographs 0.12 s of CPU for a megapixel of LR and
# 1.25 MB for one of SR. OpenCV's zlib at level 1 takes 0.53 s and 1.22 MB (average filter, run lengths); averages
# filtered by NumPy 0.16 s and 1.22 MB.
LEVEL, UP = 1, 2
STRIP_BYTES = 1 << 20  # so much is filtered at a time, and stays in the cache
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by the number of channels: grey, grey with alpha, RGB, RGBA
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encode_png(
    colour: np.ndarray, alpha: np.ndarray | None, icc_profile: bytes, dpi: tuple[float, float] | None, exif: bytes
) -> bytes:
    """The bytes of a file (PNG, third edition) of (H, W, 1 or 3) and (H, W, 1), `uint8` or `uint16`."""
    height, width, num_channels = colour.shape
    num_channels += alpha is not None
    depth = 8 * colour.itemsize
    chunks = [_chunk(b"IHDR", struct.pack(">II5B", width, height, depth, COLOUR_TYPES[num_channels], 0, 0, 0))]
    if icc_profile:
        chunks.append(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc_profile)))
    if dpi:
        per_metre = (round(dots / 0.0254) for dots in dpi)
        chunks.append(_chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    if exif:
        chunks.append(_chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")))
    chunks += [_chunk(b"IDAT", part) for part in _compress(_rows(colour, alpha)) if part]
    return b"".join([SIGNATURE, *chunks, _chunk(b"IEND", b"")])


def _rows(colour: np.ndarray, alpha: np.ndarray | None) -> Iterator[np.ndarray]:
    """Strips of the picture as PNG has it: channels side by side, the higher byte first; `uint8` (rows, bytes)."""
    height, row_bytes = colour.shape[0], colour[0].nbytes + (0 if alpha is None else alpha[0].nbytes)
    num_rows = max(1, STRIP_BYTES // row_bytes)
    for top in range(0, height, num_rows):
        strip = colour[top : top + num_rows]
        if alpha is not None:
            strip = np.concatenate([strip, alpha[top : top + num_rows]], axis=2)
        in_order = np.ascontiguousarray(strip, strip.dtype.newbyteorder(">"))
        yield in_order.view(np.uint8).reshape(len(strip), row_bytes)


def _compress(strips: Iterator[np.ndarray]) -> Iterator[bytes]:
    """Each row less the one above it ("up", §9.2), compressed."""
    compressor = isal_zlib.compressobj(LEVEL)
    above: np.ndarray | int = 0
    for strip in strips:
        filtered = np.empty((len(strip), 1 + strip.shape[1]), np.uint8)
        filtered[:, 0] = UP
        filtered[0, 1:] = strip[0] - above
        np.subtract(strip[1:], strip[:-1], out=filtered[1:, 1:])
        above = strip[-1]
        yield compressor.compress(filtered)
    yield compressor.flush()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
