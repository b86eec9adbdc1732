"""Pixels of 16 bit, read by OpenCV: Pillow has none in colour."""

from typing import Any

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from PIL.TiffTags import TAGS_V2

from srgan_ray.data.images import UnsupportedFormat

TIFF_TAGS = {info.name: tag for tag, info in TAGS_V2.items()}
MOST = np.iinfo(np.uint16).max
WHITE_IS_ZERO, ONE_PLANE_EACH, UNSIGNED = 0, 2, 1
UNSPECIFIED, PREMULTIPLIED = 0, 1  # what the fourth channel of a TIFF file may be, beside plain alpha


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
