"""A search on the console: a line for each trial that ends, and beneath them how far it all is."""

import sys
from collections.abc import Sequence

from tqdm import tqdm

from srgan_ray.search.config import PERCEPTION, PSNR, TuneConfig
from srgan_ray.search.front import find_front, find_knee
from srgan_ray.search.trials import RUNNING, Trial, format_settings


class Progress:
    """On standard error."""

    def __init__(self, config: TuneConfig) -> None:
        self._num_steps, self._num_trials = config.loop.steps, config.num_trials
        self._steps: dict[int, int] = {}
        self._shown: set[int] = set()
        self._bar = tqdm(total=config.num_trials * config.loop.steps, unit=" steps", disable=None, smoothing=0)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def step(self, number: int, step: int) -> None:
        """A trial is so far."""
        self._steps[number] = step
        self._redraw()

    def show(self, trials: Sequence[Trial]) -> None:
        """Lines for the trials that ended since the last call, and what is best so far."""
        ended = [trial for trial in trials if trial.status != RUNNING]
        for trial in ended:
            self._steps[trial.number] = self._num_steps  # one that ended early leaves nothing to do either
            if trial.number not in self._shown:
                self._shown.add(trial.number)
                self.say(format_trial(trial))
        front = find_front(trials)
        knee = f", knee {find_knee(front).number} of {len(front)} on the front" if front else ""
        self._bar.set_description_str(f"{len(ended)}/{self._num_trials} trials{knee}", refresh=False)
        self._redraw()

    def say(self, line: str) -> None:
        """A line above the bar."""
        self._bar.write(line, file=sys.stderr)

    def _redraw(self) -> None:
        self._bar.n = sum(self._steps.values())
        self._bar.refresh()


def format_trial(trial: Trial) -> str:
    """A trial that ended, as a line."""
    name = f"{trial.name} ({format_settings(trial)})"
    if not trial.figures:
        return f"{name}: {trial.status} at step {trial.step}{': ' * bool(trial.error)}{trial.error}"
    psnr, perception = trial.figures[PSNR], trial.figures[PERCEPTION]
    faults = "; ".join(trial.faults)
    return (
        f"{name}: psnr = {psnr.value:.3f}, {perception.protocol.metric} = {perception.value:.3f}, "
        f"{faults or 'healthy'} ({trial.seconds:.0f} s)"
    )
