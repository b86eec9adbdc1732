"""From the shards to the training step: read by window, decoded and cropped, all ahead of need.

One thread reads the encoded rows of the windows of the stream that a worker is in or comes to next, some threads decode
them a few steps ahead, and one cuts the crops of a step and makes a batch of them.
"""

import contextlib
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from srgan_ray.data import images
from srgan_ray.data.crops import MIXED, CropConfig, Draw, Stream, Window, cut, draw, draw_crop, reach
from srgan_ray.data.degrade import SCALE
from srgan_ray.data.shard_set import Row, ShardSet
from srgan_ray.errors import InputError

DECODED_BUDGET_MB = 2048  # for each worker; the photographs of a set that fits in stay decoded
BATCHES_AHEAD = 3
DECODED_AHEAD = 4  # steps, from the one whose batch is being made


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

    Photographs are decoded in `num_threads` threads. Raises InputError where the shard set lacks the degradation, or
    where the batch cannot be shared out evenly.
    """

    def __init__(
        self, folder: str | Path, config: CropConfig, rank: int = 0, num_workers: int = 1, num_threads: int = 1
    ) -> None:
        check_feed(folder, config, num_workers)
        self._rows = ShardSet(folder, "train", None if config.degradation == MIXED else [config.degradation])
        self._config, self._num_threads = config, num_threads
        self._slots = range(rank, config.batch_size, num_workers)

    def batches(self, first_step: int, last_step: int) -> Generator[tuple[int, Batch], None, None]:
        """Each step's number and batch, from `first_step` to `last_step`, made ahead in threads.

        What goes wrong in a thread is raised here. The threads end with the generator.
        """
        with contextlib.ExitStack() as stack:
            reader, decoders, maker = [
                stack.enter_context(ThreadPoolExecutor(num, thread_name_prefix=f"feed-{what}"))
                for what, num in (("read", 1), ("decode", self._num_threads), ("make", 1))
            ]
            photographs = Photographs(self._rows, self._slots, self._config, first_step, reader, decoders)
            ahead: list[Future[Batch]] = []
            try:
                for step in range(first_step, last_step + 1):
                    for later in range(step + len(ahead), min(step + BATCHES_AHEAD, last_step + 1)):
                        ahead.append(maker.submit(self._make, later, last_step, photographs))
                    yield step, ahead.pop(0).result()
            finally:
                for executor in (reader, decoders, maker):
                    executor.shutdown(wait=False, cancel_futures=True)

    def batch(self, step: int) -> Batch:
        """This worker's part of the global batch of `step`."""
        [(_, batch)] = self.batches(step, step)
        return batch

    def _make(self, step: int, last_step: int, photographs: "Photographs") -> Batch:
        photographs.begin(min(step + DECODED_AHEAD, last_step))
        lr_crops, hr_crops = [], []
        for slot, image in photographs.take(step).items():
            crop = draw_crop(step, slot, image.id, image.hr.shape[0], image.hr.shape[1], self._config)
            hr_crops.append(cut(image.hr, crop, self._config.crop_px, SCALE))
            lr_crops.append(cut(image.lr[crop.degradation], crop, self._config.crop_px // SCALE, 1))
        return Batch(stack(lr_crops), stack(hr_crops))


class Photographs:
    """What the slots of one worker take, step by step: read and decoded ahead, let go once it is not needed again.

    Encoded rows are held from the window that the oldest photograph in use lies in to the one that comes next, decoded
    photographs until their last crop, or for good where the whole set is within DECODED_BUDGET_MB.
    """

    def __init__(
        self,
        rows: ShardSet,
        slots: range,
        config: CropConfig,
        first_step: int,
        reader: ThreadPoolExecutor,
        decoders: ThreadPoolExecutor,
    ) -> None:
        self._rows, self._slots, self._config = rows, slots, config
        self._stream = Stream([shard.num_rows for shard in rows.shards], config.seed)
        self._keeps = _decoded_bytes(rows) <= DECODED_BUDGET_MB * 2**20
        self._next_step = first_step
        self._reader, self._decoders = reader, decoders
        self._windows: dict[Window, Future[dict[int, Row]]] = {}
        self._decoded: dict[int, Future[Decoded]] = {}  # by row where it is kept, else by position

    def begin(self, last_step: int) -> None:
        """Have everything read and decoded that is taken up to `last_step`."""
        for step in range(self._next_step, last_step + 1):
            self._read(reach(step, self._config))
            for slot in self._slots:
                self._decode(draw(step, slot, self._config).position)
        self._next_step = max(self._next_step, last_step + 1)

    def take(self, step: int) -> dict[int, Decoded]:
        """The photograph of each slot in `step`, which was begun; steps are taken in order."""
        draws = {slot: draw(step, slot, self._config) for slot in self._slots}
        return {slot: self._take(drawn) for slot, drawn in draws.items()}

    def _take(self, drawn: Draw) -> Decoded:
        key = self._key(drawn.position)
        is_last = drawn.repeat == self._config.crops_per_photograph - 1 and not self._keeps
        return (self._decoded.pop(key) if is_last else self._decoded[key]).result()

    def _read(self, positions: range) -> None:
        wanted = self._stream.windows(positions)
        self._windows = {window: self._windows.get(window) or self._read_window(window) for window in wanted}

    def _read_window(self, window: Window) -> Future[dict[int, Row]]:
        rows = self._stream.rows(window)
        slots = (self._stream.start(window) + np.arange(len(rows))) % self._config.batch_size
        own = rows[np.isin(slots, self._slots)].tolist()
        return self._reader.submit(self._rows.read, [row for row in own if not self._keeps or row not in self._decoded])

    def _decode(self, position: int) -> None:
        key = self._key(position)
        if key not in self._decoded:
            window, row = self._windows[self._stream.window(position)], self._stream.row(position)
            self._decoded[key] = self._decoders.submit(lambda: decode_row(window.result()[row]))

    def _key(self, position: int) -> int:
        return self._stream.row(position) if self._keeps else position


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


def decode_row(row: Row) -> Decoded:
    """A row of a shard set with its images decoded, HR cut to the size that LR was made from.

    Raises InputError for a damaged one.
    """
    try:
        hr = images.decode_stored(row.hr)[: row.height, : row.width]
        return Decoded(row.id, hr, {name: images.decode_stored(lr) for name, lr in row.lr.items()})
    except images.UnreadableImage as error:
        raise InputError(f"--data: the photograph {row.id} of the shards is damaged: run prepare again") from error


def stack(crops: list[np.ndarray]) -> torch.Tensor:
    """`uint8` images (H, W, 3) of one size to one `float32` tensor (N, 3, H, W) in [0, 1]."""
    planes = np.empty((len(crops), 3, *crops[0].shape[:2]), np.uint8)  # cheaper to rearrange as bytes than as floats
    for plane, crop in zip(planes, crops):
        plane[...] = crop.transpose(2, 0, 1)
    return torch.from_numpy(images.to_float(np.moveaxis(planes, 1, -1)))


def _decoded_bytes(rows: ShardSet) -> float:
    return 3 * sum(shard.num_pixels for shard in rows.shards) * (1 + len(rows.degradations) / SCALE**2)
