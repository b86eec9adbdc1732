import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fakes import make_shards, photograph
from srgan_ray.data.manifest import LEAST_SIDE_PX, Request
from srgan_ray.evaluation import judge as judge_module
from srgan_ray.evaluation.judge import Judge, values_of
from srgan_ray.models.generator import GeneratorConfig, build_generator
from srgan_ray.models.upscaler import Upscaler


@pytest.mark.parametrize("shape", [(LEAST_SIDE_PX, 40), (LEAST_SIDE_PX + 3, LEAST_SIDE_PX)])
def test_the_smallest_photographs_that_a_shard_set_takes_are_judged(shape: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(4):
        Image.fromarray(photograph(number, *shape)).save(tmp_path / "in" / f"{number}.png")
    make_shards(tmp_path / "set", Request(str(tmp_path / "in"), val_fraction=0.5, min_side_px=LEAST_SIDE_PX))
    judge = Judge(str(tmp_path / "set"), "mixed", 4)
    values = values_of(judge(build_generator(GeneratorConfig(num_blocks=1, num_features=8), 0)))
    assert np.isfinite(list(values.values())).all(), values


def test_one_sr_at_a_time_is_held(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref] = []
    num_held = []

    class Watched(Upscaler):
        def __call__(self, lr: np.ndarray) -> np.ndarray:
            num_held.append(sum(sr() is not None for sr in made))
            sr = super().__call__(lr)
            made.append(weakref.ref(sr))
            return sr

    monkeypatch.setattr(judge_module, "Upscaler", Watched)
    Judge(str(shards), "mixed", 4)(build_generator(GeneratorConfig(num_blocks=1, num_features=8), 0))
    assert num_held == [0, *[1] * 7]
