"""Population-based training (Jaderberg et al. 2017): trials go in legs, from one validation to the next, and between
two legs the worst go on from the checkpoints of better ones, with settings near theirs.

The paper ranks by one figure. Here there are two objectives: a trial goes on from one that beats it in both, so that
what is on the front stays, however its objectives are shared out.

Ray Tune's own PopulationBasedTraining takes no Searcher, forgets its population when a search is started again,
and copies all of a trial's config, its number too.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution

from srgan_ray.errors import InputError
from srgan_ray.evaluation.judge import excesses, values_of
from srgan_ray.search.config import TuneConfig
from srgan_ray.search.front import beats
from srgan_ray.search.space import Space
from srgan_ray.search.trials import Leg, Trial, draw

# What may be another one from a step on; a run would not be the same run with another of the rest.
CHANGEABLE = (
    "learning_rate",
    "discriminator_learning_rate",
    "content_weight",
    "adversarial_weight",
    "pixel_weight",
    "pattern_weight",
    "colour_weight",
)
SHARE_REPLACED = 1 / 4
SHARE_DRAWN = 1 / 4  # of settings, from their whole range; the others are multiplied by one of these
FACTORS = (0.8, 1.2)


class Stretch(NamedTuple):
    """From a step on, weights were trained by this trial, with these settings."""

    from_step: int
    trial: int
    settings: dict[str, Any]


def check_changeable(space: Space) -> None:
    """Raise InputError where the space has settings that cannot change during a run."""
    for path in space:
        if path not in CHANGEABLE:
            raise InputError(
                f"--space {path} with --population: it cannot change during a run; wanted only {', '.join(CHANGEABLE)}"
            )


def num_legs(config: TuneConfig) -> int:
    """Of each trial, one where there is no population."""
    return math.ceil(config.loop.steps / config.loop.evaluate_every) if config.population else 1


def leg_end(config: TuneConfig, trial: Trial) -> int:
    """The step to which a trial trains next: its last, but in a population that of its next validation."""
    if not config.population or trial.is_baseline:
        return config.loop.steps
    return min((len(trial.legs) + 1) * config.loop.evaluate_every, config.loop.steps)


def exchange(config: TuneConfig, space: Space, members: Sequence[Trial]) -> list[Trial]:
    """The members, all measured at the same step, as they go on.

    Of those that others beat, the quarter of all that is beaten by most goes on from one of those that beat it and are
    beaten by none. Depends on the figures and the seed alone.
    """
    better = {member.number: [other for other in members if _is_better(other, member)] for member in members}
    beaten = sorted((member for member in members if better[member.number]), key=lambda one: -len(better[one.number]))
    replaced = beaten[: math.ceil(len(members) * SHARE_REPLACED)]
    return [
        _replaced(config, space, member, [other for other in better[member.number] if not better[other.number]])
        if member in replaced
        else _after_leg(member, member.settings, None)
        for member in members
    ]


def schedule_of(trial: Trial, trials: Sequence[Trial]) -> list[Stretch]:
    """What the weights of a population's trial went through, from step 0 on; the last stretch is its own."""
    number, settings, stretches = trial.number, trial.settings, []
    for index in reversed(range(len(trial.legs))):
        leg = trials[number].legs[index]
        if leg.went_on_from is not None:
            stretches.append(Stretch(leg.step, number, settings))
            number = leg.went_on_from
            settings = trials[number].legs[index].settings
    return [Stretch(0, number, settings), *reversed(stretches)]


def _replaced(config: TuneConfig, space: Space, member: Trial, sources: list[Trial]) -> Trial:
    seeds = (config.crops.seed, member.number, member.step)
    random = np.random.default_rng(seeds)
    source = sources[random.integers(len(sources))]
    drawn = draw(space, *seeds)
    settings = {path: _explore(value, drawn[path], space[path], random) for path, value in source.settings.items()}
    return _after_leg(member, settings, source.number)


def _explore(value: float, drawn: float, distribution: BaseDistribution, random: np.random.Generator) -> float:
    if random.random() < SHARE_DRAWN:
        return drawn
    if isinstance(distribution, CategoricalDistribution):
        return value
    low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
    return float(np.clip(value * random.choice(FACTORS), low, high))


def _after_leg(member: Trial, settings: dict[str, Any], went_on_from: int | None) -> Trial:
    leg = Leg(member.step, member.settings, values_of(member.figures), went_on_from)
    return dataclasses.replace(member, settings=settings, figures={}, legs=(*member.legs, leg))


def _is_better(other: Trial, trial: Trial) -> bool:
    """In both objectives, where both are healthy; else by how far they are from it (Deb et al. 2002)."""
    others, own = _illness(other), _illness(trial)
    return others < own if others or own else beats(other, trial)


def _illness(trial: Trial) -> float:
    return sum(max(0.0, excess) for excess in excesses(values_of(trial.figures)).values())
