"""What is wrong or odd about a photograph, and which photographs look alike, before anything is trained on them."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from srgan_ray.data import images

ENDINGS = {"JPEG": (".jpg", ".jpeg"), "PNG": (".png",), "WEBP": (".webp",), "TIFF": (".tif", ".tiff")}
# Measured on 572 Stanford Dogs photographs at full size: detail lies between -21.5 and -3 dB; of the same photographs
# made half as large and enlarged again (cubic, JPEG quality 90) three quarters lie below -22 dB.
MIN_DETAIL_DB = -22.0
MIN_JPEG_QUALITY = 50
MAX_BLOCKINESS = 1.8  # photographs at full size: at most 1.7; saved with JPEG quality 10: 95 % above 1.9
# Of the 256 bits of a signature. All pairs of 20,580 photographs: unlike ones differ in 90 bits and more, and what
# differs in up to 48 was the same scene in every pair that was looked at.
MAX_DIFFERING_BITS = 48
NUM_BANDS, BAND_BITS = 20, 12  # of pairs within 48 bits all agree in one of these bands (242 pairs, by brute force)
SIGNATURE_SIDE = 16


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was found out about one photograph. It is kept where `reason` is empty."""

    name: str
    breed: str
    id: str = ""
    """Hash of the pixels, cropped to a multiple of the scale; empty where they cannot be decoded."""
    height: int = 0
    width: int = 0
    num_bytes: int = 0
    format: str = ""
    jpeg_quality: int = 0
    """1…100, from the quantization table; 0 where it is no JPEG."""
    blockiness: float = 0.0
    """Step across the borders of 8x8 blocks over the step elsewhere: about 1.2 is none, 2 is plain to see."""
    detail: float = 0.0
    """Power at 0.38 to 0.5 cycles per pixel over that at 0.1 to 0.2, in dB."""
    signature: bytes = b""
    """Signs of the 256 lowest coefficients of the photograph's cosine transform."""
    notes: tuple[str, ...] = ()
    reason: str = ""


def find_faults(name: str, breed: str, encoded: bytes) -> Finding:
    """What the encoded bytes tell before they are decoded. Raises images.UnreadableImage for what is no image."""
    traits = images.read_traits(encoded)
    notes = []
    ending = Path(name).suffix.lower()
    if ending and ending not in ENDINGS[traits.format]:
        notes.append(f"wrong ending: {traits.format} called {ending}")
    if traits.orientation != images.UPRIGHT:
        notes.append(f"EXIF orientation: {traits.orientation}, turned upright")
    if traits.num_frames > 1:
        notes.append(f"animated: {traits.num_frames} frames, the first taken")
    if traits.mode not in ("RGB", "L"):
        notes.append(f"pixel mode: {traits.mode}, converted to RGB")
    elif traits.has_transparency:
        notes.append("pixel mode: transparency, laid over white")
    quality = jpeg_quality(traits.quantization)
    if 0 < quality < MIN_JPEG_QUALITY:
        notes.append("heavy JPEG compression")
    return Finding(name, breed, num_bytes=len(encoded), format=traits.format, jpeg_quality=quality, notes=tuple(notes))


