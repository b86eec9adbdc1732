"""Faults planted in photographs raise their figure, and photographs, compressed or enlarged, read low."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut, chelsea, coffee
from skimage.metrics import peak_signal_noise_ratio

from srgan_ray.data import images
from srgan_ray.data.degrade import DEGRADATIONS, matlab_bicubic, matlab_bicubic_up, opencv_cubic
from srgan_ray.data.shard_set import ShardSet
from srgan_ray.errors import InputError
from srgan_ray.evaluation.diagnostics import checkerboard, colour_drift, consistency_db
from srgan_ray.evaluation.judge import ValPairs, measure_pair
from srgan_ray.evaluation.metrics import psnr

PHOTOGRAPHS = [images.crop_to_multiple(photograph, 4) for photograph in (astronaut(), chelsea(), coffee())]
HEALTHY, ENLARGED = 0.3, 0.1  # grey levels
ROW, COLUMN = np.mgrid[:768, :768]
PATTERNS = {
    "2 pixels": np.where((ROW + COLUMN) % 2, 2, -2),
    "4 pixels": np.where((ROW // 2 + COLUMN // 2) % 2, 2, -2),
    "columns": np.where(COLUMN // 2 % 2, 2, -2),
}


def plant(image: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    levels = image + pattern[: image.shape[0], : image.shape[1], None]
    return np.clip(levels, 0, 255).astype(np.uint8)


def compress(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="jpeg", quality=quality)
    return images.decode(buffer.getvalue())


def test_colour_drift_is_that_of_the_worst_channel() -> None:
    hr = np.full((8, 8, 3), 100, np.uint8)
    assert colour_drift(hr, hr) == 0
    for shift in ([0, 0, 3], [-3, 1, 0]):
        assert colour_drift((hr + np.array(shift)).astype(np.uint8), hr) == pytest.approx(3)


def test_colour_drift_sees_what_luma_hides() -> None:
    """Red up by 4 and green down by 2 keep Y to within 0.02 grey levels."""
    hr = np.clip(PHOTOGRAPHS[0], 10, 245)
    drifted = (hr + np.array([4, -2, 0])).astype(np.uint8)
    assert psnr(hr, drifted, "y") > 80
    assert colour_drift(drifted, hr) == pytest.approx(4)


def test_colour_drift_ignores_lost_detail() -> None:
    for hr in PHOTOGRAPHS:
        assert colour_drift(matlab_bicubic_up(matlab_bicubic(hr)), hr) < 0.3


def test_checkerboard_is_the_amplitude_in_grey_levels() -> None:
    flat = np.full((64, 80, 3), 128, np.uint8)
    assert checkerboard(flat) == 0
    for pattern in PATTERNS.values():
        assert checkerboard(plant(flat, pattern)) == pytest.approx(2, rel=0.05)
    green_only = np.where(np.arange(3) == 1, plant(flat, PATTERNS["2 pixels"]), flat)
    assert checkerboard(green_only) == pytest.approx(2 / np.sqrt(3), rel=0.05)


def test_photographs_read_low() -> None:
    for hr in PHOTOGRAPHS:
        assert checkerboard(hr) < HEALTHY
        assert checkerboard(hr[1:-2, 3:]) < HEALTHY
        assert checkerboard(matlab_bicubic_up(matlab_bicubic(hr))) < ENLARGED


@pytest.mark.parametrize("quality", [90, 50, 20])
def test_jpeg_blocks_read_low(quality: int) -> None:
    assert max(checkerboard(compress(hr, quality)) for hr in PHOTOGRAPHS) < HEALTHY


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_a_planted_pattern_reads_high(pattern: np.ndarray) -> None:
    for hr in PHOTOGRAPHS:
        assert checkerboard(plant(hr, pattern)) > 1
        assert checkerboard(plant(matlab_bicubic_up(matlab_bicubic(hr)), pattern)) > 1.5


def test_other_periods_are_no_checkerboard() -> None:
    stripes = np.array([0, 2, 2, 0, -2, -2])[COLUMN % 6]
    assert checkerboard(plant(PHOTOGRAPHS[0], stripes)) < HEALTHY


def test_real_photographs(benchmarks) -> None:
    for path in sorted((benchmarks / "Set14" / "HR").iterdir()):
        hr = images.decode(path.read_bytes())
        bicubic = matlab_bicubic_up(images.decode((benchmarks / "Set14" / "LR_bicubic_x4" / path.name).read_bytes()))
        assert checkerboard(bicubic) < ENLARGED
        assert checkerboard(hr) < HEALTHY
        assert checkerboard(plant(hr, PATTERNS["2 pixels"])) > 1


def test_consistency_is_the_error_of_sr_made_small_again() -> None:
    hr = PHOTOGRAPHS[0]
    for name, degrade in {"matlab_bicubic": matlab_bicubic, "opencv_cubic": opencv_cubic}.items():
        lr = degrade(hr)
        assert consistency_db(hr, lr, name) == float("inf")
        sr = matlab_bicubic_up(lr)
        expected = peak_signal_noise_ratio(lr, degrade(sr), data_range=255)
        assert consistency_db(sr, lr, name) == pytest.approx(expected)


def test_consistency_falls_with_a_shift_and_with_another_degradation() -> None:
    hr = PHOTOGRAPHS[1]
    lr = matlab_bicubic(hr)
    aligned = matlab_bicubic_up(lr)
    assert consistency_db(aligned, lr, "matlab_bicubic") > consistency_db(np.roll(aligned, 1, 1), lr, "matlab_bicubic")
    assert consistency_db(hr, lr, "opencv_cubic") < 40
    with pytest.raises(KeyError, match="area"):
        consistency_db(hr, lr, "area")


@pytest.mark.parametrize("degradation", ["opencv_cubic", "matlab_bicubic", "mixed"])
def test_validation_is_on_photographs_of_the_val_split(shards: Path, degradation: str) -> None:
    rows = ShardSet(shards, "val").read(range(3)).values()
    pairs = ValPairs(str(shards), degradation, 3)
    assert len(pairs) == (6 if degradation == "mixed" else 3)
    names = list(DEGRADATIONS) if degradation == "mixed" else [degradation]
    assert [pair.pair.name for pair in pairs] == [f"{row.id[:8]}_{name}" for row in rows for name in names]
    for (_, hr, lr), name, bicubic in pairs:
        np.testing.assert_array_equal(lr, DEGRADATIONS[name](hr))
        np.testing.assert_array_equal(bicubic, matlab_bicubic_up(lr))


def test_validation_photographs_are_held_as_they_are_stored(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded they would be twenty times as large; but a damaged one is told at once."""
    pairs, stored = ValPairs(str(shards), "mixed", 4), ShardSet(shards, "val").read(range(4))
    assert {row.id for row, _ in pairs._rows} == {row.id for row in stored.values()}
    assert not any(isinstance(part, np.ndarray) for row, _ in pairs._rows for part in row)
    assert pairs[5].pair.hr is not pairs[5].pair.hr
    damaged = {index: row._replace(hr=row.hr[:100]) for index, row in stored.items()}
    monkeypatch.setattr(ShardSet, "read", lambda *_: damaged)
    with pytest.raises(InputError, match="is damaged"):
        ValPairs(str(shards), "mixed", 4)


def test_a_validation_measures_sr_beside_bicubic(shards: Path) -> None:
    [pair] = ValPairs(str(shards), "opencv_cubic", 1)
    hr, lr = pair.pair.hr, pair.pair.lr
    sr = plant(np.clip(hr, 10, 240) + np.array([0, 5, 0], np.uint8), PATTERNS["2 pixels"])
    assert measure_pair(pair, sr) == {
        "psnr": psnr(hr, sr, "y"),
        "psnr_bicubic": psnr(hr, matlab_bicubic_up(lr), "y"),
        "colour_drift": colour_drift(sr, hr),
        "checkerboard": checkerboard(sr),
        "consistency_db": consistency_db(sr, lr, "opencv_cubic"),
    }
    of_hr, of_sr = measure_pair(pair, hr), measure_pair(pair, sr)
    assert of_hr["psnr_bicubic"] == of_sr["psnr_bicubic"]
    for name in ("colour_drift", "checkerboard"):
        assert of_sr[name] > of_hr[name] + 1
    assert of_sr["consistency_db"] < of_hr["consistency_db"]
