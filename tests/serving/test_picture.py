"""Pictures come back whole: compared with Pillow and OpenCV, which read the results."""

import io
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from fakes import photograph
from srgan_ray.data.images import EXIF_ORIENTATION, UnreadableImage, UnsupportedFormat
from srgan_ray.serving import picture as picture_module
from srgan_ray.serving.picture import TooLargeForFormat, check_fits, decode_picture, encode_picture, enlarge

COLOUR = photograph(1, 24, 36)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]
MAKE, EXIF_IFD, WIDTH_TAG, GPS_IFD = 0x010F, 0x8769, 0xA002, 0x8825


def save(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def read(encoded: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(encoded))
    image.load()
    return image


def nearest(lr: np.ndarray) -> np.ndarray:
    return lr.repeat(4, axis=0).repeat(4, axis=1)


def cubic(lr: np.ndarray) -> np.ndarray:
    return cv2.resize(np.ascontiguousarray(lr), None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)


def through(encoded: bytes, format: str = "png", upscale: Callable[[np.ndarray], np.ndarray] = nearest) -> bytes:
    return encode_picture(enlarge(decode_picture(encoded), upscale), format)


def png_16_bits(pixels: np.ndarray) -> bytes:
    """(H, W), or (H, W, 3 or 4) in RGB order, by OpenCV."""
    order = {2: ..., 3: (..., [2, 1, 0, 3][: pixels.shape[-1]])}[pixels.ndim]
    return cv2.imencode(".png", np.ascontiguousarray(pixels[order]))[1].tobytes()


def read_16_bits(encoded: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels.dtype == np.uint16
    return pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_applied_and_reset(orientation: int) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    exif[MAKE] = "maker"
    for format in ("PNG", "WEBP", "TIFF"):
        encoded = save(Image.fromarray(COLOUR), format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
        result = read(through(encoded))
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
        np.testing.assert_array_equal(np.asarray(result), nearest(np.asarray(expected)))
        assert EXIF_ORIENTATION not in result.getexif()
        assert format == "TIFF" or result.getexif()[MAKE] == "maker"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bits_are_turned_too(orientation: int) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    expected = np.asarray(ImageOps.exif_transpose(read(save(Image.fromarray(COLOUR[..., 0]), "PNG", exif=exif))))
    for format in ("PNG", "TIFF"):
        encoded = save(Image.fromarray(COLOUR[..., 0].astype(np.uint16)), format, exif=exif)
        np.testing.assert_array_equal(read_16_bits(through(encoded)), nearest(expected), err_msg=format)


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("has_16_bits", [False, True])
def test_profile_and_resolution_are_kept(format: str, has_16_bits: bool) -> None:
    if has_16_bits:
        encoded = save(Image.fromarray(COLOUR), "PNG", icc_profile=SRGB, dpi=(300, 150))
        end_of_header = 8 + 25
        start_of_pixels = encoded.index(b"IDAT") - 4
        whole = png_16_bits(COLOUR.astype(np.uint16) * 257)
        encoded = whole[:end_of_header] + encoded[end_of_header:start_of_pixels] + whole[end_of_header:]
    else:
        encoded = save(Image.fromarray(COLOUR), "JPEG", icc_profile=SRGB, dpi=(300, 150))
    result = read(through(encoded, format))
    assert result.info["icc_profile"] == SRGB
    if format == "webp":
        assert (result.getexif()[0x011A], result.getexif()[0x011B]) == pytest.approx((300, 150), abs=0.02)
    else:
        assert result.info["dpi"] == pytest.approx((300, 150), abs=0.02)


def test_the_resolution_turns_with_the_picture() -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 8
    encoded = save(Image.fromarray(COLOUR), "PNG", exif=exif, dpi=(300, 150))
    assert read(through(encoded)).info["dpi"] == pytest.approx((150, 300), abs=0.02)


def test_a_profile_of_another_kind_is_left_out() -> None:
    encoded = save(Image.fromarray(COLOUR[..., 0]), "PNG", icc_profile=SRGB)
    assert "icc_profile" not in read(through(encoded)).info
    encoded = save(Image.fromarray(COLOUR[..., 0]), "PNG", icc_profile=GREY_PROFILE)
    assert read(through(encoded)).info["icc_profile"] == GREY_PROFILE


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_exif_is_kept_with_the_new_size(format: str) -> None:
    exif = Image.Exif()
    exif[MAKE] = "maker"
    exif.get_ifd(EXIF_IFD)[WIDTH_TAG] = 36
    exif.get_ifd(GPS_IFD)[1] = "N"
    result = read(through(save(Image.fromarray(COLOUR), "JPEG", exif=exif), format)).getexif()
    assert result[MAKE] == "maker"
    assert result.get_ifd(EXIF_IFD)[WIDTH_TAG] == 144
    assert result.get_ifd(GPS_IFD)[1] == "N"


def test_the_tags_of_a_tiff_stay_with_it() -> None:
    result = read(through(save(Image.fromarray(COLOUR), "TIFF", dpi=(72, 72)), "jpeg"))
    assert not len(result.getexif())
    assert result.info["dpi"] == (72, 72)


def test_grey_stays_grey() -> None:
    encoded = save(Image.fromarray(COLOUR[..., 0]), "PNG")
    assert read(through(encoded, "png")).mode == read(through(encoded, "jpeg")).mode == "L"
    np.testing.assert_array_equal(np.asarray(read(through(encoded))), nearest(COLOUR[..., 0]))
    one_bit = Image.fromarray(COLOUR[..., 0]).convert("1")
    np.testing.assert_array_equal(np.asarray(read(through(save(one_bit, "PNG")))), nearest(np.asarray(one_bit) * 255))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_stay_16_bits_by_type(channels: int) -> None:
    """Values below 256, which a look at the values takes for 8 bit, among them."""
    random = np.random.default_rng(0)
    for most in (200, 65536):
        pixels = random.integers(1, most, (20, 24, channels), np.uint16)
        pixels = pixels[..., 0] if channels == 1 else pixels
        np.testing.assert_array_equal(read_16_bits(through(png_16_bits(pixels))), nearest(pixels))
    tiff = cv2.imencode(".tiff", pixels if channels == 1 else pixels[..., [2, 1, 0, 3][:channels]])[1].tobytes()
    np.testing.assert_array_equal(read_16_bits(through(tiff)), nearest(pixels))


def test_16_bits_in_formats_that_have_8_are_rounded() -> None:
    pixels = np.full((8, 8), 1000, np.uint16)  # 3.89 of 255
    assert (np.asarray(read(through(png_16_bits(pixels), "jpeg"))) == 4).all()


def test_grey_of_16_bits_with_transparency_becomes_colour_with_transparency() -> None:
    grey, alpha = np.full((8, 8), 1000, np.uint16), np.full((8, 8), 40000, np.uint16)
    lines = np.stack([grey, alpha], axis=-1).astype(">u2").reshape(8, -1)
    content = b"".join(b"\0" + line.tobytes() for line in lines)
    chunk = picture_module._chunk
    header = chunk(b"IHDR", (8).to_bytes(4, "big") * 2 + bytes([16, 4, 0, 0, 0]))
    encoded = (
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", picture_module.zlib.compress(content)) + chunk(b"IEND", b"")
    )
    assert decode_picture(encoded).colour.shape == (8, 8, 1)
    result = read_16_bits(through(encoded))
    assert (result == [1000, 1000, 1000, 40000]).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_transparency_has_no_dark_fringe(dtype: type) -> None:
    """A red disc on transparent black, enlarged by bicubic interpolation: all that is seen of it is red."""
    most = np.iinfo(dtype).max
    y, x = np.mgrid[:40, :40] - 20
    alpha = np.clip((15 - np.hypot(x, y)) * most, 0, most).astype(dtype)
    disc = np.zeros((40, 40, 4), dtype)
    disc[..., 0], disc[..., 3] = np.where(alpha > 0, most, 0), alpha
    encoded = png_16_bits(disc) if dtype == np.uint16 else save(Image.fromarray(disc), "PNG")
    result = enlarge(decode_picture(encoded), cubic)
    assert result.alpha is not None
    seen = result.alpha[..., 0] > 0
    assert (result.colour[seen] == [most, 0, 0]).all()
    np.testing.assert_allclose(seen.sum(), np.pi * 60**2, rtol=0.1)
    over_white = np.asarray(read(encode_picture(result, "jpeg"))).astype(int)
    assert over_white[..., 0].min() > 245, "red and white have all of red"


def test_the_filling_reaches_everywhere_and_leaves_what_is_seen() -> None:
    colour = photograph(2, 33, 50)
    alpha = np.zeros((33, 50, 1), np.uint8)
    alpha[10:14, 20:23] = [[[7]]]
    filled = picture_module._carry_colours_on(colour, alpha)
    np.testing.assert_array_equal(filled[10:14, 20:23], colour[10:14, 20:23])
    around = colour[10:14, 20:23].reshape(-1, 3)
    assert (filled.reshape(-1, 3) >= around.min(axis=0)).all()
    assert (filled.reshape(-1, 3) <= around.max(axis=0)).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA", "CMYK", "YCbCr", "LAB", "RGBX"])
def test_other_modes_are_read_as_pillow_reads_them(mode: str) -> None:
    original = Image.fromarray(COLOUR)
    if mode == "LAB":
        transform = ImageCms.buildTransform(*map(ImageCms.createProfile, ("sRGB", "LAB")), "RGB", "LAB")
        stored, expected, tolerance = ImageCms.applyTransform(original, transform), original, 12
    else:
        stored = original.convert("P").convert("PA") if mode == "PA" else original.convert(mode)
        expected = stored.convert("LA" if mode == "LA" else "RGBA" if stored.has_transparency_data else "RGB")
        tolerance = 0
    format = {"CMYK": "TIFF", "YCbCr": "TIFF", "LAB": "TIFF", "RGBX": "TIFF", "PA": "TIFF"}.get(mode, "PNG")
    result = read(through(save(stored, format)))
    assert result.mode == expected.mode
    difference = np.asarray(result).astype(int) - nearest(np.asarray(expected))
    assert np.abs(difference).max() <= tolerance


def test_a_transparent_colour_of_a_palette_and_of_rgb() -> None:
    palette = Image.fromarray(COLOUR).convert("P", palette=Image.Palette.ADAPTIVE)
    encoded = save(palette, "PNG", transparency=palette.getpixel((5, 5)))
    assert np.asarray(read(through(encoded)))[22, 22, 3] == 0
    encoded = save(Image.fromarray(COLOUR), "PNG", transparency=tuple(int(level) for level in COLOUR[3, 7]))
    alpha = np.asarray(read(through(encoded)))[..., 3]
    assert (alpha[12:16, 28:32] == 0).all()
    assert alpha.mean() > 200


def test_what_a_format_cannot_hold_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(picture_module.MAX_SIDE_PX, "webp", 100)
    with pytest.raises(TooLargeForFormat, match="144x96 pixels; webp holds at most 100"):
        check_fits(decode_picture(save(Image.fromarray(COLOUR), "PNG")), "webp")
    check_fits(decode_picture(save(Image.fromarray(COLOUR[:25, :25]), "PNG")), "webp")


def test_pixels_of_32_bit_and_damaged_ones_are_refused() -> None:
    with pytest.raises(UnsupportedFormat, match="32 bit"):
        decode_picture(save(Image.fromarray(COLOUR[..., 0].astype(np.float32)), "TIFF"))
    large = photograph(1, 200, 300)
    tiff = cv2.imencode(".tiff", large.astype(np.uint16))[1].tobytes()
    for encoded in (save(Image.fromarray(large), "JPEG"), png_16_bits(large.astype(np.uint16)), tiff):
        decode_picture(encoded)
        with pytest.raises(UnreadableImage, match=r"damaged|not an image"):
            decode_picture(encoded[: 3 * len(encoded) // 4])