def measure(finding: Finding, image: np.ndarray) -> Finding:
    """The finding with what the pixels tell: `uint8` RGB (H, W, 3)."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    detail, blockiness, notes = detail_db(grey), measure_blockiness(grey), list(finding.notes)
    if detail < MIN_DETAIL_DB:
        notes.append("little detail: enlarged before, or blurred")
    if blockiness > MAX_BLOCKINESS and "heavy JPEG compression" not in notes:
        notes.append("heavy JPEG compression")
    return dataclasses.replace(
        finding,
        detail=round(detail, 2),
        blockiness=round(blockiness, 3),
        signature=make_signature(grey),
        notes=tuple(notes),
    )


def jpeg_quality(quantization: Sequence[int]) -> int:
    """The quality setting, 1…100, whose luminance table (JPEG standard, K.1, as libjpeg scales it) comes nearest."""
    if not quantization:
        return 0
    clipped = max(quantization) == 255
    percent = 100 * (sum(quantization[:5]) / 77 if clipped else sum(quantization) / 3685)  # the sums of table K.1
    return int(np.clip(round((200 - percent) / 2 if percent <= 100 else 5000 / percent), 1, 100))


def detail_db(grey: np.ndarray) -> float:
    """How much of the finest structure there is, from the spectrum of the middle 256x256 pixels of `uint8` (H, W)."""
    side = min(256, *(length // 2 * 2 for length in grey.shape))
    top, left = ((length - side) // 2 for length in grey.shape)
    window, low, high = _spectrum_bands(side)
    patch = grey[top : top + side, left : left + side].astype(np.float32)
    spectrum = cv2.dft((patch - patch.mean()) * window, flags=cv2.DFT_COMPLEX_OUTPUT)
    power = spectrum[..., 0] ** 2 + spectrum[..., 1] ** 2
    return float(10 * np.log10((np.median(power[high]) + 1e-3) / (np.median(power[low]) + 1e-3)))


def measure_blockiness(grey: np.ndarray) -> float:
    """Mean step between neighbours across the borders of 8x8 blocks over the mean step elsewhere, of `uint8` (H, W)."""
    levels = grey.astype(np.int16)
    steps = [np.abs(np.diff(levels, axis=axis)).mean(axis=1 - axis) for axis in (0, 1)]
    across = sum(step[7::8].mean() if len(step) > 7 else 0.0 for step in steps)
    elsewhere = sum(np.delete(step, np.s_[7::8]).mean() for step in steps)
    return float((across + 0.5) / (elsewhere + 0.5))


def make_signature(grey: np.ndarray) -> bytes:
    """Perceptual hash of `uint8` (H, W): 32 bytes that hardly change with size, compression and brightness."""
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    signs = cv2.dct(small)[:SIGNATURE_SIDE, :SIGNATURE_SIDE] > 0
    signs[0, 0] = False  # the mean
    return np.packbits(signs).tobytes()


def group_alike(signatures: Sequence[bytes]) -> list[list[int]]:
    """Groups of two and more indices whose photographs look alike, mirrored ones included.

    Only pairs that agree in a band of bits are compared: 20,580 photographs take about a second. The work still grows
    with the square of their number.
    """
    if len(signatures) < 2:
        return []
    bits = np.unpackbits(np.frombuffer(b"".join(signatures), np.uint8).reshape(len(signatures), -1), axis=1)
    both = np.concatenate([bits, bits ^ _mirror()])  # mirroring turns the signs of every second column
    packed = np.packbits(both, axis=1).view(np.uint64)
    pairs = [_alike_in_band(both, packed, band, len(signatures)) for band in range(NUM_BANDS)]
    first, second = np.concatenate(pairs, axis=1)
    links = coo_array((np.ones(len(first)), (first, second)), shape=(len(signatures), len(signatures)))
    _, labels = connected_components(links, directed=False)
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return sorted(group.tolist() for group in groups if len(group) > 1)


def _alike_in_band(bits: np.ndarray, packed: np.ndarray, band: int, number: int) -> np.ndarray:
    """Pairs (2, n) of photographs whose signatures agree in the band and differ in few bits of all."""
    columns = _by_frequency()[1 + band * BAND_BITS : 1 + (band + 1) * BAND_BITS]
    keys = bits[:, columns] @ (1 << np.arange(BAND_BITS))
    order = np.argsort(keys, kind="stable")
    keys, found, shift = keys[order], [np.empty((2, 0), np.int64)], 1
    while (same := np.flatnonzero(keys[shift:] == keys[:-shift])).size:
        one, other = order[same], order[same + shift]
        near = np.bitwise_count(packed[one] ^ packed[other]).sum(axis=1) <= MAX_DIFFERING_BITS
        pair = np.stack([one[near], other[near]]) % number
        found.append(pair[:, pair[0] != pair[1]])
        shift += 1
    return np.concatenate(found, axis=1)


def _by_frequency() -> np.ndarray:
    row, column = np.divmod(np.arange(SIGNATURE_SIDE**2), SIGNATURE_SIDE)
    return np.argsort(row + column, kind="stable")


def _mirror() -> np.ndarray:
    return np.tile(np.arange(SIGNATURE_SIDE) % 2, SIGNATURE_SIDE).astype(np.uint8)


@functools.cache
def _spectrum_bands(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    hann = np.hanning(side).astype(np.float32)
    cycles = np.abs(np.fft.fftfreq(side))
    radius = np.hypot(cycles[:, None], cycles)
    return hann[:, None] * hann, (radius > 0.1) & (radius < 0.2), (radius > 0.38) & (radius < 0.5)
