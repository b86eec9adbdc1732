"""A picture with all that it carries: grey or colour, 8 or 16 bit, transparency, colour profile, resolution, EXIF.

1. `decode_picture` turns it upright, and tells grey and depth by the file's type, never by its values.
2. `enlarge` gives each of its parts to a generator.
3. `encode_picture` writes as much of it as the format can hold.
"""

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageCms

from srgan_ray.data.degrade import SCALE
from srgan_ray.data.images import (
    SAVE_OPTIONS,
    WEBP_MAX_SIDE_PX,
    UnreadableImage,
    UnsupportedFormat,
    check_depth,
    open_image,
)
from srgan_ray.serving.deep import decode_deep, is_deep
from srgan_ray.serving.metadata import exif_bytes, read_dpi, read_exif, with_size
from srgan_ray.serving.png import encode_png

# of JPEG: libjpeg's own limit, a little below the format's
MAX_SIDE_PX = {"png": 2**31 - 1, "jpeg": 65500, "webp": WEBP_MAX_SIDE_PX}
STRIP_PX = 64  # rows


class TooLargeForFormat(ValueError):
    """The format cannot hold a picture of this size."""


class Picture(NamedTuple):
    """`colour` is `uint8` or `uint16`, RGB (H, W, 3) or grey (H, W, 1); `alpha` alike, (H, W, 1), None if opaque."""

    colour: np.ndarray
    alpha: np.ndarray | None
    icc_profile: bytes
    """Of the colour; empty where the file has none, which stands for sRGB."""
    dpi: tuple[float, float] | None
    """Dots per inch, across and down."""
    exif: Image.Exif
    """Without orientation."""


def decode_picture(encoded: bytes) -> Picture:
    """Encoded image bytes to a picture, upright; of an animation the first frame.

    CMYK and Lab become sRGB. Raises UnreadableImage, UnsupportedFormat (also for depths that are not read), or
    TooManyPixels.
    """
    image = open_image(encoded)
    try:
        profile = image.info.get("icc_profile") or b""
        has_16_bits = is_deep(image)
        if has_16_bits:
            pixels = decode_deep(encoded, image)
        else:
            check_depth(image)
            pixels = np.atleast_3d(np.asarray(_to_plain_mode(image, profile)))
        exif, orientation = read_exif(image)
        dpi = read_dpi(image, exif)
    except UnsupportedFormat:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, …
        raise UnreadableImage(f"damaged {image.format} image: {error}") from error
    if not (has_16_bits and image.format == "TIFF"):  # which OpenCV has turned already
        pixels = _turn_upright(pixels, orientation)
    num_colours = 1 if pixels.shape[2] < 3 else 3
    alpha = pixels[..., num_colours:] if pixels.shape[2] > num_colours else None
    kind = b"GRAY" if num_colours == 1 else b"RGB "
    if dpi and orientation >= 5:  # lies on its side
        dpi = dpi[::-1]
    return Picture(pixels[..., :num_colours], alpha, profile if profile[16:20] == kind else b"", dpi, exif)


def check_fits(picture: Picture, format: str) -> None:
    """Raise TooLargeForFormat where the format cannot hold the picture at four times its size."""
    height, width = (SCALE * side for side in picture.colour.shape[:2])
    if max(height, width) > MAX_SIDE_PX[format]:
        raise TooLargeForFormat(f"{width}x{height} pixels; {format} holds at most {MAX_SIDE_PX[format]} a side")


def enlarge(picture: Picture, upscale: Callable[[np.ndarray], np.ndarray]) -> Picture:
    """The picture at four times its size. `upscale` takes and gives RGB (h, w, 3) of the picture's own depth.

    Grey goes through it as three equal channels, and so does alpha, unless all of it is the same. Colours are carried
    on into what is transparent before, since what a file holds there, mostly black, would else run into the visible
    edge.
    """
    alpha = picture.alpha
    colour = np.broadcast_to(picture.colour, (*picture.colour.shape[:2], 3))
    if alpha is not None:
        colour = _carry_colours_on(colour, alpha)
    large = upscale(colour)
    if picture.colour.shape[2] == 1:
        large = _by_strips(_mean, large)
    large_alpha = None if alpha is None else _enlarge_alpha(alpha, upscale)
    return picture._replace(colour=large, alpha=large_alpha, exif=with_size(picture.exif, *large.shape[:2]))


