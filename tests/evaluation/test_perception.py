import cv2
import numpy as np
import pytest
import skimage.data
from scipy.stats import wasserstein_distance

from fakes import photograph
from srgan_ray.data.degrade import matlab_bicubic, matlab_bicubic_up
from srgan_ray.evaluation import perception
from srgan_ray.evaluation.metrics import Protocol
from srgan_ray.evaluation.perception import measure_swd, sliced_wasserstein
from srgan_ray.models.artifact import find_generator, load_generator
from srgan_ray.models.upscaler import Upscaler

HR = skimage.data.astronaut()[:256, 128:384]


def test_equal_images_are_0_apart() -> None:
    assert sliced_wasserstein([(HR, HR), (HR[:100], HR[:100])]) == 0


def test_the_more_blurred_the_farther() -> None:
    distances = [sliced_wasserstein([(cv2.GaussianBlur(HR, (0, 0), sigma), HR)]) for sigma in (0.5, 0.8, 1.2, 2)]
    assert distances == sorted(distances)
    assert distances[0] > 10


def test_what_has_learned_is_nearer_than_bicubic_and_the_perceptual_one_nearest() -> None:
    lr = matlab_bicubic(HR)
    learned = [Upscaler(load_generator(find_generator(name))[0], "fp32")(lr) for name in ("psnr", "perceptual")]
    bicubic, psnr, perceptual = (sliced_wasserstein([(sr, HR)]) for sr in (matlab_bicubic_up(lr), *learned))
    assert bicubic > 1.1 * psnr > 1.1 * perceptual


def test_each_projection_is_scipys_distance() -> None:
    random = np.random.default_rng(1)
    ours, theirs = random.normal(0, 1, (50, 6)).astype(np.float32), random.normal(1, 2, (50, 6)).astype(np.float32)
    directions = np.random.default_rng(0).standard_normal((6, perception.NUM_DIRECTIONS), np.float32)
    directions /= np.linalg.norm(directions, axis=0)
    expected = np.mean([wasserstein_distance(ours @ way, theirs @ way) for way in directions.T])
    assert perception._distance(ours, theirs) == pytest.approx(expected, rel=1e-4)


def test_the_bands_add_up_to_the_image() -> None:
    image = photograph(0, 64, 48).astype(np.float32)
    coarse = cv2.pyrDown(image)
    coarsest = cv2.pyrDown(coarse)
    half = perception._laplacian(photograph(0, 64, 48), 1) + cv2.pyrUp(coarsest, dstsize=(24, 32))
    whole = perception._laplacian(photograph(0, 64, 48), 0) + cv2.pyrUp(half, dstsize=(48, 64))
    np.testing.assert_allclose(whole, image, atol=1e-3)


def test_the_measurement_says_how_it_was_made() -> None:
    measured = measure_swd([(HR, HR)], Protocol("niqe", "y", "mixed", "abc", model_hash="def"))
    wanted = Protocol("swd", "rgb", "mixed", "abc", border_px=0, average="patches of all images")
    assert (measured.value, measured.protocol) == (0, wanted)
