"""The trials of a search: their rows, and which settings are tried next."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState, create_trial

from srgan_ray.evaluation.judge import Figures, excesses, find_faults, values_of
from srgan_ray.search.config import RANDOM, TuneConfig
from srgan_ray.search.space import Space

RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"
SEED = "crops.seed"
LEAST_DRAWN = 4  # trials that TPE draws at random first; beyond that a quarter of all of them


@dataclasses.dataclass(frozen=True)
class Leg:
    """A part of a trial in a population, from one validation to the next, which is over; the last one is in the row."""

    step: int
    """At which it ended."""
    settings: dict[str, Any]
    """With which it was trained."""
    figures: dict[str, float]
    """Of the generator at its end; their protocols are those of the row's."""
    went_on_from: int | None
    """The trial whose checkpoint this one went on from then, with settings near that one's; None: its own."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """A row of `trials.jsonl`."""

    number: int
    settings: dict[str, Any]
    """What differs from the training that all have in common, by dotted path; of a baseline, the seed alone. In a
    population, those of now or of the end."""
    status: str = RUNNING
    """running, finished, stopped (hopeless) or failed."""
    step: int = 0
    """Of the last validation."""
    seconds: float = 0.0
    """Of training, up to then."""
    figures: Figures = dataclasses.field(default_factory=dict)
    """Of a finished trial's generator; in a population also of one that waits for the others at the end of a leg."""
    error: str = ""
    """Why it failed."""
    legs: tuple[Leg, ...] = ()
    """In a population."""

    @property
    def is_baseline(self) -> bool:
        """Whether it has the settings outside the space, and is there to be compared with."""
        return set(self.settings) == {SEED}

    @property
    def name(self) -> str:
        """What it is called."""
        return f"{'baseline' if self.is_baseline else 'trial'} {self.number}"

    @property
    def faults(self) -> list[str]:
        """What is not healthy about a finished trial's generator."""
        return list(find_faults(values_of(self.figures)).values())


def next_trial(config: TuneConfig, space: Space, trials: Iterable[Trial]) -> Trial | None:
    """The trial after those; None where the search has them all.

    The baselines come first. What TPE suggests depends on the finished trials and on the number alone, what `random`
    does on the number alone: a search that was killed goes on as it would have.
    """
    trials = list(trials)
    number = len(trials)
    if number < config.baseline_seeds:
        return Trial(number, {SEED: config.crops.seed + number})
    if number >= config.num_trials:
        return None
    return Trial(number, _suggest(config, space, [trial for trial in trials if not trial.is_baseline], number))


def _suggest(config: TuneConfig, space: Space, trials: list[Trial], number: int) -> dict[str, Any]:
    study = _make_study(_sampler(config, number))
    for trial in trials:
        if trial.status == FINISHED:
            study.add_trial(_as_optunas(trial, space))
    return study.ask(space).params


def _sampler(config: TuneConfig, number: int) -> optuna.samplers.BaseSampler:
    seed = _seed(config.crops.seed, number)
    if config.sampler == RANDOM:
        return optuna.samplers.RandomSampler(seed)
    return optuna.samplers.TPESampler(n_startup_trials=max(LEAST_DRAWN, config.trials // 4), seed=seed)


def draw(space: Space, *seeds: int) -> dict[str, Any]:
    """Settings at random."""
    return _make_study(optuna.samplers.RandomSampler(_seed(*seeds))).ask(space).params


def _make_study(sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it tells of each study
    return optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _as_optunas(trial: Trial, space: Space) -> optuna.trial.FrozenTrial:
    return create_trial(
        state=TrialState.COMPLETE,
        values=[trial.figures["psnr"].value, trial.figures["perception"].value],
        params=trial.settings,
        distributions=space,
        constraints=excesses(values_of(trial.figures)),
    )


def format_setting(value: Any) -> str:
    """A setting's value, short enough for a table."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def format_settings(trial: Trial) -> str:
    """All of a trial's."""
    return ", ".join(f"{path} {format_setting(value)}" for path, value in trial.settings.items())
