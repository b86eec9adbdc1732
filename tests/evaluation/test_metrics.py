import json
import math

import numpy as np
import pytest
import torch
import torchmetrics
from skimage.metrics import peak_signal_noise_ratio

from fakes import photograph
from srgan_ray.evaluation.metrics import Measurement, Protocol, as_json, from_json, measure, psnr, rgb_to_y, ssim

HR = photograph(0)
SR = np.clip(HR + np.random.default_rng(0).normal(0, 9, HR.shape), 0, 255).astype(np.uint8)


def test_luma_is_studio_range() -> None:
    """White 235, black 16; the full range would be 1.3 dB off."""
    for level, luma in ((0, 16), (255, 235)):
        assert rgb_to_y(np.full((1, 1, 3), level, np.uint8)).item() == pytest.approx(luma, abs=1e-9)
    red, green, blue = (rgb_to_y(np.uint8([[colour]])).item() for colour in np.eye(3, dtype=np.uint8) * 255)
    assert (red, green, blue) == pytest.approx((81.481, 144.553, 40.966))


@pytest.mark.parametrize("border_px", [0, 4])
def test_psnr_equals_scikit_image(border_px: int) -> None:
    inside = np.s_[border_px : 120 - border_px, border_px : 152 - border_px]
    expected = peak_signal_noise_ratio(HR[inside], SR[inside], data_range=255)
    assert psnr(HR, SR, "rgb", border_px) == pytest.approx(expected)
    expected_y = peak_signal_noise_ratio(rgb_to_y(HR)[inside], rgb_to_y(SR)[inside], data_range=255)
    assert psnr(HR, SR, "y", border_px) == pytest.approx(expected_y)
    assert abs(psnr(HR, SR, "y") - psnr(HR, SR, "rgb")) > 0.5
    assert psnr(HR, HR, "y") == float("inf")


def test_ssim_equals_torchmetrics() -> None:
    """torchmetrics pads before it filters; cut to the places whose window lies inside, the two are one definition."""
    inside = torch.from_numpy(rgb_to_y(np.stack([HR, SR]))[:, 4:-4, 4:-4])[:, None]
    compute = torchmetrics.functional.image.structural_similarity_index_measure
    _, full = compute(inside[:1], inside[1:], sigma=1.5, kernel_size=11, data_range=255.0, return_full_image=True)
    expected = full[..., 5:-5, 5:-5].mean().item()
    assert ssim(HR, SR, "y") == pytest.approx(expected, abs=1e-7)
    assert ssim(HR, HR, "rgb") == pytest.approx(1)
    assert ssim(HR, SR, "rgb") < ssim(HR, SR, "y") < 0.99


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_a_border_of_4_pixels_does_not_count(metric) -> None:
    framed, deeper = SR.copy(), SR.copy()
    framed[:4] = framed[-4:] = framed[:, :4] = framed[:, -4:] = 0
    deeper[:5] = 0
    assert metric(HR, framed, "y") == metric(HR, SR, "y")
    assert metric(HR, deeper, "y") < metric(HR, SR, "y")


def test_the_mean_is_over_images_not_over_pooled_errors() -> None:
    """Two images with MSE 1 and 100 have a mean of 38.13 dB; pooled it would be 31.1."""
    grey = np.full((32, 32, 3), 100, np.uint8)
    figures = measure([(grey, grey + 1), (grey, grey + 10)], "opencv_cubic", "hash")
    assert figures["psnr_rgb"].value == pytest.approx(38.13, abs=0.01)
    assert set(figures) == {"psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb"}


@pytest.mark.parametrize(
    "other",
    [
        Protocol("psnr", "rgb", "opencv_cubic", "h"),
        Protocol("psnr", "y", "matlab_bicubic", "h"),
        Protocol("psnr", "y", "opencv_cubic", "other"),
        Protocol("psnr", "y", "opencv_cubic", "h", border_px=0),
        Protocol("psnr", "y", "opencv_cubic", "h", model_hash="m"),
    ],
)
def test_unlike_protocols_are_not_compared(other: Protocol) -> None:
    mine = Measurement(30.0, Protocol("psnr", "y", "opencv_cubic", "h"))
    assert mine.gain_over(Measurement(28.5, mine.protocol)) == pytest.approx(1.5)
    with pytest.raises(ValueError, match="unlike"):
        mine.gain_over(Measurement(28.5, other))


@pytest.mark.parametrize(("metric", "gain"), [("psnr", 2), ("consistency", 2), ("niqe", -2), ("checkerboard", -2)])
def test_a_gain_is_positive_where_better(metric: str, gain: float) -> None:
    protocol = Protocol(metric, "y", "opencv_cubic", "h")
    assert Measurement(7.0, protocol).gain_over(Measurement(5.0, protocol)) == gain


def test_what_is_infinite_is_null_in_a_file() -> None:
    protocol = Protocol("psnr", "y", "opencv_cubic", "h")
    figures = {"psnr": Measurement(math.inf, protocol), "ssim": Measurement(1.0, protocol)}
    written = json.dumps(as_json(figures), allow_nan=False)
    assert json.loads(written)["psnr"]["value"] is None
    assert from_json(json.loads(written)) == figures
