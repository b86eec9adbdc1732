"""Ranges by dotted paths, and every way to get them wrong."""

import json
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from srgan_ray.config import TrainConfig
from srgan_ray.errors import InputError
from srgan_ray.search.space import parse_space, values_to_check

BASE = TrainConfig(data="shards", out="search", init="psnr")


def test_each_kind_of_range() -> None:
    words = ["learning_rate=log:1e-5:1e-3", "loop.ema_decay=uniform:0.9:0.999", "crops.batch_size=choice:8,16"]
    assert parse_space([*words, "loop.evaluate_every=uniform:10:20", "init=choice:psnr,perceptual"], BASE) == {
        "learning_rate": FloatDistribution(1e-5, 1e-3, log=True),
        "loop.ema_decay": FloatDistribution(0.9, 0.999),
        "crops.batch_size": CategoricalDistribution([8, 16]),
        "loop.evaluate_every": IntDistribution(10, 20),
        "init": CategoricalDistribution(["psnr", "perceptual"]),
    }


def test_a_setting_that_is_none_by_default_takes_numbers() -> None:
    space = parse_space(["discriminator_learning_rate=log:1e-5:1e-3"], BASE)
    assert space == {"discriminator_learning_rate": FloatDistribution(1e-5, 1e-3, log=True)}


def test_booleans_are_read_by_their_names() -> None:
    expected = {"hold_statistics": CategoricalDistribution([True, False])}
    assert parse_space(["hold_statistics=choice:True,False"], BASE) == expected
    assert parse_space(["hold_statistics=choice:true,FALSE"], BASE) == expected


def test_a_file_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "space.json"
    path.write_text(json.dumps({"pixel_weight": "uniform:0:10"}))
    assert parse_space([str(path), "learning_rate=log:1e-5:1e-3"], BASE).keys() == {"pixel_weight", "learning_rate"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--space is empty"),
        (["learnin_rate=log:1:2"], "--space learnin_rate: no setting to search in; wanted one of crops.batch_size, "),
        (["data=choice:a,b"], "--space data: no setting to search in"),
        (["content_blocks=choice:1,5"], "--space content_blocks: no setting to search in"),
        (["crops.seed=choice:1,2"], "--space crops.seed: no setting to search in"),
        (["loop.steps=uniform:10:20"], "--space loop.steps: no setting to search in"),
        (["learning_rate=log:1e-5:1e-3", "learning_rate=log:1:2"], "--space has learning_rate twice"),
        (["learning_rate=log:0:1"], "--space learning_rate=log:0:1: .*low"),
        (["learning_rate=uniform:2:1"], "2.0 is not below 1.0; wanted log:LOW:HIGH"),
        (["learning_rate=uniform:-1:1"], "--learning-rate -1.0; wanted more than 0"),
        (["learning_rate=linear:1:2"], "no such range"),
        (["learning_rate=log:1"], "--space learning_rate=log:1:"),
        (["crops.batch_size=uniform:a:b"], "invalid literal"),
        (["crops.crop_px=uniform:48:96"], "--crop-px 49; wanted a positive multiple of 4; wanted log:LOW:HIGH"),
        (["init=log:1:2"], "no such range"),
        (["loop.schedule=choice:drop"], "fewer than two choices"),
        (["loop.schedule=choice:drop,sudden"], "--schedule sudden; wanted one of constant, drop, cosine"),
        (["hold_statistics=choice:true,0"], "0 is none of true, false; wanted log:LOW"),
        (["hold_statistics=uniform:false:true"], "no such range"),
        (["nowhere.json"], "--space nowhere.json: No such file or directory; wanted PATH=RANGE, or a JSON file"),
    ],
)
def test_what_is_no_space_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_space(words, BASE)


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "space.json"
    path.write_text("learning_rate: log")
    with pytest.raises(InputError, match="is no JSON file of paths and ranges"):
        parse_space([str(path)], BASE)


@pytest.mark.parametrize(("low", "high"), [(1, 1), (16, 1000), (16, 4096), (1, 10**9)])
def test_a_wide_range_of_integers_is_checked_here_and_there(low: int, high: int) -> None:
    values = list(values_to_check(IntDistribution(low, high)))
    assert (values[0], values[-1]) == (low, high)
    assert len(values) <= 1002
    assert high - low < 3 or {value % 4 for value in values} == {0, 1, 2, 3}
    assert high - low > 1000 or values == list(range(low, high + 1))
