"""Bytes and pixels: the one place where images are decoded and encoded and where value ranges change.

A decoded image is `uint8`, RGB, (height, width, 3), or `uint16` where one of 16 bit is served. What the networks see is
`float32` in [0, 1], (…, 3, height, width). Nothing else in the project converts between the two.
"""

import io
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps

READABLE_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")
SAVE_OPTIONS: dict[str, dict[str, int]] = {
    "png": {"compress_level": 1},  # of SR: 0.7 of the time of level 3, 1.05 of the bytes
    "jpeg": {"quality": 95, "subsampling": 0},
    "webp": {"quality": 95},
}
MAX_DECODED_PIXELS = 100_000_000
WEBP_MAX_SIDE_PX = 16383
EXIF_ORIENTATION = 0x0112
DNG_VERSION = 0xC612  # Adobe's DNG specification 1.7, chapter 4
PNG_DEPTH_AT = 24  # PNG's third edition, §11.2.1
ISO_MEDIA = b"ftyp"  # the box that files of ISO 14496-12 begin with
BITS_PER_SAMPLE = 258  # a tag of TIFF
UPRIGHT, TURNED = 1, range(2, 9)  # EXIF orientations; 0, which is common, and others that are none turn nothing


class UnreadableImage(ValueError):
    """The bytes are not an image, or a damaged one."""


class UnsupportedFormat(UnreadableImage):
    """The bytes are an image of a format outside READABLE_FORMATS, or of a depth that is not read."""


class TooManyPixels(UnreadableImage):
    """The header announces more pixels than may be decoded."""


class Header(NamedTuple):
    """What an image says about itself before it is decoded; the sizes are those before EXIF orientation."""

    format: str
    width: int
    height: int


class Traits(NamedTuple):
    """How an image is stored: Pillow's name of its pixel mode, EXIF orientation (1: upright), JPEG luminance table."""

    format: str
    mode: str
    orientation: int
    num_frames: int
    has_transparency: bool
    quantization: tuple[int, ...]

    @property
    def is_plain(self) -> bool:
        """Whether any decoder gives the same pixels as `decode`: 8-bit RGB or grey JPEG or PNG, stored upright. Of an
        animated PNG some decoders take the first frame of the animation, others an image that it need not show."""
        plain = (self.format == "JPEG" or (self.format == "PNG" and self.num_frames == 1)) and self.mode in ("RGB", "L")
        return plain and not self.has_transparency and self.orientation == UPRIGHT


def open_image(encoded: bytes) -> Image.Image:
    """Pillow's image, its header read and its pixels not yet. Raises UnreadableImage and its kinds."""
    try:
        image = Image.open(io.BytesIO(encoded))
    except Image.DecompressionBombError as error:
        raise TooManyPixels(f"more than {MAX_DECODED_PIXELS} pixels: {error}") from error
    except Exception as error:  # a damaged header makes Pillow's plugins raise nearly anything
        if encoded[4:8] == ISO_MEDIA:
            raise UnsupportedFormat(f"a HEIC image; readable are {', '.join(READABLE_FORMATS)}") from error
        raise UnreadableImage(f"not an image: {len(encoded)} bytes of no format that can be told") from error
    if _format(image) not in READABLE_FORMATS:
        raise UnsupportedFormat(f"a {image.format} image; readable are {', '.join(READABLE_FORMATS)}")
    if DNG_VERSION in getattr(image, "tag_v2", {}):
        raise UnsupportedFormat("a DNG image, whose first picture is a thumbnail; wanted the developed photograph")
    if image.width * image.height > MAX_DECODED_PIXELS:
        raise TooManyPixels(f"{image.width}x{image.height} pixels, more than {MAX_DECODED_PIXELS}")
    if image.format == "PNG" and image.mode == "L" and "transparency" in image.info:
        # Pillow brings levels of 2 and 4 bit to 8, but not the one that is transparent.
        image.info["transparency"] *= 255 // (2 ** encoded[PNG_DEPTH_AT] - 1)
    return image


def read_header(encoded: bytes) -> Header:
    """Format and size of encoded image bytes, told by their content, without decoding the pixels.

    Raises UnreadableImage, UnsupportedFormat, or TooManyPixels.
    """
    image = open_image(encoded)
    return Header(_format(image), image.width, image.height)


def decode(encoded: bytes) -> np.ndarray:
    """Encoded image bytes to `uint8` RGB (H, W, 3), upright (EXIF orientation applied).

    16-bit grey is scaled to 8 bit, transparency is laid over white; but the one transparent colour (tRNS) of a PNG with
    16-bit colour, which Pillow has cut to 8 bit, may be missed. Raises UnreadableImage, UnsupportedFormat, or
    TooManyPixels.
    """
    image = open_image(encoded)
    check_depth(image)
    try:
        ImageOps.exif_transpose(image, in_place=True)
        return np.asarray(_to_rgb(image))
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, …
        raise UnreadableImage(f"damaged {image.format} image: {error}") from error


