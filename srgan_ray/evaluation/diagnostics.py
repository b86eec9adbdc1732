"""Whether a super-resolved image is healthy: its colour, the grid of its pixel shuffles, its agreement with LR.

Measured on 119 benchmark and 568 dog photographs (JPEG) and their bicubic enlargements: `checkerboard` is at most 0.29
grey levels; `colour_drift` of bicubic at most 0.32; `consistency_db` of bicubic 31 to 47, and a shift by one pixel
takes 5 to 7 dB from its median. What is healthy is in `judge.py`.
"""

import cv2
import numpy as np

from srgan_ray.data.degrade import DEGRADATIONS, SCALE
from srgan_ray.data.images import crop_to_multiple
from srgan_ray.evaluation.metrics import psnr

# Zero at periods of 2 and 4 pixels, so that a pattern of these periods is left whole in the residual.
_LOW_PASS = np.array([1, 2, 2, 2, 1], np.float32) / 8
_WINDOW_PX = 9
# Grey levels squared: of 1, 4 and 16 this one sets photographs and planted patterns farthest apart: at most 0.29 and at
# least 1.5 for 2 grey levels.
LEAST_VARIANCE = 16.0


def colour_drift(sr: np.ndarray, hr: np.ndarray) -> float:
    """How far the mean colour moved, in grey levels: the largest |mean(sr) - mean(hr)| of the three channels.

    Both `uint8` RGB (H, W, 3); a network that shifts one channel shows it here and hardly in Y.
    """
    return float(np.abs(sr.mean(axis=(0, 1)) - hr.mean(axis=(0, 1))).max())


def checkerboard(sr: np.ndarray) -> float:
    """Strength of a fixed pattern with a period of 2 or 4 pixels, in grey levels (RMS), of `uint8` RGB (H, W, 3).

    Pixel shuffles leave such a pattern (Odena et al. 2016, "Deconvolution and Checkerboard Artifacts"). The residual
    of a low-pass is averaged for each of the 4x4 phases, weighted by the inverse of its local variance, so that edges
    and texture do not count; the spread of the 16 means, over three channels, is the pattern. Sides of 4 or more;
    blocks of JPEG hardly show. A pattern whose sign changes with the content averages out and is not seen.
    """
    levels = crop_to_multiple(sr, SCALE).astype(np.float32)
    residual = levels - cv2.sepFilter2D(levels, -1, _LOW_PASS, _LOW_PASS)
    weight = 1 / (LEAST_VARIANCE + cv2.blur(residual**2, (_WINDOW_PX, _WINDOW_PX)))
    means = _sum_phases(weight * residual) / _sum_phases(weight)
    return float(np.sqrt(means.var(axis=(0, 1)).mean()))


def consistency_db(sr: np.ndarray, lr: np.ndarray, degradation: str) -> float:
    """PSNR in dB (RGB, peak 255, no border) of `sr`, made small again, against `lr`; infinite where they are equal.

    `uint8` RGB (4h, 4w, 3) and (h, w, 3). Raises KeyError for a degradation that is not in DEGRADATIONS.
    """
    return psnr(lr, DEGRADATIONS[degradation](sr), "rgb", border_px=0)


def _sum_phases(levels: np.ndarray) -> np.ndarray:
    """(4h, 4w, 3) summed over the pixels of each phase: (4, 4, 3)."""
    height, width = (side // SCALE for side in levels.shape[:2])
    return levels.reshape(height, SCALE, width, SCALE, -1).sum(axis=(0, 2), dtype=np.float64)
