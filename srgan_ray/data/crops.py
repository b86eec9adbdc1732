"""Which photographs a step sees, and where they are cropped: pure functions of (seed, step, slot, image id).

Slots number the places of a *global* batch, so that the crops do not depend on the number of workers or on the order
in which anything arrives, and a run that starts in the middle sees exactly what it would have seen.
"""

import dataclasses
import hashlib
from typing import NamedTuple

import numpy as np

from srgan_ray.data.degrade import DEGRADATIONS, SCALE
from srgan_ray.errors import InputError

MIXED = "mixed"


@dataclasses.dataclass(frozen=True)
class CropConfig:
    """The batches."""

    batch_size: int = 16
    """Crops in a step, over all workers."""
    crop_px: int = 96
    """Side of an HR crop in pixels, a multiple of 4."""
    degradation: str = "opencv_cubic"
    """How LR was made: opencv_cubic, matlab_bicubic, or mixed, which draws one of them for each crop."""
    seed: int = 0
    """Decides the initial weights, the order of the photographs and the crops."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"--batch-size {self.batch_size}; wanted 1 or more")
        if self.crop_px < SCALE or self.crop_px % SCALE:
            raise InputError(f"--crop-px {self.crop_px}; wanted a positive multiple of {SCALE}")
        if self.degradation not in (*DEGRADATIONS, MIXED):
            raise InputError(f"--degradation {self.degradation}; wanted one of {', '.join((*DEGRADATIONS, MIXED))}")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}; wanted 0 or more")


class Crop(NamedTuple):
    """A place and an orientation: offsets in LR pixels, then a left-right flip, then `turns` quarter turns."""

    top: int
    left: int
    flip: bool
    turns: int
    degradation: str


def rows_of_step(step: int, num_rows: int, config: CropConfig) -> list[int]:
    """The row for each slot of the global batch of `step` (from 1). Each epoch takes every row once, shuffled anew."""
    draws = range((step - 1) * config.batch_size, step * config.batch_size)
    orders = {epoch: _order(epoch, num_rows, config.seed) for epoch in {draw // num_rows for draw in draws}}
    return [int(orders[draw // num_rows][draw % num_rows]) for draw in draws]


def draw_crop(step: int, slot: int, id: str, height: int, width: int, config: CropConfig) -> Crop:
    """The crop that `slot` of `step` takes from the photograph `id`, whose HR has `height` x `width` pixels."""
    random = np.random.default_rng(_key(config.seed, step, slot, id))
    side = config.crop_px // SCALE
    top = int(random.integers(height // SCALE - side + 1))
    left = int(random.integers(width // SCALE - side + 1))
    flip, turns = bool(random.integers(2)), int(random.integers(4))
    names = list(DEGRADATIONS) if config.degradation == MIXED else [config.degradation]
    return Crop(top, left, flip, turns, names[int(random.integers(len(names)))])


def cut(image: np.ndarray, crop: Crop, side_px: int, scale: int) -> np.ndarray:
    """The crop of an image whose pixels are 1/`scale` of an LR pixel: (H, W, 3) to (side_px, side_px, 3)."""
    top, left = crop.top * scale, crop.left * scale
    part = image[top : top + side_px, left : left + side_px]
    return np.rot90(part[:, ::-1] if crop.flip else part, crop.turns)


def _order(epoch: int, num_rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(_key(seed, epoch)).permutation(num_rows)


def _key(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:16])
