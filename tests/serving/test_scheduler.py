"""Many pictures, one model."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
import torch

from fakes import photograph, torch_threads
from srgan_ray.data.images import encode
from srgan_ray.models.generator import GeneratorConfig, build_generator
from srgan_ray.models.upscaler import Upscaler
from srgan_ray.serving import scheduler as scheduler_module
from srgan_ray.serving.handler import Handler, ModelConfig
from srgan_ray.serving.scheduler import Scheduler

CPU = torch.device("cpu")


def nothing() -> None:
    pass


@pytest.fixture
def one_batch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scheduler_module.MAX_BATCHES, "cpu", 1)


@pytest.fixture
def four_cores() -> Iterator[None]:
    with torch_threads(4):
        yield


class Gated(Upscaler):
    """Waits before each batch until the test lets it through, and keeps the batches."""

    def __init__(self, tile_px: int = 32) -> None:
        super().__init__(build_generator(GeneratorConfig(1, 4), 0), "fp32", tile_px)
        self.batches: list[list[np.ndarray]] = []
        self.cores: list[int] = []
        self.begun, self.gate = threading.Semaphore(0), threading.Semaphore(0)

    def run(self, batch):
        self.batches.append([tile.cut(lr) for lr, tile in batch])
        self.cores.append(torch.get_num_threads())
        self.begun.release()
        assert self.gate.acquire(timeout=10)
        return super().run(batch)


class Crowd:
    """Pictures that wait while the model is held at its first batch, which is another picture's."""

    def __init__(self, upscaler: Gated) -> None:
        self.upscaler, self.scheduler = upscaler, Scheduler(CPU, lambda *_: None)
        self._executor = ThreadPoolExecutor(32)
        self._first = self._submit(np.zeros((5, 5, 3), np.uint8), nothing)
        assert upscaler.begun.acquire(timeout=10)

    def send(self, lr: np.ndarray, check=nothing) -> Future:
        before = len(self._waiting())
        future = self._submit(lr, check)
        while len(self._waiting()) == before:
            time.sleep(0.001)
        return future

    def _submit(self, lr: np.ndarray, check) -> Future:
        return self._executor.submit(self.scheduler.upscale, self.upscaler, lr, check)

    def _waiting(self) -> list:
        return [job for job in self.scheduler._jobs if job.waiting]

    def release(self) -> list[list[np.ndarray]]:
        """Let everything through; the batches after the first."""
        self.upscaler.gate.release(1000)
        self._first.result(10)
        self._executor.shutdown()
        return self.upscaler.batches[1:]


def test_every_picture_comes_out_as_if_alone() -> None:
    upscaler = Upscaler(build_generator(GeneratorConfig(2, 8), 0), "fp32", 32)
    pictures = [photograph(seed, 20 + 9 * seed, 90 - 7 * seed) for seed in range(8)]
    pictures[3] = pictures[3].astype(np.uint16) * 257
    scheduler = Scheduler(CPU, lambda *_: None)
    with ThreadPoolExecutor(8) as executor:
        results = list(executor.map(lambda lr: scheduler.upscale(upscaler, lr, nothing), pictures))
    for job, lr in zip(results, pictures):
        np.testing.assert_array_equal(job.sr, upscaler(lr))
        assert job.num_overflowed == 0


@pytest.mark.usefixtures("one_batch_at_a_time")
def test_a_small_picture_waits_one_turn_of_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scheduler_module.MAX_BATCH_PX, "cpu", 1)
    crowd = Crowd(Gated())
    large = crowd.send(np.full((32, 32 * 40, 3), 10, np.uint8))
    small = [crowd.send(np.full((20, 21 + number, 3), 200, np.uint8)) for number in range(5)]
    batches = crowd.release()
    order = ["large" if batch[0].max() == 10 else "small" for batch in batches]
    assert order[:7] == ["large", *["small"] * 5, "large"]
    assert all(future.result(10) for future in [large, *small])


@pytest.mark.usefixtures("one_batch_at_a_time")
def test_tiles_of_equal_shape_share_a_batch_across_pictures() -> None:
    crowd = Crowd(Gated())
    futures = [crowd.send(np.full((20, 20, 3), number, np.uint8)) for number in range(6)]
    other = crowd.send(np.full((20, 20, 3), 9, np.uint16))
    batches = crowd.release()
    assert [[int(part.max()) for part in batch] for batch in batches] == [[0, 1, 2, 3, 4, 5], [9]]
    assert all(future.result(10) for future in [*futures, other])


