"""NIQE by its parts against independent references, and as a whole: worse with every distortion."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.data import astronaut, chelsea, coffee

from srgan_ray.data import images
from srgan_ray.data.degrade import matlab_bicubic, matlab_bicubic_up
from srgan_ray.errors import InputError
from srgan_ray.evaluation.metrics import rgb_to_y
from srgan_ray.evaluation.niqe import (
    PristineModel,
    fit_asymmetric_gaussian,
    halve,
    load_pristine_model,
    measure_features,
    niqe,
    normalize,
)

PHOTOGRAPH = images.crop_to_multiple(chelsea(), 4)


@pytest.fixture(scope="module")
def model() -> PristineModel:
    """Pristine are two photographs other than the one that is measured."""
    features = np.concatenate([measure_features(rgb_to_y(photograph)) for photograph in (astronaut(), coffee())])
    return PristineModel(features.mean(axis=0), np.cov(features, rowvar=False))


@pytest.fixture
def published_model(benchmarks: Path) -> PristineModel:
    """The model that papers measure with."""
    path = benchmarks.parent / "niqe_pris_params.npz"
    if not path.is_file():
        pytest.skip(f"no pristine model at {path}")
    return load_pristine_model(str(path))


def blur(sigma_px: float) -> np.ndarray:
    return gaussian_filter(PHOTOGRAPH, (sigma_px, sigma_px, 0))


def add_noise(deviation: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, deviation, PHOTOGRAPH.shape)
    return np.clip(PHOTOGRAPH + noise, 0, 255).astype(np.uint8)


def compress(quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(PHOTOGRAPH).save(buffer, format="jpeg", quality=quality)
    return images.decode(buffer.getvalue())


def draw(shape: float, left: float, right: float, number: int) -> np.ndarray:
    """Samples of (8): each side is taken as often as its scale says; |x / scale|^shape is gamma-distributed."""
    random = np.random.default_rng(0)
    scale = np.where(random.uniform(size=number) < left / (left + right), -left, right)
    return scale * random.gamma(1 / shape, size=number) ** (1 / shape)


@pytest.mark.parametrize(("shape", "left", "right"), [(0.6, 0.5, 0.5), (1.2, 0.4, 1.1), (2, 1.5, 0.7), (4, 1, 2)])
def test_the_fit_finds_the_distribution_that_samples_came_from(shape: float, left: float, right: float) -> None:
    samples = draw(shape, left, right, 400_000)
    fit = fit_asymmetric_gaussian(np.stack([samples, 3 * samples]))
    assert fit.shape == pytest.approx([shape, shape], rel=0.03)
    assert fit.left == pytest.approx([left, 3 * left], rel=0.03)
    assert fit.right == pytest.approx([right, 3 * right], rel=0.03)
    assert fit.mean[0] == pytest.approx(samples.mean(), abs=0.01)


def test_the_fit_knows_gauss_and_laplace() -> None:
    random = np.random.default_rng(0)
    fit = fit_asymmetric_gaussian(np.stack([random.normal(size=400_000), random.laplace(size=400_000)]))
    assert fit.shape == pytest.approx([2, 1], rel=0.02)
    assert fit.left == pytest.approx([np.sqrt(2), 1], rel=0.02)


def test_normalized_luma_is_that_of_the_equations() -> None:
    """One pixel, by (1), (2) and (3) with a window written out; flat areas are exactly 0, whatever their level."""
    luma = np.random.default_rng(0).uniform(16, 235, (20, 20))
    y, x = np.mgrid[-3:4, -3:4]
    window = np.exp(-(x**2 + y**2) / (2 * (7 / 6) ** 2))
    window /= window.sum()
    around = luma[5:12, 7:14]
    mean = (window * around).sum()
    expected = (luma[8, 10] - mean) / (np.sqrt((window * (around - mean) ** 2).sum()) + 1)
    assert normalize(luma)[8, 10] == pytest.approx(expected, abs=1e-8)
    for level in range(16, 236):
        assert not normalize(np.full((9, 9), float(level))).any()


def test_half_size_is_antialiased_bicubic() -> None:
    """Pillow's bicubic has the same kernel; only at the border, which it cuts instead of mirroring, does it differ."""
    luma = np.random.default_rng(0).uniform(0, 255, (64, 96)).astype(np.float32)
    expected = np.asarray(Image.fromarray(luma).resize((48, 32), Image.Resampling.BICUBIC))
    halved = halve(luma.astype(np.float64))
    assert halved.shape == (32, 48)
    np.testing.assert_allclose(halved[2:-2, 2:-2], expected[2:-2, 2:-2], atol=1e-3)
    np.testing.assert_allclose(halve(np.full((8, 8), 7.0)), 7)


