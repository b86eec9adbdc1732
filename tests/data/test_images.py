import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from fakes import photograph
from srgan_ray.data import images


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def test_png_returns_the_pixels() -> None:
    image = photograph(0)
    np.testing.assert_array_equal(images.decode(images.encode(image, "png")), image)


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_lossy_formats_are_close_and_red_stays_red(format: str) -> None:
    red = np.zeros((32, 48, 3), np.uint8)
    red[..., 0] = 220
    back = images.decode(images.encode(red, format))
    assert np.abs(back.astype(int) - red).max() <= 12


def test_exif_orientation_is_applied() -> None:
    image = Image.fromarray(photograph(0))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees
    decoded = images.decode(encoded(image, "JPEG", exif=exif, quality=100, subsampling=0))
    assert decoded.shape == (152, 120, 3)
    upright = np.rot90(photograph(0), -1)
    assert np.abs(decoded.astype(int) - upright).mean() < 3


def test_mpo_is_read_as_the_jpeg_that_it_begins_with() -> None:
    """Some phones write several JPEGs into one .jpg file."""
    first, second = Image.fromarray(photograph(0)), Image.fromarray(photograph(1))
    mpo = encoded(first, "MPO", save_all=True, append_images=[second])
    assert images.read_header(mpo) == ("JPEG", 152, 120)
    assert images.read_traits(mpo).num_frames == 2
    np.testing.assert_array_equal(images.decode(mpo), images.decode(encoded(first, "JPEG")))


STORED = {
    "progressive JPEG": encoded(Image.fromarray(photograph(0)), "JPEG", quality=60, progressive=True),
    "JPEG of full colour": encoded(Image.fromarray(photograph(1)), "JPEG", quality=95, subsampling=0),
    "grey JPEG": encoded(Image.fromarray(photograph(0)).convert("L"), "JPEG", quality=85),
    "PNG": encoded(Image.fromarray(photograph(2))),
    "grey PNG": encoded(Image.fromarray(photograph(2)).convert("L")),
    "PNG of 16 bit": cv2.imencode(".png", np.uint16(257) * photograph(3) + np.uint16(99))[1].tobytes(),
    "lossless WebP": images.encode_lossless(photograph(3)),
}


@pytest.mark.parametrize("kind", STORED)
def test_what_shards_store_decodes_to_the_same_pixels(kind: str) -> None:
    assert images.read_traits(STORED[kind]).is_plain or kind == "lossless WebP"
    np.testing.assert_array_equal(images.decode_stored(STORED[kind]), images.decode(STORED[kind]))


@pytest.mark.parametrize("hidden", [True, False])
@pytest.mark.parametrize("number", [1, 2])
def test_what_two_decoders_take_from_an_animated_png_is_not_stored(number: int, hidden: bool) -> None:
    """Its default image is the first frame, or is hidden before them."""
    default, *frames = [Image.fromarray(photograph(seed)) for seed in range(number + 1)]
    animated = encoded(default, save_all=True, append_images=frames, default_image=hidden)
    assert b"acTL" in animated
    assert not images.read_traits(animated).is_plain
    np.testing.assert_array_equal(images.decode(animated), photograph(0))


@pytest.mark.parametrize("kind", STORED)
def test_damage_in_what_shards_store_is_told(kind: str) -> None:
    for damaged in (b"", STORED[kind][:20], STORED[kind][: len(STORED[kind]) // 2]):
        with pytest.raises(images.UnreadableImage, match=f"{len(damaged)} bytes"):
            images.decode_stored(damaged)


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    grey = np.full((8, 8), 32896, np.uint16)  # 128 * 257
    assert (images.decode(encoded(Image.fromarray(grey))) == 128).all()
    dark = np.full((8, 8), 200, np.uint16)  # below 256: told by type, not by value
    assert (images.decode(encoded(Image.fromarray(dark))) == 1).all()


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.uint32, np.int16, "12 bit"])
def test_depths_without_a_known_white_are_refused(kind: type | str) -> None:
    levels = np.arange(64).reshape(8, 8)
    if kind == "12 bit":
        tiff = encoded(Image.fromarray(levels.astype(np.uint16)), "TIFF")
        sixteen, twelve = (struct.pack("<HHIHH", images.BITS_PER_SAMPLE, 3, 1, bits, 0) for bits in (16, 12))
        assert sixteen in tiff
        tiff = tiff.replace(sixteen, twelve)
    else:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, levels.astype(kind))
        tiff = buffer.getvalue()
    with pytest.raises(images.UnsupportedFormat, match="a TIFF image with pixels of 12 or 32 bit, or with a sign"):
        images.decode(tiff)