@pytest.mark.usefixtures("one_batch_at_a_time")
def test_a_batch_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scheduler_module.MAX_BATCH_PX, "cpu", 3 * 20 * 20)
    crowd = Crowd(Gated())
    for number in range(7):
        crowd.send(np.full((20, 20, 3), number, np.uint8))
    assert [len(batch) for batch in crowd.release()] == [3, 3, 1]


@pytest.mark.usefixtures("four_cores")
def test_batches_run_at_once_and_share_the_cores() -> None:
    upscaler = Gated()
    scheduler = Scheduler(CPU, lambda *_: None)
    with ThreadPoolExecutor() as executor:
        futures = []
        for side in (20, 21, 22, 23):  # one after the other, so of one core less each
            futures.append(executor.submit(scheduler.upscale, upscaler, np.zeros((side, side, 3), np.uint8), nothing))
            assert upscaler.begun.acquire(timeout=10)
        futures.append(executor.submit(scheduler.upscale, upscaler, np.zeros((24, 24, 3), np.uint8), nothing))
        assert not upscaler.begun.acquire(timeout=0.2), "a fifth has no core"
        assert upscaler.cores == [4, 2, 1, 1]
        upscaler.gate.release(1000)
        assert all(future.result(10) for future in futures)


@pytest.mark.usefixtures("four_cores")
def test_the_tiles_of_one_picture_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scheduler_module.MAX_BATCH_PX, "cpu", 1)
    upscaler, lr = Gated(), photograph(0, 20, 200)
    with ThreadPoolExecutor() as executor:
        future = executor.submit(Scheduler(CPU, lambda *_: None).upscale, upscaler, lr, nothing)
        for _ in range(4):
            assert upscaler.begun.acquire(timeout=10)
        assert upscaler.cores == [1, 1, 1, 1]
        upscaler.gate.release(1000)
        np.testing.assert_array_equal(future.result(10).sr, upscaler(lr))


@pytest.mark.usefixtures("one_batch_at_a_time")
def test_work_that_is_given_up_leaves_the_others_alone() -> None:
    def give_up() -> None:
        raise InterruptedError

    crowd = Crowd(Gated())
    unwanted = crowd.send(np.full((32, 32 * 10, 3), 10, np.uint8), give_up)
    wanted = crowd.send(np.full((20, 20, 3), 200, np.uint8))
    batches = crowd.release()
    with pytest.raises(InterruptedError):
        unwanted.result(10)
    assert wanted.result(10)
    assert [int(batch[0].max()) for batch in batches] == [200]


def test_a_failing_batch_fails_its_pictures_and_no_later_ones() -> None:
    class Failing(Upscaler):
        def run(self, batch):
            if batch[0][0].max() == 13:
                raise FloatingPointError("not finite")
            return super().run(batch)

    upscaler = Failing(build_generator(GeneratorConfig(1, 4), 0), "fp32", 32)
    scheduler = Scheduler(CPU, lambda *_: None)
    with pytest.raises(FloatingPointError):
        scheduler.upscale(upscaler, np.full((20, 100, 3), 13, np.uint8), nothing)
    assert scheduler.upscale(upscaler, np.full((20, 20, 3), 7, np.uint8), nothing).sr.shape == (80, 80, 3)


def test_tiles_that_needed_fp32_are_counted_for_their_picture(generator_file: str, monkeypatch) -> None:
    run = Upscaler.run

    def overflow_where_dark(self, batch):
        is_dark = [bool(lr.max() < 100) for lr, _ in batch]
        return [part._replace(overflowed=dark) for part, dark in zip(run(self, batch), is_dark)]

    monkeypatch.setattr(Upscaler, "run", overflow_where_dark)
    handler = Handler(ModelConfig(generator_file, precision="bf16"))
    dark, bright = (encode(np.full((20, 400, 3), level, np.uint8), "png") for level in (10, 200))
    assert handler.upscale(dark, "png", None).precision == "bf16, 2 tiles in fp32"
    assert handler.upscale(bright, "png", None).precision == "bf16"
