"""A search from its settings to its end, but for the trials themselves: what is checked before, what is made after."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution

from srgan_ray.config import TrainConfig, with_settings
from srgan_ray.data.feed import check_feed
from srgan_ray.data.storage import absolute
from srgan_ray.errors import InputError
from srgan_ray.evaluation.judge import Judge
from srgan_ray.search.config import TuneConfig
from srgan_ray.search.folder import SearchFolder
from srgan_ray.search.front import choose
from srgan_ray.search.population import check_changeable
from srgan_ray.search.space import Space, parse_space, values_to_check
from srgan_ray.search.trials import Trial
from srgan_ray.training.run import check_inputs, with_absolute_paths
from srgan_ray.training.stages import load_init

GENERATORS = ("init", "fidelity_generator")  # settings that name one
MUST_FIT_THE_SHARDS = {"crops.batch_size", "crops.crop_px"}


class Search:
    """Raises InputError for settings, files, or a folder that the trials would stumble over; changes nothing."""

    def __init__(self, config: TuneConfig) -> None:
        resolved = with_absolute_paths(config)
        assert isinstance(resolved, TuneConfig)
        self.space = _with_absolute_paths(parse_space(config.space, resolved.training), resolved)
        if resolved.population:
            check_changeable(self.space)
        if resolved.niqe_model:
            resolved = dataclasses.replace(resolved, niqe_model=absolute(resolved.niqe_model))
        if Path(resolved.lpips_weights).is_file():
            resolved = dataclasses.replace(resolved, lpips_weights=absolute(resolved.lpips_weights))
        self.config = resolved
        self._folder = SearchFolder(resolved.out)
        self._folder.check(resolved)
        self._check_trainings()
        make_judge(resolved)

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """The search folder, begun, with other commands of this machine kept out. InputError where one is in it."""
        with self._folder.locked():
            self._folder.begin(self.config)
            yield

    def _check_trainings(self) -> None:
        """What they read, at each value that decides on it."""
        base = self.config.training
        check_inputs(base)
        sizes = {base.init: load_init(base).config}
        for path in MUST_FIT_THE_SHARDS & self.space.keys():
            for value in values_to_check(self.space[path]):
                for num_workers in base.worker_counts:
                    check_feed(base.data, with_settings(base, {path: value}).crops, num_workers)
        for init in values_to_check(self.space["init"]) if "init" in self.space else ():
            training = dataclasses.replace(base, init=init)
            check_inputs(training)
            sizes[init] = load_init(training).config
        for given in values_to_check(self.space["fidelity_generator"]) if "fidelity_generator" in self.space else ():
            check_inputs(dataclasses.replace(base, fidelity_generator=given))
        if len(set(sizes.values())) > 1:
            described = ", ".join(f"{init} with {size}" for init, size in sizes.items())
            raise InputError(f"--space init: {described}; wanted generators of one size, whose trials can be compared")

    def finish(self, trials: Sequence[Trial]) -> dict[str, Any]:
        """Write the front, the report and the chosen generator; returns a summary. Raises InputError where --choose
        names none: the report is there all the same."""
        try:
            chosen = choose(trials, self.config.choose)
        except InputError:
            self._folder.finish(self.config, trials, None)
            raise
        self._folder.finish(self.config, trials, chosen)
        return self._folder.summary(trials, chosen)


def make_judge(config: TuneConfig) -> Judge:
    """What measures every trial's generator."""
    return Judge(
        config.data,
        config.crops.degradation,
        config.loop.max_val_photographs,
        config.precision,
        config.niqe_model,
        config.lpips_weights,
    )


def training_of(config: TuneConfig, trial: Trial) -> TrainConfig:
    """The training that a trial is."""
    training = with_settings(config.training, trial.settings)
    assert isinstance(training, TrainConfig)
    return dataclasses.replace(training, out=SearchFolder(config.out).run_of(trial))


def _with_absolute_paths(space: Space, config: TuneConfig) -> Space:
    """Generators that trials read, as processes with other working directories find them."""

    def resolved(name: str, value: str) -> str:
        setting: Any = {name: value}
        return str(getattr(with_absolute_paths(dataclasses.replace(config, **setting)), name))

    found = {name: values_to_check(space[name]) for name in GENERATORS if name in space}
    return space | {
        name: CategoricalDistribution([resolved(name, value) for value in values]) for name, values in found.items()
    }
