"""The tiles of many pictures through one model: in batches of equal shape, each picture in its turn."""

import atexit
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
import torch

from srgan_ray.models.memory import return_freed_memory
from srgan_ray.models.upscaler import Part, Tile, Upscaler, empty_output

MAX_BATCH_PX = {"cpu": 400**2, "cuda": 16 * 400**2}  # LR pixels: a large tile, which keeps a CPU busy, or sixteen
MAX_BATCHES = {"cpu": 4, "cuda": 1}  # at once, each with memory of its own; on a GPU they would wait for each other
# With 8 pictures of up to 500 pixels a side at once, of 16 blocks, a process takes 1.3 GB so, from the first 10 s on;
# else 1.8 GB after a minute, and growing, at 1.04 times the speed.
RETURN_MEMORY_EVERY_S = 2


class Job:
    """A picture on its way: the tiles not yet run, and in `sr` what came out of the others."""

    def __init__(self, upscaler: Upscaler, lr: np.ndarray, check: Callable[[], None]) -> None:
        self.upscaler, self.lr, self.check = upscaler, lr, check
        self.waiting = deque(upscaler.tiles(*lr.shape[:2]))
        self.num_tiles = self.num_unfinished = len(self.waiting)
        self.num_overflowed = 0
        self.sr = empty_output(lr)
        self.done: Future[None] = Future()
        self._lock = threading.Lock()

    @property
    def kind(self) -> tuple[Upscaler, np.dtype, tuple[int, int]]:
        """Tiles of one kind can share a batch; this is the next one's."""
        return self.upscaler, self.lr.dtype, self.waiting[0].shape

    def finish(self, tile: Tile, part: Part) -> None:
        """Take a tile's output."""
        tile.paste(part.sr, self.sr)
        with self._lock:
            self.num_overflowed += part.overflowed
            self.num_unfinished -= 1
            if not self.num_unfinished:
                self.done.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Give up, for the first reason that is given; tiles that still wait are dropped."""
        with self._lock:
            if not self.done.done():
                self.done.set_exception(error)


class Scheduler:
    """Runs the tiles of all pictures. A picture's turn is one batch: small ones do not wait for large ones.

    A batch holds tiles of the picture whose turn it is and, as far as they fit, those of others of the same kind. On a
    CPU as many batches run at once as cores allow, each on its share of them: a core that has its own batch waits for
    no other. On 2 cores a tile of 192 took 123 ms so with 16 blocks, and 146 ms where both ran each batch.
    """

    def __init__(self, device: torch.device, ran: Callable[[int, float], None]) -> None:
        """`ran` hears of each batch's number of tiles and seconds. The cores are those that torch may use."""
        self._ran = ran
        self._num_cores = torch.get_num_threads()
        self._most_at_once = min(self._num_cores, MAX_BATCHES[device.type])
        self._num_running = 0
        self._jobs: deque[Job] = deque()  # the first one's turn is next
        self._memory_returned = time.monotonic()
        self._arrival = threading.Condition()
        self._is_stopping = False
        self._threads = [
            threading.Thread(target=self._work, name=f"tiles {number}", daemon=True)
            for number in range(self._most_at_once)
        ]
        for thread in self._threads:
            thread.start()
        atexit.register(self._stop)

    def upscale(self, upscaler: Upscaler, lr: np.ndarray, check: Callable[[], None]) -> Job:
        """RGB (h, w, 3) to a finished job, whose `sr` is (4h, 4w, 3). May be called by many threads.

        `check` is called before each tile and may raise to give up. Raises that, and FloatingPointError.
        """
        job = Job(upscaler, lr, check)
        with self._arrival:
            self._jobs.append(job)
            self._arrival.notify_all()
        job.done.result()
        return job

    def _work(self) -> None:
        while True:
            with self._arrival:
                self._arrival.wait_for(lambda: self._is_stopping or self._has_work())
                if self._is_stopping:
                    return
                batch = self._next_batch()
                self._num_running += 1
                num_cores = self._share()
            started = time.perf_counter()
            if batch := [(job, tile) for job, tile in batch if _is_wanted(job)]:
                _use_cores(num_cores)
                _run(batch)
                self._ran(len(batch), time.perf_counter() - started)
            with self._arrival:
                self._num_running -= 1
            self._return_memory()

    def _stop(self) -> None:
        """At the end of the process, also by Ctrl-C in the middle of a picture: a thread that is inside torch when the
        interpreter goes takes the process down by SIGABRT."""
        with self._arrival:
            self._is_stopping = True
            self._arrival.notify_all()
        for thread in self._threads:
            thread.join()

    def _return_memory(self) -> None:
        now = time.monotonic()
        if now - self._memory_returned > RETURN_MEMORY_EVERY_S:
            self._memory_returned = now
            return_freed_memory()

    def _share(self) -> int:
        """The cores of a batch, beside those that run and those that can begin now."""
        num_waiting = sum(len(job.waiting) for job in self._jobs)
        return max(1, self._num_cores // min(self._most_at_once, self._num_running + num_waiting))

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
        self._jobs = deque(job for job in self._jobs if job.waiting and not job.done.done())
        return bool(self._jobs)


def _is_wanted(job: Job) -> bool:
    try:
        job.check()
    except BaseException as error:
        job.fail(error)
    return not job.done.done()


def _run(batch: list[tuple[Job, Tile]]) -> None:
    try:
        parts = batch[0][0].upscaler.run([(job.lr, tile) for job, tile in batch])
    except Exception as error:
        for job, _ in batch:
            job.fail(error)
        return
    for (job, tile), part in zip(batch, parts):
        job.finish(tile, part)


def _use_cores(num: int) -> None:
    """In this thread, from now on."""
    if torch.get_num_threads() != num:
        torch.set_num_threads(num)
