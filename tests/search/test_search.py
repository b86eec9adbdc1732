"""What is checked before a search begins: nothing of it is changed where something is wrong."""

import dataclasses
from pathlib import Path

import pytest

from fakes import SMALL, write_generator
from srgan_ray.data.crops import CropConfig
from srgan_ray.errors import InputError
from srgan_ray.models.generator import GeneratorConfig
from srgan_ray.search.config import TuneConfig
from srgan_ray.search.search import Search, training_of
from srgan_ray.search.space import values_to_check
from srgan_ray.search.trials import Trial


@pytest.fixture
def config(shards: Path, tmp_path: Path) -> TuneConfig:
    return TuneConfig(
        data=str(shards),
        out=str(tmp_path / "search"),
        init=write_generator(tmp_path / "init.safetensors", 0, "init", SMALL),
        crops=CropConfig(batch_size=2, crop_px=48),
        vgg_weights="random",
    )


def test_a_trial_is_the_common_training_with_its_settings(config: TuneConfig) -> None:
    trial = Trial(7, {"crops.batch_size": 4, "pixel_weight": 2.5})
    training = training_of(config, trial)
    expected = dataclasses.replace(config.training, crops=CropConfig(4, 48), pixel_weight=2.5)
    assert training == dataclasses.replace(expected, out=f"{config.out}/trials/00007")


def test_generators_to_begin_from_are_found_from_anywhere(
    config: TuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_generator(tmp_path / "other.safetensors", 1, "other", SMALL)
    monkeypatch.chdir(tmp_path)
    space = ("init=choice:init.safetensors,other.safetensors",)
    search = Search(dataclasses.replace(config, init="init.safetensors", space=space))
    assert search.config.init == config.init
    assert values_to_check(search.space["init"]) == [config.init, str(tmp_path / "other.safetensors")]


def test_generators_of_unlike_size_are_refused(config: TuneConfig, tmp_path: Path) -> None:
    deep = write_generator(tmp_path / "deep.safetensors", 0, "deep", GeneratorConfig(2, 8))
    with pytest.raises(InputError, match=r"--space init: .*wanted generators of one size"):
        Search(dataclasses.replace(config, space=(f"init=choice:{config.init},{deep}",)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "nowhere"}, "--data .*nowhere"),
        ({"init": "nowhere"}, "--init .*nowhere"),
        ({"space": ("init=choice:psnr,nowhere",)}, "--init .*nowhere"),
        ({"space": ("crops.crop_px=choice:48,4096",)}, "4096"),
        ({"space": ("crops.batch_size=uniform:2:8",), "num_workers": 2}, "--batch-size 3 cannot be shared out evenly"),
        ({"niqe_model": "nowhere"}, "--niqe-model .*nowhere"),
        ({"lpips_weights": "nowhere"}, "--lpips-weights nowhere"),
        ({"vgg_weights": "nowhere"}, "--vgg-weights nowhere"),
        ({"population": True, "space": ("crops.batch_size=choice:2,4",)}, "--space crops.batch_size with --population"),
    ],
)
def test_what_trials_would_stumble_over_is_refused_before(config: TuneConfig, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Search(dataclasses.replace(config, **change))
    assert not Path(config.out).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trials": 0}, "--trials 0; wanted 1 or more"),
        ({"concurrent": -1}, "--concurrent -1; wanted 0 or more"),
        ({"niqe_model": "a", "lpips_weights": "b"}, "--niqe-model with --lpips-weights; wanted one of them"),
        ({"sampler": "grid"}, "--sampler grid; wanted one of tpe, random"),
        ({"choose": "best"}, "--choose best; wanted one of knee, psnr, perception, or a trial's number"),
        ({"discriminator_learning_rate": 0.0}, "--discriminator-learning-rate 0.0; wanted more than 0, or None"),
    ],
)
def test_settings_that_cannot_be_are_refused(config: TuneConfig, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(config, **change)
