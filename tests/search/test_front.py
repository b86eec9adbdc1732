"""The front, its knee and its noise, beside what one works out by hand."""

import dataclasses

import pytest

from fakes import finished_trial as trial
from srgan_ray.errors import InputError
from srgan_ray.search.front import choose, find_front, find_knee, find_spread, gains, verdict
from srgan_ray.search.trials import SEED, STOPPED


def numbers(trials) -> list[int]:
    return [trial.number for trial in trials]


def test_the_front_is_what_no_healthy_trial_beats_in_both() -> None:
    best_psnr, middle, best_perception = trial(0, 28, 200), trial(1, 27, 150), trial(2, 25, 140)
    beaten, ill = trial(3, 26.9, 151), trial(4, 29, 100, checkerboard=0.3)
    trials = [best_psnr, middle, best_perception, beaten, ill]
    assert numbers(find_front(trials)) == [2, 1, 0]
    assert find_front([dataclasses.replace(middle, status=STOPPED)]) == []


def test_of_equal_trials_one_is_on_the_front() -> None:
    assert numbers(find_front([trial(0, 27, 150), trial(1, 27, 150)])) == [0]


def test_the_knee_is_farthest_from_the_line_between_the_ends() -> None:
    """Scaled: (0, 1), (0.75, 0.9), (0.9, 0.2), (1, 0); heights over the line 0, 0.65, 0.1, 0."""
    front = find_front([trial(0, 24, 100), trial(1, 27, 110), trial(2, 27.6, 180), trial(3, 28, 200)])
    assert find_knee(front).number == 1
    assert find_knee(front[:1]).number == 0
    assert find_knee([front[0], front[-1]]).number == 0


def test_a_choice_by_name_and_by_number() -> None:
    trials = [trial(0, 28, 200), trial(1, 27, 150), trial(2, 25, 140), trial(3, 20, 400, checkerboard=2.0)]
    assert [choose(trials, choice).number for choice in ("psnr", "perception", "knee", "3")] == [0, 2, 1, 3]
    with pytest.raises(InputError, match="--choose 7: no finished trial; wanted one of 0, 1, 2, 3"):
        choose(trials, "7")
    with pytest.raises(InputError, match="--choose knee: no trial is on the front"):
        choose(trials[3:], "knee")


def test_a_gain_within_the_spread_of_the_seeds_is_no_win() -> None:
    baselines = [trial(0, 26.0, 200, {SEED: 0}), trial(1, 26.2, 206, {SEED: 1}), trial(2, 26.1, 203, {SEED: 2})]
    found = trial(3, 26.25, 190)
    trials = [*baselines, found]
    spread = find_spread(trials)
    assert spread == pytest.approx({"psnr": 0.2, "perception": 6})
    gained = gains(found, trials)
    assert gained == pytest.approx({"psnr": 0.15, "perception": 13})
    assert [verdict(gained[name], spread[name]) for name in gained] == ["within noise", "better"]
    assert verdict(-1, spread["psnr"]) == "worse"
    assert (find_spread(trials[:1]), verdict(1, None)) == ({}, "noise unknown")
