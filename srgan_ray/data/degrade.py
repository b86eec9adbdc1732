"""How LR is made from HR, by name, and bicubic interpolation back up.

Two ways to make LR are in use and they do not mix (a network trained on one falls below bicubic on the other):
`opencv_cubic` takes 4 of each 16 taps and aliases; `matlab_bicubic` widens the kernel by the scale, as all papers do.
"""

from collections.abc import Callable

import cv2
import numpy as np

SCALE = 4
BLOCK_PX = 256  # columns that are resized at a time: as float32 they fit the cache, a whole large image fits no memory
# Keys' cubic kernel (a = -0.5) at distances of odd eighths of an LR pixel: every weight is a whole number of 1/1024
# (of 1/4096 for the widened kernel), so that sums of 16 products with uint8 values are exact in float32 and the
# result equals MATLAB's float64 bit for bit.
_CUBIC_A = -0.5


def _cubic(distance: np.ndarray) -> np.ndarray:
    a, x = _CUBIC_A, np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


# 16 HR taps around each LR pixel's centre: distances in LR pixels are -15/8, -13/8, … 15/8.
_DOWN_WEIGHTS = (_cubic((np.arange(16) - 7.5) / SCALE) / SCALE).astype(np.float32)
# For each of the 4 HR positions inside an LR pixel, the 4 nearest LR pixels and their weights.
_UP_CENTRES = (np.arange(SCALE) + 0.5) / SCALE - 0.5
_UP_FIRST = np.floor(_UP_CENTRES).astype(int) - 1
_UP_WEIGHTS = _cubic(_UP_CENTRES[:, None] - (_UP_FIRST[:, None] + np.arange(4))).astype(np.float32)


def opencv_cubic(hr: np.ndarray) -> np.ndarray:
    """HR `uint8` (4h, 4w, 3) to LR `uint8` (h, w, 3) as `cv2.resize(…, INTER_CUBIC)`: a = -0.75, no antialiasing."""
    height, width = _lr_shape(hr)
    return cv2.resize(hr, (width, height), interpolation=cv2.INTER_CUBIC)


def matlab_bicubic(hr: np.ndarray) -> np.ndarray:
    """HR `uint8` (4h, 4w, 3) to LR `uint8` (h, w, 3), bit-exact with MATLAB `imresize(hr, 1/4, 'bicubic')`.

    Three details decide exactness: rows first, rounding to uint8 between the axes, replicated border.
    """
    _lr_shape(hr)
    return _both_axes(hr, _shrink_rows)


def matlab_bicubic_up(lr: np.ndarray) -> np.ndarray:
    """LR `uint8` (h, w, 3) to `uint8` (4h, 4w, 3) as MATLAB `imresize(lr, 4, 'bicubic')`: the papers' baseline."""
    return _both_axes(lr, _enlarge_rows)


DEGRADATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "opencv_cubic": opencv_cubic,
    "matlab_bicubic": matlab_bicubic,
}


def _lr_shape(hr: np.ndarray) -> tuple[int, int]:
    height, width = hr.shape[:2]
    if height % SCALE or width % SCALE:
        raise ValueError(f"HR of {width}x{height} pixels; both sides must be multiples of {SCALE}: crop first")
    return height // SCALE, width // SCALE


def _both_axes(image: np.ndarray, resize_rows: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    rows_done = _in_blocks(image, resize_rows)
    both_done = _in_blocks(rows_done.transpose(1, 0, 2), resize_rows)
    return np.ascontiguousarray(both_done.transpose(1, 0, 2))


def _in_blocks(image: np.ndarray, resize_rows: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    blocks = [image[:, start : start + BLOCK_PX] for start in range(0, image.shape[1], BLOCK_PX)]
    resized = [resize_rows(np.ascontiguousarray(block, np.float32)).astype(np.uint8) for block in blocks]
    return np.concatenate(resized, axis=1)


def _shrink_rows(image: np.ndarray) -> np.ndarray:
    height = image.shape[0] // SCALE
    # 4 rows at a time, each weighted for the 4 rows of LR that it is seen by: one product of matrices
    fours = np.pad(image, ((6, 6), (0, 0), (0, 0)), mode="edge").reshape(height + 3, SCALE, -1)
    parts = np.matmul(_DOWN_WEIGHTS.reshape(4, SCALE), fours)
    total = sum(parts[part : part + height, part] for part in range(4))
    return _round(total).reshape(height, *image.shape[1:])


def _enlarge_rows(image: np.ndarray) -> np.ndarray:
    height = image.shape[0]
    padded = np.pad(image, ((2, 2), (0, 0), (0, 0)), mode="edge")
    enlarged = np.empty((SCALE * height, *image.shape[1:]), np.float32)
    for phase, (first, weights) in enumerate(zip(_UP_FIRST, _UP_WEIGHTS)):
        start = first + 2
        taps = (weight * padded[start + tap : start + tap + height] for tap, weight in enumerate(weights))
        enlarged[phase::SCALE] = _round(sum(taps))
    return enlarged


def _round(levels: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(levels + 0.5), 0, 255)
