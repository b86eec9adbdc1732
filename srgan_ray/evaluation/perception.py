"""How far SR's local statistics lie from those of photographs: sliced Wasserstein distance, which needs no weights.

Karras et al. 2018, "Progressive Growing of GANs", §5: distributions of 7x7 patches of a Laplacian pyramid. By Blau and
Michaeli 2018, "The Perception-Distortion Tradeoff", such a distance between distributions is what perception means.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from srgan_ray.evaluation.metrics import Measurement, Protocol

NUM_LEVELS = 2  # the octaves that a fourfold enlargement has to invent
PATCH_PX = 7
PATCHES_PER_IMAGE = 512
NUM_DIRECTIONS = 512
SCALE_UP = 1000  # as the paper prints it
_SEED = 0


def sliced_wasserstein(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Distance of the patches of all SR images from those of all HR images, times 1,000; 0 or more, lower is better.
    Pairs of SR and HR, `uint8` RGB (H, W, 3), are taken one by one; sides of 16 or more, unlike ones together.

    The mean over the levels of the pyramid. Unlike the paper's, both sides are divided by the deviation of HR alone,
    so that patches that are like HR's but weaker, blurred ones, are far; SR's patches lie where HR's do.
    """
    randoms = [np.random.default_rng(_SEED) for _ in range(NUM_LEVELS)]
    patches = [[_patches(sr, hr, level, random) for level, random in enumerate(randoms)] for sr, hr in pairs]
    return float(np.mean([_distance(*_descriptors(of_level)) for of_level in zip(*patches)]) * SCALE_UP)


def measure_swd(pairs: Iterable[tuple[np.ndarray, np.ndarray]], protocol: Protocol) -> Measurement:
    """The distance with its own protocol, of the data and the degradation that another one names."""
    whole = dataclasses.replace(
        protocol, metric="swd", colour="rgb", border_px=0, model_hash="", average="patches of all images"
    )
    return Measurement(sliced_wasserstein(pairs), whole)


class _Patches(NamedTuple):
    """Of an image's level, float32 (PATCHES_PER_IMAGE, 7, 7, 3)."""

    sr: np.ndarray
    hr: np.ndarray


def _patches(sr: np.ndarray, hr: np.ndarray, level: int, random: np.random.Generator) -> _Patches:
    sr_band, hr_band = _laplacian(sr, level), _laplacian(hr, level)
    rows, columns = (random.integers(0, side - PATCH_PX + 1, PATCHES_PER_IMAGE) for side in hr_band.shape[:2])
    return _Patches(_cut(sr_band, rows, columns), _cut(hr_band, rows, columns))


def _descriptors(patches: Sequence[_Patches]) -> tuple[np.ndarray, np.ndarray]:
    """Those of SR and of HR, float32 (number, 7 * 7 * 3), in units of HR's deviation in each colour."""
    ours, theirs = (np.concatenate(side) for side in zip(*patches))
    deviation = theirs.std(axis=(0, 1, 2)) + np.finfo(np.float32).eps
    return (ours / deviation).reshape(len(ours), -1), (theirs / deviation).reshape(len(theirs), -1)


def _laplacian(image: np.ndarray, level: int) -> np.ndarray:
    """A level of the pyramid, float32: 0 is the finest octave."""
    fine: np.ndarray = image.astype(np.float32)
    for _ in range(level):
        fine = cv2.pyrDown(fine)
    return fine - cv2.pyrUp(cv2.pyrDown(fine), dstsize=(fine.shape[1], fine.shape[0]))


def _cut(band: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(band, (PATCH_PX, PATCH_PX), axis=(0, 1))
    return windows[rows, columns].transpose(0, 2, 3, 1)


def _distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Mean over random directions of the Wasserstein-1 distance of the projections, two sets of one size."""
    directions = np.random.default_rng(_SEED).standard_normal((ours.shape[1], NUM_DIRECTIONS), np.float32)
    directions /= np.linalg.norm(directions, axis=0)
    return float(np.abs(np.sort(ours @ directions, axis=0) - np.sort(theirs @ directions, axis=0)).mean())