def test_transparency_is_laid_over_white() -> None:
    clear = np.zeros((8, 8, 4), np.uint8)
    assert (images.decode(encoded(Image.fromarray(clear))) == 255).all()
    grey = np.full((8, 8), 200, np.uint16)
    grey[:4] = 32896
    decoded = images.decode(encoded(Image.fromarray(grey), transparency=32896))
    assert (decoded[:4] == 255).all()
    assert (decoded[4:] == 1).all()


@pytest.mark.parametrize("mode", ["L", "P", "CMYK"])
def test_other_modes_become_rgb(mode: str) -> None:
    format = "JPEG" if mode == "CMYK" else "PNG"
    decoded = images.decode(encoded(Image.fromarray(photograph(0)).convert(mode), format))
    assert decoded.shape == (120, 152, 3)
    assert decoded.dtype == np.uint8


def test_content_not_ending_decides_and_damage_is_told() -> None:
    whole = encoded(Image.fromarray(photograph(0)), "JPEG")
    assert images.read_header(whole) == ("JPEG", 152, 120)
    with pytest.raises(images.UnreadableImage, match="truncated"):
        images.decode(whole[: len(whole) // 2])
    for garbage in (b"", b"not an image", whole[10:]):
        with pytest.raises(images.UnreadableImage):
            images.decode(garbage)
    with pytest.raises(images.UnsupportedFormat, match="GIF"):
        images.decode(encoded(Image.fromarray(photograph(0)), "GIF"))


def test_formats_that_are_told_and_not_read() -> None:
    with pytest.raises(images.UnsupportedFormat, match="HEIC"):
        images.decode(b"\0\0\0\x18ftypheic" + bytes(100))
    raw = encoded(Image.new("RGB", (8, 8)), "TIFF", tiffinfo={50706: b"\1\4\0\0"})
    with pytest.raises(images.UnsupportedFormat, match="DNG"):
        images.decode(raw)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_the_transparent_level_of_grey_is_found_at_every_depth(depth: int) -> None:
    """The second from black, which is laid over white; OpenCV, which takes no note of it, gives the others."""
    rows = {1: b"\0\x50", 2: b"\0\x1b", 4: b"\0\x01\x9f", 8: b"\0\x00\x01\xaa\xff"}[depth]
    header = struct.pack(">IIBBBBB", 4, 1, depth, 0, 0, 0, 0)
    parts = {b"IHDR": header, b"tRNS": struct.pack(">H", 1), b"IDAT": zlib.compress(rows), b"IEND": b""}
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts.items()
    ]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[0, :, 0].tolist()
    levels = images.decode(content)[0, :, 0].tolist()
    transparent = 255 // (2**depth - 1)
    assert levels == [255 if level == transparent else level for level in expected]
    assert transparent in expected


def test_too_many_pixels_are_refused_by_the_header() -> None:
    bomb = encoded(Image.new("1", (20000, 20000)))
    with pytest.raises(images.TooManyPixels):
        images.read_header(bomb)


def test_ranges_round_and_clip() -> None:
    """127.6 becomes 128, 255.4 stays 255, -3 becomes 0."""
    planes = np.array([127.6, 255.4, -3.0], np.float32).reshape(3, 1, 1) / 255
    assert images.to_levels(planes).reshape(3).tolist() == [128, 255, 0]
    image = photograph(0)
    floats = images.to_float(image)
    assert floats.shape == (3, 120, 152)
    assert floats.dtype == np.float32
    assert 0 <= floats.min() <= floats.max() <= 1
    np.testing.assert_array_equal(images.to_levels(floats), image)
    np.testing.assert_allclose(floats[0], image[..., 0] / 255, rtol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(120, 152), (121, 153), (122, 154), (123, 155)])
def test_crop_to_multiple_takes_from_bottom_and_right(height: int, width: int) -> None:
    image = photograph(0, height, width)
    np.testing.assert_array_equal(images.crop_to_multiple(image, 4), image[:120, :152])
