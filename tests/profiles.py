"""Colour profiles made by hand (ICC.1:2001-04): few bytes, and any independent conversion can be told from them."""

import itertools
import struct

import numpy as np

D50 = np.array([0.9642, 1.0, 0.8249])
# IEC 61966-2-1's primaries, adapted to D50 (Bradford), as sRGB profiles have them
SRGB_TO_XYZ = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])


def grey_profile(gamma: float) -> bytes:
    """Of grey whose luminance is the level to the power of gamma."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": curve, b"wtpt": b"XYZ " + bytes(4) + _fixed(*D50)})


def cmyk_profile(inks: np.ndarray) -> bytes:
    """Of four inks whose Lab is `inks` (2, 2, 2, 2, 3) where each is absent or full, and linear in between."""
    ramp = bytes(range(256))
    levels = np.round(inks * [2.55, 1, 1] + [0, 128, 128]).astype(np.uint8)
    identity = _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + 4 * ramp + levels.tobytes() + 3 * ramp
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})


def lab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """CIE Lab (…, 3) to levels of sRGB, not rounded."""
    lightness, a, b = np.moveaxis(np.asarray(lab, float), -1, 0)
    f = (lightness + 16) / 116
    f = np.stack([f + a / 500, f, f - b / 200], axis=-1)
    xyz = D50 * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    return linear_to_srgb(xyz @ np.linalg.inv(SRGB_TO_XYZ).T)


def linear_to_srgb(linear: np.ndarray) -> np.ndarray:
    """Light in [0, 1] to levels of sRGB, not rounded."""
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    padded = [content + bytes(-len(content) % 4) for content in tags.values()]
    offsets = itertools.accumulate(map(len, padded), initial=128 + 4 + 12 * len(tags))
    entries = zip(tags, offsets, map(len, tags.values()))
    table = struct.pack(">I", len(tags)) + b"".join(struct.pack(">4sII", *entry) for entry in entries)
    body = table + b"".join(padded)
    header = struct.pack(">I4xI4s4s4s12x4s28x", 128 + len(body), 0x02400000, kind, space, connection, b"acsp")
    return (header + _fixed(*D50)).ljust(128, b"\0") + body


def _fixed(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)
