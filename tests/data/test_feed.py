from pathlib import Path

import numpy as np
import pytest
import torch

from srgan_ray.data import images
from srgan_ray.data.crops import CropConfig, cut, draw_crop, rows_of_step
from srgan_ray.data.degrade import DEGRADATIONS
from srgan_ray.data.feed import Feed
from srgan_ray.errors import InputError

CONFIG = CropConfig(batch_size=4, crop_px=48)


@pytest.mark.parametrize(("num_rows", "batch_size"), [(7, 3), (6, 4), (100, 16), (2, 16), (1, 1)])
def test_every_row_once_an_epoch(num_rows: int, batch_size: int) -> None:
    config = CropConfig(batch_size=batch_size)
    drawn = [row for step in range(1, 1 + 3 * num_rows) for row in rows_of_step(step, num_rows, config)]
    epochs = [drawn[start : start + num_rows] for start in range(0, len(drawn), num_rows)]
    assert len(epochs) == 3 * batch_size
    assert all(sorted(epoch) == list(range(num_rows)) for epoch in epochs)
    if num_rows > 10:
        assert epochs[0] != epochs[1]


def test_batches_are_float_pairs_in_range(shards: Path) -> None:
    lr, hr = Feed(shards, CONFIG).batch(1)
    assert (lr.shape, hr.shape) == ((4, 3, 12, 12), (4, 3, 48, 48))
    assert lr.dtype == hr.dtype == torch.float32
    assert 0 <= lr.min() <= lr.max() <= 1
    assert 0 <= hr.min() <= hr.max() <= 1
    assert hr.std() > 0.05


@pytest.mark.parametrize("degradation", list(DEGRADATIONS))
def test_lr_crop_is_the_hr_crop_made_small(shards: Path, degradation: str) -> None:
    """Inside the border, degrading the HR crop gives the LR crop, whatever the flip and the turns."""
    config = CropConfig(batch_size=16, crop_px=48, degradation=degradation)
    lr, hr = Feed(shards, config).batch(3)
    for lr_crop, hr_crop in zip(lr.numpy(), hr.numpy()):
        again = images.to_float(DEGRADATIONS[degradation](images.to_uint8(hr_crop)))
        assert np.abs(again - lr_crop)[:, 2:-2, 2:-2].max() < 1.5 / 255


@pytest.mark.parametrize("num_workers", [2, 4])
def test_workers_share_the_same_global_batch(shards: Path, num_workers: int) -> None:
    for step in (1, 2, 9):
        whole = Feed(shards, CONFIG).batch(step)
        parts = [Feed(shards, CONFIG, rank, num_workers).batch(step) for rank in range(num_workers)]
        for rank, part in enumerate(parts):
            assert torch.equal(part.hr, whole.hr[rank::num_workers])
            assert torch.equal(part.lr, whole.lr[rank::num_workers])


def test_starting_in_the_middle_gives_the_same_batches(shards: Path) -> None:
    whole = dict(Feed(shards, CONFIG).batches(1, 7))
    rest = dict(Feed(shards, CONFIG).batches(5, 7))
    assert list(whole) == [1, 2, 3, 4, 5, 6, 7]
    assert list(rest) == [5, 6, 7]
    assert all(torch.equal(rest[step].hr, whole[step].hr) for step in rest)
    assert not torch.equal(whole[1].hr, whole[7].hr)


def test_seed_and_memory_budget(shards: Path, monkeypatch) -> None:
    other = Feed(shards, CropConfig(batch_size=4, crop_px=48, seed=1)).batch(1)
    assert not torch.equal(other.hr, Feed(shards, CONFIG).batch(1).hr)
    monkeypatch.setattr("srgan_ray.data.feed.DECODED_BUDGET_MB", 0)
    poor = Feed(shards, CONFIG)
    assert torch.equal(poor.batch(2).hr, Feed(shards, CONFIG).batch(2).hr)
    assert not poor._decoded


def test_mixed_draws_both_degradations(shards: Path) -> None:
    config = CropConfig(batch_size=4, crop_px=48, degradation="mixed")
    drawn = {draw_crop(step, 0, "id", 120, 152, config).degradation for step in range(30)}
    assert drawn == set(DEGRADATIONS)


def test_crops_reach_every_place_and_orientation() -> None:
    crops = [draw_crop(step, 0, "id", 56, 56, CONFIG) for step in range(400)]
    assert {crop.top for crop in crops} == {crop.left for crop in crops} == {0, 1, 2}
    assert len({(crop.flip, crop.turns) for crop in crops}) == 8
    image = np.arange(56 * 56 * 3).reshape(56, 56, 3)
    assert all(cut(image, crop, 48, 4).shape == (48, 48, 3) for crop in crops)
    assert len({cut(image, crop, 48, 4)[0, 0, 0] for crop in crops}) > 30


@pytest.mark.parametrize(
    ("config", "num_workers", "message"),
    [
        (CropConfig(batch_size=4, crop_px=52), 1, "--crop-px 52"),
        (CropConfig(batch_size=4, crop_px=48), 3, "--num-workers 3"),
    ],
)
def test_what_the_shards_cannot_feed_is_refused(
    shards: Path, config: CropConfig, num_workers: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Feed(shards, config, 0, num_workers)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"crop_px": 50}, {"degradation": "area"}, {"seed": -1}])
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError, match=str(next(iter(wrong.values())))):
        CropConfig(**wrong)
