"""What is tried next depends on the number and, for tpe, on what was found."""

import dataclasses
from pathlib import Path

import pytest

from fakes import finished_trial
from srgan_ray.search.config import TuneConfig
from srgan_ray.search.folder import SearchFolder
from srgan_ray.search.space import parse_space
from srgan_ray.search.trials import RUNNING, Trial, next_trial

CONFIG = TuneConfig(data="shards", out="search", init="psnr", trials=12, baseline_seeds=2)
SPACE = parse_space(["learning_rate=log:1e-5:1e-3", "crops.batch_size=choice:8,16"], CONFIG.training)


def finish(given: Trial) -> Trial:
    """Better in both, the nearer its learning rate is to 1e-4."""
    rate = given.settings.get("learning_rate", 1e-3)
    off = max(rate / 1e-4, 1e-4 / rate)
    return finished_trial(given.number, 30 - off, 100 + 10 * off, given.settings)


def run(config: TuneConfig, trials: list[Trial]) -> list[Trial]:
    trials = list(trials)
    while following := next_trial(config, SPACE, trials):
        trials.append(finish(following))
    return trials


def test_baselines_come_first_and_differ_in_the_seed_alone() -> None:
    trials = run(CONFIG, [])
    assert [trial.settings for trial in trials[:2]] == [{"crops.seed": 0}, {"crops.seed": 1}]
    assert [trial.is_baseline for trial in trials] == [True] * 2 + [False] * 12
    assert all(trial.settings.keys() == SPACE.keys() for trial in trials[2:])


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_that_was_interrupted_goes_on_as_it_would_have(sampler: str) -> None:
    config = dataclasses.replace(CONFIG, sampler=sampler)
    whole = run(config, [])
    assert run(config, whole[:7]) == whole
    assert len({str(trial.settings) for trial in whole}) == len(whole)


def test_random_does_not_look_at_what_was_found() -> None:
    config = dataclasses.replace(CONFIG, sampler="random")
    running = [dataclasses.replace(trial, status=RUNNING, figures={}) for trial in run(config, [])[:8]]
    assert next_trial(config, SPACE, running) == dataclasses.replace(
        next_trial(config, SPACE, run(config, [])[:8]), status=RUNNING
    )


def test_tpe_learns_from_what_was_found() -> None:
    config = dataclasses.replace(CONFIG, trials=40)
    rates = [trial.settings["learning_rate"] for trial in run(config, [])[2:]]
    early, late = rates[:10], rates[-15:]

    def share_near(values: list[float]) -> float:
        return sum(5e-5 < value < 2e-4 for value in values) / len(values)

    assert share_near(late) > max(0.5, share_near(early))


def test_booleans_are_suggested_and_kept_in_rows(tmp_path: Path) -> None:
    folder = SearchFolder(str(tmp_path))
    space = parse_space(["hold_statistics=choice:true,false"], CONFIG.training)
    while following := next_trial(CONFIG, space, folder.trials()):
        folder.write_trials([*folder.trials(), finish(following)])
    values = [trial.settings["hold_statistics"] for trial in folder.trials()[2:]]
    assert all(isinstance(value, bool) for value in values)
    assert len(set(values)) == 2


def test_another_seed_draws_others() -> None:
    other = dataclasses.replace(CONFIG, crops=dataclasses.replace(CONFIG.crops, seed=7))
    assert run(other, [])[2].settings != run(CONFIG, [])[2].settings
