"""Pictures come back whole: compared with Pillow and OpenCV, which read the results."""

import io
import itertools
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from fakes import photograph
from profiles import cmyk_profile, grey_profile, lab_to_srgb, linear_to_srgb
from srgan_ray.data.images import EXIF_ORIENTATION, UnreadableImage, UnsupportedFormat
from srgan_ray.serving import picture as picture_module
from srgan_ray.serving.picture import TooLargeForFormat, check_fits, decode_picture, encode_picture, enlarge

COLOUR = photograph(1, 24, 36)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]
MAKE, IMAGE_WIDTH, X_RESOLUTION, Y_RESOLUTION, UNIT = 0x010F, 0x0100, 0x011A, 0x011B, 0x0128
EXIF_IFD, WIDTH_TAG, EXPOSURE, MAKER_NOTE, GPS_IFD = 0x8769, 0xA002, 0x829A, 0x927C, 0x8825
GREY_WITH_ALPHA = 4  # PNG's number for it


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


def exif_of_a_camera() -> Image.Exif:
    exif = Image.Exif()
    exif[MAKE], exif[IMAGE_WIDTH] = "maker", 36
    exif.get_ifd(EXIF_IFD)[EXPOSURE] = 0.01
    exif.get_ifd(GPS_IFD)[1] = "N"
    return exif


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_of_the_tags_of_a_tiff_those_of_the_photograph_are_kept(format: str) -> None:
    encoded = save(Image.fromarray(COLOUR), "TIFF", dpi=(72, 72), exif=exif_of_a_camera().tobytes())
    result = read(through(encoded, format)).getexif()
    assert result[MAKE] == "maker"
    assert result.get_ifd(EXIF_IFD)[EXPOSURE] == pytest.approx(0.01)
    assert result.get_ifd(GPS_IFD)[1] == "N"
    assert set(result) <= {MAKE, EXIF_IFD, GPS_IFD, X_RESOLUTION, Y_RESOLUTION, UNIT}
    bare = read(through(save(Image.fromarray(COLOUR), "TIFF", dpi=(72, 72)), "jpeg"))
    assert not len(bare.getexif())
    assert bare.info["dpi"] == (72, 72)


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_resolution_in_exif_is_that_of_the_result(orientation: int) -> None:
    """WebP has it nowhere else."""
    exif = exif_of_a_camera()
    exif[X_RESOLUTION], exif[Y_RESOLUTION], exif[UNIT], exif[EXIF_ORIENTATION] = 100.0, 50.0, 3, orientation
    encoded = save(Image.fromarray(COLOUR), "WEBP", exif=exif)
    expected = pytest.approx((254, 127) if orientation == 1 else (127, 254), abs=0.1)
    for format in ("png", "jpeg", "webp"):
        result = read(through(encoded, format))
        assert (result.getexif()[X_RESOLUTION], result.getexif()[Y_RESOLUTION]) == expected
        assert result.getexif()[IMAGE_WIDTH] == (144 if orientation == 1 else 96)
        assert format == "webp" or result.info["dpi"] == expected


@pytest.mark.parametrize("dpi", [(10**9, 10**9), (0, 0), (300, 0)])
def test_a_senseless_resolution_is_none(dpi: tuple[int, int]) -> None:
    encoded = save(Image.fromarray(COLOUR), "TIFF", dpi=dpi)
    for format in ("png", "jpeg", "webp"):
        assert "dpi" not in read(through(encoded, format)).info


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_exif_costs_no_picture() -> None:
    """Every byte of it, changed: some cannot be read, others read and not written."""
    exif = exif_of_a_camera()
    exif[EXIF_ORIENTATION] = 6
    plain, num_left_out = exif.tobytes(), 0
    for place, level in itertools.product(range(6, len(plain)), (0, 2, 5, 255)):
        damaged = plain[:place] + bytes([level]) + plain[place + 1 :]
        encoded = save(Image.fromarray(COLOUR[:2, :3]), "PNG", exif=damaged)
        result = read(through(encoded, "jpeg"))
        num_left_out += not len(result.getexif())
    assert 0 < num_left_out < 2 * len(plain)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_the_orientation_is_applied_though_another_tag_is_damaged() -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION], exif[IMAGE_WIDTH] = 6, 36
    damaged = exif.tobytes().replace(b"\x01\x00\x00\x04", b"\x01\x00\x00\x02")  # a number said to be a text
    assert damaged != exif.tobytes()
    result = read(through(save(Image.fromarray(COLOUR), "PNG", exif=damaged)))
    assert result.size == (96, 144)


def test_exif_too_long_for_a_jpeg_is_left_out_of_it() -> None:
    exif = exif_of_a_camera()
    exif.get_ifd(EXIF_IFD)[MAKER_NOTE] = bytes(70_000)
    encoded = save(Image.fromarray(COLOUR), "WEBP", exif=exif)
    assert not len(read(through(encoded, "jpeg")).getexif())
    assert read(through(encoded, "png")).getexif()[MAKE] == "maker"


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


