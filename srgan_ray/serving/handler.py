"""Encoded image in, encoded image four times its size out: shared by the endpoint and by `srgan-ray upscale`."""

import dataclasses
import functools
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from srgan_ray.data.crops import MIXED
from srgan_ray.errors import InputError
from srgan_ray.evaluation.diagnostics import consistency_db
from srgan_ray.models.artifact import PSNR, find_generator, interpolate, load_generator
from srgan_ray.models.precision import FP32
from srgan_ray.models.upscaler import Upscaler
from srgan_ray.serving.picture import Picture, check_fits, decode_picture, encode_picture, enlarge, over_white
from srgan_ray.serving.scheduler import Scheduler

FIDELITIES_KEPT = 4


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Which generator upscales, and how."""

    generator: str = PSNR
    """A released generator (psnr or perceptual), a generator file, or the run folder that holds it."""
    fidelity_generator: str = ""
    """A second, PSNR-oriented generator of the same size: fidelity 1 gives this one, 0 the first, between a blend."""
    precision: str = "auto"
    """bf16, fp32, or auto: bf16 where the hardware multiplies it natively."""


class Upscaled(NamedTuple):
    """An encoded result, and what there is to say about it."""

    encoded: bytes
    width: int
    height: int
    generator: str
    precision: str
    seconds: float
    consistency_db: float
    """PSNR (RGB, no border) of the result, degraded again, against the input; infinite where they are equal."""


class Handler:
    """Holds the generator. Raises InputError for a generator file that cannot be used."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._generator, self.card = load_generator(find_generator(config.generator))
        self._faithful = None
        if config.fidelity_generator:
            self._faithful, _ = load_generator(find_generator(config.fidelity_generator))
            interpolate(self._generator, self._faithful, 0)
        self._upscaler = functools.lru_cache(FIDELITIES_KEPT)(self._make_upscaler)
        self._scheduler = Scheduler()
        self.precision = self._upscaler(None, config.precision).precision

    @property
    def has_fidelity(self) -> bool:
        """Whether a fidelity can be asked for."""
        return self._faithful is not None

    def upscale(
        self, encoded: bytes, format: str, fidelity: float | None, check: Callable[[], None] = lambda: None
    ) -> Upscaled:
        """Decode, upscale, encode. May be called by many threads, whose pictures share the model tile by tile.

        `check` is called before each tile and may raise to give up.

        Raises UnreadableImage and its kinds for a bad input, TooLargeForFormat for a result that does not fit.
        """
        started = time.perf_counter()
        picture = decode_picture(encoded)
        check_fits(picture, format)
        # bf16 tells 256 levels apart, and fewer in the brighter half
        precision = FP32 if picture.colour.dtype == np.uint16 else self._config.precision
        upscaler = self._upscaler(fidelity, precision)
        num_overflowed = 0

        def upscale(lr: np.ndarray) -> np.ndarray:
            nonlocal num_overflowed
            sr, overflowed = self._scheduler.upscale(upscaler, lr, check)
            num_overflowed += overflowed
            return sr

        large = enlarge(picture, upscale)
        result = encode_picture(large, format)
        seconds = time.perf_counter() - started
        height, width = large.colour.shape[:2]
        consistency = self._consistency_db(picture, large)
        said = f"{upscaler.precision}, {num_overflowed} tiles in {FP32}" if num_overflowed else upscaler.precision
        return Upscaled(result, width, height, self.card.name, said, seconds, consistency)

    def _consistency_db(self, small: Picture, large: Picture) -> float:
        degradation = "matlab_bicubic" if self.card.degradation == MIXED else self.card.degradation
        lr, sr = (np.broadcast_to(over_white(p), (*p.colour.shape[:2], 3)) for p in (small, large))
        return consistency_db(sr, lr, degradation)

    def _make_upscaler(self, fidelity: float | None, precision: str) -> Upscaler:
        if fidelity is None:
            return Upscaler(self._generator, precision)
        if self._faithful is None:
            raise InputError(f"--fidelity {fidelity}; wanted --fidelity-generator beside it, to blend with")
        return Upscaler(interpolate(self._generator, self._faithful, fidelity), precision)


class Cancellation:
    """Lets one thread stop another's work: the worker calls `check` between its parts."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Make the next `check` raise."""
        self._cancelled.set()

    def check(self) -> None:
        """Raise CancelledWork if the work is no longer wanted."""
        if self._cancelled.is_set():
            raise CancelledWork


class CancelledWork(Exception):
    """Nobody waits for the result any more."""
