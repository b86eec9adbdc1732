"""Pixels of 16 bit, by OpenCV: Pillow has none in colour."""

import struct
import zlib
from typing import Any

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from PIL.TiffTags import TAGS_V2

from srgan_ray.data.images import SAVE_OPTIONS, UnsupportedFormat

TIFF_TAGS = {info.name: tag for tag, info in TAGS_V2.items()}
MOST = np.iinfo(np.uint16).max
WHITE_IS_ZERO, ONE_PLANE_EACH, UNSIGNED = 0, 2, 1
UNSPECIFIED, PREMULTIPLIED = 0, 1  # what the fourth channel of a TIFF file may be, beside plain alpha
PNG_SIGNATURE, PNG_HEADER_END = 8, 8 + 25
GREY_WITH_ALPHA = 4  # PNG's number for it


def is_deep(image: Image.Image) -> bool:
    """Whether a file stores 16 bit, told by its header while its pixels are not loaded. Of CMYK Pillow reads 8."""
    if isinstance(image, TiffImageFile):
        return set(_tag(image, "BitsPerSample", (1,))) == {16} and image.mode != "CMYK"
    return ";16" in _layout(image)


def decode_deep(encoded: bytes, image: Image.Image) -> np.ndarray:
    """`uint16` (H, W, 1 to 4), as the file has them; a TIFF file's are turned upright.

    Raises UnsupportedFormat for TIFF files that OpenCV would read wrong, and ValueError for damaged ones.
    """
    if isinstance(image, TiffImageFile):
        _check_is_read(image)
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise ValueError("its 16-bit pixels cannot be decoded")
    pixels = np.atleast_3d(pixels)
    pixels = np.concatenate([pixels[..., 2::-1], pixels[..., 3:]], axis=2)
    if isinstance(image, TiffImageFile):
        return _as_tagged(pixels, image)
    if _layout(image).startswith("LA"):  # which OpenCV gives as colour
        return pixels[..., [0, 3]]
    if pixels.shape[2] == 1 and "transparency" in image.info:
        alpha = np.where(pixels == image.info["transparency"], 0, MOST).astype(np.uint16)
        return np.concatenate([pixels, alpha], axis=2)
    return pixels


def encode_deep_png(
    colour: np.ndarray, alpha: np.ndarray | None, icc_profile: bytes, dpi: tuple[float, float] | None, exif: bytes
) -> bytes:
    """The bytes of a PNG file of `uint16` (H, W, 1 or 3) and (H, W, 1), with what OpenCV leaves out put behind the
    header."""
    pixels = colour[..., ::-1] if alpha is None else np.concatenate([colour[..., ::-1], alpha], axis=2)
    is_grey_with_alpha = pixels.shape[2] == 2
    if is_grey_with_alpha:  # no encoder at hand: to PNG's filters its bytes are those of RGBA with 8 bit
        pixels = pixels.astype(">u2").view(np.uint8)[..., [2, 1, 0, 3]]
    options = [cv2.IMWRITE_PNG_COMPRESSION, SAVE_OPTIONS["png"]["compress_level"]]
    content = cv2.imencode(".png", np.ascontiguousarray(pixels), options)[1].tobytes()
    signature, header, rest = content[:PNG_SIGNATURE], content[PNG_SIGNATURE:PNG_HEADER_END], content[PNG_HEADER_END:]
    if is_grey_with_alpha:
        size = header[8:16]
        header = _chunk(b"IHDR", size + bytes([16, GREY_WITH_ALPHA, 0, 0, 0]))
    chunks = b""
    if icc_profile:
        chunks += _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc_profile))
    if dpi:
        per_metre = (round(dots / 0.0254) for dots in dpi)
        chunks += _chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1))
    if exif:
        chunks += _chunk(b"eXIf", exif.removeprefix(b"Exif\0\0"))
    return signature + header + chunks + rest


def _layout(image: Image.Image) -> str:
    """How the file stores its pixels, by Pillow's name: RGB;16B is 16 bit."""
    tiles = getattr(image, "tile", [])
    return str(tiles[0][3]) if tiles else ""


def _tag(image: TiffImageFile, name: str, default: Any) -> Any:
    return image.tag_v2.get(TIFF_TAGS[name], default)


def _check_is_read(image: TiffImageFile) -> None:
    if _tag(image, "PlanarConfiguration", 1) == ONE_PLANE_EACH and _tag(image, "SamplesPerPixel", 1) != 1:
        raise UnsupportedFormat("a TIFF image of 16 bit with a plane for each channel; wanted them side by side")
    if set(_tag(image, "SampleFormat", (UNSIGNED,))) != {UNSIGNED}:
        raise UnsupportedFormat("a TIFF image of 16 bit with a sign, or floating point; wanted unsigned integers")


def _as_tagged(pixels: np.ndarray, image: TiffImageFile) -> np.ndarray:
    """What a TIFF file's numbers stand for."""
    if _tag(image, "PhotometricInterpretation", 1) == WHITE_IS_ZERO:
        return MOST - pixels
    if pixels.shape[2] < 4:
        return pixels
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    match _tag(image, "ExtraSamples", ()):
        case (kind, *_) if kind == UNSPECIFIED:
            return colour
        case (kind, *_) if kind == PREMULTIPLIED:
            plain = (colour.astype(np.uint32) * MOST + alpha // 2) // np.maximum(alpha, 1)
            return np.concatenate([np.minimum(plain, MOST).astype(np.uint16), alpha], axis=2)
    return pixels


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
