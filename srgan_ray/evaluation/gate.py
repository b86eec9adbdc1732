"""The gate before a registry: a generator is measured, and becomes the current one only where nothing is wrong."""

import dataclasses
import sys
import time
from typing import Annotated, Any

import numpy as np
import tyro

from srgan_ray.data.crops import MIXED
from srgan_ray.data.degrade import DEGRADATIONS
from srgan_ray.errors import InputError
from srgan_ray.evaluation.judge import Figures, Judge, find_faults, values_of
from srgan_ray.evaluation.metrics import as_json
from srgan_ray.models.artifact import find_generator, hash_generator, load_generator, parse_generator, read_generator
from srgan_ray.models.generator import Generator
from srgan_ray.models.registry import Registry, open_registry
from srgan_ray.models.upscaler import Upscaler

CANDIDATE = "RUN_OR_TRIAL"
TIMED_SIDE_PX = 128  # of the LR image that is timed
NUM_TIMES = 9


@dataclasses.dataclass(frozen=True)
class PromoteConfig:
    """A generator measured, and made a registry's current one where it passes."""

    candidate: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar=CANDIDATE)]
    """A run folder, a search's or a trial's, a generator file, or a released generator."""
    to: str
    """Registry: a folder, by path or URI; one that is new or empty becomes one."""
    data: str
    """Shard set, on whose validation photographs the candidate is measured."""
    degradation: str = ""
    """How their LR was made: opencv_cubic, matlab_bicubic, or mixed, each of them; empty: as the candidate's training
    had it."""
    max_val_photographs: int = 32
    """Measure on the first so many of them."""
    min_gain_db: float = 0.0
    """Refuse a candidate whose Y-PSNR is not so far above bicubic's."""
    max_slowdown: float = 1.5
    """Refuse one that takes more than so many times as long as the current one."""
    precision: str = "auto"
    """bf16, fp32, or auto: bf16 where the hardware multiplies it natively."""

    def __post_init__(self) -> None:
        if self.degradation not in ("", *DEGRADATIONS, MIXED):
            raise InputError(f"--degradation {self.degradation}; wanted one of {', '.join((*DEGRADATIONS, MIXED))}")
        if self.max_val_photographs < 1:
            raise InputError(f"--max-val-photographs {self.max_val_photographs}; wanted 1 or more")
        if not self.max_slowdown > 0:
            raise InputError(f"--max-slowdown {self.max_slowdown}; wanted more than 0")


@dataclasses.dataclass(frozen=True)
class RollbackConfig:
    """The current generator of a registry taken back for an earlier one."""

    registry: tyro.conf.Positional[str]
    """Registry: a folder, by path or URI."""
    version: int | None = None
    """The version to go back to; None: the one that was current when the current one was promoted."""


def promote(config: PromoteConfig) -> dict[str, Any]:
    """Measure the candidate, and make it the current one. Raises InputError, with every reason, where it is refused:
    the registry is as it was then."""
    location = find_generator(config.candidate)
    content = read_generator(location, CANDIDATE)  # once: a run may replace the file while it is measured
    candidate, card = parse_generator(content, location, CANDIDATE)
    registry = Registry(config.to, "--to")
    judge = Judge(config.data, config.degradation or card.degradation, config.max_val_photographs, config.precision)
    with registry.locked():
        current = registry.current
        figures, faults = _measure(judge, candidate, config)
        slowdown = None
        if current and figures:
            slowdown = _slowdown(candidate, registry.location(current), config.precision)
        if slowdown and slowdown > config.max_slowdown:
            faults.append(f"takes {slowdown:.2f} times as long as version {current}, wanted {config.max_slowdown}")
        print(_format(card.name, figures, slowdown), file=sys.stderr)
        if faults:
            raise InputError(f"{CANDIDATE} {location} is refused: {'; '.join(faults)}; {registry} is as it was")
        known = {
            "generator": card.name,
            "source": location,
            "hash": hash_generator(content),
            "slowdown": slowdown,
            "figures": as_json(figures),
        }
        version = registry.promote(content, known)
    means = {name: round(figure.value, 4) for name, figure in figures.items()}
    return {"registry": str(registry), "version": version, "before": current, "generator": card.name, **means}


def roll_back(config: RollbackConfig) -> dict[str, Any]:
    """Go back to an earlier version. Raises InputError where there is none."""
    registry = open_registry(config.registry, "REGISTRY")
    with registry.locked():
        before = registry.current
        version = registry.roll_back(config.version)
    return {"registry": str(registry), "version": version, "before": before}


def _measure(judge: Judge, candidate: Generator, config: PromoteConfig) -> tuple[Figures, list[str]]:
    """The figures, and what is wrong with them; a generator of values that are not finite has none."""
    try:
        figures = judge(candidate)
    except FloatingPointError as error:
        return {}, [str(error)]
    faults = list(find_faults(values_of(figures)).values())
    gain = figures["psnr"].gain_over(figures["psnr_bicubic"])
    if not gain >= config.min_gain_db:
        faults.append(f"{gain:+.2f} dB over bicubic, wanted at least {config.min_gain_db:+.2f} (--min-gain-db)")
    return figures, faults


def _slowdown(candidate: Generator, current: str, precision: str) -> float:
    """The candidate's time over the current one's, in turns."""
    lr = np.random.default_rng(0).integers(0, 256, (TIMED_SIDE_PX, TIMED_SIDE_PX, 3), np.uint8)
    upscalers = [Upscaler(generator, precision) for generator in (candidate, load_generator(current)[0])]
    times = [[_seconds(upscaler, lr) for upscaler in upscalers] for _ in range(NUM_TIMES)]
    ours, theirs = (min(column) for column in zip(*times))  # other work on the machine only adds
    return ours / theirs


def _seconds(upscaler: Upscaler, lr: np.ndarray) -> float:
    started = time.perf_counter()
    upscaler(lr)
    return time.perf_counter() - started


def _format(name: str, figures: Figures, slowdown: float | None) -> str:
    measured = ", ".join(f"{metric} = {figure.value:.3f}" for metric, figure in figures.items()) or "nothing measured"
    return f"{name}: {measured}" + (f", {slowdown:.2f} times the current one's time" if slowdown else "")
