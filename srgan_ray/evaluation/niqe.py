"""NIQE: how far an image's local statistics lie from those of pristine photographs, without a reference.

Mittal, Soundararajan, Bovik 2013, "Making a 'Completely Blind' Image Quality Analyzer", IEEE Signal Processing Letters
20(3); what the paper leaves open (borders, window, shifts inside a block) is as in its authors' MATLAB release.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from scipy.ndimage import correlate1d, gaussian_filter
from scipy.special import gamma

from srgan_ray.errors import InputError
from srgan_ray.evaluation.metrics import BORDER_PX, rgb_to_y

BLOCK_PX = 96
MIN_BLOCKS = 2  # a covariance over blocks needs them
NUM_FEATURES = 36
_SIGMA_PX, _RADIUS_PX = 7 / 6, 3  # the 7x7 Gaussian window of (2) and (3)
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # (7): horizontal, vertical, both diagonals
# Keys' cubic kernel (a = -0.5) widened by 2, at odd quarters of an output pixel.
_HALF_WEIGHTS = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256
# In flat areas rounding errors of 1e-14 would be samples with a sign; they moved the NIQE of a photograph by 0.33.
_DECIMALS = 9
_SHAPES = np.arange(0.2, 10.001, 0.001)
# E|x|^2 / E[x^2] of a generalised Gaussian by its shape, which rises with it.
_RATIOS = gamma(2 / _SHAPES) ** 2 / (gamma(1 / _SHAPES) * gamma(3 / _SHAPES))


class PristineModel(NamedTuple):
    """The 36 features of blocks of pristine photographs as a Gaussian: mean (36,) and covariance (36, 36), float64."""

    mean: np.ndarray
    covariance: np.ndarray

    @property
    def hash(self) -> str:
        """Of all its numbers."""
        return hashlib.sha256(self.mean.tobytes() + self.covariance.tobytes()).hexdigest()[:16]


class AsymmetricGaussian(NamedTuple):
    """Asymmetric generalised Gaussians, one for each row of samples: (8) of the paper."""

    shape: np.ndarray
    left: np.ndarray
    right: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """(9) of the paper."""
        return (self.right - self.left) * gamma(2 / self.shape) / gamma(1 / self.shape)


def load_pristine_model(path: str) -> PristineModel:
    """The model of an .npz file with `mu_pris_param` (1, 36) and `cov_pris_param` (36, 36), as BasicSR ships it.

    Raises InputError for a file that is missing or holds something else.
    """
    try:
        with np.load(Path(path), allow_pickle=False) as arrays:
            mean, covariance = arrays["mu_pris_param"].astype(np.float64), arrays["cov_pris_param"].astype(np.float64)
            return PristineModel(mean.reshape(NUM_FEATURES), covariance.reshape(NUM_FEATURES, NUM_FEATURES))
    except (OSError, KeyError, ValueError, AttributeError, TypeError, EOFError, BadZipFile) as error:
        raise InputError(f"--niqe-model {path}: {error}; wanted an .npz with NIQE's pristine model") from error


def count_blocks(height: int, width: int, border_px: int = BORDER_PX) -> int:
    """How many whole blocks of 96x96 pixels lie inside the border."""
    return max(0, (height - 2 * border_px) // BLOCK_PX) * max(0, (width - 2 * border_px) // BLOCK_PX)


def niqe(image: np.ndarray, model: PristineModel, border_px: int = BORDER_PX) -> float:
    """Naturalness of `uint8` RGB (H, W, 3), 0 or more, lower is better: photographs 2 to 5, enlarged ones 7 and more.

    (10) of the paper, on Y (studio range, rounded to whole levels); within 0.02 of BasicSR's figures. Infinite where
    fewer than two blocks have texture.
    Raises ValueError for an image with fewer than two blocks of 96x96 inside the border.
    """
    height, width = image.shape[:2]
    if count_blocks(height, width, border_px) < MIN_BLOCKS:
        raise ValueError(f"{width}x{height} pixels; wanted {MIN_BLOCKS} blocks of {BLOCK_PX}x{BLOCK_PX} and the border")
    features = measure_features(
        np.round(rgb_to_y(image[border_px : height - border_px, border_px : width - border_px]))
    )
    textured = features[np.isfinite(features).all(axis=1)]
    if len(textured) < MIN_BLOCKS:
        return float("inf")
    difference = model.mean - np.nanmean(features, axis=0)
    covariance = (model.covariance + np.cov(textured, rowvar=False)) / 2
    return float(np.sqrt(difference @ np.linalg.pinv(covariance) @ difference))


def measure_features(luma: np.ndarray) -> np.ndarray:
    """Luma (H, W), 0…255, to 18 features at full and 18 at half size of each 96x96 block: (blocks, 36), NaN if flat."""
    height, width = (side // BLOCK_PX * BLOCK_PX for side in luma.shape)
    full = luma[:height, :width]
    scales = ((full, BLOCK_PX), (halve(full), BLOCK_PX // 2))
    return np.concatenate([_block_features(normalize(plane), side) for plane, side in scales], axis=1)


def halve(plane: np.ndarray) -> np.ndarray:
    """Half the size of (2h, 2w) as MATLAB's `imresize`, antialiased bicubic; unlike `degrade`, with mirrored borders
    and without rounding."""
    rows = correlate1d(plane, _HALF_WEIGHTS, axis=0, mode="reflect")[1::2]
    return correlate1d(rows, _HALF_WEIGHTS, axis=1, mode="reflect")[:, 1::2]


def normalize(luma: np.ndarray) -> np.ndarray:
    """Luma (H, W), 0…255, less its local mean, over its local deviation plus 1: (1) of the paper."""
    mean = _blur(luma)
    deviation = np.sqrt(np.abs(_blur(luma**2) - mean**2))
    return np.round((luma - mean) / (deviation + 1), _DECIMALS)


def fit_asymmetric_gaussian(samples: np.ndarray) -> AsymmetricGaussian:
    """Moment matching for each row of (rows, samples); shapes between 0.2 and 10, NaN for a row without both signs.

    Lasmar, Stitou, Berthoumieu 2009, "Multiscale skewed heavy tailed model for texture analysis".
    """
    squares = samples**2
    with np.errstate(invalid="ignore", divide="ignore"):
        left, right = (np.sqrt((squares * side).sum(axis=1) / side.sum(axis=1)) for side in (samples < 0, samples > 0))
        skew = left / right
        ratio = np.abs(samples).mean(axis=1) ** 2 / squares.mean(axis=1)
    ratio = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shape = np.interp(ratio, _RATIOS, _SHAPES)
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return AsymmetricGaussian(shape, left * scale, right * scale)


def _block_features(normalized: np.ndarray, side: int) -> np.ndarray:
    height, width = (length // side for length in normalized.shape)
    blocks = normalized.reshape(height, side, width, side).swapaxes(1, 2).reshape(-1, side, side)
    whole = fit_asymmetric_gaussian(blocks.reshape(len(blocks), -1))
    features = [whole.shape, (whole.left + whole.right) / 2]
    for shift in _NEIGHBOURS:
        products = blocks * np.roll(blocks, shift, axis=(1, 2))
        pair = fit_asymmetric_gaussian(products.reshape(len(blocks), -1))
        features += [pair.shape, pair.mean, pair.left, pair.right]
    return np.stack(features, axis=1)


def _blur(plane: np.ndarray) -> np.ndarray:
    return gaussian_filter(plane, _SIGMA_PX, mode="nearest", radius=_RADIUS_PX)
