"""From the shards to the training step: rows by index, decoded once while memory lasts, cropped, made ahead."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from srgan_ray.data import images
from srgan_ray.data.crops import MIXED, CropConfig, cut, draw_crop, rows_of_step
from srgan_ray.data.degrade import SCALE
from srgan_ray.data.shards import ShardSet
from srgan_ray.errors import InputError

DECODED_BUDGET_MB = 2048  # for each worker; photographs beyond it are decoded again each time
BATCHES_AHEAD = 3


class Batch(NamedTuple):
    """`lr` (N, 3, h, w) and `hr` (N, 3, 4h, 4w): RGB, `float32` in [0, 1]."""

    lr: torch.Tensor
    hr: torch.Tensor


class Decoded(NamedTuple):
    """One row with its pixels: `uint8` RGB (H, W, 3), the LR images by degradation."""

    id: str
    hr: np.ndarray
    lr: dict[str, np.ndarray]


class Feed:
    """The batches of one worker: of each global batch the slots `rank`, `rank + num_workers`, …

    Raises InputError where the shard set lacks the degradation, or where the batch cannot be shared out evenly.
    """

    def __init__(self, folder: str | Path, config: CropConfig, rank: int = 0, num_workers: int = 1) -> None:
        check_feed(folder, config, num_workers)
        self._rows = ShardSet(folder, "train")
        self._config = config
        self._slots = range(rank, config.batch_size, num_workers)
        self._decoded: dict[int, Decoded] = {}
        self._budget = DECODED_BUDGET_MB * 2**20

    def batches(self, first_step: int, last_step: int) -> Iterator[tuple[int, Batch]]:
        """Each step's number and batch, from `first_step` to `last_step`, made ahead in a thread."""
        with ThreadPoolExecutor(1, thread_name_prefix="feed") as executor:
            ahead: list[Future[Batch]] = []
            steps = range(first_step, last_step + 1)
            try:
                for step in steps:
                    while len(ahead) < BATCHES_AHEAD and step + len(ahead) <= last_step:
                        ahead.append(executor.submit(self.batch, step + len(ahead)))
                    yield step, ahead.pop(0).result()
            finally:
                for future in ahead:
                    future.cancel()

    def batch(self, step: int) -> Batch:
        """This worker's part of the global batch of `step`."""
        rows = rows_of_step(step, len(self._rows), self._config)
        lr_crops, hr_crops = [], []
        for slot in self._slots:
            image = self._image(rows[slot])
            crop = draw_crop(step, slot, image.id, image.hr.shape[0], image.hr.shape[1], self._config)
            hr_crops.append(cut(image.hr, crop, self._config.crop_px, SCALE))
            lr_crops.append(cut(image.lr[crop.degradation], crop, self._config.crop_px // SCALE, 1))
        return Batch(stack(lr_crops), stack(hr_crops))

    def _image(self, index: int) -> Decoded:
        if index in self._decoded:
            return self._decoded[index]
        image = decode_row(self._rows, index)
        size = image.hr.nbytes + sum(lr.nbytes for lr in image.lr.values())
        if size <= self._budget:
            self._budget -= size
            self._decoded[index] = image
        return image


def check_feed(folder: str | Path, config: CropConfig, num_workers: int) -> None:
    """Raise InputError unless the shard set can feed these batches to so many workers."""
    request = ShardSet(folder, "train").manifest.request
    wanted = request.degradations if config.degradation == MIXED else (config.degradation,)
    if missing := [name for name in wanted if name not in request.degradations]:
        raise InputError(
            f"--degradation {missing[0]}; the shards in {folder} hold {', '.join(request.degradations)}: "
            "choose one of these, or prepare with --degradations"
        )
    if request.min_side_px < config.crop_px:
        raise InputError(
            f"--crop-px {config.crop_px}; the shards in {folder} hold photographs from {request.min_side_px} pixels: "
            "choose a smaller crop, or prepare with --min-side-px"
        )
    if config.batch_size % num_workers:
        raise InputError(f"--batch-size {config.batch_size} cannot be shared out evenly to --num-workers {num_workers}")


def decode_row(rows: ShardSet, index: int) -> Decoded:
    """A row of a shard set with its images decoded."""
    row = rows[index]
    return Decoded(row.id, images.decode(row.hr), {name: images.decode(lr) for name, lr in row.lr.items()})


def stack(crops: list[np.ndarray]) -> torch.Tensor:
    """`uint8` images (H, W, 3) of one size to one `float32` tensor (N, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images.to_float(np.stack(crops))))
