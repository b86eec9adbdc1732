"""The loop of both stages: take steps; now and then validate, log, save. The step itself is in `steps.py`."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from torch import Tensor

from srgan_ray.data.feed import Batch
from srgan_ray.errors import InputError
from srgan_ray.training.state import TrainState, Window, set_learning_rate

CONSTANT, DROP, COSINE = SCHEDULES = ("constant", "drop", "cosine")
WARM_UP = 0.05  # share of the steps


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long, and how often what."""

    steps: int = 20000
    """Steps of the whole run. One that has taken them goes on with more; unless --schedule is constant, its learning
    rates are then not those of a run begun with as many."""
    evaluate_every: int = 1000
    """Steps between validations; one more comes after the last step."""
    checkpoint_every: int = 250
    """Steps between checkpoints; one more comes after the last step. A kill costs at most these, and those taken while
    one was still being written."""
    max_val_photographs: int = 32
    """Validate on the first so many photographs of the validation split."""
    ema_decay: float = 0.999
    """Of the average of the generator's weights, which is what is validated and released."""
    schedule: str = CONSTANT
    """How the learning rate goes: constant; drop, to a tenth after half of the steps; cosine, which rises over the
    first 5 % of the steps and then falls to zero."""

    def __post_init__(self) -> None:
        for name in ("steps", "evaluate_every", "checkpoint_every", "max_val_photographs"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}; wanted 1 or more")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"--ema-decay {self.ema_decay}; wanted 0 or more and less than 1")
        if self.schedule not in SCHEDULES:
            raise InputError(f"--schedule {self.schedule}; wanted one of {', '.join(SCHEDULES)}")


class Report(Protocol):
    """Where a running loop tells how far it is; what ranks other than 0 tell is dropped."""

    def progress(self, step: int) -> None:
        """A step was taken."""

    def validated(self, row: dict[str, Any]) -> None:
        """A validation was recorded."""

    def say(self, line: str) -> None:
        """Something that the user should know."""


def train(
    state: TrainState,
    take_step: Callable[[Batch], dict[str, Tensor]],
    batches: Iterable[tuple[int, Batch]],
    synchronise: Callable[[], None],
    validate: Callable[[dict[str, float], Batch], None],
    save: Callable[[dict[str, Any]], None],
    report: Report,
    config: LoopConfig,
    last_step: int,
) -> None:
    """Take the steps that `batches` still holds, up to `last_step`. `synchronise` makes the ranks equal before one
    validates or saves.

    Raises FloatingPointError where a loss or a weight is no longer finite, before anything is saved.
    """
    tick, batches = time.perf_counter(), iter(batches)
    state.window.begin()
    while found := state.window.wait_for(batches):
        step, batch = found
        set_learning_rates(state, step, config)
        state.window.add(take_step(batch))
        state.advance()
        state.elapsed_s, tick = state.elapsed_s + time.perf_counter() - tick, time.perf_counter()
        report.progress(step)
        due_validation = is_due(step, config.evaluate_every, last_step)
        due_checkpoint = is_due(step, config.checkpoint_every, last_step)
        if due_validation or due_checkpoint:
            state.check_finite()
            synchronise()
        if due_validation:
            validate(state.window.means(), batch)
            state.window = Window()
        if due_checkpoint:
            save(state.state_dict())


def is_due(step: int, every: int, last: int) -> bool:
    """Whether something that happens every so many steps, and at the end, happens after `step`."""
    return step % every == 0 or step == last


def learning_rate_at(step: int, base: float, config: LoopConfig) -> float:
    """The learning rate of `step` (from 1), by the schedule; `base` is the highest."""
    done = step / config.steps
    if config.schedule == DROP:
        return base if done <= 0.5 else base / 10
    if config.schedule == COSINE:
        return base * min(done / WARM_UP, (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2)
    return base


def set_learning_rates(state: TrainState, step: int, config: LoopConfig) -> None:
    """Give every optimizer of the stage its learning rate of `step`."""
    for optimizer, base in zip(state.optimizers, state.learning_rates):
        set_learning_rate(optimizer, learning_rate_at(step, base, config))


def format_row(row: dict[str, Any], num_steps: int) -> str:
    """A recorded validation as the line on the console."""
    return (
        f"{row['step']}/{num_steps}: loss_train = {row['loss_train']:.6f}, loss_val = {row['loss_val']:.6f}, "
        f"psnr_val = {row['psnr_val']:.3f} ({row['elapsed_s']:.1f} s)"
    )
