"""Requests from their arrival to their answer: how many may wait, and how much is worked on at once."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from srgan_ray.data import images
from srgan_ray.serving.handler import Cancellation, Handler, Upscaled
from srgan_ray.serving.picture import TooLargeForFormat
from srgan_ray.serving.protocol import MEGA, Limits, Problem
from srgan_ray.serving.watch import Record, Watch

CLIENT_LEFT = 499  # nginx's number for it; nobody gets this answer


class Queue:
    """Gives each request a thread to decode, wait for the model and encode in.

    Refuses when too many are inside. Those whose megapixels do not fit beside the others' wait with their encoded
    bytes alone, so that what is in memory does not grow with the number of requests.
    """

    def __init__(self, handler: Handler, limits: Limits) -> None:
        self._handler, self._limits, self._watch = handler, limits, handler.watch
        self._executor = ThreadPoolExecutor(limits.max_waiting, thread_name_prefix="upscale")
        self._room = Room(int(limits.max_megapixels_at_once * MEGA))
        self._num_inside = 0

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue, held while inside the `with`. Raises Problem 503 when there is none."""
        if self._num_inside >= self._limits.max_waiting:
            detail = f"{self._num_inside} requests are waiting, which is the limit; wanted a later try"
            raise Problem(503, detail, {"Retry-After": "5"})
        self._move(1)
        try:
            yield
        finally:
            self._move(-1)

    async def upscale(self, encoded: bytes, num_px: int, format: str, fidelity: float | None) -> Upscaled:
        """The handler's answer. Problem 504 after the time limit; then, or when the client leaves, work stops."""
        try:
            async with asyncio.timeout(self._limits.time_limit_s):
                return await self._work(encoded, num_px, format, fidelity)
        except TimeoutError as error:
            raise Problem(
                504, f"not finished within {self._limits.time_limit_s:g} s; wanted a smaller image"
            ) from error
        except images.UnsupportedFormat as error:
            raise Problem(415, str(error)) from error
        except images.UnreadableImage as error:
            raise Problem(400, str(error)) from error
        except TooLargeForFormat as error:
            raise Problem(422, f"format: {error}") from error

    async def _work(self, encoded: bytes, num_px: int, format: str, fidelity: float | None) -> Upscaled:
        await self._room.enter(num_px)
        cancellation, loop = Cancellation(), asyncio.get_running_loop()
        work = self._executor.submit(self._handler.upscale, encoded, format, fidelity, cancellation.check)
        # not when the request ends: a thread whose work is cancelled holds its memory a little longer
        work.add_done_callback(lambda _: loop.call_soon_threadsafe(self._room.leave, num_px))
        try:
            return await asyncio.wrap_future(work)
        finally:
            cancellation.cancel()

    def _move(self, by: int) -> None:
        self._num_inside += by
        self._watch.queued(self._num_inside)


class Room:
    """Holds so many pixels at once. Who comes first enters first: a large picture is not overtaken for ever."""

    def __init__(self, num_px: int) -> None:
        self._left_px = num_px
        self._line, self._freed = asyncio.Lock(), asyncio.Event()

    async def enter(self, num_px: int) -> None:
        """Wait until there is room for it, and take it."""
        async with self._line:
            while num_px > self._left_px:
                self._freed.clear()
                await self._freed.wait()
            self._left_px -= num_px

    def leave(self, num_px: int) -> None:
        """Give it back."""
        self._left_px += num_px
        self._freed.set()


@contextlib.contextmanager
def recorded(watch: Watch, record: Record) -> Iterator[None]:
    """Tell `watch` how the request ended, and after how long."""
    started = time.perf_counter()
    try:
        yield
    except Problem as problem:
        record.status, record.detail = problem.status, problem.detail
        raise
    except HTTPException as error:  # a multipart body that Starlette cannot take apart
        record.status, record.detail = error.status_code, error.detail
        raise
    except (ClientDisconnect, asyncio.CancelledError):
        record.status, record.detail = CLIENT_LEFT, "the client left"
        raise
    except Exception as error:
        record.status, record.detail = 500, repr(error)
        raise
    finally:
        record.seconds = time.perf_counter() - started
        watch.answered(record)