def deep_png(pixels: np.ndarray, colour_type: int, *chunks: bytes) -> bytes:
    """`uint16` (H, W, channels) by hand, with more chunks behind the header."""
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(">u2"))
    parts = (chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_grey_of_16_bits_with_transparency_stays_that() -> None:
    profile = grey_profile(1.8)
    pixels = np.random.default_rng(0).integers(1, 65536, (20, 24, 2), np.uint16)
    iccp = chunk(b"iCCP", b"name\0\0" + zlib.compress(profile))
    result = through(deep_png(pixels, GREY_WITH_ALPHA, iccp, chunk(b"pHYs", struct.pack(">IIB", 5906, 11811, 1))))
    assert result[24:26] == bytes([16, GREY_WITH_ALPHA])
    np.testing.assert_array_equal(read_16_bits(result), nearest(pixels)[..., [0, 0, 0, 1]])
    again = decode_picture(result)
    np.testing.assert_array_equal(again.colour, nearest(pixels)[..., :1])
    assert (again.icc_profile, again.dpi) == (profile, pytest.approx((150, 300), abs=0.02))


def test_a_transparent_grey_of_16_bits() -> None:
    pixels = np.full((8, 8, 1), 1000, np.uint16)
    pixels[2, 3] = 1001
    result = decode_picture(deep_png(pixels, 0, chunk(b"tRNS", struct.pack(">H", 1001))))
    assert result.alpha is not None
    assert result.alpha[2, 3] == 0
    assert np.count_nonzero(result.alpha == 65535) == 63


def tiff(pixels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


DEEP = COLOUR.astype(np.uint16) * 256 + 7
DEEP_ALPHA = np.broadcast_to(np.linspace(1000, 65535, 36, dtype=np.uint16)[:, None], (24, 36, 1))


@pytest.mark.parametrize("byteorder", "<>")
def test_what_the_16_bits_of_a_tiff_stand_for(byteorder: str) -> None:
    rgb = {"photometric": "rgb", "byteorder": byteorder}
    layers, whole = np.concatenate([DEEP, DEEP_ALPHA], axis=2), decode_picture(tiff(DEEP, **rgb))
    np.testing.assert_array_equal(whole.colour, DEEP)
    for kind in ("unassalpha", "assocalpha", "unspecified"):
        stored = layers.copy()
        if kind == "assocalpha":
            stored[..., :3] = np.round(DEEP * (DEEP_ALPHA / 65535))
        picture = decode_picture(tiff(stored, extrasamples=[kind], **rgb))
        np.testing.assert_allclose(picture.colour.astype(int), DEEP, atol=33 if kind == "assocalpha" else 0)
        assert (picture.alpha is None) == (kind == "unspecified")
        assert picture.alpha is None or (picture.alpha == DEEP_ALPHA).all()


def test_a_tiff_of_16_bits_whose_white_is_zero() -> None:
    np.testing.assert_array_equal(
        decode_picture(tiff(65535 - DEEP[..., 0], photometric="miniswhite")).colour, DEEP[..., :1]
    )


@pytest.mark.parametrize("byteorder", "<>")
def test_cmyk_of_16_bits_becomes_rgb_of_8(byteorder: str) -> None:
    inks = np.asarray(Image.fromarray(COLOUR).convert("CMYK"))
    encoded = tiff(inks.astype(np.uint16) * 257, photometric="separated", byteorder=byteorder)
    expected = Image.fromarray(inks, "CMYK").convert("RGB")
    np.testing.assert_array_equal(decode_picture(encoded).colour, np.asarray(expected))


@pytest.mark.parametrize(
    ("pixels", "options", "reason"),
    [
        (DEEP.transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": "separate"}, "plane for each channel"),
        (DEEP[..., 0].astype(np.int16), {"photometric": "minisblack"}, "sign"),
        (DEEP[..., 0].astype(np.uint32), {"photometric": "minisblack"}, "12 or 32 bit"),
    ],
)
def test_kinds_of_tiff_that_are_not_read_are_refused(pixels: np.ndarray, options: dict, reason: str) -> None:
    with pytest.raises(UnsupportedFormat, match=reason):
        decode_picture(tiff(pixels, **options))


@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
def test_cmyk_goes_through_its_profile(format: str) -> None:
    """Against the formulas of Lab and sRGB, with inks as no real ones are: without the profile other colours come."""
    lab = np.zeros((2, 2, 2, 2, 3))
    for c, m, y in np.ndindex(2, 2, 2):
        lab[c, m, y, 0] = [100 - 25 * (c + m + y), 30 * (m - c), 30 * (y - c)]
    profile = cmyk_profile(lab)
    fields = [(c, m, y, k) for c, m, y, k in np.ndindex(2, 2, 2, 2)]
    inks = np.array(fields, np.uint8).repeat(16, axis=0).reshape(16, 16, 4) * np.uint8(255)
    options = {"quality": 100} if format == "JPEG" else {}
    encoded = save(Image.fromarray(inks.repeat(16, axis=0), "CMYK"), format, icc_profile=profile, **options)
    expected = lab_to_srgb(lab.reshape(16, 3))
    for wanted in ("png", "jpeg", "webp"):
        result = read(through(encoded, wanted))
        assert "icc_profile" not in result.info
        colours = np.asarray(result.convert("RGB"))[32::64, 32]
        np.testing.assert_allclose(colours, expected, atol=2 if (format, wanted) == ("TIFF", "png") else 6)


def test_grey_with_a_profile_keeps_its_tones_where_there_is_no_grey() -> None:
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    encoded = save(Image.fromarray(ramp), "PNG", icc_profile=grey_profile(1.0))
    result = read(through(encoded, "webp"))
    assert "icc_profile" not in result.info
    expected = linear_to_srgb(ramp[0] / 255)
    np.testing.assert_allclose(np.asarray(result)[64, 2::4, 1], expected, atol=6)
    damaged = save(Image.fromarray(ramp), "PNG", icc_profile=GREY_PROFILE)
    assert "icc_profile" not in read(through(damaged, "webp")).info


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


@pytest.mark.parametrize("has_alpha", [True, False])
def test_what_is_seen_over_white_takes_little_memory_on_the_way(has_alpha: bool) -> None:
    """A large picture by strips gives what Pillow gives for it whole."""
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 65536, (1500, 1000, 3), np.uint16)
    alpha = rng.integers(0, 256, (1500, 1000, 1), np.uint16) * 257 if has_alpha else None
    picture = picture_module.Picture(colour, alpha, b"", None, Image.Exif())
    tracemalloc.start()
    seen = picture_module.over_white(picture)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * seen.nbytes
    levels = cv2.convertScaleAbs(colour, alpha=1 / 257)
    if alpha is not None:
        layers = Image.fromarray(np.dstack([levels, alpha // 257]).astype(np.uint8))
        levels = np.asarray(Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers))[..., :3]
    assert np.abs(seen.astype(int) - levels).max() <= 1


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


@pytest.mark.parametrize(("format", "side_px"), [("jpeg", 16375), ("webp", 4095)])
def test_the_longest_side_that_a_format_holds(format: str, side_px: int) -> None:
    longest, longer = (decode_picture(save(Image.new("L", (side_px + more, 1)), "PNG")) for more in (0, 1))
    check_fits(longest, format)
    assert read(encode_picture(enlarge(longest, nearest), format)).width == 4 * side_px
    with pytest.raises(TooLargeForFormat):
        check_fits(longer, format)
    with pytest.raises((OSError, ValueError)):
        encode_picture(enlarge(longer, nearest), format)


def test_pixels_of_32_bit_and_damaged_ones_are_refused() -> None:
    with pytest.raises(UnsupportedFormat, match="32 bit"):
        decode_picture(save(Image.fromarray(COLOUR[..., 0].astype(np.float32)), "TIFF"))
    large = photograph(1, 200, 300)
    tiff = cv2.imencode(".tiff", large.astype(np.uint16))[1].tobytes()
    for encoded in (save(Image.fromarray(large), "JPEG"), png_16_bits(large.astype(np.uint16)), tiff):
        decode_picture(encoded)
        with pytest.raises(UnreadableImage, match=r"damaged|not an image"):
            decode_picture(encoded[: 3 * len(encoded) // 4])


@pytest.mark.parametrize(("dtype", "most"), [(np.uint8, 255), (np.uint16, 65535)])
def test_even_transparency_comes_back_exactly(dtype: type, most: int) -> None:
    """Though a generator is some levels off everywhere."""
    taken = []

    def upscale(image: np.ndarray) -> np.ndarray:
        taken.append(image)
        large = image.repeat(4, 0).repeat(4, 1).astype(int)
        return np.clip(large + np.random.default_rng(0).integers(-9, 10, large.shape), 0, most).astype(dtype)

    colour = np.full((150, 40, 3), most // 2, dtype)
    opaque, half = np.full((150, 40, 1), most, dtype), np.zeros((150, 40, 1), dtype)
    half[:, 20:] = most
    half[:, 30] = most // 3
    same = picture_module.enlarge(picture_module.Picture(colour, opaque, b"", None, Image.Exif()), upscale)
    assert same.alpha is not None
    assert (same.alpha.shape, same.alpha.min(), same.alpha.dtype) == ((600, 160, 1), most, dtype)
    assert len(taken) == 1, "what is known already is not computed"
    mixed = picture_module.enlarge(picture_module.Picture(colour, half, b"", None, Image.Exif()), upscale).alpha
    assert mixed is not None
    assert (mixed[:, : 4 * 19] == 0).all()
    assert (mixed[:, 4 * 21 : 4 * 29] == most).all()
    assert abs(int(np.median(mixed[:, 4 * 30 : 4 * 31])) - most // 3) < 9
