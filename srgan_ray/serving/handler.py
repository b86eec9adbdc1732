"""Encoded image in, encoded image four times its size out: shared by the endpoint and by `srgan-ray upscale`."""

import dataclasses
import functools
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from srgan_ray.data import images
from srgan_ray.data.crops import MIXED
from srgan_ray.errors import InputError
from srgan_ray.evaluation.diagnostics import consistency_db
from srgan_ray.models.artifact import PERCEPTUAL, PSNR, find_generator, interpolate, load_generator
from srgan_ray.models.upscaler import Upscaler

FIDELITIES_KEPT = 4


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Which generator upscales, and how."""

    generator: str = PERCEPTUAL
    """A released generator (perceptual or psnr), a generator file, or the run folder that holds it."""
    fidelity_generator: str = ""
    """A second, PSNR-oriented generator of the same size: fidelity 1 gives this one, 0 the first, between a blend.
    Beside the released perceptual one it is psnr where nothing is given."""
    precision: str = "auto"
    """bf16, fp32, or auto: bf16 where the hardware multiplies it natively."""

    @property
    def faithful(self) -> str:
        """The second generator; empty where there is none."""
        return self.fidelity_generator or (PSNR if self.generator == PERCEPTUAL else "")


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
        if config.faithful:
            self._faithful, _ = load_generator(find_generator(config.faithful))
            interpolate(self._generator, self._faithful, 0)
        self._upscaler = functools.lru_cache(FIDELITIES_KEPT)(self._make_upscaler)
        self.precision = self._upscaler(None).precision

    @property
    def has_fidelity(self) -> bool:
        """Whether a fidelity can be asked for."""
        return self._faithful is not None

    def upscale(
        self, encoded: bytes, format: str, fidelity: float | None, before_tile: Callable[[], None] = lambda: None
    ) -> Upscaled:
        """Decode, upscale, encode. `before_tile` may raise to give up.

        Raises images.UnreadableImage and its kinds for a bad input.
        """
        started = time.perf_counter()
        lr = images.decode(encoded)
        upscaler = self._upscaler(fidelity)
        sr = upscaler(lr, before_tile)
        result = images.encode(sr, format)
        seconds = time.perf_counter() - started
        return Upscaled(
            result, sr.shape[1], sr.shape[0], self.card.name, upscaler.precision, seconds, self._consistency_db(lr, sr)
        )

    def _consistency_db(self, lr: np.ndarray, sr: np.ndarray) -> float:
        degradation = "matlab_bicubic" if self.card.degradation == MIXED else self.card.degradation
        return consistency_db(sr, lr, degradation)

    def _make_upscaler(self, fidelity: float | None) -> Upscaler:
        if fidelity is None:
            return Upscaler(self._generator, self._config.precision)
        if self._faithful is None:
            raise InputError(f"--fidelity {fidelity}; wanted --fidelity-generator beside it, to blend with")
        return Upscaler(interpolate(self._generator, self._faithful, fidelity), self._config.precision)


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
