import io

import cv2
import numpy as np
import pytest
from PIL import Image

from srgan_ray.serving.png import STRIP_BYTES, encode_png

SIZES = [(1, 1), (1, 3000), (3000, 1), (701, 503)]


def random_channels(size: tuple[int, int], num_channels: int, dtype: type) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (*size, num_channels), dtype, endpoint=True)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("has_alpha", [False, True])
@pytest.mark.parametrize("num_colours", [1, 3])
def test_pillow_reads_what_was_written(size: tuple[int, int], num_colours: int, has_alpha: bool) -> None:
    """Pillow checks the sums of all chunks; the largest of these pictures is written in several strips."""
    pixels = random_channels(size, num_colours + has_alpha, np.uint8)
    assert size != SIZES[-1] or num_colours + has_alpha < 4 or pixels.nbytes > STRIP_BYTES
    alpha = pixels[..., num_colours:] if has_alpha else None
    image = Image.open(io.BytesIO(encode_png(pixels[..., :num_colours], alpha, b"", None, b"")))
    assert image.mode == {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
    assert np.array_equal(np.asarray(image).reshape(pixels.shape), pixels)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_channels", [1, 3, 4])
def test_opencv_reads_16_bits(size: tuple[int, int], num_channels: int) -> None:
    pixels = random_channels(size, num_channels, np.uint16)
    encoded = encode_png(pixels[..., :3], pixels[..., 3:] if num_channels == 4 else None, b"", None, b"")
    found = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED).reshape(pixels.shape)
    in_order = found if num_channels == 1 else found[..., [2, 1, 0, 3][:num_channels]]
    assert found.dtype == np.uint16
    assert np.array_equal(in_order, pixels)


def test_a_flat_picture_is_small() -> None:
    assert len(encode_png(np.full((1000, 1000, 3), 200, np.uint8), None, b"", None, b"")) < 15_000
