"""The tiles of many pictures through one model: in batches of equal shape, each picture in its turn."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np

from srgan_ray.models.upscaler import Tile, Upscaler, empty_output

MAX_BATCH_PX = {"cpu": 272**2, "cuda": 16 * 272**2}  # LR pixels: a large tile, which keeps a CPU busy, or sixteen


class Job:
    """A picture on its way: the tiles not yet run, and in `sr` what came out of the others."""

    def __init__(self, upscaler: Upscaler, lr: np.ndarray, check: Callable[[], None]) -> None:
        self.upscaler, self.lr, self.check = upscaler, lr, check
        self.waiting = deque(upscaler.tiles(*lr.shape[:2]))
        self.num_tiles = self.num_unfinished = len(self.waiting)
        self.num_overflowed = 0
        self.sr = empty_output(lr)
        self.done: Future[None] = Future()

    @property
    def kind(self) -> tuple[Upscaler, np.dtype, tuple[int, int]]:
        """Tiles of one kind can share a batch; this is the next one's."""
        return self.upscaler, self.lr.dtype, self.waiting[0].shape

    def finish(self, tile: Tile, part: np.ndarray, overflowed: bool) -> None:
        """Take a tile's output."""
        tile.paste(part, self.sr)
        self.num_overflowed += overflowed
        self.num_unfinished -= 1
        if not self.num_unfinished:
            self.done.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Give up; tiles that still wait are dropped."""
        self.waiting.clear()
        if not self.done.done():
            self.done.set_exception(error)


class Scheduler:
    """One thread runs the tiles of all pictures. A picture's turn is one batch: small ones do not wait for large ones.

    A batch holds tiles of the picture whose turn it is and, as far as they fit, those of others of the same kind.
    """

    def __init__(self, ran: Callable[[int, float], None]) -> None:
        """`ran` hears of each batch's number of tiles and seconds."""
        self._ran = ran
        self._jobs: deque[Job] = deque()  # the first one's turn is next
        self._arrival = threading.Condition()
        threading.Thread(target=self._work, name="tiles", daemon=True).start()

    def upscale(self, upscaler: Upscaler, lr: np.ndarray, check: Callable[[], None]) -> Job:
        """RGB (h, w, 3) to a finished job, whose `sr` is (4h, 4w, 3). May be called by many threads.

        `check` is called before each tile and may raise to give up. Raises that, and FloatingPointError.
        """
        job = Job(upscaler, lr, check)
        with self._arrival:
            self._jobs.append(job)
            self._arrival.notify()
        job.done.result()
        return job

    def _work(self) -> None:
        while True:
            with self._arrival:
                self._arrival.wait_for(self._has_work)
                batch = self._next_batch()
            started = time.perf_counter()
            if batch := [(job, tile) for job, tile in batch if _is_wanted(job)]:
                _run(batch)
                self._ran(len(batch), time.perf_counter() - started)

    def _next_batch(self) -> list[tuple[Job, Tile]]:
        first = self._jobs[0]
        upscaler, _, (height, width) = kind = first.kind
        room = max(1, MAX_BATCH_PX[upscaler.device.type] // (height * width))
        batch: list[tuple[Job, Tile]] = []
        while len(batch) < room and (fitting := [job for job in self._jobs if job.waiting and job.kind == kind]):
            batch += [(job, job.waiting.popleft()) for job in fitting[: room - len(batch)]]
        self._jobs.rotate(-1)
        return batch

    def _has_work(self) -> bool:
        self._jobs = deque(job for job in self._jobs if job.waiting)
        return bool(self._jobs)


def _is_wanted(job: Job) -> bool:
    try:
        job.check()
    except BaseException as error:
        job.fail(error)
    return not job.done.done()


def _run(batch: list[tuple[Job, Tile]]) -> None:
    try:
        outputs = batch[0][0].upscaler.run([tile.cut(job.lr) for job, tile in batch])
    except Exception as error:
        for job, _ in batch:
            job.fail(error)
        return
    for (job, tile), part, overflowed in zip(batch, *outputs):
        job.finish(tile, part, overflowed)
