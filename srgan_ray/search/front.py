"""Perception against distortion: the trials that no other one beats in both, and which of them to take.

Blau and Michaeli 2018, "The Perception-Distortion Tradeoff": beyond some point one can only be had for the other.
"""

import itertools
from collections.abc import Sequence

from srgan_ray.errors import InputError
from srgan_ray.search.config import KNEE, PERCEPTION, PSNR
from srgan_ray.search.trials import FINISHED, Trial

OBJECTIVES = (PSNR, PERCEPTION)


def find_front(trials: Sequence[Trial]) -> list[Trial]:
    """The finished, healthy trials that no other of them equals or beats in both objectives, by rising psnr."""
    healthy = [trial for trial in trials if trial.status == FINISHED and not trial.faults]
    front = [trial for trial in healthy if not any(beats(other, trial) for other in healthy)]
    return sorted(front, key=lambda trial: trial.figures[PSNR].value)


def find_knee(front: Sequence[Trial]) -> Trial:
    """The member farthest from the line between the front's ends, each objective scaled to its span on the front.

    Of two members, which span the line, the one that is better in perception: the front begins with it.
    """

    def height(trial: Trial) -> float:
        return sum(_share(trial, front, objective) for objective in OBJECTIVES)

    return max(front, key=lambda trial: round(height(trial), 9))


def choose(trials: Sequence[Trial], choice: str) -> Trial:
    """The trial that `--choose` names. Raises InputError where there is none."""
    if choice.isdecimal():
        found = [trial for trial in trials if trial.number == int(choice) and trial.status == FINISHED]
        if not found:
            finished = ", ".join(str(trial.number) for trial in trials if trial.status == FINISHED)
            raise InputError(f"--choose {choice}: no finished trial; wanted one of {finished or 'them, and none is'}")
        return found[0]
    front = find_front(trials)
    if not front:
        raise InputError(
            f"--choose {choice}: no trial is on the front, since none ended healthy; wanted more trials, another "
            "--space, or the number of a trial to take all the same"
        )
    return find_knee(front) if choice == KNEE else max(front, key=lambda trial: _share(trial, front, choice))


def find_spread(trials: Sequence[Trial]) -> dict[str, float]:
    """How far baselines, which differ in the seed alone, lie apart in each objective: the largest difference of two.

    Empty where there are fewer than two.
    """
    baselines = [trial for trial in trials if trial.is_baseline and trial.status == FINISHED]
    if len(baselines) < 2:
        return {}
    return {
        objective: max(
            abs(a.figures[objective].value - b.figures[objective].value)
            for a, b in itertools.combinations(baselines, 2)
        )
        for objective in OBJECTIVES
    }


def gains(trial: Trial, trials: Sequence[Trial]) -> dict[str, float]:
    """How much better a trial is than the baselines' mean, in each objective; empty where there is none."""
    baselines = [other for other in trials if other.is_baseline and other.status == FINISHED]
    if not baselines:
        return {}
    return {
        objective: sum(_gain(trial, baseline, objective) for baseline in baselines) / len(baselines)
        for objective in OBJECTIVES
    }


def verdict(gain: float, spread: float | None) -> str:
    """A gain in words: no win where it is within what the seed alone can do."""
    if spread is None:
        return "noise unknown"
    if abs(gain) <= spread:
        return "within noise"
    return "better" if gain > 0 else "worse"


def beats(other: Trial, trial: Trial) -> bool:
    """Whether it is better in one objective and not worse in the other; of equal ones, the first beats."""
    differences = [_gain(other, trial, objective) for objective in OBJECTIVES]
    return min(differences) >= 0 and (max(differences) > 0 or other.number < trial.number)


def _gain(trial: Trial, other: Trial, objective: str) -> float:
    return trial.figures[objective].gain_over(other.figures[objective])


def _share(trial: Trial, front: Sequence[Trial], objective: str) -> float:
    """0 for the worst of the front in an objective, 1 for the best."""
    worst = min(front, key=lambda other: _gain(other, trial, objective))
    best = max(front, key=lambda other: _gain(other, trial, objective))
    span = _gain(best, worst, objective)
    return _gain(trial, worst, objective) / span if span else 1.0
