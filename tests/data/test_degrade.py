import cv2
import numpy as np
import pytest

from fakes import photograph
from srgan_ray.data import images
from srgan_ray.data.degrade import matlab_bicubic, matlab_bicubic_up, opencv_cubic


def cubic(x: np.ndarray) -> np.ndarray:
    x, a = np.abs(x), -0.5
    near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x <= 2, far, 0))


def imresize_reference(image: np.ndarray, scale: float) -> np.ndarray:
    """MATLAB's imresize as its documentation states it, in float64 for any scale: one weight matrix per axis."""
    for _ in range(2):  # rows, transpose, columns, transpose back
        length = image.shape[0]
        num_out = int(np.ceil(length * scale))
        centres = (np.arange(num_out) + 0.5) / scale - 0.5
        shrink = min(scale, 1)
        taps = np.arange(-int(3 / shrink), length + int(3 / shrink))
        weights = cubic(shrink * (centres[:, None] - taps))
        weights /= weights.sum(1, keepdims=True)
        source = image[np.clip(taps, 0, length - 1)].astype(np.float64)
        image = np.clip(np.floor(np.tensordot(weights, source, 1) + 0.5), 0, 255).transpose(1, 0, 2)
    return image.astype(np.uint8)


@pytest.mark.parametrize("shape", [(4, 4), (8, 100), (52, 36), (120, 152)])
def test_matlab_bicubic_equals_a_float64_reference(shape: tuple[int, int]) -> None:
    hr = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    np.testing.assert_array_equal(matlab_bicubic(hr), imresize_reference(hr, 1 / 4))
    lr = hr[: shape[0] // 4, : shape[1] // 4]
    np.testing.assert_array_equal(matlab_bicubic_up(lr), imresize_reference(lr, 4))


@pytest.mark.parametrize("name", ["Set5", "Set14", "BSD100"])
def test_matlab_bicubic_equals_the_published_lr(benchmarks, name: str) -> None:
    paths = sorted((benchmarks / name / "HR").iterdir())
    assert len(paths) == {"Set5": 5, "Set14": 14, "BSD100": 100}[name]
    for path in paths:
        hr = images.crop_to_multiple(images.decode(path.read_bytes()), 4)
        lr = images.decode((benchmarks / name / "LR_bicubic_x4" / path.name).read_bytes())
        np.testing.assert_array_equal(matlab_bicubic(hr), lr, err_msg=path.name)


def test_opencv_cubic_is_opencv() -> None:
    hr = photograph(0)
    np.testing.assert_array_equal(opencv_cubic(hr), cv2.resize(hr, (38, 30), interpolation=cv2.INTER_CUBIC))


def test_only_opencv_cubic_aliases() -> None:
    """A grating of period 4 and mean 128 becomes grey of 128 when antialiased, and another grey when sampled."""
    grating = np.tile(np.array([8, 128, 248, 128], np.uint8)[None, :, None], (64, 16, 3))
    antialiased, sampled = (degrade(grating)[:, 4:-4].astype(int) for degrade in (matlab_bicubic, opencv_cubic))
    assert np.abs(antialiased - 128).max() <= 2
    assert np.abs(sampled - 128).min() > 50


def test_constant_stays_constant() -> None:
    for level in (0, 1, 127, 255):
        flat = np.full((16, 24, 3), level, np.uint8)
        assert (matlab_bicubic(flat) == level).all()
        assert (matlab_bicubic_up(flat) == level).all()


@pytest.mark.parametrize("degrade", [opencv_cubic, matlab_bicubic])
def test_refuses_sides_that_are_no_multiples(degrade) -> None:
    with pytest.raises(ValueError, match="30x41"):
        degrade(np.zeros((41, 30, 3), np.uint8))


@pytest.mark.parametrize("degrade", [opencv_cubic, matlab_bicubic])
def test_lr_lies_where_hr_lies(degrade) -> None:
    """Flipping before or after gives the same LR, which a shift by a pixel would break."""
    hr = photograph(3)
    np.testing.assert_array_equal(degrade(hr[:, ::-1].copy()), degrade(hr)[:, ::-1])
    turned = degrade(np.rot90(hr).copy()).astype(int) - np.rot90(degrade(hr))
    assert np.abs(turned).max() <= 1  # MATLAB rounds between the axes, so that their order shows in the last level