def check_depth(image: Image.Image) -> None:
    """Raise UnsupportedFormat for floating point, 32 bit and signed numbers, of which no level is known to be white,
    and for 12 bit, which Pillow gives as if they were 16.
    """
    bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, ())
    if image.mode in ("F", "I") or 12 in bits:
        raise UnsupportedFormat(
            f"a {image.format} image with pixels of 12 or 32 bit, or with a sign; wanted 8 or 16 bit, unsigned"
        )


def decode_stored(encoded: bytes) -> np.ndarray:
    """The bytes of a shard set, of which `Traits.is_plain` holds or which `encode_lossless` wrote, to the pixels that
    `decode` gives. Raises UnreadableImage.

    By OpenCV, for speed: a photograph and its two LR images took 1.1 to 1.2 ms, and 1.6 to 1.8 ms by `decode`; in eight
    threads on 2 cores 0.5 and 0.8 to 1.4 ms.
    """
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB) if encoded else None
    if pixels is None:
        raise UnreadableImage(f"damaged image of {len(encoded)} bytes")
    return pixels


def encode(image: np.ndarray, format: str) -> bytes:
    """`uint8` RGB (H, W, 3) to the bytes of a "png" (lossless), "jpeg" or "webp" (both at quality 95) file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=format, **SAVE_OPTIONS[format])
    return buffer.getvalue()


def encode_lossless(image: np.ndarray) -> bytes:
    """`uint8` RGB (H, W, 3) to lossless WebP, or PNG where a side is longer than WebP allows.

    LR images of 96 full-size photographs: 22 % fewer bytes than PNG (level 3), in 0.4 ms instead of 1.0 ms each.
    """
    if max(image.shape) > WEBP_MAX_SIDE_PX:
        return encode(image, "png")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="webp", lossless=True, method=0, quality=75)
    return buffer.getvalue()


def thumbnail(encoded: bytes, side_px: int) -> bytes:
    """A JPEG of at most `side_px` x `side_px` pixels. Raises UnreadableImage and its kinds."""
    return shrink(decode(encoded), side_px)


def shrink(image: np.ndarray, side_px: int) -> bytes:
    """`uint8` RGB (H, W, 3) to a JPEG of at most `side_px` x `side_px` pixels; a smaller image keeps its size."""
    small = Image.fromarray(image)
    small.thumbnail((side_px, side_px))
    buffer = io.BytesIO()
    small.save(buffer, format="jpeg", quality=75)
    return buffer.getvalue()


def read_traits(encoded: bytes) -> Traits:
    """How encoded image bytes are stored, without decoding the pixels. Raises UnreadableImage and its kinds."""
    image = open_image(encoded)
    try:
        tables = getattr(image, "quantization", None) or {}
        orientation = image.getexif().get(EXIF_ORIENTATION, UPRIGHT)
        return Traits(
            _format(image),
            image.mode,
            int(orientation) if orientation in TURNED else UPRIGHT,
            getattr(image, "n_frames", 1),
            image.has_transparency_data,
            tuple(tables.get(0, ())),
        )
    except Exception as error:  # as in `decode`
        raise UnreadableImage(f"damaged {image.format} image: {error}") from error


def crop_to_multiple(image: np.ndarray, multiple: int) -> np.ndarray:
    """The image without the rows at the bottom and columns at the right that keep its sides from being multiples."""
    height, width = image.shape[:2]
    return image[: height - height % multiple, : width - width % multiple]


def is_one_colour(image: np.ndarray) -> bool:
    """Whether all pixels are alike: any interpolation restores them exactly, for an infinite PSNR in every mean."""
    return bool((image == image[0, 0]).all())


def to_float(images: np.ndarray) -> np.ndarray:
    """`uint8` or `uint16` (…, H, W, 3), over their whole range, to `float32` (…, 3, H, W) in [0, 1]."""
    most = np.float32(np.iinfo(images.dtype).max)
    return np.divide(np.moveaxis(images, -1, -3), most, dtype=np.float32)  # in one pass, without a copy in between


def to_levels(planes: np.ndarray, dtype: np.typing.DTypeLike = np.uint8) -> np.ndarray:
    """`float32` (…, 3, H, W) to `uint8` or `uint16` (…, H, W, 3): rounded to the nearest level, clipped."""
    most = np.iinfo(dtype).max
    levels = np.multiply(planes, most, dtype=np.float32)
    levels += 0.5
    np.clip(np.floor(levels, out=levels), 0, most, out=levels)
    return np.ascontiguousarray(np.moveaxis(levels.astype(dtype), -3, -1))


def _format(image: Image.Image) -> str:
    """Pillow's name of the format; MPO, which some cameras write, is a JPEG with more pictures behind it."""
    return "JPEG" if image.format == "MPO" else str(image.format)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image  # what most are; `convert` would copy it
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips instead of scaling
        grey = np.asarray(image).astype(np.float64)
        if image.has_transparency_data:  # the one level that is transparent
            grey[grey == image.info["transparency"]] = 65535
        return Image.fromarray(np.floor(np.clip(grey, 0, 65535) / 257 + 0.5).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")
    return image.convert("RGB")
