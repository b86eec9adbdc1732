"""Between two legs of a population: who goes on from whom, and with which settings, worked out by hand."""

import dataclasses

import pytest

from fakes import finished_trial
from srgan_ray.errors import InputError
from srgan_ray.search.config import TuneConfig
from srgan_ray.search.population import FACTORS, Stretch, check_changeable, exchange, leg_end, num_legs, schedule_of
from srgan_ray.search.space import parse_space
from srgan_ray.search.trials import RUNNING, SEED, Leg, Trial
from srgan_ray.training.loop import LoopConfig

LOOP = LoopConfig(steps=100, evaluate_every=30)
CONFIG = TuneConfig(data="shards", out="search", init="psnr", trials=8, population=True, loop=LOOP)
SPACE = parse_space(["learning_rate=log:1e-5:1e-3", "pixel_weight=choice:0,1,10"], CONFIG.training)


def member(number: int, psnr: float, perception: float, rate: float = 1e-4, **figures: float) -> Trial:
    settings = {"learning_rate": rate, "pixel_weight": 1.0}
    return dataclasses.replace(finished_trial(number, psnr, perception, settings, **figures), status=RUNNING, step=30)


def sources(members: list[Trial], config: TuneConfig = CONFIG) -> list[int | None]:
    return [trial.legs[-1].went_on_from for trial in exchange(config, SPACE, members)]


def test_the_quarter_that_most_others_beat_goes_on_from_one_that_none_beats() -> None:
    """Better is to the right and below: 0, 1 and 2 are the front; 6 and 7 are beaten by seven and by six others."""
    front = [member(0, 28, 200), member(1, 27, 150), member(2, 25, 140)]
    middle = [member(3, 26.9, 151), member(4, 26.8, 152), member(5, 26.7, 153)]
    worst = [member(6, 20, 300), member(7, 21, 290)]
    found = sources([*front, *middle, *worst])
    assert found[:6] == [None] * 6
    assert {*found[6:]} <= {0, 1, 2}


def test_one_goes_on_only_from_one_that_beats_it_itself() -> None:
    """Trial 3 is better in psnr than 1 and 2: whatever the seed, it goes on from 0."""
    members = [member(0, 28, 200), member(1, 26, 150), member(2, 25, 140), member(3, 27, 210)]
    for seed in range(10):
        config = dataclasses.replace(CONFIG, crops=dataclasses.replace(CONFIG.crops, seed=seed))
        assert sources(members, config) == [None, None, None, 0]


def test_where_all_are_on_the_front_none_is_replaced() -> None:
    assert sources([member(number, 25 + number, 100 + number) for number in range(4)]) == [None] * 4


def test_the_ill_are_beaten_by_the_less_ill_and_by_all_healthy_ones() -> None:
    members = [member(0, 29, 90, checkerboard=0.5), member(1, 20, 300), member(2, 30, 80, checkerboard=0.9)]
    assert sources(members) == [None, None, 1]
    assert sources([members[0], members[2]]) == [None, 0]


def test_settings_go_on_near_those_of_the_other_and_inside_the_space() -> None:
    found: list[dict] = []
    for seed in range(40):
        config = dataclasses.replace(CONFIG, crops=dataclasses.replace(CONFIG.crops, seed=seed))
        [_, after] = exchange(config, SPACE, [member(0, 28, 100, rate=9e-4), member(1, 20, 300, rate=2e-5)])
        assert (after.figures, after.step, after.status) == ({}, 30, RUNNING)
        found.append(after.settings)
    rates = [settings["learning_rate"] for settings in found]
    near = [rate for rate in rates if rate in (9e-4 * FACTORS[0], 1e-3)]  # 1.2 times it lies beyond the space
    assert {*near} == {9e-4 * FACTORS[0], 1e-3}
    assert 20 <= len(near) < 40
    assert all(1e-5 <= rate <= 1e-3 for rate in rates)
    weights = [settings["pixel_weight"] for settings in found]
    assert 20 <= weights.count(1.0) < 40
    assert {*weights} <= {0.0, 1.0, 10.0}


def test_the_same_figures_and_seed_give_the_same_exchange() -> None:
    members = [member(number, 28 - number / 10, 100 - number) for number in range(9)]
    members += [member(9 + number, 20 - number, 300 + number) for number in range(3)]
    first = exchange(CONFIG, SPACE, members)
    assert sum(trial.legs[-1].went_on_from is not None for trial in first) == 3
    assert exchange(CONFIG, SPACE, members) == first


def test_legs_end_at_the_validations_but_for_baselines() -> None:
    trial = Trial(3, {"learning_rate": 1e-4})
    leg = Leg(30, {}, {}, None)
    assert [leg_end(CONFIG, dataclasses.replace(trial, legs=(leg,) * number)) for number in range(4)] == [
        30,
        60,
        90,
        100,
    ]
    assert num_legs(CONFIG) == 4
    assert leg_end(CONFIG, Trial(0, {SEED: 0})) == 100
    alone = dataclasses.replace(CONFIG, population=False)
    assert (leg_end(alone, trial), num_legs(alone)) == (100, 1)


def test_a_schedule_is_that_of_the_weights() -> None:
    """0 goes its own way; 1 goes on from 0 at 60, from which 2 had gone on at 30 and which 2 goes on from at 90. What
    becomes of 1 after that is not in 2's weights."""
    a, b, c, after_30, after_60, after_90, after_120 = ({"learning_rate": 10.0**-power} for power in range(1, 8))

    def legs(*those: tuple[dict, int | None]) -> tuple[Leg, ...]:
        return tuple(Leg(30 * (index + 1), settings, {}, source) for index, (settings, source) in enumerate(those))

    zero = Trial(0, a, legs=legs((a, None), (a, None), (a, None), (a, None)))
    one = Trial(1, after_120, legs=legs((b, None), (b, 0), (after_60, None), (after_60, 0)))
    two = Trial(2, after_90, legs=legs((c, 0), (after_30, None), (after_30, 1), (after_90, None)))
    trials = [zero, one, two]
    assert schedule_of(zero, trials) == [Stretch(0, 0, a)]
    assert schedule_of(one, trials) == [Stretch(0, 0, a), Stretch(120, 1, after_120)]
    assert schedule_of(two, trials) == [Stretch(0, 0, a), Stretch(60, 1, after_60), Stretch(90, 2, after_90)]


@pytest.mark.parametrize(
    "path", ["crops.batch_size=choice:8,16", "init=choice:psnr,perceptual", "loop.ema_decay=uniform:0.5:0.9"]
)
def test_what_cannot_change_during_a_run_is_refused(path: str) -> None:
    space = parse_space([path, "learning_rate=log:1e-5:1e-3"], CONFIG.training)
    with pytest.raises(
        InputError, match=f"--space {path.split('=')[0]} with --population: it cannot change during a run"
    ):
        check_changeable(space)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stop_early": True}, "--population with --stop-early; wanted one of them"),
        ({"trials": 1}, "--trials 1 with --population; wanted 2 or more"),
        ({"loop": LoopConfig(steps=30, evaluate_every=30)}, "--evaluate-every 30 of --steps 30 with --population"),
    ],
)
def test_what_makes_no_population_is_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CONFIG, **change)
