"""Encoded image in, encoded image four times its size out: shared by the endpoint and by `srgan-ray upscale`."""

import dataclasses
import functools
import os
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Self

import numpy as np

from srgan_ray.data.crops import MIXED
from srgan_ray.data.storage import is_uri, split
from srgan_ray.errors import InputError
from srgan_ray.evaluation.diagnostics import consistency_db
from srgan_ray.models.artifact import PSNR, RELEASED, Card, find_generator, interpolate, load_generator
from srgan_ray.models.generator import Generator
from srgan_ray.models.precision import FP32, best_device
from srgan_ray.models.upscaler import Upscaler
from srgan_ray.serving.picture import Picture, check_fits, decode_picture, encode_picture, enlarge, over_white
from srgan_ray.serving.scheduler import Scheduler
from srgan_ray.serving.watch import Watch, Work

FIDELITY_STEPS = 20
UPSCALERS_KEPT = 8  # 11 MB each; blending and folding one takes as long as a small tile


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Which generator upscales, and how."""

    generator: str = PSNR
    """A released generator (psnr or perceptual), a generator file, or a run folder or registry that holds it."""
    fidelity_generator: str = ""
    """A second, PSNR-oriented generator of the same size: fidelity 1 gives this one, 0 the first, between a blend, in
    steps of 0.05."""
    precision: str = "auto"
    """bf16, fp32, or auto: bf16 where the hardware multiplies it natively."""

    def with_absolute_paths(self) -> Self:
        """With the generators as processes with other working directories find them. A link stays one: it may be laid
        anew."""
        places = (self.generator, self.fidelity_generator)
        generator, faithful = (
            place if place in ("", *RELEASED) or is_uri(place) else os.path.abspath(place) for place in places
        )
        return dataclasses.replace(self, generator=generator, fidelity_generator=faithful)

    def resolved(self) -> Self:
        """With the generator files that a registry or a run folder names now: it may name another one later. Released
        generators keep their names, since they lie elsewhere on other nodes."""
        places = (self.generator, self.fidelity_generator)
        generator, faithful = (place if place in ("", *RELEASED) else find_generator(place) for place in places)
        return dataclasses.replace(self, generator=generator, fidelity_generator=faithful)


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
    work: Work


@dataclasses.dataclass(frozen=True, eq=False)
class Models:
    """The generators that are served, and the files they were read from."""

    generator: Generator
    card: Card
    faithful: Generator | None
    versions: tuple[str, ...]


class Handler:
    """Holds the generators, and swaps them for others without holding up a request.

    Raises InputError for a generator file that cannot be used.
    """

    def __init__(self, config: ModelConfig, watch: Watch | None = None) -> None:
        self._config, self.watch = config, watch or Watch()
        self._models = _load(config)
        self._refused: tuple[str, ...] = ()
        self._upscaler = functools.lru_cache(UPSCALERS_KEPT)(_make_upscaler)
        self._scheduler = Scheduler(best_device(), self.watch.ran)
        self.precision = self._upscaler(self._models, None, config.precision).precision

    @property
    def card(self) -> Card:
        """Of the generator that is served now."""
        return self._models.card

    @property
    def has_fidelity(self) -> bool:
        """Whether a fidelity can be asked for."""
        return self._models.faithful is not None

    def follow(self, every_s: float) -> None:
        """From now on look every so often whether a generator file was replaced, and serve what it holds then."""
        threading.Thread(target=self._follow, args=(every_s,), name="follow", daemon=True).start()

    def refresh(self) -> None:
        """Serve the generator files as they are now. Where they cannot be used, tell the watch, and serve on as before:
        until they are replaced, or are read at a later look where the storage did not give them.

        Requests that have begun end with the generators they began with.
        """
        try:
            versions = _versions(self._config)
            if versions in (self._models.versions, self._refused):
                return
            self._refused = versions  # unless they are taken
            models = _load(self._config)
            self._upscaler(models, None, self._config.precision)  # folded and moved before the first request waits
        except (InputError, OSError, RuntimeError) as error:  # the last from torch: no memory for a second one, say
            if _may_pass(error):
                self._refused = ()
            self.watch.failed(f"{error}; {self._models.card.name} is served on")
            return
        self._models = models
        self.watch.swapped(f"{models.card.name}, step {models.card.step}")

    def upscale(
        self, encoded: bytes, format: str, fidelity: float | None, check: Callable[[], None] = lambda: None
    ) -> Upscaled:
        """Decode, upscale, encode. May be called by many threads, whose pictures share the model tile by tile.

        `check` is called before each tile and may raise to give up.

        Raises UnreadableImage and its kinds for a bad input, TooLargeForFormat for a result that does not fit.
        """
        started = time.perf_counter()
        models = self._models
        picture = decode_picture(encoded)
        check_fits(picture, format)
        decoded = time.perf_counter()
        # bf16 tells 256 levels apart, and fewer in the brighter half
        precision = FP32 if picture.colour.dtype == np.uint16 else self._config.precision
        upscaler = self._upscaler(models, _to_step(fidelity), precision)
        num_tiles = num_overflowed = 0

        def upscale(lr: np.ndarray) -> np.ndarray:
            nonlocal num_tiles, num_overflowed
            job = self._scheduler.upscale(upscaler, lr, check)
            num_tiles += job.num_tiles
            num_overflowed += job.num_overflowed
            return job.sr

        large = enlarge(picture, upscale)
        enlarged = time.perf_counter()
        result = encode_picture(large, format)
        ended = time.perf_counter()
        height, width = large.colour.shape[:2]
        consistency = _consistency_db(models.card, picture, large)
        said = f"{upscaler.precision}, {num_overflowed} tiles in {FP32}" if num_overflowed else upscaler.precision
        work = Work(num_tiles, decoded - started, enlarged - decoded, ended - enlarged)
        return Upscaled(result, width, height, models.card.name, said, ended - started, consistency, work)

    def _follow(self, every_s: float) -> None:
        while True:
            time.sleep(every_s)
            self.refresh()


def _load(config: ModelConfig) -> Models:
    versions = _versions(config)  # before the files, so that one replaced meanwhile is seen at the next look
    generator, card = load_generator(find_generator(config.generator))
    if not config.fidelity_generator:
        return Models(generator, card, None, versions)
    faithful, _ = load_generator(find_generator(config.fidelity_generator))
    interpolate(generator, faithful, 0)
    return Models(generator, card, faithful, versions)


def _versions(config: ModelConfig) -> tuple[str, ...]:
    places = [split(find_generator(given)) for given in (config.generator, config.fidelity_generator) if given]
    return tuple(folder.version(name) for folder, name in places)


def _may_pass(error: Exception) -> bool:
    """Whether it is the storage's, and not of what the file holds."""
    cause = error.__cause__ or error
    return isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)


def _make_upscaler(models: Models, fidelity: float | None, precision: str) -> Upscaler:
    if fidelity is None:
        return Upscaler(models.generator, precision)
    if models.faithful is None:
        raise InputError(f"--fidelity {fidelity}; wanted --fidelity-generator beside it, to blend with")
    return Upscaler(interpolate(models.generator, models.faithful, fidelity), precision)


def _to_step(fidelity: float | None) -> float | None:
    return None if fidelity is None else round(fidelity * FIDELITY_STEPS) / FIDELITY_STEPS


def _consistency_db(card: Card, small: Picture, large: Picture) -> float:
    degradation = "matlab_bicubic" if card.degradation == MIXED else card.degradation
    lr, sr = (np.broadcast_to(over_white(p), (*p.colour.shape[:2], 3)) for p in (small, large))
    return consistency_db(sr, lr, degradation)


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