def _enlarge_alpha(alpha: np.ndarray, upscale: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Within what the nine pixels round each have: a generator is a few levels off on even areas too, and there what
    is opaque must stay so, and what cannot be seen."""
    height, width, _ = alpha.shape
    if alpha.min() == alpha.max():
        return np.full((SCALE * height, SCALE * width, 1), alpha.min(), alpha.dtype)
    large = _by_strips(_mean, upscale(np.repeat(alpha, 3, axis=2)))
    bounds = [of_nine(alpha, np.ones((3, 3))) for of_nine in (cv2.erode, cv2.dilate)]
    for top in range(0, height, STRIP_PX):
        low, high = (bound[top : top + STRIP_PX].repeat(SCALE, 0).repeat(SCALE, 1)[..., None] for bound in bounds)
        part = large[SCALE * top : SCALE * (top + STRIP_PX)]
        np.clip(part, low, high, out=part)
    return large


def encode_picture(picture: Picture, format: str) -> bytes:
    """The bytes of a "png" (lossless), "jpeg" or "webp" (both at quality 95) file.

    Only PNG holds 16 bit; JPEG has no transparency, which is laid over white.
    """
    exif = exif_bytes(picture.exif, picture.dpi, format)
    if format == "png":
        return encode_png(picture.colour, picture.alpha, picture.icc_profile, picture.dpi, exif)
    if format == "webp":
        picture = _in_colour(picture)
    pixels = over_white(picture) if format == "jpeg" else _stack(picture)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
    options: dict[str, Any] = {**SAVE_OPTIONS[format], "exif": exif}
    if picture.icc_profile:
        options["icc_profile"] = picture.icc_profile
    if picture.dpi and format == "jpeg":
        options["dpi"] = picture.dpi
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def over_white(picture: Picture) -> np.ndarray:
    """What is seen of it, as `uint8` (H, W, 3), or (H, W, 1) for grey."""
    if picture.alpha is None:
        return _to_8_bits(picture.colour)
    return _by_strips(_blend_with_white, picture.colour, picture.alpha)


def _blend_with_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    opacity = _to_8_bits(alpha).astype(np.uint16)
    return ((_to_8_bits(colour) * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)


def _by_strips(compute: Callable[..., np.ndarray], *layers: np.ndarray) -> np.ndarray:
    """Of layers (H, W, …), some rows at a time: what it takes on the way is then small beside them."""
    tops = range(0, len(layers[0]), STRIP_PX)
    return np.concatenate([compute(*(layer[top : top + STRIP_PX] for layer in layers)) for top in tops])


def _stack(picture: Picture) -> np.ndarray:
    """Its channels, `uint8` (H, W, 1 to 4)."""
    colour = _to_8_bits(picture.colour)
    return colour if picture.alpha is None else np.concatenate([colour, _to_8_bits(picture.alpha)], axis=2)


def _in_colour(picture: Picture) -> Picture:
    """Grey with a profile as sRGB, for a format that has no grey; others as they are."""
    if not (picture.colour.shape[2] == 1 and picture.icc_profile):
        return picture
    grey = Image.fromarray(_to_8_bits(picture.colour)[..., 0])
    try:
        colour = np.asarray(_convert_profile(grey, ImageCms.ImageCmsProfile(io.BytesIO(picture.icc_profile))))
    except ImageCms.PyCMSError:  # a damaged profile is none
        return picture._replace(icc_profile=b"")
    return picture._replace(colour=colour, icc_profile=b"")


def _to_8_bits(levels: np.ndarray) -> np.ndarray:
    """`uint16` to `uint8`, rounded; `uint8` as it is."""
    if levels.dtype == np.uint8:
        return levels
    return cv2.convertScaleAbs(levels, alpha=1 / 257).reshape(levels.shape)


def _to_plain_mode(image: Image.Image, profile: bytes) -> Image.Image:
    """In one of L, LA, RGB, RGBA."""
    if image.mode in ("1", "L", "LA", "La"):
        return image.convert("LA" if image.has_transparency_data else "L")
    if image.mode == "CMYK" and profile[16:20] == b"CMYK":
        return _convert_profile(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    if image.mode == "LAB":
        return _convert_profile(image, ImageCms.createProfile("LAB"))
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _convert_profile(image: Image.Image, profile: Any) -> Image.Image:
    converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted
    converted.info = {key: value for key, value in image.info.items() if key != "icc_profile"}
    return converted


def _turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """EXIF 2.3, §4.6.4: where the 0th row and the 0th column of the picture lie in the file."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
    return np.ascontiguousarray(np.flip(pixels, flips.get(orientation, ())))


def _carry_colours_on(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours where alpha is 0 from the nearest visible ones, by averages over ever larger blocks, weighted by alpha
    (the pull-push algorithm of Gortler et al. 1996, §3.4); others as they are."""
    if alpha.all() or not alpha.any():
        return colour
    weight = (alpha / np.iinfo(alpha.dtype).max).astype(np.float32)
    filled = _pull_push(colour.astype(np.float32) * weight, weight)
    return np.where(alpha == 0, np.floor(filled + 0.5), colour).astype(colour.dtype)


def _pull_push(premultiplied: np.ndarray, weight: np.ndarray) -> np.ndarray:
    own = premultiplied / np.maximum(weight, 1e-6)
    height, width = weight.shape[:2]
    if weight.all() or max(height, width) == 1:
        return own
    half = ((width + 1) // 2, (height + 1) // 2)
    smaller = _pull_push(_shrink(premultiplied, half), _shrink(weight, half))
    around = cv2.resize(smaller, (width, height), interpolation=cv2.INTER_LINEAR).reshape(premultiplied.shape)
    return np.where(weight > 0, own, around)


def _shrink(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(values, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], values.shape[2])


def _mean(channels: np.ndarray) -> np.ndarray:
    """(H, W, 3) to (H, W, 1), rounded, in the same depth."""
    return ((channels.sum(axis=2, keepdims=True, dtype=np.uint32) + 1) // 3).astype(channels.dtype)
