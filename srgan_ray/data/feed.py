"""From the shards to the training step: read by window, decoded and cropped, all ahead of need.

One thread reads the encoded rows of the windows of the stream that a worker is in or comes to next, some threads decode
them a few steps ahead and cut the crops out, and one makes a batch of the crops of a step.
"""

import contextlib
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from srgan_ray.data import images
from srgan_ray.data.crops import MIXED, CropConfig, Stream, Window, cut, draw, draw_crop, reach, steps_of_crops
from srgan_ray.data.degrade import DEGRADATIONS, SCALE
from srgan_ray.data.manifest import PREPARE_AGAIN
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


class CropPair(NamedTuple):
    """What a slot takes of a photograph: `uint8` RGB, `lr` (h, w, 3) and `hr` (4h, 4w, 3)."""

    lr: np.ndarray
    hr: np.ndarray


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
        lr_crops, hr_crops = zip(*photographs.take(step))
        return Batch(stack(lr_crops), stack(hr_crops))


class Photographs:
    """What the slots of one worker take, step by step: read, decoded and cut ahead, let go once it is not needed again.

    Encoded rows are held from the window that the oldest photograph in use lies in to the one that comes next. A whole
    set within DECODED_BUDGET_MB stays decoded. Of another's photographs only the crops are held, all of them cut when
    it is decoded, until the last is taken: memory does not grow with the size of photographs.
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
        self._decoded: dict[int, Future[Decoded]] = {}  # by row, where photographs are kept
        self._crops: dict[int, Future[dict[int, CropPair]]] = {}  # by position and step, where they are not

    def begin(self, last_step: int) -> None:
        """Have everything read and decoded that is taken up to `last_step`."""
        for step in range(self._next_step, last_step + 1):
            self._read(reach(step, self._config))
            for slot in self._slots:
                self._decode(step, slot)
        self._next_step = max(self._next_step, last_step + 1)

    def take(self, step: int) -> list[CropPair]:
        """The crop of each slot in `step`, which was begun; steps are taken in order."""
        return [self._take(step, slot) for slot in self._slots]

    def _take(self, step: int, slot: int) -> CropPair:
        position, repeat = draw(step, slot, self._config)
        if self._keeps:
            return cut_pair(self._decoded[self._stream.row(position)].result(), step, slot, self._config)
        is_last = repeat == self._config.crops_per_photograph - 1
        return (self._crops.pop(position) if is_last else self._crops[position]).result().pop(step)

    def _read(self, positions: range) -> None:
        wanted = self._stream.windows(positions)
        self._windows = {window: self._windows.get(window) or self._read_window(window) for window in wanted}

    def _read_window(self, window: Window) -> Future[dict[int, Row]]:
        rows = self._stream.rows(window)
        slots = (self._stream.start(window) + np.arange(len(rows))) % self._config.batch_size
        own = rows[np.isin(slots, self._slots)].tolist()
        return self._reader.submit(self._rows.read, [row for row in own if row not in self._decoded])

    def _decode(self, step: int, slot: int) -> None:
        position, repeat = draw(step, slot, self._config)
        window, row = self._windows[self._stream.window(position)], self._stream.row(position)
        if self._keeps and row not in self._decoded:
            self._decoded[row] = self._decoders.submit(lambda: decode_row(window.result()[row]))
        if not self._keeps and position not in self._crops:
            steps = steps_of_crops(step, repeat, self._config)
            self._crops[position] = self._decoders.submit(
                lambda: cut_pairs(decode_row(window.result()[row]), steps, slot, self._config)
            )


def cut_pairs(image: Decoded, steps: range, slot: int, config: CropConfig) -> dict[int, CropPair]:
    """The crops that `slot` takes of a photograph in these steps."""
    return {step: cut_pair(image, step, slot, config) for step in steps}


def cut_pair(image: Decoded, step: int, slot: int, config: CropConfig) -> CropPair:
    """The crop that `slot` of `step` takes of a photograph."""
    crop = draw_crop(step, slot, image.id, image.hr.shape[0], image.hr.shape[1], config)
    lr = cut(image.lr[crop.degradation], crop, config.crop_px // SCALE, 1)
    return CropPair(lr, cut(image.hr, crop, config.crop_px, SCALE))


def check_feed(folder: str | Path, config: CropConfig, num_workers: int) -> None:
    """Raise InputError unless the shard set can feed these batches to so many workers."""
    request = ShardSet(folder, "train").manifest.request
    wanted = tuple(DEGRADATIONS) if config.degradation == MIXED else (config.degradation,)
    if not set(wanted) <= set(request.degradations):
        raise InputError(
            f"--degradation {config.degradation}; the shards in {folder} hold {', '.join(request.degradations)}: "
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

    Raises InputError for an image that does not decode: one that was cut off, or whose head is damaged. Changed bytes
    in the middle of a JPEG decode to other pixels; the checksums of the shard tell these, when it is read.
    """
    try:
        hr = images.decode_stored(row.hr)[: row.height, : row.width]
        return Decoded(row.id, hr, {name: images.decode_stored(lr) for name, lr in row.lr.items()})
    except images.UnreadableImage as error:
        raise InputError(f"--data: the photograph {row.id} of the shards is damaged: {PREPARE_AGAIN}") from error


def stack(crops: Sequence[np.ndarray]) -> torch.Tensor:
    """`uint8` images (H, W, 3) of one size to one `float32` tensor (N, 3, H, W) in [0, 1]."""
    planes = np.empty((len(crops), 3, *crops[0].shape[:2]), np.uint8)  # cheaper to rearrange as bytes than as floats
    for plane, crop in zip(planes, crops):
        plane[...] = crop.transpose(2, 0, 1)
    return torch.from_numpy(images.to_float(np.moveaxis(planes, 1, -1)))


def _decoded_bytes(rows: ShardSet) -> float:
    return 3 * sum(shard.num_pixels for shard in rows.shards) * (1 + len(rows.degradations) / SCALE**2)