def test_features_are_of_blocks() -> None:
    """Each block has its row, from the top left; what is left over at the right and below does not count."""
    luma = rgb_to_y(PHOTOGRAPH)
    features = measure_features(luma)
    assert features.shape == (3 * 4, 36)
    changed = luma.copy()
    changed[:90, 200:270] = 255 - changed[:90, 200:270]
    changed[288:], changed[:, 384:] = 0, 0
    differs = np.abs(measure_features(changed) - features).max(axis=1) > 0.05
    assert differs.nonzero()[0].tolist() == [2]


@pytest.mark.parametrize(
    ("distort", "strengths"), [(blur, (1, 2, 4)), (add_noise, (10, 25, 60)), (compress, (30, 10, 5))]
)
def test_every_distortion_makes_it_worse(model: PristineModel, distort, strengths: tuple) -> None:
    figures = [niqe(image, model) for image in (PHOTOGRAPH, *map(distort, strengths))]
    assert figures == sorted(figures)
    assert figures[-1] > 1.5 * figures[0]


def test_the_border_does_not_count(model: PristineModel) -> None:
    framed = PHOTOGRAPH.copy()
    framed[:4] = framed[-4:] = framed[:, :4] = framed[:, -4:] = 0
    assert niqe(framed, model) == niqe(PHOTOGRAPH, model)
    assert niqe(framed, model, border_px=0) != niqe(PHOTOGRAPH, model, border_px=0)
    assert niqe(PHOTOGRAPH[4:-4, 4:-4], model, border_px=0) == niqe(PHOTOGRAPH, model)


def test_flat_and_small_images(model: PristineModel) -> None:
    assert niqe(np.full((200, 296, 3), 90, np.uint8), model) == float("inf")
    partly_flat = PHOTOGRAPH.copy()
    partly_flat[:110, :110] = 255
    assert niqe(partly_flat, model) < 2 * niqe(PHOTOGRAPH, model)
    with pytest.raises(ValueError, match="199x103 pixels; wanted 2 blocks"):
        niqe(PHOTOGRAPH[:103, :199], model)
    with pytest.raises(ValueError, match="199x104 pixels; wanted 2 blocks"):
        niqe(PHOTOGRAPH[:104, :199], model)
    assert np.isfinite(niqe(PHOTOGRAPH[:104, :200], model))


def test_model_files(tmp_path: Path, model: PristineModel) -> None:
    arrays = {"mu_pris_param": model.mean[None], "cov_pris_param": model.covariance}
    np.savez(tmp_path / "model.npz", **arrays)
    loaded = load_pristine_model(str(tmp_path / "model.npz"))
    np.testing.assert_array_equal(loaded.mean, model.mean)
    assert loaded.hash == model.hash != PristineModel(model.mean + 1, model.covariance).hash
    np.savez(tmp_path / "pickled.npz", **{**arrays, "mu_pris_param": np.array([{}])})
    np.savez(tmp_path / "shape.npz", **{**arrays, "mu_pris_param": model.mean[:18]})
    np.savez(tmp_path / "names.npz", mean=model.mean)
    np.save(tmp_path / "single.npy", model.mean)
    (tmp_path / "text.npz").write_text("no model")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "model.npz").read_bytes()[:3000])
    for name in ("pickled.npz", "shape.npz", "names.npz", "single.npy", "text.npz", "cut.npz", "none.npz"):
        with pytest.raises(InputError, match=f"--niqe-model .*{name}"):
            load_pristine_model(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "hr_figure", "bicubic_figure"),
    [
        ("Set5/HR/img_001.png", 3.322, 7.497),
        ("Set5/HR/img_004.png", 8.741, 9.902),
        ("BSD100/HR/img_001.png", 2.853, 7.800),
        ("BSD100/HR/img_002.png", 3.982, 8.167),
    ],
)
def test_figures_of_basicsr(
    benchmarks: Path, published_model: PristineModel, name: str, hr_figure: float, bicubic_figure: float
) -> None:
    """Measured once with BasicSR 1.4.2, whose float32 differs by up to 0.015."""
    hr, lr = (images.decode((benchmarks / path).read_bytes()) for path in (name, name.replace("HR", "LR_bicubic_x4")))
    assert niqe(hr, published_model) == pytest.approx(hr_figure, abs=0.015)
    assert niqe(matlab_bicubic_up(lr), published_model) == pytest.approx(bicubic_figure, abs=0.015)


def test_photographs_are_natural_and_their_enlargements_are_not(
    benchmarks: Path, published_model: PristineModel
) -> None:
    paths = sorted((benchmarks / "BSD100" / "HR").iterdir())[:20]
    photographs = [images.crop_to_multiple(images.decode(path.read_bytes()), 4) for path in paths]
    assert 2.5 < np.mean([niqe(hr, published_model) for hr in photographs]) < 4.5
    assert 6 < np.mean([niqe(matlab_bicubic_up(matlab_bicubic(hr)), published_model) for hr in photographs]) < 9
